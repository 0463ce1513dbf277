"""What came of an experiment: visitors in, effects with intervals that hold at every look out. Pure numpy and scipy.

`tally` adds rows up by visitor; `checks` says whether the experiment can be trusted at all; `tails` and `cuped` take
noise out of a metric; `effect` compares a variant with the control, by the confidence `sequence`; `correction` answers
for many comparisons; `regression` takes factors apart; `report` does all of it.
"""

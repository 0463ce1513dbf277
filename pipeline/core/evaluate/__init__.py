"""What another policy would have earned on the log of decisions: off-policy evaluation, pure.

`logged` is what the log says of a decision, `targets` the policies that can be asked about, `fold` takes the log in
order of time and gives `estimate` its terms; `intervals` and `bootstrap` say how far the estimates can be trusted.
"""

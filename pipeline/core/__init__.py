"""Pure logic of the pipeline: values in, values out.

Nothing here reads a clock, draws a random number or opens a connection; `now_ms` and `rng` are arguments where they
are needed. So every function can be replayed on yesterday's log and tested without a broker.
"""

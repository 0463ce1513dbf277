"""Python's garbage collector, kept from stalling a process that serves.

A full collection walks every object there is: tens of milliseconds in a process with many modules and a large state, at
any moment. What a process has when it begins to serve stays for its life, so it is taken out of the walk.
"""

import gc

YOUNG_OBJECTS = 20_000  # a collection of the young ones this often: most die of their count before
OLDER_ROUNDS = 20


def settle() -> None:
    """Say that all objects of now will stay: later collections look at newer ones only."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, OLDER_ROUNDS, OLDER_ROUNDS)

"""Whole numbers of 64 bits: what the log and the warehouse can hold, whatever clients send or however it adds up."""

from typing import Final

INT64_MAX: Final = 2**63 - 1


def bounded(values: list[int]) -> list[int]:
    """Return whole numbers, each put into the range of Int64.

    >>> bounded([1, 2**63, -2**70]) == [1, 2**63 - 1, -2**63]
    True
    """
    if values and (max(values) > INT64_MAX or min(values) < -INT64_MAX - 1):
        return [fitting(value) for value in values]
    return values


def fitting(value: int) -> int:
    """Return the whole number nearest to value that Int64 can hold.

    A sum in the state has to be put through this: what is larger cannot be written, and would stop its partition.
    """
    return min(max(value, -INT64_MAX - 1), INT64_MAX)

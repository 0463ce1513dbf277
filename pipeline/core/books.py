"""The books: every event that was received is stored, refused, a duplicate, or on its way; nothing else.

The left side is counted from the log (row counts in record headers) and the clean stage's running totals, the right
side from the warehouse's rows; they meet only when nothing was lost or doubled between them.
"""

from collections.abc import Iterable
from typing import NamedTuple


class PartitionBooks(NamedTuple):
    """One partition, all counts in events.

    received: in `collected`. stored: different rows in the warehouse, up to the last block of its ledger.
    refused, duplicate: by the clean stage. in_flight: counted in the log, between the clean stage and the log's end and
    between the warehouse's ledger and the clean stage.
    """

    partition: int
    received: int
    stored: int
    refused: int
    duplicate: int
    in_flight: int

    @property
    def missing(self) -> int:
        """How many events are unaccounted for: 0, or something was lost (above 0) or counted twice (below 0)."""
        return self.received - self.stored - self.refused - self.duplicate - self.in_flight


def total(books: Iterable[PartitionBooks]) -> PartitionBooks:
    """Return the sum over partitions; partition -1.

    Missing events of two partitions do not hide each other: look at each.
    """
    rows = list(books)
    return PartitionBooks(-1, *(sum(column) for column in list(zip(*rows, strict=True))[1:]) if rows else (0,) * 5)


def balanced(books: Iterable[PartitionBooks]) -> bool:
    """True where every partition's books balance."""
    return all(row.missing == 0 for row in books)

"""The books: every event that was received is stored, refused, a duplicate, or on its way; nothing else.

The left side is counted from the log (row counts in record headers) and the clean stage's running totals, the right
side from the warehouse's rows; they meet only when nothing was lost or doubled between them.

Two more columns keep the sums right for ever: rows that have reached the end of their retention, counted by the day
from what the audit sealed when they came; and rows of blocks that a person let go (HERALD_ACCEPT_GAP).
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar


class PartitionBooks(NamedTuple):
    """One partition, all counts in events, but for the last.

    received: in `collected`. stored: different rows in the warehouse, up to the last block of its ledger.
    refused, duplicate: by the clean stage. in_flight: counted in the log, between the clean stage and the log's end and
    between the warehouse's ledger and the clean stage. expired: stored once, of days that are no longer kept.
    lost: clean, but in blocks that the writer was told to go on without. lost_blocks: how many blocks those are; blocks
    that the clean stage itself went on without are among them, and nobody knows what they held.
    """

    partition: int
    received: int
    stored: int
    refused: int
    duplicate: int
    in_flight: int
    expired: int = 0
    lost: int = 0
    lost_blocks: int = 0

    @property
    def missing(self) -> int:
        """How many events are unaccounted for: 0, or something was lost (above 0) or counted twice (below 0)."""
        known = self.stored + self.refused + self.duplicate + self.in_flight + self.expired + self.lost
        return self.received - known


class RefusedBooks(NamedTuple):
    """The refused events of one partition: each has a row in `bad`.

    refused: by the clean stage. stored: different rows in the warehouse. in_flight: in the topic `bad`, after the
    ledger's last block of it. expired, lost: as in `PartitionBooks`.
    """

    partition: int
    refused: int
    stored: int
    in_flight: int
    expired: int = 0
    lost: int = 0

    @property
    def missing(self) -> int:
        """How many refused events have no row (above 0) or a row too many (below 0)."""
        return self.refused - self.stored - self.in_flight - self.expired - self.lost


Books = PartitionBooks | RefusedBooks
B = TypeVar("B", PartitionBooks, RefusedBooks)


def total(books: Iterable[PartitionBooks]) -> PartitionBooks:
    """Return the sum over partitions; partition -1.

    Missing events of two partitions do not hide each other: look at each.
    """
    return _total(list(books), PartitionBooks(-1, 0, 0, 0, 0, 0))


def total_refused(books: Iterable[RefusedBooks]) -> RefusedBooks:
    """Return the sum over partitions; partition -1."""
    return _total(list(books), RefusedBooks(-1, 0, 0, 0))


def _total(rows: list[B], nothing: B) -> B:
    if not rows:
        return nothing
    return type(nothing)(-1, *(sum(column) for column in list(zip(*rows, strict=True))[1:]))


def balanced(books: Iterable[Books]) -> bool:
    """True where every partition's books balance."""
    return all(row.missing == 0 for row in books)


def as_object(row: Books) -> dict[str, int]:
    """Return a partition's books by name, for machines."""
    return row._asdict() | {"missing": row.missing}

"""Seals: sums of slices that were found equal to the log. What is compared with them later needs no log any more."""

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.audit.shape import FIXED, LEDGER_SHAPE
from pipeline.core.audit import SLICE_BLOCKS, Cell, Span, Sum, Sums
from pipeline.edge.clickhouse import Warehouse
from schemas.tables import SEALS


class Seal(NamedTuple):
    """One slice of one table, whole. sums: by day. from_log: whether the log was read for it."""

    sealed: str
    partition: int
    slice: int
    sums: Sums
    from_log: bool

    @property
    def cells(self) -> Sums:
        """The sums, and a cell of day 0 that says that the slice is sealed even where it has no rows."""
        return {Cell(self.partition, self.slice, 0): Sum()} | self.sums


class OpenSlice:
    """What the log says of a slice that is not whole yet. first: its first block that was compared."""

    def __init__(self, first: int) -> None:
        """Start without any blocks."""
        self.first = first
        self.end = first
        self.sums: dict[str, Sums] = {}
        self.is_whole = True

    def add(self, span: Span, sums: dict[str, Sums], ledger_name: str, ledger: Sums | None) -> None:
        """Take in the blocks of a span, of its own partition. ledger: None where it does not agree with the log."""
        self.end = span.end
        self.is_whole = self.is_whole and ledger is not None
        for sealed, found in (sums | {ledger_name: ledger or {}}).items():
            kept = self.sums.setdefault(sealed, {})
            for cell, one in found.items():
                if cell[:2] == (span.partition, span.first // SLICE_BLOCKS):
                    kept[cell] = kept.get(cell, Sum()).plus(one)

    def span(self, partition: int) -> Span:
        """Return its blocks so far."""
        return Span(partition, self.first, self.end)


def ledger_of(topic: str) -> str:
    """Return the name under which the ledger of a topic is sealed."""
    return f"blocks:{topic}"


def shape_of(sealed: str) -> int:
    """Return the shape that a valid seal has."""
    shapes = {one.table.name: one.shape for one in FIXED}
    return shapes.get(sealed, LEDGER_SHAPE)


def read(warehouse: Warehouse) -> dict[str, Sums]:
    """Return all valid seals, by what is sealed. A slice without rows has a cell of day 0 with nothing."""
    found = warehouse.execute(
        "SELECT sealed, p, slice, day, rows, hash, shape FROM seals FINAL ORDER BY sealed, p, slice, day"
    )
    sums: dict[str, Sums] = {}
    for sealed, *numbers in found:
        p, piece, day, rows, total, shape = (int(str(number)) for number in numbers)
        if shape == shape_of(str(sealed)):
            sums.setdefault(str(sealed), {})[Cell(p, piece, day)] = Sum(rows, total)
    return sums


def next_block(sums: Sums, partition: int) -> int:
    """Return the first block after the sealed slices of a partition."""
    slices = {cell.slice for cell in sums if cell.partition == partition}
    piece = 0
    while piece in slices:
        piece += 1
    return piece * SLICE_BLOCKS


def write(warehouse: Warehouse, seals: Iterable[Seal], now_ms: int) -> None:
    """Store seals; the same again changes nothing. now_ms: unix time, ms."""
    rows = [
        (seal.sealed, *cell, *one, shape_of(seal.sealed), int(seal.from_log), now_ms)
        for seal in seals
        for cell, one in seal.cells.items()
    ]
    if rows:
        columns = [list(column) for column in zip(*rows, strict=True)]
        warehouse.insert(SEALS.name, SEALS.column_names, columns, partitions_max=0)

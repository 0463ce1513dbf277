"""The ledger against the log: every block that the log has up to the ledger's end must stand there, as it was read."""

from collections.abc import Sequence

from pipeline.audit.log import LogBlock
from pipeline.audit.shape import LEDGER_DAY, LEDGER_HASH, Read, within
from pipeline.core import rows
from pipeline.core.audit import ALTERED, EXTRA, MISSING, SLICE_BLOCKS, Cell, Fault, Span, Sum, Sums
from pipeline.core.rows import LedgerRow
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import now_ms
from schemas import block as codec
from schemas.block import EventBlock
from schemas.tables import BLOCKS

Known = dict[tuple[int, int], tuple[int, int, int, int]]  # (p, o) -> rows, checksum, hash, day


def check_ledger(
    warehouse: Warehouse, read: Read, found: Sequence[LogBlock], spans: Sequence[Span], heals: bool
) -> tuple[list[Fault], Sums | None]:
    """Compare; heal by writing the row again under the next generation. Returns the faults and the ledger's sums.

    The sums are those of the ledger once it agrees; None where it still does not.
    """
    known = _known(warehouse, read.topic, spans)
    wrong = [block for block in found if known.get(block.origin, (-1, -1))[:2] != (block.rows, block.crc)]
    faults = [
        Fault("blocks", *block.origin, ALTERED if block.origin in known else MISSING, 1, heals, f"topic {read.topic}")
        for block in wrong
    ]
    if wrong and heals:
        _write(warehouse, read, wrong)
        known = _known(warehouse, read.topic, spans)
    strangers = sorted(known.keys() - {tuple(block.origin) for block in found})
    faults += [
        Fault("blocks", *place, EXTRA, 1, False, f"topic {read.topic}: the log has no such block")
        for place in strangers
    ]
    sums: Sums = {}
    for (partition, offset), (_, _, total, day) in known.items():
        cell = Cell(partition, offset // SLICE_BLOCKS, day)
        sums[cell] = sums.get(cell, Sum()).plus(Sum(1, total))
    agrees = not strangers and (heals or not wrong)
    return faults, sums if agrees else None


def _known(warehouse: Warehouse, topic: str, spans: Sequence[Span]) -> Known:
    found = warehouse.execute(
        f"SELECT p, o, rows, checksum, {LEDGER_HASH}, {LEDGER_DAY} FROM blocks FINAL "  # noqa: S608 - our names and whole numbers
        f"WHERE topic = %(topic)s AND ({within(spans)})",
        {"topic": topic},
    )
    numbers = ([int(str(value)) for value in row] for row in found)
    return {(p, o): (count, checksum, total, day) for p, o, count, checksum, total, day in numbers}


def _write(warehouse: Warehouse, read: Read, blocks: Sequence[LogBlock]) -> None:
    spans = [Span(block.origin.partition, block.origin.offset, block.origin.offset + 1) for block in blocks]
    (newest,) = warehouse.execute(
        f"SELECT max(gen) FROM blocks WHERE topic = %(topic)s AND ({within(spans)})",  # noqa: S608
        {"topic": read.topic},
    )
    columns = rows.ledger_columns([_row(read, block) for block in blocks], now_ms())
    names = BLOCKS.column_names
    generation = [int(str(newest[0])) + 1] * len(blocks)
    written = [
        generation if name == "gen" else list(column) for name, column in zip(names, columns.columns, strict=True)
    ]
    warehouse.insert(BLOCKS.name, names, written, partitions_max=0)


def _row(read: Read, found: LogBlock) -> LedgerRow:
    block = codec.decode(found.value, read.kind)
    totals = (0, 0, 0, 0)
    if isinstance(block, EventBlock):
        kept = block.totals
        totals = (kept.received, kept.clean, kept.refused, kept.duplicate)
    return LedgerRow(read.topic, found.origin, found.rows, found.crc, int(getattr(block, "block_time_ms", 0)), totals)

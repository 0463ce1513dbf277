"""How many rows the warehouse should have, has, and has let go, by partition: the right side of the books.

Seals say how many rows of a day each slice had, and are kept for ever; the ledger says it of the blocks since. So rows
that have expired are counted by the day, exactly, though they are gone and go at an hour of the server's choosing.
"""

from typing import NamedTuple

from pipeline.audit import seals
from pipeline.audit.seals import ledger_of
from pipeline.audit.shape import BAD_ROWS, EVENT_ROWS, Audited
from pipeline.core.audit import SLICE_BLOCKS, Sums
from pipeline.edge.clickhouse import Warehouse
from schemas.topics import BAD, EVENTS

AUDITED = {EVENTS.name: EVENT_ROWS, BAD.name: BAD_ROWS}


class Kept(NamedTuple):
    """One topic's rows of one partition, up to a block.

    applied: rows in the blocks that the ledger knows. blocks: those blocks. expired: rows of days that are not kept.
    stored: different rows in the table, but for those days.
    """

    applied: int
    blocks: int
    expired: int
    stored: int


def first_kept_day(warehouse: Warehouse, retention_days: int) -> int:
    """Return the first day (since 1970) of which no row can expire within the next hour, by the server's own clock."""
    sql = f"SELECT toUInt32(toDate(now('UTC') + 3600 - toIntervalDay({int(retention_days)}))) + 1"
    return int(str(warehouse.execute(sql)[0][0]))


def kept(
    warehouse: Warehouse, sealed: dict[str, Sums], topic: str, bounds: dict[int, int], first_day: int
) -> dict[int, Kept]:
    """Count the rows of a topic by partition. bounds: its last block that counts, by partition; -1 = none yet.

    sealed: all seals, from `seals.read`.
    """
    audited = AUDITED[topic]
    return {p: _kept(warehouse, sealed, topic, audited, p, bound, first_day) for p, bound in bounds.items()}


def _kept(
    warehouse: Warehouse, sealed: dict[str, Sums], topic: str, audited: Audited, p: int, bound: int, first_day: int
) -> Kept:
    rows, ledger = sealed.get(audited.table.name, {}), sealed.get(ledger_of(topic), {})
    start = min(seals.next_block(rows, p), seals.next_block(ledger, p), (bound + 1) // SLICE_BLOCKS * SLICE_BLOCKS)
    last = start // SLICE_BLOCKS
    before = {cell: one for cell, one in rows.items() if cell.partition == p and cell.slice < last}
    blocks = sum(one.rows for cell, one in ledger.items() if cell.partition == p and cell.slice < last)
    since = warehouse.execute(
        "SELECT count(), sum(rows) FROM blocks FINAL WHERE topic = %(topic)s AND p = %(p)s AND o >= %(start)s "
        "AND o <= toInt64(%(bound)s)",
        {"topic": topic, "p": p, "start": start, "bound": bound},
    )
    applied = sum(one.rows for one in before.values()) + int(str(since[0][1]))
    expired = sum(one.rows for cell, one in before.items() if cell.day < first_day)
    where = (
        f"FROM {audited.table.name} {{}} WHERE p = {p} AND o <= toInt64({bound}) "
        f"AND (o >= {start} OR {audited.day} >= {first_day})"
    )
    # FINAL reads and compares the key of every row; where the plain count is the one expected there is nothing to gain.
    stored = _count(warehouse, where.format(""))
    if stored != applied - expired:
        stored = _count(warehouse, where.format("FINAL"))
    return Kept(applied, blocks + int(str(since[0][0])), expired, stored)


def _count(warehouse: Warehouse, where: str) -> int:
    return int(str(warehouse.execute(f"SELECT count() {where}")[0][0]))

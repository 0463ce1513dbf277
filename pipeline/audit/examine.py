"""Compares blocks with the log, row by row where they differ, and puts the tables right where it is told to.

Healing never hides a right row, not for a moment, since stages and reports read meanwhile: what is missing is inserted
on its key first, then exactly the rows whose content is wrong are deleted.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from pipeline.audit import newest
from pipeline.audit.heal import copy_rows, delete_rows
from pipeline.audit.ledger import check_ledger
from pipeline.audit.log import BlockSource, LogBlock
from pipeline.audit.scratch import Scratch
from pipeline.audit.shape import EVENT_ROWS, Audited, Read, listed, texts, within
from pipeline.core.audit import SLICE_BLOCKS, Cell, Fault, Span, Stored, Sum, Sums, Verdict, judge
from pipeline.edge.clickhouse import Warehouse
from schemas import block as codec

HEALS_MAX = 3
Block = tuple[int, int]  # partition, offset


class Minute(NamedTuple):
    """A minute of a partition's events whose rows were wrong, so that its rollups may be."""

    partition: int
    ms: int


class Examined(NamedTuple):
    """What came of some spans.

    sums: what the log says of the rows, for each table that is fixed. ledger: the sums of the ledger; None where it
    does not agree with the log. minutes: of events whose rows were wrong. rows: in the blocks.
    """

    faults: list[Fault]
    sums: dict[str, Sums]
    ledger: Sums | None
    minutes: set[Minute]
    rows: int


class Examiner:
    """Reads the log again. first_day: rows that expire by an earlier day (days since 1970) are not looked for."""

    def __init__(self, warehouse: Warehouse, source: BlockSource, scratch: Scratch, heals: bool) -> None:
        """heals: whether faults are put right or only named."""
        self._warehouse = warehouse
        self._source = source
        self._scratch = scratch
        self._heals = heals

    def examine(self, read: Read, spans: Sequence[Span], first_day: int) -> Examined:
        """Compare these blocks, of one topic, all of which the log still has and the ledger must have."""
        found = [block for span in spans for block in self._source.read(read.topic, span)]
        faults, ledger = check_ledger(self._warehouse, read, found, spans, self._heals)
        result = Examined(faults, {}, ledger, set(), sum(block.rows for block in found))
        blocks = [(block.origin, self._decoded(read, block)) for block in found if block.rows]
        for audited in read.tables:
            columns = audited.columns(blocks)
            scratch = self._scratch.fill(columns) if columns.rows else ""
            if audited.is_fixed:
                self._fixed(audited, scratch, spans, first_day, result)
            else:
                result.faults.extend(newest.compare(self._warehouse, audited, scratch, spans, first_day, self._heals))
        return result

    def sums(self, audited: Audited, table: str, spans: Sequence[Span]) -> Sums:
        """Return the sums of these blocks by slice, as a table has them now."""
        return by_slice(self._block_sums(audited, table, spans))

    def _decoded(self, read: Read, block: LogBlock) -> Struct:
        return codec.decode(block.value, read.kind)

    def _fixed(self, audited: Audited, scratch: str, spans: Sequence[Span], first_day: int, result: Examined) -> None:
        expected = self._block_sums(audited, scratch, spans)
        stored = self._block_sums(audited, audited.table.name, spans)
        result.sums[audited.table.name] = by_slice(expected)
        wrong = {
            block
            for block, day in expected.keys() | stored.keys()
            if day >= first_day and expected.get((block, day)) != stored.get((block, day))
        }
        for partition in sorted({block[0] for block in wrong}):
            blocks = sorted(offset for p, offset in wrong if p == partition)
            for start in range(0, len(blocks), SLICE_BLOCKS):
                self._judge(audited, scratch, partition, blocks[start : start + SLICE_BLOCKS], first_day, result)

    def _block_sums(self, audited: Audited, table: str, spans: Sequence[Span]) -> dict[tuple[Block, int], Sum]:
        if not table:
            return {}
        found = self._warehouse.execute(
            f"SELECT p, o, {audited.day} AS d, count(), sum({audited.hash}) FROM {table} "  # noqa: S608 - our names
            f"WHERE {within(spans)} GROUP BY p, o, d"
        )
        numbers = ([int(str(value)) for value in row] for row in found)
        return {((p, offset), day): Sum(rows, total) for p, offset, day, rows, total in numbers}

    def _judge(
        self, audited: Audited, scratch: str, p: int, offsets: list[int], first_day: int, result: Examined
    ) -> None:
        """Compare the rows of some blocks of a partition one by one; heal until they are right, if told to."""
        where = f"p = {p} AND o IN ({listed(offsets)}) AND {audited.day} >= {first_day}"
        expected = self._rows(audited, scratch, where, "''")
        minutes = self._minutes((audited.table.name, scratch), where) if audited is EVENT_ROWS else set()
        found = first = self._verdicts(audited, expected, where, offsets)
        for _ in range(HEALS_MAX if self._heals else 0):
            for offset, verdict in found.items():
                self._heal(audited, scratch, f"p = {p} AND o = {offset}", verdict)
            # A merge may have gone on with the wrong one of two rows, or the right one stands there twice now.
            found = self._verdicts(audited, expected, where, offsets) if found else {}
        for offset, verdict in first.items():
            for kind, count in verdict.counts.items():
                healed = offset not in found or (self._heals and kind not in found[offset].counts)
                result.faults.append(Fault(audited.table.name, p, offset, kind, count, healed))
        result.minutes.update(minutes if first else ())

    def _verdicts(
        self, audited: Audited, expected: Mapping[int, list[Stored]], where: str, offsets: list[int]
    ) -> dict[int, Verdict]:
        """Return what is wrong, by block; none of a block that is right."""
        stored = self._rows(audited, audited.table.name, where, "_part")
        judged = {
            offset: judge({row.name: row.hash for row in expected.get(offset, ())}, stored.get(offset, ()))
            for offset in offsets
        }
        return {offset: verdict for offset, verdict in judged.items() if verdict.counts}

    def _rows(self, audited: Audited, table: str, where: str, part: str) -> defaultdict[int, list[Stored]]:
        rows: defaultdict[int, list[Stored]] = defaultdict(list)
        if not table:
            return rows
        found = self._warehouse.execute(
            f"SELECT o, {', '.join(audited.name)}, {audited.hash}, {part} FROM {table} WHERE {where}"  # noqa: S608
        )
        for offset, *name, total, in_part in found:
            rows[int(str(offset))].append(Stored(tuple(name), int(str(total)), str(in_part)))
        return rows

    def _minutes(self, tables: Sequence[str], where: str) -> set[Minute]:
        """Return the minutes of these blocks, as they should be and as they are."""
        found = set()
        for table in filter(None, tables):
            found |= set(
                self._warehouse.execute(
                    f"SELECT DISTINCT p, toUnixTimestamp(toStartOfMinute(event_time)) FROM {table} WHERE {where}"  # noqa: S608
                )
            )
        return {Minute(int(str(p)), int(str(at_s)) * 1_000) for p, at_s in found}

    def _heal(self, audited: Audited, scratch: str, place: str, verdict: Verdict) -> None:
        copy_rows(self._warehouse, audited, scratch, place, verdict.absent)
        delete_rows(self._warehouse, audited, place, verdict.wrong)
        by_part: defaultdict[str, set[int]] = defaultdict(set)
        for total, part in verdict.copies:
            by_part[part].add(total)
        for part, hashes in by_part.items():
            delete_rows(self._warehouse, audited, f"{place} AND _part IN ({texts([part])})", hashes)


def by_slice(sums: Mapping[tuple[Block, int], Sum]) -> Sums:
    """Add the sums of blocks and days up."""
    found: Sums = {}
    for ((partition, offset), day), one in sums.items():
        cell = Cell(partition, offset // SLICE_BLOCKS, day)
        found[cell] = found.get(cell, Sum()).plus(one)
    return found

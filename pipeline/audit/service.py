"""The audit of log, ledger and warehouse: all at once for `herald audit`, bit by bit for the running auditor.

Three looks. New blocks are compared with the log, once each, and summed up; a slice that is whole is sealed with its
sums. Sealed slices are compared with the sums of the table's parts, of which only new ones are read. Tables that keep
the newest state of each name have no lasting sums: their slices are read from the log again, in turn.

What differs is compared with the log row by row, named, and put right where the log still has it.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.audit import counts, rollups, seals
from pipeline.audit.examine import Examined, Examiner, Minute
from pipeline.audit.log import BlockSource
from pipeline.audit.scratch import Scratch
from pipeline.audit.seals import OpenSlice, ledger_of
from pipeline.audit.shape import FIXED, LEDGER_DAY, LEDGER_HASH, READS, Read, within
from pipeline.audit.sums import PartSums, Summed
from pipeline.core.audit import ALTERED, EXTRA, MISSING, SLICE_BLOCKS, Cell, Fault, Span, Sum, Sums, differing, sliced
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import monotonic_s, now_ms
from pipeline.errors import Retryable

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 100_000
"""Rows of the log in memory together, as blocks and as columns."""

PART_ROWS_MAX = 2_000_000
"""Rows of new parts that one look sums up; a larger part is read alone."""

RECOUNT_MS = 1_800_000
"""How long the rollups of healed minutes are watched: a writer that read the damage may write them once more."""

NO_LIMIT = 2**62
Place = tuple[str, int]  # topic, partition


@dataclass
class Report:
    """What a look found. blocks, rows: compared with the log; new_rows: of these, for the first time.

    sealed: slices that were compared by their sums.

    forgotten: blocks that the log no longer has and that no seal speaks for, by topic. behind: blocks still to compare.
    in_turn: logs of which further slices are to be read again.
    """

    faults: list[Fault] = field(default_factory=list)
    blocks: int = 0
    rows: int = 0
    new_rows: int = 0
    sealed: int = 0
    forgotten: Counter[str] = field(default_factory=Counter)
    behind: int = 0
    in_turn: int = 0

    @property
    def is_quiet(self) -> bool:
        """True where no row is new, none is at fault and none is left to compare, or to read again in its turn."""
        return not (self.new_rows or self.faults or self.behind or self.in_turn)

    @property
    def left(self) -> list[Fault]:
        """Faults that are still there."""
        return [fault for fault in self.faults if not fault.healed]


class Auditor:
    """Keeps what it has compared from one look to the next; begins with the seals. For one thread."""

    def __init__(
        self, warehouse: Warehouse, source: BlockSource, partitions: int, retention_days: int, heals: bool
    ) -> None:
        """source: where blocks are read again. retention_days: rows may expire after as many. heals: mend faults."""
        self._warehouse, self._source, self._partitions = warehouse, source, partitions
        self._retention_days, self._heals = retention_days, heals
        self._scratch = Scratch(warehouse)
        self._examiner = Examiner(warehouse, source, self._scratch, heals)
        self._parts = {one.table.name: PartSums(Summed(one.table.name, one.hash, one.day)) for one in FIXED}
        self._parts["blocks"] = PartSums(Summed("blocks", LEDGER_HASH, LEDGER_DAY, "topic"))
        self._seals = seals.read(warehouse)
        self._next: dict[Place, int] = {}
        self._open: dict[Place, OpenSlice] = {}
        self._turn: dict[Place, int] = {}
        self._minutes: dict[Minute, int] = {}
        self._named: dict[tuple[str, int, int], tuple[tuple[Cell, Sum], ...]] = {}
        self._ends: dict[Place, int] = {}
        self._firsts: dict[Place, int] = {}
        self._first_day = 0
        self._report = Report()

    def close(self) -> None:
        """Let go of connections and of tables in memory; those of a warehouse that is away are dropped by the next."""
        try:
            self._scratch.close()
        except Retryable as error:
            log.info("tables in the warehouse's memory are left: %s", error)
        finally:
            self._source.close()

    def look(self, busy_s: float) -> Report:
        """Look once: sealed slices, the newest blocks, older ones in turn; no new reading of the log after busy_s.

        Raises Retryable where Kafka or the warehouse is away, StateError where the log itself was altered.
        """
        until_s = monotonic_s() + busy_s
        self._begin()
        self._compare_seals(PART_ROWS_MAX)
        self._compare_open()
        while (new := self._new()) and monotonic_s() < until_s:
            self._compare_new(new)
        for read in READS:
            if monotonic_s() < until_s:
                self._compare_older(read)
        return self._end()

    def everything(self, deep: bool) -> Report:
        """Look at all blocks. Raises as `look`.

        deep: compare those that are sealed with the log, too, as far back as it goes.
        """
        self._begin()
        for read in READS if deep else ():
            self._reread(read, {place[1]: end for place, end in self._ends.items() if place[0] == read.topic})
        while new := self._new():
            self._compare_new(new)
        for read in () if deep else READS:
            if not _is_fixed(read):
                self._reread(read, {p: self._next_of(read.topic, p) for p in range(self._partitions)})
        self._compare_seals(NO_LIMIT)
        return self._end()

    # --- a look's beginning and end -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        found = self._warehouse.execute("SELECT topic, p, max(o) FROM blocks GROUP BY topic, p")
        self._ends = {(str(topic), int(str(p))): int(str(o)) + 1 for topic, p, o in found}
        self._firsts = {}
        self._first_day = counts.first_kept_day(self._warehouse, self._retention_days)
        self._report = Report()

    def _end(self) -> Report:
        now = now_ms()
        self._minutes = {minute: until for minute, until in self._minutes.items() if until > now}
        for partition, count in rollups.recount(self._warehouse, self._minutes, self._heals).items():
            fault = Fault("rollup_minute", partition, -1, ALTERED, count, self._heals, "cells, counted from the events")
            self._report.faults.append(fault)
        self._report.behind = sum(max(0, end - self._next_of(*place)) for place, end in self._ends.items())
        self._report.in_turn = sum(first > 0 for first in self._turn.values())
        return self._report

    def _first(self, topic: str, partition: int) -> int:
        place = (topic, partition)
        if place not in self._firsts:
            self._firsts[place] = self._source.first(*place)
        return self._firsts[place]

    def _next_of(self, topic: str, partition: int) -> int:
        place = (topic, partition)
        if place not in self._next:
            self._next[place] = seals.next_block(self._seals.get(ledger_of(topic), {}), partition)
        return self._next[place]

    # --- blocks against the log ---------------------------------------------------------------------------------------

    def _new(self) -> list[tuple[Read, list[Span]]]:
        """Return what to compare next: of each topic some blocks of each partition, within one slice."""
        found = []
        for read in READS:
            spans = []
            for partition in range(self._partitions):
                end = self._ends.get((read.topic, partition), 0)
                spans += list(sliced(partition, self._next_of(read.topic, partition), end))[:1]
            if spans:
                found.append((read, spans))
        return found

    def _compare_new(self, new: list[tuple[Read, list[Span]]]) -> None:
        for read, spans in new:
            there = [span for span in spans if self._first(read.topic, span.partition) <= span.first]
            for span in spans:
                if span not in there:
                    self._pass_by(read, span)
            for some in self._portions(read, there):
                examined = self._examine(read, some)
                self._report.new_rows += examined.rows
                for span in some:
                    self._advance(read, span, examined)

    def _examine(self, read: Read, spans: list[Span]) -> Examined:
        examined = self._examiner.examine(read, spans, self._first_day)
        self._report.faults += examined.faults
        self._report.rows += examined.rows
        self._report.blocks += sum(span.end - span.first for span in spans)
        self._minutes |= dict.fromkeys(examined.minutes, now_ms() + RECOUNT_MS)
        return examined

    def _portions(self, read: Read, spans: list[Span]) -> Iterator[list[Span]]:
        """Cut spans so that each portion holds some ROWS_AT_ONCE, by what the ledger says of their blocks."""
        if not spans:
            return
        found = self._warehouse.execute(
            f"SELECT p, o, rows FROM blocks FINAL WHERE topic = %(topic)s AND rows > 0 AND ({within(spans)}) "  # noqa: S608
            "ORDER BY p, o",
            {"topic": read.topic},
        )
        rows = [(int(str(p)), int(str(o)), int(str(count))) for p, o, count in found]
        portion: list[Span] = []
        taken = 0
        for span in spans:
            first = span.first
            for partition, offset, count in rows:
                if partition != span.partition or not first <= offset < span.end:
                    continue
                taken += count
                if taken >= ROWS_AT_ONCE:
                    yield [*portion, Span(partition, first, offset + 1)]
                    portion, taken, first = [], 0, offset + 1
            portion += [span._replace(first=first)] if first < span.end else []
        if portion:
            yield portion

    def _reread(self, read: Read, ends: dict[int, int]) -> None:
        """Compare all blocks up to these ends again that the log still has.

        The newest first: where the newest state of a name is gone, an older one would seem to be missing, too.
        """
        for partition, end in sorted(ends.items()):
            for span in reversed(list(sliced(partition, self._first(read.topic, partition) if end else 0, end))):
                for some in self._portions(read, [span]):
                    self._examine(read, some)

    def _compare_older(self, read: Read) -> None:
        """Read one slice of each partition again where no sums speak for it; the next look takes the next."""
        if _is_fixed(read):
            return
        spans = []
        for partition in range(self._partitions):
            place = (read.topic, partition)
            known = self._next_of(*place)
            first = max(self._first(*place), self._turn.get(place, 0)) if known else 0
            span = next(sliced(partition, first, known), None)
            spans += [span] if span else []
            self._turn[place] = span.end if span and span.end < known else 0
        for some in self._portions(read, spans):
            self._examine(read, some)

    # --- seals --------------------------------------------------------------------------------------------------------

    def _advance(self, read: Read, span: Span, examined: Examined) -> None:
        """Add what the log says of a span to its slice; seal the slice where it is whole."""
        place = (read.topic, span.partition)
        self._next[place] = span.end
        kept = self._open.setdefault(place, OpenSlice(span.first))
        kept.add(span, examined.sums, ledger_of(read.topic), examined.ledger)
        if span.end % SLICE_BLOCKS:
            return
        del self._open[place]
        piece = span.end // SLICE_BLOCKS - 1
        if kept.first % SLICE_BLOCKS:
            self._seal_from_table(read, span.partition, piece)
        elif kept.is_whole:
            self._seal(read, span.partition, piece, kept.sums, from_log=True)

    def _pass_by(self, read: Read, span: Span) -> None:
        """The log has forgotten where this begins: what the tables have now is all that can be sealed."""
        place = (read.topic, span.partition)
        first = min(span.end, self._first(*place))
        self._report.forgotten[read.topic] += first - span.first
        for some in self._portions(read, [span._replace(first=first)] if first < span.end else []):
            self._examine(read, some)
        self._next[place] = span.end
        self._open.pop(place, None)
        if span.end % SLICE_BLOCKS == 0:
            self._seal_from_table(read, span.partition, span.end // SLICE_BLOCKS - 1)

    def _seal_from_table(self, read: Read, partition: int, piece: int) -> None:
        sums = {}
        for sealed_as, stored in self._stored(read, NO_LIMIT):
            sums[sealed_as] = {cell: one for cell, one in stored.items() if cell[:2] == (partition, piece)}
        self._seal(read, partition, piece, sums, from_log=False)

    def _seal(self, read: Read, partition: int, piece: int, sums: dict[str, Sums], from_log: bool) -> None:
        names = [*(one.table.name for one in read.tables if one.is_fixed), ledger_of(read.topic)]
        found = [seals.Seal(name, partition, piece, sums.get(name, {}), from_log) for name in names]
        for seal in found:
            self._seals.setdefault(seal.sealed, {}).update(seal.cells)
        seals.write(self._warehouse, found, now_ms())

    # --- sums against seals -------------------------------------------------------------------------------------------

    def _stored(self, read: Read, rows_max: int) -> Iterator[tuple[str, Sums]]:
        """Yield the sums of a topic's tables as they are now; none of a table whose parts take more than one look.

        Raises Retryable where that must not be, without a limit.
        """
        tables = [(one.table.name, one.table.name, "") for one in read.tables if one.is_fixed]
        for sealed_as, table, key in [*tables, (ledger_of(read.topic), "blocks", read.topic)]:
            found = self._parts[table].read(self._warehouse, rows_max)
            if found is not None:
                yield sealed_as, found.get(key, {})
            elif rows_max == NO_LIMIT:
                raise Retryable(f"{table}: its parts change faster than they can be read")

    def _compare_seals(self, rows_max: int) -> None:
        for read in READS:
            for sealed_as, stored in self._stored(read, rows_max):
                sealed = self._seals.get(sealed_as, {})
                self._report.sealed += len({cell[:2] for cell in sealed})
                self._settle(read, sealed_as, sealed, stored)

    def _compare_open(self) -> None:
        """Compare again what was compared since the last seal."""
        for read in READS:
            for audited in read.tables if self._open else ():
                spans = [kept.span(p) for (topic, p), kept in self._open.items() if topic == read.topic]
                if audited.is_fixed and spans:
                    known: Sums = {}
                    for (topic, p), kept in self._open.items():
                        if topic == read.topic:
                            known |= {Cell(p, kept.first // SLICE_BLOCKS, 0): Sum()} | kept.sums.get(
                                audited.table.name, {}
                            )
                    stored = self._examiner.sums(audited, audited.table.name, spans)
                    self._settle(read, audited.table.name, known, stored, {span.partition: span for span in spans})

    def _settle(
        self, read: Read, sealed_as: str, sealed: Sums, stored: Sums, spans: dict[int, Span] | None = None
    ) -> None:
        """Look closer where the sums differ. spans: what to look at; without, the slices."""
        for partition, piece in differing(sealed, stored, self._first_day):
            now = tuple(sorted((cell, one) for cell, one in stored.items() if cell[:2] == (partition, piece)))
            place = (sealed_as, partition, piece)
            if self._named.get(place) == now:
                continue  # looked at before, and nothing has changed since
            span = (spans or {}).get(partition, Span(partition, piece * SLICE_BLOCKS, (piece + 1) * SLICE_BLOCKS))
            before = len(self._report.faults)
            if self._first(read.topic, partition) > span.first:
                rows = sum(one.rows for cell, one in sealed.items() if cell[:2] == (partition, piece))
                self._report.faults.append(_unhealable(sealed_as, span, sum(one.rows for _, one in now) - rows))
            else:
                for some in self._portions(read, [span]):
                    self._examine(read, some)
            if all(not fault.healed for fault in self._report.faults[before:]):
                self._named[place] = now


def _is_fixed(read: Read) -> bool:
    return all(audited.is_fixed for audited in read.tables)


def _unhealable(sealed_as: str, span: Span, more: int) -> Fault:
    kind = EXTRA if more > 0 else MISSING if more < 0 else ALTERED
    note = f"in blocks {span.first} to {span.end - 1}, which the log no longer has"
    return Fault(sealed_as, span.partition, -1, kind, abs(more) or 1, False, note)

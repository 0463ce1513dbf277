"""The aggregate stage's work: blocks of events, refusals, sessions and outcomes -> rows in the warehouse, exactly.

Its state is the warehouse itself. Every table has an idempotent key and absolute values, so an insert whose answer was
lost is simply repeated, with the same rows or cut into other chunks: the rows land on their keys and nothing is counted
twice. That needs no token and no look whether the rows arrived, and it holds when the server is killed inside an
insert, when this process is killed between two, and when a stalled former owner wakes up and writes.

Order within a chunk: rows and rollups, side by side; then the ledger `blocks`, then the caller acknowledges. So a block
that stands in the ledger is wholly in all tables, and what a kill leaves half done is not in the ledger and is done
again.
"""

import logging
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from msgspec import Struct

from pipeline.core import rows
from pipeline.core.rollup import MINUTE_MS, Chunk, Rollup, StoredEvent
from pipeline.core.rows import Columns, LedgerRow
from pipeline.edge import metrics
from pipeline.edge.clock import monotonic_s, now_ms
from pipeline.errors import Gap, Retryable
from pipeline.settings import Settings
from schemas import topics
from schemas.block import EventBlock, Origin, OutcomeBlock, RefusedBlock, SessionBlock

log = logging.getLogger(__name__)

DENSE = frozenset({topics.EVENTS.name, topics.OUTCOMES.name})
"""Topics with a record for every block of `collected`: an offset that is missing was lost. The others are sparse."""

RETRY_DELAYS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0)
"""Pauses before an insert is repeated; then the process stops with the chunk unacknowledged and is started again."""

ROWS_PER_INSERT_MAX = 500_000
_ANY_NUMBER = 0  # a chunk with late events spans months; rows that arrive in part are completed by the repeat
_STAGE = "aggregate"

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K", bound=Struct)
Place = tuple[str, int]  # topic, partition


class PendingBlock(NamedTuple):
    """One block to apply. topic: name in schemas.topics, without prefix. crc: crc32 of the record, from its header."""

    topic: str
    origin: Origin
    block: Struct
    crc: int


class Tables(Protocol):
    """What is needed of `pipeline.edge.clickhouse.Warehouse`."""

    def execute(self, sql: str, params: Mapping[str, object] | None = None) -> list[tuple[object, ...]]:
        """Run a statement and return its rows."""

    def insert(
        self,
        table: str,
        column_names: Sequence[str],
        columns: Sequence[Sequence[object]],
        query_id: str | None = None,
        partitions_max: int = 1,
    ) -> int:
        """Insert columns; return how many rows."""


class OneByOne(Executor):
    """Runs what it is given at once, in the caller's thread, and raises what that raises."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Run it now."""
        done: Future[R] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class WarehouseWriter:
    """Applies blocks in order. Blocking, without Faust or asyncio: call it from a thread; calls exclude each other."""

    def __init__(
        self,
        warehouse: Tables,
        settings: Settings,
        sleep: Callable[[float], None] = time.sleep,
        inserts: Executor | None = None,
    ) -> None:
        """sleep: how to wait before a retry, s. inserts: runs them, in the order of the calls, in some threads."""
        self._warehouse = warehouse
        self._inserts = inserts or OneByOne()
        self._sleep = sleep
        self._accept_gap = settings.accept_gap
        self._applied: dict[Place, int] = {}
        self._rollup = Rollup(settings.rollup_buckets_max, self._reread)
        self._under_way: list[Future[None]] = []  # inserts of the chunk begun last
        self._stored: Future[None] | None = None  # of that chunk
        self._lock = threading.RLock()

    def assigned(self, topic: str, partition: int) -> int:
        """Take a partition; return the origin offset of its last applied block, or -1.

        Raises Retryable where the warehouse stays away.
        """
        with self._lock:
            self._forget([(topic, partition)])
            return self._last((topic, partition))

    def revoked(self, topic: str, partition: int) -> None:
        """Forget a partition that another process has now. Whatever was begun must have ended."""
        with self._lock:
            self._forget([(topic, partition)])

    def _forget(self, places: Iterable[Place]) -> None:
        for topic, partition in places:
            self._applied.pop((topic, partition), None)
            if topic == topics.EVENTS.name:
                self._rollup.revoke(partition)

    def write(self, chunk: Sequence[PendingBlock]) -> None:
        """Apply blocks of any topics and partitions, each partition's in order. Once it returns, acknowledge them.

        A block that has been applied is skipped; the same chunk again changes nothing.
        Raises Retryable after bounded retries (nothing to undo: write it again, here or in another process), Gap where
        a block is missing before one of these (unless `accept_gap` is set), clickhouse.Refused where a row can never be
        stored: a bug.
        """
        with self._lock:
            if self._stored is not None and self._stored.done():
                self._stored = None  # it may have failed: then this is the caller's next try
            stored = self.begin(chunk)
        stored.result()

    def begin(self, chunk: Sequence[PendingBlock]) -> "Future[None]":
        """Send a chunk's rows on their way; once what is returned has ended well, acknowledge its blocks.

        The next chunk may be begun meanwhile: its rows are made while ClickHouse works on these. Raises as `write`
        does, and so does what is returned, also where the chunk before failed: the ledger is written in order.
        """
        with self._lock:
            fresh = self._fresh(chunk)
            try:
                self._under_way = self._send(fresh)
                for place, blocks in fresh.items():
                    self._applied[place] = blocks[-1].origin.offset
                self._stored = self._inserts.submit(self._finish, fresh, self._under_way, self._stored, len(chunk))
            except BaseException:
                self._forget(fresh)  # the hot cells may have counted what the ledger does not know of
                raise
            return self._stored

    def _finish(
        self,
        fresh: dict[Place, list[PendingBlock]],
        under_way: Sequence["Future[None]"],
        before: "Future[None] | None",
        given: int,
    ) -> None:
        """Once a chunk's rows are all in, and the chunk before is in the ledger, put this one into it."""
        try:
            for one in under_way:
                one.result()
            if before is not None:
                before.result()
            self._insert(rows.ledger_columns(_ledger(fresh), now_ms()), _name(fresh))
        except BaseException:
            wait(under_way)  # whoever has the partition next must not meet one of them
            with self._lock:
                self._forget(fresh)
            raise
        _observe(fresh, given)

    def _fresh(self, chunk: Sequence[PendingBlock]) -> dict[Place, list[PendingBlock]]:
        """Return the blocks not applied yet, by topic and partition; raise Gap where one is missing."""
        fresh: defaultdict[Place, list[PendingBlock]] = defaultdict(list)
        for pending in chunk:
            place = (pending.topic, pending.origin.partition)
            last = fresh[place][-1].origin.offset if place in fresh else self._last(place)
            if pending.topic in DENSE and pending.origin.offset > last + 1 and place not in fresh:
                last = self._look_again(place)
            if pending.origin.offset <= last:
                continue
            if pending.topic in DENSE:
                self._no_gap(pending, last)
            fresh[place].append(pending)
        return dict(fresh)

    def _look_again(self, place: Place) -> int:
        """Ask the ledger how far it is by now: while we were halted after asking, another worker may have gone on."""
        self._applied.pop(place, None)
        if place[0] == topics.EVENTS.name:
            self._rollup.revoke(place[1])
        return self._last(place)

    def _no_gap(self, pending: PendingBlock, last: int) -> None:
        if pending.origin.offset == last + 1:
            return
        found = f"{pending.topic}[{pending.origin.partition}]: block {pending.origin.offset} after {last}"
        if not self._accept_gap:
            raise Gap(
                f"{found} in the warehouse, expected {last + 1}: blocks were lost to retention, or the warehouse is "
                "new; HERALD_ACCEPT_GAP=true goes on without them"
            )
        log.error("%s in the warehouse, expected %d; going on (HERALD_ACCEPT_GAP)", found, last + 1)

    def _last(self, place: Place) -> int:
        """Return the last applied offset: the ledger's greatest, as its rows are written in order and last of all."""
        if place not in self._applied:
            sql = "SELECT count(), max(o) FROM blocks WHERE topic = %(topic)s AND p = %(p)s"
            found = self._ask(sql, {"topic": place[0], "p": place[1]})
            self._applied[place] = _int(found[0][1]) if found[0][0] else -1
        return self._applied[place]

    def _send(self, fresh: dict[Place, list[PendingBlock]]) -> list["Future[None]"]:
        """Begin to insert the rows, side by side."""
        name = _name(fresh)
        events = list(_blocks(fresh, topics.EVENTS.name, EventBlock))
        for partition in sorted({origin.partition for origin, _ in events}):
            if not self._rollup.is_assigned(partition):  # before the insert, so that it sees what was there before
                self._rollup.assign(partition, self._newest_ms(partition))
        under_way: list[Future[None]] = []
        try:
            for columns in self._columns(fresh, events):
                if columns.rows:
                    under_way.append(self._inserts.submit(self._insert, columns, name))
        except BaseException:
            wait(under_way)
            raise
        return under_way

    def _columns(
        self, fresh: dict[Place, list[PendingBlock]], events: Sequence[tuple[Origin, EventBlock]]
    ) -> Iterator[Columns]:
        """Make the rows of one table after the other, so that those before are on their way meanwhile."""
        yield rows.event_columns(events)
        yield rows.decision_columns(events)
        yield rows.refused_columns(_blocks(fresh, topics.BAD.name, RefusedBlock))
        yield rows.session_columns(_blocks(fresh, topics.SESSIONS.name, SessionBlock), last_only=True)
        yield rows.outcome_columns(_blocks(fresh, topics.OUTCOMES.name, OutcomeBlock), last_only=True)
        yield self._rollup.apply(_chunks(events))

    def _insert(self, columns: Columns, name: str) -> None:
        """Insert rows, repeated until the answer is yes. An answer that was lost needs no more care than this.

        name: the same for the same rows, so that a copy of the insert that still runs holds the repeat back (code 216).
        """
        table = columns.table
        for start in range(0, columns.rows, ROWS_PER_INSERT_MAX):
            part = columns.columns
            if columns.rows > ROWS_PER_INSERT_MAX:
                part = [column[start : start + ROWS_PER_INSERT_MAX] for column in part]
            query_id = f"herald:{table.name}:{name}:{start}"
            began_s = monotonic_s()
            stored = self._retried(
                lambda part=part, query_id=query_id: self._warehouse.insert(  # type: ignore[misc]
                    table.name, table.column_names, part, query_id=query_id, partitions_max=_ANY_NUMBER
                )
            )
            metrics.INSERT_SECONDS.labels(table.name).observe(monotonic_s() - began_s)
            metrics.STORED_ROWS.labels(table.name).inc(stored)

    def _newest_ms(self, partition: int) -> int:
        wait(self._under_way)
        sql = "SELECT count(), toUnixTimestamp64Milli(max(event_time)) FROM events WHERE p = %(p)s"
        found = self._ask(sql, {"p": partition})
        return _int(found[0][1]) if found[0][0] else -1

    def _reread(self, partition: int, minutes: Sequence[int], below: int) -> Iterable[StoredEvent]:
        wait(self._under_way)  # the chunk before is among what is read
        return stored_events(self._ask, partition, minutes, below)

    def _ask(self, sql: str, params: Mapping[str, object]) -> list[tuple[object, ...]]:
        return self._retried(lambda: self._warehouse.execute(sql, params))

    def _retried(self, call: Callable[[], R]) -> R:
        for delay_s in RETRY_DELAYS_S:
            try:
                return call()
            except Retryable:
                self._sleep(delay_s)
        return call()


def stored_events(
    ask: Callable[[str, Mapping[str, object]], list[tuple[object, ...]]],
    partition: int,
    minutes: Sequence[int],
    below: int,
) -> Iterator[StoredEvent]:
    """Yield what a rollup needs of the stored events of these minutes (sorted, ms) in blocks below an offset.

    ask: runs a statement with its parameters.
    """
    # A row stands there twice until its parts are merged; LIMIT BY takes one, for less than FINAL would cost.
    sql = (
        f"SELECT {_STORED_COLUMNS} FROM events "  # noqa: S608 - names from the code and whole numbers only
        f"WHERE p = %(p)s AND o < %(below)s AND ({_within(minutes)}) LIMIT 1 BY o, n"
    )
    for row in ask(sql, {"p": partition, "below": below}):
        yield StoredEvent._make(row)


_STORED_COLUMNS = ", ".join(
    "toUnixTimestamp64Milli(event_time)" if field == "event_time_ms" else field for field in StoredEvent._fields
)


def _within(minutes: Sequence[int]) -> str:
    """Return the condition for sorted minutes, neighbours joined: ranges can use the index on time, a list cannot."""
    ranges: list[tuple[int, int]] = []
    for ms in minutes:
        if ranges and ranges[-1][1] == ms:
            ranges[-1] = (ranges[-1][0], ms + MINUTE_MS)
        else:
            ranges.append((ms, ms + MINUTE_MS))
    time_of = "fromUnixTimestamp64Milli(toInt64({}), 'UTC')"
    return " OR ".join(
        f"event_time >= {time_of.format(begin)} AND event_time < {time_of.format(end)}" for begin, end in ranges
    )


def _blocks(fresh: dict[Place, list[PendingBlock]], topic: str, kind: type[K]) -> Iterator[tuple[Origin, K]]:
    for place, blocks in fresh.items():
        if place[0] == topic:
            for pending in blocks:
                assert isinstance(pending.block, kind), f"{topic}: {type(pending.block)}, expected {kind}"
                yield pending.origin, pending.block


def _chunks(events: Iterable[tuple[Origin, EventBlock]]) -> Iterator[Chunk]:
    by_partition: defaultdict[int, list[tuple[Origin, EventBlock]]] = defaultdict(list)
    for origin, block in events:
        by_partition[origin.partition].append((origin, block))
    for partition, blocks in by_partition.items():
        counted = [event for _, block in blocks for event in block.events]
        yield Chunk(partition, blocks[0][0].offset, blocks[-1][0].offset, counted)


def _ledger(fresh: dict[Place, list[PendingBlock]]) -> Iterator[LedgerRow]:
    for blocks in fresh.values():
        for topic, origin, block, crc in blocks:
            totals = (0, 0, 0, 0)
            if isinstance(block, EventBlock):
                kept = block.totals
                totals = (kept.received, kept.clean, kept.refused, kept.duplicate)
            yield LedgerRow(topic, origin, _rows(block), crc, _block_time_ms(block), totals)


def _rows(block: Struct) -> int:
    assert isinstance(block, EventBlock | RefusedBlock | SessionBlock | OutcomeBlock)
    if isinstance(block, SessionBlock):
        return len(block.sessions)
    return len(block.outcomes) if isinstance(block, OutcomeBlock) else len(block.events)


def _block_time_ms(block: Struct) -> int:
    assert isinstance(block, EventBlock | RefusedBlock | SessionBlock | OutcomeBlock)
    return block.block_time_ms


def _name(fresh: dict[Place, list[PendingBlock]]) -> str:
    spans = [
        f"{topic}:{partition}:{blocks[0].origin.offset}-{blocks[-1].origin.offset}"
        for (topic, partition), blocks in sorted(fresh.items())
    ]
    return spans[0] if len(spans) == 1 else f"{zlib.crc32(' '.join(spans).encode()):08x}"


def _observe(fresh: dict[Place, list[PendingBlock]], given: int) -> None:
    """Count what was applied; the oldest event of each block says how long its way into the warehouse was."""
    stored_ms = now_ms()
    applied = 0
    for blocks in fresh.values():
        applied += len(blocks)
        for pending in blocks:
            metrics.STAGE_ROWS.labels(_STAGE).inc(_rows(pending.block))
            if isinstance(pending.block, EventBlock) and pending.block.events:
                waited_ms = stored_ms - pending.block.events[0].received_time_ms
                metrics.QUERYABLE_SECONDS.observe(max(0, waited_ms) / 1_000)
    metrics.BLOCKS.labels(_STAGE).inc(applied)
    metrics.BLOCKS_SKIPPED.labels(_STAGE).inc(given - applied)


def _int(value: object) -> int:
    assert isinstance(value, int), f"{value!r}: expected a whole number"
    return value


class StoredRows(NamedTuple):
    """How many different rows the warehouse has, by partition. sessions: without those merged into others."""

    events: dict[int, int]
    bad: dict[int, int]
    sessions: dict[int, int]
    outcomes: dict[int, int]


def stored_rows(warehouse: Tables) -> StoredRows:
    """Count the rows exactly, retried copies once. Raises Retryable or clickhouse.Refused."""
    return StoredRows(*(_counted(warehouse, table) for table in ("events", "bad", "sessions", "outcomes")))


def _counted(warehouse: Tables, table: str) -> dict[int, int]:
    found = warehouse.execute(f"SELECT p, count() FROM {table} FINAL GROUP BY p ORDER BY p")  # noqa: S608 - our names
    return {_int(partition): _int(count) for partition, count in found}

"""A simulated warehouse, and one life of an aggregate worker on it: what agents/aggregate.py is on Faust.

The writer is the real one and blocks, so it runs in a thread of its own; but only one thread ever runs, and the loop
decides when an insert lands, whether its answer is lost, and whether it lands after its sender has died.
"""

import asyncio
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents.arrival import Arrival, arrived
from pipeline.errors import Retryable
from pipeline.settings import Settings
from pipeline.warehouse_writer import PendingBlock, WarehouseWriter
from schemas import block as codec
from schemas.tables import TABLES
from schemas.topics import BAD, EVENTS, OUTCOMES, SESSIONS, Topic
from tests.simulation.broker import Broker, Place
from tests.simulation.group import Group
from tests.simulation.life import Consumer, Event, OnEnd
from tests.simulation.loop import PROCESS

READS: dict[Topic, type[Any]] = {
    EVENTS: codec.EventBlock,
    BAD: codec.RefusedBlock,
    SESSIONS: codec.SessionBlock,
    OUTCOMES: codec.OutcomeBlock,
}
INSERT_S = 0.5
CHUNK_ROWS_MAX = 40

Row = tuple[object, ...]


class Gone(BaseException):
    """Thrown into a writer's thread when its process has been killed."""


class Store:
    """ReplacingMergeTree tables: a row for each key, that of the highest version, of equals the last."""

    def __init__(self) -> None:
        """Empty tables."""
        self._tables = {table.name: table for table in TABLES}
        self.rows: dict[str, dict[Row, Row]] = {table.name: {} for table in TABLES}

    def insert(self, table: str, column_names: Sequence[str], columns: Sequence[Sequence[object]],
               query_id: str | None = None, partitions_max: int = 1) -> int:  # fmt: skip
        """Take rows in."""
        found, kept = self._tables[table], self.rows[table]
        assert tuple(column_names) == found.column_names
        keys = [column_names.index(name) for name in found.order_by]
        version = column_names.index(found.version) if found.version else -1
        rows: list[Row] = list(zip(*columns, strict=True))
        for row in rows:
            key = tuple(row[at] for at in keys)
            before = kept.get(key)
            if before is None or version < 0 or row[version] >= before[version]:  # type: ignore[operator]
                kept[key] = row
        return len(rows)

    def execute(self, sql: str, params: Mapping[str, object] | None = None) -> list[Row]:
        """Answer the writer's own questions; any other one is a failure of the simulation."""
        words = " ".join(sql.split())
        asked = dict(params or {})
        if words.startswith("SELECT count(), max(o) FROM blocks WHERE topic = %(topic)s AND p = %(p)s"):
            found = [row[0] for row in self.columns("blocks", ("o",), topic=asked["topic"], p=asked["p"])]
            return [(len(found), max(found, default=0))]  # type: ignore[type-var]
        if words.startswith("SELECT count(), toUnixTimestamp64Milli(max(event_time)) FROM events WHERE p = %(p)s"):
            found = [row[0] for row in self.columns("events", ("event_time",), p=asked["p"])]
            return [(len(found), max(found, default=0))]  # type: ignore[type-var]
        reread = re.fullmatch(r"SELECT (.+) FROM events WHERE p = %\(p\)s AND o < %\(below\)s AND \((.+)\) "
                              r"LIMIT 1 BY o, n", words)  # fmt: skip
        assert reread, f"the simulated warehouse does not know: {sql}"
        bounds = [int(number) for number in re.findall(r"toInt64\((\d+)\)", reread[2])]
        spans = list(zip(bounds[::2], bounds[1::2], strict=True))
        names = tuple(re.sub(r"toUnixTimestamp64Milli\((\w+)\)", r"\1", name) for name in reread[1].split(", "))
        rows = self.columns("events", (*names, "o", "event_time"), p=asked["p"])
        return [
            row[:-2]
            for row in rows
            if row[-2] < asked["below"] and any(begin <= row[-1] < end for begin, end in spans)  # type: ignore[operator]
        ]

    def columns(self, table: str, names: Sequence[str], **where: object) -> list[Row]:
        """Return some columns of the rows for which others have these values."""
        all_names = self._tables[table].column_names
        at = [all_names.index(name) for name in names]
        wanted = [(all_names.index(name), value) for name, value in where.items()]
        return [
            tuple(row[place] for place in at)
            for row in self.rows[table].values()
            if all(row[place] == value for place, value in wanted)
        ]

    def column_names(self) -> dict[str, tuple[str, ...]]:
        """Return each table's columns."""
        return {name: tuple(table.column_names) for name, table in self._tables.items()}

    def content(self) -> dict[str, list[Row]]:
        """Return what counts of each table, in order: all but the writer's clock, and the rollups' version.

        Which blocks go into one insert is chance, and a rollup's version is the last block of the insert.
        """
        ignored = {"blocks": {"applied_time"}, "rollup_minute": {"o"}}
        found: dict[str, list[Row]] = {}
        for name, table in self._tables.items():
            names = [column for column in table.column_names if column not in ignored.get(name, ())]
            found[name] = sorted(self.columns(name, names), key=repr)
        return found


class Errand:
    """Runs a blocking function in a thread, which asks the loop for all that it wants of the world."""

    def __init__(self, life: "AggregateLife", store: Store) -> None:
        """life: whose process it is."""
        self._life, self._store = life, store
        self._asked: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    async def run(self, work: Callable[[], object]) -> Any:
        """Return what it returns, raise what it raises."""
        thread = threading.Thread(target=self._thread, args=(work,), daemon=True)
        thread.start()
        try:
            while True:
                kind, asked = self._asked.get()
                if kind == "returned":
                    return asked
                if kind == "raised":
                    raise asked
                try:
                    self._told.put((True, await self._answer(kind, asked)))
                except Exception as error:  # noqa: BLE001 - the thread's to judge
                    self._told.put((False, error))
        except asyncio.CancelledError:
            self._told.put((False, Gone()))
            raise
        finally:
            thread.join()

    def _thread(self, work: Callable[[], object]) -> None:
        try:
            self._asked.put(("returned", work()))
        except Exception as error:  # noqa: BLE001 - carried over
            self._asked.put(("raised", error))
        except Gone:
            pass

    def ask(self, kind: str, asked: Any) -> Any:
        """In the thread: have the loop do something."""
        self._asked.put((kind, asked))
        is_answer, found = self._told.get()
        if is_answer:
            return found
        raise found

    async def _answer(self, kind: str, asked: Any) -> Any:
        faults, loop = self._life.faults, self._life.loop
        if kind == "sleep":
            return await asyncio.sleep(asked)
        landed: asyncio.Future[Any] = loop.create_future()
        fate = faults.rng.random()
        lasts = faults.rng.random() < 0.5  # what is on its way when its sender dies may still land

        def land() -> None:
            if self._life.process.is_dead and not lasts:
                return
            if fate < faults.lost_request:
                found: Any = Retryable("not done")
            else:
                found = asked(self._store)
                loop.note(self._life.name, kind)
                if fate < faults.lost_request + faults.lost_answer:
                    found = Retryable("done, but the answer is lost")
            if not landed.done():
                landed.set_result(found)

        token = PROCESS.set(None)
        loop.call_later(faults.wait_s(), land)
        PROCESS.reset(token)
        found = await landed
        await asyncio.sleep(faults.wait_s())
        if isinstance(found, Retryable):
            raise found
        return found


class Tables:
    """The port `Tables` of the writer: every call is an errand's question."""

    def __init__(self) -> None:
        """errand: the one under way."""
        self.errand: Errand | None = None

    def execute(self, sql: str, params: Mapping[str, object] | None = None) -> list[Row]:
        """Ask."""
        assert self.errand is not None
        found: list[Row] = self.errand.ask("execute", lambda store: store.execute(sql, params))
        return found

    def insert(self, table: str, column_names: Sequence[str], columns: Sequence[Sequence[object]],
               query_id: str | None = None, partitions_max: int = 1) -> int:  # fmt: skip
        """Insert."""
        assert self.errand is not None
        return int(self.errand.ask(f"insert {table}", lambda store: store.insert(table, column_names, columns)))

    def sleep(self, for_s: float) -> None:
        """Wait."""
        assert self.errand is not None
        self.errand.ask("sleep", for_s)


class AggregateLife(Consumer):
    """One life of an aggregate worker."""

    def __init__(self, store: Store, writer: type[WarehouseWriter], settings: Settings, broker: Broker, group: Group,
                 name: str, on_end: OnEnd) -> None:  # fmt: skip
        """Alive from now on; a member after `start`."""
        super().__init__(broker, group, name, on_end)
        self._store, self._settings = store, settings
        self._tables = Tables()
        self._writer = writer(self._tables, settings, self._tables.sleep)
        self._owned: set[tuple[str, int]] = set()
        self._chunk: list[tuple[Topic, Arrival]] = []
        self._hand = 0
        self._storing = asyncio.Lock()
        self._blocking = asyncio.Lock()

    def start(self) -> None:
        """Join the group and go to work."""
        super().start()
        for topic in READS:
            self.spawn(self._receive, topic)
        self.spawn(self._flush_in_time)

    async def _thread(self, work: Callable[[], object]) -> Any:
        async with self._blocking:  # the writer excludes its callers by a lock of its own, on which no loop can wait
            self._tables.errand = Errand(self, self._store)
            return await self._tables.errand.run(work)

    async def _receive(self, topic: Topic) -> None:
        while True:
            event = await self.next_event(self._settings.topic(topic.name))
            arrival = arrived(event, topic)
            if (topic.name, arrival.origin.partition) not in self._owned:
                continue
            self._chunk.append((topic, arrival))
            if sum(one.rows for _, one in self._chunk) >= CHUNK_ROWS_MAX:
                await self._flush()

    async def _flush_in_time(self) -> None:
        while True:
            await asyncio.sleep(INSERT_S)
            if self._chunk:
                await self._flush()

    async def _flush(self) -> None:
        async with self._storing:
            chunk, self._chunk = self._chunk, []
            hand = self._hand
            if not chunk:
                return
            await self._thread(lambda: self._write(chunk))
            if hand == self._hand:
                for _, arrival in chunk:
                    assert isinstance(arrival.event, Event)
                    await self.ack(arrival.event)

    def _write(self, chunk: list[tuple[Topic, Arrival]]) -> None:
        self._writer.write([
            PendingBlock(topic.name, arrival.origin, codec.decode(arrival.value, READS[topic]), arrival.crc)
            for topic, arrival in chunk
        ])  # fmt: skip

    async def assigned(self, places: list[Place]) -> None:
        """Read the ledger."""
        names = {self._settings.topic(topic.name): topic.name for topic in READS}
        self._owned = set()
        for topic, partition in places:
            name = names[topic]
            await self._thread(lambda name=name, partition=partition: self._writer.assigned(name, partition))  # type: ignore[misc]
            self._owned.add((name, partition))

    async def revoked(self) -> None:
        """Let all go, after the chunk in hand."""
        self._hand += 1
        async with self._storing:
            self._chunk = []
            for topic, partition in sorted(self._owned):
                await self._thread(lambda topic=topic, partition=partition: self._writer.revoked(topic, partition))  # type: ignore[misc]
            self._owned = set()

    async def end(self) -> None:
        """End the chunk in hand."""
        await self._storing.acquire()

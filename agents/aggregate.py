"""The aggregate stage: `events`, `bad`, `sessions`, `outcomes` -> rows and rollups in the warehouse.

Its state is the warehouse itself: the ledger there says which blocks are in. Blocks of all four topics are gathered
into one insert a table, since ClickHouse likes few large parts; they are acknowledged when the whole chunk is stored.
"""

import asyncio
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import faust
from faust.types import TP, EventT

from agents.app import make_app, on_rebalance, raw_topic, run_worker, stop_now
from agents.arrival import Arrival, arrived
from agents.watch import Watch
from pipeline.edge import metrics
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import monotonic_s, now_ms
from pipeline.edge.heap import settle
from pipeline.errors import Gap
from pipeline.settings import Settings
from pipeline.warehouse_writer import DENSE, PendingBlock, WarehouseWriter
from schemas import block as codec
from schemas.topics import BAD, EVENTS, OUTCOMES, SESSIONS, Topic

log = logging.getLogger(__name__)

NAME = "aggregate"
Gathered = codec.EventBlock | codec.RefusedBlock | codec.SessionBlock | codec.OutcomeBlock
READS: dict[Topic, type[Gathered]] = {
    EVENTS: codec.EventBlock,
    BAD: codec.RefusedBlock,
    SESSIONS: codec.SessionBlock,
    OUTCOMES: codec.OutcomeBlock,
}
WAITING_BYTES_MAX = 16_777_216
STORING_SHARE_MAX = 0.25
"""Of the time, spent on inserts: each has a fixed price, in ClickHouse above all, so a busy writer waits for more."""
INSERTS_AT_ONCE = 3
"""Two, and one that waits for them: while ClickHouse works on one table's rows, the next table's are made and sent."""
BUFFERED_BLOCKS = 4  # for each of four topics; what waits here waits twice


@dataclass
class Chunk:
    """Blocks on their way into one insert, as bytes (decoded they take ten times the room), with their streams.

    opened_s: when the first one came.
    """

    opened_s: float = 0.0
    waiting: list[tuple[Topic, Any, Arrival]] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0


class AggregateRunner:
    """Gathers blocks from four agents of one app and stores them a chunk at a time."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is connected before the app starts."""
        self.settings = settings
        self.app = make_app(NAME, settings, BUFFERED_BLOCKS)
        inserts = ThreadPoolExecutor(INSERTS_AT_ONCE, "insert")
        self.writer = WarehouseWriter(Warehouse.from_url(settings.warehouse_url), settings, inserts=inserts)
        self.owned: set[tuple[str, int]] = set()
        self.chunk = Chunk()
        self.generation = 0
        self._took_s = 0.0
        self._storing = asyncio.Lock()
        self._landing: asyncio.Task[None] | None = None
        self.positions: dict[TP, int] = {}
        self._wire()
        self._watch = Watch(NAME, self.app, lambda: self.positions)

    def _wire(self) -> None:
        on_rebalance(self.app, self._revoked, self._assigned)
        self.app.task(self._flush_in_time)
        for topic in READS:
            self.app.agent(raw_topic(self.app, self.settings, topic), name=f"{NAME}-{topic.name}")(self._agent(topic))

    def _agent(self, topic: Topic) -> Any:
        async def receive(stream: Any) -> None:
            acks: faust.Stream[Any] = stream.noack()
            async for event in acks.events():
                await self._take(topic, acks, event)

        receive.__name__ = f"receive_{topic.name}"
        return receive

    async def _take(self, topic: Topic, acks: Any, event: EventT[Any]) -> None:
        """Put a block into the chunk; wait while the chunk is full. What is stored already the writer skips."""
        try:
            arrival = arrived(event, topic)
            if (topic.name, arrival.origin.partition) not in self.owned:
                return  # taken from us: unacknowledged, the next owner reads it
            # A repeat goes along, too: acknowledged before those in front of it, it could move the commit past them.
            chunk = self.chunk
            if not chunk.waiting:
                chunk.opened_s = monotonic_s()
            chunk.waiting.append((topic, acks, arrival))
            chunk.rows += arrival.rows
            chunk.bytes += len(arrival.value)
            if chunk.rows >= self.settings.insert_rows_max or chunk.bytes >= WAITING_BYTES_MAX:
                await self._store()
        except Exception as error:  # noqa: BLE001 - everything unexpected ends the process, uncommitted
            stop_now(f"{NAME}: {topic.name}", error)

    async def _flush_in_time(self) -> None:
        while not self.app.should_stop:
            left_s = self._pause_s()
            if self.chunk.waiting:  # else the first one may come at any moment, and waits no longer either
                left_s += self.chunk.opened_s - monotonic_s()
            if left_s > 0:
                await asyncio.sleep(left_s)
            else:
                await self._store()

    def _pause_s(self) -> float:
        """How long rows are gathered: the longer, the longer the last chunk took, up to a bound."""
        wait_s, most_s = self.settings.insert_wait_ms / 1000, self.settings.insert_wait_max_ms / 1000
        return max(wait_s, min(most_s, self._took_s / STORING_SHARE_MAX))

    async def _store(self) -> None:
        """Store the chunk and acknowledge it; the next one fills up meanwhile, and is begun once it is full."""
        try:
            async with self._storing:
                chunk, self.chunk = self.chunk, Chunk()
                if chunk.waiting:
                    stored, oldest_ms = await asyncio.to_thread(self._begin, chunk)
                    await self._landed()
                    self._landing = asyncio.create_task(self._land(chunk, stored, oldest_ms, self.generation))
        except Exception as error:  # noqa: BLE001
            stop_now(f"{NAME}: storing", error)

    async def _landed(self) -> None:
        """Wait for the chunk that was begun last."""
        if self._landing is not None:
            await self._landing

    async def _land(self, chunk: Chunk, stored: "Future[None]", oldest_ms: int, generation: int) -> None:
        """Acknowledge a chunk once it is stored."""
        try:
            began_s = monotonic_s()
            await asyncio.wrap_future(stored)
            self._took_s = monotonic_s() - began_s
            if generation == self.generation:
                for _, acks, arrival in chunk.waiting:
                    await acks.ack(arrival.event)
                    self.positions[arrival.event.message.tp] = arrival.event.message.offset + 1
            now = now_ms()
            metrics.PROGRESS.labels(NAME).set(now / 1000)
            metrics.STAGE_LATENCY.labels(NAME).observe(max(0, now - oldest_ms) / 1000)
        except Exception as error:  # noqa: BLE001
            stop_now(f"{NAME}: storing", error)

    def _begin(self, chunk: Chunk) -> tuple["Future[None]", int]:
        """Decode a chunk and begin to store it, in a thread; also return when its oldest block was closed, ms."""
        blocks = [codec.decode(arrival.value, READS[topic]) for topic, _, arrival in chunk.waiting]
        pending = [
            PendingBlock(topic.name, arrival.origin, block, arrival.crc)
            for (topic, _, arrival), block in zip(chunk.waiting, blocks, strict=True)
        ]
        return self.writer.begin(pending), min(block.block_time_ms for block in blocks)

    async def _assigned(self, sender: Any, *_: Any, **__: Any) -> None:
        try:
            names = {self.settings.topic(topic.name): topic.name for topic in READS}
            self.owned, self.positions = set(), {}
            started = monotonic_s()
            await self._no_gap(names)
            for tp in self.app.consumer.assignment():
                if tp.topic in names:
                    key = (names[tp.topic], tp.partition)
                    await asyncio.to_thread(self.writer.assigned, *key)
                    self.owned.add(key)
                    self.positions[tp] = -1
            settle()
            metrics.RESTORE_SECONDS.labels(NAME).set(monotonic_s() - started)
        except Exception as error:  # noqa: BLE001
            stop_now(f"{NAME}: reading the ledger", error)

    async def _no_gap(self, names: dict[str, str]) -> None:
        """Raise Gap where the log of a sparse topic begins behind what we acknowledged.

        A block that is missing in the others shows by its number; here a part of the log could go unseen.
        """
        consumer: Any = self.app.consumer
        if not consumer.assignment():  # more workers than partitions
            return
        acknowledged = await consumer.seek_to_committed()
        begins = await consumer.earliest_offsets(*acknowledged)
        for tp, offset in acknowledged.items():
            begin = begins.get(tp, 0)
            if names.get(tp.topic) in DENSE or offset is None or not 0 <= offset < begin:
                continue
            found = f"{names[tp.topic]}[{tp.partition}]: the log begins at {begin}, expected {offset} or before"
            if not self.settings.accept_gap:
                raise Gap(f"{found}: blocks were lost to retention; HERALD_ACCEPT_GAP=true goes on without them")
            log.error("%s; going on (HERALD_ACCEPT_GAP)", found)

    async def _revoked(self, sender: Any, *_: Any, **__: Any) -> None:
        self.generation += 1
        async with self._storing:
            await self._landed()
            self.chunk = Chunk()
            for topic, partition in sorted(self.owned):
                self.writer.revoked(topic, partition)
                self._watch.forget(partition)
            self.owned, self.positions = set(), {}


def run(settings: Settings) -> int:
    """Run the stage until told to stop."""
    return run_worker(AggregateRunner(settings).app, settings)

"""The shell around a stage's fold: Faust brings blocks, this applies them in order and makes the result durable.

For a group of waiting blocks of one partition: fold each; write all outputs and wait for the broker's word; write one
state record and wait; only then acknowledge. A kill at any instant leaves a group that is done again with the same
result, and what was already written carries the same origin, so that readers skip it (design.md, contract 4).

Anything unexpected ends the process with the block unacknowledged: a Faust agent that merely raises loses it.
"""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faust
from faust.types import TP, EventT

from agents.app import make_app, on_rebalance, raw_topic, stop_now
from agents.arrival import Arrival, arrived
from agents.restore import Restored, packed, state_headers, take_over
from agents.watch import Trim, Watch
from pipeline.core.stage import Applied, Fold
from pipeline.core.state import StateView, StateWriter
from pipeline.edge import metrics
from pipeline.edge.clock import monotonic_s, now_ms
from pipeline.edge.kafka import RECORD_BYTES_MAX, async_producer
from pipeline.errors import Gap, StateError
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import Origin
from schemas.state import StateRecord

log = logging.getLogger(__name__)

GROUP_BLOCKS_MAX = 64
GROUP_BYTES_MAX = 1_048_576
STATE_RECORD_BYTES_MAX = RECORD_BYTES_MAX // 2
QUIESCE_S = 30.0

MakeFold = Callable[[StateView], Fold]


@dataclass
class Owned:
    """A partition in our hands."""

    fold: Fold
    view: StateView
    writer: StateWriter
    queue: asyncio.Queue[Arrival | None]
    task: asyncio.Task[None] | None = None
    fenced: bool = False
    position: int = -1  # next offset of the input topic (not an origin: hops repeat blocks)


class StageRunner:
    """Runs one stage on the partitions that Kafka gives us."""

    def __init__(self, fold: type[Fold], make: MakeFold, settings: Settings, count: Callable[[Applied], None]) -> None:
        """fold: the stage. make: builds it over a restored view. count: tells the metrics what a block led to."""
        self.kind, self.make, self.settings, self.count = fold, make, settings, count
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.owned: dict[int, Owned] = {}
        self.known: dict[int, Restored] = {}
        self.app = make_app(fold.name, settings)
        self.stream: faust.Stream[Any] | None = None
        self._producer: Any = None
        self._wire()
        self._watch = Watch(fold.name, self.app, self._positions)
        Trim(self.app, settings, fold.state.name, lambda: [(p, o.writer.begin) for p, o in self.owned.items()])

    def _wire(self) -> None:
        topic = raw_topic(self.app, self.settings, self.kind.source)
        on_rebalance(self.app, self._revoked, self._assigned)
        self.app.on_before_shutdown.connect(self._stopping)
        self.app.agent(topic, name=self.kind.name, concurrency=1)(self._receive)

    def _positions(self) -> dict[TP, int]:
        name = self.settings.topic(self.kind.source.name)
        return {TP(name, p): owned.position for p, owned in self.owned.items() if owned.position >= 0}

    async def _receive(self, stream: Any) -> None:
        """The agent: hand each block to its partition, in order. Nothing is acknowledged here."""
        self.stream = stream.noack()
        async for event in self.stream.events():
            owned = self.owned.get(event.message.partition)
            if owned is not None and not owned.fenced:
                await owned.queue.put(self._arrived(event))

    def _arrived(self, event: EventT[Any]) -> Arrival:
        try:
            return arrived(event, self.kind.source)
        except codec.CorruptBlock as error:
            stop_now(f"{self.kind.source.name}[{event.message.partition}] at {event.message.offset}", error)
            raise

    async def _assigned(self, sender: Any, *_: Any, **__: Any) -> None:
        """All partitions are ours to restore; Faust seeks and resumes only after this."""
        try:
            if self._producer is None:
                self._producer = async_producer(self.settings)
                await self._producer.start()
            name = self.settings.topic(self.kind.source.name)
            partitions = sorted(tp.partition for tp in self.app.consumer.assignment() if tp.topic == name)
            started = monotonic_s()
            state_topic = self.settings.topic(self.kind.state.name)
            writers = await take_over(self.known, partitions, state_topic, self.owner, self._producer, self.settings)
            for partition in partitions:
                self._own(partition, writers[partition])
            metrics.RESTORE_SECONDS.labels(self.kind.name).set(monotonic_s() - started)
        except Exception as error:  # noqa: BLE001 - Faust would log it and go on without state
            stop_now(f"{self.kind.name}: restore failed", error)

    def _own(self, partition: int, writer: StateWriter) -> None:
        view = self.known[partition].view
        owned = Owned(self.make(view), view, writer, asyncio.Queue(maxsize=GROUP_BLOCKS_MAX))
        owned.task = asyncio.create_task(self._work(partition, owned), name=f"{self.kind.name}[{partition}]")
        self.owned[partition] = owned

    async def _revoked(self, sender: Any, *_: Any, **__: Any) -> None:
        """All partitions go (the protocol is eager): finish the groups in hand, keep what is known."""
        for partition, owned in sorted(self.owned.items()):
            owned.fenced = True
            await self._quiesce(partition, owned)
            self._watch.forget(partition)
        self.owned.clear()

    async def _stopping(self, *_: Any, **__: Any) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def _quiesce(self, partition: int, owned: Owned) -> None:
        while not owned.queue.empty():
            owned.queue.get_nowait()
        owned.queue.put_nowait(None)
        done, _ = await asyncio.wait([owned.task], timeout=QUIESCE_S) if owned.task else (set(), set())
        if not done:
            stop_now(f"{self.kind.name}[{partition}]", StateError(f"a group of blocks took longer than {QUIESCE_S} s"))

    async def _work(self, partition: int, owned: Owned) -> None:
        """Apply this partition's blocks, a group at a time, until the partition is taken from us."""
        try:
            while not owned.fenced:
                group = await self._gather(owned)
                if group is None:
                    return
                await self._apply(partition, owned, group)
        except Exception as error:  # noqa: BLE001 - the one place where everything unexpected ends the process
            stop_now(f"{self.kind.name}[{partition}] at version {owned.view.version}", error)

    async def _gather(self, owned: Owned) -> list[Arrival] | None:
        first = await owned.queue.get()
        if first is None:
            return None
        group, size = [first], len(first.value)
        while not owned.queue.empty() and len(group) < GROUP_BLOCKS_MAX and size < GROUP_BYTES_MAX:
            arrival = owned.queue.get_nowait()
            if arrival is None:
                return None
            group.append(arrival)
            size += len(arrival.value)
        return group

    async def _apply(self, partition: int, owned: Owned, group: list[Arrival]) -> None:
        version, rows, block_time_ms = owned.view.version, 0, 0
        sends: list[tuple[str, bytes, codec.Headers]] = []
        for arrival in group:
            origin = arrival.origin
            if origin.offset <= version:
                metrics.BLOCKS_SKIPPED.labels(self.kind.name).inc()
                continue
            self._no_gap(origin, version)
            started = monotonic_s()
            block = codec.decode(arrival.value, self.kind.reads)
            applied = owned.fold.apply(origin, block)
            for output in applied.outputs:
                value = codec.encode(output.block)
                sends.append((self.settings.topic(output.topic.name), value, codec.headers(value, output.rows, origin)))
            version, rows = origin.offset, rows + arrival.rows
            block_time_ms = int(getattr(block, "block_time_ms", 0))
            self.count(applied)
            metrics.BLOCKS.labels(self.kind.name).inc()
            metrics.FOLD_SECONDS.labels(self.kind.name).observe(monotonic_s() - started)
        if version > owned.view.version:
            await self._make_durable(partition, owned, version, sends, block_time_ms)
            self._observe(partition, owned, rows, block_time_ms)
        assert self.stream is not None
        for arrival in group:
            await self.stream.ack(arrival.event)
        owned.position = group[-1].event.message.offset + 1

    def _no_gap(self, origin: Origin, version: int) -> None:
        if origin.offset == version + 1:
            return
        place = f"{self.kind.source.name}[{origin.partition}]"
        found = f"{place}: block {origin.offset} after {version}, expected {version + 1}"
        if not self.settings.accept_gap:
            raise Gap(f"{found}: blocks or state were lost to retention; HERALD_ACCEPT_GAP=true goes on without them")
        log.error("%s; going on (HERALD_ACCEPT_GAP)", found)

    async def _make_durable(
        self,
        partition: int,
        owned: Owned,
        version: int,
        sends: list[tuple[str, bytes, codec.Headers]],
        block_time_ms: int,
    ) -> None:
        futures = [
            await self._producer.send(topic, value, partition=partition, headers=headers)
            for topic, value, headers in sends
        ]
        for future in futures:
            await future
        records = owned.writer.records(
            version, owned.fold.fixed(), owned.fold.take_changes(), STATE_RECORD_BYTES_MAX, block_time_ms
        )
        first, last = await self._write_state(partition, records)
        owned.writer.written(first)
        view = owned.view
        view.version, view.begin, view.fixed = version, records[-1].begin, records[-1].fixed
        self.known[partition].next_offset = last + 1

    async def _write_state(self, partition: int, records: list[StateRecord]) -> tuple[int, int]:
        topic = self.settings.topic(self.kind.state.name)
        futures = []
        for record in records:
            value = packed(record)
            headers = state_headers(value, record, len(record.puts))
            futures.append(await self._producer.send(topic, value, partition=partition, headers=headers))
        offsets = [(await future).offset for future in futures]
        return offsets[0], offsets[-1]

    def _observe(self, partition: int, owned: Owned, rows: int, block_time_ms: int) -> None:
        name, now = self.kind.name, now_ms()
        metrics.STAGE_ROWS.labels(name).inc(rows)
        metrics.PROGRESS.labels(name).set(now / 1000)
        metrics.STAGE_LATENCY.labels(name).observe(max(0, now - block_time_ms) / 1000)
        metrics.STATE_ENTRIES.labels(name, str(partition)).set(len(owned.view.entries))

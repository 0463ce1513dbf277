"""The shell around a stage's fold: Faust brings blocks, this applies them in order and makes the result durable.

In rounds, all partitions together: fold the waiting blocks; write all outputs and wait for the broker's word; write
each partition's state record and wait; only then acknowledge. A kill at any instant leaves a round that is done again
with the same result, and what was already written carries the same origin, so that readers skip it (design.md,
contract 4).

What a block costs beside its events is the talk with the broker; a round has two produce requests, whatever it holds.

Anything unexpected ends the process with the round unacknowledged: a Faust agent that merely raises loses it.
"""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
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
from pipeline.edge.heap import settle
from pipeline.edge.kafka import async_producer
from pipeline.errors import Gap, StateError
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import Origin
from schemas.state import StateRecord

log = logging.getLogger(__name__)

WAITING_BLOCKS_MAX = 64
ROUND_BYTES_MAX = 1_048_576
GATHER_S = 0.002  # the blocks of one fetch come one by one: let them all come before a round begins
STATE_RECORD_BYTES_MAX = 1_048_576
QUIESCE_S = 30.0

MakeFold = Callable[[StateView], Fold]


@dataclass
class Owned:
    """A partition in our hands."""

    fold: Fold
    view: StateView
    writer: StateWriter
    position: int = -1  # next offset of the input topic (not an origin: hops repeat blocks)


@dataclass
class Turn:
    """One partition's part in a round: its blocks, and what came of them. version: after the last block folded."""

    partition: int
    owned: Owned
    version: int
    arrivals: list[Arrival] = field(default_factory=list)
    sends: list[tuple[str, bytes, codec.Headers]] = field(default_factory=list)
    rows: int = 0
    block_time_ms: int = 0

    @property
    def is_new(self) -> bool:
        """True where the round moved this partition on; false where all its blocks were seen before."""
        return self.version > self.owned.view.version


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
        self._waiting: asyncio.Queue[Arrival] = asyncio.Queue(WAITING_BLOCKS_MAX)
        self._in_round = asyncio.Lock()
        self._wire()
        self._watch = Watch(fold.name, self.app, self._positions)
        Trim(self.app, settings, fold.state.name, lambda: [(p, o.writer.begin) for p, o in self.owned.items()])

    def _wire(self) -> None:
        topic = raw_topic(self.app, self.settings, self.kind.source)
        on_rebalance(self.app, self._revoked, self._assigned)
        self.app.on_before_shutdown.connect(self._stopping)
        self.app.task(self._work)
        self.app.agent(topic, name=self.kind.name, concurrency=1)(self._receive)

    def _positions(self) -> dict[TP, int]:
        name = self.settings.topic(self.kind.source.name)
        return {TP(name, p): owned.position for p, owned in self.owned.items() if owned.position >= 0}

    async def _receive(self, stream: Any) -> None:
        """The agent: hand each block on, in order. Nothing is acknowledged here."""
        self.stream = stream.noack()
        async for event in self.stream.events():
            await self._waiting.put(self._arrived(event))

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
            for partition, writer in writers.items():
                view = self.known[partition].view
                self.owned[partition] = Owned(self.make(view), view, writer)
            settle()
            metrics.RESTORE_SECONDS.labels(self.kind.name).set(monotonic_s() - started)
        except Exception as error:  # noqa: BLE001 - Faust would log it and go on without state
            stop_now(f"{self.kind.name}: restore failed", error)

    async def _revoked(self, sender: Any, *_: Any, **__: Any) -> None:
        """All partitions go (the protocol is eager): finish the round in hand, keep what is known."""
        try:
            await asyncio.wait_for(self._in_round.acquire(), QUIESCE_S)
        except TimeoutError:
            stop_now(self.kind.name, StateError(f"a round of blocks took longer than {QUIESCE_S} s"))
        try:
            while not self._waiting.empty():
                self._waiting.get_nowait()
            for partition, owned in self.owned.items():
                self._watch.forget(partition)
                if owned.writer.interrupted:  # records of ours may be void: what we know may not be what the log says
                    self.known.pop(partition, None)
            self.owned.clear()
        finally:
            self._in_round.release()

    async def _stopping(self, *_: Any, **__: Any) -> None:
        """End the round in hand, then the producer; the lock is kept, so that no further round begins."""
        await asyncio.wait_for(self._in_round.acquire(), QUIESCE_S)
        if self._producer is not None:
            await self._producer.stop()

    async def _work(self) -> None:
        """Apply what arrives, a round at a time."""
        try:
            while not self.app.should_stop:
                arrivals = await self._gather()
                async with self._in_round:
                    await self._round(arrivals)
        except Exception as error:  # noqa: BLE001 - the one place where everything unexpected ends the process
            versions = {partition: owned.view.version for partition, owned in self.owned.items()}
            stop_now(f"{self.kind.name} at versions {versions}", error)

    async def _gather(self) -> list[Arrival]:
        arrivals = [await self._waiting.get()]
        await asyncio.sleep(GATHER_S)
        size = len(arrivals[0].value)
        while size < ROUND_BYTES_MAX and not self._waiting.empty():
            arrivals.append(self._waiting.get_nowait())
            size += len(arrivals[-1].value)
        return arrivals

    async def _round(self, arrivals: list[Arrival]) -> None:
        turns: dict[int, Turn] = {}
        for arrival in arrivals:
            partition = arrival.event.message.partition
            owned = self.owned.get(partition)
            if owned is not None:  # else it was taken from us: unacknowledged, the next owner reads it
                turn = turns.setdefault(partition, Turn(partition, owned, owned.view.version))
                self._fold(turn, arrival)
        new = [turn for turn in turns.values() if turn.is_new]
        await self._write([(turn.partition, *send) for turn in new for send in turn.sends])
        await self._write_states(new)
        assert self.stream is not None
        for turn in turns.values():
            for arrival in turn.arrivals:
                await self.stream.ack(arrival.event)
            turn.owned.position = turn.arrivals[-1].event.message.offset + 1

    def _fold(self, turn: Turn, arrival: Arrival) -> None:
        """Apply one block, in memory. Raises Gap where the one before it is missing."""
        turn.arrivals.append(arrival)
        origin = arrival.origin
        if origin.offset <= turn.version:
            metrics.BLOCKS_SKIPPED.labels(self.kind.name).inc()
            return
        self._no_gap(origin, turn.version)
        started = monotonic_s()
        block = codec.decode(arrival.value, self.kind.reads)
        applied = turn.owned.fold.apply(origin, block)
        for output in applied.outputs:
            value = codec.encode(output.block)
            headers = codec.headers(value, output.rows, origin)
            turn.sends.append((self.settings.topic(output.topic.name), value, headers))
        turn.version = origin.offset
        turn.rows += arrival.rows
        turn.block_time_ms = int(getattr(block, "block_time_ms", 0))
        self.count(applied)
        metrics.BLOCKS.labels(self.kind.name).inc()
        metrics.FOLD_SECONDS.labels(self.kind.name).observe(monotonic_s() - started)

    def _no_gap(self, origin: Origin, version: int) -> None:
        if origin.offset == version + 1:
            return
        place = f"{self.kind.source.name}[{origin.partition}]"
        found = f"{place}: block {origin.offset} after {version}, expected {version + 1}"
        if not self.settings.accept_gap:
            raise Gap(f"{found}: blocks or state were lost to retention; HERALD_ACCEPT_GAP=true goes on without them")
        log.error("%s; going on (HERALD_ACCEPT_GAP)", found)

    async def _write(self, records: list[tuple[int, str, bytes, codec.Headers]]) -> list[int]:
        """Write records (partition, topic, value, headers) and wait for the broker's word; return their offsets."""
        futures = [
            await self._producer.send(topic, value, partition=partition, headers=headers)
            for partition, topic, value, headers in records
        ]
        return [(await future).offset for future in futures]

    async def _write_states(self, turns: list[Turn]) -> None:
        """Make the rounds' changes durable: the versions count from here on."""
        topic = self.settings.topic(self.kind.state.name)
        parts = [(turn, self._state_records(turn)) for turn in turns]
        offsets = iter(await self._write([(t.partition, topic, *_wire(one)) for t, ones in parts for one in ones]))
        for turn, records in parts:
            written = [next(offsets) for _ in records]
            self._advance(turn, records[-1], written)

    def _state_records(self, turn: Turn) -> list[StateRecord]:
        fold = turn.owned.fold
        changes = fold.take_changes()
        return turn.owned.writer.records(
            turn.version, fold.fixed(), changes, STATE_RECORD_BYTES_MAX, turn.block_time_ms
        )

    def _advance(self, turn: Turn, record: StateRecord, offsets: list[int]) -> None:
        writer, view, partition = turn.owned.writer, turn.owned.view, turn.partition
        was_alone = not writer.interrupted
        writer.written(offsets[0])
        if was_alone and writer.interrupted:  # nothing is wrong with the state; one of the two will be told to go
            log.warning("%s[%d]: another worker writes into our state topic", self.kind.state.name, partition)
        view.version, view.begin, view.fixed = turn.version, record.begin, record.fixed
        self.known[partition].next_offset = offsets[-1] + 1
        name, now = self.kind.name, now_ms()
        metrics.STAGE_ROWS.labels(name).inc(turn.rows)
        metrics.PROGRESS.labels(name).set(now / 1000)
        metrics.STAGE_LATENCY.labels(name).observe(max(0, now - turn.block_time_ms) / 1000)
        metrics.STATE_ENTRIES.labels(name, str(partition)).set(len(view.entries))


def _wire(record: StateRecord) -> tuple[bytes, codec.Headers]:
    value = packed(record)
    return value, state_headers(value, record, len(record.puts))

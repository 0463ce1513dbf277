"""The shell around a stage's rounds: Faust brings blocks, and says which partitions are ours.

Anything unexpected ends the process with the round unacknowledged: a Faust agent that merely raises loses it.
"""

import os
import socket
import uuid
from collections.abc import Callable
from typing import Any

import faust
from faust.types import TP, EventT

from agents.app import make_app, on_rebalance, raw_topic, stop_now
from agents.arrival import Arrival, arrived
from agents.broker import ConsumerReader
from agents.rounds import MakeFold, Rounds
from agents.shift import Shift
from agents.watch import Trim, Watch
from pipeline.core.stage import Applied, Fold
from pipeline.core.state import Packed
from pipeline.edge import metrics
from pipeline.edge.clock import monotonic_s, now_ms
from pipeline.edge.heap import settle
from pipeline.edge.kafka import async_producer
from pipeline.errors import Retryable
from pipeline.settings import Settings
from schemas import block as codec

Count = Callable[[Applied], None]


class StageReport:
    """What a stage's rounds tell the metrics."""

    def __init__(self, stage: str, count: Count) -> None:
        """count: tells the metrics what is this stage's own."""
        self._stage, self._count = stage, count
        self._began_s = 0.0

    def began(self) -> None:
        """A block's fold begins."""
        self._began_s = monotonic_s()

    def applied(self, applied: Applied) -> None:
        """It is done."""
        self._count(applied)
        metrics.BLOCKS.labels(self._stage).inc()
        metrics.FOLD_SECONDS.labels(self._stage).observe(monotonic_s() - self._began_s)

    def skipped(self) -> None:
        """A block came that had been applied before."""
        metrics.BLOCKS_SKIPPED.labels(self._stage).inc()

    def damaged(self, partition: int) -> None:
        """A record of a partition's state topic was damaged."""
        metrics.STATE_DAMAGED.labels(self._stage).inc()

    def moved(self, partition: int, rows: int, block_time_ms: int, entries: int) -> None:
        """A partition's new state is durable."""
        now = now_ms()
        metrics.STAGE_ROWS.labels(self._stage).inc(rows)
        metrics.PROGRESS.labels(self._stage).set(now / 1000)
        metrics.STAGE_LATENCY.labels(self._stage).observe(max(0, now - block_time_ms) / 1000)
        metrics.STATE_ENTRIES.labels(self._stage, str(partition)).set(entries)


class StageRunner:
    """Runs one stage on the partitions that Kafka gives us."""

    def __init__(
        self,
        fold: type[Fold],
        make: MakeFold,
        settings: Settings,
        count: Count,
        store: Callable[[], Packed] = dict,
    ) -> None:
        """fold: the stage. make: builds it over a restored view. count: tells the metrics what a block led to.

        store: makes what holds a partition's entries.
        """
        self.kind, self.settings = fold, settings
        owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.rounds = Rounds(fold, make, settings, owner, StageReport(fold.name, count), store)
        self.app = make_app(fold.name, settings)
        self._producer: Any = None
        self.shift = Shift(self.rounds)
        self._wire()
        self._watch = Watch(fold.name, self.app, self._positions)
        Trim(
            self.app, settings, fold.state.name, lambda: [(p, o.writer.kept_from) for p, o in self.rounds.owned.items()]
        )

    def _wire(self) -> None:
        topic = raw_topic(self.app, self.settings, self.kind.source)
        on_rebalance(self.app, self._revoked, self._assigned)
        self.app.on_before_shutdown.connect(self._stopping)
        self.app.task(self._work)
        self.app.agent(topic, name=self.kind.name, concurrency=1)(self._receive)

    def _positions(self) -> dict[TP, int]:
        return {self._tp(p): owned.position for p, owned in self.rounds.owned.items()}

    async def _receive(self, stream: Any) -> None:
        """The agent: hand each block on, in order. Nothing is acknowledged here."""
        acks: faust.Stream[Any] = stream.noack()
        self.shift.acks = acks
        async for event in acks.events():
            await self.shift.offer(self._arrived(event))

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
            await self.shift.assigned(partitions, self._producer, ConsumerReader(self.settings), self)
            settle()
            metrics.RESTORE_SECONDS.labels(self.kind.name).set(monotonic_s() - started)
        except Exception as error:  # noqa: BLE001 - Faust would log it and go on without state
            stop_now(f"{self.kind.name}: restore failed", error)

    async def committed(self, partition: int) -> int:
        """The port `Group`. Faust seeks anew after `_assigned`."""
        consumer: Any = self.app.consumer
        offset = (await consumer.seek_to_committed()).get(self._tp(partition))
        return -1 if offset is None else int(offset)

    async def put_back(self, partition: int, offset: int) -> None:
        """The port `Group`: the broker is told at once, for we may not live to commit what is done again."""
        consumer: Any = self.app.consumer
        if not await consumer._commit({self._tp(partition): offset}):
            raise Retryable(f"{self._tp(partition)}: not put back to {offset}: the group has moved on")

    def _tp(self, partition: int) -> TP:
        return TP(self.settings.topic(self.kind.source.name), partition)

    async def _revoked(self, sender: Any, *_: Any, **__: Any) -> None:
        """All partitions go (the protocol is eager): finish the round in hand, keep what is known."""
        try:
            for partition in self.rounds.owned:
                self._watch.forget(partition)
            await self.shift.revoked()
        except Exception as error:  # noqa: BLE001
            stop_now(self.kind.name, error)

    async def _stopping(self, *_: Any, **__: Any) -> None:
        """End the round in hand, then the producer; the lock is kept, so that no further round begins."""
        await self.shift.end()
        if self._producer is not None:
            await self._producer.stop()

    async def _work(self) -> None:
        """Apply what arrives, a round at a time."""
        try:
            while not self.app.should_stop:
                await self.shift.turn()
        except Exception as error:  # noqa: BLE001 - the one place where everything unexpected ends the process
            versions = {partition: owned.view.version for partition, owned in self.rounds.owned.items()}
            stop_now(f"{self.kind.name} at versions {versions}", error)

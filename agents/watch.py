"""What a stage tells about itself, and the end it makes of itself when it stands still.

Faust's own lag moves only when something is fetched, so a stuck consumer shows none; here the broker is asked.
Liveness is progress: behind, and nothing applied for STALLED_S, means that a restart is better than waiting.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import faust
from faust.types import TP
from kafka import TopicPartition
from kafka.errors import KafkaError

from agents.app import stop_now
from pipeline.edge import kafka, metrics
from pipeline.edge.clock import monotonic_s
from pipeline.errors import Retryable
from pipeline.settings import Settings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
STALLED_S = 120.0
TRIM_EVERY_S = 60.0
TRIM_RECORDS_MIN = 500

Positions = Callable[[], Mapping[TP, int]]
Begins = Callable[[], Iterable[tuple[int, int]]]


class Watch:
    """Watches one stage's input. positions: the next offset to apply, for each partition that is ours."""

    def __init__(self, stage: str, app: faust.App, positions: Positions) -> None:
        """Starts with the app."""
        self.stage, self.app, self.positions = stage, app, positions
        self._applied: dict[TP, int] = {}
        self._moved_s = monotonic_s()
        app.task(self._run)

    def forget(self, partition: int) -> None:
        """Stop telling the lag of a partition that is no longer ours: another worker does."""
        with contextlib.suppress(KeyError):
            metrics.LAG_BLOCKS.remove(self.stage, str(partition))

    async def _run(self) -> None:
        while not self.app.should_stop:
            await asyncio.sleep(LOOK_EVERY_S)
            now = dict(self.positions())
            behind = await self._behind(now)
            if now != self._applied or not behind:
                self._applied, self._moved_s = now, monotonic_s()
            elif monotonic_s() - self._moved_s > STALLED_S:
                stop_now(self.stage, Retryable(f"{behind} blocks behind and none applied for {STALLED_S:.0f} s"))

    async def _behind(self, positions: Mapping[TP, int]) -> int:
        """Return the lag over all partitions, in blocks, and tell the metrics; 0 where the broker does not answer."""
        if not positions:
            return 0
        try:
            ends = await asyncio.wait_for(self.app.consumer.highwaters(*positions), LOOK_EVERY_S)
        except (TimeoutError, KeyError, RuntimeError):  # the broker is away, or a rebalance is on
            return 0
        lag: dict[int, int] = {}
        for tp, position in positions.items():
            lag[tp.partition] = lag.get(tp.partition, 0) + max(0, ends.get(tp, 0) - position)
        for partition, blocks in lag.items():
            metrics.LAG_BLOCKS.labels(self.stage, str(partition)).set(blocks)
        return sum(lag.values())


class Trim:
    """Frees a state topic of the records that no reader can need any more."""

    def __init__(self, app: faust.App, settings: Settings, topic: str, begins: Begins) -> None:
        """begins: (partition, offset from which reading gives the whole state)."""
        self.app, self.settings, self.topic, self.begins = app, settings, settings.topic(topic), begins
        self._trimmed: dict[int, int] = {}
        app.task(self._run)

    async def _run(self) -> None:
        while not self.app.should_stop:
            await asyncio.sleep(TRIM_EVERY_S)
            due = {
                TopicPartition(self.topic, partition): begin
                for partition, begin in self.begins()
                if begin - self._trimmed.get(partition, 0) >= TRIM_RECORDS_MIN
            }
            if due:
                try:
                    await asyncio.to_thread(self._delete, due)
                except KafkaError as error:
                    log.warning("%s: not trimmed: %s", self.topic, error)

    def _delete(self, due: dict[Any, int]) -> None:
        client = kafka.admin(self.settings)
        try:
            client.delete_records(due)
        finally:
            client.close()
        self._trimmed |= {tp.partition: begin for tp, begin in due.items()}

"""What a stage tells about itself, and the end it makes of itself when it stands still.

Faust's own lag moves only when something is fetched, so a stuck consumer shows none; here the broker is asked.
Liveness is progress: behind, and nothing applied for STALLED_S, means that a restart is better than waiting.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

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

LOOK_EVERY_S = 5.0
STALLED_S = 120.0
TRIM_EVERY_S = 60.0
TRIM_RECORDS_MIN = 500

Positions = Callable[[], Mapping[TP, int]]
Begins = Callable[[], Iterable[tuple[int, int]]]


class Watch:
    """Watches one stage's input. positions: of each partition that is ours the next offset to apply, -1: none was."""

    def __init__(self, stage: str, app: faust.App, positions: Positions) -> None:
        """Starts with the app."""
        self.stage, self.app, self.positions = stage, app, positions
        self._starts: dict[TP, int] = {}  # where the consumer stood before anything was applied
        self._stalls = Stalls(STALLED_S)
        app.task(self._run)

    def forget(self, partition: int) -> None:
        """Stop telling the lag of a partition that is no longer ours: another worker does."""
        self._starts = {tp: start for tp, start in self._starts.items() if tp.partition != partition}
        with contextlib.suppress(KeyError):
            metrics.LAG_BLOCKS.remove(self.stage, str(partition))

    async def _run(self) -> None:
        while not self.app.should_stop:
            await asyncio.sleep(LOOK_EVERY_S)
            places = await self._places()
            self._tell(places)
            for tp in self._stalls.look(places, monotonic_s()):
                stop_now(
                    self.stage, Retryable(f"{tp.topic}[{tp.partition}]: {places[tp]}, still after {STALLED_S:.0f} s")
                )

    async def _places(self) -> dict[TP, "Place"]:
        """Return where each partition stands; nothing where the broker does not answer, or a rebalance is on."""
        positions = dict(self.positions())
        if not positions:
            return {}
        try:
            ends = await asyncio.wait_for(self.app.consumer.highwaters(*positions), LOOK_EVERY_S)
        except (TimeoutError, KeyError, RuntimeError, *kafka.NOT_CONSUMING):
            return {}
        return {tp: Place(await self._start(tp) if at < 0 else at, ends.get(tp, 0)) for tp, at in positions.items()}

    async def _start(self, tp: TP) -> int:
        """Return where a partition began that has applied nothing, -1 while its consumer does not know either."""
        if tp not in self._starts:
            try:
                found = await asyncio.wait_for(self.app.consumer.position(tp), LOOK_EVERY_S)
            except (TimeoutError, KeyError, RuntimeError, *kafka.NOT_CONSUMING):
                return -1
            if found is None:
                return -1
            self._starts[tp] = found
        return self._starts[tp]

    def _tell(self, places: Mapping[TP, "Place"]) -> None:
        """Tell the lag of each partition, over all topics that this stage reads."""
        lag: dict[int, int] = {}
        for tp, place in places.items():
            lag[tp.partition] = lag.get(tp.partition, 0) + place.behind
        for partition, blocks in lag.items():
            metrics.LAG_BLOCKS.labels(self.stage, str(partition)).set(blocks)


class Place(NamedTuple):
    """Where a partition stands. position: the next offset to apply, -1: not known. end: the next to be written."""

    position: int
    end: int

    @property
    def behind(self) -> int:
        """Blocks not applied yet; all that were ever written where the position is not known."""
        return max(0, self.end - max(0, self.position))

    def __str__(self) -> str:
        """As it stands in the log."""
        return f"{self.behind} blocks behind, none applied since offset {self.position}"


class Stalls:
    """Finds partitions that are behind and do not move: each alone, for a consumer can lose one of many."""

    def __init__(self, patience_s: float) -> None:
        """patience_s: how long a partition may stand still."""
        self._patience_s = patience_s
        self._seen: dict[TP, tuple[int, float]] = {}

    def look(self, places: Mapping[TP, Place], now_s: float) -> list[TP]:
        """Take in where all stand now; return those that stand still for too long. now_s: any origin."""
        seen = {}
        for tp, place in places.items():
            position, since_s = self._seen.get(tp, (place.position, now_s))
            has_moved = place.position != position or not place.behind
            seen[tp] = (place.position, now_s if has_moved else since_s)
        self._seen = seen
        return [tp for tp, (_, since_s) in seen.items() if now_s - since_s > self._patience_s]


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

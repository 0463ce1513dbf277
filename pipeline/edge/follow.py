"""Following state topics: a thread that reads every partition from where its state begins, and then each new record.

Like restoring in a stage, but for readers that own nothing: no fence, no group, all partitions. It never ends by
itself: while the broker is away it tries again, and what has been read stays in use.
"""

import contextlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import kafka
from kafka.errors import KafkaError

from pipeline.edge import kafka as edge
from pipeline.errors import StateError
from pipeline.settings import Settings
from schemas import block as codec
from schemas.state import StateRecord
from schemas.topics import Topic

log = logging.getLogger(__name__)

RETRY_S = 1.0
RECONNECT_MS_MAX = 1_000  # kafka-python waits up to 30 s: so long a broker that is back would stay unread
POLL_MS, IDLE_POLL_MS = 100, 500
RECORDS_MAX = 50  # between two polls: short runs, so that other threads get their turn
FETCH_BYTES = 524_288  # of a partition at once; more only makes the memory peak while reading
GATHER_MS, GATHER_BYTES = 100, 65_536
"""While records come, the broker answers once so much is there, at the latest after so long: each answer costs a
reader's threads a millisecond, which decisions would else wait for, and a profile may be so much older."""
IDLE_AFTER_POLLS, IDLE_MS = 5, 1_500
"""Where none came for so many polls, it answers with the first one at once, else after so long: each answer that is
empty costs as much."""
LOOK_BACK = (8, 64, 512)


class Reader(Protocol):
    """Who is told. All calls come from the follower's thread."""

    def begin(self, topic: Topic, partition: int) -> None:
        """Reading starts anew, from a point before which nothing counts."""

    def take(self, topic: Topic, partition: int, record: StateRecord, offset: int) -> None:
        """Take the next record. Raises StateError where it contradicts what went before."""

    def loaded(self, topic: Topic, partition: int) -> None:
        """All that stood in the partition when its reading began has been taken."""

    def pause(self) -> None:
        """A batch of records has been taken, or there was none to take."""


@dataclass
class _Place:
    """Where reading stands in one partition. until: its end when reading began."""

    topic: Topic
    partition: int
    next_offset: int = 0
    until: int = 0
    is_loaded: bool = False


class Follower:
    """Follows all partitions of some state topics in a thread of its own.

    What is no trouble with the broker and no bad record ends the thread: a bug, for threading.excepthook to tell.
    """

    def __init__(self, settings: Settings, topics: Sequence[Topic], reader: Reader) -> None:
        """topics: state topics. reader: told of every record, in order for each partition."""
        self._settings = settings
        self._reader = reader
        self._topics = topics
        self._places: dict[Any, _Place] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="state-follower", daemon=True)

    def start(self) -> None:
        """Begin to read; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            consumer = None
            try:
                consumer = edge.consumer(
                    self._settings,
                    max_partition_fetch_bytes=FETCH_BYTES,
                    fetch_max_bytes=4 * FETCH_BYTES,
                    reconnect_backoff_max_ms=RECONNECT_MS_MAX,
                )
                self._follow(consumer)
            except (KafkaError, OSError) as error:
                log.warning("state topics cannot be read from %s: %r", self._settings.bootstrap_servers, error)
            finally:
                if consumer is not None:
                    consumer.close(autocommit=False)
            self._reader.pause()
            self._stopping.wait(RETRY_S)

    def _follow(self, consumer: Any) -> None:
        for topic in self._topics:
            for partition in range(self._settings.partitions):
                tp = kafka.TopicPartition(self._settings.topic(topic.name), partition)
                self._places.setdefault(tp, _Place(topic, partition))
        consumer.assign(list(self._places))
        for tp, place in self._places.items():
            if place.is_loaded:
                consumer.seek(tp, place.next_offset)
            else:
                self._begin(consumer, tp, place)
        empty = 0
        while not self._stopping.is_set():
            is_idle = empty >= IDLE_AFTER_POLLS
            _gather(consumer, is_idle)
            batches = consumer.poll(timeout_ms=IDLE_POLL_MS if is_idle else POLL_MS, max_records=RECORDS_MAX)
            empty = 0 if batches else empty + 1
            for tp, records in batches.items():
                self._take(consumer, tp, self._places[tp], records)
            self._reader.pause()

    def _begin(self, consumer: Any, tp: Any, place: _Place) -> None:
        """Find where the partition's state begins, and go there."""
        first, until = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
        start = self._begin_of_last(consumer, tp, first, until) if until > first else until
        place.next_offset, place.until, place.is_loaded = max(first, start), until, False
        self._reader.begin(place.topic, place.partition)
        consumer.seek(tp, place.next_offset)
        self._note_loaded(place)

    def _begin_of_last(self, consumer: Any, tp: Any, first: int, until: int) -> int:
        """Return from which offset the newest valid record wants to be read; `first` where none is near the end."""
        others = [other for other in self._places if other != tp]
        consumer.pause(*others)
        try:
            for back in LOOK_BACK:
                start = max(first, until - back)
                found = _newest(self._read(consumer, tp, start, until))
                if found is not None:
                    return found.begin
                if start == first:
                    break
        finally:
            consumer.resume(*others)
        return int(first)

    def _read(self, consumer: Any, tp: Any, start: int, until: int) -> list[tuple[int, StateRecord]]:
        consumer.seek(tp, start)
        found: list[tuple[int, StateRecord]] = []
        position = start
        while position < until and not self._stopping.is_set():
            for record in consumer.poll(timeout_ms=POLL_MS).get(tp, []):
                position = record.offset + 1
                with contextlib.suppress(codec.CorruptBlock):  # one of another version, say: `_take` counts it
                    found.append((record.offset, codec.decode(record.value, StateRecord)))
        return found

    def _take(self, consumer: Any, tp: Any, place: _Place, records: Sequence[Any]) -> None:
        for record in records:
            if record.offset != place.next_offset:
                # trimmed away under us, or the log was made anew: what lies between is unknown
                log.warning("%s: record %d after %d: reading anew", tp, record.offset, place.next_offset - 1)
                self._begin(consumer, tp, place)
                return
            try:
                codec.check(record.value, record.headers)
                self._reader.take(place.topic, place.partition, codec.decode(record.value, StateRecord), record.offset)
            except (codec.CorruptBlock, StateError) as error:
                # readers go on with what they have; the stage that owns the log stops loudly by itself
                log.error("%s: record %d is not used: %s", tp, record.offset, error)
            place.next_offset = record.offset + 1
        self._note_loaded(place)

    def _note_loaded(self, place: _Place) -> None:
        if not place.is_loaded and place.next_offset >= place.until:
            place.is_loaded = True
            self._reader.loaded(place.topic, place.partition)


def _gather(consumer: Any, is_idle: bool) -> None:
    """Say how the next fetches wait. kafka-python has it for the life of a consumer; fails loudly where it moved."""
    config = consumer._fetcher.config
    assert {"fetch_min_bytes", "fetch_max_wait_ms"} <= config.keys(), "kafka-python's fetcher has other settings"
    config["fetch_min_bytes"], config["fetch_max_wait_ms"] = (1, IDLE_MS) if is_idle else (GATHER_BYTES, GATHER_MS)


def _newest(records: Sequence[tuple[int, StateRecord]]) -> StateRecord | None:
    """Return the newest record that no fence before it makes void."""
    epoch, newest = -1, None
    for offset, record in records:
        if record.kind == "fence":
            epoch = max(epoch, offset)
        elif record.epoch >= epoch:
            epoch, newest = record.epoch, record
    return newest

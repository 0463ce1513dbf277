"""`collected` on the broker, as these commands need it: read from any offset on, and written at the offset expected."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self

from kafka import TopicPartition
from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from pipeline.edge import kafka
from pipeline.errors import Retryable, SettingsError, StateError
from pipeline.settings import Settings
from schemas.block import Headers
from schemas.topics import COLLECTED, TOPICS

POLL_MS = 500
SILENT_POLLS_MAX = 40
RECORDS_MAX = 10_000  # of one fetch, which is bounded by its bytes
WINDOW_BYTES = 16_777_216
WINDOW_RECORDS = 500
ACK_MS = 120_000  # nobody waits for a request here: a broker that has just begun may take its time
GONE_POLLS_MAX, GONE_POLL_S = 100, 0.1


class LogRecord(NamedTuple):
    """One record. time_ms: by the broker; it says when the record was written there, and nothing is made of it."""

    offset: int
    time_ms: int
    headers: Headers
    value: bytes


class Source(Protocol):
    """A log to copy from, as it stood when it was looked at. name: the same for the same log."""

    name: str
    firsts: list[int]
    ends: list[int]

    def read(self, partition: int, start: int) -> Iterator[LogRecord]:
        """Yield the records of [start, end)."""


class CollectedLog:
    """The topic `collected` of a generation. One fetch of each partition is in memory at most."""

    def __init__(self, settings: Settings) -> None:
        """Connect. Raises Retryable where the broker is away, SettingsError where there is no such topic."""
        self.settings = settings
        self.name = f"g{settings.generation}x{settings.partitions}"
        self.topic = settings.topic(COLLECTED.name)
        try:
            self._consumer: Any = kafka.consumer(settings, bootstrap_timeout_ms=kafka.BOOTSTRAP_MS)
        except KafkaError as error:
            raise self._away(error) from error
        self._tps = [TopicPartition(self.topic, partition) for partition in range(settings.partitions)]
        if self.topic not in self._consumer.topics():
            self.close()
            raise SettingsError(
                f"{self.topic}: no such topic; expected that of HERALD_GENERATION={settings.generation}"
            )
        self.firsts: list[int] = []
        self.ends: list[int] = []
        self.look()

    def look(self) -> None:
        """See where the log begins and ends now."""
        try:
            firsts, ends = self._consumer.beginning_offsets(self._tps), self._consumer.end_offsets(self._tps)
        except KafkaError as error:
            raise self._away(error) from error
        self.firsts, self.ends = [firsts[tp] for tp in self._tps], [ends[tp] for tp in self._tps]

    def read(self, partition: int, start: int) -> Iterator[LogRecord]:
        """Yield the records of [start, end). Raises Retryable, or StateError where one is missing."""
        end = self.ends[partition]
        while start < end:
            for record in self._fetch(self._tps[partition], start):
                if record.offset >= end:
                    return
                if record.offset != start:
                    raise StateError(f"{self.topic}[{partition}]: record {record.offset}, expected {start}")
                yield LogRecord(start, int(record.timestamp), list(record.headers), record.value or b"")
                start += 1

    def last(self, partition: int) -> LogRecord | None:
        """Return the last record, or None where there is none."""
        end = self.ends[partition]
        return next(self.read(partition, end - 1)) if end > self.firsts[partition] else None

    def _fetch(self, tp: Any, start: int) -> Sequence[Any]:
        consumer = self._consumer
        try:
            if consumer.assignment() != {tp}:
                consumer.assign([tp])
            consumer.seek(tp, start)
            for _ in range(SILENT_POLLS_MAX):
                records: Sequence[Any] = consumer.poll(timeout_ms=POLL_MS, max_records=RECORDS_MAX).get(tp, [])
                if records:
                    return records
        except KafkaError as error:
            raise self._away(error) from error
        raise Retryable(f"{tp.topic}[{tp.partition}]: no record from {start}, expected one")

    def _away(self, error: KafkaError) -> Retryable:
        return Retryable(f"Kafka at {self.settings.bootstrap_servers}: {error}")

    def close(self) -> None:
        """Let the broker go."""
        self._consumer.close(autocommit=False)

    def __enter__(self) -> Self:
        """Return itself; closes at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class Appender:
    """Appends to `collected`. Each record has to come to stand where it is expected: else somebody else writes, too."""

    def __init__(self, log: CollectedLog) -> None:
        """log: just looked at."""
        self._log = log
        self.ends = list(log.ends)
        self._producer: Any = kafka.producer(log.settings, max_block_ms=ACK_MS, delivery_timeout_ms=ACK_MS)
        self._waiting: deque[tuple[Any, int, int, int]] = deque()  # future, partition, offset, bytes
        self._bytes = 0

    def append(self, partition: int, value: bytes, headers: Headers) -> None:
        """Hand a record on, and wait while there are too many under way. Raises as `flush` does."""
        try:
            future = self._producer.send(self._log.topic, value=value, partition=partition, headers=headers)
        except KafkaError as error:
            raise self._failed(error) from error
        self._waiting.append((future, partition, self.ends[partition], len(value)))
        self.ends[partition] += 1
        self._bytes += len(value)
        while self._bytes > WINDOW_BYTES or len(self._waiting) > WINDOW_RECORDS:
            self._settle()

    def flush(self) -> None:
        """Wait until all is durable.

        Raises Retryable where the broker does not confirm it, StateError where a record came to stand elsewhere.
        """
        while self._waiting:
            self._settle()

    def _settle(self) -> None:
        future, partition, expected, size = self._waiting.popleft()
        self._bytes -= size
        try:
            offset = int(future.get(timeout=ACK_MS / 1_000).offset)
        except KafkaError as error:
            raise self._failed(error) from error
        if offset != expected:
            raise StateError(
                f"{self._log.topic}[{partition}]: our block came to stand at {offset}, expected {expected}: somebody "
                "else writes there. Stop whatever runs on that generation and begin again with --start-over"
            )

    def _failed(self, error: KafkaError) -> Retryable:
        where = f"Kafka at {self._log.settings.bootstrap_servers}"
        return Retryable(f"{where}: {error!r}; run it again, it goes on where it stopped")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close; what was not flushed may be lost."""
        self._producer.close(timeout=0 if self._waiting else None)


def used_topics(settings: Settings) -> list[str]:
    """Return the topics of a generation, other than `collected`, that hold something: a stage has begun with it.

    A compacted one does not count: no stage writes it, and whatever it holds is made again from its store.
    Raises Retryable.
    """
    names = [settings.topic(topic.name) for topic in TOPICS if topic is not COLLECTED and not topic.is_compacted]
    try:
        consumer = kafka.consumer(settings, bootstrap_timeout_ms=kafka.BOOTSTRAP_MS)
        try:
            there = consumer.topics()
            tps = [
                TopicPartition(name, p) for name in names if name in there for p in consumer.partitions_for_topic(name)
            ]
            return sorted({tp.topic for tp, end in consumer.end_offsets(tps).items() if end}) if tps else []
        finally:
            consumer.close(autocommit=False)
    except KafkaError as error:
        raise Retryable(f"Kafka at {settings.bootstrap_servers}: {error}") from error


def delete_topics(settings: Settings) -> None:
    """Delete all topics of a generation, and wait until they are gone. Raises Retryable."""
    names = {settings.topic(topic.name) for topic in TOPICS}
    try:
        client = kafka.admin(settings)
        try:
            there = sorted(names.intersection(client.list_topics()))
            if there:
                client.delete_topics(there)
            for _ in range(GONE_POLLS_MAX):
                if names.isdisjoint(client.list_topics()):
                    return
                time.sleep(GONE_POLL_S)
        finally:
            client.close()
    except UnknownTopicOrPartitionError:
        return
    except KafkaError as error:
        raise Retryable(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    raise Retryable(f"Kafka at {settings.bootstrap_servers}: {', '.join(sorted(names))} are still there")

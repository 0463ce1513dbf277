"""Blocks of a topic by origin, as the log has them: what the audit compares with and heals from."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from kafka import TopicPartition
from kafka.errors import KafkaError

from pipeline.core.audit import Span
from pipeline.edge import kafka
from pipeline.errors import Retryable, StateError
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import Origin

SILENT_POLLS_MAX = 20
POLL_MS = 500
HINTS_MAX = 10_000


class LogBlock(NamedTuple):
    """A record. rows, crc: from its headers; the value was checked against its crc."""

    origin: Origin
    rows: int
    crc: int
    value: bytes


class BlockSource(Protocol):
    """Where blocks are read again."""

    def first(self, topic: str, partition: int) -> int:
        """Return the offset from which on every block is there; what lies before it has been forgotten."""

    def read(self, topic: str, span: Span) -> Iterable[LogBlock]:
        """Return the blocks of a span that the topic has, each once. topic: name in schemas.topics."""

    def close(self) -> None:
        """Let go of connections."""


class KafkaSource:
    """Reads our topics.

    A record's own offset says little of its origin: repeats push it on, sparse topics hold it back.
    """

    def __init__(self, settings: Settings) -> None:
        """Connects when first asked."""
        self._settings = settings
        self._reader: Any = None
        self._hints: dict[tuple[str, int], dict[int, int]] = {}

    def first(self, topic: str, partition: int) -> int:
        """Return the origin of the oldest record that is left; 0 where none was ever deleted. Raises Retryable."""
        tp = self._tp(topic, partition)
        try:
            reader = self._connected()
            begin, end = reader.beginning_offsets([tp])[tp], reader.end_offsets([tp])[tp]
            if begin == 0:
                return 0
            if begin == end:
                return 2**63 - 1
            return self._origin_at(tp, begin)[0]
        except KafkaError as error:
            raise self._away(error) from error

    def read(self, topic: str, span: Span) -> Iterable[LogBlock]:
        """Return the blocks of a span, in order of origin. Raises Retryable, or StateError where one was altered."""
        tp = self._tp(topic, span.partition)
        try:
            found = dict(self._read(tp, span, self._start(tp, span.first)))
        except KafkaError as error:
            raise self._away(error) from error
        except codec.CorruptBlock as error:
            raise StateError(f"{tp.topic}[{tp.partition}], blocks {span.first} to {span.end - 1}: {error}") from error
        return [found[offset] for offset in sorted(found)]

    def close(self) -> None:
        """Close the consumer; the next call makes another one."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read(self, tp: TopicPartition, span: Span, start: int) -> Iterator[tuple[int, LogBlock]]:
        seen: set[int] = set()
        for record in self._records(tp, start):
            origin = codec.origin_of(record.headers)
            if origin.offset >= span.end:
                self._hint(tp, span.end, record.offset)
                return
            if origin.offset < span.first or origin.offset in seen:
                continue
            seen.add(origin.offset)
            codec.check(record.value, record.headers)
            crc = int(dict(record.headers).get("crc", b"0"), 16)
            yield origin.offset, LogBlock(origin, codec.rows_of(record.headers), crc, record.value)

    def _records(self, tp: TopicPartition, start: int) -> Iterator[Any]:
        reader = self._connected()
        end = reader.end_offsets([tp])[tp]
        reader.assign([tp])
        reader.seek(tp, start)
        misses = 0
        while reader.position(tp) < end:
            batch = reader.poll(timeout_ms=POLL_MS).get(tp, [])
            misses = 0 if batch else misses + 1
            if misses > SILENT_POLLS_MAX:
                raise Retryable(f"{tp.topic}[{tp.partition}]: no record from {reader.position(tp)}, expected to {end}")
            yield from batch

    def _start(self, tp: TopicPartition, origin: int) -> int:
        """Return a record offset from which on all origins >= origin come: where one before it stands, by bisection.

        After any record the log goes on with its successor or, after a restart, with one before that.
        """
        hint = self._hints.get((tp.topic, tp.partition), {}).get(origin)
        reader = self._connected()
        low, high = reader.beginning_offsets([tp])[tp], reader.end_offsets([tp])[tp]
        if hint is not None and low <= hint <= high:
            return int(hint)
        start = low
        while low < high:
            middle = (low + high) // 2
            at, offset = self._origin_at(tp, middle)
            if at < origin:
                start, low = middle, offset + 1
            else:
                high = middle
        self._hint(tp, origin, start)
        return int(start)

    def _origin_at(self, tp: TopicPartition, offset: int) -> tuple[int, int]:
        """Return the origin of the first record from an offset on, and its own offset."""
        record = next(self._records(tp, offset))
        return codec.origin_of(record.headers).offset, int(record.offset)

    def _hint(self, tp: TopicPartition, origin: int, offset: int) -> None:
        hints = self._hints.setdefault((tp.topic, tp.partition), {})
        hints[origin] = offset
        if len(hints) > HINTS_MAX:
            hints.pop(next(iter(hints)))

    def _connected(self) -> Any:
        if self._reader is None:
            self._reader = kafka.consumer(self._settings, bootstrap_timeout_ms=kafka.BOOTSTRAP_MS)
        return self._reader

    def _tp(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.topic(topic), partition)

    def _away(self, error: KafkaError) -> Retryable:
        self.close()
        return Retryable(f"Kafka at {self._settings.bootstrap_servers}: {error}")

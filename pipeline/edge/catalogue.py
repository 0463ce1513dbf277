"""The marketer's objects on their compacted topic: a reader that follows them, and what a publisher needs of Kafka.

The last record of a key is how the object stands; one without a value says that the store has no such object. All are
in partition 0, so they come in the order in which they were changed.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import kafka
from kafka.errors import KafkaError
from pydantic import ValidationError

from pipeline.edge import kafka as edge
from pipeline.errors import Retryable
from pipeline.settings import Settings
from schemas.campaign import Stored
from schemas.topics import CAMPAIGNS

log = logging.getLogger(__name__)

PARTITION = 0
RETRY_S = 1.0
POLL_MS = 500
WAIT_MS = 1_000  # for the next record; it comes at once all the same
BACKOFF_MS = 1_000
"""A broker that is back is found so late at most; kafka-python's own half a minute would keep changes from readers."""
READ_S = 60.0
RECORDS_MAX = 500


class Entry(NamedTuple):
    """One record. key: `kind/id`. value: JSON of `Stored`, None where the object is gone."""

    key: str
    value: bytes | None


def key_of(kind: str, key: str) -> str:
    """Return the record's key of an object. kind: as in `schemas.campaign.KINDS`."""
    return f"{kind}/{key}"


class Catalogue:
    """Follows the topic in a thread of its own, and hands on each object as it changes.

    While the broker is away it tries again, and what was handed on stays. A record that is no `Stored` is logged and
    passed over. What is no trouble with the broker ends the thread: a bug, for threading.excepthook to tell.
    """

    def __init__(self, settings: Settings, take: Callable[[Stored], None], remove: Callable[[str, str], None]) -> None:
        """take: told of each object as it now stands, the newest last. remove: told (kind, id) of what is gone.

        Both are called by the follower's thread. An object may come again unchanged, after the broker was away.
        """
        self._settings, self._take, self._remove = settings, take, remove
        self._known: set[str] = set()
        self._loaded = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="catalogue", daemon=True)

    @property
    def is_loaded(self) -> bool:
        """True once all that stood in the topic at the start has been handed on; it stays true."""
        return self._loaded.is_set()

    def start(self) -> None:
        """Begin to read; returns at once."""
        self._thread.start()

    def wait_loaded(self, timeout_s: float) -> bool:
        """Wait until it is loaded; False where it was not in time."""
        return self._loaded.wait(timeout_s)

    def stop(self) -> None:
        """End the thread, and wait for it for a while."""
        self._stopping.set()
        self._thread.join(timeout=3)

    def _run(self) -> None:
        is_away = False
        while not self._stopping.is_set():
            consumer = None
            try:
                consumer = edge.consumer(
                    self._settings,
                    fetch_max_wait_ms=WAIT_MS,
                    bootstrap_timeout_ms=edge.BOOTSTRAP_MS,
                    reconnect_backoff_max_ms=BACKOFF_MS,
                )
                is_away = False
                self._follow(consumer)
            except (KafkaError, OSError) as error:
                if not is_away:
                    log.warning("campaigns cannot be read from %s: %r", self._settings.bootstrap_servers, error)
                is_away = True
            finally:
                if consumer is not None:
                    consumer.close(autocommit=False)
            self._stopping.wait(RETRY_S)

    def _follow(self, consumer: Any) -> None:
        """Read all from the beginning, for the topic may have been made anew, then each new record."""
        tp = kafka.TopicPartition(self._settings.topic(CAMPAIGNS.name), PARTITION)
        consumer.assign([tp])
        until = _end(consumer, tp)
        consumer.seek_to_beginning(tp)
        seen: set[str] | None = set()
        while not self._stopping.is_set():
            if seen is not None and consumer.position(tp) >= until:
                for key in self._known - seen:
                    self._hand_on(Entry(key, None))
                seen = None
                self._loaded.set()
            for entry in _polled(consumer, tp):
                self._hand_on(entry)
                if seen is not None:
                    seen.add(entry.key)

    def _hand_on(self, entry: Entry) -> None:
        if entry.value is None:
            kind, _, name = entry.key.partition("/")
            if entry.key in self._known:
                self._known.discard(entry.key)
                self._remove(kind, name)
            return
        try:
            stored = Stored.model_validate_json(entry.value)
        except ValidationError as error:
            log.error("campaigns: the record of %r is not used: %s", entry.key[:200], str(error)[:500])
            return
        self._known.add(entry.key)
        self._take(stored)


def _polled(consumer: Any, tp: Any) -> list[Entry]:
    records: Sequence[Any] = consumer.poll(timeout_ms=POLL_MS, max_records=RECORDS_MAX).get(tp, [])
    return [Entry((record.key or b"").decode("utf-8", "replace"), record.value) for record in records]


def _end(consumer: Any, tp: Any) -> int:
    return int(consumer.end_offsets([tp])[tp])


def read_all(settings: Settings) -> dict[str, bytes]:
    """Return how the topic stands: key -> value of each object that it has.

    Raises Retryable where the broker or the topic is away.
    """
    try:
        consumer = edge.consumer(settings, bootstrap_timeout_ms=edge.BOOTSTRAP_MS)
        try:
            if settings.topic(CAMPAIGNS.name) not in consumer.topics():
                raise Retryable(f"{settings.topic(CAMPAIGNS.name)}: no such topic; `herald topics --apply` makes it")
            return _read_all(consumer, kafka.TopicPartition(settings.topic(CAMPAIGNS.name), PARTITION))
        finally:
            consumer.close(autocommit=False)
    except (KafkaError, OSError) as error:
        raise _away(settings, error) from error


def _read_all(consumer: Any, tp: Any) -> dict[str, bytes]:
    consumer.assign([tp])
    until = _end(consumer, tp)
    consumer.seek_to_beginning(tp)
    found: dict[str, bytes] = {}
    silent = 0
    while consumer.position(tp) < until:
        entries = _polled(consumer, tp)
        silent = 0 if entries else silent + 1
        if silent * POLL_MS > READ_S * 1_000:
            raise Retryable(f"{tp.topic}[{tp.partition}]: no record before {until}, expected one")
        for entry in entries:
            if entry.value is None:
                found.pop(entry.key, None)
            else:
                found[entry.key] = entry.value
    return found


class Publisher:
    """Writes objects to the topic. Not for several threads."""

    def __init__(self, settings: Settings) -> None:
        """Connect. Raises Retryable where the broker is away."""
        self._settings = settings
        self._topic = settings.topic(CAMPAIGNS.name)
        self._timeout_s = settings.ack_timeout_ms / 1_000
        try:
            self._producer = edge.producer(
                settings, max_block_ms=settings.ack_timeout_ms, bootstrap_timeout_ms=edge.BOOTSTRAP_MS
            )
        except (KafkaError, OSError) as error:
            raise _away(settings, error) from error

    def send(self, entries: Sequence[Entry]) -> None:
        """Send these in their order, and return once the broker has them all.

        Raises Retryable where it does not confirm one in time: then some of them may be there, or come later.
        """
        try:
            under_way = [
                self._producer.send(self._topic, key=entry.key.encode(), value=entry.value, partition=PARTITION)
                for entry in entries
            ]
            for one in under_way:
                one.get(timeout=2 * self._timeout_s)
        except (KafkaError, OSError) as error:
            raise _away(self._settings, error) from error

    def close(self) -> None:
        """Let the broker go; what was not confirmed is given up."""
        self._producer.close(timeout=0)


def _away(settings: Settings, error: BaseException) -> Retryable:
    return Retryable(f"Kafka at {settings.bootstrap_servers}: {error!r}")

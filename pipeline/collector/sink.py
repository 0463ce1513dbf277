"""The Kafka end of a `BlockWriter`: one producer, made and remade in a thread of its own so that nothing ever blocks
the event loop, whatever the broker does."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from kafka.errors import KafkaError

from pipeline.edge import kafka
from pipeline.errors import SettingsError
from pipeline.settings import Settings
from schemas.block import Headers
from schemas.topics import COLLECTED

log = logging.getLogger(__name__)

RETRY_S = 0.5
CONNECTING = {"bootstrap_timeout_ms": 2_000, "max_block_ms": 2_000, "allow_auto_create_topics": False}


class KafkaSink:
    """Sends blocks to `collected`. Not ready until the broker has shown the topic; after a failure it connects anew.

    A failed producer is never used again: an idempotent one may be in an error that it cannot leave.
    """

    def __init__(self, settings: Settings, refuse: Callable[[SettingsError], None]) -> None:
        """refuse: told, from another thread, that the topic has another number of partitions than the settings."""
        self._settings = settings
        self._refuse = refuse
        self._topic = settings.topic(COLLECTED.name)
        self._producer: Any = None
        self._old: list[Any] = []
        self._stopping = threading.Event()
        self._wanted = threading.Event()
        self._wanted.set()
        self._thread = threading.Thread(target=self._keep_connected, name="kafka-connect", daemon=True)

    def start(self) -> None:
        """Begin to connect; returns at once. Nothing happens if it has begun."""
        if self._thread.ident is None:
            self._thread.start()

    @property
    def is_ready(self) -> bool:
        """True while there is a producer that knows the topic."""
        return self._producer is not None

    def send(self, partition: int, value: bytes, found: Headers, done: Callable[[bool], None]) -> None:
        """Send one record; done(True) once every replica has it, done(False) where it failed."""
        producer = self._producer
        if producer is None:
            done(False)
            return
        try:
            future = producer.send(self._topic, value=value, partition=partition, headers=found)
        except (KafkaError, AssertionError, ValueError) as error:
            log.warning("block refused by the producer: %r", error)
            done(False)
            return
        future.add_callback(lambda _: done(True))
        future.add_errback(lambda _: done(False))

    def reset(self) -> None:
        """Drop the producer and connect anew."""
        old, self._producer = self._producer, None
        if old is not None:
            self._old.append(old)
        self._wanted.set()

    def close(self) -> None:
        """Stop connecting and close the producer; what is under way is lost. Nothing happens if it is closed."""
        self._stopping.set()
        self.reset()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _keep_connected(self) -> None:
        while not self._stopping.is_set():
            self._wanted.wait()
            self._wanted.clear()
            self._close_old()
            if not self._stopping.is_set() and self._producer is None:
                self._producer = self._connect()
                if self._producer is None:
                    self._wanted.set()
                    self._stopping.wait(RETRY_S)
        self.reset()
        self._close_old()

    def _close_old(self) -> None:
        while self._old:
            _close(self._old.pop())

    def _connect(self) -> Any:
        producer = None
        try:
            producer = kafka.producer(self._settings, **CONNECTING)
            found = len(producer.partitions_for(self._topic) or ())
            if found == self._settings.partitions:
                producer.config["max_block_ms"] = 1  # from now on metadata is known: a send must never wait
                return producer
            text = f"{self._topic}: {found} partitions, expected {self._settings.partitions} (HERALD_PARTITIONS)"
            log.warning("%s", text)
            if found:
                self._refuse(SettingsError(f"{text}\n{kafka.PARTITIONS_ARE_FIXED}"))
        except (KafkaError, OSError) as error:
            log.warning("no broker at %s: %r", self._settings.bootstrap_servers, error)
        _close(producer)
        return None


def _close(producer: Any) -> None:
    if producer is not None:
        try:
            producer.close(timeout=0)
        except KafkaError:  # a batch was still open: close() then gives up before it has ended the sender's thread
            producer._sender.force_close()

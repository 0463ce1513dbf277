"""A real collector process on a real broker, and the log as it stands there; for the tests of the collector."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from kafka import TopicPartition

from pipeline.edge import kafka
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.settings import Settings
from schemas.block import CollectedBlock, check, decode, rows_of
from schemas.event import Collected, Context
from schemas.topics import COLLECTED
from tests.waits import free_port

PROCESS = """
import json, logging, sys
from pipeline.collector.service import run
from pipeline.settings import Settings
logging.basicConfig(level=logging.WARNING)
sys.exit(run(Settings(**json.loads(sys.argv[1]))))
"""


@contextmanager
def broker_in(data_dir: Path) -> Iterator[EmbeddedKafka]:
    """A broker of our own, with an empty log."""
    broker = EmbeddedKafka(KafkaConfig(data_dir, free_port(), free_port(), heap_mb=256))
    broker.start()
    try:
        broker.wait_ready()
        yield broker
    finally:
        broker.stop()


class Stored(NamedTuple):
    """One event as it stands in the log."""

    context: Context
    event: Collected
    partition: int
    offset: int


class Log:
    """What stands in `collected`, read on from where the last look ended."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = kafka.consumer(settings)
        topic = settings.topic(COLLECTED.name)
        self._parts = [TopicPartition(topic, number) for number in range(settings.partitions)]
        self._consumer.assign(self._parts)
        self._consumer.seek_to_beginning(*self._parts)
        self.blocks: list[tuple[int, int, CollectedBlock, bytes]] = []

    def read(self) -> list[Stored]:
        """Every event stored so far, in order inside each partition; checks each block's headers on the way."""
        ends = self._consumer.end_offsets(self._parts)
        while any(self._consumer.position(part) < ends[part] for part in self._parts):
            for part, records in self._consumer.poll(timeout_ms=200).items():
                for record in records:
                    check(record.value, record.headers)
                    block = decode(record.value, CollectedBlock)
                    assert rows_of(record.headers) == len(block.events)
                    self.blocks.append((part.partition, record.offset, block, record.value))
        return [
            Stored(block.contexts[event.context], event, partition, offset)
            for partition, offset, block, _ in self.blocks
            for event in block.events
        ]

    def bytes(self) -> bytes:
        """All record values together."""
        self.read()
        return b"".join(value for *_, value in self.blocks)

    def find(self, *event_ids: str) -> list[Stored]:
        """The stored events with these ids."""
        return [stored for stored in self.read() if stored.event.event_id in event_ids]

    def close(self) -> None:
        self._consumer.close()


class RunningCollector:
    """One collector process; `http` talks to it, `log` shows what it stored."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = Settings(**settings)
        self.url = f"http://127.0.0.1:{self.settings.collector_port}"
        self.http = httpx.Client(base_url=self.url, timeout=20)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, json.dumps(settings)], cwd=Path(__file__).parents[2], env=os.environ.copy()
        )

    def wait_until(self, path: str, status: int, timeout_s: float = 30) -> None:
        """Ask until the path answers with the status."""
        deadline = time.monotonic() + timeout_s
        found: object = None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the collector ended with {self.process.poll()}"
            try:
                found = self.http.get(path).status_code
            except httpx.TransportError as error:
                found = error
            if found == status:
                return
            time.sleep(0.05)
        raise AssertionError(f"{path}: last {found!r}, expected {status} within {timeout_s} s")

    def send_raw(self, payload: bytes, wait_s: float = 5) -> bytes:
        """Write bytes to a connection and return all that comes back until it is closed or quiet for wait_s."""
        with socket.create_connection(("127.0.0.1", self.settings.collector_port), timeout=wait_s) as connection:
            connection.sendall(payload)
            found = b""
            try:
                while part := connection.recv(65_536):
                    found += part
            except (TimeoutError, ConnectionResetError):
                pass
            return found

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()
            self.http.close()


def make_topic(settings: Settings) -> None:
    """Create `collected`."""
    admin = kafka.admin(settings)
    try:
        admin.create_topics(kafka.new_topic(settings, COLLECTED))
    finally:
        admin.close()


@contextmanager
def collector_on(bootstrap_servers: str, data_dir: Path, **changes: Any) -> Iterator[RunningCollector]:
    """A ready collector with its topic; `changes` are settings."""
    settings = {
        "kafka_bootstrap_servers": bootstrap_servers,
        "collector_port": free_port(),
        "data_dir": str(data_dir),
        "write_keys": {"demo": "shop", "other": "blog"},
        **changes,
    }
    make_topic(Settings(**settings))
    collector = RunningCollector(settings)
    try:
        collector.wait_until("/readyz", 200)
        yield collector
    finally:
        collector.stop()

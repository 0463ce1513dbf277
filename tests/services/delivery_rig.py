"""What the tests of delivery share: the real service in a process of its own, and a writer of its state topics."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import kafka
import msgspec
from msgspec import Struct

from pipeline.core.state import StateView, StateWriter
from pipeline.edge import kafka as edge
from pipeline.edge.clock import now_ms
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import CollectedBlock
from schemas.event import Collected, Context
from schemas.topics import COLLECTED, Topic

PROCESS = """
import sys
from pipeline.delivery.service import run
from pipeline.errors import SettingsError
from pipeline.settings import load
try:
    sys.exit(run(load()))
except SettingsError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(holds: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """Wait until something is true and return it; fail saying what never came."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


class Service:
    """The delivery service in a process of its own."""

    def __init__(self, settings: Settings, log_path: Path) -> None:
        self.settings = settings
        self.log_path = log_path
        given = settings.model_dump(exclude_unset=True)
        environment = {f"HERALD_{name.upper()}": _as_text(value) for name, value in given.items()}
        with log_path.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROCESS], env=os.environ | environment, stdout=out, stderr=out
            )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{settings.delivery_port}", timeout=20)

    def wait_for(self, path: str) -> None:
        """Wait until a path answers 200."""

        def answers() -> bool:
            assert self.process.poll() is None, self.log_path.read_text()
            try:
                return self.http.get(path).status_code == 200
            except httpx.TransportError:
                return False

        until(answers, f"{path} answers 200")

    def stop(self) -> int:
        """Stop it as a supervisor would; returns its exit code."""
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()


@contextmanager
def without_stores(data_dir: Path, **settings: Any) -> Iterator[Service]:
    """Run delivery with no broker and no warehouse to be had."""
    away = {"kafka_bootstrap_servers": f"127.0.0.1:{free_port()}", "clickhouse_port": free_port()}
    chosen = Settings(data_dir=data_dir, delivery_port=free_port(), **away, **settings)
    service = Service(chosen, data_dir / "log")
    try:
        service.wait_for("/healthz")
        yield service
    finally:
        service.process.kill()
        service.process.wait()
        service.http.close()


def _as_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={right}" for key, right in value.items())
    if isinstance(value, tuple):
        return ",".join(_as_text(one) for one in value)
    return value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)


class StateTopic:
    """The owner of one partition of a state topic, as a stage is: fences it, then writes records of changes."""

    def __init__(self, settings: Settings, topic: Topic, partition: int, owner: str = "test") -> None:
        self.topic, self.partition = settings.topic(topic.name), partition
        self.producer = edge.producer(settings, max_block_ms=10_000)
        self.view = StateView()
        fence = StateWriter.fence(owner)
        self.view.apply(fence, self._send(fence))
        self.writer = StateWriter(self.view, owner)

    def put(self, version: int, entries: Mapping[str, Struct], block_time_ms: int | None = None) -> int:
        """Write the entries as changed by block `version`; returns the record's offset."""
        puts = [(key, msgspec.msgpack.encode(value)) for key, value in entries.items()]
        written_ms = now_ms() if block_time_ms is None else block_time_ms
        offset = -1
        for record in self.writer.records(version, b"", (puts, []), 1_000_000, written_ms):
            offset = self._send(record)
            self.view.apply(record, offset)
        self.writer.written(offset)
        return offset

    def close(self) -> None:
        self.producer.close()

    def _send(self, record: Struct) -> int:
        value = codec.encode(record)
        sent = self.producer.send(self.topic, value=value, partition=self.partition, headers=codec.headers(value, 0))
        return int(sent.get(timeout=10).offset)


def read_collected(settings: Settings, partitions: int) -> list[tuple[int, Context, Collected]]:
    """Return all events in `collected`: (partition, context, event)."""
    consumer = edge.consumer(settings)
    try:
        places = [kafka.TopicPartition(settings.topic(COLLECTED.name), at) for at in range(partitions)]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.seek_to_beginning()
        found = []
        while any(consumer.position(place) < ends[place] for place in places):
            for place, records in consumer.poll(timeout_ms=100).items():
                for record in records:
                    block = codec.decode(record.value, CollectedBlock)
                    found += [(place.partition, block.contexts[event.context], event) for event in block.events]
        return found
    finally:
        consumer.close()

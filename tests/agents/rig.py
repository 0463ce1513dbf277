"""Stages as processes on a real broker, fed with blocks of known events."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from kafka import TopicPartition

from pipeline import topics
from pipeline.edge import kafka
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.parts import STAGES
from pipeline.settings import Settings, load
from schemas import block as codec
from schemas.block import CollectedBlock, EventBlock, Origin, SessionBlock
from schemas.event import Collected, Context, Protocol
from schemas.session import Session
from tests.journeys.rig import free_run
from tests.waits import free_ports
from tests.waits import until as until  # the faults wait with it

BASE_MS = 1_790_000_000_000


@contextmanager
def broker(folder: Path) -> Iterator[EmbeddedKafka]:
    """Run a broker of our own."""
    port, controller = free_ports(2)
    running = EmbeddedKafka(KafkaConfig(folder, port, controller, heap_mb=256))
    running.start()
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()


class Stages:
    """One test's topics (by prefix) and the workers it started."""

    @classmethod
    def on(cls, running: EmbeddedKafka, folder: Path, prefix: str, **settings: object) -> "Stages":
        """Use a broker of the rig's."""
        chosen = load(
            data_dir=folder,
            kafka_bootstrap_servers=running.bootstrap_servers,
            topic_prefix=prefix,
            restart_session_ms=6_000,
            **settings,
        )
        return cls(chosen, folder)

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.logs = folder
        self.workers: list[subprocess.Popen[bytes]] = []
        topics.apply(self.settings)
        self._sender = kafka.producer(self.settings, max_block_ms=10_000)

    def start(self, stage: str, **settings: object) -> subprocess.Popen[bytes]:
        """Start a worker; its log is `stage-N.log`."""
        chosen = self.settings.model_copy(update={"metrics_port": free_run(len(STAGES) + 1), **settings})
        path = self.logs / f"{stage}-{len(self.workers)}.log"
        with path.open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", "worker", stage],
                stdout=log,
                stderr=log,
                env=chosen.as_environment(),
            )
        self.workers.append(worker)
        return worker

    def log_of(self, stage: str, number: int) -> str:
        return (self.logs / f"{stage}-{number}.log").read_text()

    def feed(self, partition: int, block: CollectedBlock) -> int:
        """Write a block into `collected`; return its offset."""
        value = codec.encode(block)
        found = codec.headers(value, len(block.events))
        topic = self.settings.topic("collected")
        sent = self._sender.send(topic, value, partition=partition, headers=found)
        return int(sent.get(timeout=20).offset)

    def feed_raw(self, topic: str, partition: int, value: bytes, headers: codec.Headers) -> None:
        """Write any record."""
        name = self.settings.topic(topic)
        self._sender.send(name, value, partition=partition, headers=headers).get(timeout=20)

    def records(self, topic: str, starts: Mapping[int, int] = {}) -> list[Any]:
        """Return all records of a topic. starts: offsets, for partitions where only those from there are wanted."""
        reader = kafka.consumer(self.settings)
        try:
            found: list[Any] = []
            for partition in range(self.settings.partitions):
                tp = TopicPartition(self.settings.topic(topic), partition)
                reader.assign([tp])
                end = reader.end_offsets([tp])[tp]
                if partition in starts:
                    reader.seek(tp, starts[partition])
                else:
                    reader.seek_to_beginning(tp)
                while reader.position(tp) < end:
                    found.extend(record for batch in reader.poll(500).values() for record in batch)
            return found
        finally:
            reader.close()

    def blocks(self, topic: str, kind: Any) -> dict[Origin, Any]:
        """Return a hop's blocks by origin, first copies only; repeats must be equal to the letter."""
        found: dict[Origin, bytes] = {}
        for record in self.records(topic):
            origin = codec.origin_of(record.headers)
            assert found.setdefault(origin, record.value) == record.value, f"{topic}: {origin} came out differently"
        return {origin: codec.decode(value, kind) for origin, value in found.items()}

    def stop(self) -> None:
        """End every worker that still runs."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.stop_feeding()

    def stop_feeding(self) -> None:
        """Close the sender; before a broker is killed, for it would leave sockets behind."""
        self._sender.close()


def kill(worker: subprocess.Popen[bytes]) -> None:
    """kill -9, and wait for the end."""
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()


def page_views(number: int, first: int, count: int, visitors: int = 7) -> CollectedBlock:
    """Return block `number`: one page view a minute, each visitor in turn, ids never repeated."""
    time_ms = BASE_MS + number * 1_000
    context = Context(Protocol.SEGMENT, "page", "demo", time_ms, time_ms, "192.0.2.0", "")
    events = []
    for event in range(first, first + count):
        visitor = f"v{event % visitors}"
        raw = msgspec.json.encode(
            {
                "type": "page",
                "messageId": f"e{event}",
                "anonymousId": visitor,
                "timestamp": time_ms - count + event - first,
            }
        )
        events.append(Collected(0, f"e{event}", visitor, raw))
    return CollectedBlock(time_ms, "test", [context], events)


def events_of(blocks: dict[Origin, EventBlock]) -> Counter[str]:
    """Return how often each event id came out."""
    return Counter(event.event_id for block in blocks.values() for event in block.events)


def live_sessions(blocks: dict[Origin, SessionBlock]) -> dict[tuple[str, int, str], Session]:
    """Return the sessions as they stand after the last block of each partition."""
    found: dict[tuple[str, int, str], Session] = {}
    for _, block in sorted(blocks.items()):
        for row in block.sessions:
            key = (row.visitor, row.session.start_ms, row.session.stray_id)
            if row.deleted:
                found.pop(key, None)
            else:
                found[key] = row.session
    return found

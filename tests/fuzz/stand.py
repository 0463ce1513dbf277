"""What is fired at: the real collector and delivery on a real broker; for the full run, all of Herald.

The books are read where they stand: every block of `collected`, and what the clean stage made of it.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from kafka import TopicPartition

from pipeline import status, topics
from pipeline.core.clean import CleanRules
from pipeline.core.clean_stage import Clean
from pipeline.core.state import StateView
from pipeline.edge import kafka
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.parts import services
from pipeline.settings import Settings, load
from schemas.block import CollectedBlock, EventBlock, Origin, Totals, decode
from schemas.topics import COLLECTED
from tests.fuzz.shots import COLLECTOR, DELIVERY
from tests.journeys.rig import whole
from tests.waits import free_ports

MEGABYTE = 1_048_576
READY_S = 120.0
GIVEN: dict[str, Any] = {
    "write_keys": {"demo": "shop", "other": "blog"},
    "allowed_origins": ("https://shop.example",),
    "trusted_proxies": ("127.0.0.1",),
    "decisions_kept_max": 500,
    "actions_max": 200,
}  # fmt: skip


@dataclass
class Books:
    """What is in the log. collected: events by who wrote them. lone: refused events without an id, at the door."""

    collected: Counter[str] = field(default_factory=Counter)
    lone: int = 0
    totals: Totals = field(default_factory=Totals)

    @property
    def is_balanced(self) -> bool:
        """True where every event that was received is clean, refused or a duplicate."""
        found = self.totals
        return found.received == sum(self.collected.values()) == found.clean + found.refused + found.duplicate


@dataclass
class Stand:
    """The services under fire. pids: of each process that must live to the end."""

    settings: Settings
    pids: dict[str, int]
    is_whole: bool = False

    @property
    def ports(self) -> dict[str, int]:
        """Where each side listens."""
        return {COLLECTOR: self.settings.collector_port, DELIVERY: self.settings.delivery_port}

    def memory_mb(self) -> dict[str, float]:
        """The memory of each process, MB; raises psutil.NoSuchProcess where one has ended."""
        return {name: psutil.Process(pid).memory_info().rss / MEGABYTE for name, pid in self.pids.items()}

    def dead(self) -> list[str]:
        """The processes that have ended."""
        return [name for name, pid in self.pids.items() if not psutil.pid_exists(pid)]

    def books(self) -> Books:
        """Read the whole log and clean it here, as the clean stage does."""
        found, settings = Books(), self.settings
        rules = CleanRules(
            settings.future_max_ms,
            settings.age_max_ms,
            settings.skew_min_ms,
            settings.skew_max_ms,
            settings.dedupe_window_ms,
        )
        for partition in range(settings.partitions):
            fold, last = Clean(StateView(), rules), Totals()
            for offset, block in self._blocks(partition):
                found.collected[block.writer.partition("-")[0]] += len(block.events)
                found.lone += sum(bool(one.refused) and not one.event_id for one in block.events)
                answer = fold.apply(Origin(partition, offset), block).outputs[0].block
                assert isinstance(answer, EventBlock)
                last = answer.totals
            found.totals = _sum(found.totals, last)
        return found

    def _blocks(self, partition: int) -> Iterator[tuple[int, CollectedBlock]]:
        reader = kafka.consumer(self.settings)
        try:
            place = TopicPartition(self.settings.topic(COLLECTED.name), partition)
            reader.assign([place])
            end = reader.end_offsets([place])[place]
            reader.seek_to_beginning(place)
            while reader.position(place) < end:
                for records in reader.poll(timeout_ms=500).values():
                    yield from ((record.offset, decode(record.value, CollectedBlock)) for record in records)
        finally:
            reader.close()

    def stored(self) -> status.Status | None:
        """The books as `herald status` has them once everything is stored; None where only the doors are under fire."""
        return status.drained(self.settings, 300) if self.is_whole else None


def _sum(one: Totals, other: Totals) -> Totals:
    names = ("received", "clean", "refused", "duplicate")
    return Totals(*(getattr(one, name) + getattr(other, name) for name in names))


@contextmanager
def doors(folder: Path) -> Iterator[Stand]:
    """Collector and delivery on a broker, and nothing else: quick to start."""
    port, controller, collector, delivery, nowhere = free_ports(5)
    broker = EmbeddedKafka(KafkaConfig(folder / "broker", port, controller, heap_mb=256))
    with ExitStack() as stack:
        stack.callback(broker.stop)
        broker.start()
        settings = load(
            data_dir=folder,
            kafka_bootstrap_servers=f"127.0.0.1:{port}",
            collector_port=collector,
            delivery_port=delivery,
            clickhouse_port=nowhere,
            **GIVEN,
        )
        broker.wait_ready(READY_S)
        topics.apply(settings)
        pids = {name: _start(stack, name, settings, folder) for name in (COLLECTOR, DELIVERY)}
        stand = Stand(settings, pids)
        for part in services(settings):
            if part.name in pids:
                _wait(part.is_ready, lambda name=part.name: stand.dead() or f"{name} is not ready")
        yield stand


def _wait(is_ready: Callable[[], bool], what: Callable[[], object]) -> None:
    end_s = time.monotonic() + READY_S
    while not is_ready():
        assert time.monotonic() < end_s, what()
        time.sleep(0.1)


def _start(stack: ExitStack, part: str, settings: Settings, folder: Path) -> int:
    with (folder / f"{part}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", part],
            env=os.environ | settings.as_environment(),
            stdout=log,
            stderr=log,
        )

    def end() -> None:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()

    stack.callback(end)
    return process.pid


@contextmanager
def everything(folder: Path) -> Iterator[Stand]:
    """All of Herald, as `herald up` runs it."""
    with whole(folder, **GIVEN) as running:
        parts = running.supervisor.parts
        yield Stand(running.settings, {name: part.process.pid for name, part in parts.items() if part.process}, True)


def complaints(folder: Path) -> list[str]:
    """Lines of the services' logs that tell of a fault of ours."""
    found = []
    for path in sorted(folder.rglob("*.log")):
        lines = path.read_text("utf-8", "replace").splitlines() if "broker" not in str(path) else []
        found += [
            f"{path.name}: {line[:300]}"
            for line in lines
            if "Traceback" in line or "CRITICAL" in line or " ERROR " in line
        ]
    return [json.dumps(line, ensure_ascii=False) for line in found]

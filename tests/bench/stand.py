"""What the parts of the benchmark run on: a broker alone with our topics, or everything as `herald up` starts it."""

import random
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from rich.console import Console

from pipeline import topics, up
from pipeline.edge import kafka
from pipeline.parts import STAGES, services, stores
from pipeline.settings import Settings, load
from pipeline.supervisor import Part, Supervisor
from tests.journeys.rig import Whole
from tests.waits import free_ports

QUIET = "WARNING"  # a log line a block would be measured too


class Stand(NamedTuple):
    """A running broker, and the supervisor that more parts can be given to."""

    settings: Settings
    supervisor: Supervisor

    def start(self, names: Iterable[str]) -> None:
        """Start these of our parts, in this order of readiness."""
        wanted = set(names)
        self.supervisor.start([part for part in services(self.settings) if part.name in wanted])


def _settings(folder: str, **changed: object) -> Settings:
    port, controller, clickhouse, collector, delivery, campaigns = free_ports(6)
    return load(
        data_dir=Path(folder),
        kafka_port=port,
        kafka_controller_port=controller,
        clickhouse_port=clickhouse,
        collector_port=collector,
        delivery_port=delivery,
        campaigns_port=campaigns,
        metrics_port=_free_run(len(STAGES)),
        log_level=QUIET,
        **changed,
    )


def _free_run(length: int) -> int:
    """Return the first of so many neighbouring free ports; looked for at random, since others look too."""
    for _ in range(200):
        first = random.randrange(20_000, 30_000)
        if all(_is_free(port) for port in range(first, first + length)):
            return first
    raise RuntimeError(f"no {length} neighbouring free ports between 20000 and 30000")


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def broker(**changed: object) -> Iterator[Stand]:
    """Start the embedded Kafka alone, with our topics, in a folder of its own. changed: settings other than default."""
    with TemporaryDirectory(prefix="herald-bench-") as folder:
        settings = _settings(folder, **changed)
        supervisor = Supervisor(settings)
        try:
            supervisor.start([part for part in stores(settings) if part.name == "broker"])
            topics.apply(settings)
            yield Stand(settings, supervisor)
        finally:
            supervisor.stop()


@contextmanager
def everything(**changed: object) -> Iterator[Whole]:
    """Start all parts in a folder of their own, with the default settings but for these."""
    with TemporaryDirectory(prefix="herald-bench-") as folder:
        settings = _settings(folder, **changed)
        supervisor = up.start(settings, Console(quiet=True))
        try:
            yield Whole(settings, supervisor)
        finally:
            supervisor.stop()


def pids(parts: Mapping[str, Part]) -> dict[str, int | None]:
    """Return each part's process id, None while it is down."""
    return {name: part.process.pid if part.process is not None else None for name, part in parts.items()}


def client(settings: Settings) -> Any:
    """Return a producer for filling topics: it waits for the broker where a collector would not."""
    return kafka.producer(settings, max_block_ms=30_000, delivery_timeout_ms=60_000, linger_ms=5)

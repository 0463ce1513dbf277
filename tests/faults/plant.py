"""The whole of Herald with both stores behind proxies: our own parts see the bad line, the tests see the truth.

Kafka tells its clients where to connect, so the broker has a second listener, advertised at the proxy's port.
"""

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from pipeline import status, up
from pipeline.edge.clickhouse import Unavailable, Warehouse
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.parts import metrics_port
from pipeline.settings import Settings, load
from tests.agents.rig import until
from tests.faults.proxy import Proxy
from tests.journeys.rig import Whole, free_ports, free_run

ROOT = Path(__file__).parents[2]
GAP_MS = 3_000
DISK_MB = 192


def kafka_behind(proxy: Proxy, folder: Path) -> EmbeddedKafka:
    """Start a broker whose second listener is told to clients as the proxy's port; `bootstrap_servers` is the first."""
    port, controller, second = free_ports(3)
    host = "127.0.0.1"
    more = {
        "listeners": f"PLAINTEXT://{host}:{port},FAULTY://{host}:{second},CONTROLLER://{host}:{controller}",
        "advertised.listeners": (
            f"PLAINTEXT://{host}:{port},FAULTY://{host}:{proxy.port},CONTROLLER://{host}:{controller}"
        ),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,FAULTY:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
    }
    proxy.target = second
    running = EmbeddedKafka(KafkaConfig(folder, port, controller, heap_mb=256, more=more))
    running.start()
    return running


class SmallWarehouse:
    """`herald warehouse` on a disk of its own that can be filled (a tmpfs in a mount namespace), or not."""

    def __init__(self, folder: Path, port: int, disk_mb: int) -> None:
        """disk_mb: 0 for the usual disk."""
        self.folder = folder
        settings = load(data_dir=folder, clickhouse_port=port)
        command = [sys.executable, "-m", "pipeline.cli", "warehouse"]
        if disk_mb:
            mount = f'mount -t tmpfs -o size={disk_mb}m none "$0" && exec "$@"'
            command = [*_namespace(), "sh", "-c", mount, str(folder / "clickhouse"), *command]
        (folder / "clickhouse").mkdir(parents=True)
        with (folder / "warehouse.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=settings.as_environment())
        self.url = settings.warehouse_url

    @property
    def disk(self) -> Path:
        """Where its data are, as it sees them."""
        return Path("/proc", str(self.process.pid), "root", *self.folder.parts[1:], "clickhouse")

    def answers(self) -> bool:
        """Say whether it can be asked."""
        assert self.process.poll() is None, (self.folder / "warehouse.log").read_text()[-2_000:]
        try:
            with Warehouse.from_url(self.url) as warehouse:
                warehouse.ping()
        except Unavailable:
            return False
        return True

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _namespace() -> list[str]:
    return ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]


def can_mount(folder: Path) -> bool:
    """Say whether a small disk can be had here: root, or a system that lets users have mount namespaces."""
    command = [*_namespace(), "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


@dataclass
class Plant(Whole):
    """Everything running. `settings` are those of our parts; `direct` reach the stores past the proxies."""

    direct: Settings
    kafka: EmbeddedKafka
    kafka_line: Proxy
    warehouse: SmallWarehouse
    warehouse_line: Proxy
    extra: list["Worker"] = field(default_factory=list)

    def drained(self, timeout_s: float = 120) -> status.Status:
        """Wait until everything is stored."""
        return status.drained(self.direct, timeout_s)

    def ask(self, sql: str, params: object = None) -> list[tuple[object, ...]]:
        """Query the warehouse, past the proxy."""
        with Warehouse.from_url(self.direct.warehouse_url) as warehouse:
            return warehouse.execute(sql)

    def more_workers(self, stage: str) -> "Worker":
        """Start one more worker of a stage; `stop_worker` or the end stops it."""
        return self.more(["worker", stage])

    def more(self, part: list[str], off_ms: int = 0, **changed: object) -> "Worker":
        """Start one more of a part. off_ms: by how much its clock is wrong. changed: other settings."""
        chosen = self.settings.model_copy(update={"metrics_port": free_run(7), **changed})
        module = ["pipeline.cli"] if not off_ms else ["tests.faults.off_clock", str(off_ms)]
        path = self.settings.data_dir / f"extra-{'-'.join(part)}-{len(self.extra)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *module, *part], stdout=log, stderr=log, env=chosen.as_environment(), cwd=ROOT
            )
        self.extra.append(Worker(process, part[-1], chosen))
        return self.extra[-1]

    def restarts(self) -> dict[str, int]:
        """Return how often each part was started again."""
        return {name: part.restarts for name, part in self.supervisor.parts.items()}

    def pids(self) -> dict[str, int]:
        """Return the running parts' process ids, with the stores'."""
        ours = {name: self.supervisor.pid(name) for name in self.supervisor.parts}
        found = {name: pid for name, pid in ours.items() if pid is not None}
        return found | {"broker": self.kafka.pid, "warehouse": self.warehouse.process.pid}


@contextlib.contextmanager
def plant(folder: Path, disk_mb: int = 0, **changed: object) -> Iterator[Plant]:
    """Start everything in this folder, with sessions of GAP_MS; stop it at the end. disk_mb: see SmallWarehouse."""
    with contextlib.ExitStack() as held:
        lines = [held.enter_context(Proxy()) for _ in range(2)]
        kafka = kafka_behind(lines[0], folder / "broker")
        held.callback(kafka.stop)
        collector, delivery, campaigns, port = free_ports(4)
        warehouse = SmallWarehouse(folder / "warehouse", port, disk_mb)
        held.callback(warehouse.stop)
        lines[1].target = port
        kafka.wait_ready(180)  # a loaded machine needs it; a quiet one is ready in seconds
        until(warehouse.answers, "the warehouse answers", 180)
        chosen = {
            "data_dir": folder,
            "kafka_bootstrap_servers": f"127.0.0.1:{lines[0].port}",
            "clickhouse_url": f"clickhouse://default@127.0.0.1:{lines[1].port}/default",
            "collector_port": collector,
            "delivery_port": delivery,
            "campaigns_port": campaigns,
            "metrics_port": free_run(7),
            "restart_session_ms": 6_000,
            "ack_timeout_ms": 3_000,
            "session_gap_ms": GAP_MS,
            **changed,
        }
        settings = load(**chosen)
        past = {"kafka_bootstrap_servers": kafka.bootstrap_servers, "clickhouse_url": warehouse.url}
        supervisor = up.start(settings, Console(quiet=True))
        held.callback(supervisor.stop)
        for line in lines:
            held.callback(line.heal)  # or the parts would wait for what never comes when they are stopped
        found = Plant(settings, supervisor, settings.model_copy(update=past), kafka, lines[0], warehouse, lines[1])
        held.callback(_stop_extra, found.extra)
        yield found


@dataclass
class Worker:
    """One more process of a part. stage: its name there."""

    process: subprocess.Popen[bytes]
    stage: str
    settings: Settings

    def has_state(self) -> bool:
        """Say whether it has joined its group and knows its state. Raises AssertionError if it ended."""
        assert self.process.poll() is None, f"{self.stage} ended with {self.process.poll()}"
        try:
            return b"herald_restore_seconds{" in _read(metrics_port(self.settings, self.stage), "metrics")
        except OSError:
            return False


def _read(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        return bytes(answer.read())


def answers(port: int) -> bool:
    """Say whether a collector on this port is ready."""
    try:
        return bool(_read(port, "readyz"))
    except OSError:
        return False


def stop_worker(worker: Worker) -> None:
    """End a worker in order, also one that was stopped by a signal."""
    process = worker.process
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _stop_extra(workers: list[Worker]) -> None:
    for worker in workers:
        stop_worker(worker)

"""The `herald` command as a user types it, and `herald up` in a terminal of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from pipeline.edge.clickhouse import Warehouse
from pipeline.settings import Settings, load
from tests.journeys.rig import free_run
from tests.waits import free_ports

HERALD = str(Path(sys.executable).with_name("herald"))
PARTS = 11  # broker, warehouse, collector, six stages, delivery, campaigns
AUDITOR = 6  # its metrics are on the port after those of the six stages
START_S, STOP_S = 120.0, 60.0


def environment(data_dir: Path, **changes: object) -> dict[str, str]:
    """Return the environment of a user without any Herald settings but a folder and free ports."""
    kafka, controller, clickhouse, collector, delivery, campaigns = free_ports(6)
    ours: dict[str, object] = {
        "HERALD_DATA_DIR": data_dir,
        "HERALD_KAFKA_PORT": kafka,
        "HERALD_KAFKA_CONTROLLER_PORT": controller,
        "HERALD_KAFKA_HEAP_MB": 256,
        "HERALD_CLICKHOUSE_PORT": clickhouse,
        "HERALD_COLLECTOR_PORT": collector,
        "HERALD_DELIVERY_PORT": delivery,
        "HERALD_CAMPAIGNS_PORT": campaigns,
        "HERALD_METRICS_PORT": free_run(7),
        "COLUMNS": 200,
        **changes,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HERALD_")}
    return kept | {name: str(value) for name, value in ours.items()}


def herald(*arguments: str, env: dict[str, str], timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run([HERALD, *arguments], env=env, capture_output=True, text=True, timeout=timeout_s, check=False)


class Up:
    """`herald up` in a terminal of its own."""

    def __init__(self, env: dict[str, str], said: Path) -> None:
        self.env, self.said = env, said
        with said.open("wb") as output:
            self.process = subprocess.Popen([HERALD, "up"], env=env, stdout=output, stderr=subprocess.STDOUT)
        self.family: list[psutil.Process] = []

    def wait_until_it_runs(self) -> None:
        """Wait for the last line that it prints, and remember all its processes."""
        deadline = time.monotonic() + START_S
        while "logs  " not in self.said.read_text("utf-8"):
            assert self.process.poll() is None, self.said.read_text("utf-8")
            assert time.monotonic() < deadline, self.said.read_text("utf-8")
            time.sleep(0.1)
        self.remember()

    def remember(self) -> None:
        """Take note of all its processes."""
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def part(self, *arguments: str) -> psutil.Process:
        """Return the process of a part by what it was started with: `broker`, or `worker` and `learn`."""
        for one in psutil.Process(self.process.pid).children():
            if one.cmdline()[-len(arguments) :] == list(arguments):
                return one
        raise AssertionError(f"herald up runs no {' '.join(arguments)}")

    def port(self, name: str, step: int = 0) -> int:
        """Return a port from its settings: `COLLECTOR`. step: beyond it."""
        return int(self.env[f"HERALD_{name}_PORT"]) + step

    def settings(self) -> Settings:
        """Return the settings that it runs with."""
        given = {name: value for name, value in self.env.items() if name.startswith("HERALD_")}
        return load(**{name.removeprefix("HERALD_").lower(): value for name, value in given.items()})

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        """Query the warehouse."""
        with Warehouse.from_url(f"clickhouse://default@127.0.0.1:{self.port('CLICKHOUSE')}/default") as warehouse:
            return warehouse.execute(sql)

    def audited(self) -> dict[str, float]:
        """Return what the running auditor tells: sample with its labels -> value."""
        text = httpx.get(f"http://127.0.0.1:{self.port('METRICS', AUDITOR)}/metrics").text
        samples = (line.rpartition(" ") for line in text.splitlines() if line.startswith("herald_"))
        return {name: float(value) for name, _, value in samples}

    def left(self) -> list[str]:
        """Return which of its processes still run."""
        return [" ".join(one.cmdline()) for one in self.family if one.is_running() and one.status() != "zombie"]

    def wait_until_nothing_is_left(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.left():
            assert time.monotonic() < deadline, self.left()
            time.sleep(0.1)

    def clear(self) -> None:
        """Whatever a failed test left: our own processes only."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for one in self.family:
            if one.is_running():
                one.kill()


def drained(env: dict[str, str]) -> dict[str, object]:
    """Return what `herald status --json` says once nothing is in flight."""
    deadline = time.monotonic() + 90
    while True:
        answer = herald("status", "--json", env=env)
        if answer.returncode == 0:  # 1 while a store is away
            found = dict(json.loads(answer.stdout))
            if not any(row["in_flight"] for row in rows_of(found)):
                return found
        assert time.monotonic() < deadline, answer.stdout + answer.stderr
        time.sleep(0.3)


def rows_of(status: dict[str, object]) -> list[dict[str, int]]:
    """The books of a status as JSON, by partition."""
    names = ("partition", "received", "stored", "refused", "duplicate", "in_flight")
    books = status["books"]
    assert isinstance(books, list)
    return [row if isinstance(row, dict) else dict(zip(names, row, strict=True)) for row in books]


def stored(up: Up, condition: str) -> int:
    """Count events in the warehouse."""
    return int(str(up.ask(f"SELECT count() FROM events FINAL WHERE {condition}")[0][0]))  # noqa: S608


def processes_with(data_dir: Path) -> list[str]:
    """Return command lines of all processes that work in this data folder."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.environ().get("HERALD_DATA_DIR") == str(data_dir) and one.status() != "zombie":
                found.append(" ".join(one.cmdline()))
        except psutil.Error:
            continue
    return found

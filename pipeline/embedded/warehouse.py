"""The embedded warehouse: one process that owns a ClickHouse engine and answers on a loopback port.

Everybody else reaches it with `pipeline.edge.clickhouse`, exactly as a ClickHouse server.

What survives: an acknowledged insert is written and renamed into place, so it survives the death of this process by any
signal at any moment. Against a power cut a part must also be synced (`fsync_after_insert`, off by default as in
ClickHouse); without it the last seconds can be lost, and the log in Kafka holds them.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Final, Self

from pipeline.errors import EmbeddedError

_CONFIG_VARIABLE: Final = "HERALD_EMBEDDED_WAREHOUSE"
_STOP_WAIT_S: Final = 10.0
_PROBE: Final = b"\x00\x05probe\x01\x00\xa8\xa9\x03\x00\x00\x00"
"""A Hello of a client named probe, revision 54440, with no user: refused, but answered."""


@dataclass(frozen=True)
class WarehouseConfig:
    """How the embedded warehouse runs.

    data_dir: parent of the folder `clickhouse` with the data. port: of the native protocol. host: address to bind.
    memory_mb_max: of the engine, MB, three quarters of it for one query; above it a query fails with code 241.
    threads: of one query; background merges get as many.
    clients_max: connections at once. user, password: the one account.
    fsync: sync each insert to the disk before it is acknowledged (13.5 instead of 9 ms, measured).
    """

    data_dir: Path
    port: int = 9000
    host: str = "127.0.0.1"
    memory_mb_max: int = 2048
    threads: int = 2
    clients_max: int = 200
    user: str = "default"
    password: str = ""
    fsync: bool = False

    @property
    def data_path(self) -> Path:
        """Where the engine keeps its data."""
        return self.data_dir / "clickhouse"

    @property
    def log_path(self) -> Path:
        """What the process has to say when a parent starts it."""
        return self.data_dir / "warehouse.log"

    def url(self, database: str = "default") -> str:
        """Return the address for `pipeline.edge.clickhouse.Warehouse.from_url`."""
        account = f"{self.user}:{self.password}@" if self.password or self.user != "default" else ""
        return f"clickhouse://{account}{self.host}:{self.port}/{database}"


def run(config: WarehouseConfig, report: Callable[[str], None], parent: int | None = None) -> int:
    """Serve in the foreground until SIGTERM or SIGINT, or until the process `parent` is no longer our parent.

    report: is given a line on each step and on what went wrong. Returns the exit code: 0 stopped, 1 could not run.
    """
    # Here, not above: importing the engine takes a second and 260 MB, and the supervisor needs only the class below.
    from pipeline.embedded.native.engine import Engine
    from pipeline.embedded.native.faults import ServerError
    from pipeline.embedded.native.server import Server
    from pipeline.embedded.native.tuning import write_engine_config

    stop = _Stop(parent)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_lock(config))
            listener = held.enter_context(_listen(config))
            limits = {"max_threads": config.threads, "max_memory_usage": config.memory_mb_max * 750_000}
            path = config.data_dir / "warehouse.xml"
            write_engine_config(path, config.memory_mb_max, config.threads, config.fsync)
            engine = Engine(config.data_path, path, limits)
        except EmbeddedError as error:
            report(str(error))
            return 1
        except ServerError as error:
            report(f"the warehouse in {config.data_path} cannot be opened: {error}")
            return 1
        server = Server(engine, listener, (config.user, config.password), config.clients_max)
        version = ".".join(map(str, engine.version))
        report(f"warehouse: ClickHouse {version} on {config.host}:{config.port}, data in {config.data_path}")
        server.serve(stop)
        report("warehouse: stopping")
        if server.stop(_STOP_WAIT_S):
            engine.close()
    return 0


class _Stop:
    """Says when to stop: after a signal, or when the parent has died (the system then gives us another one)."""

    def __init__(self, parent: int | None) -> None:
        self._parent = parent
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def __call__(self) -> bool:
        # Not PR_SET_PDEATHSIG: Linux sends that when the *thread* that started us ends, and there is none elsewhere.
        return self._asked or (self._parent is not None and os.getppid() != self._parent)


def _lock(config: WarehouseConfig) -> IO[str]:
    """Take the folder for this process; the system gives it back when the process dies, however it dies."""
    if any(sign in str(config.data_dir) for sign in "?&"):
        raise EmbeddedError(f"HERALD_DATA_DIR {config.data_dir} has a '?' or '&' in it; the engine cannot open that")
    try:
        config.data_path.mkdir(parents=True, exist_ok=True)
        lock = (config.data_dir / "warehouse.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise EmbeddedError(f"HERALD_DATA_DIR {config.data_dir} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise EmbeddedError(
            f"the warehouse folder {config.data_path} is in use by process {holder}; "
            "stop that one, or set HERALD_DATA_DIR to another folder"
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _listen(config: WarehouseConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise EmbeddedError(
            f"the warehouse cannot listen on {config.host}:{config.port}: {error.strerror}; "
            "stop what uses the port, or set HERALD_CLICKHOUSE_PORT to a free one"
        ) from error
    return listener


class EmbeddedWarehouse:
    """The warehouse as a child process; it ends with its parent, however that one ends."""

    def __init__(self, config: WarehouseConfig) -> None:
        """Start nothing yet."""
        self.config = config
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def returncode(self) -> int | None:
        """Exit code once it has ended (negative: the signal), else None."""
        return self._process.poll() if self._process is not None else None

    def start(self) -> None:
        """Start the process; returns at once, see `wait_ready`. Its output goes to `config.log_path`."""
        self.config.data_dir.mkdir(parents=True, exist_ok=True)
        values = {**dataclasses.asdict(self.config), "data_dir": str(self.config.data_dir), "parent": os.getpid()}
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        # By environment, not by argument: it holds a password, and arguments are for all to see.
        environment = {**os.environ, _CONFIG_VARIABLE: json.dumps(values), "PYTHONPATH": os.pathsep.join(paths)}
        with self.config.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.embedded.warehouse"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when it answers. Raises EmbeddedError with its last words when it has died, or on time-out."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if self.pid is None:
                raise EmbeddedError(f"the warehouse did not start: {self.last_words()}")
            if _answers(self.config):
                return
            time.sleep(0.05)
        raise EmbeddedError(f"the warehouse did not answer within {timeout_s:.0f} s: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of its log."""
        try:
            lines = self.config.log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return " | ".join(lines[-5:]) or "it said nothing"

    def stop(self, timeout_s: float = 20.0) -> None:
        """End it in peace; by force after timeout_s. Harmless when it does not run."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it by force (SIGKILL) and wait until it is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        """Start it and wait until it answers."""
        self.start()
        try:
            self.wait_ready()
        except EmbeddedError:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()


def _answers(config: WarehouseConfig) -> bool:
    """Say whether the port greets back; a refusal of this stranger's hello is as good a sign of life."""
    try:
        with socket.create_connection((config.host, config.port), timeout=1.0) as client:
            client.sendall(_PROBE)
            return bool(client.recv(1))
    except OSError:
        return False


def main() -> int:
    """Entry of the child process: settings come in the environment from `EmbeddedWarehouse.start`."""
    raw = os.environ.pop(_CONFIG_VARIABLE, "")
    if not raw:
        print(f"{_CONFIG_VARIABLE} is not set; this is started by the supervisor, not by hand", file=sys.stderr)
        return 2
    values = json.loads(raw)
    parent = values.pop("parent")
    values["data_dir"] = Path(values["data_dir"])
    return run(WarehouseConfig(**values), lambda line: print(line, flush=True), parent)


if __name__ == "__main__":
    # Without os._exit the engine's threads may keep a half-closed process alive.
    code = main()
    sys.stdout.flush()
    os._exit(code)

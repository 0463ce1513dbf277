"""`herald up`: all parts on one machine, each its own process; one that dies is started again.

The children are told when we die (the end of their standard input), so that a `kill -9` of the supervisor leaves
nothing behind. Their logs go to files in data_dir/logs.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.edge import metrics
from pipeline.errors import HeraldError
from pipeline.settings import Settings

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 10.0
FAILURES_MAX = 3
STEADY_S = 30.0  # a part that ran so long starts again at once
STOP_S = 20.0
LOOK_EVERY_S = 0.25
HERALD = (sys.executable, "-m", "pipeline.cli", "--supervised")
MEMORY = {"MALLOC_ARENA_MAX": "2"}  # glibc keeps what threads free in arenas of their own: a third more memory


class PartFailed(HeraldError):
    """A part did not become ready; the text holds its last words."""


@dataclass
class Part:
    """One process. is_ready answers without raising; stop_order: lower ones stop first; niceness: as `nice` has it."""

    name: str
    arguments: list[str]
    is_ready: Callable[[], bool]
    stop_order: int = 0
    niceness: int = 0
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    backoff_s: float = BACKOFF_FIRST_S
    again_s: float = 0.0
    restarts: int = 0


class Supervisor:
    """Starts parts, watches them from a thread, stops them in order."""

    def __init__(self, settings: Settings, program: Sequence[str] = HERALD) -> None:
        """Nothing runs yet. program: takes the arguments of a part, and ends when its standard input does."""
        self.settings = settings
        self._program = program
        self.parts: dict[str, Part] = {}
        self._logs = settings.data_dir / "logs"
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._lock = threading.RLock()

    def start(self, parts: Sequence[Part], timeout_s: float = 90.0) -> None:
        """Start these parts at once and wait until all are ready. Raises PartFailed with a part's last words."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with self._lock:
            foundation = list(self.parts.values())
            for part in parts:
                self.parts[part.name] = part
                self._spawn(part)
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
            self._watcher.start()
        deadline = time.monotonic() + timeout_s
        for part in parts:
            self._await(part, foundation, deadline)

    def _await(self, part: Part, foundation: Sequence[Part], deadline: float) -> None:
        """foundation: what was started before; a part that ends while one of those is away has not failed itself."""
        forgiven = 0
        while not part.is_ready():
            if not all(other.is_ready() for other in foundation):
                forgiven = part.restarts
            failed = part.restarts - forgiven >= FAILURES_MAX
            if failed or time.monotonic() > deadline or self._stopping.is_set():
                raise PartFailed(f"{part.name} did not become ready; its last words:\n{self.last_words(part.name)}")
            time.sleep(0.1)

    def _spawn(self, part: Part) -> None:
        with (self._logs / f"{part.name}.log").open("ab") as log_file:
            part.process = subprocess.Popen(
                [*self._program, *part.arguments],
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                env=self.settings.as_environment() | MEMORY,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop the parts in our own order
            )
        if part.niceness:
            give_way(part.process.pid, part.niceness)
        part.started_s = time.monotonic()

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            with self._lock:
                for part in self.parts.values():
                    self._look_at(part)

    def _look_at(self, part: Part) -> None:
        now = time.monotonic()
        if part.process is not None and part.process.poll() is not None:
            code, ran_s = part.process.returncode, now - part.started_s
            _let_go(part.process)
            part.backoff_s = BACKOFF_FIRST_S if ran_s > STEADY_S else min(BACKOFF_MAX_S, part.backoff_s * 2)
            part.again_s, part.process = now + part.backoff_s, None
            part.restarts += 1
            metrics.RESTARTS.labels(part.name).inc()
            log.warning(
                "%s ended with %s after %.0f s; starting again in %.1f s", part.name, code, ran_s, part.backoff_s
            )
        elif part.process is None and now >= part.again_s and not self._stopping.is_set():
            try:
                self._spawn(part)
            except OSError as error:  # no memory or no process to be had: the others must still be watched
                part.again_s = now + BACKOFF_MAX_S
                log.error("%s could not be started: %s", part.name, error)

    def pid(self, name: str) -> int | None:
        """Return a part's process id, or None while it is down."""
        process = self.parts[name].process
        return process.pid if process is not None and process.poll() is None else None

    def last_words(self, name: str, lines: int = 12) -> str:
        """Return the end of a part's log."""
        path = self._logs / f"{name}.log"
        return "\n".join(_tail(path, lines)) if path.exists() else "(no log)"

    def stop(self) -> None:
        """Stop all parts: those that take work in first, the broker last. SIGTERM, then SIGKILL."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._lock:
            for order in sorted({part.stop_order for part in self.parts.values()}):
                group = [part for part in self.parts.values() if part.stop_order == order and part.process is not None]
                _stop_all(group)


def give_way(pid: int, niceness: int) -> None:
    """Make a process that leads its session nice, also towards the other parts, which have sessions of their own.

    Linux shares the cores out between sessions first (sched(7), autogroup): there niceness is the session's.
    """
    os.setpriority(os.PRIO_PROCESS, pid, niceness)
    with contextlib.suppress(OSError):  # no such file: not Linux, or a kernel without it; or it is gone already
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))


def _stop_all(group: Sequence[Part]) -> None:
    for part in group:
        assert part.process is not None
        part.process.terminate()
    deadline = time.monotonic() + STOP_S
    for part in group:
        assert part.process is not None
        try:
            part.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop within %.0f s: killed", part.name, STOP_S)
            part.process.kill()
            part.process.wait()
        _let_go(part.process)


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Close our end of an ended process's standard input."""
    if process.stdin is not None:
        process.stdin.close()


def _tail(path: Path, lines: int) -> list[str]:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 64_000))
        return file.read().decode("utf-8", "replace").splitlines()[-lines:]

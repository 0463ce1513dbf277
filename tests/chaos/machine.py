"""`herald up` as a process of its own, which may be killed like any other: it is started again, as by systemd."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from pipeline.parts import services, stores
from pipeline.settings import Settings
from tests.chaos.plan import SUPERVISOR
from tests.journeys.rig import Running

AGAIN_S = 0.5
STOP_S = 60.0
LOOK_S = 0.05


class Machine(Running):
    """Everything running, from `with` on. Its parts are found as an operator finds them: in the table of processes."""

    def __init__(self, settings: Settings, log: Path) -> None:
        """log: file for what the supervisor says."""
        super().__init__(settings)
        self._log = log
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self.starts = 0

    def __enter__(self) -> Self:
        """Start and wait until all is ready."""
        self._keeper.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop everything, whatever happened."""
        self.stop()

    def _keep(self) -> None:
        """Start the supervisor whenever it does not run."""
        while not self._stopping.is_set():
            with self._log.open("ab") as log:
                # --supervised: it ends when we do, however we end
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "pipeline.cli", "--supervised", "up"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=self.settings.as_environment(),
                    start_new_session=True,
                )
            self.starts += 1
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._stopping.wait(AGAIN_S)

    def wait_ready(self, timeout_s: float = 180) -> None:
        """Wait until every part answers."""
        until = time.monotonic() + timeout_s
        waiting = [*stores(self.settings), *services(self.settings)]
        while waiting:
            waiting = [part for part in waiting if not part.is_ready()]
            if waiting and time.monotonic() > until:
                names = ", ".join(part.name for part in waiting)
                raise TimeoutError(f"not ready after {timeout_s:.0f} s: {names}; see {self.settings.data_dir / 'logs'}")
            time.sleep(LOOK_S)

    def pids(self) -> dict[str, int]:
        """Return the processes that run now, by part; the supervisor too."""
        process = self._process
        if process is None or process.poll() is not None:
            return {}
        found = {SUPERVISOR: process.pid}
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children():
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    words = child.cmdline()
                    if "--supervised" in words:
                        found[words[-1]] = child.pid
        return found

    def kill(self, part: str, depth: int, timeout_s: float = 300) -> bool:
        """kill -9 a part; where it is down at the moment, once it is up. Return False where it did not come up.

        depth: 1 kills the broker's Java alone, 0 the process that started it (and with it Java).
        """
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            pid = self.pids().get(part)
            if pid is not None:
                with suppress(ProcessLookupError, psutil.NoSuchProcess):  # it ended by itself just now
                    below = psutil.Process(pid).children() if part == "broker" and depth else []
                    os.kill(below[0].pid if below else pid, signal.SIGKILL)
                    return True
            time.sleep(LOOK_S)
        return False

    def hold(self, *parts: str) -> None:
        """Stop these in their tracks: they write no more ticks, so the log has an end."""
        for part in parts:
            os.kill(self.pids()[part], signal.SIGSTOP)

    def go_on(self, *parts: str) -> None:
        """Let them go on."""
        for part in parts:
            os.kill(self.pids()[part], signal.SIGCONT)

    def stop(self) -> None:
        """End everything and wait for it."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        family = [psutil.Process(process.pid), *_below(process.pid)] if process.poll() is None else []
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        _, alive = psutil.wait_procs(family, timeout=STOP_S)
        for left in alive:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        self._keeper.join(STOP_S)


def _below(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []

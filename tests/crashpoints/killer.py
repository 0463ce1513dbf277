"""Kills a process right before the N-th system call that could change anything outside of it."""

import errno
import os
import signal
import threading
from typing import Self

from tests.crashpoints import ptrace
from tests.crashpoints.life import Life


class Killer:
    """Follows a process, all its threads, from `with` on, and kills it before its call number `at`.

    hits: the calls counted so far, in words. struck: the call that never happened, or None while it lives.
    A process that is still alive at the end of the `with` is killed there: that is the point behind the last call.
    """

    def __init__(self, pid: int, at: int | None, only: str = "") -> None:
        """at: from 1; None only counts. only: count no calls but those whose names begin so."""
        self.pid, self.at, self.only = pid, at, only
        self.hits: list[str] = []
        self.struck: str | None = None
        self._fresh: set[int] = set()  # seized, and not yet heard of
        self._attached = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)

    def __enter__(self) -> Self:
        """Attach; returns once every thread is followed. Raises Traced where that is not allowed."""
        self._life = Life(self.pid)
        self._thread.start()
        self._attached.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is still alive and stop following."""
        self._life.kill()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        # All of ptrace belongs to the thread that attached. When it ends, what is left is let go, and dies of EXITKILL.
        try:
            self._attach()
            while (happened := ptrace.wait()) is not None:
                if not self._goes_on(*happened):
                    break
                self._fresh.discard(happened[0])
                if not self._fresh:
                    self._attached.set()
        except BaseException as error:  # noqa: BLE001 - told to the thread that asked
            self._failure = error
        finally:
            self._attached.set()

    def _attach(self) -> None:
        seen: set[int] = set()
        while new := ptrace.threads(self.pid) - seen:
            seen |= new
            for tid in new:
                if self._seized(tid):
                    self._fresh.add(tid)

    def _seized(self, tid: int) -> bool:
        """Attach to a thread; False where it has ended. One born while we attach to the others is ours already."""
        try:
            ptrace.call(ptrace.SEIZE, tid, ptrace.OPTIONS)
            ptrace.call(ptrace.INTERRUPT, tid)
        except ptrace.Traced as error:
            if tid not in ptrace.threads(self.pid):
                return False
            if error.errno != errno.EPERM or not _is_ours(self.pid, tid):
                raise
        return True

    def _goes_on(self, tid: int, status: int) -> bool:
        """Deal with one thing that happened; False where it was the end of the process."""
        if os.WIFSIGNALED(status) or (os.WIFEXITED(status) and tid == self.pid):
            return False
        if not os.WIFSTOPPED(status):
            return True
        number, event, passed_on = os.WSTOPSIG(status), status >> 16, 0
        request = ptrace.CONT_SYSCALL
        if number == signal.SIGTRAP | 0x80:
            if not self._counted(tid):
                return False
        elif event == ptrace.EVENT_STOP and number != signal.SIGTRAP:
            request = ptrace.LISTEN  # stopped by SIGSTOP and the like: stays so
        elif event == 0:
            passed_on = number
        self._resume(request, tid, passed_on)
        return True

    def _resume(self, request: int, tid: int, passed_on: int) -> None:
        try:
            ptrace.call(request, tid, passed_on)
        except ptrace.Traced as error:
            if error.errno != errno.ESRCH:  # else it was killed meanwhile
                raise

    def _counted(self, tid: int) -> bool:
        """Count the call that a thread has stopped at; False where this was the one to die at."""
        try:
            found = ptrace.entered(tid)
        except ptrace.Traced as error:
            if error.errno != errno.ESRCH:
                raise
            return True
        if found is None or not found.name.startswith(self.only) or not ptrace.is_writing(self.pid, found):
            return True
        words = ptrace.told(self.pid, found)
        if words is None:
            return True
        self.hits.append(words)
        if len(self.hits) != self.at:
            return True
        os.kill(self.pid, signal.SIGKILL)  # it has stopped before the call, and never gets to it
        self.struck = self.hits[-1]
        return False


def _is_ours(pid: int, tid: int) -> bool:
    with open(f"/proc/{pid}/task/{tid}/status", encoding="ascii") as lines:  # noqa: PTH123
        return any(line.startswith("TracerPid:") and int(line.split()[1]) == os.getpid() for line in lines)

"""Whether a process has ended, told without a wait for it: a parent's wait would take the stops that a tracer needs."""

import contextlib
import os
import select
import signal


class Life:
    """One process, from its start to its end. Not Popen.poll while it is traced: that waits."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """True once all its threads are gone."""
        return self._ended(0)

    def wait(self) -> None:
        """Return once it is over."""
        self._ended(None)

    def kill(self) -> None:
        """SIGKILL, where it lives; and wait for its end."""
        if not self._is_over:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            self.wait()

    def _ended(self, timeout_s: float | None) -> bool:
        if not self._is_over and select.select([self._descriptor], [], [], timeout_s)[0]:
            self._is_over = True
            os.close(self._descriptor)
        return self._is_over

"""A Java process that cannot outlive us, and its last words.

Place in the flow: `pipeline.embedded.kafka` starts the broker through this; nothing here knows Kafka.

On Linux the kernel kills the child when its parent is gone, `kill -9` included (PR_SET_PDEATHSIG). It goes by the
*thread* that started the child, so a thread of our own starts it and stays until it ends. And it is asked for by a
small program that then turns into Java, because code between fork and exec in a process with threads can deadlock.

macOS has no such call. There a child whose parent was killed goes on; it holds the lock of its data directory, and
the next start stops it (`pipeline.embedded.kafka`).
"""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent died before the broker was started")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Child:
    """One child process, from its start to its end; safe to use from any thread.

    command: absolute path of the program, and its arguments.
    output: file that takes stdout and stderr, emptied first.
    keep_open: file descriptor handed on to the child; a lock on it lives as long as the child.
    Raises OSError if there is no process to be had.
    """

    def __init__(self, command: Sequence[str], output: Path, keep_open: int) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._spawned = threading.Event()
        self._exited = threading.Event()
        thread = threading.Thread(
            target=self._keep, args=(command, output, keep_open), name="embedded-child", daemon=True
        )
        thread.start()
        self._spawned.wait()
        if self._failure is not None:
            raise self._failure

    def _keep(self, command: Sequence[str], output: Path, keep_open: int) -> None:
        try:
            with output.open("wb") as stream:
                self._process = subprocess.Popen(
                    # -I -S: nothing of the user's site or environment runs before Java does
                    [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    pass_fds=(keep_open,),
                    env={**os.environ, "LC_ALL": "C.UTF-8"},  # without a locale Java opens no path beyond ASCII
                    process_group=0,  # Ctrl-C in a terminal reaches us alone; we stop the child in our own order
                )
        except OSError as error:
            self._failure = error
            return
        finally:
            self._spawned.set()
        self._process.wait()
        self._exited.set()

    @property
    def pid(self) -> int:
        """Java's process id; only after the start."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it, as subprocess has it."""
        return self._process.returncode if self._process is not None and self._exited.is_set() else None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the child; says whether it has ended."""
        return self._exited.wait(timeout_s)

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, up to timeout_s seconds for an orderly end, then SIGKILL."""
        assert self._process is not None
        self._process.terminate()
        if not self.wait(timeout_s):
            self._process.kill()
            self.wait()


def last_lines(files: Sequence[tuple[Path, int]], count: int = 20) -> str:
    """The last lines of what was written into the files, each from its offset in bytes on.

    Frames of Java's stack traces are left out: twenty of them would hide the message above them.
    """
    lines: list[str] = []
    for path, offset in files:
        if not path.exists():
            continue
        with path.open("rb") as stream:
            stream.seek(offset if path.stat().st_size >= offset else 0)  # shorter: the file was turned over
            lines += stream.read().decode("utf-8", "replace").splitlines()
    kept = [line for line in lines if line.strip() and not line.lstrip().startswith(("at ", "... "))]
    return "\n".join(kept[-count:])

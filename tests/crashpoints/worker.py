"""A process that does one unit of work for each line that it is given, and says `done`: the one that is killed."""

import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.crashpoints.life import Life

ANSWER_S = 60.0


class Worker:
    """It is started where none lives, and may be killed at any moment."""

    def __init__(self, module: str, said: Path, environment: Mapping[str, str] | None = None) -> None:
        """module: run as a program; it says `ready` first. said: takes what it writes beside. environment: or ours."""
        self._module, self._said, self._environment = module, said, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._life: Life | None = None

    @property
    def is_over(self) -> bool:
        """True where none lives."""
        return self._life is None or self._life.is_over

    @property
    def pid(self) -> int:
        """The one that lives, or did last."""
        assert self._life is not None
        return self._life.pid

    @property
    def last_words(self) -> str:
        """What it has written beside, or the end of that."""
        return self._said.read_text()[-2_000:]

    def start(self) -> None:
        """Have a new one."""
        self.close()
        with self._said.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._life = Life(self._process.pid)
        assert self._says("ready"), self.last_words

    def do(self, line: bytes) -> None:
        """Have a unit of work done; returns when it is, or when the process ends on it."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()
        self._says("done")

    def close(self) -> None:
        """Kill it, where it lives."""
        if self._life is not None:
            self._life.kill()
        if self._process is not None:
            for end in (self._process.stdin, self._process.stdout):
                if end is not None:
                    end.close()
            self._process.wait()

    def _says(self, word: str) -> bool:
        """Wait for the process to say something; False where it ends before."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], ANSWER_S)[0], f"{self._module} says nothing"
        return self._process.stdout.readline().decode().strip() == word

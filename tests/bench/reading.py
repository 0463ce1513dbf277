"""c. A measured process's own account: CPU and wall time from the end of its warm-up to its last output."""

import os
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from tests.bench.processes import memory

WARM_SHARE = 5  # the first fifth is not measured: joining, first topics, first pages of memory
MARK = "measured: "


class Job(Struct, frozen=True):
    """What a measured process is told. The topics exist already."""

    engine: str
    broker: str
    group: str
    source: str
    events: str
    sessions: str
    profiles: str
    partitions: int
    records: int
    folder: str


class Account(Struct, frozen=True):
    """What it says at the end. records: the measured ones; cpu_us: CPU for each."""

    records: int
    per_s: float
    cpu_us: float
    peak_mib: float


class Reading:
    """Counts records; reports on standard output."""

    def __init__(self, job: Job) -> None:
        """Begin to measure after the first of WARM_SHARE parts."""
        self._records, self._warm = job.records, max(1, job.records // WARM_SHARE)
        self._taken = 0
        self._began = (0.0, 0.0)
        self._done: Callable[[], object] | None = None

    def when_done(self, call: Callable[[], object]) -> None:
        """Have this called with the last record."""
        self._done = call

    def add(self) -> bool:
        """Count a record that is done; True with the last one."""
        self._taken += 1
        if self._taken == self._warm:
            self._began = (time.monotonic(), time.process_time())
        if self._taken < self._records:
            return False
        if self._done is not None:
            self._done()
        return True

    def report(self) -> None:
        """Print an Account; call it when all rows have been written."""
        measured = self._taken - self._warm
        wall_s, cpu_s = time.monotonic() - self._began[0], time.process_time() - self._began[1]
        account = Account(measured, measured / wall_s, cpu_s / measured * 1e6, memory(os.getpid()).peak_mib)
        print(MARK + msgspec.json.encode(account).decode(), flush=True)

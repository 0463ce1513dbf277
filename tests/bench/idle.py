"""j. What `herald up` costs while nothing comes in: CPU of each of its processes, as a share of one core."""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.bench.processes import cpu_s, own_cpu_s
from tests.journeys.up_rig import STOP_S, Up, environment

SETTLE_S = 40.0  # the broker's compiler, the first looks of everything, ticks until they are as rare as they get
UP = "up itself"  # the supervisor and the auditor


@dataclass(frozen=True)
class Idle:
    """shares: by part, of one core, 0..1."""

    seconds: float
    shares: dict[str, float]

    @property
    def all(self) -> float:
        """The share of one core that all parts take together."""
        return sum(self.shares.values())


def run(seconds: float) -> Idle:
    """Start everything and leave it alone for so long. Raises RuntimeError where a part ended meanwhile."""
    with TemporaryDirectory(prefix="herald-bench-") as folder:
        up = Up(environment(Path(folder) / "data"), Path(folder) / "said")
        try:
            up.wait_until_it_runs()
            time.sleep(SETTLE_S)
            before, began_s = _spent_s(up.process.pid), time.monotonic()
            time.sleep(seconds)
            after, wall_s = _spent_s(up.process.pid), time.monotonic() - began_s
            up.process.terminate()
            up.process.wait(STOP_S)
        finally:
            up.clear()
    if before.keys() != after.keys():
        raise RuntimeError(f"parts came or went meanwhile: {sorted(before.keys() ^ after.keys())}")
    return Idle(wall_s, {name: (spent_s - before[name, pid]) / wall_s for (name, pid), spent_s in after.items()})


def _spent_s(pid: int) -> dict[tuple[str, int], float]:
    """Return the CPU time so far of each part, s, by (name, process id)."""
    parts = {(child.cmdline()[-1], child.pid): cpu_s(child.pid) for child in psutil.Process(pid).children()}
    return parts | {(UP, pid): own_cpu_s(pid)}

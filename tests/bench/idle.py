"""j. What the whole costs while nothing comes in: CPU of each process, as a share of one core."""

import time
from dataclasses import dataclass

from tests.bench.processes import Watch
from tests.bench.stand import everything, pids

SETTLE_S = 10.0  # the broker's compiler and the first looks of everything


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
    """Start everything and leave it alone for so long."""
    with everything() as running:
        time.sleep(SETTLE_S)
        watch = Watch(lambda: pids(running.supervisor.parts))
        time.sleep(seconds)
        wall_s, spent_s = watch.read()
        return Idle(wall_s, {name: spent / wall_s for name, spent in spent_s.items()})

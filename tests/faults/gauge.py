"""What the parts weigh and how far the warehouse is, watched from outside while a fault lasts."""

import threading
from typing import Self

import psutil

from tests.faults.plant import Plant

EVERY_S = 0.5
MB = 1_048_576


class Gauge:
    """Watches the resident memory of every part, from a thread; use it as a context manager."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauge")
        self.before = self._now()
        self.most = dict(self.before)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._is_over.set()
        self._thread.join()

    def grown_mb(self) -> dict[str, int]:
        """Return by how much each part was larger, at most, than when the gauge was made."""
        return {name: (self.most[name] - self.before.get(name, 0)) // MB for name in self.most}

    def _run(self) -> None:
        while not self._is_over.wait(EVERY_S):
            for name, size in self._now().items():
                self.most[name] = max(self.most.get(name, 0), size)

    def _now(self) -> dict[str, int]:
        found = {}
        for name, pid in self._plant.pids().items():
            try:
                found[name] = int(psutil.Process(pid).memory_info().rss)
            except psutil.NoSuchProcess:  # it ended just now, and is started again
                continue
        return found


def stored(plant: Plant) -> int:
    """Return how many different events of the visitors the warehouse has."""
    ((found,),) = plant.ask("SELECT uniqExact(event_id) FROM events WHERE startsWith(visitor, 'v')")
    return int(str(found))

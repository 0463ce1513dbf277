"""What the parts weigh and how far the warehouse is, watched from outside while a fault lasts."""

import os
import threading
from collections.abc import Mapping
from typing import Self

import psutil

from tests.faults.plant import Plant

EVERY_S = 0.5
MB = 1_048_576


class Gauge:
    """Watches the resident memory of every part, from a thread; use it as a context manager."""

    def __init__(self, plant: Plant, usual: Mapping[str, int]) -> None:
        """usual: bytes of each part while all was well. One that is just being started weighs less than it will."""
        self._plant = plant
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauge")
        now = weights(plant)
        self.before = {name: max(now.get(name, 0), usual.get(name, 0)) for name in {*now, *usual}}
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
            for name, size in weights(self._plant).items():
                self.most[name] = max(self.most.get(name, 0), size)


class Share:
    """How much of this machine's CPU others left to us since this was made. A speed says little without it."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._total_s, self._idle_s = _machine_s()
        self._ours_s = self._used_s()

    def now(self) -> float:
        """Return it: 1 on a machine of our own. Of a part that ended meanwhile nothing is counted as ours."""
        total_s, idle_s = _machine_s()
        passed_s = total_s - self._total_s
        foreign_s = passed_s - (idle_s - self._idle_s) - (self._used_s() - self._ours_s)
        return min(1.0, max(0.01, 1 - foreign_s / passed_s))

    def _used_s(self) -> float:
        used_s = 0.0
        for pid in (os.getpid(), *self._plant.pids().values()):
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            used_s += times.user + times.system
        return used_s


def _machine_s() -> tuple[float, float]:
    """Return seconds of all cores since the start: (all, idle)."""
    times = psutil.cpu_times()
    idle_s = times.idle + getattr(times, "iowait", 0.0)
    counted = (name for name in times._fields if not name.startswith("guest"))  # a guest's are in the user's
    return sum(getattr(times, name) for name in counted), idle_s


def weights(plant: Plant) -> dict[str, int]:
    """Return the resident memory of each part that runs now, bytes."""
    found = {}
    for name, pid in plant.pids().items():
        try:
            found[name] = int(psutil.Process(pid).memory_info().rss)
        except psutil.NoSuchProcess:  # it ended just now, and is started again
            continue
    return found


def stored(plant: Plant) -> int:
    """Return how many different events of the visitors the warehouse has."""
    ((found,),) = plant.ask("SELECT uniqExact(event_id) FROM events WHERE startsWith(visitor, 'v')")
    return int(str(found))

"""What processes cost: CPU and memory of a process with all below it (the broker's is Java, started by ours)."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, process_time

import psutil

MIB = 1_048_576


@dataclass(frozen=True)
class Usage:
    """Resident memory of one part, MiB. peak: the most it ever had (Linux), else what it has now."""

    now_mib: float
    peak_mib: float


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all below it; none where it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and all below it, s, user and system."""
    return sum(own_cpu_s(process.pid) for process in family(pid))


def own_cpu_s(pid: int) -> float:
    """Return the CPU time of a process alone, s, user and system; 0 where it is gone."""
    with suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def memory(pid: int) -> Usage:
    """Return the resident memory of a process and all below it."""
    now = peak = 0
    for process in family(pid):
        with suppress(psutil.NoSuchProcess):
            held = process.memory_info().rss
            now += held
            peak += max(held, _peak_bytes(process.pid))
    return Usage(now / MIB, peak / MIB)


def _peak_bytes(pid: int) -> int:
    """VmHWM, which only Linux keeps; 0 elsewhere."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line.split() for line in text.splitlines() if line.startswith("VmHWM")]
    return int(lines[0][1]) * 1_024 if lines else 0


class Watch:
    """CPU time of named processes since the watch was made."""

    def __init__(self, pids: Callable[[], Mapping[str, int | None]]) -> None:
        """pids: asked now and at the end; a part that was restarted in between raises."""
        self._pids = pids
        self._first = dict(pids())
        self._cpu_s = {name: cpu_s(pid) for name, pid in self._first.items() if pid is not None}
        self._began_s = monotonic()

    def read(self) -> tuple[float, dict[str, float]]:
        """Return (wall s, CPU s by name) since the start. Raises RuntimeError where a process died."""
        wall_s = monotonic() - self._began_s
        for name, pid in self._pids().items():
            if pid != self._first.get(name):
                raise RuntimeError(f"{name} died during the measurement (process {self._first.get(name)})")
        return wall_s, {name: cpu_s(self._first[name] or 0) - before for name, before in self._cpu_s.items()}


def machine_cpu_s() -> float:
    """Return the CPU time that all processes of the machine have taken so far, s."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def yardstick_us() -> float:
    """Return the CPU time of a fixed piece of work, us: on a busy machine a process' own CPU time grows, too."""
    began_s = process_time()
    held: dict[str, int] = {}
    for number in range(40_000):
        held[f"visitor-{number % 7_919}"] = number
    return (process_time() - began_s) * 1e6


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

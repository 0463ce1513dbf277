"""The one place that reads the clock: everything else is told the time."""

import time


def now_ms() -> int:
    """Return the wall clock in ms since 1970 UTC."""
    return time.time_ns() // 1_000_000


def monotonic_s() -> float:
    """Return a clock for durations, s; it never goes back."""
    return time.monotonic()


def boot_s() -> float:
    """Return a clock for durations that goes on while the machine sleeps, s; where there is none, monotonic_s."""
    return time.clock_gettime(_BOOT)


_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

"""The one place that reads the clock: everything else is told the time."""

import time


def now_ms() -> int:
    """Return the wall clock in ms since 1970 UTC."""
    return time.time_ns() // 1_000_000


def monotonic_s() -> float:
    """Return a clock for durations, s; it never goes back."""
    return time.monotonic()

"""Ports that are free, and waiting until something is so: for tests that start processes."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def free_port() -> int:
    """Return a port that nobody listens on."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses now: all held at once, so that they differ."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in held]
    finally:
        for one in held:
            one.close()


def until(look: Callable[[], T], what: str, timeout_s: float = 90, every_s: float = 0.05) -> T:
    """Look until there is something to see, and return it. The time is for a busy machine, and no claim.

    Raises AssertionError saying what never came.
    """
    end = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < end, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(every_s)
    return found

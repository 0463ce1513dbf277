"""Bounds of one HTTP connection."""

from dataclasses import dataclass
from typing import Final

OPEN_MAX: Final = 32
"""Requests of one connection that wait for their answers; no more are read until there are fewer."""
OVERHEAD_BYTES: Final = 65_536
OVERHEAD_FACTOR: Final = 16
"""What chunk sizes, extensions and trailers may add to a body: so much, and so many times what it holds."""
LINGER_BYTES_MAX: Final = 16_777_216
"""Of a body that was refused, taken and dropped so that its sender reads why."""


@dataclass(frozen=True)
class Limits:
    """Bounds of size and time.

    head_s, body_s: for a whole head or body, however slowly it comes; head_s also for the first byte. idle_s: between
    two requests. unread_s: answers that the client does not read. linger_s: a refused body is taken and dropped.
    """

    body_bytes_max: int
    head_bytes_max: int = 16_384
    head_s: float = 10.0
    body_s: float = 10.0
    idle_s: float = 75.0
    unread_s: float = 10.0
    linger_s: float = 2.0
    connections_max: int = 8_192

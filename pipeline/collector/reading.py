"""Reading a request's body within bounds of size and time: Granian itself sets none."""

import asyncio
from collections.abc import Callable
from typing import Any

from pipeline.collector.request import Refusal

BODY_TIMEOUT_S = 10.0
SWEEP_S = 1.0
SMALL_BYTES = 65_536


class BodyReader:
    """Reads bodies of at most body_bytes_max. has_room says whether the buffer could take so many more bytes.

    A timer for each request would cost more than the reading: those under way stand in order of arrival, and a sweep
    each second cancels the ones that are too old.
    """

    def __init__(self, body_bytes_max: int, has_room: Callable[[int], bool], timeout_s: float = BODY_TIMEOUT_S) -> None:
        self._body_bytes_max = body_bytes_max
        self._has_room = has_room
        self._timeout_s = timeout_s
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._held_bytes = 0

    async def read(self, headers: Any, protocol: Any) -> bytes:
        """Return the body. Raises Refusal: 413 too large, 408 too slow, 503 where bodies being read fill the buffer."""
        stated = headers.get("content-length")
        length = int(stated) if stated is not None and stated.isdigit() else -1
        if length > self._body_bytes_max:
            raise self._too_large()
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None, "a request runs in a task"
        self._reading[task] = loop.time()
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP_S, self._sweep, loop)
        try:
            # a short body needs no counting; a long or unmeasured one is counted as it comes
            return await (protocol() if 0 <= length <= SMALL_BYTES else self._read_counted(protocol))
        except asyncio.CancelledError:
            if task not in self._overdue:
                raise
            self._overdue.discard(task)
            task.uncancel()
            raise Refusal(408, "slow_body", f"the body was not complete after {self._timeout_s:.0f} s") from None
        finally:
            del self._reading[task]

    async def _read_counted(self, protocol: Any) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async for part in protocol:
                size += len(part)
                self._held_bytes += len(part)
                if size > self._body_bytes_max:
                    raise self._too_large()
                if not self._has_room(self._held_bytes):
                    raise Refusal(503, "buffer_full", "too many bodies are being read: send again")
                parts.append(bytes(part))
        finally:
            self._held_bytes -= size
        return b"".join(parts)

    def _too_large(self) -> Refusal:
        return Refusal(413, "too_large", f"the body is larger than {self._body_bytes_max} bytes")

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeper = loop.call_later(SWEEP_S, self._sweep, loop) if self._reading else None
        old = loop.time() - self._timeout_s
        for task, since in self._reading.items():
            if since > old:
                break
            self._overdue.add(task)
            task.cancel()

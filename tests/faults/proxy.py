"""A TCP proxy whose line can be made bad on purpose: what a firewall, a dying switch or a full link does.

It runs an event loop in a thread of its own. `fault` says how the line is now and counts at once, also for connections
that are open already; `cut` breaks those. Bytes are never altered: a line that lost some is broken, as TCP would do it.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self

PIECE_BYTES = 65_536
STEP_S = 0.05
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Fault:
    """How a line is. refuses: no new connections, the open ones are reset. holds: nothing passes, nothing is closed.

    loses_answers: what the client sends arrives, what the server answers does not. delay_s: for each piece, each way.
    bytes_per_s: for all connections together, each way; 0 = no limit. reset_share: of pieces that end their connection.
    """

    refuses: bool = False
    holds: bool = False
    loses_answers: bool = False
    delay_s: float = 0.0
    bytes_per_s: int = 0
    reset_share: float = 0.0


WHOLE = Fault()


class _Line:
    """One client's connection and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.ends = [client]
        self.has_lost = False

    def reset(self) -> None:
        """End both sides with RST, as a host that forgot the connection would."""
        for end in self.ends:
            connection = end.get_extra_info("socket")
            if connection is not None and connection.fileno() >= 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()


class Proxy:
    """One port that passes on to another; use it as a context manager."""

    def __init__(self, target: int = 0, seed: int = 0) -> None:
        """target: port of the server, on this host; it may be set later and changed. seed: of `reset_share`."""
        self.target = target
        self.connections = 0
        self.resets = 0
        self._fault = WHOLE
        self._random = random.Random(seed)
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._free_s = {False: 0.0, True: 0.0}
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._guard = _bound(0)  # never listens: while we refuse, no other program may take the port
        self.port = int(self._guard.getsockname()[1])

    @property
    def fault(self) -> Fault:
        """How the line is now."""
        return self._fault

    def set(self, fault: Fault) -> None:
        """Make the line so. Connections that have lost bytes are reset when answers come through again."""
        self._wait_for(self._set(fault))

    def heal(self) -> None:
        """Make the line whole."""
        self.set(WHOLE)

    def cut(self) -> None:
        """Reset what is connected now; new connections are taken."""
        self._wait_for(self._cut())

    def send_to(self, target: int) -> None:
        """Pass on to another port from now on; what is connected is reset."""
        self.target = target
        self.cut()

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        self._wait_for(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        """End, with all connections."""
        self._wait_for(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _wait_for(self, act: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(act, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, sock=_bound(self.port), limit=PIECE_BYTES)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _end(self) -> None:
        await self._refuse()
        self._guard.close()
        await self._cut()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _set(self, fault: Fault) -> None:
        before, self._fault = self._fault, fault
        self._free_s = dict.fromkeys(self._free_s, self._loop.time())
        if fault.refuses:
            await self._refuse()
            await self._cut()
        elif self._server is None:
            await self._listen()
        if before.loses_answers and not fault.loses_answers:
            for line in [line for line in self._lines if line.has_lost]:
                line.reset()

    async def _cut(self) -> None:
        for line in list(self._lines):
            self.resets += 1
            line.reset()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(writer)
        self.connections += 1
        self._lines.add(line)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._connect(line, reader)
        finally:
            for end in line.ends:
                end.close()
            self._lines.discard(line)
            self._tasks.discard(task)

    async def _connect(self, line: _Line, reader: asyncio.StreamReader) -> None:
        await self._pass_when_open()
        try:
            answers, server = await asyncio.open_connection(HOST, self.target, limit=PIECE_BYTES)
        except OSError:
            line.reset()
            return
        line.ends.append(server)
        there = asyncio.ensure_future(self._pump(line, reader, server, False))
        back = asyncio.ensure_future(self._pump(line, answers, line.ends[0], True))
        try:
            await asyncio.gather(there, back)
        finally:
            there.cancel()
            back.cancel()
            await asyncio.gather(there, back, return_exceptions=True)

    async def _pump(self, line: _Line, reader: asyncio.StreamReader, to: asyncio.StreamWriter, is_back: bool) -> None:
        while piece := await reader.read(self._piece_bytes()):
            await self._pass_when_open()
            if is_back and self._fault.loses_answers:
                line.has_lost = True
                continue
            if self._fault.reset_share and self._random.random() < self._fault.reset_share:
                self.resets += 1
                line.reset()
                return
            await self._take_time(len(piece), is_back)
            to.write(piece)
            await to.drain()
        if to.can_write_eof():
            to.write_eof()

    def _piece_bytes(self) -> int:
        limit = self._fault.bytes_per_s
        return max(512, int(limit * STEP_S)) if limit else PIECE_BYTES

    async def _pass_when_open(self) -> None:
        while self._fault.holds:
            await asyncio.sleep(STEP_S)

    async def _take_time(self, size: int, is_back: bool) -> None:
        if self._fault.delay_s:
            await asyncio.sleep(self._fault.delay_s)
        if self._fault.bytes_per_s:
            now = self._loop.time()
            free_s = max(now, self._free_s[is_back])
            self._free_s[is_back] = free_s + size / self._fault.bytes_per_s
            await asyncio.sleep(free_s - now)


def _bound(port: int) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((HOST, port))
    return found

"""The HTTP server: a listening port, its connections, and one look now and then at all of them."""

import asyncio
import contextlib
import resource
from email.utils import formatdate
from typing import Final

from pipeline.http.connection import Connection
from pipeline.http.heads import Heads
from pipeline.http.limits import Limits
from pipeline.http.message import Application

BACKLOG: Final = 1_024
OTHER_FILES: Final = 1_024  # beside connections: the broker's, the logs'


class Server:
    """Serves one application on one port of this event loop."""

    def __init__(self, app: Application, limits: Limits, look_s: float = 1.0) -> None:
        """Nothing listens yet. look_s: what takes too long is seen so late at most."""
        self.app, self.limits, self._look_s = app, limits, look_s
        self.connections: set[Connection] = set()
        self.heads = Heads()
        self.held_bytes = 0  # of bodies being read
        self.is_stopping = False
        self.now_s = 0.0
        self.date = b""
        self._listener: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError where the port cannot be had."""
        _allow_open_files(self.limits.connections_max + OTHER_FILES)
        loop = asyncio.get_running_loop()
        self._look(loop)
        self._listener = await loop.create_server(lambda: Connection(self), host, port, backlog=BACKLOG)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._listener is not None, "asked before start"
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self, timeout_s: float) -> None:
        """Take no more connections, wait for the answers under way, end what is left."""
        loop = asyncio.get_running_loop()
        self.is_stopping = True
        if self._listener is not None:
            self._listener.close()
        until = loop.time() + timeout_s
        while self.connections and loop.time() < until:
            for connection in list(self.connections):
                connection.finish()
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._look_s, self._look, loop)
        self.now_s = loop.time()
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.look(self.now_s)


def _allow_open_files(wanted: int) -> None:
    """Raise the soft limit of open files: the usual 1,024 are fewer than the connections we take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))

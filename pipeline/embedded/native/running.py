"""What runs now, under the clients' query ids, and how it is stopped from outside.

An insert whose client still sends rows is not in the engine yet: it is only marked, and its session gives it up.
"""

import contextlib
import select
import socket
import threading
import time
from enum import Enum
from typing import Final

from pipeline.embedded.native.engine import Engine
from pipeline.embedded.native.faults import ServerError
from pipeline.embedded.native.statement import Shown

_WATCH_S: Final = 0.05
_IDLE_WATCH_S: Final = 0.5  # while nothing runs: the thread should cost nothing then
_CANCEL_PACKET: Final = b"\x03"


class Stop(Enum):
    """Who wants a statement to stop."""

    BY_CLIENT = "the client cancelled"
    BY_KILL = "KILL QUERY"
    CLIENT_GONE = "the client went away"


class Running:
    """One statement of one session while it runs."""

    def __init__(self, tag: str, query_id: str, sql: str, client: socket.socket, is_insert: bool) -> None:
        """Start running."""
        self.sql = sql
        self.tag = tag
        self.query_id = query_id
        self.client = client
        self.is_insert = is_insert
        self.started_s = time.monotonic()
        self.stop: Stop | None = None
        self.in_engine = not is_insert
        self.lock = threading.Lock()
        """Held to enter and leave the engine and to kill in it, so that no kill meets the next statement."""
        self.ended = threading.Event()

    def enter_engine(self) -> None:
        """Hand an insert's rows over. Raises ServerError 394 when it was stopped before."""
        with self.lock:
            if self.stop is not None:
                raise ServerError(394, f"Query was cancelled ({self.stop.value}). (QUERY_WAS_CANCELLED)")
            self.in_engine = True

    def leave_engine(self) -> None:
        """The rows are written, or not."""
        with self.lock:
            self.in_engine = False


class RunningQueries:
    """All statements that run now; a thread watches their clients for Cancel packets and for silence."""

    def __init__(self, engine: Engine) -> None:
        """Start the watching thread."""
        self._engine = engine
        self._lock = threading.Lock()
        self._by_tag: dict[str, Running] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def begin(self, running: Running) -> None:
        """Enter a statement. Raises ServerError 216 when its query id runs already."""
        with self._lock:
            if running.query_id:
                for other in self._by_tag.values():
                    if other.query_id == running.query_id:
                        raise ServerError(
                            216,
                            f"Query with id = {running.query_id} is already running. "
                            "(QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING)",
                        )
            self._by_tag[running.tag] = running

    def end(self, running: Running) -> None:
        """Take a statement out; afterwards no kill can hit its session."""
        with running.lock, self._lock:
            self._by_tag.pop(running.tag, None)
        running.ended.set()

    def shown(self) -> list[Shown]:
        """Return what runs, for system.processes."""
        now_s = time.monotonic()
        with self._lock:
            return [
                Shown(one.tag, one.query_id, one.sql, one.is_insert and not one.in_engine, now_s - one.started_s)
                for one in self._by_tag.values()
            ]

    def tags(self) -> list[str]:
        """Return the tags of the sessions that run something."""
        with self._lock:
            return list(self._by_tag)

    def kill(self, tag: str, stop: Stop) -> Running | None:
        """Stop a session's statement; returns it, or None when it has ended meanwhile."""
        with self._lock:
            running = self._by_tag.get(tag)
        if running is not None:
            self._kill(running, stop)
        return running

    def close(self) -> None:
        """End the watching thread."""
        self._closed.set()
        self._thread.join()

    def _kill(self, running: Running, stop: Stop) -> None:
        with running.lock:
            if running.ended.is_set() or self._by_tag.get(running.tag) is not running:
                return
            running.stop = running.stop or stop
            if running.in_engine:
                self._engine.kill(running.tag)

    def _watch(self) -> None:
        old: list[Running] = []
        while not self._closed.wait(_WATCH_S if old else _IDLE_WATCH_S):
            # A short query is over before anyone can cancel it; that keeps this idle while all are short.
            since = time.monotonic() - _WATCH_S
            with self._lock:
                old = [one for one in self._by_tag.values() if one.started_s < since]
            for running in old:
                # What an insert's client sends is rows, so there is no looking for a Cancel among them.
                stop = running.stop or (None if running.is_insert else _wish_of(running.client))
                if stop is not None:
                    # Again and again: the first kill may have come before the engine had the query, or have failed.
                    with contextlib.suppress(ServerError):
                        self._kill(running, stop)


def _wish_of(client: socket.socket) -> Stop | None:
    """Look, without reading, whether the client cancelled or closed."""
    try:
        poll = select.poll()
        poll.register(client, select.POLLIN)
        if not poll.poll(0):
            return None
        first = client.recv(1, socket.MSG_PEEK)
    except (OSError, ValueError):
        return Stop.CLIENT_GONE
    if not first:
        return Stop.CLIENT_GONE
    return Stop.BY_CLIENT if first == _CANCEL_PACKET else None

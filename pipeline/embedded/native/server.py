"""Accepts clients on the port and gives each a thread."""

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable
from typing import Final

from pipeline.embedded.native import packets
from pipeline.embedded.native.channel import Channel
from pipeline.embedded.native.engine import Engine
from pipeline.embedded.native.faults import ClientGone, ServerError
from pipeline.embedded.native.running import RunningQueries, Stop
from pipeline.embedded.native.session import House, Session

_ACCEPT_TICK_S: Final = 0.2


class Server:
    """The native port over one engine."""

    def __init__(self, engine: Engine, listener: socket.socket, account: tuple[str, str], clients_max: int) -> None:
        """listener: bound and listening. account: user, password. clients_max: the next one is refused (code 202)."""
        self._listener = listener
        self._clients_max = clients_max
        self._stopping = threading.Event()
        self._running = RunningQueries(engine)
        self._house = House(engine, self._running, *account, self._stopping.is_set)
        self._threads: set[threading.Thread] = set()
        self._numbers = itertools.count(1)

    def serve(self, should_stop: Callable[[], bool]) -> None:
        """Accept until should_stop() says so (asked five times a second)."""
        self._listener.settimeout(_ACCEPT_TICK_S)
        while not should_stop():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            self._threads = {thread for thread in self._threads if thread.is_alive()}
            if len(self._threads) >= self._clients_max:
                _turn_away(client, self._clients_max)
                continue
            session = Session(self._house, Channel(client), f"herald-{next(self._numbers)}")
            thread = threading.Thread(target=session.serve, name="session", daemon=True)
            self._threads.add(thread)
            thread.start()

    def stop(self, wait_s: float) -> bool:
        """End the sessions: running queries are killed, inserts that commit may finish. False when some still run."""
        self._listener.close()
        self._stopping.set()
        for tag in self._running.tags():
            self._running.kill(tag, Stop.BY_KILL)
        for thread in self._threads:
            thread.join(wait_s / max(1, len(self._threads)))
        self._running.close()
        return not any(thread.is_alive() for thread in self._threads)


def _turn_away(client: socket.socket, clients_max: int) -> None:
    error = ServerError(202, f"{clients_max} clients are connected already. (TOO_MANY_SIMULTANEOUS_QUERIES)")
    channel = Channel(client)
    with contextlib.suppress(ClientGone):
        channel.send(packets.exception(error))
    # Closing waits a moment for the client to read; the next client shall not wait for that.
    threading.Thread(target=channel.close, daemon=True).start()

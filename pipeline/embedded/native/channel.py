"""The socket of one client: reads that can be interrupted, writes that are whole."""

import select
import socket
import threading
from collections.abc import Callable
from typing import Final

from pipeline.embedded.native.faults import ClientGone
from pipeline.embedded.native.wire import PIECE_BYTES, ByteReader

_TICK_MS: Final = 250
_SEND_TIMEOUT_S: Final = 300
_LINGER_S: Final = 0.5
_LINGER_READS_MAX: Final = 64


class Channel:
    """Bytes to and from one client."""

    def __init__(self, client: socket.socket) -> None:
        """Take over a connected socket."""
        self.socket = client
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.settimeout(_SEND_TIMEOUT_S)
        self._poll = select.poll()
        self._poll.register(client, select.POLLIN)
        self._send_lock = threading.Lock()
        self.on_tick: Callable[[], None] = _nothing
        """Called four times a second while a read waits; may raise to give up the read."""
        self.reader = ByteReader(self._receive)

    def _receive(self) -> bytes:
        try:
            # The first look is free of on_tick, so a busy client costs one system call more, no clock.
            while not self._poll.poll(_TICK_MS):
                self.on_tick()
            received = self.socket.recv(PIECE_BYTES)
        except OSError as error:
            raise ClientGone(str(error)) from error
        if not received:
            raise ClientGone("closed by the client")
        return received

    def send(self, *parts: bytes) -> None:
        """Send all parts. Raises ClientGone."""
        with self._send_lock:
            try:
                for part in parts:
                    self.socket.sendall(part)
            except OSError as error:
                raise ClientGone(str(error)) from error

    def close(self) -> None:
        """Close so that the last packet still arrives: unread bytes would make the system reset the connection."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(_LINGER_S)
            for _ in range(_LINGER_READS_MAX):
                if not self.socket.recv(PIECE_BYTES):
                    break
        except OSError:
            pass  # the client was first, or sends no end: it had its chance
        self.socket.close()


def _nothing() -> None:
    """Do nothing."""

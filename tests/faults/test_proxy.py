"""The proxy itself: a fault that does nothing would make every test behind it pass."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Fault, Proxy


class Echo:
    """A server that sends back what it gets, and keeps it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.got = b""
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
            self.threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                while piece := client.recv(65_536):
                    self.got += piece
                    client.sendall(piece)
            except OSError:
                return

    def stop(self) -> None:
        """End it, once every client has gone."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(10)


@pytest.fixture
def echo() -> Iterator[Echo]:
    found = Echo()
    yield found
    found.stop()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as found:
        yield found


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def asked(client: socket.socket, wait_s: float = 10) -> bytes:
    """Send a word and return what comes back; b"" where nothing does."""
    client.settimeout(wait_s)
    client.sendall(b"word")
    try:
        return client.recv(100)
    except TimeoutError:
        return b""


def test_a_whole_line_passes_everything(proxy: Proxy) -> None:
    with connect(proxy) as client:
        sent = bytes(range(256)) * 4_096
        threading.Thread(target=client.sendall, args=(sent,)).start()
        found = b""
        while len(found) < len(sent):
            found += client.recv(65_536)
    assert found == sent


def test_a_refusing_line_resets_who_is_connected_and_takes_nobody_until_it_is_healed(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"word"
        proxy.set(Fault(refuses=True))
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    with connect(proxy) as client:
        assert asked(client) == b"word"


def test_a_holding_line_passes_nothing_and_then_all_of_it(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"word"
        proxy.set(Fault(holds=True))
        assert asked(client, 0.3) == b""
        assert echo.got == b"word"
        proxy.heal()
        client.settimeout(10)
        assert client.recv(100) == b"word"


def test_lost_answers_were_asked_for_all_the_same(proxy: Proxy, echo: Echo) -> None:
    """The server has the word, the client never hears of it: the connection is reset once the line is whole."""
    with connect(proxy) as client:
        assert asked(client) == b"word"
        proxy.set(Fault(loses_answers=True))
        assert asked(client, 0.5) == b""
        assert echo.got == b"wordword"
        proxy.heal()
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.recv(100)


def test_a_cut_ends_what_is_connected_and_nothing_else(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"word"
        proxy.cut()
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    with connect(proxy) as client:
        assert asked(client) == b"word"


def test_a_slow_line_takes_its_time_and_a_lossy_one_breaks(proxy: Proxy) -> None:
    proxy.set(Fault(bytes_per_s=100_000))
    with connect(proxy) as client:
        began_s = time.monotonic()
        threading.Thread(target=client.sendall, args=(b"x" * 50_000,)).start()
        found = 0
        while found < 50_000:
            found += len(client.recv(65_536))
        assert time.monotonic() - began_s > 0.4
    proxy.set(Fault(reset_share=1.0))
    with connect(proxy) as client, pytest.raises(ConnectionError):
        asked(client)
    assert proxy.resets == 1

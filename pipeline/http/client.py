"""A client of our own HTTP servers, on the event loop: kept connections, one request at a time on each.

It knows what our server sends and no more: HTTP/1.1, an answer's length in its head. Anything else ends the connection.
"""

import asyncio
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from pipeline.http.message import Headers

HEAD_BYTES_MAX: Final = 16_384
IDLE_S: Final = 30.0
"""A connection that was idle for so long is not used again: the server ends it after 75 s."""


class Unreachable(Exception):
    """The server was not reached, or broke off before its answer was whole."""


class Replied(NamedTuple):
    """An answer."""

    status: int
    body: bytes


class Client:
    """Asks one server. Belongs to the event loop's thread."""

    def __init__(self, url: str, connections_max: int = 64) -> None:
        """url: `http://host:port`. connections_max: at once; beyond it the server counts as away.

        Raises ValueError where that is no address.
        """
        split = urlsplit(url)
        if not split.hostname:
            raise ValueError(f"{url!r} names no host")
        self._host, self._port = split.hostname, split.port or 80
        self._authority = split.netloc
        self._connections_max = connections_max
        self._idle: list[_Connection] = []
        self._in_use = 0
        self._is_closed = False

    async def post(self, path: str, headers: Headers, body: bytes, timeout_s: float) -> Replied:
        """Return the answer. Raises Unreachable; TimeoutError, and then the server may answer it all the same.

        headers: without line breaks; they go as UTF-8, as our servers read them.
        """
        if self._in_use >= self._connections_max:
            raise Unreachable(f"{self._authority}: {self._in_use} requests wait for it already")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"POST {path} HTTP/1.1\r\nhost: {self._authority}\r\n{lines}content-length: {len(body)}\r\n\r\n"
        self._in_use += 1
        connection = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connection()
                found = await connection.ask(head.encode("utf-8", "replace") + body)
        except (OSError, UnicodeError) as error:  # also a TimeoutError, which is one; and a host that is no name
            if isinstance(error, TimeoutError):
                raise
            raise Unreachable(f"{self._authority}: {error}") from error
        finally:
            self._in_use -= 1
            if connection is not None:
                self._put_back(connection)
        return found

    def close(self) -> None:
        """End every connection that nobody uses, and the others after their answer."""
        self._is_closed = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connection(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        while self._idle:
            found = self._idle.pop()
            if found.is_free and loop.time() - found.since_s < IDLE_S:
                return found
            found.close()
        _, made = await loop.create_connection(_Connection, self._host, self._port)
        return made

    def _put_back(self, connection: "_Connection") -> None:
        if connection.is_free and not self._is_closed:
            connection.since_s = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.close()


class _Connection(asyncio.Protocol):
    """One connection. is_free: no answer is awaited, and another request may be sent."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._data = b""
        self._answer: asyncio.Future[Replied] | None = None
        self._head: tuple[int, int, int] | None = None  # status, bytes of the head, of the body
        self._is_ending = False
        self.since_s = 0.0

    @property
    def is_free(self) -> bool:
        return self._answer is None and not self._is_ending and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Replied:
        """Send a request, and return the answer. Cancelled, the connection is of no use any more."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            self._read()
        except (ValueError, IndexError) as error:
            self._fail(f"no answer of ours: {error}")

    def _read(self) -> None:
        if self._head is None:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                if len(self._data) > HEAD_BYTES_MAX:
                    raise ValueError(f"a head of more than {HEAD_BYTES_MAX} bytes")
                return
            self._head = (*self._read_head(self._data[:end].decode("latin-1")), end + 4)
        status, length, begin = self._head
        if len(self._data) >= begin + length:
            found = Replied(status, self._data[begin : begin + length])
            self._is_ending |= len(self._data) > begin + length  # more than was asked for
            self._data, self._head = b"", None
            answer, self._answer = self._answer, None
            if answer is not None and not answer.done():
                answer.set_result(found)

    def _read_head(self, head: str) -> tuple[int, int]:
        first, *lines = head.split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._is_ending |= headers.get("connection", "").lower() == "close"
        return int(first.split(" ")[1]), int(headers.get("content-length", "0"))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("the connection broke off")

    def _fail(self, why: str) -> None:
        self._is_ending = True
        self._transport.abort()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(ConnectionError(why))

"""One HTTP/1.1 connection: bytes become requests, answers leave in the order of the requests.

Parsing is httptools' (llhttp, strict). Beside it stand only the bounds: a head or a body that is too large, too slow or
malformed is answered and the connection ended; so is one whose client does not read its answers.
"""

import asyncio
import logging
from collections import deque
from enum import Enum, auto
from typing import Any, Final, Protocol

import httptools
from msgspec import Struct

from pipeline.http.heads import LINES_MAX, MISSES_MAX, Heads, Known, Parts, split
from pipeline.http.limits import LINGER_BYTES_MAX, OPEN_MAX, OVERHEAD_BYTES, OVERHEAD_FACTOR, Limits
from pipeline.http.message import Answer, Application, Head, Receiver, Refusal, render
from pipeline.http.spelling import NAMES, escaped

log = logging.getLogger(__name__)

ENDING: Final = frozenset({431})
"""Whoever sends such a head sends the next one, too."""
_CLOSE: Final = b"connection: close\r\n"
_KEEP: Final = b"connection: keep-alive\r\n"


class Place(Enum):
    """Where a connection is: between two requests, in a head, in a body, or only taking what nobody reads."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    LINGER = auto()


class Home(Protocol):
    """What a connection needs of its server. now_s and date are a second old at most."""

    app: Application
    limits: Limits
    heads: Heads
    connections: "set[Connection]"
    now_s: float
    date: bytes
    held_bytes: int
    is_stopping: bool


class Exchange(Struct):
    """One request and the place of its answer.

    is_last: the connection ends with it. is_old: HTTP/1.0. is_head: the answer goes without its body. data: the answer.
    """

    connection: "Connection"
    is_last: bool
    is_old: bool
    is_head: bool
    data: bytes = b""

    def __call__(self, answer: Answer) -> None:
        """Send the answer as soon as those before it are sent. Nothing happens once the client is gone."""
        connection = self.connection
        self.is_last |= connection.home.is_stopping
        line = _CLOSE if self.is_last else _KEEP if self.is_old else b""
        self.data = render(answer, connection.home.date, line, self.is_head)
        connection.flush()


class Connection(asyncio.Protocol):
    """One connection; all of it belongs to the event loop's thread."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._app, self._limits = home.app, home.limits
        self._transport: Any = None
        self._parser: Any = None
        self._client = ""
        self._place = Place.IDLE
        self._since_s = home.now_s
        self._unread_since_s = 0.0  # when the client stopped to read its answers; 0 while it does
        self._open: deque[Exchange] = deque()
        self._is_ending = False  # nothing more is read
        self._is_refused = False  # the request being read has its answer already
        self._new: Parts | None = None  # the head being parsed, to be remembered
        self._misses = 0  # heads in a row that were new
        self._keeps = True  # the connection, after a body that the parser does not read
        self._begin_head()

    # --- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """A client came."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._client = peer[0] if isinstance(peer, tuple) else ""
        self._parser = httptools.HttpRequestParser(self)
        self.home.connections.add(self)
        if len(self.home.connections) > self._limits.connections_max:
            self._refuse(Refusal(503, "too_many_connections", "too many clients are connected: come again"))

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._is_ending:
            self._raw_bytes += len(data)
            if self._raw_bytes > LINGER_BYTES_MAX:
                self.abort()
            return
        self._raw_bytes += len(data)
        if self._place is Place.IDLE:
            data = self._take_head(data)
        if self._left_bytes:
            data = self._take_left(data)
        if data and not self._is_ending:
            self._parse(data)
        if self._place is not Place.IDLE and not self._is_ending:
            self._check_size()

    def _take_head(self, data: bytes) -> bytes:
        """Take a request from its first byte on; return what is not read yet. A head that is known needs no parser."""
        parts = split(data) if self._misses < MISSES_MAX else None
        if parts is None or parts.size > self._limits.head_bytes_max:
            return data if data.isascii() else escaped(data)
        known = self.home.heads.get(parts.lines)
        if known is not None:
            self._misses = 0
            self._begin_known(parts, known)
        else:
            self._misses += 1
            self._new = parts
            self._parse(data[: parts.size])
            self._new = None
        return data[parts.size :]

    def _begin_known(self, parts: Parts, known: Known) -> None:
        """Begin a request past the parser, which stays between two requests: of its body, the length is known."""
        length, lines = parts.length or 0, known.lines + (parts.length is not None)
        self._raw_bytes, self._left_bytes, self._keeps = 0, length, True
        try:
            head = Head(parts.method, parts.target, known.headers, lines, self._client, known.notes)
            self._begin(head, length, False, None)
        except Exception as error:  # noqa: BLE001 - as the parser does with a callback's
            self._refuse_fault(error)
        if not length:
            self._complete(True, False)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as found:
            self._take_left(data[found.args[0] :])
        except httptools.HttpParserCallbackError as error:
            self._refuse_fault(error.__context__ or error)
        except httptools.HttpParserError as error:
            self._refuse(Refusal(400, "bad_http", f"not HTTP/1.1: {error}"[:200]))

    def _check_size(self) -> None:
        """Refuse what is too large while it is not whole: the parser itself has no bounds."""
        if self._place is Place.HEAD and self._raw_bytes > self._limits.head_bytes_max:
            self._refuse(self._head_too_large())
        elif self._place is Place.BODY and self._raw_bytes > OVERHEAD_BYTES + OVERHEAD_FACTOR * self._size:
            self._refuse(Refusal(400, "bad_http", "the chunks of the body hold hardly any of it"))

    def _take_left(self, data: bytes) -> bytes:
        """Take of a body what the parser leaves to us, since its length is known; return what comes after it."""
        piece = data[: self._left_bytes]
        if piece:
            self._left_bytes -= len(piece)
            self.on_body(piece)
            if not self._left_bytes:
                self._complete(self._keeps, False)
        return data[len(piece) :]

    def eof_received(self) -> bool:
        """The client will send no more; what it has asked is still answered."""
        self._is_ending = True
        if self._open:
            self._open[-1].is_last = True
            return True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is over."""
        self.home.connections.discard(self)
        self._is_ending = True
        self._open.clear()
        if self._place is Place.BODY and self._head is not None:
            self._app.gone(self._head)
        self._forget_body()

    def pause_writing(self) -> None:
        """The client does not read its answers: it is asked for nothing more until it does."""
        self._unread_since_s = self.home.now_s
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._unread_since_s = 0.0
        self._transport.resume_reading()

    # --- what the parser calls ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request was seen."""
        self._begin_head()
        self._place, self._since_s = Place.HEAD, self.home.now_s

    def _begin_head(self) -> None:
        self._head: Head | None = None
        self._receiver: Receiver | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._lines = 0
        self._head_bytes = 0
        self._raw_bytes = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._left_bytes = 0  # of a body that the parser does not read

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or after the body one trailer, which nobody reads."""
        if self._head is None:
            self._lines += 1
            self._head_bytes += len(name) + len(value)
            self._headers.setdefault(NAMES.get(name) or name.lower().decode("latin-1"), str(value, "utf-8", "replace"))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._is_ending:
            return
        parser, headers = self._parser, self._headers
        method, target = parser.get_method().decode("latin-1"), self._url.decode("utf-8", "replace")
        is_chunked, upgrades = "transfer-encoding" in headers, parser.should_upgrade()
        stated = int(headers.pop("content-length")) if "content-length" in headers else None
        length = stated or 0
        head = Head(method, target, headers, self._lines, self._client)
        if self._new is not None and parser.should_keep_alive() and not (is_chunked or upgrades):
            self._remember(self._new, head, stated)
        if upgrades:
            self._left_bytes, self._keeps = length, False
        refusal = None
        if self._head_bytes + len(self._url) > self._limits.head_bytes_max:
            refusal = self._head_too_large()
        elif upgrades and is_chunked:
            refusal = Refusal(400, "bad_http", "an upgrade with a chunked body: expected its length, or no upgrade")
        self._begin(head, length, is_chunked, refusal)

    def _remember(self, new: Parts, head: Head, length: int | None) -> None:
        """Remember a head, if the parser found in it, line for line, what we did: else it has a meaning beyond ours."""
        lines, others = new.lines.count(b"\r\n"), head.lines - (length is not None)
        is_same = (new.method, new.target, new.length, lines) == (head.method, self._url.decode(), length, others)
        if is_same and lines <= LINES_MAX:
            self.home.heads.put(new.lines, Known(head.headers, lines, head.notes))

    def _begin(self, head: Head, length: int, is_chunked: bool, refusal: Refusal | None) -> None:
        """A head is whole: ask the application who takes its body."""
        self._head, self._place, self._since_s = head, Place.BODY, self.home.now_s
        if refusal is None and length > self._limits.body_bytes_max:
            refusal = self._too_large()
        if refusal is not None:
            self._refuse(refusal)
            return
        found = self._app.begin(head)
        if not isinstance(found, Answer):
            self._receiver = found
            if head.headers.get("expect", "").lower() == "100-continue" and not self._open:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif length or is_chunked or found.status in ENDING:
            self._end_with(found)
        else:
            self._receiver = lambda _, reply: reply(found)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._receiver is None:
            return  # answered already
        self._parts.append(body)
        self._size += len(body)
        self.home.held_bytes += len(body)
        if self._size > self._limits.body_bytes_max:
            self._refuse(self._too_large())
        elif not self._app.has_room(self.home.held_bytes):
            self._refuse(Refusal(503, "buffer_full", "too many bodies are being read: send again"))

    def on_message_complete(self) -> None:
        """The parser has read a request."""
        if not self._left_bytes:
            parser = self._parser
            self._complete(
                parser.should_keep_alive() and not parser.should_upgrade(), parser.get_http_version() == "1.0"
            )

    def _complete(self, keeps: bool, is_old: bool) -> None:
        """A request is whole: have it answered."""
        receiver, parts = self._receiver, self._parts
        if receiver is None:
            return  # answered already
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._forget_body()
        self._receiver, self._place, self._since_s = None, Place.IDLE, self.home.now_s
        keeps = keeps and not self._is_ending
        self._is_ending = not keeps
        head = self._head
        assert head is not None, "a message is complete after its head"
        exchange = Exchange(self, not keeps, is_old, head.method == "HEAD")
        self._open.append(exchange)
        if len(self._open) == OPEN_MAX:
            self._transport.pause_reading()
        try:
            receiver(body, exchange)
        except Exception as error:
            log.error("a request ended in a bug", exc_info=error)
            exchange(self._app.refuse(head, Refusal(500, "bug", "the fault is ours: it has been logged")))

    # --- answers and ends ---------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send all answers that are next in order."""
        waiting = self._open
        was_full = len(waiting) >= OPEN_MAX
        while waiting and waiting[0].data:
            exchange = waiting.popleft()
            self._transport.write(exchange.data)
            if exchange.is_last:
                self._end()
                return
        if was_full and len(waiting) < OPEN_MAX and not self._unread_since_s:
            self._transport.resume_reading()

    def _end(self) -> None:
        """End the connection after what was written; what the client still sends is taken for a moment, and dropped.

        Closed at once, unread bytes would make a reset of it, which can destroy the answer on its way.
        """
        self._is_ending = True
        self._open.clear()
        if self._place is Place.IDLE or self._transport.is_closing():
            self._transport.close()
            return
        self._forget_body()
        self._place, self._since_s, self._raw_bytes = Place.LINGER, self.home.now_s, 0
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _end_with(self, answer: Answer) -> None:
        """Answer the request whose head or body is being read, and end the connection."""
        self._is_ending, self._is_refused, self._receiver = True, True, None
        self._forget_body()
        exchange = Exchange(self, True, False, self._head is not None and self._head.method == "HEAD")
        self._open.append(exchange)
        exchange(answer)

    def _refuse(self, refusal: Refusal) -> None:
        if not self._is_refused:
            self._end_with(self._app.refuse(self._head, refusal))

    def _refuse_fault(self, error: BaseException) -> None:
        log.error("a request ended in a bug", exc_info=error)
        self._refuse(Refusal(500, "bug", "the fault is ours: it has been logged"))

    def _forget_body(self) -> None:
        self.home.held_bytes -= self._size
        self._parts, self._size = [], 0

    def _head_too_large(self) -> Refusal:
        return Refusal(431, "head_too_large", f"the head is larger than {self._limits.head_bytes_max} bytes")

    def _too_large(self) -> Refusal:
        return Refusal(413, "too_large", f"the body is larger than {self._limits.body_bytes_max} bytes")

    def look(self, now_s: float) -> None:
        """End what takes too long. Called about once a second."""
        limits, age_s = self._limits, now_s - self._since_s
        if self._unread_since_s and now_s - self._unread_since_s > limits.unread_s:
            self.abort()
        elif self._place is Place.LINGER:
            if age_s > limits.linger_s:
                self.abort()
        elif self._place is Place.HEAD and age_s > limits.head_s:
            self._refuse(Refusal(408, "slow_head", f"the head was not complete after {limits.head_s:.0f} s"))
        elif self._place is Place.BODY and age_s > limits.body_s:
            self._refuse(Refusal(408, "slow_body", f"the body was not complete after {limits.body_s:.0f} s"))
        elif self._place is Place.IDLE and not self._open:
            has_asked = self._head is not None
            if age_s > (limits.idle_s if has_asked else limits.head_s):
                self._transport.close()

    def finish(self) -> None:
        """End once all is answered: the server stops."""
        if self._place is Place.IDLE and not self._open:
            self._transport.close()

    def abort(self) -> None:
        """End at once; answers that come later find nobody."""
        self._is_ending = True
        self._open.clear()
        self._transport.abort()

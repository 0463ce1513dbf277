"""What passes between our HTTP server and what answers: a request's head, an answer, and a refusal."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import unquote

from msgspec import Struct

Headers = Sequence[tuple[str, str]]


class Head:
    """A request up to its body. path: percent-decoded. query: as sent. client: address of the peer, "" where unknown.

    headers: by lower-case name, the first where one is repeated, without content-length; lines: how many there were.
    notes: what the application found out from the headers alone; later requests with the same headers come with them.
    """

    __slots__ = ("client", "headers", "lines", "method", "notes", "path", "query")

    def __init__(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        lines: int,
        client: str,
        notes: dict[str, Any] | None = None,
    ) -> None:
        """target: of the request line; an address with scheme and host, as proxies are asked, counts without them."""
        self.notes: dict[str, Any] = {} if notes is None else notes
        self.method, self.headers, self.lines, self.client = method, headers, lines, client
        if target[:1] != "/" and "://" in target:
            target = "/" + target.partition("://")[2].partition("/")[2]
        path, _, query = target.partition("#")[0].partition("?")
        self.path = unquote(path) if "%" in path else path
        self.query = query

    def header(self, name: str) -> str:
        """Return a header by its lower-case name, "" where it is absent."""
        return self.headers.get(name, "")


class Answer(Struct, frozen=True):
    """What goes back; content-length, date and connection are the server's."""

    status: int
    headers: Headers
    body: bytes


class Refusal(Exception):
    """A whole request is refused, nothing of it is stored.

    status: HTTP status. code: one word for metrics and the answer. detail: what was wrong and what was expected.
    retry_after_s: when to come again; 0 = what the status means by itself.
    """

    def __init__(self, status: int, code: str, detail: str, retry_after_s: int = 0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.status = status
        self.code = code
        self.detail = detail


Reply = Callable[[Answer], None]
"""Sends the answer of one request; called once, at once or later."""
Receiver = Callable[[bytes, Reply], None]
"""Takes a request's whole body and answers it."""


class Application(Protocol):
    """What answers requests. Every method belongs to the event loop's thread; an exception is a 500."""

    def begin(self, head: Head) -> Answer | Receiver:
        """Return what takes the body, or the answer where none is wanted: then what comes of it is not read."""

    def refuse(self, head: Head | None, refusal: Refusal) -> Answer:
        """Return the answer for what the server itself refuses; head: None where the request never had one."""

    def gone(self, head: Head) -> None:
        """Take note that a client left in the middle of its body."""

    def has_room(self, body_bytes: int) -> bool:
        """True where so many bytes of bodies, of all requests together, may be held."""


_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_BODILESS: Final = frozenset({204, 304})


def render(answer: Answer, date: bytes, connection: bytes, is_head: bool) -> bytes:
    """Return an answer as it goes over the wire. connection: that header's line, or nothing."""
    status, body = answer.status, answer.body
    fixed = _fixed(status, tuple(answer.headers))
    if status in _BODILESS:
        return b"%b%b%b\r\n" % (fixed, date, connection)
    return b"%bcontent-length: %d\r\n%b%b\r\n%b" % (fixed, len(body), date, connection, b"" if is_head else body)


@lru_cache(maxsize=1_024)
def _fixed(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError(f"a header of the answer {status} would break its line: {headers!r}")
    return (_STATUS_LINES[status] + lines).encode("latin-1", "replace")

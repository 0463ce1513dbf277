"""HTTP as delivery's endpoints see it: a request, an answer, and which endpoint an address belongs to.

An RSGI application (Granian), like the collector: an answer is one call and waits for nothing, and nothing stands
between the server and the endpoint. At a thousand decisions a second that was a fifth of what a decision cost.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote

from pipeline.collector.identity import peer_address
from pipeline.collector.reading import BodyReader

TARGET_CHARS: Final = ":/%#?=@[]!$&'()*+,;"
"""Characters of an address that stand for themselves in a Location header, beside letters and digits."""


class Answer(NamedTuple):
    """What goes back. kind: media type, "" for no body; headers: more of them."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()


class Request:
    """One request. path: percent-decoded, without a slash at its end. params: what the route's pattern found in it."""

    __slots__ = ("_protocol", "_query", "client", "headers", "is_read", "method", "params", "path")

    def __init__(self, scope: Any, protocol: Any) -> None:
        """scope, protocol: Granian's."""
        self.method: str = scope.method
        self.path: str = scope.path.rstrip("/") or "/"
        self.headers = scope.headers
        self.client: str = scope.client
        self.params: dict[str, str] = {}
        self.is_read = False
        self._query: str = scope.query_string
        self._protocol = protocol

    def header(self, name: str) -> str:
        """Return a header by its lower-case name, "" where it is absent; the first where it is repeated."""
        return self.headers.get(name) or ""

    def peer(self) -> str:
        """Return the address that the connection came from."""
        return peer_address(self.client)

    def query(self) -> list[tuple[str, str]]:
        """Return names and values of the query string, in its order."""
        return parse_qsl(self._query, keep_blank_values=True)

    def has_body(self) -> bool:
        """True where the headers announce a body."""
        return self.header("content-length") not in ("", "0") or "transfer-encoding" in self.headers

    async def body(self, reader: BodyReader) -> bytes:
        """Return the body. Raises Refusal as `BodyReader.read` does, ProtocolClosed where the client is gone."""
        found = await reader.read(self.headers, self._protocol)
        self.is_read = True
        return found


Endpoint = Callable[[Request], Awaitable[Answer]]


def redirect(status: int, target: str, headers: Sequence[tuple[str, str]]) -> Answer:
    """Return the answer that sends a client on. target: an absolute address; what it may not hold is escaped."""
    return Answer(status, kind="", headers=[*headers, ("location", quote(target, safe=TARGET_CHARS))])


class Router:
    """Addresses and what answers them: names in braces match up to a slash, `{name:path}` to the end."""

    def __init__(self) -> None:
        """Without addresses."""
        self._fixed: dict[str, dict[str, Any]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Any]]] = []
        self._by_path: dict[str, dict[str, Any]] = {}

    def add(self, method: str, path: str, found: object) -> None:
        """Answer an address by a method; GET is HEAD as well. The first address that matches is taken."""
        if path not in self._by_path:
            methods: dict[str, Any] = self._by_path.setdefault(path, {})
            if "{" in path:
                self._patterns.append((_pattern(path), methods))
            else:
                self._fixed[path] = methods
        for each in (method, "HEAD") if method == "GET" else (method,):
            self._by_path[path][each] = found

    def find(self, path: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Return (method -> what was added, the names found in the path); nothing where no address matches."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed, {}
        for pattern, methods in self._patterns:
            match = pattern.fullmatch(path)
            if match is not None:
                return methods, match.groupdict()
        return {}, {}


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"{(\w+)(:path)?}", path)
    text = ""
    for fixed, name, rest in zip(parts[::3], [*parts[1::3], None], [*parts[2::3], None], strict=True):
        text += re.escape(fixed) + (f"(?P<{name}>{'.+' if rest else '[^/]+'})" if name else "")
    return re.compile(text, re.DOTALL)

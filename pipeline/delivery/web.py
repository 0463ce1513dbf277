"""HTTP as delivery's endpoints see it: a request, an answer, and which endpoint an address belongs to."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote

from pipeline.http.message import Head

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

    __slots__ = ("_query", "body", "client", "header", "headers", "method", "params", "path")

    def __init__(self, head: Head) -> None:
        """head: the body follows."""
        self.method = head.method
        self.path = head.path.rstrip("/") or "/"
        self.headers = head.headers
        self.header = head.header
        self.client = head.client
        self.params: dict[str, str] = {}
        self.body = b""
        self._query = head.query

    def query(self) -> list[tuple[str, str]]:
        """Return names and values of the query string, in its order."""
        return parse_qsl(self._query, keep_blank_values=True)


Endpoint = Callable[[Request], Answer | Awaitable[Answer]]
"""Answers at once, or waits for the log, the warehouse or a file."""


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

"""When each entry of the profile stage next has something to drop, and which visitors have decisions open.

A heap on stream time, so that the decisions of visitors who never come back do not stay in memory.
"""

import zlib
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final

import msgspec
from msgspec import Struct

from pipeline.core.outcome import OutcomeRules, expires_ms
from pipeline.core.state import Packed
from schemas.outcome import OpenDecision, Response

ANONYMOUS: Final = "~"
"""Begins the key of a decision without a visitor."""

_ROUTE: Final = slice(12, 20)  # of a decision id: 12 hex digits of time, 8 of route, 12 of randomness (core/decide.py)
_NEVER_DUE: Final = 2**63


class _Waiting(Struct, array_like=True):
    """A VisitorState read for its deadlines only: the profile stays packed."""

    profile: msgspec.Raw
    decisions: list[OpenDecision] = []
    early: list[Response] = []


class Deadlines:
    """When each entry next has something to drop, and which visitors have decisions open: rebuilt from the entries.

    What it gives out depends on the entries alone, not on the way they came about: a restored partition goes on as if
    it had never stopped.
    """

    def __init__(self, rules: OutcomeRules, packed: Packed) -> None:
        """packed: VisitorState by key."""
        self._rules = rules
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []  # also holds deadlines that have moved since: told by _due
        self._routes: dict[int, tuple[str, ...]] = {}
        decode = msgspec.msgpack.Decoder(_Waiting).decode
        for key, raw in packed.items():
            waiting = decode(raw)
            if waiting.decisions or waiting.early:
                self.set(key, waiting.decisions, waiting.early)

    def set(self, key: str, decisions: list[OpenDecision], early: list[Response]) -> None:
        """Say what an entry now waits for."""
        rules = self._rules
        due = min(
            min((expires_ms(found, rules) for found in decisions), default=_NEVER_DUE),
            min((found.event_time_ms + rules.early_window_ms for found in early), default=_NEVER_DUE),
        )
        if due == _NEVER_DUE:
            self._due.pop(key, None)
        elif due != self._due.get(key):
            self._due[key] = due
            heappush(self._heap, (due, key))
        if decisions:
            self.keep_route(key)
        else:
            self._forget_route(key)

    def due(self, now_ms: int) -> Iterator[str]:
        """Give the keys whose deadline has passed, earliest first, at most expired_entries_max; `set` each anew."""
        for _ in range(self._rules.expired_entries_max):
            while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
                heappop(self._heap)
            if not self._heap or self._heap[0][0] >= now_ms:
                return
            yield heappop(self._heap)[1]

    def routed(self, decision_id: str) -> tuple[str, ...]:
        """Return the visitors with decisions open for whom this one may have been made: nearly always one at most."""
        try:
            return self._routes.get(int(decision_id[_ROUTE], 16), ())
        except ValueError:  # no id of ours: expected bad data
            return ()

    def keep_route(self, key: str) -> None:
        """Say that a visitor has a decision open."""
        if not key.startswith(ANONYMOUS):
            route = _route_of_visitor(key)
            known = self._routes.get(route, ())
            if key not in known:
                self._routes[route] = (*known, key)

    def _forget_route(self, key: str) -> None:
        if not key.startswith(ANONYMOUS):
            route = _route_of_visitor(key)
            left = tuple(found for found in self._routes.get(route, ()) if found != key)
            if left:
                self._routes[route] = left
            else:
                self._routes.pop(route, None)


def _route_of_visitor(visitor: str) -> int:
    return zlib.crc32(visitor.encode("utf-8", "surrogatepass"))

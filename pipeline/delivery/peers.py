"""Decisions of visitors whom another delivery process counts for: sent on whole, answered there.

A request goes as it came, under a seal with the signing key that says whose it is: nobody else can have one decided
there, and it is never sent on twice. With the answer comes what that process remembers of the decision, so that it can
be explained and rewarded at either. Where no answer comes in time, the first decides by itself, without what has a cap.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from pipeline.delivery.log import Pen, Remembered
from pipeline.delivery.problems import SAFE_HEADERS, Problem
from pipeline.delivery.web import Answer, Request
from pipeline.edge import metrics
from pipeline.edge.clock import boot_s, monotonic_s, now_ms
from pipeline.http.client import Client, Unreachable
from pipeline.rest.keys import KEY_HEADERS

HEADER: Final = "x-herald-forwarded"
PASSED_ON: Final = (*KEY_HEADERS, "authorization", "dnt", "sec-gpc", "content-type")
AGE_MS_MAX: Final = 60_000
"""Clocks of two processes may differ by so much."""
AWAY_AFTER: Final = 3
AWAY_S: Final = 1.0
"""A process that has not answered so often in a row is not asked for so long."""
MISDIRECTED: Final = 421


Decided = tuple[Answer, Sequence[str]]
"""An answer, and the ids of its decisions."""


class Passed(Struct, array_like=True):
    """An answer on its way back: what the client gets, and what is remembered of each decision."""

    status: int
    body: bytes
    made: list[tuple[str, Remembered]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Passed).decode


class _Peer:
    def __init__(self, url: str) -> None:
        self.client = Client(url)
        self.failures = 0
        self.away_until_s = 0.0


class Peers:
    """Belongs to the event loop's thread."""

    def __init__(self, key: bytes, pen: Pen, timeout_s: float) -> None:
        """key: all processes' signing key. pen: remembers decisions. timeout_s: so long an answer is waited for."""
        self._key, self._pen, self._timeout_s = key, pen, timeout_s
        self._peers: dict[str, _Peer] = {}

    async def ask(self, address: str, request: Request) -> Answer | None:
        """Return another process's answer, None where there is none; counted in the metrics."""
        peer = self._peers.setdefault(address, _Peer(address))
        if boot_s() < peer.away_until_s:
            return _counted("away", None)
        headers = [(name, value) for name in PASSED_ON if (value := request.header(name))]
        headers.append((HEADER, self._seal(request, str(now_ms()))))
        started_s = monotonic_s()
        try:
            found = await peer.client.post(request.path, headers, request.body, self._timeout_s)
        except (Unreachable, TimeoutError) as error:
            peer.failures += 1
            if peer.failures >= AWAY_AFTER:
                peer.away_until_s = boot_s() + AWAY_S
            return _counted("late" if isinstance(error, TimeoutError) else "away", None)
        peer.failures = 0
        if found.status != 200:
            return _counted("misdirected" if found.status == MISDIRECTED else "refused", None)
        passed = _decode(found.body)
        metrics.FORWARD_SECONDS.observe(monotonic_s() - started_s)
        for decision_id, remembered in passed.made:
            self._pen.remember(decision_id, remembered)
        return _counted("answered", Answer(passed.status, passed.body, headers=SAFE_HEADERS))

    def check(self, request: Request) -> None:
        """Raise Problem 403 where a request says that another process of ours has sent it on, and that is not so."""
        time, _, _ = request.header(HEADER).partition(".")
        age_ms = abs(now_ms() - int(time)) if time.isascii() and time.isdigit() else AGE_MS_MAX + 1
        expected = self._seal(request, time).encode("latin-1", "replace")
        is_ours = hmac.compare_digest(expected, request.header(HEADER).encode("latin-1", "replace"))
        if not is_ours or age_ms > AGE_MS_MAX:
            raise Problem(403, "forwarded", f"{HEADER}: expected a seal of another delivery process's, of this minute")

    def passed(self, decided: Decided) -> Answer:
        """Return an answer as it goes back to the process that has sent its request on."""
        answer, decision_ids = decided
        made = [(name, found) for name in decision_ids if (found := self._pen.recent(name)) is not None]
        return Answer(200, _encode(Passed(answer.status, answer.body, made)), "application/octet-stream", SAFE_HEADERS)

    def close(self) -> None:
        """End what is kept open."""
        for peer in self._peers.values():
            peer.client.close()

    def _seal(self, request: Request, time: str) -> str:
        said = hashlib.sha256(f"forwarded\n{time}\n{request.path}\n".encode("utf-8", "surrogatepass"))
        for name in PASSED_ON:
            said.update(f"{request.header(name)}\n".encode("utf-8", "surrogatepass"))
        said.update(request.body)
        return f"{time}.{hmac.new(self._key, said.digest(), hashlib.sha256).hexdigest()}"


def is_forwarded(request: Request) -> bool:
    """Say whether a request says that another delivery process has sent it on."""
    return HEADER in request.headers


def _counted(result: str, answer: Answer | None) -> Answer | None:
    metrics.FORWARDED.labels(result).inc()
    return answer

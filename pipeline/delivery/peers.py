"""Decisions of visitors whom another delivery process counts for: sent on whole, answered there.

A request goes as it came, under a seal with the signing key that says whose it is: nobody else can have one decided
there, and it is never sent on twice. With the answer comes what that process remembers of the decision, so that it can
be explained and rewarded at either. Where no answer comes in time, the first decides by itself, without what has a cap.
"""

import hashlib
import hmac
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from pipeline.core.slots import SLOTS
from pipeline.delivery.log import Pen, Remembered
from pipeline.delivery.problems import SAFE_HEADERS, Problem
from pipeline.delivery.web import Answer, Request
from pipeline.edge import metrics
from pipeline.edge.clock import boot_s, monotonic_s, now_ms
from pipeline.http.client import Client, Unreachable
from pipeline.rest.keys import KEY_HEADERS

log = logging.getLogger(__name__)

HEADER: Final = "x-herald-forwarded"
PASSED_ON: Final = (*KEY_HEADERS, "authorization", "dnt", "sec-gpc", "content-type")
AGE_MS_MAX: Final = 60_000
"""Clocks of two processes may differ by so much."""
AWAY_AFTER: Final = 3
AWAY_S: Final = 1.0
"""A process that has not answered so often in a row is not asked for so long."""
MISDIRECTED: Final = 421
PEERS_MAX: Final = 2 * SLOTS
"""So many processes are remembered, those asked last: more than count for visitors at any time."""
_DIGITS_MAX: Final = 16
"""Of a time in ms."""


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

    def failed(self) -> None:
        self.failures += 1
        if self.failures >= AWAY_AFTER:
            self.away_until_s = boot_s() + AWAY_S


class Peers:
    """Belongs to the event loop's thread."""

    def __init__(self, keys: Sequence[bytes], pen: Pen, timeout_s: float) -> None:
        """keys: the signing key of all processes, then others that are accepted while it is being changed.

        pen: remembers decisions. timeout_s: so long an answer is waited for.
        """
        self._keys, self._pen, self._timeout_s = keys, pen, timeout_s
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._refused: set[str] = set()

    async def ask(self, address: str, request: Request) -> Answer | None:
        """Return another process's answer, None where there is none; counted in the metrics."""
        peer = self._peer(address)
        if peer is None or boot_s() < peer.away_until_s:
            return _counted("away", None)
        headers = [(name, value) for name in PASSED_ON if (value := request.header(name))]
        headers.append((HEADER, seal_of(request, str(now_ms()), self._keys[0])))
        started_s = monotonic_s()
        try:
            found = await peer.client.post(request.path, headers, request.body, self._timeout_s)
        except (Unreachable, TimeoutError) as error:
            peer.failed()
            return _counted("late" if isinstance(error, TimeoutError) else "away", None)
        if found.status != 200:
            peer.failures = 0
            return _counted("misdirected" if found.status == MISDIRECTED else "refused", None)
        try:
            passed = _decode(found.body)
        except ValueError:  # msgspec's errors are such: not a delivery process, or one of another version
            peer.failed()
            return _counted("refused", None)
        peer.failures = 0
        metrics.FORWARD_SECONDS.observe(monotonic_s() - started_s)
        for decision_id, remembered in passed.made:
            self._pen.remember(decision_id, remembered)
        return _counted("answered", Answer(passed.status, passed.body, headers=SAFE_HEADERS))

    def _peer(self, address: str) -> _Peer | None:
        """Return a process by its address, None where that is none: what another one says of itself is not our bug."""
        found = self._peers.get(address)
        if found is None:
            try:
                found = _Peer(address)
            except ValueError as error:
                if address not in self._refused and len(self._refused) < PEERS_MAX:
                    self._refused.add(address)
                    log.warning("a delivery process says that it answers at %r: %s", address, error)
                return None
            self._peers[address] = found
            while len(self._peers) > PEERS_MAX:
                self._peers.popitem(last=False)[1].client.close()
        self._peers.move_to_end(address)
        return found

    def check(self, request: Request) -> None:
        """Raise Problem 403 where a request says that another process of ours has sent it on, and that is not so."""
        time, _, _ = request.header(HEADER).partition(".")
        is_time = time.isascii() and time.isdigit() and len(time) <= _DIGITS_MAX
        age_ms = abs(now_ms() - int(time)) if is_time else AGE_MS_MAX + 1
        said = request.header(HEADER).encode("latin-1", "replace")
        expected = [seal_of(request, time, key).encode("latin-1", "replace") for key in self._keys]
        is_ours = any(hmac.compare_digest(one, said) for one in expected)
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


def is_forwarded(request: Request) -> bool:
    """Say whether a request says that another delivery process has sent it on."""
    return HEADER in request.headers


def _counted(result: str, answer: Answer | None) -> Answer | None:
    metrics.FORWARDED.labels(result).inc()
    return answer


def seal_of(request: Request, time: str, key: bytes) -> str:
    """Return the header of a request that is sent on. time: ms, as text; it is sealed with what the request says."""
    said = hashlib.sha256(f"forwarded\n{time}\n{request.path}\n".encode("utf-8", "surrogatepass"))
    for name in PASSED_ON:
        said.update(f"{request.header(name)}\n".encode("utf-8", "surrogatepass"))
    said.update(request.body)
    return f"{time}.{hmac.new(key, said.digest(), hashlib.sha256).hexdigest()}"

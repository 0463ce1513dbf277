"""Sending a decision on: whatever a client sends, and whoever answers at another process's address, breaks nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from pipeline.delivery import peers
from pipeline.delivery.log import Pen, Remembered
from pipeline.delivery.peers import AWAY_AFTER, HEADER, MISDIRECTED, PEERS_MAX, Peers, seal_of
from pipeline.delivery.problems import Problem
from pipeline.delivery.web import Answer, Request
from pipeline.edge import metrics
from pipeline.edge.clock import now_ms
from pipeline.http import message as http
from pipeline.http.limits import Limits
from pipeline.http.message import Head, Receiver, Refusal, Reply
from pipeline.http.server import Server

KEY = b"k" * 32


class Unasked:
    """A block writer: nothing is written, only remembered."""

    is_available = True


def pen() -> Pen:
    return Pen(Unasked(), 2, 100, b"key")  # type: ignore[arg-type]


class Other:
    """What answers at another delivery process's address. says: the answer to everything; None = as one of ours."""

    def __init__(self, says: http.Answer | None = None) -> None:
        self.says = says
        self.requests: list[Request] = []
        self._pen = pen()
        self._peers = Peers((KEY,), self._pen, 30)

    def begin(self, head: Head) -> http.Answer | Receiver:
        def answer(body: bytes, reply: Reply) -> None:
            request = Request(head)
            request.body = body
            self.requests.append(request)
            reply(self.says or self._decided(request))

        return answer

    def _decided(self, request: Request) -> http.Answer:
        try:
            self._peers.check(request)
        except Problem as problem:
            return http.Answer(problem.status, (), b"")
        self._pen.remember("d1", Remembered("ann", "shop", b"{}"))
        found = self._peers.passed((Answer(200, b"decided"), ["d1"]))
        return http.Answer(found.status, (), found.body)

    def refuse(self, head: Head | None, refusal: Refusal) -> http.Answer:
        return http.Answer(refusal.status, (), b"")

    def gone(self, head: Head) -> None:
        """Nobody counts here."""

    def has_room(self, body_bytes: int) -> bool:
        return True


Work = Callable[[Peers, str], Awaitable[None]]


def beside(other: Other, work: Work) -> None:
    """Have the other one answer at an address, and another process ask."""

    async def do() -> None:
        server = Server(other, Limits(1_000_000))
        await server.start("127.0.0.1", 0)
        asking = Peers((KEY,), pen(), 30)
        try:
            await work(asking, f"http://127.0.0.1:{server.port}")
        finally:
            asking.close()
            await server.stop(5)

    asyncio.run(do())


def request(*headers: tuple[str, str]) -> Request:
    found = Request(Head("POST", "/v1/decisions", dict(headers), len(headers), "127.0.0.1"))
    found.body = b"{}"
    return found


def counted(result: str) -> float:
    return float(metrics.FORWARDED.labels(result)._value.get())


@pytest.mark.parametrize("value", ["1", "€", "é", "\ufffd", "\u00a0", "\u0085"])
def test_whatever_a_header_holds_arrives_as_it_was_and_its_seal_with_it(value: str) -> None:
    other = Other()

    async def work(asking: Peers, url: str) -> None:
        found = await asking.ask(url, request(("dnt", value), ("x-herald-key", f"key {value}")))
        assert found is not None
        assert (found.status, found.body) == (200, b"decided")

    beside(other, work)
    assert [one.header("dnt") for one in other.requests] == [value]


@pytest.mark.parametrize("digits", ["9" * 5_000, "9" * 17, "", "٣", "-1", "€"])
def test_a_seal_with_any_time_at_all_is_a_refusal_and_no_fault(digits: str) -> None:
    with pytest.raises(Problem) as raised:
        Peers((KEY,), pen(), 30).check(request((HEADER, f"{digits}.x")))
    assert raised.value.status == 403


def test_a_seal_of_ours_is_taken_within_its_minute() -> None:
    older, stranger = b"o" * 32, b"s" * 32
    asking = Peers((KEY, older), pen(), 30)
    for key, late_ms, is_taken in (
        (KEY, 0, True), (older, 0, True), (stranger, 0, False), (KEY, peers.AGE_MS_MAX + 60_000, False),
    ):  # fmt: skip
        asked = request()
        asked = request((HEADER, seal_of(asked, str(now_ms() - late_ms), key)))
        try:
            asking.check(asked)
        except Problem:
            assert not is_taken
        else:
            assert is_taken


NO_ANSWERS: Sequence[bytes] = (b"", b"<html>", b"\x93\xcc\xc8\xc4\x00\x91\x92\xa1\xff\x93\xa0\xa0\xc4\x00", b"\x90")


@pytest.mark.parametrize("body", NO_ANSWERS)
def test_an_answer_that_is_none_of_ours_is_refused_and_counts_towards_being_away(body: bytes) -> None:
    """An address that something else has now, a proxy, a process of another version."""
    other = Other(http.Answer(200, (), body))
    before = [counted(result) for result in ("refused", "away")]

    async def work(asking: Peers, url: str) -> None:
        assert [await asking.ask(url, request()) for _ in range(AWAY_AFTER + 1)] == [None] * (AWAY_AFTER + 1)

    beside(other, work)
    assert len(other.requests) == AWAY_AFTER
    assert [counted(result) for result in ("refused", "away")] == [before[0] + AWAY_AFTER, before[1] + 1]


def test_who_does_not_count_any_more_says_so_and_is_asked_again() -> None:
    other = Other(http.Answer(MISDIRECTED, (), b""))

    async def work(asking: Peers, url: str) -> None:
        for _ in range(AWAY_AFTER + 1):
            assert await asking.ask(url, request()) is None

    beside(other, work)
    assert len(other.requests) == AWAY_AFTER + 1


@pytest.mark.parametrize("address", ["http://h:99999", "http://[::1", "http://h:x", f"http://{'h' * 64}:1", "", "é"])
def test_an_address_that_is_none_is_a_process_that_is_away(address: str) -> None:
    async def work(asking: Peers, url: str) -> None:
        assert await asking.ask(address, request()) is None
        assert await asking.ask(url, request()) is not None

    beside(Other(), work)


def test_only_so_many_addresses_are_remembered_and_those_in_use_stay() -> None:
    other = Other()

    async def work(asking: Peers, url: str) -> None:
        for number in range(2 * PEERS_MAX):
            await asking.ask(f"http://127.0.0.1:1/{number}", request())
            assert await asking.ask(url, request()) is not None
        assert len(asking._peers) == PEERS_MAX
        assert len(asking._refused) <= PEERS_MAX

    beside(other, work)

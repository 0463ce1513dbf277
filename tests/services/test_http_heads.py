"""Heads that are remembered: served as if they were parsed, never another client's, and never too many."""

import asyncio
import gc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.collector.app import Collector
from pipeline.collector.buffer import BlockWriter
from pipeline.collector.request import Intake
from pipeline.http.connection import Connection, Exchange
from pipeline.http.heads import HEADS_MAX, LINES_BYTES_MAX, LINES_MAX, MISSES_MAX, Heads, Known, split
from pipeline.http.limits import Limits
from pipeline.http.message import Answer, Head, Receiver, Refusal, Reply
from pipeline.http.server import Server
from pipeline.settings import Settings
from schemas.block import CollectedBlock, Headers, decode
from schemas.event import Context


class Wire:
    """The client's side of a connection: keeps what is written, and how it ended."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.end = ""

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.7", 1)

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return bool(self.end)

    def write_eof(self) -> None:
        self.end = "eof"

    def close(self) -> None:
        self.end = "closed"

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Witness:
    """Answers with all that it was asked; a path with `no` in it before the body."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def begin(self, head: Head) -> Answer | Receiver:
        asked = (head.method, head.path, head.query, sorted(head.headers.items()), head.lines, head.client)
        self.asked.append(asked)
        if "bug" in head.path:
            raise ValueError("a bug")
        return Answer(403, (), b"no") if "no" in head.path else lambda body, reply: self._serve(body, reply)

    def _serve(self, body: bytes, reply: Reply) -> None:
        self.asked.append(body)
        reply(Answer(200, (), body))

    def refuse(self, head: Head | None, refusal: Refusal) -> Answer:
        self.asked.append(refusal.code)
        return Answer(refusal.status, (), refusal.code.encode())

    def gone(self, head: Head) -> None: ...

    def has_room(self, body_bytes: int) -> bool:
        return True


class Forgetful(Heads):
    """Remembers nothing: every head is parsed."""

    def get(self, lines: bytes) -> Known | None:
        return None


def played(heads: Heads, pieces: list[bytes], rounds: int) -> tuple[list[object], list[bytes], list[str]]:
    """Send the same pieces over several connections of one server, one after the other."""
    app = Witness()
    server = Server(app, Limits(64, head_bytes_max=500))
    server.heads = heads
    wires = [Wire() for _ in range(rounds)]
    for wire in wires:
        connection = Connection(server)
        connection.connection_made(wire)
        for piece in pieces:
            connection.data_received(piece)
    return app.asked, [b"".join(wire.written) for wire in wires], [wire.end for wire in wires]


LINES = [
    "host: x", "Host: y", "user-agent: a", "x-é: ü", "x-folded: a\r\n  b", "x-empty:", "x-colon : a", "no colon",
    "content-length: 0", "content-length: 3", "Content-Length: 3", "CONTENT-LENGTH: 3", "CONTENT-LENGTH: 0",
    "content-length: 03", "content-length: 70", "content-length:3", "content-length: ", "content-length: x",
    "content-length: 3, 3", "transfer-encoding: chunked", "connection: close", "connection: keep-alive",
    "connection: upgrade\r\nupgrade: websocket", "expect: 100-continue", "x-long: " + "a" * 600, "x-lone: a\nb",
]  # fmt: skip
heads = st.builds(
    lambda line, lines, body: "\r\n".join([line, *lines, "", ""]).encode() + body,
    st.sampled_from([
        "POST /a HTTP/1.1", "POST /b?c=%41&d#e HTTP/1.1", "GET /a HTTP/1.1", "GET /no HTTP/1.1", "POST /no HTTP/1.1",
        "GET /bug HTTP/1.1", "GET /é HTTP/1.1", "GET http://h/a HTTP/1.1", "HEAD /a HTTP/1.1", "GET /a HTTP/1.0",
        "GET  /a HTTP/1.1", 'GET /"<>\\^`{|} HTTP/1.1', "PUT /a HTTP/1.1", "GET /a b HTTP/1.1", "get /a HTTP/1.1",
    ]),
    st.lists(st.sampled_from(LINES), max_size=4),
    st.sampled_from([b"", b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n", b"\r\n", b"x" * 70]),
)  # fmt: skip


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(at)]


@given(st.lists(heads, min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=3), st.booleans())
@example(
    [
        b"POST /a HTTP/1.1\r\nCONTENT-LENGTH: 0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nCONTENT-LENGTH: 0\r\ncontent-length: 3\r\n\r\nabc",
    ],
    [],
    True,
)
@example(
    [b"POST /a HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", b"POST /a HTTP/1.1\r\ncontent-length: \r\n\r\n"], [], True
)
def test_a_known_head_is_served_as_if_it_were_parsed(sent: list[bytes], places: list[int], is_one_by_one: bool) -> None:
    """Whatever is sent, and however it is cut: the application and the client see the same with and without memory."""
    pieces = sent if is_one_by_one else cut(b"".join(sent), places)
    assert played(Heads(), pieces, 3) == played(Forgetful(), pieces, 3)


def test_a_head_is_remembered_whatever_the_target_and_the_length() -> None:
    heads = Heads()
    for number in range(5):
        body = b"x" * number
        played(heads, [b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (number, number, body)], 1)
        played(heads, [b"GET /%d?a HTTP/1.1\r\nhost: x\r\n\r\n" % number], 1)
    assert len(heads) == 1


def test_what_ends_a_connection_or_has_no_length_is_parsed_each_time() -> None:
    heads = Heads()
    for line in ("connection: close", "transfer-encoding: chunked", "connection: upgrade\r\nupgrade: websocket"):
        played(heads, [f"POST /a HTTP/1.1\r\nhost: x\r\n{line}\r\n\r\n".encode()], 1)
    assert len(heads) == 0


def test_no_more_heads_are_remembered_than_the_bound_and_the_oldest_go_first() -> None:
    heads = Heads()
    sent = [b"GET /a HTTP/1.1\r\nx-number: %d\r\n\r\n" % number for number in range(HEADS_MAX + 1)]
    first, second, *_, last = [parts.lines for parts in map(split, sent) if parts is not None]
    for one in sent[:-1]:
        played(heads, [one], 1)
    assert heads.get(first) is not None
    played(heads, sent[-1:], 1)
    assert len(heads) == HEADS_MAX
    assert [heads.get(lines) is not None for lines in (first, second, last)] == [True, False, True]


def test_what_came_before_on_a_connection_does_not_count_to_the_size_of_a_body() -> None:
    head, body = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n", b"x" * 50
    asked, _, _ = played(Heads(), [head + body] * 1_000 + [head, body[:1], body[1:]], 1)
    assert asked[-1] == body


def test_a_connection_whose_heads_are_new_each_time_is_no_longer_asked_whether_they_are_known() -> None:
    heads = Heads()
    sent = [b"GET /a HTTP/1.1\r\nx-number: %d\r\n\r\n" % number for number in range(3 * MISSES_MAX)]
    asked, _, _ = played(heads, sent, 1)
    assert len(heads) == MISSES_MAX
    assert asked == played(Forgetful(), sent, 1)[0]
    played(heads, [sent[0], *sent[-MISSES_MAX:]], 1)
    assert len(heads) == 2 * MISSES_MAX


@pytest.mark.parametrize(("lines", "remembered"), [(LINES_MAX, 1), (LINES_MAX + 1, 0)])
def test_a_head_of_many_lines_is_not_remembered(lines: int, remembered: int) -> None:
    heads = Heads()
    named = b"".join(b"x%d:\r\n" % number for number in range(lines))
    played(heads, [b"GET /a HTTP/1.1\r\n" + named + b"\r\n"], 1)
    assert len(heads) == remembered


def test_a_head_that_is_long_is_not_remembered() -> None:
    line = b"\r\nx-long: "
    fits = b"GET /a HTTP/1.1" + line + b"a" * (LINES_BYTES_MAX - len(line)) + b"\r\n\r\n"
    assert split(fits) is not None
    assert split(fits.replace(b"aa", b"aaa", 1)) is None


# --- the collector's notes --------------------------------------------------------------------------------------------


class Log:
    """A broker that takes every block at once."""

    is_ready = True

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.visitors: list[str] = []

    def start(self) -> None: ...

    def send(self, partition: int, value: bytes, found: Headers, done: Callable[[bool], None]) -> None:
        block = decode(value, CollectedBlock)
        self.contexts += [block.contexts[event.context] for event in block.events]
        self.visitors += [event.visitor for event in block.events]
        done(True)

    def reset(self) -> None: ...

    def close(self) -> None: ...


SETTINGS = Settings(
    partitions=1,
    flush_ms=1,
    write_keys={"demo": "shop", "other": "blog"},
    allowed_origins=("https://a.x", "https://b.x"),
)


async def ask(log: Log, requests: list[bytes]) -> list[bytes]:
    """Send each request three times, each time over a connection of its own; return what each got the last time."""
    writer = BlockWriter(SETTINGS, asyncio.get_running_loop(), "test", log)
    server = Server(Collector(SETTINGS, writer, b"k" * 32), Limits(10_000))
    answers: list[bytes] = []
    for request in requests * 3:
        wire, connection = Wire(), Connection(server)
        connection.connection_made(wire)
        connection.data_received(request)
        async with asyncio.timeout(5):
            while not wire.written:
                await asyncio.sleep(0.001)
        answers.append(wire.written[0])
        connection.connection_lost(None)
    await writer.close(2)
    return answers[-len(requests) :]


def post(*lines: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in lines)
    body = '{"type":"track","event":"e","anonymousId":"ann"}'
    return f"POST /v1/track HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def test_clients_with_different_headers_never_share_what_was_found_out_of_them() -> None:
    log = Log()
    key = "x-write-key: demo"
    answers = asyncio.run(
        ask(log, [
            post(key, "user-agent: a@b.example", "origin: https://a.x"),
            post(key, "user-agent: two", "origin: https://b.x"),
            post(key, "user-agent: two", "origin: https://evil.x"),
            post(key, "user-agent: two", "dnt: 1"),
            post(key, "user-agent: two", "sec-gpc: 1"),
            post("x-write-key: other", "user-agent: two", "referer: https://r.x"),
            post("authorization: Basic b3RoZXI6", "user-agent: two"),
            post("x-write-key: wrong", "user-agent: two"),
        ])
    )  # fmt: skip
    assert [answer[9:12] for answer in answers] == [b"200", b"200", b"403", b"200", b"200", b"200", b"200", b"401"]
    origins = [answer.partition(b"allow-origin: ")[2].partition(b"\r")[0] for answer in answers]
    assert origins == [b"https://a.x", b"https://b.x", b"", b"", b"", b"", b"", b""]
    found = [(one.site, one.user_agent, one.referrer, one.no_consent, one.ip) for one in log.contexts[-6:]]
    masked = found[0][1]
    assert masked.startswith("em_")
    assert found == [
        ("shop", masked, "", False, "192.0.2.0"),
        ("shop", "two", "", False, "192.0.2.0"),
        ("shop", "two", "", True, ""),
        ("shop", "two", "", True, ""),
        ("blog", "two", "https://r.x", False, "192.0.2.0"),
        ("blog", "two", "", False, "192.0.2.0"),
    ]
    assert log.visitors[-6:] == ["ann", "ann", "", "", "ann", "ann"]


def test_a_visitor_is_the_one_of_its_own_cookie() -> None:
    def pixel(cookie: str) -> bytes:
        return f"GET /p.gif?k=demo&e=page HTTP/1.1\r\nhost: x\r\ncookie: herald_id={cookie}\r\n\r\n".encode()

    log = Log()
    asyncio.run(ask(log, [pixel("ann-1"), pixel("bob-2"), b"GET /p.gif?k=demo&e=page HTTP/1.1\r\nhost: x\r\n\r\n"]))
    assert log.visitors[:2] == log.visitors[3:5] == ["ann-1", "bob-2"]
    assert len({*log.visitors[2::3], "ann-1", "bob-2"}) == 5, "who has no cookie is new each time"


def test_a_request_that_was_answered_leaves_nothing_for_the_garbage_collector() -> None:
    async def run() -> None:
        log = Log()
        gc.collect()
        gc.disable()
        try:
            await ask(log, [post("x-write-key: demo")] * 30)
            left = [type(thing) for thing in gc.get_objects() if isinstance(thing, Intake | Exchange)]
        finally:
            gc.enable()
        assert len(log.visitors) == 90
        assert left == []

    asyncio.run(run())

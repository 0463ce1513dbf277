"""Our HTTP server by raw sockets: order, ends, bounds; what a scripted application is asked and how it may answer."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvloop

from pipeline.http.limits import Limits
from pipeline.http.message import Answer, Head, Receiver, Refusal, Reply, render
from pipeline.http.server import Server

LIMITS = Limits(1_000, head_bytes_max=2_000, head_s=0.5, body_s=0.5, idle_s=0.5, unread_s=0.5, linger_s=0.5)


class Echo:
    """Answers with what it was asked; `/later` once told to, `/early` before the body, `/bug` never."""

    def __init__(self) -> None:
        self.later: list[tuple[bytes, Reply]] = []
        self.left: list[str] = []
        self.heads: list[Head] = []
        self.room = 10_000

    def begin(self, head: Head) -> Answer | Receiver:
        self.heads.append(head)
        if head.path == "/early":
            return Answer(403, (), b"early")
        if head.path == "/bug-in-the-head":
            raise ValueError("a bug")
        return lambda body, reply: self._serve(head, body, reply)

    def _serve(self, head: Head, body: bytes, reply: Reply) -> None:
        if head.path == "/bug":
            raise ValueError("a bug")
        said = f"{head.method} {head.path}?{head.query} ".encode() + body
        if head.path == "/later":
            self.later.append((said, reply))
        else:
            reply(Answer(200, [("x-lines", str(head.lines))], said))

    def refuse(self, head: Head | None, refusal: Refusal) -> Answer:
        return Answer(refusal.status, (), refusal.code.encode())

    def gone(self, head: Head) -> None:
        self.left.append(head.path)

    def has_room(self, body_bytes: int) -> bool:
        return body_bytes <= self.room

    def tell(self, place: int) -> None:
        """Answer one of those who wait."""
        said, reply = self.later[place]
        reply(Answer(200, (), said))


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        return status, headers, await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def rest(self) -> bytes:
        """Read to the end of the connection."""
        return await asyncio.wait_for(self.reader.read(), 5)


class Rig:
    """A server, its application, and how to connect."""

    def __init__(self, server: Server, app: Echo, port: int) -> None:
        self.server, self.app, self.port = server, app, port
        self._clients: list[Client] = []

    async def client(self) -> Client:
        self._clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self._clients[-1]

    async def leave(self) -> None:
        """End all connections from their clients' side."""
        for client in self._clients:
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()

    async def until(self, look: Callable[[], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(5):
            while not look():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(limits: Limits = LIMITS) -> AsyncIterator[Rig]:
    app = Echo()
    server = Server(app, limits, look_s=0.1)
    await server.start("127.0.0.1", 0)
    try:
        rig = Rig(server, app, server.port)
        yield rig
        await rig.leave()
    finally:
        await server.stop(0)


def get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n".encode()


def post(path: str, body: bytes, more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


def chunked(path: str, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def test_answers_leave_in_the_order_of_the_requests() -> None:
    async def run() -> None:
        async with serving() as rig:
            client = await rig.client()
            client.send(post("/later?1", b"a") + post("/later?2", b"b") + get("/now"))
            await rig.until(lambda: len(rig.app.heads) == 3)
            rig.app.tell(1)
            await asyncio.sleep(0.05)
            rig.app.tell(0)
            assert [(await client.answer())[2] for _ in range(3)] == [
                b"POST /later?1 a",
                b"POST /later?2 b",
                b"GET /now? ",
            ]

    uvloop.run(run())


def test_a_request_may_come_byte_by_byte_and_many_in_one_piece() -> None:
    async def run() -> None:
        async with serving() as rig:
            client = await rig.client()
            for byte in post("/a?b=c", b"body") + chunked("/d", b"x", b"yz"):
                client.send(bytes((byte,)))
                await asyncio.sleep(0)
            assert (await client.answer())[2] == b"POST /a?b=c body"
            assert (await client.answer())[2] == b"POST /d? xyz"
            client.send(get("/n") * 100)  # more than may wait at once
            assert [(await client.answer())[0] for _ in range(100)] == [200] * 100

    uvloop.run(run())


def test_a_client_that_says_no_more_still_gets_its_answers() -> None:
    async def run() -> None:
        async with serving() as rig:
            client = await rig.client()
            client.send(get("/later"))
            client.writer.write_eof()
            await rig.until(lambda: bool(rig.app.later))
            await asyncio.sleep(0.05)
            rig.app.tell(0)
            status, headers, _ = await client.answer()
            assert (status, headers["connection"], await client.rest()) == (200, "close", b"")

    uvloop.run(run())


@pytest.mark.parametrize(
    ("sent", "keeps"),
    [
        (get("/"), True),
        (get("/", "connection: close\r\n"), False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", True),
        (get("/", "connection: upgrade\r\nupgrade: h2c\r\n"), False),
        (post("/early", b"unread"), False),
        (get("/early"), True),
    ],
)
def test_a_connection_is_kept_or_ends_as_http_says(sent: bytes, keeps: bool) -> None:
    async def run() -> None:
        async with serving() as rig:
            client = await rig.client()
            client.send(sent)
            await client.answer()
            client.send(get("/second"))
            if keeps:
                assert (await client.answer())[2] == b"GET /second? "
            else:
                assert await client.rest() == b""
                assert [head.path for head in rig.app.heads if head.path == "/second"] == []

    uvloop.run(run())


def test_an_upgrade_is_not_taken_and_its_request_is_answered_whole() -> None:
    """curl --http2 asks so with every request; what is too large is refused there as well."""
    more = "connection: upgrade\r\nupgrade: h2c\r\n"

    async def run() -> None:
        async with serving() as rig:
            client, greedy = await rig.client(), await rig.client()
            client.send(post("/a", b"body", more)[:-2])
            await rig.until(lambda: rig.server.held_bytes == 2)
            client.send(b"dy" + get("/second"))
            status, headers, body = await client.answer()
            assert (status, headers["connection"], body) == (200, "close", b"POST /a? body")
            assert await client.rest() == b""
            greedy.send(post("/b", b"x" * 1_001, more))
            assert (await greedy.answer())[2] == b"too_large"
            odd = await rig.client()
            odd.send(chunked("/c", b"x").replace(b"host: x\r\n", f"host: x\r\n{more}".encode()))
            assert (await odd.answer())[2] == b"bad_http"
            assert [head.path for head in rig.app.heads] == ["/a"]

    uvloop.run(run())


def test_head_and_204_have_no_body_and_expect_is_answered_first() -> None:
    async def run() -> None:
        async with serving() as rig:
            client = await rig.client()
            client.send(b"HEAD /a HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b"content-length: 9" in head
            client.send(b"POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"ok")
            assert (await client.answer())[2] == b"POST /b? ok"
        assert b"content-length" not in render(Answer(204, (), b""), b"", b"", False)

    uvloop.run(run())


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"garbage\r\n\r\n", 400, b"bad_http"),
        (get("/").replace(b"\r\n", b"\n"), 400, b"bad_http"),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            b"bad_http",
        ),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400, b"bad_http"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\nab", 400, b"bad_http"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n", 400, b"bad_http"),
        (get("/" + "a" * 3_000), 431, b"head_too_large"),
        (get("/", f"x: {'a' * 3_000}\r\n"), 431, b"head_too_large"),
        (get("/", "x: aaaaaaaaaa\r\n" * 300), 431, b"head_too_large"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 300_000, 431, b"head_too_large"),
        (post("/", b"x" * 1_001), 413, b"too_large"),
        (chunked("/", *[b"x" * 100] * 11), 413, b"too_large"),
        (chunked("/", end=b"0\r\nx: " + b"a" * 200_000), 400, b"bad_http"),
        (chunked("/", end=b"1;" + b"e" * 200_000), 400, b"bad_http"),
        (b"GET / HTTP/1.1\r\nx: a", 408, b"slow_head"),
        (post("/", b"abc").replace(b": 3", b": 4"), 408, b"slow_body"),
        (post("/bug", b""), 500, b"bug"),
        (post("/bug-in-the-head", b""), 500, b"bug"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else str(value),
)
def test_what_is_wrong_is_answered_once_and_nothing_after_it_is_read(
    sent: bytes, status: int, code: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def run() -> None:
        async with serving() as rig:
            client = await rig.client()
            client.send(sent)
            found, _, body = await client.answer()
            assert (found, body) == (status, code)
            if status != 500:
                client.send(get("/smuggled"))
                assert await client.rest() == b""
            assert all(head.path != "/smuggled" for head in rig.app.heads)
            await rig.until(lambda: rig.server.held_bytes == 0)

    uvloop.run(run())


def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    """Closed at once, the unread bytes would make a reset of it, and many clients would see no answer."""

    async def run() -> None:
        async with serving() as rig:
            client = await rig.client()
            client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000)
            await client.writer.drain()
            assert (await client.answer())[0] == 413

    uvloop.run(run())


def test_bodies_of_all_clients_together_stay_within_what_may_be_held() -> None:
    async def run() -> None:
        async with serving() as rig:
            rig.app.room = 1_500
            first, second = await rig.client(), await rig.client()
            first.send(post("/a", b"x" * 1_000)[:-1])
            await rig.until(lambda: rig.server.held_bytes == 999)
            second.send(post("/b", b"x" * 900))
            assert (await second.answer())[2] == b"buffer_full"
            first.send(b"x")
            assert (await first.answer())[0] == 200
            assert rig.server.held_bytes == 0

    uvloop.run(run())


def test_a_client_that_leaves_is_counted_and_what_it_sent_forgotten() -> None:
    async def run() -> None:
        async with serving() as rig:
            in_body, waiting = await rig.client(), await rig.client()
            in_body.send(post("/half", b"abcd")[:-2])
            waiting.send(get("/later"))
            await rig.until(lambda: rig.server.held_bytes == 2 and bool(rig.app.later))
            in_body.writer.transport.abort()
            waiting.writer.transport.abort()
            await rig.until(lambda: rig.server.held_bytes == 0)
            rig.app.tell(0)  # nobody is there: no error
            await rig.until(lambda: not rig.server.connections)
            assert (rig.app.left, rig.server.held_bytes) == (["/half"], 0)

    uvloop.run(run())


def test_idle_connections_and_unread_answers_end() -> None:
    async def run() -> None:
        async with serving() as rig:
            idle, used = await rig.client(), await rig.client()
            used.send(get("/"))
            await used.answer()
            assert (await idle.rest(), await used.rest()) == (b"", b"")
            deaf = await rig.client()
            async with asyncio.timeout(5):
                while rig.server.connections and not deaf.writer.is_closing():
                    deaf.send(get("/a?" + "x" * 1_500) * 30)
                    await asyncio.sleep(0.01)

    uvloop.run(run())


def test_one_client_too_many_is_told_to_come_again() -> None:
    async def run() -> None:
        async with serving(Limits(1_000, connections_max=2)) as rig:
            kept = [await rig.client(), await rig.client()]
            await rig.until(lambda: len(rig.server.connections) == 2)
            status, _, body = await (await rig.client()).answer()
            assert (status, body) == (503, b"too_many_connections")
            for client in kept:
                client.send(get("/"))
                assert (await client.answer())[0] == 200

    uvloop.run(run())


def test_a_stop_waits_for_the_answers_under_way_and_no_longer_than_told() -> None:
    async def run() -> None:
        async with serving() as rig:
            idle, answered, forgotten = await rig.client(), await rig.client(), await rig.client()
            for client in (answered, forgotten):
                client.send(get("/later"))
            await rig.until(lambda: len(rig.app.later) == 2)
            stopping = asyncio.ensure_future(rig.server.stop(0.5))
            assert await idle.rest() == b""
            rig.app.tell(0)
            _, headers, _ = await answered.answer()
            assert headers["connection"] == "close"
            assert not stopping.done()
            await stopping
            with contextlib.suppress(ConnectionResetError):
                assert await forgotten.rest() == b""
            assert not rig.server.connections

    uvloop.run(run())


def test_a_header_that_would_break_its_line_is_a_bug_not_an_answer() -> None:
    for bad in ("a\r\nset-cookie: x", "a\nb", "a\rb"):
        with pytest.raises(ValueError, match="would break its line"):
            render(Answer(200, [("x", bad)], b""), b"", b"", False)


def test_a_library_of_the_field_talks_to_it() -> None:
    """httpx: kept connections, streamed bodies, letters beyond ASCII."""

    async def run() -> None:
        async with serving(Limits(1_000)) as rig, httpx.AsyncClient(base_url=f"http://127.0.0.1:{rig.port}") as http:

            async def stream() -> Any:
                yield b"one "
                yield b"two"

            assert (
                await http.post("/ä", content=stream(), params={"q": "ü"})
            ).content == "POST /ä?q=%C3%BC one two".encode()
            found = await asyncio.gather(*(http.get(f"/{number}") for number in range(200)))
            assert [answer.status_code for answer in found] == [200] * 200

    uvloop.run(run())


def test_raw_letters_in_the_request_line_are_taken_as_if_escaped() -> None:
    async def run() -> None:
        async with serving() as rig:
            client = await rig.client()
            client.send("GET /é?q=ü&r=%zz HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert (await client.answer())[2] == "GET /é?q=%C3%BC&r=%zz ".encode()

    uvloop.run(run())

"""The client of our own servers: connections are kept, answers are whole, a server that is away or slow is told."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import pytest

from pipeline.http.client import Client, Unreachable
from pipeline.http.limits import Limits
from pipeline.http.message import Answer, Head, Receiver, Refusal, Reply
from pipeline.http.server import Server
from tests.waits import free_port


class Echo:
    """Answers with the body, and by which connection it came; `/slow` never, `/end` with the end of the connection."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []

    def begin(self, head: Head) -> Answer | Receiver:
        def answer(body: bytes, reply: Reply) -> None:
            if head.path == "/slow":
                self.replies.append(reply)
            else:
                reply(Answer(200, (("x-note", head.header("x-note")),), body))

        return answer

    def refuse(self, head: Head | None, refusal: Refusal) -> Answer:
        return Answer(refusal.status, (), b"refused")

    def gone(self, head: Head) -> None:
        """Nobody counts here."""

    def has_room(self, body_bytes: int) -> bool:
        return True


def talk(work: Callable[[Client, Server, Echo], Awaitable[None]]) -> None:
    async def do() -> None:
        echo = Echo()
        server = Server(echo, Limits(1_000_000))
        await server.start("127.0.0.1", 0)
        client = Client(f"http://127.0.0.1:{server.port}")
        try:
            await work(client, server, echo)
        finally:
            client.close()
            await server.stop(5)

    asyncio.run(do())


def test_requests_one_after_another_share_a_connection_and_at_once_they_do_not() -> None:
    async def work(client: Client, server: Server, echo: Echo) -> None:
        for size in (0, 1, 300_000):
            assert await client.post("/", [("x-note", "a")], b"x" * size, 30) == (200, b"x" * size)
        assert len(server.connections) == 1
        found = await asyncio.gather(*(client.post("/", (), str(number).encode(), 30) for number in range(20)))
        assert [answer.body for answer in found] == [str(number).encode() for number in range(20)]
        assert len(server.connections) == 20

    talk(work)


def test_an_answer_that_comes_too_late_is_given_to_nobody_else() -> None:
    async def work(client: Client, server: Server, echo: Echo) -> None:
        with pytest.raises(TimeoutError):
            await client.post("/slow", (), b"first", 0.2)
        echo.replies[0](Answer(200, (), b"late"))
        assert (await client.post("/", (), b"second", 30)).body == b"second"

    talk(work)


def test_a_server_that_is_not_there_or_leaves_is_unreachable() -> None:
    async def work(client: Client, server: Server, echo: Echo) -> None:
        with pytest.raises(Unreachable):
            await Client(f"http://127.0.0.1:{free_port()}").post("/", (), b"", 30)
        asked = asyncio.ensure_future(client.post("/slow", (), b"", 30))
        until = time.monotonic() + 30
        while not echo.replies and time.monotonic() < until:
            await asyncio.sleep(0.01)
        for connection in list(server.connections):
            connection.abort()
        with pytest.raises(Unreachable):
            await asked
        assert (await client.post("/", (), b"again", 30)).body == b"again"

    talk(work)


def test_a_closed_client_ends_its_connections_after_their_answers() -> None:
    async def work(client: Client, server: Server, echo: Echo) -> None:
        asked = asyncio.ensure_future(client.post("/slow", (), b"first", 30))
        until = time.monotonic() + 30
        while not echo.replies and time.monotonic() < until:
            await asyncio.sleep(0.01)
        client.close()
        echo.replies[0](Answer(200, (), b"late"))
        assert (await asked).body == b"late"
        while server.connections and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert not server.connections

    talk(work)


def test_more_requests_at_once_than_connections_find_the_server_away() -> None:
    async def work(client: Client, server: Server, echo: Echo) -> None:
        narrow = Client(f"http://127.0.0.1:{server.port}", connections_max=1)
        found = await asyncio.gather(*(narrow.post("/", (), b"x", 30) for _ in range(3)), return_exceptions=True)
        assert [isinstance(one, Unreachable) for one in found] == [False, True, True]
        narrow.close()

    talk(work)


@pytest.mark.parametrize(
    "said", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", b"a" * 20_000, b""]
)
def test_what_is_no_answer_of_ours_is_refused(said: bytes) -> None:
    async def do() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable):
            await Client(f"http://127.0.0.1:{port}").post("/", (), b"", 30)
        server.close()
        await asyncio.sleep(0.05)  # for the other end

    asyncio.run(do())

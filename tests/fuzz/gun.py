"""Fires shots over real connections, and hands each answer to whoever keeps the score."""

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from tests.fuzz.shots import Shot

ANSWER_S = 30.0
WIRE_S = 0.3  # for what is no whole request: a server may well wait for the rest of it
WAYS = 24  # connections to each service, at once


class Answer(NamedTuple):
    """What came back.

    status: 0 = the connection ended without an answer. after: answers behind the first one. before: the shot that went
    over the same connection before this one. was_lost: it was sent twice, since the connection ended without an answer.
    """

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    after: tuple["Answer", ...] = ()
    before: Shot | None = None
    was_lost: bool = False


class Connection:
    """One connection to one service, opened anew when it has ended."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._before: Shot | None = None

    async def fire(self, shot: Shot) -> Answer:
        """Send a shot and read what comes back; once more where the connection ends without an answer.

        So does every client: a server may close a connection that was idle, or a body unread, at that very moment.
        """
        found = await self._fire(shot)
        if found.status == 0 and not shot.wire:
            found = (await self._fire(shot))._replace(was_lost=True)
        return found

    async def _fire(self, shot: Shot) -> Answer:
        if shot.wire or (self._reader is not None and self._reader.at_eof()):
            self.close()  # the server ends what is idle for long
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=4_194_304)
        assert self._reader is not None
        try:
            self._writer.write(shot.payload())
            sending = asyncio.ensure_future(self._writer.drain())
            async with asyncio.timeout(WIRE_S if shot.wire else ANSWER_S):
                found = await read_answer(self._reader, shot.method)
                after = await _rest(self._reader) if shot.wire else ()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            found, after = Answer(0), ()
        sending.cancel()
        before, self._before = self._before, shot
        if shot.wire or found.status == 0 or found.headers.get("connection") == "close":
            self.close()
        return found._replace(after=after, before=before)

    def close(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = self._before = None


async def read_answer(reader: asyncio.StreamReader, method: str) -> Answer:
    """Read one answer; those with a status below 200 are only announcements."""
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        if status >= 200:
            break
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    if method == "HEAD" or status in (204, 304):
        return Answer(status, headers)
    return Answer(status, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


async def _rest(reader: asyncio.StreamReader) -> tuple[Answer, ...]:
    found: list[Answer] = []
    try:
        while True:
            found.append(await read_answer(reader, "GET"))
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, ValueError):
        return tuple(found)


async def fire_all(
    draw: Callable[[], Shot | None], ports: dict[str, int], score: Callable[[Shot, Answer], None]
) -> None:
    """Fire shots until draw returns None. ports: of each side."""

    async def fire() -> None:
        ways = {side: Connection(port) for side, port in ports.items()}
        while (shot := draw()) is not None:
            score(shot, await ways[shot.side].fire(shot))
        for way in ways.values():
            way.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(WAYS):
            tasks.create_task(fire())

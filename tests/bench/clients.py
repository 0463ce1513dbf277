"""Clients in processes of their own: real HTTP, and no part of what they cost is counted to the parts they ask."""

import asyncio
import gc
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any, Literal, Self

import aiohttp
import msgspec

from tests.bench import raw, requests
from tests.bench.raw import Fired
from tests.bench.requests import Way
from tests.bench.workload import BATCH_EVENTS, KEY, bodies, messages, newcomers

AGAIN_S = 60.0
PREPARE_S = 120.0
CONNECTIONS = 8


@dataclass(frozen=True)
class Errand:
    """One client's job: every `of`-th body, the `part`-th first. pace: events/s of this client; 0 = flat out."""

    url: str
    kind: Literal["messages", "newcomers"]
    events: int
    part: int
    of: int
    lanes: int = 4
    pace: float = 0.0


@dataclass(frozen=True)
class Told:
    """What a client has to tell. resent: requests that were answered 503 and sent again."""

    accepted: int
    resent: int
    cpu_s: float
    ended_s: float


@dataclass(frozen=True)
class Firing:
    """A client with bare sockets (raw.py). per_s: requests/s; 0 = flat out. wait_s: before the first one."""

    port: int
    way: Way | Literal["decisions"]
    events: int  # or questions
    connections: int
    per_s: float = 0.0
    wait_s: float = 0.0
    actions: int = 0
    visitors: int = 200


class Clients:
    """So many client processes. They prepare what they send, and all begin when `begin` is called."""

    def __init__(self, size: int) -> None:
        """size: how many jobs will be given, each to a process of its own."""
        spawning = get_context("spawn")  # a fork would carry our threads' locks along
        self._line = spawning.Barrier(size + 1)
        self._pool = ProcessPoolExecutor(size, mp_context=spawning, initializer=_line_up, initargs=(self._line,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.abort()
        self._pool.shutdown(cancel_futures=True)

    def send(self, errand: Errand) -> Future[Told]:
        """Give one process an errand."""
        return self._pool.submit(_errand, errand)

    def fire(self, firing: Firing) -> Future[Fired]:
        """Have one process send requests over bare sockets."""
        return self._pool.submit(_fire, firing)

    def begin(self) -> float:
        """Let all begin; return when that was, on the clock that all processes share (Linux, macOS)."""
        self._line.wait(PREPARE_S)
        return time.monotonic()


_line: list[Barrier] = []


def _line_up(line: Barrier) -> None:
    _line.append(line)


def _errand(errand: Errand) -> Told:
    source = messages(errand.events) if errand.kind == "messages" else newcomers(errand.events // 2)
    mine = bodies(source)[errand.part :: errand.of]
    _line[0].wait(PREPARE_S)
    cpu_s = time.process_time()
    accepted, resent = asyncio.run(_send(errand, mine))
    return Told(accepted, resent, time.process_time() - cpu_s, time.monotonic())


def _fire(firing: Firing) -> Fired:
    if firing.way == "decisions":
        made = requests.decisions(firing.actions, firing.visitors)
        made = [made[number % len(made)] for number in range(firing.events)]
    else:
        made = requests.of(firing.way, messages(firing.events))
    _line[0].wait(PREPARE_S)
    time.sleep(firing.wait_s)
    gc.freeze()
    gc.disable()  # its pauses would count as the server's
    if firing.per_s:
        return raw.scheduled(firing.port, made, firing.per_s, firing.connections)
    return raw.flat_out(firing.port, made, firing.connections)


async def _send(errand: Errand, mine: list[bytes]) -> tuple[int, int]:
    left = iter(enumerate(mine))
    began_s, step_s = time.monotonic(), BATCH_EVENTS / errand.pace if errand.pace else 0.0
    accepted = resent = 0

    async def lane(http: aiohttp.ClientSession) -> None:
        nonlocal accepted, resent
        for number, body in left:
            await asyncio.sleep(max(0.0, began_s + number * step_s - time.monotonic()))
            answer, again = await _post(http, errand.url + "/v1/batch", body)
            accepted, resent = accepted + answer["accepted"], resent + again

    async with _session() as http, asyncio.TaskGroup() as tasks:
        for _ in range(errand.lanes):
            tasks.create_task(lane(http))
    return accepted, resent


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=CONNECTIONS)
    )


async def _post(http: aiohttp.ClientSession, url: str, body: bytes) -> tuple[Any, int]:
    """Send until answered with 200; return the answer and how often it was sent again."""
    until, resent = time.monotonic() + AGAIN_S, 0
    while True:
        async with http.post(url, data=body, headers={"X-Write-Key": KEY}) as answer:
            said = await answer.read()
            if answer.status == 200:
                return msgspec.json.decode(said), resent
            if answer.status != 503 or time.monotonic() > until:
                raise RuntimeError(f"{url}: {answer.status} {said[:200]!r}, expected 200")
        resent += 1
        await asyncio.sleep(0.1)

"""Clients in processes of their own: real HTTP, and no part of what they cost is counted to the parts they ask."""

import asyncio
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any, Literal, Self

import aiohttp
import msgspec

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
class Asking:
    """A client that asks for decisions at an even rate, whether or not the last answer is in (an open loop)."""

    url: str
    actions: int
    per_s: float
    seconds: float
    wait_s: float = 0.0  # before the first one
    questions: int = 20  # different visitors


@dataclass(frozen=True)
class Answered:
    """latencies_ms: sent -> whole answer read. degraded: decisions that had to do without something."""

    latencies_ms: list[float]
    degraded: int
    failed: int


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

    def ask(self, asking: Asking) -> Future[Answered]:
        """Have one process ask for decisions."""
        return self._pool.submit(_asking, asking)

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


def _asking(asking: Asking) -> Answered:
    made = [_question(asking, number) for number in range(asking.questions)]
    _line[0].wait(PREPARE_S)
    return asyncio.run(_ask(asking, made))


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


def _question(asking: Asking, number: int) -> bytes:
    actions = [{"id": f"action-{place}", "url": f"https://shop.example/{place}"} for place in range(asking.actions)]
    visitor = f"newcomer-{number:08d}"
    return msgspec.json.encode({"placement": f"place-{number % 4}", "visitor": visitor, "actions": actions})


async def _ask(asking: Asking, made: list[bytes]) -> Answered:
    latencies_ms: list[float] = []
    degraded = failed = 0

    async def one(http: aiohttp.ClientSession, body: bytes) -> None:
        nonlocal degraded, failed
        sent_s = time.perf_counter()
        async with http.post(f"{asking.url}/v1/decisions", data=body, headers=_JSON) as answer:
            said = await answer.read()
            latencies_ms.append((time.perf_counter() - sent_s) * 1_000)
            if answer.status == 200:
                degraded += bool(msgspec.json.decode(said)["degraded"])
            else:
                failed += 1

    await asyncio.sleep(asking.wait_s)
    began_s = time.monotonic()
    async with _session() as http, asyncio.TaskGroup() as tasks:
        for number in range(int(asking.per_s * asking.seconds)):
            await asyncio.sleep(max(0.0, began_s + number / asking.per_s - time.monotonic()))
            tasks.create_task(one(http, made[number % len(made)]))
    return Answered(latencies_ms, degraded, failed)


_JSON = {"content-type": "application/json"}

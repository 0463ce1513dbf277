"""Clients that are slow or greedy: connections that stand still, floods of headers, gzip bombs; good ones meanwhile."""

import asyncio
import gzip
import json
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.fuzz.gun import Connection
from tests.fuzz.shots import COLLECTOR, DELIVERY, Shot
from tests.fuzz.stand import MEGABYTE, Stand

SHOWN_OUT_S = 15.0  # by then nobody slow is left: the services' own bounds are 10 s for headers and for a body
BOMB_MB_MAX = 8.0
FLOOD_MB_MAX = 40.0  # large bodies are read up to the bound, and the allocator keeps a few of them for the next
HOST = ("Host", "fuzz.example")
EVENT = json.dumps({"writeKey": "demo", "batch": [{"type": "page", "userId": "u"}]}).encode()
DECISION = b'{"placement":"home","actions":[{"id":"a"}]}'
GOOD = {
    COLLECTOR: Shot(COLLECTOR, "POST", "/v1/batch", [HOST], EVENT),
    DELIVERY: Shot(DELIVERY, "POST", "/v1/decisions", [HOST, ("Content-Type", "application/json")], DECISION),
}
HEADS = {
    COLLECTOR: b"POST /v1/batch HTTP/1.1\r\nHost: x\r\n",
    DELIVERY: b"POST /v1/decisions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n",
}
ENDLESS = (b"X-A", b"Content-Length: 100\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")


@dataclass
class Siege:
    """What came of it. held: slow connections that were still open after SHOWN_OUT_S."""

    slow: int
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    held: int = 0
    quiet_p99_ms: float = 0.0
    busy_p99_ms: float = 0.0
    grown_mb: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The figures, for people."""
        closed = "  ".join(
            f"{side} {status or 'closed'}: {count:,}" for (side, status), count in sorted(self.answers.items())
        )
        grown = "  ".join(f"{what} {grown_mb:+.1f} MB" for what, grown_mb in self.grown_mb.items())
        return [
            f"{self.slow:,} slow connections: {closed}; open after {SHOWN_OUT_S:.0f} s: {self.held}",
            f"good requests meanwhile: p99 {self.busy_p99_ms:.1f} ms, without them {self.quiet_p99_ms:.1f} ms",
            f"memory: {grown}",
        ]


async def _stand_still(side: str, port: int, payload: bytes, siege: Siege) -> None:
    """Begin a request, go on a byte a second, and note how it ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(HEADS[side] + payload)
        async with asyncio.timeout(SHOWN_OUT_S + 15.0):
            reading = asyncio.ensure_future(reader.read())
            while not reading.done():
                await asyncio.wait({reading}, timeout=1.0)
                if not reading.done() and not writer.is_closing():
                    writer.write(b"a" if b"chunked" not in payload else b"1\r\na\r\n")
            siege.answers[side, reading.result()[9:12].decode()] += 1
    except ConnectionError:
        siege.answers[side, ""] += 1
    except TimeoutError:
        siege.held += 1
    finally:
        writer.close()


async def _good(stand: Stand, until_s: float, least: int) -> list[float]:
    """Send good requests until then; return how long each took, ms."""
    ways = {side: Connection(port) for side, port in stand.ports.items()}
    took: list[float] = []
    while time.monotonic() < until_s or len(took) < least:
        for side, way in ways.items():
            started_s = time.monotonic()
            answer = await way.fire(GOOD[side])
            took.append((time.monotonic() - started_s) * 1_000)
            if answer.status != 200:
                raise AssertionError(f"{side}: a good request was answered {answer.status} {answer.body[:200]!r}")
    for way in ways.values():
        way.close()
    return took


def _p99(took: list[float]) -> float:
    return sorted(took)[int(len(took) * 0.99)]


async def _besiege(stand: Stand, siege: Siege) -> None:
    siege.quiet_p99_ms = _p99(await _good(stand, 0.0, 200))
    async with asyncio.TaskGroup() as tasks:
        for number in range(siege.slow):
            side = (COLLECTOR, DELIVERY)[number % 2]
            tasks.create_task(_stand_still(side, stand.ports[side], ENDLESS[number // 2 % len(ENDLESS)], siege))
        good = tasks.create_task(_good(stand, time.monotonic() + 10.0, 200))
    siege.busy_p99_ms = _p99(good.result())


def _bombs() -> list[tuple[Shot, set[int]]]:
    """Ten megabytes of nothing, packed to ten kilobytes."""
    bomb = gzip.compress(b"\0" * 10 * MEGABYTE)
    return [
        (Shot(COLLECTOR, "POST", "/v1/batch", [HOST], bomb), {413}),
        (Shot(COLLECTOR, "POST", "/com.snowplowanalytics.snowplow/tp2", [HOST], bomb), {422}),
        (Shot(DELIVERY, "POST", "/v1/decisions", [HOST, ("Content-Encoding", "gzip")], bomb), {415}),
    ]


def _floods() -> list[tuple[Shot, set[int]]]:
    """Headers without end, bodies without end. 0: the server closes while more is sent, and its answer may be lost."""
    flood = [HOST, *((f"X-{number}", "a" * 100) for number in range(99))]
    cookies = [HOST, ("Cookie", "a=b; " * 10_000)]
    large = b" " * 1_200_000
    return [
        *((Shot(side, "GET", "/healthz", headers), {431, 0}) for side in GOOD for headers in (flood, cookies)),
        (Shot(COLLECTOR, "POST", "/v1/batch", [HOST], large), {413, 0}),
        (Shot(COLLECTOR, "POST", "/v1/batch", [HOST], large, chunked=True), {413, 0}),
        (Shot(DELIVERY, "POST", "/v1/decisions", [HOST], large, chunked=True), {413, 0}),
    ]


async def _throw(stand: Stand, siege: Siege, shots: list[tuple[Shot, set[int]]], rounds: int) -> dict[str, float]:
    """Fire these so many times; return by how much each service has grown since the first third, MB."""
    ways = {side: Connection(port) for side, port in stand.ports.items()}
    for number in range(rounds):
        if number == rounds // 3:
            warm = stand.memory_mb()
        for shot, expected in shots:
            answer = await ways[shot.side].fire(shot)
            if answer.status not in expected:
                siege.faults.append(f"{shot.method} {shot.target}: {answer.status}, expected one of {expected}")
    for way in ways.values():
        way.close()
    end = stand.memory_mb()
    return {side: end[side] - warm[side] for side in stand.ports}


def besiege(stand: Stand, slow: int, rounds: int) -> Siege:
    """Hold so many slow connections at once, then throw so many rounds of bombs and floods."""
    siege = Siege(slow)
    asyncio.run(_besiege(stand, siege))
    for what, shots, most_mb in (("bombs", _bombs(), BOMB_MB_MAX), ("floods", _floods(), FLOOD_MB_MAX)):
        for side, grown_mb in asyncio.run(_throw(stand, siege, shots, rounds)).items():
            siege.grown_mb[f"{side} by {what}"] = grown_mb
            if grown_mb > most_mb:
                siege.faults.append(f"{side} grew by {grown_mb:.1f} MB under {what}")
    if siege.held:
        siege.faults.append(f"{siege.held} slow connections were still open after {SHOWN_OUT_S + 15:.0f} s")
    return siege

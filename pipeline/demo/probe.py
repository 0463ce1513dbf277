"""How long an event takes until it counts: sent by HTTP, then looked for where its users would look."""

import asyncio
import time
from dataclasses import dataclass, field

import aiohttp

from pipeline.edge.clickhouse import Warehouse
from pipeline.errors import Retryable

EVERY_S = 0.4
LOOK_EVERY_S = 0.005
GIVE_UP_S = 20.0


@dataclass
class Latencies:
    """Seen from outside, in ms: event sent -> its profile answers a decision; event sent -> its row is found."""

    usable_ms: list[float] = field(default_factory=list)
    queryable_ms: list[float] = field(default_factory=list)
    sent: int = 0
    not_seen: int = 0  # within GIVE_UP_S


def quantile(values: list[float], q: float) -> float:
    """Return the q-quantile (nearest rank) of values; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


class Prober:
    """Sends one event of a new visitor now and then, and waits for it."""

    def __init__(self, collector_url: str, delivery_url: str, warehouse: Warehouse, key: str) -> None:
        """warehouse: asked from a thread."""
        self.collector_url, self.delivery_url, self.warehouse, self.key = collector_url, delivery_url, warehouse, key
        self.seen = Latencies()

    async def run(self, stop: asyncio.Event) -> Latencies:
        """Probe until told to stop."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
            while not stop.is_set():
                try:
                    await self._one(http, f"probe-{time.time_ns():x}")
                except (aiohttp.ClientError, TimeoutError, Retryable):
                    self.seen.not_seen += 1  # a part was away: the demo goes on, and says so
                await asyncio.sleep(EVERY_S)
        return self.seen

    async def _one(self, http: aiohttp.ClientSession, visitor: str) -> None:
        body = {"writeKey": self.key, "anonymousId": visitor, "event": "Probe", "messageId": visitor}
        started = time.perf_counter()
        async with http.post(f"{self.collector_url}/v1/track", json=body) as answer:
            if answer.status != 200:
                return
        self.seen.sent += 1
        usable, queryable = await asyncio.gather(self._usable(http, visitor), self._queryable(visitor))
        for found, latencies in ((usable, self.seen.usable_ms), (queryable, self.seen.queryable_ms)):
            if found is None:
                self.seen.not_seen += 1
            else:
                latencies.append((found - started) * 1_000)

    async def _usable(self, http: aiohttp.ClientSession, visitor: str) -> float | None:
        """Return when delivery first knew the visitor; None where that took too long."""
        until = time.perf_counter() + GIVE_UP_S
        while time.perf_counter() < until:
            async with http.get(f"{self.delivery_url}/v1/profiles/{visitor}") as answer:
                if answer.status == 200:
                    return time.perf_counter()
            await asyncio.sleep(LOOK_EVERY_S)
        return None

    async def _queryable(self, visitor: str) -> float | None:
        """Return when the warehouse first showed the row; None where that took too long."""
        until = time.perf_counter() + GIVE_UP_S
        sql = "SELECT count() FROM events WHERE visitor = %(visitor)s AND received_time > now() - 3600"
        while time.perf_counter() < until:
            rows = await asyncio.to_thread(self.warehouse.execute, sql, {"visitor": visitor})
            if rows[0][0]:
                return time.perf_counter()
            await asyncio.sleep(10 * LOOK_EVERY_S)
        return None

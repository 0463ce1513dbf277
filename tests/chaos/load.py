"""The clients: batches and pixels of the plan, sent until they are acknowledged, as SDKs do: with the same ids."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from pipeline.edge.clock import now_ms
from tests.chaos.plan import KEY, Input
from tests.journeys.rig import BROWSER

BATCH_EVENTS = 250
LANES = 6
AHEAD_BATCHES = 64  # how far the fastest lane may be before the slowest: so far out of order do events arrive
REPEAT_EVERY = 50  # of so many batches one is sent again although it was acknowledged
TIMEOUT_S = 15.0
WAIT_MAX_S = 1.0
FOR_THE_MOMENT = frozenset({408, 429, 500, 502, 503, 504})
HEADERS = {"X-Write-Key": KEY, "User-Agent": "analytics-python/2.4.0", "Content-Type": "application/json"}


class GaveUp(RuntimeError):
    """The collector said that an event can never be taken, or stayed away for too long."""


@dataclass
class Sent:
    """What the clients know. late_ms: the most that an event came after its own time, or (ahead_ms) before it."""

    acknowledged: int = 0
    accepted: int = 0
    refused: int = 0
    repeated: int = 0
    retries: int = 0
    pixels: int = 0
    late_ms: int = 0
    ahead_ms: int = 0
    problems: dict[str, int] = field(default_factory=dict)


class Load(threading.Thread):
    """Sends all of an input, at most at its own pace where it is to be paced."""

    def __init__(self, url: str, planned: Input, is_paced: bool, give_up_s: float = 600) -> None:
        """url: the collector's. give_up_s: how long one request may fail."""
        super().__init__(name="load", daemon=True)
        self.url, self.planned, self.is_paced, self.give_up_s = url, planned, is_paced, give_up_s
        self.sent = Sent()
        self.error: BaseException | None = None
        self._batches = -(-len(planned) // BATCH_EVENTS)
        self._next = 0
        self._open: set[int] = set()  # batches handed out and not acknowledged

    def run(self) -> None:
        """Send; what went wrong is in `error`."""
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 - told to whoever joins this thread
            self.error = error

    async def _run(self) -> None:
        self._began_s = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http, asyncio.TaskGroup() as lanes:
            for _ in range(LANES):
                lanes.create_task(self._lane(http))

    async def _lane(self, http: aiohttp.ClientSession) -> None:
        while self._next < self._batches:
            number = self._next
            self._next += 1
            self._open.add(number)
            while number - min(self._open) > AHEAD_BATCHES:
                await asyncio.sleep(0.01)
            if self.is_paced:
                due_s = self._began_s + number * BATCH_EVENTS / self.planned.per_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            await self._batch(http, number)
            self._open.discard(number)

    async def _batch(self, http: aiohttp.ClientSession, number: int) -> None:
        planned, sent = self.planned, self.sent
        events = range(number * BATCH_EVENTS, min(len(planned), (number + 1) * BATCH_EVENTS))
        body, count = planned.body(events)
        said = msgspec.json.decode(
            await self._until(lambda: http.post(self.url + "/v1/batch", data=body, headers=HEADERS))
        )
        if said["accepted"] + len(said["rejected"]) != count:
            raise GaveUp(f"batch {number}: {said}, expected a word on each of {count} events")
        sent.accepted += said["accepted"]
        sent.refused += len(said["rejected"])
        sent.acknowledged += count
        if number % REPEAT_EVERY == 3:
            await self._until(lambda: http.post(self.url + "/v1/batch", data=body, headers=HEADERS))
            sent.repeated += count
        for query in planned.pixels(events):
            await self._until(
                lambda query=query: http.get(self.url + "/p.gif", params=query, headers={"User-Agent": BROWSER})  # type: ignore[misc]
            )
            sent.pixels += 1
            sent.accepted += 1
            sent.acknowledged += 1
        times = planned.time_ms[events.start : events.stop]
        sent.late_ms = max(sent.late_ms, now_ms() - int(times.min()))
        sent.ahead_ms = max(sent.ahead_ms, int(times.max()) - now_ms())

    async def _until(self, ask: Callable[[], Any]) -> bytes:
        """Ask until the answer is 200. Raises GaveUp."""
        until, wait_s = time.monotonic() + self.give_up_s, 0.05
        while True:
            problem = ""
            try:
                async with ask() as answer:
                    body: bytes = await answer.read()
                    if answer.status == 200:
                        return body
                    problem = str(answer.status)
                    if answer.status not in FOR_THE_MOMENT:
                        raise GaveUp(f"{answer.url}: {answer.status} {body[:300]!r}, expected 200 or a reason to retry")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = type(error).__name__
            self.sent.retries += 1
            self.sent.problems[problem] = self.sent.problems.get(problem, 0) + 1
            if time.monotonic() > until:
                raise GaveUp(f"{problem} for {self.give_up_s:.0f} s")
            await asyncio.sleep(wait_s)
            wait_s = min(WAIT_MAX_S, wait_s * 2)

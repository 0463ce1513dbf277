"""Sends recorded rows to a collector and keeps count of what it said; nothing is given up while it may still arrive.

Rows of one lane go in order, one request at a time; lanes go side by side. A request that fails for the moment (503,
429, a broken connection) is sent again with the same ids: that is what makes a retry harmless.
"""

import asyncio
import base64
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from pipeline.errors import HeraldError, Retryable, SettingsError
from pipeline.replay.formats import Recorded

FOR_THE_MOMENT = frozenset({408, 429, 500, 502, 503, 504})
QUEUE_ROWS = 2_000
RETRY_AFTER_MAX_S = 30.0


@dataclass(frozen=True)
class Target:
    """Where to and how. give_up_s: how long one request is repeated before the replay fails."""

    url: str
    key: str
    lanes: int = 4
    batch: int = 100
    give_up_s: float = 120.0
    repeat_share: float = 0.0  # of batches sent twice, as clients do whose answer was lost


@dataclass
class Sent:
    """What was sent and what the collector said. ids: events sent, each once; repeats are not counted in events."""

    events: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    retries: int = 0


class Sender:
    """One replay. Call `send` with rows; times are moved by `shift_ms`."""

    def __init__(self, target: Target, progress: Callable[[int], None] = lambda count: None) -> None:
        """progress: told how many rows more have been answered."""
        self.target, self.progress, self.sent = target, progress, Sent()
        self._authorization = "Basic " + base64.b64encode(f"{target.key}:".encode()).decode()

    async def send(self, rows: AsyncIterator[Recorded], shift_ms: int) -> Sent:
        """Send all rows; return the counts.

        Raises Retryable where the collector stays away, SettingsError where it does not know the key, HeraldError where
        it refuses a request for good.
        """
        lanes: list[asyncio.Queue[Recorded | None]] = [asyncio.Queue(QUEUE_ROWS) for _ in range(self.target.lanes)]
        try:
            await self._send_lanes(rows, lanes, shift_ms)
        except ExceptionGroup as group:
            # Lanes that fail together fail for one reason, and callers wait for that one, not for a group of them.
            if group.split(HeraldError)[1] is not None:
                raise
            raise group.exceptions[0] from None
        return self.sent

    async def _send_lanes(
        self, rows: AsyncIterator[Recorded], lanes: "list[asyncio.Queue[Recorded | None]]", shift_ms: int
    ) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as http, asyncio.TaskGroup() as tasks:
            for lane in lanes:
                tasks.create_task(self._drain(http, lane, shift_ms))
            async for row in rows:
                await lanes[zlib.crc32(row.lane.encode()) % len(lanes)].put(row)
            for lane in lanes:
                await lane.put(None)

    async def _drain(self, http: aiohttp.ClientSession, lane: "asyncio.Queue[Recorded | None]", shift_ms: int) -> None:
        done = False
        while not done:
            batch: list[Recorded] = []
            while len(batch) < self.target.batch and not (batch and lane.empty()):
                row = await lane.get()
                if row is None:
                    done = True
                    break
                batch.append(row)
            if batch:
                await self._send_batch(http, batch, shift_ms)

    async def _send_batch(self, http: aiohttp.ClientSession, batch: list[Recorded], shift_ms: int) -> None:
        calls = [row for row in batch if row.headers is None]
        if calls:
            await self._send_calls(http, calls, shift_ms)
        for row in batch:
            if row.headers is not None:
                await self._send_pixel(http, row, shift_ms)
        self.progress(len(batch))

    async def _send_calls(self, http: aiohttp.ClientSession, rows: list[Recorded], shift_ms: int) -> None:
        messages = [row.message | {"timestamp": _iso(row.time_ms + shift_ms)} for row in rows]
        body = msgspec.json.encode({"batch": messages})
        answer = await self._request(
            http, "POST", "/v1/batch", data=body, headers={"Authorization": self._authorization}
        )
        said = msgspec.json.decode(answer)
        self.sent.events += len(rows)
        self.sent.accepted += said["accepted"]
        self.sent.refused.update(one["reason"] for one in said["rejected"])
        if zlib.crc32(str(rows[0].message.get("messageId")).encode()) % 1_000 < self.target.repeat_share * 1_000:
            await self._request(http, "POST", "/v1/batch", data=body, headers={"Authorization": self._authorization})
            self.sent.repeated += len(rows)

    async def _send_pixel(self, http: aiohttp.ClientSession, row: Recorded, shift_ms: int) -> None:
        query = row.message | {"k": self.target.key, "ts": str(row.time_ms + shift_ms)}
        await self._request(http, "GET", "/p.gif", params=query, headers=row.headers)
        self.sent.events += 1
        self.sent.accepted += 1

    async def _request(self, http: aiohttp.ClientSession, method: str, path: str, **options: Any) -> bytes:
        """Send until answered with 200.

        Raises Retryable where that takes longer than give_up_s, and HeraldError at once where it will never succeed.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self.target.give_up_s
        wait_s, problem = 0.1, ""
        while loop.time() < until:
            try:
                async with http.request(method, self.target.url + path, **options) as answer:
                    body = await answer.read()
                    if answer.status == 200:
                        return body
                    problem = f"{answer.status} {body[:200].decode('utf-8', 'replace')}"
                    if answer.status not in FOR_THE_MOMENT:
                        raise _final(answer.status, self.target, f"{method} {self.target.url}{path}: {problem}")
                    wait_s = max(wait_s, _stated_wait_s(answer.headers.get("retry-after", "")))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = repr(error)
            self.sent.retries += 1
            await asyncio.sleep(wait_s)
            wait_s = min(2.0, wait_s * 2)
        raise Retryable(
            f"{method} {self.target.url}{path}: {problem}, expected 200 within {self.target.give_up_s:.0f} s"
        )


def _final(status: int, target: Target, said: str) -> HeraldError:
    """Return the error for an answer that sending again would not change."""
    if status == 401:
        return SettingsError(f"{said}; --key = {target.key!r}: expected one of the collector's HERALD_WRITE_KEYS")
    return HeraldError(f"{said}; expected 200, and sending the same again would not change that")


def _stated_wait_s(retry_after: str) -> float:
    """Return how long an answer asks to wait, s; at most RETRY_AFTER_MAX_S, 0 where it does not say."""
    return min(float(retry_after), RETRY_AFTER_MAX_S) if retry_after.isascii() and retry_after.isdigit() else 0.0


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def paced(rows: Iterable[Recorded], pace: float, started_s: float) -> AsyncIterator[Recorded]:
    """Yield rows when their time has come: the log's own pace times `pace`; 0 = at once."""
    loop = asyncio.get_running_loop()
    first_ms: int | None = None
    for number, row in enumerate(rows):
        first_ms = row.time_ms if first_ms is None else first_ms
        if pace > 0:
            wait_s = started_s + (row.time_ms - first_ms) / 1_000 / pace - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
        elif number % 500 == 0:
            await asyncio.sleep(0)
        yield row

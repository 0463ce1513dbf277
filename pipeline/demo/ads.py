"""Real logged ad decisions (Open Bandit) replayed: ours is asked for each, the logged one is what the visitor saw.

The log was made by a uniform policy, so what our policy would have earned on it can be estimated without bias from the
clicks on what was shown: mean of click x (our probability of that item) / (the log's), "inverse propensity score".
"""

import asyncio
import csv
import gzip
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec

from pipeline.core.evaluate.intervals import fay_feuer
from pipeline.errors import Retryable

PLACEMENT = "zozotown-men"
LANES = 8
AGAIN_S = 60.0


class AdRow(NamedTuple):
    """One logged decision: what was shown with which probability, and whether it was clicked."""

    number: int
    visitor: str
    item: str
    propensity: float
    clicked: bool


@dataclass
class Earned:
    """What the log and our policy earned. values: one term of the estimate a row; latencies_ms: as seen from here."""

    rows: int = 0
    clicks: int = 0
    decisions: int = 0
    degraded: int = 0
    values: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    weight_max: float = 0.0  # the largest that one click could have counted for

    def uniform_rate(self) -> float:
        """Return the clicks per decision of the logged, uniform policy."""
        return self.clicks / self.rows if self.rows else 0.0

    def ours(self) -> tuple[float, float, float]:
        """Return (estimated clicks per decision of our policy, lower and upper end of its 95 % interval).

        The interval is Fay and Feuer's (1997) for a weighted sum of Poisson counts: with few matched clicks the usual
        ones, normal or bootstrap, are far too narrow.
        """
        total, squares = sum(self.values), sum(value * value for value in self.values)
        low, high = fay_feuer(total, squares, self.weight_max, len(self.values))
        return total / len(self.values), low, high


def read_log(path: Path) -> list[AdRow]:
    """Read the logged decisions. A visitor is a combination of the log's four hashed user features."""
    rows = []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream)):
            visitor = "-".join(row[f"user_feature_{index}"][:6] for index in range(4))
            clicked = row["click"] == "1"
            rows.append(AdRow(number, visitor, row["item_id"], float(row["propensity_score"]), clicked))
    return rows


class AdReplay:
    """Asks delivery for each row of the log, then tells it what was really shown and clicked."""

    def __init__(self, delivery_url: str, rows: list[AdRow], progress: Callable[[int], None]) -> None:
        """progress: told how many rows more are done."""
        self.url, self.rows, self.progress = delivery_url, rows, progress
        self.earned = Earned()
        items = sorted({row.item for row in rows}, key=int)
        self._actions = [{"id": item, "url": f"https://shop.example/item/{item}"} for item in items]

    async def run(self) -> Earned:
        """Replay all rows, a few side by side, in the log's order within each."""
        try:
            await self._lanes()
        except ExceptionGroup as group:
            if group.split(Retryable)[1] is not None:
                raise
            raise group.exceptions[0] from None  # lanes that fail together fail for one reason
        return self.earned

    async def _lanes(self) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as http, asyncio.TaskGroup() as tasks:
            for lane in range(LANES):
                tasks.create_task(self._lane(http, lane))

    async def _lane(self, http: aiohttp.ClientSession, lane: int) -> None:
        for row in self.rows[lane::LANES]:
            await self._row(http, row)
            self.progress(1)

    async def _row(self, http: aiohttp.ClientSession, row: AdRow) -> None:
        ask = {"placement": PLACEMENT, "visitor": row.visitor, "actions": self._actions}
        started = time.perf_counter()
        answer = await self._post(http, "/v1/decisions", ask)
        self.earned.latencies_ms.append((time.perf_counter() - started) * 1_000)
        self.earned.decisions += 1
        self.earned.degraded += bool(answer["degraded"])
        self.earned.weight_max = max(self.earned.weight_max, answer["actions"][0]["probability"] / row.propensity)
        value = 0.0
        if row.clicked:
            ours = await self._probability(http, answer["decision_id"], row.item)
            value = ours / row.propensity
        shown = await self._post(
            http, "/v1/decisions", ask | {"made": {"action_id": row.item, "probability": row.propensity}}
        )
        await self._get(http, shown["actions"][0]["impression_url"])
        if row.clicked:
            await self._get(http, shown["actions"][0]["click_url"])
        self.earned.rows += 1
        self.earned.clicks += row.clicked
        self.earned.values.append(value)

    async def _probability(self, http: aiohttp.ClientSession, decision_id: str, item: str) -> float:
        said = msgspec.json.decode(await self._get(http, f"{self.url}/v1/decisions/{decision_id}"))
        return float(dict(zip(said["candidates"], said["propensities"], strict=True))[item])

    async def _post(self, http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> Any:
        return msgspec.json.decode(await self._request(http, "POST", self.url + path, json=body))

    async def _get(self, http: aiohttp.ClientSession, url: str) -> bytes:
        return await self._request(http, "GET", url, allow_redirects=False)

    async def _request(self, http: aiohttp.ClientSession, method: str, url: str, **options: Any) -> bytes:
        until, problem = time.monotonic() + AGAIN_S, ""
        browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
        while time.monotonic() < until:
            try:
                async with http.request(method, url, headers=browser, **options) as answer:
                    body = await answer.read()
                    if answer.status in (200, 302):
                        return body
                    problem = f"{answer.status} {body[:200].decode('utf-8', 'replace')}"
                    if answer.status < 500:
                        break
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = repr(error)
            await asyncio.sleep(0.2)
        raise Retryable(f"{method} {url}: {problem}, expected 200 or 302")

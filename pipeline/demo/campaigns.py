"""The demo's second act: a marketer's campaigns in front of simulated visitors, on real parts.

A bandit learns beside an A/B test with a hold-out, a budget is spent evenly until its end, and goods that run out close
their line. The visitors are simulated, with the click rates below: what is shown is that the parts do what they say.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import yaml
from rich.console import Console

from pipeline.campaigns.command import ImportWish, import_file
from pipeline.errors import Retryable
from pipeline.settings import Settings

RATES: Final[Mapping[str, float]] = {"autumn-red": 0.05, "autumn-blue": 0.10, "autumn-gold": 0.30}
"""True click rates of the creatives of the bandit's placement."""
PLACES: Final = ("demo-hero", "demo-side", "demo-foot")
BUDGETED: Final = "mugs"
SKU: Final = "cup-1"
FLIGHT_S: Final = 20.0
VISITS_PER_S: Final = 60.0
BUDGET_IMPRESSIONS: Final = 300  # of the paced line
SOLD_OUT_AT: Final = 0.4  # of the flight
SEED: Final = 11
BROWSER: Final = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
"""Else they were taken for machines, of which nothing is learnt or billed."""


@dataclass
class Campaigned:
    """What came of it. clicks, shown: of the variants. spent: (share of the flight, impressions sold by then)."""

    published_ms: float = 0.0
    closed_ms: float = 0.0
    shown: Counter[str] = field(default_factory=Counter)
    clicks: Counter[str] = field(default_factory=Counter)
    best: Counter[str] = field(default_factory=Counter)
    held_out: int = 0
    visits: int = 0
    spent: list[tuple[float, int]] = field(default_factory=list)
    sold_out_shows: int = 0  # of goods whose line was seen closed
    paid: int = 0  # impressions of the line with a budget
    events: int = 0


def campaigns(now: datetime) -> dict[str, Any]:
    """Return the file that is imported, as a marketer would write it. now: the paced line's flight begins then."""
    found: dict[str, Any] = yaml.safe_load((files("pipeline") / "data" / "demo" / "campaigns.yaml").read_text("utf-8"))
    paced = next(line for line in found["lines"] if line["id"] == BUDGETED)
    ends = now + timedelta(seconds=FLIGHT_S)
    paced["schedule"] = {"starts_at": now.isoformat(), "ends_at": ends.isoformat()}
    return found


def visits_expected() -> int:
    """How many people come."""
    return round(FLIGHT_S * VISITS_PER_S)


class Visitors:
    """Simulated people: each asks for both places of a page, sees what is there, and clicks now and then."""

    def __init__(self, settings: Settings, key: str, console: Console, progress: Callable[[], None]) -> None:
        """key: a write key, under which the stock is told. progress: told of each visit."""
        self.settings, self.key, self.console, self.progress = settings, key, console, progress
        self.collector = f"http://127.0.0.1:{settings.collector_port}"
        self.delivery = f"http://127.0.0.1:{settings.delivery_port}"
        self.found = Campaigned()
        self._draw = random.Random(SEED)
        self._sold_out_s = 0.0

    async def run(self) -> Campaigned:
        """Publish, and let people come until the flight is over."""
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout, headers=BROWSER) as http:
            await self._tell_stock(http, 40)
            began = await self._publish(http)
            async with asyncio.TaskGroup() as tasks:
                number = 0
                while (passed_s := time.perf_counter() - began) < FLIGHT_S:
                    if not self._sold_out_s and passed_s >= SOLD_OUT_AT * FLIGHT_S:
                        await self._tell_stock(http, 0)
                        self._sold_out_s = time.perf_counter()
                    tasks.create_task(self._visit(http, f"demo-visitor-{number}"))
                    number += 1
                    if number % int(VISITS_PER_S) == 0:
                        self.found.spent.append((passed_s / FLIGHT_S, self.found.paid))
                    await asyncio.sleep(max(0.0, began + number / VISITS_PER_S - time.perf_counter()))
        self.found.spent.append((1.0, self.found.paid))
        return self.found

    async def _publish(self, http: aiohttp.ClientSession) -> float:
        """Import the campaigns as `herald campaigns import` does; wait until delivery shows them; returns when."""
        path = Path(self.settings.data_dir) / "campaigns.yaml"
        path.write_text(yaml.safe_dump(campaigns(datetime.now(UTC)), sort_keys=False), "utf-8")
        await asyncio.to_thread(import_file, self.settings, Console(quiet=True), ImportWish(path, publish=True))
        began = time.perf_counter()
        while (await self._ask(http, "nobody"))["decisions"] == []:
            await asyncio.sleep(0.01)
        self.found.published_ms = (time.perf_counter() - began) * 1_000
        self.console.print(f"campaigns imported from {path}", highlight=False, soft_wrap=True)
        return began

    async def _ask(self, http: aiohttp.ClientSession, visitor: str) -> dict[str, Any]:
        body = {"visitor": visitor, "placements": [{"placement": place} for place in PLACES]}
        async with http.post(f"{self.delivery}/v1/decisions", json=body) as answer:
            raw = await answer.read()
            if answer.status == 404:  # not published yet
                return {"decisions": []}
            if answer.status != 200:
                raise Retryable(f"POST /v1/decisions: {answer.status} {raw[:200]!r}, expected 200")
        self.found.events += len(PLACES)
        found: dict[str, Any] = msgspec.json.decode(raw)
        return found

    async def _visit(self, http: aiohttp.ClientSession, visitor: str) -> None:
        asked_s = time.perf_counter()
        hero, side, foot = (await self._ask(http, visitor))["decisions"]
        self.found.visits += 1
        self.progress()
        if not hero["actions"]:
            self.found.held_out += 1
            return
        chosen = hero["actions"][0]
        variant = "bandit" if hero["policy"] != "uniform" else "even"
        self.found.shown[variant] += 1
        self.found.best[variant] += chosen["id"] == max(RATES, key=lambda name: RATES[name])
        await self._get(http, chosen["impression_url"])
        if self._draw.random() < RATES[chosen["id"]]:
            self.found.clicks[variant] += 1
            await self._get(http, chosen["click_url"])
        self.found.paid += len(side["actions"])
        if not foot["actions"] and self._sold_out_s and not self.found.closed_ms:
            self.found.closed_ms = (asked_s - self._sold_out_s) * 1_000
        elif foot["actions"] and self.found.closed_ms:
            self.found.sold_out_shows += 1
        for action in side["actions"] + foot["actions"]:
            await self._get(http, action["impression_url"])

    async def _tell_stock(self, http: aiohttp.ClientSession, level: int) -> None:
        body = {
            "writeKey": self.key, "anonymousId": "demo-warehouse", "event": "Stock Level",
            "properties": {"product_id": SKU, "stock_level": level},
        }  # fmt: skip
        async with http.post(f"{self.collector}/v1/track", json=body) as answer:
            if answer.status != 200:
                raise Retryable(f"POST /v1/track: {answer.status}, expected 200")
        self.found.events += 1

    async def _get(self, http: aiohttp.ClientSession, url: str) -> None:
        async with http.get(url, allow_redirects=False) as answer:
            await answer.read()
            if answer.status not in (200, 302):
                raise Retryable(f"GET {url}: {answer.status}, expected 200 or 302")
        self.found.events += 1

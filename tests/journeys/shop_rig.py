"""A shop with an offer of which few pieces are left: it tells what it has, sells, and asks who is shown the offer."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console

from pipeline.campaigns.command import ImportWish, import_file
from pipeline.pieces import SkuPieces
from tests.journeys.rig import BROWSER, Whole

SKU, HOLD_MS = "boat/1", 600_000
AT_ONCE = 20
CAMPAIGN: dict[str, Any] = {
    "advertisers": [{"id": "yard", "name": "Yard"}],
    "placements": [{"id": "offer", "name": "Offer"}, {"id": "plain", "name": "Held by nobody"}],
    "campaigns": [{"id": "boats", "advertiser": "yard", "name": "Boats"}],
    "lines": [
        {
            "id": "boat", "campaign": "boats", "name": "The last ones", "placements": ["offer"], "skus": [SKU],
            "hold_ms": HOLD_MS,
        },
        {"id": "raft", "campaign": "boats", "name": "Without holding", "placements": ["plain"], "skus": [SKU]},
    ],
    "creatives": [
        {"id": "boat-1", "line": "boat", "name": "Boat", "content": {"title": "Boat"}},
        {"id": "raft-1", "line": "raft", "name": "Raft", "content": {"title": "Raft"}},
    ],
}  # fmt: skip


class Shop:
    """See above."""

    def __init__(self, running: Whole, folder: Path, urls: Sequence[str]) -> None:
        """urls: of the deliveries."""
        self._running, self._urls = running, urls
        self._asked = 0
        file = folder / "offer.yaml"
        file.write_text(yaml.safe_dump(CAMPAIGN))
        assert import_file(running.settings, Console(quiet=True), ImportWish(file=file, publish=True)) == 0

    def track(self, visitor: str, event: str, **properties: object) -> None:
        """Send an event; it is of now."""
        body = {"writeKey": "demo", "anonymousId": visitor, "event": event, "properties": properties}
        found = httpx.post(
            f"{self._running.collector_url}/v1/track", json=body, headers={"User-Agent": BROWSER}, timeout=30
        )
        assert found.status_code == 200, found.text

    def begin(self, level: int) -> None:
        """Tell how many are left, and wait until all deliveries know: nothing is held of what nobody has told."""
        for told, why in ((0, "stock:line"), (level, "")):
            self.tell(told)
            for at in range(len(self._urls)):
                end = time.monotonic() + 60
                while self.shows("nobody", at, "plain") != why:
                    assert time.monotonic() < end, f"{self._urls[at]} knows no level of {told}"
                    time.sleep(0.1)

    def tell(self, level: int) -> None:
        """Tell how many are left."""
        self.track("shop", "Stock Level", product_id=SKU, stock_level=level)

    def pieces(self) -> SkuPieces:
        """The books of the sku, as `herald status` has them."""
        (found,) = self._running.drained().stock
        return found

    def ask(self, count: int) -> list[str]:
        """Ask for so many visitors at once; return those who are shown the offer."""
        visitors = [f"s{self._asked + number}" for number in range(count)]
        self._asked += count
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(self.shows, visitors, range(count)))
        return [visitor for visitor, excluded in zip(visitors, found, strict=True) if not excluded]

    def shows(self, visitor: str, at: int = 0, placement: str = "offer") -> str:
        """Return "" where a visitor is shown the offer by one of the deliveries, else why not."""
        url = self._urls[at % len(self._urls)]
        try:
            answer = httpx.post(f"{url}/v1/decisions", json={"placement": placement, "visitor": visitor}, timeout=30)
            if answer.status_code != 200:
                return answer.text
            if answer.json()["actions"]:
                return ""
            why = httpx.get(f"{url}/v1/decisions/{answer.json()['decision_id']}", timeout=30).json()
        except httpx.TransportError as error:
            return str(error)  # it was just killed
        return ", ".join(why.get("excluded", {}).values())

    def hold(self, wanted: int, timeout_s: float = 60) -> list[str]:
        """Ask, a crowd at a time, until so many hold a piece; and then no more of them may. Return who does."""
        end = time.monotonic() + timeout_s
        found: list[str] = []
        while len(found) < wanted:
            assert time.monotonic() < end, f"{len(found)} of {wanted} pieces can be had; {self.shows('somebody')}"
            found += self.ask(AT_ONCE)
        found += self.ask(AT_ONCE)
        assert len(found) == wanted
        return found

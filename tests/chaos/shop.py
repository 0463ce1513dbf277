"""Shops that ask for decisions and tell what became of them, whatever dies meanwhile."""

import random
import threading
import time
from collections.abc import Callable

import httpx

from tests.chaos.goods import SHELF
from tests.chaos.plan import KEY
from tests.journeys.rig import BROWSER

PLACEMENTS = ("home", "cart", "mail", SHELF)
ACTIONS = ("a", "b", "c", "d")
BUYERS = 60
TRY_S = 120.0
ASKS_PER_S = 15.0  # of one shop, at most
AWAY_S = 0.3  # before the next visitor, where delivery does not answer


class Shop(threading.Thread):
    """Asks, shows, and of some: clicks, buys, rewards. What needs an answer is sent again until it has one.

    answered: decisions. seen, rewarded: those whose impression or reward was acknowledged.
    bought: conversions acknowledged by the collector. Clicks have no acknowledgement: a visitor is sent on anyway.
    """

    def __init__(self, seed: int, delivery_url: str, collector_url: str, per_s: float) -> None:
        """per_s: questions a second, at most."""
        super().__init__(name="shop", daemon=True)
        self._rng = random.Random(f"shop {seed}")
        self._collector_url, self._wait_s = collector_url, 1 / per_s
        self._http = httpx.Client(base_url=delivery_url, timeout=10, headers={"User-Agent": BROWSER})
        self.asked = 0
        self.answered: set[str] = set()
        self.seen: set[str] = set()
        self.clicked: set[str] = set()
        self.rewarded: set[str] = set()
        self.bought: set[str] = set()
        self.is_over = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work until stopped; a fault is in `error`."""
        try:
            while not self.is_over.wait(self._wait_s):
                self._visit()
        except BaseException as error:  # noqa: BLE001 - told to whoever joins this thread
            self.error = error
        finally:
            self._http.close()

    def _visit(self) -> None:
        rng = self._rng
        buyer = f"buyer-{rng.randrange(BUYERS)}"
        luck = rng.random()
        actions = [{"id": name, "url": "https://shop.example/"} for name in ACTIONS]
        place = rng.choice(PLACEMENTS)
        ask = {"placement": place, "visitor": buyer, "actions": [] if place == SHELF else actions}
        self.asked += 1
        try:
            answer = self._http.post("/v1/decisions", json=ask).raise_for_status().json()
        except httpx.HTTPError:
            self.is_over.wait(AWAY_S)
            return  # nothing was shown: the next visitor comes
        decision = answer["decision_id"]
        self.answered.add(decision)
        if not answer["actions"]:
            return  # nothing of what is paid for is left for this visitor
        chosen = answer["actions"][0]
        if self._until(lambda: self._http.get(chosen["impression_url"])):
            self.seen.add(decision)
        if luck < 0.4:
            self._click(decision, chosen["click_url"])
        if luck < 0.1:
            self._buy(f"lead-{decision}", buyer)
        if luck > 0.8:
            reward = {"value": 0.5, "event_id": f"reward-{decision}"}
            if self._until(lambda: self._http.post(f"/v1/decisions/{decision}/reward", json=reward)):
                self.rewarded.add(decision)

    def _click(self, decision: str, url: str) -> None:
        try:
            if self._http.get(url).status_code == 302:
                self.clicked.add(decision)
        except httpx.HTTPError:
            pass  # the visitor is gone

    def _buy(self, lead: str, buyer: str) -> None:
        message = {
            "type": "track",
            "event": "Lead",  # a conversion: no event of the load is one, so each can be told apart in the rollups
            "messageId": lead,
            "anonymousId": buyer,
            "properties": {"revenue": "9.99", "currency": "EUR"},
        }
        headers = {"X-Write-Key": KEY}
        if self._until(lambda: self._http.post(f"{self._collector_url}/v1/track", json=message, headers=headers)):
            self.bought.add(lead)

    def _until(self, send: Callable[[], httpx.Response]) -> bool:
        """Send until it is acknowledged; False where that took too long (then it may be stored, once at most)."""
        until = time.monotonic() + TRY_S
        while time.monotonic() < until:
            try:
                answer = send()
                if answer.status_code == 200:
                    return True
                if answer.status_code < 500:
                    raise RuntimeError(f"{answer.url}: {answer.status_code} {answer.text[:300]}, expected 200 or 503")
            except httpx.HTTPError:
                pass  # a part was away
            time.sleep(0.2)
        return False


class Shops:
    """Some shops side by side; their lists are one."""

    def __init__(self, seed: int, count: int, delivery_url: str, collector_url: str) -> None:
        """Open them."""
        self.all = [Shop(seed * 100 + number, delivery_url, collector_url, ASKS_PER_S) for number in range(count)]

    def start(self) -> None:
        """Let the visitors in."""
        for shop in self.all:
            shop.start()

    def stop(self) -> None:
        """Finish all visits in hand."""
        for shop in self.all:
            shop.is_over.set()
        for shop in self.all:
            shop.join()

    @property
    def asked(self) -> int:
        """How many decisions were asked for."""
        return sum(shop.asked for shop in self.all)

    @property
    def answered(self) -> int:
        """How many of them were answered."""
        return sum(len(shop.answered) for shop in self.all)

    @property
    def errors(self) -> list[BaseException]:
        """What went wrong."""
        return [shop.error for shop in self.all if shop.error is not None]

    def named(self, what: str) -> set[str]:
        """Return one of the lists of all shops: "answered", "seen", "clicked", "rewarded" or "bought"."""
        return set().union(*(getattr(shop, what) for shop in self.all))

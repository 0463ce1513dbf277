"""Money from a marketer's limit to the books, on real parts: two deliveries, kill -9 of them and of the spend stage.

And what is bought with it: goals with values, by which placements learn and lines are paid for.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from rich.console import Console

from pipeline import status
from pipeline.campaigns.command import ImportWish, import_file
from pipeline.money import LineMoney
from pipeline.plan_live import spent_so_far
from pipeline.settings import Settings
from tests.journeys.rig import Whole, free_ports, whole
from tests.journeys.shop_rig import SKU, Shop

pytestmark = pytest.mark.journey

UNITS, PRICE = 10, 1_000  # micros an impression
WINDOW_MS = 10_000
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
BOT = {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}
CAMPAIGN: dict[str, Any] = {
    "advertisers": [{"id": "acme", "name": "Acme"}],
    "placements": [{"id": "top", "name": "Top"}],
    "campaigns": [{"id": "c1", "advertiser": "acme", "name": "One"}],
    "lines": [
        {
            "id": "ten", "campaign": "c1", "name": "Ten impressions", "placements": ["top"], "pacing": "asap",
            "price": {"per": "impression", "micros": 1_000 * PRICE}, "budget": {"total_micros": UNITS * PRICE},
        }
    ],
    "creatives": [{"id": "red", "line": "ten", "name": "Red", "content": {"title": "Red"}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("budget")
    chosen = {"reservation_impression_ms": WINDOW_MS, "lease_ms": 2_000, "tick_max_ms": 1_000, "holdout_share": 0.0}
    with whole(folder, **chosen) as found:
        file = folder / "campaigns.yaml"
        file.write_text(yaml.safe_dump(CAMPAIGN))
        assert import_file(found.settings, Console(quiet=True), ImportWish(file=file, publish=True)) == 0
        yield found


class Second:
    """Another delivery on the same stores and disk."""

    def __init__(self, settings: Settings, log: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._settings = settings.model_copy(update={"delivery_port": port})
        self._log = log
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            words = [sys.executable, "-m", "pipeline.cli", "delivery"]
            return subprocess.Popen(words, stdout=log, stderr=log, env=self._settings.as_environment())

    def kill(self) -> None:
        """kill -9, and start anew."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = self._start()

    def stop(self) -> None:
        """An orderly end."""
        self.process.terminate()
        self.process.wait(60)


def decide(url: str, visitor: str) -> list[str]:
    """Ask once; return the addresses of the impressions that were chosen, none where there was no money."""
    try:
        answer = httpx.post(f"{url}/v1/decisions", json={"placement": "top", "visitor": visitor}, timeout=10)
    except httpx.TransportError:
        return []  # it was just killed
    return [one["impression_url"] for one in answer.json().get("actions", [])] if answer.status_code == 200 else []


def ask_until(urls: list[str], wanted: int, timeout_s: float, people: int, bots: int = 0) -> int:
    """Ask at once, again and again, until so many were chosen and two seconds more; return how many were.

    people, bots: how many of them are seen right away, and by whom; the rest by nobody.
    """
    chosen = 0
    lock = threading.Lock()
    end = [time.monotonic() + timeout_s]

    def keep_asking(number: int) -> None:
        nonlocal chosen
        turn = 0
        while time.monotonic() < end[0]:
            found = decide(urls[number % len(urls)], f"v{number}-{turn}-{time.monotonic_ns()}")
            turn += 1
            for url in found:
                with lock:
                    place, chosen = chosen, chosen + 1
                    if chosen >= wanted:
                        end[0] = min(end[0], time.monotonic() + 2.0)
                if place < people + bots:
                    httpx.get(f"{urls[0]}{urlsplit(url).path}", headers=BROWSER if place < people else BOT, timeout=30)
            time.sleep(0.1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(keep_asking, range(8)))
    return chosen


def kept(running: Whole, chosen: int) -> LineMoney:
    """Return the line's books, after a look at what must be so at every moment. chosen: by all deliveries so far."""
    running.drained()
    (row,) = status.read(running.settings).money
    assert row.is_balanced
    assert row.reserved.count == chosen
    assert row.settled.micros + row.open.micros <= UNITS * PRICE == row.limit_micros
    return row


def test_a_limit_of_ten_is_kept_by_two_deliveries_over_kills_and_the_books_balance(
    running: Whole, tmp_path: Path
) -> None:
    """Six are seen by people, one by a bot; what nobody saw is released and spent again, until ten are paid for."""
    second = Second(running.settings, tmp_path / "second.log")
    try:
        urls = [running.delivery_url, second.url]
        chosen = ask_until(urls, UNITS, 60, people=6, bots=1)
        row = kept(running, chosen)
        assert row.settled.count + row.late.count == 6
        second.kill()
        killed = running.supervisor.pid("spend")
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        end = time.monotonic() + 120
        while row.settled.count < UNITS:
            assert time.monotonic() < end, f"not all of it is spent: {row}"
            chosen += ask_until(urls, UNITS - row.settled.count, 20, people=UNITS)
            row = kept(running, chosen)
        assert ask_until(urls, 1, 5, people=1) == 0
    finally:
        second.stop()


EURO = MICROS = 1_000_000
LEAD_MICROS = 2 * EURO
WANTED: list[dict[str, Any]] = [
    {"event": "purchase"}, {"event": "subscribe", "value_micros": 5 * EURO},
    {"event": "click", "value_micros": EURO // 10},
]  # fmt: skip
GOALS: dict[str, Any] = {
    "advertisers": [{"id": "shop", "name": "Shop"}],
    "placements": [
        {"id": "page", "name": "Page", "reward_worth_micros": 20 * EURO, "policy": "epsilon_greedy"},
        {"id": "form", "name": "Form"},
    ],
    "campaigns": [{"id": "c2", "advertiser": "shop", "name": "Two", "goals": WANTED}],
    "lines": [
        {"id": "wants", "campaign": "c2", "name": "Several goals", "placements": ["page"]},
        {
            "id": "leads", "campaign": "c2", "name": "Paid by the lead", "placements": ["form"], "goals": [WANTED[1]],
            "price": {"per": "action", "micros": LEAD_MICROS}, "pacing": "asap",
        },
    ],
    "creatives": [
        {
            "id": name, "line": line, "name": name, "url": f"https://shop.example/{name}", "features": {"tone": name},
        }
        for name, line in (("loud", "wants"), ("dear", "wants"), ("lead", "leads"))
    ],
}  # fmt: skip


class Person:
    """Somebody who is shown one thing."""

    def __init__(self, running: Whole, http: httpx.Client, placement: str, visitor: str) -> None:
        self.running, self.http, self.visitor = running, http, visitor
        body = {"placement": placement, "visitor": visitor}
        answer = http.post(f"{running.delivery_url}/v1/decisions", json=body).json()
        self.decision_id = answer["decision_id"]
        (self.shown,) = answer["actions"]

    def clicks(self) -> None:
        assert self.http.get(self.shown["click_url"]).status_code == 302

    def does(self, event: str, **more: str) -> None:
        """Tell the collector. more: "d" names a decision; without it the last click counts."""
        query = {"k": "demo", "v": self.visitor, "e": event, **more}
        assert self.http.get(f"{self.running.collector_url}/p.gif", params=query).status_code == 200

    def has_earned(self, *expected: object) -> None:
        """Wait until the warehouse has it: clicked, revenue, value, reward."""
        sql = (
            "SELECT toUnixTimestamp64Milli(clicked) > 0, revenue_micros, value_micros, reward_micros "
            "FROM outcomes FINAL WHERE decision_id = %(decision)s"
        )
        end = time.monotonic() + 60
        while (found := self.running.ask(sql, {"decision": self.decision_id})) != [expected]:
            assert time.monotonic() < end, f"expected {expected}, found {found}"
            time.sleep(0.3)


def learnt(running: Whole, http: httpx.Client, rewarded: float) -> dict[str, Any]:
    """The placement's arms, once delivery has heard of so much reward."""
    end = time.monotonic() + 60
    while True:
        answer = http.get(f"{running.delivery_url}/v1/models/page")
        arms = {arm["id"]: arm for arm in answer.json().get("arms", [])}
        if abs(sum(arm["reward"] for arm in arms.values()) - rewarded) < 1e-9:
            return arms
        assert time.monotonic() < end, f"expected rewards of {rewarded} together, found {answer.text}"
        time.sleep(0.2)


def test_several_goals_are_weighed_by_value_and_an_action_is_the_first_of_them(running: Whole, tmp_path: Path) -> None:
    """1 = 20.00: a click 0.10, a subscription 5.00, a purchase its revenue. One line is paid by the subscription."""
    file = tmp_path / "goals.yaml"
    file.write_text(yaml.safe_dump(GOALS))
    assert import_file(running.settings, Console(quiet=True), ImportWish(file=file, publish=True)) == 0
    late = tmp_path / "late.yaml"
    late.write_text(yaml.safe_dump({"creatives": [{**GOALS["creatives"][1], "id": "late", "name": "Late"}]}))
    with httpx.Client(headers=BROWSER, timeout=30) as http:
        people = goals_are_rewarded(running, http)
        the_dear_one_is_preferred(running, http, people)
        assert import_file(running.settings, Console(quiet=True), ImportWish(file=late, publish=True)) == 0
        a_new_one_begins_with_what_those_like_it_have_earned(running, http)
        an_action_is_paid_by_its_goal(running, http)


def shown_at(running: Whole, http: httpx.Client, placement: str, visitors: list[str]) -> list[Person]:
    """Ask for each, once all of it is published."""
    end = time.monotonic() + 30
    body = {"placement": placement, "visitor": "nobody", "exclude": ["c2"]}
    wanted = sum(line["placements"] == [placement] for line in GOALS["lines"]) + (placement == "page")
    while True:
        answer = http.post(f"{running.delivery_url}/v1/decisions", json=body).json()
        found = http.get(f"{running.delivery_url}/v1/decisions/{answer.get('decision_id')}").json()
        if len(found.get("excluded", {})) == wanted:
            return [Person(running, http, placement, visitor) for visitor in visitors]
        assert time.monotonic() < end, found
        time.sleep(0.1)


def goals_are_rewarded(running: Whole, http: httpx.Client) -> dict[str, list[Person]]:
    people: dict[str, list[Person]] = {"loud": [], "dear": []}
    for one in shown_at(running, http, "page", [f"goal-{number}" for number in range(16)]):
        people[one.shown["id"]].append(one)
        if one.shown["id"] == "loud":
            one.clicks()
        else:
            one.does("subscribe", d=one.decision_id)
            one.does("subscribe", d=one.decision_id)  # each goal counts once
    people["loud"][0].has_earned(1, 0, EURO // 10, 5_000)
    people["dear"][0].has_earned(0, 0, 5 * EURO, 250_000)
    return people


def the_dear_one_is_preferred(running: Whole, http: httpx.Client, people: dict[str, list[Person]]) -> None:
    """It has no click at all, and a purchase that comes late is a correction."""
    so_far = len(people["loud"]) * 0.005 + len(people["dear"]) * 0.25
    arms = learnt(running, http, so_far)
    assert arms["dear"]["share"] > 0.9 > 0.1 > arms["loud"]["share"]
    buyer = people["loud"][0]
    buyer.does("purchase", rev="8.00", cur="EUR")
    buyer.has_earned(1, 8 * EURO, 8_100_000, 405_000)
    assert learnt(running, http, so_far + 0.4)["loud"]["trials"] == len(people["loud"])


def a_new_one_begins_with_what_those_like_it_have_earned(running: Whole, http: httpx.Client) -> None:
    end = time.monotonic() + 30
    while True:
        answer = http.get(f"{running.delivery_url}/v1/models/page").json()
        arms = {arm["id"]: arm for arm in answer["arms"]}
        if "late" in arms:
            break
        assert time.monotonic() < end, answer
        time.sleep(0.1)
    assert (arms["late"]["trials"], answer["worth_micros"]) == (0, 20 * EURO)
    assert arms["loud"]["prior"] < answer["prior"] < arms["late"]["prior"] == arms["dear"]["prior"]


def an_action_is_paid_by_its_goal(running: Whole, http: httpx.Client) -> None:
    buyer, reader = shown_at(running, http, "form", ["buyer", "reader"])
    buyer.clicks()
    buyer.does("purchase", rev="90", cur="EUR", d=buyer.decision_id)
    reader.does("subscribe", d=reader.decision_id)
    buyer.has_earned(1, 90 * EURO, 0, MICROS)  # `form` says no worth: a click is 1 by the settings
    (row,) = (one for one in running.drained().money if one.line_id == "leads")
    assert (row.settled.count, row.settled.micros, row.open.count) == (1, LEAD_MICROS, 1)
    assert spent_so_far(running.settings)["leads"] == 2 * LEAD_MICROS, "what is reserved counts against a total, too"
    paid = "SELECT decision_id, paid FROM outcomes FINAL WHERE line_id = 'leads' ORDER BY paid"
    assert running.ask(paid) == [(buyer.decision_id, "no"), (reader.decision_id, "yes")]
    why = http.get(f"{running.delivery_url}/v1/decisions/{buyer.decision_id}").json()
    (choice,) = why["choices"]
    assert choice["goals"] == [{"event": "subscribe", "value_micros": 5 * EURO, "window_ms": 604_800_000}]


def test_never_are_more_pieces_held_than_there_are_over_purchases_and_kills(running: Whole, tmp_path: Path) -> None:
    """Three pieces; one is bought, a delivery and the spend stage are killed, and five are left after all."""
    second = Second(running.settings, tmp_path / "second.log")
    try:
        shop = Shop(running, tmp_path, [running.delivery_url, second.url])
        shop.begin(3)
        holding = shop.hold(3)
        second.kill()
        killed = running.supervisor.pid("spend")
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        assert shop.ask(20) == []
        shop.track(holding[0], "Order Completed", products=[{"product_id": SKU, "quantity": 1}])
        shop.tell(2)
        running.drained()
        assert shop.ask(20) == [], "two are left, for the two who hold them"
        assert shop.shows("somebody") == "stock:held"
        shop.tell(5)
        shop.hold(3)
        found = shop.pieces()
        assert (found.level, found.open, found.bought, found.is_balanced) == (5, 5, 1, True)
    finally:
        second.stop()

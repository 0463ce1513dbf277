"""Money from a marketer's limit to the books, on real parts: two deliveries, kill -9 of them and of the spend stage."""

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
from pipeline.settings import Settings
from tests.journeys.rig import Whole, free_ports, whole

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

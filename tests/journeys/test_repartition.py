"""Four partitions become six: all that was known is known again, and what comes is taken on."""

import hashlib
import time
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from pipeline import up
from pipeline.archive import repartition
from pipeline.core.books import PartitionBooks, total
from pipeline.edge.clock import now_ms
from pipeline.replay.formats import Recorded
from tests.journeys.rig import BROWSER, Running, Whole, settings_on_free_ports
from tests.journeys.test_kill_each import joined, learnt, profiles, recorded, rollup

pytestmark = pytest.mark.journey
ROWS = 3_000
DECISIONS = 30


def shop(running: Running) -> None:
    """Ask for decisions, show them, click on some."""
    actions = [{"id": name, "url": "https://shop.example/"} for name in ("a", "b", "c")]
    with httpx.Client(base_url=running.delivery_url, timeout=15, headers={"User-Agent": BROWSER}) as http:
        for number in range(DECISIONS):
            ask = {"placement": "home", "visitor": f"buyer-{number % 7}", "actions": actions}
            chosen = http.post("/v1/decisions", json=ask).raise_for_status().json()["actions"][0]
            http.get(chosen["impression_url"])
            if number % 3 == 0:
                http.get(chosen["click_url"])


def known(running: Whole, rows: list[Recorded], shift_ms: int) -> dict[str, object]:
    """Return what is known, without the names of blocks."""
    columns = "event_id, event_type, event_time, visitor, url, channel, revenue_micros, decision_id, bot_reason"
    events = running.ask(f"SELECT {columns} FROM events FINAL ORDER BY event_id, event_time, visitor")  # noqa: S608
    outcomes = "decision_id, action_id, visitor, impressed, clicked, conversions, reward_micros, propensity"
    return {
        "events": hashlib.sha256(repr(events).encode()).hexdigest(),
        "sessions": running.sessions(),
        "profiles": profiles(running, rows, shift_ms),
        "rollup": rollup(running, shift_ms),
        "outcomes": running.ask(f"SELECT {outcomes} FROM outcomes FINAL ORDER BY ALL"),  # noqa: S608 - our names
        "learnt": learnt(running),
    }


def settled(running: Whole, rows: list[Recorded], shift_ms: int) -> tuple[dict[str, object], PartitionBooks]:
    """Wait until everything is stored and learnt; return what is known, and the books."""
    status = running.drained()
    assert status.is_balanced
    end_s = time.monotonic() + 60
    while (joined(running) != learnt(running) or not learnt(running)[1]) and time.monotonic() < end_s:
        time.sleep(0.2)  # the books are of events; outcomes are a stage further, and on two ways
    return known(running, rows, shift_ms), total(status.books)


def test_a_new_generation_with_six_partitions_knows_all_that_the_one_with_four_did(tmp_path: Path) -> None:
    """Copied while all runs, the tail after the stop. Then the books balance, all is equal, and new events come in."""
    console = Console(quiet=True)
    rows = recorded()[-ROWS:]
    shift_ms = now_ms() - max(row.time_ms for row in rows)
    settings = settings_on_free_ports(tmp_path / "data", partitions=4, tick_max_ms=1_000)
    supervisor = up.start(settings, console)
    try:
        running = Whole(settings, supervisor)
        running.send(rows[: ROWS // 2], shift_ms)
        assert repartition.run(settings, console, repartition.Wish(6)) == 1, "it is still written to"
        running.send(rows[ROWS // 2 :], shift_ms, repeat_share=0.1)
        shop(running)
        before, books = settled(running, rows, shift_ms)
    finally:
        supervisor.stop()
    assert repartition.run(settings, console, repartition.Wish(6)) == 0
    second = settings.model_copy(update={"generation": 2, "partitions": 6})
    supervisor = up.start(second, console)
    try:
        running = Whole(second, supervisor)
        after, copied = settled(running, rows, shift_ms)
        assert after == before
        assert (copied.received, copied.stored, copied.duplicate) == (books.received, books.stored, books.duplicate)
        shop(running)
        grown = running.drained()
        assert grown.is_balanced
        assert total(grown.books).received > books.received
    finally:
        supervisor.stop()
    assert books.duplicate > 0

"""Every process is killed once in mid-replay: nothing is lost, nothing doubled, and sessions are the same."""

import os
import signal
import threading
import time
from collections import Counter
from importlib.resources import as_file, files
from pathlib import Path

import httpx
import pytest

from pipeline.core.books import total
from pipeline.edge.clock import now_ms
from pipeline.replay.formats import Recorded, read
from tests.journeys.rig import BROWSER, Whole, whole

pytestmark = pytest.mark.journey

ROWS = 6_000
REPLAY_S = 60.0
GAP_MS = 1_800_000


def recorded() -> list[Recorded]:
    """Return the end of the day. Beside it come the shop's events of now: stream time leaps, and sessions must hold."""
    with as_file(files("pipeline") / "data" / "demo" / "rees46-2019-Oct-first-17434.csv.gz") as path:
        return list(read(path))[-ROWS:]


def expected_sessions(rows: list[Recorded]) -> Counter[tuple[object, ...]]:
    """Return the sessions by brute force: sort each visitor's events, cut where more than the gap lies between."""
    by_visitor: dict[str, list[Recorded]] = {}
    for row in rows:
        by_visitor.setdefault(row.lane, []).append(row)
    found: Counter[tuple[object, ...]] = Counter()
    for visitor, events in by_visitor.items():
        events.sort(key=lambda row: row.time_ms)
        start = 0
        for end in range(1, len(events) + 1):
            if end == len(events) or events[end].time_ms - events[end - 1].time_ms > GAP_MS:
                run = events[start:end]
                bought = [row for row in run if row.message["event"] == "Order Completed"]
                revenue = sum(round(float(row.message["properties"]["revenue"]) * 100) * 10_000 for row in bought)
                found[visitor, run[0].time_ms, run[-1].time_ms, len(run), 0, len(bought), revenue] += 1
                start = end
    return found


def kill_everything_once(all_parts: Whole, over_s: float, killed: list[str]) -> None:
    names = list(all_parts.supervisor.parts)
    for name in names:
        time.sleep(over_s / len(names))
        pid = all_parts.supervisor.pid(name)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            killed.append(name)


class Shop(threading.Thread):
    """Asks for decisions, shows them, clicks on every fourth, whatever dies meanwhile."""

    def __init__(self, url: str) -> None:
        super().__init__(name="shop")
        self.http = httpx.Client(base_url=url, timeout=15, headers={"User-Agent": BROWSER}, follow_redirects=False)
        self.asked = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        actions = [{"id": name, "url": "https://shop.example/"} for name in ("a", "b", "c")]
        while not self.is_over.wait(0.1):
            try:
                ask = {"placement": "home", "visitor": f"buyer-{self.asked % 40}", "actions": actions}
                chosen = self.http.post("/v1/decisions", json=ask).raise_for_status().json()["actions"][0]
                self.asked += 1
                self.http.get(chosen["impression_url"])
                if self.asked % 4 == 0:
                    self.http.get(chosen["click_url"])
            except httpx.HTTPError:
                continue  # a part was away: a shop goes on

    def stop(self) -> None:
        self.is_over.set()
        self.join()
        self.http.close()


def learnt(run: Whole) -> tuple[int, int]:
    """Return (trials, rewards in millionths) of what delivery has learnt of the placement."""
    arms = httpx.get(f"{run.delivery_url}/v1/models/home", timeout=10).json()["arms"]
    return sum(arm["trials"] for arm in arms), round(sum(arm["reward"] for arm in arms) * 1_000_000)


def joined(run: Whole) -> tuple[int, int]:
    """Return the same from the warehouse's outcomes: decisions that were seen, and the rewards of all."""
    sql = "SELECT countIf(toUnixTimestamp64Milli(impressed) > 0), sum(reward_micros) FROM outcomes FINAL"
    ((seen, rewards),) = run.ask(sql)
    return int(str(seen)), int(str(rewards))


def test_killing_each_process_once_in_mid_replay_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Received = stored + duplicate, every id is stored once, and the sessions are those of a run without kills."""
    rows = recorded()
    shift_ms = now_ms() - max(row.time_ms for row in rows)
    span_s = (rows[-1].time_ms - rows[0].time_ms) / 1_000
    with whole(tmp_path / "killed") as killed_run:
        killed: list[str] = []
        killer = threading.Thread(target=kill_everything_once, args=(killed_run, REPLAY_S, killed))
        killer.start()
        shop = Shop(killed_run.delivery_url)
        shop.start()
        sent = killed_run.send(rows, shift_ms, pace=span_s / REPLAY_S)
        killer.join()
        shop.stop()
        status = killed_run.drained()
        assert sorted(killed) == sorted(killed_run.supervisor.parts), "a part was not killed: the test did not test"
        books = total(status.books)
        ids = killed_run.ask("SELECT event_id, count(), any(protocol) FROM events FINAL GROUP BY event_id")
        assert {row[0] for row in ids if row[2] == "segment"} == {row.message["messageId"] for row in rows}
        assert all(row[1] == 1 for row in ids)
        assert sent.accepted == len(rows)
        assert shop.asked > 20, "hardly a decision was answered: the test did not test"
        end_s = time.monotonic() + 30
        while joined(killed_run) != learnt(killed_run) and time.monotonic() < end_s:
            time.sleep(0.2)  # the books are of events; outcomes are a stage further, and on two ways
        seen, rewards = joined(killed_run)
        assert seen > shop.asked / 2
        assert rewards > 0
        assert learnt(killed_run) == (seen, rewards)
        assert books.received == books.stored + books.duplicate
        assert status.is_balanced
        assert clickstream_sessions(killed_run, shift_ms) == expected_sessions(rows)
        killed_profiles = profiles(killed_run, rows, shift_ms)
        killed_rollup = rollup(killed_run, shift_ms)
    with whole(tmp_path / "clean") as clean_run:
        clean_run.send(rows, shift_ms)
        clean_run.drained()
        assert clean_run.sessions(shift_ms) == expected_sessions(rows)
        assert profiles(clean_run, rows, shift_ms) == killed_profiles
        assert rollup(clean_run, shift_ms) == killed_rollup


def clickstream_sessions(run: Whole, shift_ms: int) -> Counter[tuple[object, ...]]:
    """Return the sessions of the replayed visitors; the shop's are live and not compared."""
    found = run.sessions(shift_ms)
    return Counter({key: many for key, many in found.items() if not str(key[0]).startswith("buyer-")})


def profiles(run: Whole, rows: list[Recorded], shift_ms: int) -> dict[str, object]:
    """Return what delivery answers for a hundred visitors: counts and times, which no order of arrival changes."""
    found = {}
    for visitor in sorted({row.lane for row in rows})[:100]:
        profile = httpx.get(f"{run.delivery_url}/v1/profiles/{visitor}", timeout=10).json()["profile"]
        found[visitor] = {
            "first": profile["first_seen_ms"] - shift_ms,
            "last": profile["last_seen_ms"] - shift_ms,
            **{name: profile[name] for name in ("events", "purchases", "add_to_carts", "revenue_micros", "visits")},
        }
    return found


def rollup(run: Whole, shift_ms: int) -> dict[object, object]:
    """Return the clickstream's rollups, all minutes added: absolute, so a lost or doubled block would show."""
    sql = """
        SELECT kind, first, second, sum(events), sum(visitors), sum(revenue_micros) FROM rollup_minute FINAL
        WHERE kind = 'event_type' AND first IN ('product_view', 'add_to_cart', 'purchase')
            OR kind = 'page' AND first = 'replay.example'
        GROUP BY kind, first, second ORDER BY kind, first, second
    """
    found = {row[:3]: row[3:] for row in run.ask(sql)}
    assert len(found) > 1_000
    return found

"""Every process is killed once in mid-replay: nothing is lost, nothing doubled, and sessions are the same."""

import os
import signal
import threading
import time
from collections import Counter
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path

import pytest

from pipeline.core.books import total
from pipeline.edge.clock import now_ms
from pipeline.replay.formats import Recorded, read
from tests.journeys.rig import Whole, whole

pytestmark = pytest.mark.journey

ROWS = 6_000
REPLAY_S = 60.0
GAP_MS = 1_800_000


def recorded() -> list[Recorded]:
    with as_file(files("pipeline") / "data" / "demo" / "rees46-2019-Oct-first-17434.csv.gz") as path:
        return list(islice(read(path), ROWS))


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


def test_killing_each_process_once_in_mid_replay_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Received = stored + duplicate, every id is stored once, and the sessions are those of a run without kills."""
    rows = recorded()
    shift_ms = now_ms() - max(row.time_ms for row in rows)
    span_s = (rows[-1].time_ms - rows[0].time_ms) / 1_000
    with whole(tmp_path / "killed") as killed_run:
        killed: list[str] = []
        killer = threading.Thread(target=kill_everything_once, args=(killed_run, REPLAY_S, killed))
        killer.start()
        sent = killed_run.send(rows, shift_ms, pace=span_s / REPLAY_S)
        killer.join()
        status = killed_run.drained()
        assert sorted(killed) == sorted(killed_run.supervisor.parts), "a part was not killed: the test did not test"
        books = total(status.books)
        ids = killed_run.ask("SELECT event_id, count() FROM events FINAL GROUP BY event_id")
        assert {row[0] for row in ids} == {row.message["messageId"] for row in rows}
        assert all(row[1] == 1 for row in ids)
        assert sent.accepted == len(rows)
        assert books.stored == len(rows)
        assert books.received == books.stored + books.duplicate
        assert status.is_balanced
        assert killed_run.sessions(shift_ms) == expected_sessions(rows)
        killed_profiles = profiles(killed_run, rows, shift_ms)
        killed_rollup = rollup(killed_run, shift_ms)
    with whole(tmp_path / "clean") as clean_run:
        clean_run.send(rows, shift_ms)
        clean_run.drained()
        assert clean_run.sessions(shift_ms) == expected_sessions(rows)
        assert profiles(clean_run, rows, shift_ms) == killed_profiles
        assert rollup(clean_run, shift_ms) == killed_rollup


def profiles(run: Whole, rows: list[Recorded], shift_ms: int) -> dict[str, object]:
    """Return what delivery answers for a hundred visitors: counts and times, which no order of arrival changes."""
    import httpx

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
    """Return the event-type rollup, all minutes added: absolute values that a lost or doubled block would change."""
    sql = (
        "SELECT kind, first, second, sum(events), sum(visitors), sum(revenue_micros) FROM rollup_minute FINAL "
        "GROUP BY kind, first, second ORDER BY kind, first, second"
    )
    return {row[:3]: row[3:] for row in run.ask(sql)}

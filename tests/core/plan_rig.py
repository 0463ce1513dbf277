"""What the tests of planning share: real logs as counts by time.

The folder of real data is named by HERALD_TEST_DATA (default: ../shared/data beside the project); what is absent is
skipped.
"""

import csv
import gzip
import os
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core.access_log import read_access_line

DATA = Path(os.environ.get("HERALD_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
MINUTES = 1_440
Counts = NDArray[np.float64]


def at(text: str) -> int:
    """ms since 1970 of an ISO time in UTC."""
    return int(datetime.fromisoformat(text + "+00:00").timestamp() * 1_000)


def lines_of(name: str) -> Iterator[str]:
    """Lines of a packed file; skips the test where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in {DATA} (HERALD_TEST_DATA)")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        yield from stream


def rows_of(name: str) -> Iterator[dict[str, str]]:
    """Rows of a packed CSV file."""
    return csv.DictReader(lines_of(name))  # type: ignore[return-value]


def by_minute(times_ms: Iterator[int], from_ms: int, minutes: int) -> Counts:
    """How many of these times fall on each minute from a moment on."""
    found = np.zeros(minutes)
    for time_ms in times_ms:
        place = (time_ms - from_ms) // MINUTE_MS
        if 0 <= place < minutes:
            found[place] += 1.0
    return found


@cache
def clicks_on_ads() -> tuple[int, Counts]:
    """TalkingData: ad clicks of two whole days by minute, from Monday 2017-11-06 16:00 on. Returns (start, counts)."""
    start_ms = at("2017-11-06 16:00:00")
    times = (at(row["click_time"]) for row in rows_of("talkingdata/clicks.csv.gz"))
    return start_ms, by_minute(times, start_ms, 2 * MINUTES)


@cache
def decisions_of_a_shop() -> tuple[int, Counts]:
    """Open Bandit: decisions of a week by minute, from Sunday 2019-11-24 on; the four logs together."""
    start_ms = at("2019-11-24 00:00:00")
    counts = np.zeros(7 * MINUTES)
    for policy in ("random", "bts"):
        for campaign in ("men", "women"):
            rows = rows_of(f"open_bandit/{policy}/{campaign}/{campaign}.csv.gz")
            counts += by_minute((at(row["timestamp"][:19]) for row in rows), start_ms, 7 * MINUTES)
    return start_ms, counts


@cache
def requests_of_a_site() -> tuple[int, Counts]:
    """An Apache log of two whole days, from 2015-05-18 on; it has whole hours only, spread over their minutes."""
    start_ms = at("2015-05-18 00:00:00")
    read = (read_access_line(line) for line in lines_of("access_logs/apache_combined_2015.log.gz"))
    counts = by_minute((line.event_time_ms for line in read if line), start_ms, 2 * MINUTES)
    return start_ms, np.repeat(counts.reshape(-1, 60).sum(axis=1) / 60.0, 60)


@cache
def events_of_a_shop() -> tuple[int, Counts]:
    """REES46: 2 h 50 min of a shop whose traffic all but stops from 0:20 to 2:19, then comes back 200-fold."""
    start_ms = at("2019-10-01 00:00:00")
    times = (at(row["event_time"][:19]) for row in rows_of("rees46/2019-Oct-first-17434.csv.gz"))
    return start_ms, by_minute(times, start_ms, 170)


@cache
def sales_of_a_year() -> dict[str, Counts]:
    """Complete Journey: pieces by product and day of 2017, of what is sold by the piece (fuel is not).

    Products whose id ends in 1, 4 or 7: all of them would take ten seconds to read.
    """
    first = date(2017, 1, 1)
    lines = lines_of("complete_journey/transactions.csv.gz")
    next(lines)
    sold: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in lines:
        _, _, _, product, quantity, rest = line.split(",", 5)
        if product[-1] in "147":
            sold[product].append((rest[-20:-10], quantity))
    days = {(first + timedelta(days=day)).isoformat(): day for day in range(365)}
    found = {}
    for product, sales in sorted(sold.items()):
        if len(sales) < 15:
            continue
        by_day = np.zeros(366)
        for day, quantity in sales:
            by_day[days.get(day, 365)] += int(quantity)
        if np.count_nonzero(by_day[:365]) >= 15 and by_day.max() < 200:
            found[product] = by_day[:365]
    return found

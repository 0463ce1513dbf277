"""Published data sets through the whole of Herald, by the clients that would have sent them; counts known beforehand.

Stream time never goes back, so each data set has a stretch of days of its own, in the order of the tests below: the
oldest is sent first. The log's own distances are kept.
"""

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.resources import as_file, files
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from segment.analytics.client import Client
from snowplow_tracker import Emitter, SelfDescribing, SelfDescribingJson, StructuredEvent, Subject, Tracker

from pipeline.core.books import total
from pipeline.edge.clock import now_ms
from pipeline.replay.formats import Recorded, read
from schemas.event import EventFlag
from tests.journeys import by_hand
from tests.journeys.by_hand import Run, Seen
from tests.journeys.rig import Whole, whole

pytestmark = pytest.mark.journey

DAY_MS = 86_400_000
SITES = ("nginx", "nasa", "trivago", "rees46")
Find = Callable[[str], Path]


@pytest.fixture(scope="module")
def herald(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Everything running, a site for each data set; the write key is the site's name."""
    with whole(tmp_path_factory.mktemp("data"), write_keys={site: site for site in SITES}) as running:
        yield running


def shift_to(rows: list[Recorded], days_ago: float) -> int:
    """Return what to add to the rows' times so that the last one happened so many days ago."""
    return now_ms() - int(days_ago * DAY_MS) - max(row.time_ms for row in rows)


def seen_in(rows: list[Recorded]) -> list[Seen]:
    return [Seen(row.lane, row.time_ms, row.message.get("properties", {}).get("session", "")) for row in rows]


def stored_sessions(herald: Whole, site: str, shift_ms: int) -> list[Run]:
    """Return a site's sessions as they are in the warehouse, in the data set's own times; sorted."""
    sql = (
        "SELECT visitor, toUnixTimestamp64Milli(start), toUnixTimestamp64Milli(end), events "
        "FROM sessions FINAL WHERE site = %(site)s"
    )
    return sorted(
        Run(str(visitor), int(str(start)) - shift_ms, int(str(end)) - shift_ms, int(str(events)))
        for visitor, start, end, events in herald.ask(sql, {"site": site})
    )


def counted(herald: Whole, what: str, site: str) -> Counter[object]:
    """Return a site's events by an expression."""
    sql = f"SELECT {what}, count() FROM events FINAL WHERE site = %(site)s GROUP BY 1"  # noqa: S608 - our own words
    return Counter({row[0]: int(str(row[1])) for row in herald.ask(sql, {"site": site})})


# --- access logs through the pixel ------------------------------------------------------------------------------------


def as_a_browser_asks(rows: list[Recorded]) -> list[Recorded]:
    """Move the page from the query to the Referer header: that is where a browser's image request has it.

    A browser writes what is not ASCII as percent escapes.
    """
    found = []
    for row in rows:
        query = {name: value for name, value in row.message.items() if name != "u"}
        page = quote(row.message["u"], safe="%/:?#[]@!$&'()*+,;=~-._")
        found.append(row._replace(message=query, headers={**(row.headers or {}), "Referer": page}))
    return found


def send_by_the_hour(herald: Whole, rows: list[Recorded], shift_ms: int, key: str) -> Iterator[int]:
    """Send one hour of the log after the other, inside an hour many visitors at once, as browsers come.

    So events arrive up to an hour out of order, which is within what a closed session still takes; yields how many
    were accepted.
    """
    for _, hour in groupby(rows, key=lambda row: row.time_ms // 3_600_000):
        yield herald.send(list(hour), shift_ms, key=key, lanes=24).accepted


BOT_WORDS = re.compile("bot|crawl|spider|slurp", re.IGNORECASE)


def test_an_access_log_through_the_pixel_is_counted_its_bots_found_and_its_visits_told_apart(
    herald: Whole, published: Find
) -> None:
    """A week of a small site: 5,749 lines, of them one without a request, which counts as the site's first page.

    Bots: the four words find 4,029 user agents, as published, and Herald takes every one of them for a bot. It finds
    1,017 more: the site's calls to itself (WordPress/6.8: 831), programs (python-requests 57, ALittle Client 5, Scrapy
    1), no user agent at all (31), and crawlers that avoid the words (92: Turnitin, facebookexternalhit, CensysInspect,
    a Chrome on a Macintosh that names its owner further on, …). 703 lines are left that people may have made.
    Sessions by address and user agent: 1,074.
    """
    rows = list(read(published("access_logs/nginx_combined_2025.log.gz")))
    shift_ms = shift_to(rows, days_ago=10)
    assert len(rows) == 5_749
    assert sum(send_by_the_hour(herald, as_a_browser_asks(rows), shift_ms, "nginx")) == 5_749
    herald.drained()
    assert sum(counted(herald, "event_type", "nginx").values()) == 5_749
    by_words = sum(BOT_WORDS.search(row.headers["User-Agent"]) is not None for row in rows if row.headers)
    assert by_words == 4_029
    assert counted(herald, "bot_reason", "nginx") == {"crawler": 4_029 + 831 + 92, "library": 63, "empty": 31, "": 703}
    is_bot = f"bitAnd(flags, {int(EventFlag.BOT)}) != 0"
    assert counted(herald, is_bot, "nginx") == {1: 4_029 + 1_017, 0: 703}
    assert (
        counted(herald, "path", "nginx").most_common(1)[0][0]
        == Counter(
            re.sub(r"[?#].*", "", row.message["u"].removeprefix("https://replay.example")) or "/" for row in rows
        ).most_common(1)[0][0]
    )
    expected = by_hand.sessions(seen_in(rows))
    assert len(expected) == 1_074
    assert stored_sessions(herald, "nginx", shift_ms) == expected


def test_a_log_without_user_agents_keeps_its_hosts_and_is_taken_for_machines(herald: Whole, published: Find) -> None:
    """NASA, the first 69 minutes of July 1995: 4,000 lines of 416 hosts, in common format. The first 1,000 are sent.

    It has no user agents, and a pixel request without one is a machine's by our rule; so all of it is stored, has
    sessions, and is flagged.
    """
    whole_log = list(read(published("access_logs/nasa_common_1995-07-01.log.gz")))
    assert (len(whole_log), len({row.lane for row in whole_log})) == (4_000, 416)
    rows = whole_log[:1_000]
    shift_ms = shift_to(rows, days_ago=9)
    assert sum(send_by_the_hour(herald, as_a_browser_asks(rows), shift_ms, "nasa")) == 1_000
    herald.drained()
    assert counted(herald, "bot_reason", "nasa") == {"empty": 1_000}
    assert counted(herald, "visitor", "nasa") == Counter(row.lane for row in rows)
    assert stored_sessions(herald, "nasa", shift_ms) == by_hand.sessions(seen_in(rows))


# --- trivago by Snowplow's tracker ------------------------------------------------------------------------------------

SCHEMA = "iglu:com.trivago/{}/jsonschema/1-0-0"


class Answers:
    """What the trackers were told, from their own callbacks."""

    def __init__(self) -> None:
        self.stored = 0
        self.failed = 0

    def ok(self, events: list[object]) -> None:
        self.stored += len(events)

    def wrong(self, stored: int, events: list[object]) -> None:
        self.failed += len(events)


def snowplow_event(row: Recorded, shift_ms: int) -> SelfDescribing | StructuredEvent:
    """Click-outs as self-describing events, all others as structured ones; both with their time as true timestamp."""
    subject = Subject().set_domain_user_id(row.lane)
    properties = row.message["properties"]
    if row.message["event"] == "clickout item":
        json = SelfDescribingJson(SCHEMA.format("clickout_item"), properties)
        return SelfDescribing(json, event_subject=subject, true_timestamp=row.time_ms + shift_ms)
    return StructuredEvent(
        category="hotel",
        action=row.message["event"],
        label=properties.get("product_id"),
        property_=properties["session"],
        event_subject=subject,
        true_timestamp=row.time_ms + shift_ms,
    )


def test_a_clickstream_by_snowplows_tracker_has_the_sessions_of_the_gap_rule(herald: Whole, published: Find) -> None:
    """A fourth of trivago's visitors by the real tracker: one of twenty-five of them by GET /i, the others by POST tp2.

    In the whole of its 47,938 events the 30-minute rule finds 3,845 sessions, as published: the data set's own ids go
    on over a longer gap 111 times (in 108 sessions) and change after a shorter one 56 times. Sent is a fourth because
    the tracker and this machine take a minute for all of it; it was exact too.
    """
    everything = sorted(read(published("trivago/trivago_sessions.csv.gz")), key=lambda row: row.time_ms)
    seen = seen_in(everything)
    assert (len(seen), len(by_hand.sessions(seen)), by_hand.disagreements(seen)) == (47_938, 3_845, (56, 111))
    rows = [row for row in everything if zlib.adler32(row.lane.encode()) % 4 == 0]
    shift_ms = shift_to(rows, days_ago=5)
    answers = Answers()
    options = {"on_success": answers.ok, "on_failure": answers.wrong, "request_timeout": 30}
    with requests.Session() as http:
        # Small batches: what waits here for more must not be later than a closed session still takes.
        post = Emitter(herald.collector_url, batch_size=50, session=http, **options)
        get = Emitter(herald.collector_url, method="get", session=http, **options)
        by_post = Tracker("post", post, app_id="trivago")
        by_get = Tracker("get", get, app_id="trivago")
        for row in rows:
            tracker = by_get if zlib.crc32(row.lane.encode()) % 25 == 0 else by_post
            tracker.track(snowplow_event(row, shift_ms))
        post.flush()
    assert (answers.stored, answers.failed) == (len(rows), 0)
    herald.drained()
    names = Counter(row.message["event"] for row in rows)
    names["clickout_item"] = names.pop("clickout item")  # a schema's name
    assert counted(herald, "name", "trivago") == names
    types = counted(herald, "event_type", "trivago")
    views = sum(count for name, count in names.items() if name.startswith("interaction item"))
    searches = sum(count for name, count in names.items() if name.startswith("search"))
    assert (types["click"], types["product_view"], types["search"]) == (names["clickout_item"], views, searches)
    assert set(counted(herald, "toString(flags)", "trivago")) == {"0"}
    assert stored_sessions(herald, "trivago", shift_ms) == by_hand.sessions(seen_in(rows))


# --- REES46 by Segment's client ---------------------------------------------------------------------------------------


def rees46() -> tuple[list[Recorded], list[tuple[str, ...]]]:
    """Return the shipped file as events and as it is."""
    with as_file(files("pipeline") / "data" / "demo" / "rees46-2019-Oct-first-17434.csv.gz") as path:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
            lines = [tuple(line) for line in csv.reader(stream)][1:]
        return list(read(path)), lines


def send_by_segment(herald: Whole, key: str, rows: list[Recorded], shift_ms: int) -> list[object]:
    """Send track calls by Segment's client, in order; return what it gave up."""
    failed: list[object] = []
    client = Client(
        key, host=herald.collector_url, gzip=True, max_queue_size=30_000, on_error=lambda *e: failed.append(e)
    )
    for row in rows:
        message = row.message
        was_queued, _ = client.track(
            event=message["event"],
            properties=message["properties"],
            anonymous_id=message["anonymousId"],
            message_id=message["messageId"],
            timestamp=datetime.fromtimestamp((row.time_ms + shift_ms) / 1_000, UTC),
        )
        assert was_queued
    client.shutdown()
    return failed


def test_a_shops_clickstream_by_segments_client_is_exact_to_the_cent(herald: Whole) -> None:
    """REES46, all 17,434 rows, gzip, times moved into the last hours; afterwards one row of twenty again.

    What is repeated under its message id counts once. The five rows that are exact copies of another have ids of their
    own (a client makes one for each call), so they count: nothing in them says that they are not two views of the same
    product in the same second. Without them it would be 17,429.

    The 30-minute rule finds 4,518 sessions. The data set's own ids are 5,066, one of them shared by two users, so
    5,067: a new id begins after no more than 30 minutes 553 times, and once an id goes on after a longer gap. (5,067 -
    553 + 1 is not 4,518 but 4,515: three ids come back after another one was used in between, and such a return is a
    change.)
    """
    rows, lines = rees46()
    shift_ms = shift_to(rows, days_ago=0)
    assert send_by_segment(herald, "rees46", rows, shift_ms) == []
    again = [row for row in rows if zlib.crc32(row.message["messageId"].encode()) % 20 == 0]
    assert len(again) > 500
    assert send_by_segment(herald, "rees46", again, shift_ms) == []
    status = herald.drained()
    books = total(status.books)
    assert status.is_balanced
    assert books.duplicate == len(again)

    assert counted(herald, "event_type", "rees46") == {"product_view": 17_055, "add_to_cart": 165, "purchase": 214}
    ids = counted(herald, "event_id", "rees46")
    assert ids == {row.message["messageId"]: 1 for row in rows}
    of_one_kind = "(visitor, event_time, event_type, product_id, category, brand, price_micros, properties)"
    assert (len(set(lines)), len(counted(herald, of_one_kind, "rees46"))) == (17_429, 17_429)
    revenue = "SELECT sum(revenue_micros), sum(revenue_micros != 0) FROM events FINAL WHERE site = 'rees46'"
    assert herald.ask(revenue) == [(59_442_630_000, 214)]
    assert len(counted(herald, "visitor", "rees46")) == 4_504

    seen = seen_in(rows)
    expected = by_hand.sessions(seen)
    assert (len(expected), by_hand.disagreements(seen)) == (4_518, (553, 1))
    assert (len({one.given for one in seen}), len({(one.visitor, one.given) for one in seen})) == (5_066, 5_067)
    assert stored_sessions(herald, "rees46", shift_ms) == expected
    earned = "SELECT sum(revenue_micros), sum(purchases), sum(events) FROM sessions FINAL WHERE site = 'rees46'"
    assert herald.ask(earned) == [(59_442_630_000, 214, 17_434)]


def test_the_report_says_what_the_rows_say(herald: Whole) -> None:
    """The rollups are made beside the rows, not from them; over all sites they come to the same, bots apart."""
    sql = (
        "SELECT site, is_bot, sum(events), sum(purchases), sum(revenue_micros) FROM rollup_minute FINAL "
        "WHERE kind = 'event_type' AND currency = '' GROUP BY site, is_bot ORDER BY site, is_bot"
    )
    rows = (
        f"SELECT site, toUInt8(bitAnd(flags, {int(EventFlag.BOT)}) != 0) AS is_bot, count(), "  # noqa: S608
        "countIf(event_type = 'purchase'), toInt64(0) FROM events FINAL GROUP BY site, is_bot ORDER BY site, is_bot"
    )
    assert [row[:4] for row in herald.ask(sql)] == [row[:4] for row in herald.ask(rows)]

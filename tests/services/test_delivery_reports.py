"""Reports: closed lists of names, values bound, and nothing of a caller's in the text of a query."""

import random
import re
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.rollup import KINDS
from pipeline.delivery.problems import Problem
from pipeline.delivery.reports import (
    BOTS,
    COUNTS,
    DIMENSIONS,
    INTERVALS,
    KIND_DIMENSIONS,
    METRICS,
    MONEY,
    VALUE_CHARS_MAX,
    Query,
    read_query,
    run_query,
    sql_of,
)
from schemas.tables import ROLLUP_MINUTE

NOW_MS = 1_795_000_000_000
WORDS = re.compile(r"[A-Za-z0-9_ ,.()'%=<>\[\]!*-]*")


def read(**params: str) -> Query:
    return read_query([(name.rstrip("_"), value) for name, value in params.items()], NOW_MS)


class Rows:
    """A warehouse that gives these rows, and keeps what it was asked."""

    def __init__(self, *rows: tuple[object, ...]) -> None:
        self.rows = list(rows)
        self.asked = ""

    def execute(self, sql: str, params: Mapping[str, object] | None = None) -> list[tuple[object, ...]]:
        self.asked = sql
        return self.rows


def test_the_names_are_those_of_the_rollups_and_their_table() -> None:
    assert list(KIND_DIMENSIONS) == [kind.name for kind in KINDS]
    assert {*COUNTS, *MONEY, "visitors"} <= set(ROLLUP_MINUTE.column_names)


def test_a_report_asks_the_rollup_that_holds_its_dimensions() -> None:
    asked = read(dimensions="placement,action", metrics="impressions,click_rate", interval="hour", site="shop")
    sql, params = sql_of(asked)
    assert sql == (
        "SELECT toUnixTimestamp(toStartOfHour(minute)) AS bucket, first, second, sum(impressions), sum(clicks) "
        "FROM rollup_minute FINAL WHERE kind = %(kind)s AND minute >= toDateTime(%(from_s)s, 'UTC') "
        "AND minute < toDateTime(%(to_s)s, 'UTC') AND is_bot = 0 AND site = %(site)s "
        "GROUP BY bucket, first, second ORDER BY bucket, first, second LIMIT 1001"
    )
    assert params == {"kind": "placement_action", "from_s": 1_794_913_600, "to_s": 1_795_000_000, "site": "shop"}


def test_rows_carry_time_dimensions_rates_and_money_by_currency() -> None:
    metrics = "click_rate,revenue_micros,events"
    query = read(dimensions="campaign", metrics=metrics, interval="day", channel="search", limit="1")
    warehouse = Rows((1_795_000, "c1", 3, 12, (["EUR"], [5]), 20), (1_795_001, "c2", 0, 0, ([], []), 0))
    rows, truncated = run_query(query, warehouse)
    counted = {"click_rate": 0.25, "revenue_micros": {"EUR": 5}, "events": 20}
    assert rows == [{"time_ms": 1_795_000_000, "campaign": "c1", **counted}]
    assert truncated
    assert "second = %(filter_0)s" in warehouse.asked


def test_a_rate_of_nothing_is_null() -> None:
    rows, _ = run_query(read(metrics="click_rate"), Rows((0, 0)))
    assert rows == [{"click_rate": None}]


@pytest.mark.parametrize(("params", "where", "expected"), [
    ({"dimensions": "visitor"}, "dimensions", "event_type"),
    ({"dimensions": "placement,channel"}, "dimensions", "placement and action"),
    ({"dimensions": "placement", "page": "x"}, "page", "unknown parameter"),
    ({"dimensions": "placement", "host": "x"}, "dimensions", "not counted together"),
    ({"dimensions": "host,host"}, "dimensions", "only once"),
    ({"metrics": "sum(events)"}, "metrics", "impressions"),
    ({"metrics": "visitors"}, "metrics", "do not add up"),
    ({"metrics": "visitors", "dimensions": "host,path", "interval": "hour"}, "metrics", "interval=minute"),
    ({"interval": "week"}, "interval", "minute, hour, day, all"),
    ({"interval": "minute", "from": "0"}, "interval", "a longer one"),
    ({"from": "yesterday"}, "from", "ISO 8601"),
    ({"from": "2026-11-22T00:00:00Z", "to": "2026-11-21"}, "from", "not before"),
    ({"to": "9" * 15}, "to", "ms since 1970"),
    ({"limit": "0"}, "limit", "1 to 10000"),
    ({"limit": "1e3"}, "limit", "1 to 10000"),
    ({"bots": "yes"}, "bots", "exclude, only, include"),
    ({"timezone": "UTC'"}, "timezone", "unknown parameter"),
    ({"site": "x" * 1_025}, "site", "at most 1024"),
])  # fmt: skip
def test_a_wrong_parameter_is_named_with_what_is_allowed(params: dict[str, str], where: str, expected: str) -> None:
    with pytest.raises(Problem) as found:
        read_query(list(params.items()), NOW_MS)
    assert found.value.status == 422
    assert found.value.errors[0][0] == where
    assert expected in found.value.detail


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(Problem, match="once"):
        read_query([("site", "a"), ("site", "b")], NOW_MS)


ATTACKS = ["' OR 1=1 --", "%(kind)s", "; DROP TABLE events", "\\'", "`", "UNION SELECT", "x\x00", "%s"]
OURS = ["dimensions", "metrics", "from", "to", "interval", "site", "bots", "limit", *DIMENSIONS]
HOSTILE = st.sampled_from(ATTACKS) | st.text()
NAMES = st.sampled_from(OURS) | HOSTILE
VALUES = st.sampled_from([*DIMENSIONS, *METRICS, *INTERVALS, "placement,action", "5", "exclude"]) | HOSTILE


@st.composite
def asked_for(draw: st.DrawFn) -> list[tuple[str, str]]:
    """A report that may be asked for, its filters hostile; now and then with a parameter more or another value."""
    names = draw(st.sampled_from(list(KIND_DIMENSIONS.values())))
    some = st.lists(st.sampled_from([name for name in METRICS if name != "visitors"]), unique=True).map(",".join)
    usual = {
        "dimensions": st.lists(st.sampled_from(names), unique=True).map(",".join), "metrics": some,
        "interval": st.sampled_from(list(INTERVALS)), "bots": st.sampled_from(list(BOTS)),
        "limit": st.integers(1, 10_000).map(str), "from": st.integers(0, 10**8).map(lambda ms: str(NOW_MS - 1 - ms)),
        "site": HOSTILE, **dict.fromkeys(names, HOSTILE),
    }  # fmt: skip
    params = list(draw(st.fixed_dictionaries({}, optional=usual)).items())
    if draw(st.integers(0, 2)) == 0:
        params.insert(0, (draw(NAMES), draw(VALUES)))
    return params


def test_nothing_that_is_sent_reaches_the_text_of_a_query() -> None:
    """Whatever is asked: refused, or a statement made of our own words with all values beside it."""
    answered: Counter[bool] = Counter()

    @settings(max_examples=200)
    @given(asked_for())
    def is_bound_or_refused(params: list[tuple[str, str]]) -> None:
        try:
            query = read_query(params, NOW_MS)
        except Problem:
            answered[False] += 1
            return
        answered[True] += 1
        sql, bound = sql_of(query)
        assert WORDS.fullmatch(sql)
        assert set(re.findall(r"%\((\w+)\)s", sql)) == set(bound)
        assert set(re.findall(r"'([^']*)'", sql)) <= {"UTC"}
        assert {value for name, value in params if name in BOUND} <= set(bound.values())

    is_bound_or_refused()
    assert min(answered[True], answered[False]) > 30, answered


FUZZED = 5_000
FRAGMENTS = [
    "'", '"', "`", "\\", ";", "--", "/*", "*/", "#", "%", "%s", "%(kind)s", "%(site)s", "{x:String}", "(", ")", ",",
    " ", "\n", "\0", "\x1b", "\u2028", "ʼ", "＇", "SELECT", "UNION ALL", "DROP TABLE events", "OR 1=1", "SLEEP(5)",
    "FORMAT JSON", "INTO OUTFILE", "url('http://x')", "file('/etc/passwd')", "remote('x')", "toTimeZone", "UTC",
    "Europe/Berlin", "ASC", "placement", "events", "site", "minute", "1", "0x27", "1e400", "-1", "é", "\ud800",
    "\U0001f600", "A" * 300,
]  # fmt: skip
BOUND = ("site", *DIMENSIONS)  # parameters whose value may be anything: it is bound


def hostile_texts(seed: int) -> list[str]:
    """So many texts made of what breaks queries; none is a name that we take."""
    rng = random.Random(seed)
    texts = ("".join(rng.choices(FRAGMENTS, k=rng.randint(1, 6))) for _ in range(10 * FUZZED))
    allowed = {*OURS, *METRICS, *INTERVALS, *BOTS}
    return list(dict.fromkeys(text for text in texts if not set(text.split(",")) & allowed))[:FUZZED]


def asked(name: str, text: str) -> tuple[str, dict[str, object]] | None:
    """The statement and the values of a report with one parameter; None where it is refused with 422."""
    try:
        return sql_of(read_query([(name, text)], NOW_MS))
    except Problem as problem:
        if problem.status != 422:
            raise
        return None


def test_of_five_thousand_hostile_texts_none_reaches_the_text_of_a_query() -> None:
    """Each as the value of every parameter and as a name: refused, or bound beside the statement that "x" gets too."""
    seed = 20_261_122
    texts = hostile_texts(seed)
    assert len(texts) == FUZZED
    plain = {name: asked(name, "x") for name in BOUND}
    for text in texts:
        assert asked(text, "x") is None
        for name in OURS:
            found, what = asked(name, text), f"seed {seed}: {name}={text!r}"
            if name in BOUND:
                expected = plain[name]
                assert expected is not None
                assert found is None or (found[0] == expected[0] and text in found[1].values()), what
                assert found is not None or len(text) > VALUE_CHARS_MAX, what
            else:  # of these only a number or a moment in its right spelling is taken, and read as one
                assert found is None or name in ("from", "to", "limit") or not text.strip(","), what
                assert found is None or not set(text) & set("'\"`;%()\\"), what

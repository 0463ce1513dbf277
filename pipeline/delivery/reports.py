"""Reports over the minute rollups: closed lists of dimensions and metrics become SQL; values are bound, never written.

Nothing that a caller sends reaches the text of a query: names are looked up in the tables below.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pipeline.delivery.problems import Problem
from pipeline.edge.clickhouse import Source as Source

INTERVALS: Final[Mapping[str, tuple[str, int]]] = {
    "minute": ("minute", 60_000),
    "hour": ("toStartOfHour(minute)", 3_600_000),
    "day": ("toStartOfDay(minute)", 86_400_000),
    "all": ("", 0),
}
KIND_DIMENSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "event_type": ("event_type",),
    "placement_action": ("placement", "action"),
    "campaign_channel": ("campaign", "channel"),
    "source": ("source", "referrer_class"),
    "page": ("host", "path"),
}
"""Rollups of the warehouse (pipeline.core.rollup.KINDS) and what their columns `first` and `second` are."""
COUNTS: Final = ("events", "pages", "decisions", "impressions", "clicks", "conversions", "purchases")
MONEY: Final = ("revenue_micros", "cost_micros")
RATES: Final[Mapping[str, tuple[str, str]]] = {
    "click_rate": ("clicks", "impressions"),
    "impression_rate": ("impressions", "decisions"),
}
METRICS: Final = (*COUNTS, "visitors", *MONEY, *RATES)
DIMENSIONS: Final = tuple(dict.fromkeys(name for names in KIND_DIMENSIONS.values() for name in names))
BOTS: Final[Mapping[str, str]] = {"exclude": "is_bot = 0", "only": "is_bot = 1", "include": "1 = 1"}

ROWS_MAX: Final = 10_000
BUCKETS_MAX: Final = 50_000
VALUE_CHARS_MAX: Final = 1_024
DAY_MS: Final = 86_400_000
_YEAR_2200_MS: Final = 7_258_118_400_000


@dataclass(frozen=True)
class Query:
    """A report that was asked for, checked. Times in ms, from_ms included, to_ms not."""

    from_ms: int
    to_ms: int
    interval: str = "all"
    dimensions: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("events",)
    site: str | None = None
    bots: str = "exclude"
    filters: Mapping[str, str] = field(default_factory=dict)
    limit: int = 1_000

    @property
    def kind(self) -> str:
        """The rollup that holds all its dimensions."""
        asked = {*self.dimensions, *self.filters}
        return next(kind for kind, names in KIND_DIMENSIONS.items() if asked <= set(names))


def read_query(params: Sequence[tuple[str, str]], now_ms: int) -> Query:
    """Return the report that a query string asks for; without times, the last 24 hours.

    params: names and values, decoded. now_ms: when it is asked.
    Raises Problem 422 naming the parameter and what was expected.
    """
    given = _given(params, {"dimensions", "metrics", "from", "to", "interval", "site", "bots", "limit", *DIMENSIONS})
    to_ms = _time(given, "to", now_ms)
    from_ms = _time(given, "from", to_ms - DAY_MS)
    query = Query(
        from_ms=from_ms,
        to_ms=to_ms,
        interval=_one_of(given, "interval", "all", tuple(INTERVALS)),
        dimensions=_list_of(given, "dimensions", "", DIMENSIONS),
        metrics=_list_of(given, "metrics", "events", METRICS),
        site=given.get("site"),
        bots=_one_of(given, "bots", "exclude", tuple(BOTS)),
        filters={name: given[name] for name in DIMENSIONS if name in given},
        limit=_limit(given),
    )
    _check(query)
    return query


class Span(NamedTuple):
    """A stretch of time cut into intervals. Times in ms, from_ms included, to_ms not."""

    from_ms: int
    to_ms: int
    interval: str


def read_span(params: Sequence[tuple[str, str]], now_ms: int) -> Span:
    """Return the stretch that a query string asks for; without times, the last 24 hours by the hour.

    Raises Problem 422 naming the parameter and what was expected.
    """
    given = _given(params, {"from", "to", "interval"})
    to_ms = _time(given, "to", now_ms)
    from_ms = _time(given, "from", to_ms - DAY_MS)
    interval = _one_of(given, "interval", "hour", [name for name in INTERVALS if name != "all"])
    _check_span(from_ms, to_ms, interval)
    return Span(from_ms, to_ms, interval)


def read_from(params: Sequence[tuple[str, str]], now_ms: int) -> int:
    """Return the first moment that a query string asks for, ms; without one, 24 hours before now_ms.

    Raises Problem 422 naming the parameter and what was expected.
    """
    return _time(_given(params, {"from"}), "from", now_ms - DAY_MS)


def sql_of(query: Query) -> tuple[str, dict[str, object]]:
    """Return the statement of a report and the values bound in it."""
    names = KIND_DIMENSIONS[query.kind]
    columns = dict(zip(names, ("first", "second"), strict=False))
    bucket = INTERVALS[query.interval][0]
    selected = ([f"toUnixTimestamp({bucket}) AS bucket"] if bucket else []) + [
        columns[name] for name in query.dimensions
    ]
    groups = (["bucket"] if bucket else []) + [columns[name] for name in query.dimensions]
    selected += [_sum_of(metric) for metric in _needed(query.metrics)]
    params: dict[str, object] = {"kind": query.kind, "from_s": query.from_ms // 1_000, "to_s": -(-query.to_ms // 1_000)}
    where = ["kind = %(kind)s", "minute >= toDateTime(%(from_s)s, 'UTC')", "minute < toDateTime(%(to_s)s, 'UTC')"]
    where.append(BOTS[query.bots])
    if query.site is not None:
        where.append("site = %(site)s")
        params["site"] = query.site
    for place, (name, value) in enumerate(query.filters.items()):
        where.append(f"{columns[name]} = %(filter_{place})s")
        params[f"filter_{place}"] = value
    parts = ["SELECT", ", ".join(selected), "FROM rollup_minute FINAL WHERE", " AND ".join(where)]
    if groups:
        parts += ["GROUP BY", ", ".join(groups), "ORDER BY", ", ".join(groups)]
    return " ".join([*parts, "LIMIT", str(query.limit + 1)]), params


def run_query(query: Query, warehouse: Source) -> tuple[list[dict[str, object]], bool]:
    """Return the rows of a report, oldest first, and whether there are more than its limit.

    Raises what the warehouse raises (Unavailable, Refused).
    """
    sql, params = sql_of(query)
    found = warehouse.execute(sql, params)
    return [_row(query, row) for row in found[: query.limit]], len(found) > query.limit


def _row(query: Query, row: Sequence[object]) -> dict[str, object]:
    values = iter(row)
    named: dict[str, object] = {}
    if INTERVALS[query.interval][0]:
        named["time_ms"] = int(str(next(values))) * 1_000
    for name in query.dimensions:
        named[name] = next(values)
    sums = {metric: _plain(value) for metric, value in zip(_needed(query.metrics), values, strict=True)}
    for metric in query.metrics:
        if metric in RATES:
            above, below = (int(str(sums[name])) for name in RATES[metric])
            named[metric] = above / below if below else None
        else:
            named[metric] = sums[metric]
    return named


def _plain(value: object) -> object:
    """sumMap comes as (keys, values): {currency: millionths}."""
    if isinstance(value, tuple):
        currencies, sums = value
        return dict(zip(currencies, sums, strict=True))
    return value


def _needed(metrics: Sequence[str]) -> tuple[str, ...]:
    """The sums behind the metrics, each once."""
    return tuple(dict.fromkeys(name for metric in metrics for name in RATES.get(metric, (metric,))))


def _sum_of(metric: str) -> str:
    return f"sumMapIf([currency], [{metric}], {metric} != 0)" if metric in MONEY else f"sum({metric})"


def _check(query: Query) -> None:
    asked = {*query.dimensions, *query.filters}
    names = next((names for names in KIND_DIMENSIONS.values() if asked <= set(names)), None)
    if names is None:
        together = "; ".join(" and ".join(names) for names in KIND_DIMENSIONS.values())
        raise _wrong("dimensions", f"{', '.join(sorted(asked))} are not counted together; expected any of {together}")
    _check_span(query.from_ms, query.to_ms, query.interval)
    if "visitors" in query.metrics and (query.interval != "minute" or set(query.dimensions) != set(names)):
        raise _wrong(
            "metrics", "visitors do not add up over time; expected interval=minute and both dimensions of one report"
        )


def _check_span(from_ms: int, to_ms: int, interval: str) -> None:
    if not from_ms < to_ms:
        raise _wrong("from", f"{from_ms} is not before to = {to_ms}")
    width_ms = INTERVALS[interval][1]
    if width_ms and (to_ms - from_ms) // width_ms > BUCKETS_MAX:
        raise _wrong("interval", f"{interval}: more than {BUCKETS_MAX} of them; expected a longer one")


def _given(params: Sequence[tuple[str, str]], known: set[str]) -> dict[str, str]:
    """Return a query string's values by name, each given once, known and of a length that we take."""
    given: dict[str, str] = {}
    for name, value in params:
        if name in given:
            raise _wrong(name, "expected once")
        given[name] = value
    for name, value in given.items():
        if name not in known:
            raise _wrong(name, f"unknown parameter; expected one of {', '.join(sorted(known))}")
        if len(value) > VALUE_CHARS_MAX:
            raise _wrong(name, f"expected at most {VALUE_CHARS_MAX} characters")
    return given


def _one_of(given: Mapping[str, str], name: str, default: str, allowed: Sequence[str]) -> str:
    value = given.get(name, default)
    if value not in allowed:
        raise _wrong(name, f"found {value[:80]!r}; expected one of {', '.join(allowed)}")
    return value


def _list_of(given: Mapping[str, str], name: str, default: str, allowed: Sequence[str]) -> tuple[str, ...]:
    values = tuple(value for value in given.get(name, default).split(",") if value)
    for value in values:
        if value not in allowed:
            raise _wrong(name, f"found {value[:80]!r}; expected some of {', '.join(allowed)}")
    if len(set(values)) != len(values):
        raise _wrong(name, "expected each only once")
    return values or ((default,) if default else ())


def _limit(given: Mapping[str, str]) -> int:
    text = given.get("limit", "1000")
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= ROWS_MAX:
        raise _wrong("limit", f"found {text[:80]!r}; expected a whole number from 1 to {ROWS_MAX}")
    return int(text)


def _time(given: Mapping[str, str], name: str, default_ms: int) -> int:
    text = given.get(name)
    if text is None:
        return default_ms
    found = -1
    try:
        if re.fullmatch(r"[0-9]{1,15}", text):
            found = int(text)
        else:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            found = int(moment.timestamp() * 1_000)
    except (ValueError, OverflowError):
        found = -1
    if not 0 <= found < _YEAR_2200_MS:
        raise _wrong(name, f"found {text[:80]!r}; expected ms since 1970 or ISO 8601, as in 2026-11-22T10:00:00Z")
    return found


def _wrong(name: str, what: str) -> Problem:
    return Problem(422, "invalid", f"{name[:80]}: {what}", [(name[:80], what)])

"""What share of a budget should be spent by when: even, as soon as possible, or as visitors come.

A plan is made when a line is published or its day begins (2 microseconds an hour of the flight); asking it costs one.
"""

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from itertools import accumulate
from typing import Final

from schemas.pacing import WEEK_HOURS, HourCurve

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
FLIGHT_MS_MAX: Final = 3 * 366 * DAY_MS
EVERY_HOUR: Final = frozenset(range(WEEK_HOURS))
WEIGHT_MIN: Final = 0.01
"""Of the mean hour's: an hour in which nobody was seen gets a little all the same, or nobody would ever be."""


class Pacing(StrEnum):
    """How a budget is spread over its time."""

    EVEN = "even"
    ASAP = "asap"
    LEARNT = "learnt"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a line may run. start_ms included, end_ms left out; hours: of the week in `zone`, 0 = Monday 0 to 1 h."""

    start_ms: int
    end_ms: int
    hours: frozenset[int] = EVERY_HOUR
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class Plan:
    """Shares of a budget by time. Made by `flight_plan` or `day_plan`.

    edges_ms: borders of the pieces, one more than there are pieces. due: share that should be spent by each border.
    open_until_ms: end of the open run that a piece belongs to; 0 = closed. opens_ms, closes_ms: of the first and the
    last open piece; 0 = the line may never run.
    plan_id: of when the line may run and how it is spread. shape_id: of `due`, which a learnt curve moves.
    """

    pacing: Pacing
    edges_ms: tuple[int, ...]
    due: tuple[float, ...]
    open_until_ms: tuple[int, ...]
    plan_id: int = 0
    opens_ms: int = 0
    closes_ms: int = 0
    shape_id: int = 0

    @property
    def is_empty(self) -> bool:
        """Say whether the line may never run."""
        return not self.closes_ms

    def open_until(self, time_ms: int) -> int:
        """Return when the open run at a time ends (ms since 1970 UTC); 0 where the line may not run now."""
        place = bisect_right(self.edges_ms, time_ms) - 1
        return self.open_until_ms[place] if 0 <= place < len(self.open_until_ms) else 0

    def share(self, time_ms: int) -> float:
        """Return the share, 0..1, of the budget that should be spent by a time (ms since 1970 UTC)."""
        if self.pacing is Pacing.ASAP:
            return float(0 < self.opens_ms <= time_ms)
        edges, due = self.edges_ms, self.due
        place = bisect_right(edges, time_ms) - 1
        if place < 0:
            return 0.0
        if place >= len(edges) - 1:
            return due[-1]
        low = due[place]
        return low + (due[place + 1] - low) * (time_ms - edges[place]) / (edges[place + 1] - edges[place])


def flight_plan(schedule: Schedule, pacing: Pacing, curve: HourCurve | None = None) -> Plan:
    """Return the plan of a total budget over the flight. curve: for `learnt`; where it is unknown, hours are alike.

    Hours in which the line may not run get no share; clock changes of the zone are respected.
    Raises ValueError for a flight that ends before it starts, or that is longer than three years.
    """
    if schedule.end_ms <= schedule.start_ms:
        raise ValueError(f"flight ends at {schedule.end_ms} ms, expected after its start at {schedule.start_ms} ms")
    if schedule.end_ms - schedule.start_ms > FLIGHT_MS_MAX:
        days = (schedule.end_ms - schedule.start_ms) // DAY_MS
        raise ValueError(f"flight of {days:,} days, expected {FLIGHT_MS_MAX // DAY_MS:,} at most")
    weights = hour_weights(curve) if pacing is Pacing.LEARNT and curve is not None else (1.0,) * WEEK_HOURS
    edges, spent, opens = [schedule.start_ms], [], []
    for hour, to_ms in _hours(schedule.start_ms, schedule.end_ms, schedule.zone):
        is_open = hour in schedule.hours
        opens.append(is_open)
        spent.append(weights[hour] * (to_ms - edges[-1]) if is_open else 0.0)
        edges.append(to_ms)
    total = sum(spent) or 1.0
    due = [0.0, *(min(1.0, one / total) for one in accumulate(spent))]
    if any(opens):
        last = max(place for place, is_open in enumerate(opens) if is_open)
        due[last + 1 :] = [1.0] * (len(due) - last - 1)  # sums of floats may end a hair below
    runs = _runs(edges, opens)
    opens_ms = next((edge for edge, until_ms in zip(edges, runs, strict=False) if until_ms), 0)
    shape_id = zlib.crc32(array("d", due).tobytes())
    return Plan(pacing, tuple(edges), tuple(due), runs, _id_of(schedule, pacing), opens_ms, max(runs), shape_id)


def day_plan(schedule: Schedule, pacing: Pacing, time_ms: int, curve: HourCurve | None = None) -> Plan:
    """Return the plan of a daily budget for the day, in the schedule's zone, that a time falls on.

    A day outside the flight, or without an open hour, gives an empty plan. Otherwise as `flight_plan`.
    """
    from_ms, to_ms = day_of(time_ms, schedule.zone)
    from_ms, to_ms = max(from_ms, schedule.start_ms), min(to_ms, schedule.end_ms)
    if to_ms <= from_ms:
        return Plan(pacing, (), (0.0,), ())
    return flight_plan(Schedule(from_ms, to_ms, schedule.hours, schedule.zone), pacing, curve)


def day_of(time_ms: int, zone: tzinfo) -> tuple[int, int]:
    """Return (start, end) in ms of a zone's day; 23 or 25 hours long where the clock changes."""
    start = datetime.fromtimestamp(time_ms / 1_000, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    end = (start + timedelta(days=1)).replace(fold=0)
    return round(start.timestamp() * 1_000), round(end.timestamp() * 1_000)


def _hours(start_ms: int, end_ms: int, zone: tzinfo) -> Iterator[tuple[int, int]]:
    """Yield (hour of the week, its end in ms) of every hour on the zone's clock, the first and the last cut off."""
    at_ms = start_ms
    while at_ms < end_ms:
        hour, to_ms = _hour_at(at_ms, zone)
        yield hour, min(to_ms, end_ms)
        at_ms = to_ms
        # a day on which the clock is not changed is 24 hours in a row: two questions to the zone instead of 24
        while at_ms + DAY_MS <= end_ms and _is_plain(at_ms, zone):
            first = _hour_at(at_ms, zone)[0]
            for place in range(24):
                yield (first + place) % WEEK_HOURS, at_ms + (place + 1) * HOUR_MS
            at_ms += DAY_MS


def _is_plain(time_ms: int, zone: tzinfo) -> bool:
    """Say whether the clock shows the full hour now, and the same one in 24 hours."""
    hour, next_ms = _hour_at(time_ms, zone)
    tomorrow = (hour + 24) % WEEK_HOURS, next_ms + DAY_MS
    return next_ms == time_ms + HOUR_MS and _hour_at(time_ms + DAY_MS, zone) == tomorrow


def _hour_at(time_ms: int, zone: tzinfo) -> tuple[int, int]:
    """Return the hour of the week at a time and when the clock shows the next one."""
    local = datetime.fromtimestamp(time_ms / 1_000, zone)
    into_ms = local.minute * 60_000 + local.second * 1_000 + local.microsecond // 1_000
    return local.weekday() * 24 + local.hour, time_ms + HOUR_MS - into_ms


def _runs(edges: Sequence[int], opens: Sequence[bool]) -> tuple[int, ...]:
    """For each piece, the end of the open run that it belongs to; 0 = closed."""
    until = [0] * len(opens)
    end_ms = 0
    for place in range(len(opens) - 1, -1, -1):
        end_ms = (end_ms or edges[place + 1]) if opens[place] else 0
        until[place] = end_ms
    return tuple(until)


def _id_of(schedule: Schedule, pacing: Pacing) -> int:
    text = f"{pacing} {schedule.start_ms} {schedule.end_ms} {schedule.zone} {sorted(schedule.hours)}"
    return zlib.crc32(text.encode())


# --- the learnt curve ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CurveRules:
    """half_life_hours: of what was seen. shrink_hours: how many hours of watching the guess from other days counts for;
    that guess is itself pulled to the mean hour by as much.
    """

    half_life_hours: float = 4.0 * WEEK_HOURS
    shrink_hours: float = 1.0


def learn_requests(
    curve: HourCurve, requests: int, from_ms: int, to_ms: int, zone: tzinfo = UTC, rules: CurveRules | None = None
) -> None:
    """Take in how many eligible requests came between two times, changing the curve. Call it every minute or so.

    from_ms, to_ms: an hour apart at most, else the requests are spread over the hours between.
    A span that ends before it starts, or is empty, is left out. Raises nothing.
    """
    if to_ms <= from_ms:
        return
    if not curve.requests:
        curve.requests, curve.hours = [0.0] * WEEK_HOURS, [0.0] * WEEK_HOURS
    _fade(curve, to_ms, rules or CurveRules())
    begin_ms = from_ms
    while begin_ms < to_ms:
        hour, next_ms = _hour_at(begin_ms, zone)
        next_ms = min(next_ms, to_ms)
        curve.requests[hour] += requests * (next_ms - begin_ms) / (to_ms - from_ms)
        curve.hours[hour] += (next_ms - begin_ms) / HOUR_MS
        begin_ms = next_ms


def _fade(curve: HourCurve, time_ms: int, rules: CurveRules) -> None:
    """Once an hour: a step of a minute would cost 336 products for nothing."""
    if not curve.updated_ms:
        curve.updated_ms = time_ms
    elif (age_ms := time_ms - curve.updated_ms) >= HOUR_MS:
        left = 0.5 ** (age_ms / HOUR_MS / rules.half_life_hours)
        curve.requests = [one * left for one in curve.requests]
        curve.hours = [one * left for one in curve.hours]
        curve.updated_ms = time_ms


def hour_weights(curve: HourCurve, rules: CurveRules | None = None) -> tuple[float, ...]:
    """Return the expected requests of each hour of the week, the mean hour being 1.

    An hour watched little is drawn to the same hour of other days, and that to the mean; none is below a hundredth.
    """
    shrink = (rules or CurveRules()).shrink_hours
    watched = sum(curve.hours)
    mean = sum(curve.requests) / watched if watched else 0.0
    if mean <= 0.0:
        return (1.0,) * WEEK_HOURS
    daily = []
    for hour in range(24):
        seen, long = sum(curve.requests[hour::24]), sum(curve.hours[hour::24])
        daily.append((seen + shrink * mean) / (long + shrink))
    rates = [
        max(WEIGHT_MIN * mean, (seen + shrink * daily[hour % 24]) / (long + shrink))
        for hour, (seen, long) in enumerate(zip(curve.requests, curve.hours, strict=True))
    ]
    middle = sum(rates) / WEEK_HOURS
    return tuple(rate / middle for rate in rates)

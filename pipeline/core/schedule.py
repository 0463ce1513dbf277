"""When a line may be shown, and to which day its spending belongs: a schedule compiled into [open, close) times.

Hours and days are those of the clock on the wall in the schedule's zone. So an hour that daylight saving skips is not
open, and one that it repeats is open twice. A schedule is worked out one day at a time and asked many times: the last
answer is kept together with the moment until which it holds.
"""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from schemas.campaign import DAY_MS, HOUR_MS, Schedule

NEVER: Final = 2**62
"""After every moment."""
_ALWAYS: Final = -(2**62)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_THURSDAY: Final = 3  # 1970-01-01
_DAYS_AHEAD: Final = 22  # hours come again each week; one week's may be skipped, by a zone that leaps over a day


class Span(NamedTuple):
    """From begin_ms until before end_ms it stays open, or stays closed. NEVER: no end."""

    is_open: bool
    begin_ms: int
    end_ms: int


class Timetable:
    """A schedule, ready to be asked. All times in ms since 1970 UTC.

    It keeps what it worked out last; threads may share it, each sees a whole answer.
    """

    __slots__ = ("_day", "_hours", "_kept", "_zone", "ends_ms", "starts_ms", "zone")

    def __init__(self, schedule: Schedule) -> None:
        """Compile a schedule. starts_ms, ends_ms: of the whole; NEVER and its opposite where there is none."""
        self.starts_ms = _ALWAYS if schedule.starts_at is None else _ms(schedule.starts_at)
        self.ends_ms = NEVER if schedule.ends_at is None else _ms(schedule.ends_at)
        self.zone = schedule.zone
        self._zone = ZoneInfo(schedule.zone)
        self._hours = _week(schedule) if schedule.hours else None
        self._kept = Span(False, 0, 0)  # nothing yet
        self._day = ("", 0, 0)

    def is_open(self, time_ms: int) -> bool:
        """Say whether it may be shown at a moment."""
        is_open, begin_ms, end_ms = self._kept
        return is_open if begin_ms <= time_ms < end_ms else self.span(time_ms).is_open

    def span(self, time_ms: int) -> Span:
        """Return what holds at a moment, and from when until when at least: a day of UTC is looked at, at a time."""
        self._kept = found = self._span(time_ms)
        return found

    def next_opening_ms(self, time_ms: int) -> int:
        """Return the first moment, not before time_ms, at which it is open; NEVER where there is none."""
        return self._next(time_ms, is_open=True)

    def next_closing_ms(self, time_ms: int) -> int:
        """Return the first moment, not before time_ms, at which it is closed; NEVER where it stays open."""
        return self._next(time_ms, is_open=False)

    def open_spans(self, from_ms: int, to_ms: int) -> Iterator[tuple[int, int]]:
        """Give the [open, close) times within [from_ms, to_ms), earliest first. Days that are far apart cost time."""
        at = from_ms
        while at < to_ms:
            opens = self.next_opening_ms(at)
            if opens >= to_ms:
                return
            at = self._next(opens, is_open=False)
            yield opens, min(at, to_ms)

    def budget_day(self, time_ms: int) -> str:
        """Return the day `YYYY-MM-DD` in the schedule's zone to which a moment belongs."""
        day, begin_ms, end_ms = self._day
        if not begin_ms <= time_ms < end_ms:
            day, begin_ms, end_ms = self._day = _local_day(self._zone, time_ms)
        return day

    def _span(self, time_ms: int) -> Span:
        if time_ms < self.starts_ms:
            return Span(False, _ALWAYS, self.starts_ms)
        if time_ms >= self.ends_ms:
            return Span(False, self.ends_ms, NEVER)
        if self._hours is None:
            return Span(True, self.starts_ms, self.ends_ms)
        edges = _edges(self._zone, time_ms // DAY_MS, self._hours)
        at = bisect_right(edges, (time_ms, NEVER)) - 1
        begin_ms, is_open = edges[at][0], bool(edges[at][1])
        end_ms = edges[at + 1][0] if at + 1 < len(edges) else (time_ms // DAY_MS + 1) * DAY_MS
        return Span(is_open, max(begin_ms, self.starts_ms), min(end_ms, self.ends_ms))

    def _next(self, time_ms: int, *, is_open: bool) -> int:
        at, last = time_ms, None
        while at < NEVER:
            found = self._span(at)
            if found.is_open is is_open:
                return at
            if last is None and found.begin_ms > _ALWAYS:
                last = max(at, self.starts_ms) + _DAYS_AHEAD * DAY_MS
            if last is not None and found.end_ms > last and self.starts_ms <= at < self.ends_ms:
                break
            at = found.end_ms
        # hours that have not changed for weeks never do: only the end can
        return NEVER if is_open or at >= NEVER else self.ends_ms


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


Week = tuple[tuple[tuple[int, int], ...], ...]
"""For each day from Monday on, the open [from, to) in ms of the wall clock, merged and sorted."""


def _week(schedule: Schedule) -> Week:
    days: list[tuple[tuple[int, int], ...]] = []
    for name in _WEEKDAYS:
        spans = sorted(
            (hours.from_hour * HOUR_MS, hours.to_hour * HOUR_MS)
            for hours in schedule.hours
            if name in (hours.days or _WEEKDAYS)
        )
        merged: list[tuple[int, int]] = []
        for begin, end in spans:
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        days.append(tuple(merged))
    return tuple(days)


@lru_cache(maxsize=4_096)
def _edges(zone: tzinfo, day: int, week: Week) -> tuple[tuple[int, int], ...]:
    """(from when, whether open) over one day of UTC, sorted, the first at its begin; neighbours differ."""
    edges: list[tuple[int, int]] = []
    for begin_ms, end_ms, offset_ms in _offsets(zone, day):
        at = begin_ms
        for opens, closes in _open_by_the_wall(begin_ms + offset_ms, end_ms + offset_ms, week):
            if opens - offset_ms > at:
                edges.append((at, 0))
            edges.append((opens - offset_ms, 1))
            at = closes - offset_ms
        if at < end_ms:
            edges.append((at, 0))
    return tuple(edge for at, edge in enumerate(edges) if not at or edges[at - 1][1] != edge[1])


def _open_by_the_wall(begin_ms: int, end_ms: int, week: Week) -> Iterator[tuple[int, int]]:
    """The open spans of the wall clock within [begin_ms, end_ms), as if its zone had no offset."""
    for day in range(begin_ms // DAY_MS, (end_ms - 1) // DAY_MS + 1):
        for opens, closes in week[(day + _THURSDAY) % 7]:
            opens, closes = max(begin_ms, day * DAY_MS + opens), min(end_ms, day * DAY_MS + closes)
            if opens < closes:
                yield opens, closes


@lru_cache(maxsize=4_096)
def _offsets(zone: tzinfo, day: int) -> tuple[tuple[int, int, int], ...]:
    """(begin_ms, end_ms, what the wall clock is ahead of UTC, in ms) over one day of UTC, whose offset may change."""
    begin_ms = day * DAY_MS
    found = [(begin_ms, _offset_ms(zone, begin_ms))]
    for hour in range(1, 25):
        offset_ms = _offset_ms(zone, begin_ms + hour * HOUR_MS)
        if offset_ms != found[-1][1]:
            changed_ms = _change(zone, begin_ms + (hour - 1) * HOUR_MS, begin_ms + hour * HOUR_MS)
            if changed_ms < begin_ms + DAY_MS:
                found.append((changed_ms, offset_ms))
    ends = [at for at, _ in found[1:]] + [begin_ms + DAY_MS]
    return tuple((at, end, offset_ms) for (at, offset_ms), end in zip(found, ends, strict=True))


def _change(zone: tzinfo, before_ms: int, after_ms: int) -> int:
    """The first second between two moments at which the second one's offset holds."""
    wanted = _offset_ms(zone, after_ms)
    low, high = before_ms // 1_000, after_ms // 1_000
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_ms(zone, middle * 1_000) == wanted:
            high = middle
        else:
            low = middle
    return high * 1_000


def _offset_ms(zone: tzinfo, time_ms: int) -> int:
    offset = (_EPOCH + timedelta(milliseconds=time_ms)).astimezone(zone).utcoffset()
    return 0 if offset is None else offset // timedelta(milliseconds=1)


def _local_day(zone: tzinfo, time_ms: int) -> tuple[str, int, int]:
    """(the day by the wall, from when, until when): as far as it holds within the moment's day of UTC."""
    for begin_ms, end_ms, offset_ms in _offsets(zone, time_ms // DAY_MS):
        if begin_ms <= time_ms < end_ms:
            day = (time_ms + offset_ms) // DAY_MS
            text = (date(1970, 1, 1) + timedelta(days=day)).isoformat()
            return (
                text,
                max(begin_ms, day * DAY_MS - offset_ms),
                min(end_ms, (day + 1) * DAY_MS - offset_ms),
            )
    raise AssertionError("a day's offsets cover it")

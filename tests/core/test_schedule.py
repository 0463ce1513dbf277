"""Schedules: open and closed by the wall clock, also where it is put forward or back, against each single minute."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.schedule import NEVER, Timetable
from schemas.campaign import DAY_MS, HOUR_MS, Hours, Schedule

MINUTE_MS = 60_000
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
BERLIN_SPRING = datetime(2026, 3, 29, tzinfo=ZoneInfo("Europe/Berlin"))  # 02:00 -> 03:00
BERLIN_AUTUMN = datetime(2026, 10, 25, tzinfo=ZoneInfo("Europe/Berlin"))  # 03:00 -> 02:00
LEAPS = {
    "Europe/Berlin": [datetime(2026, 3, 29), datetime(2026, 10, 25)],
    "America/New_York": [datetime(2026, 3, 8), datetime(2026, 11, 1)],
    "America/Santiago": [datetime(2026, 4, 5), datetime(2026, 9, 6)],  # at midnight
    "Australia/Lord_Howe": [datetime(2026, 4, 5), datetime(2026, 10, 4)],  # by half an hour
    "Asia/Kathmandu": [datetime(2026, 5, 1)],  # 5:45 ahead
    "Pacific/Apia": [datetime(2011, 12, 30)],  # a day that was left out
    "America/St_Johns": [datetime(2010, 3, 14), datetime(2010, 11, 7)],  # at one minute past midnight
    "UTC": [datetime(2026, 1, 1)],
}


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000)


def at(text: str, zone: str = "UTC") -> int:
    return ms(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


def hours(from_hour: int, to_hour: int, *days: str) -> Hours:
    return Hours.model_validate({"days": list(days), "from_hour": from_hour, "to_hour": to_hour})


def is_open_by_the_wall(schedule: Schedule, time_ms: int) -> bool:
    """What the words say, one moment at a time."""
    moment = datetime.fromtimestamp(time_ms / 1_000, UTC)
    if schedule.starts_at is not None and moment < schedule.starts_at:
        return False
    if schedule.ends_at is not None and moment >= schedule.ends_at:
        return False
    wall = moment.astimezone(ZoneInfo(schedule.zone))
    return not schedule.hours or any(
        each.from_hour <= wall.hour < each.to_hour and (not each.days or DAYS[wall.weekday()] in each.days)
        for each in schedule.hours
    )


def test_without_anything_it_is_always_open() -> None:
    timetable = Timetable(Schedule())
    assert timetable.is_open(0)
    assert timetable.next_closing_ms(0) == NEVER
    assert timetable.next_opening_ms(5) == 5


def test_it_opens_at_its_start_and_is_closed_at_its_end() -> None:
    begin, end = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
    timetable = Timetable(Schedule(starts_at=begin, ends_at=end))
    assert [timetable.is_open(ms(begin) + add) for add in (-1, 0)] == [False, True]
    assert [timetable.is_open(ms(end) + add) for add in (-1, 0)] == [True, False]
    assert timetable.next_opening_ms(0) == ms(begin)
    assert timetable.next_closing_ms(ms(begin)) == ms(end)
    assert timetable.next_opening_ms(ms(end)) == NEVER
    assert timetable.next_closing_ms(ms(end)) == ms(end)


def test_an_hour_that_is_skipped_is_not_open_that_day() -> None:
    timetable = Timetable(Schedule(zone="Europe/Berlin", hours=[hours(2, 3)]))
    begin = ms(BERLIN_SPRING)
    assert list(timetable.open_spans(begin, begin + 23 * HOUR_MS)) == []
    assert timetable.next_opening_ms(begin) == at("2026-03-30T02:00", "Europe/Berlin")


def test_an_hour_that_comes_twice_is_open_twice() -> None:
    timetable = Timetable(Schedule(zone="Europe/Berlin", hours=[hours(2, 3)]))
    begin = ms(BERLIN_AUTUMN)
    assert list(timetable.open_spans(begin, begin + 25 * HOUR_MS)) == [(begin + 2 * HOUR_MS, begin + 4 * HOUR_MS)]


def test_a_night_across_midnight_is_two_spans_that_meet() -> None:
    timetable = Timetable(Schedule(zone="Asia/Tokyo", hours=[hours(22, 24, "fri"), hours(0, 4, "sat")]))
    monday = at("2026-05-04T00:00", "Asia/Tokyo")
    opens, closes = at("2026-05-08T22:00", "Asia/Tokyo"), at("2026-05-09T04:00", "Asia/Tokyo")
    assert (timetable.next_opening_ms(monday), timetable.next_closing_ms(opens)) == (opens, closes)


def test_hours_all_around_the_clock_close_at_the_end_only() -> None:
    end = datetime(2027, 1, 1, tzinfo=UTC)
    around = [hours(0, 12), hours(10, 24)]
    assert Timetable(Schedule(hours=around, ends_at=end)).next_closing_ms(at("2026-01-01")) == ms(end)
    assert Timetable(Schedule(hours=around)).next_closing_ms(at("2026-01-01")) == NEVER


def test_hours_that_never_come_before_the_end_open_never() -> None:
    begin = datetime(2026, 5, 4, tzinfo=UTC)  # a Monday
    schedule = Schedule(starts_at=begin, ends_at=begin + timedelta(days=2), hours=[hours(0, 24, "sat")])
    assert Timetable(schedule).next_opening_ms(ms(begin)) == NEVER
    assert Timetable(schedule).next_opening_ms(0) == NEVER


def test_a_start_far_ahead_is_found() -> None:
    begin = datetime(2126, 5, 4, tzinfo=UTC)
    timetable = Timetable(Schedule(starts_at=begin, hours=[hours(9, 10)]))
    assert timetable.next_opening_ms(at("2026-01-01")) == ms(begin) + 9 * HOUR_MS
    assert timetable.next_closing_ms(ms(begin) + 9 * HOUR_MS) == ms(begin) + 10 * HOUR_MS


def test_a_day_that_the_zone_leaves_out_only_puts_the_opening_off() -> None:
    """Samoa had no Friday, 30 December 2011."""
    timetable = Timetable(Schedule(zone="Pacific/Apia", hours=[hours(9, 10, "fri")]))
    assert timetable.next_opening_ms(at("2011-12-24T00:00", "Pacific/Apia")) == at("2012-01-06T09:00", "Pacific/Apia")


@pytest.mark.parametrize(
    ("moment", "zone", "day"),
    [
        ("2026-05-01T21:59:59.999", "Europe/Berlin", "2026-05-01"),
        ("2026-05-01T22:00", "Europe/Berlin", "2026-05-02"),
        ("2026-05-01T03:59", "America/New_York", "2026-04-30"),
        ("2026-10-25T22:30", "Europe/Berlin", "2026-10-25"),  # after the clock was put back
        ("2026-10-25T23:00", "Europe/Berlin", "2026-10-26"),
        ("1969-12-31T23:59", "UTC", "1969-12-31"),
    ],
)
def test_a_budget_day_is_the_day_on_the_wall(moment: str, zone: str, day: str) -> None:
    assert Timetable(Schedule(zone=zone)).budget_day(at(moment)) == day


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Schedule, int]:
    """A schedule in a zone, and midnight (UTC) of the day before one of the zone's leaps."""
    zone = draw(st.sampled_from(sorted(LEAPS)))
    begin = draw(st.sampled_from(LEAPS[zone])).replace(tzinfo=UTC) - timedelta(days=1)
    spans = []
    for _ in range(draw(st.integers(0, 4))):
        from_hour = draw(st.integers(0, 23))
        days = draw(st.lists(st.sampled_from(DAYS), max_size=3, unique=True))
        spans.append(hours(from_hour, draw(st.integers(from_hour + 1, 24)), *days))
    starts = draw(st.none() | st.integers(-60, 3_000))
    ends = draw(st.none() | st.integers((starts or 0) + 1, 5_000))
    return Schedule(
        zone=zone,
        hours=spans,
        starts_at=None if starts is None else begin + timedelta(minutes=starts),
        ends_at=None if ends is None else begin + timedelta(minutes=ends),
    ), ms(begin)


MINUTES = 3 * 24 * 60


@given(schedules())
@settings(max_examples=60, deadline=None)
def test_each_minute_around_a_leap_is_open_as_the_wall_clock_says(made: tuple[Schedule, int]) -> None:
    schedule, begin = made
    timetable = Timetable(schedule)
    wanted = [is_open_by_the_wall(schedule, begin + minute * MINUTE_MS) for minute in range(MINUTES)]
    assert [timetable.is_open(begin + minute * MINUTE_MS) for minute in range(MINUTES)] == wanted
    spans = list(timetable.open_spans(begin, begin + MINUTES * MINUTE_MS))
    assert sum(closes - opens for opens, closes in spans) == sum(wanted) * MINUTE_MS
    assert all(before[1] < after[0] for before, after in pairwise(spans))


@given(schedules(), st.integers(0, MINUTES - 1))
@settings(max_examples=100, deadline=None)
def test_the_next_opening_and_closing_are_the_first_minutes_that_are(made: tuple[Schedule, int], minute: int) -> None:
    schedule, begin = made
    timetable = Timetable(schedule)
    time_ms = begin + minute * MINUTE_MS
    for found, wanted in ((timetable.next_opening_ms(time_ms), True), (timetable.next_closing_ms(time_ms), False)):
        minutes = range(min(found - time_ms, 16 * DAY_MS) // MINUTE_MS)
        step = max(1, len(minutes) // 400)
        assert all(is_open_by_the_wall(schedule, time_ms + each * MINUTE_MS) is not wanted for each in minutes[::step])
        assert found == NEVER or is_open_by_the_wall(schedule, found) is wanted
        assert found == NEVER or timetable.is_open(found) is wanted


@given(schedules(), st.lists(st.integers(0, 3 * DAY_MS), min_size=1, max_size=30))
def test_asked_in_any_order_the_answers_are_the_same(made: tuple[Schedule, int], moments: list[int]) -> None:
    schedule, begin = made
    asked, zone = Timetable(schedule), ZoneInfo(schedule.zone)
    for add in moments:
        assert asked.is_open(begin + add) == Timetable(schedule).is_open(begin + add)
        wall = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=begin + add)).astimezone(zone)
        assert asked.budget_day(begin + add) == wall.date().isoformat()

"""The hours at which something may be sent: those of the next day at which everything is open."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.schedule import Timetable
from pipeline.core.send_time import openings
from schemas.campaign import DAY_MS, HOUR_MS, Schedule

MONDAY_MS = 1_795_392_000_000  # 2026-11-23T00:00Z
NOON_MS = MONDAY_MS + 12 * HOUR_MS


def timetable(**schedule: Any) -> Timetable:
    return Timetable(Schedule.model_validate(schedule))


def test_the_day_begins_as_it_says() -> None:
    assert datetime.fromtimestamp(MONDAY_MS / 1_000, UTC).isoformat() == "2026-11-23T00:00:00+00:00"


def test_without_a_schedule_every_hour_of_the_next_day_is_open_and_the_present_one_now() -> None:
    found = openings([timetable()], NOON_MS + 5, NOON_MS + 5 + DAY_MS)
    assert found[12] == NOON_MS + 5
    assert [found[hour] for hour in range(13, 24)] == [MONDAY_MS + hour * HOUR_MS for hour in range(13, 24)]
    assert [found[hour] for hour in range(12)] == [MONDAY_MS + DAY_MS + hour * HOUR_MS for hour in range(12)]


def test_hours_of_the_line_and_of_the_campaign_must_both_be_open() -> None:
    line = timetable(hours=[{"from_hour": 8, "to_hour": 20}])
    campaign = timetable(hours=[{"from_hour": 18, "to_hour": 22}])
    assert openings([line, campaign], NOON_MS, NOON_MS + DAY_MS) == {
        18: MONDAY_MS + 18 * HOUR_MS,
        19: MONDAY_MS + 19 * HOUR_MS,
    }


def test_a_zone_of_half_hours_opens_in_the_middle_of_an_hour() -> None:
    found = openings(
        [timetable(zone="Asia/Kolkata", hours=[{"from_hour": 8, "to_hour": 9}])], NOON_MS, NOON_MS + DAY_MS
    )
    assert found == {2: MONDAY_MS + DAY_MS + 2 * HOUR_MS + HOUR_MS // 2, 3: MONDAY_MS + DAY_MS + 3 * HOUR_MS}


def test_nothing_is_open_after_the_end() -> None:
    ends = timetable(ends_at="2026-11-23T12:30:00Z")
    assert openings([ends], NOON_MS, NOON_MS + DAY_MS) == {12: NOON_MS}
    assert openings([ends], NOON_MS + HOUR_MS, NOON_MS + DAY_MS) == {}


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])
@given(
    hours=st.lists(st.tuples(st.integers(0, 23), st.integers(1, 24)).filter(lambda one: one[0] < one[1]), max_size=3),
    from_ms=st.integers(MONDAY_MS - 300 * DAY_MS, MONDAY_MS + 300 * DAY_MS),
    span_ms=st.integers(1, DAY_MS),
)
def test_every_moment_is_open_in_its_hour_in_time_and_the_first_of_that_hour(
    zone: str, hours: list[tuple[int, int]], from_ms: int, span_ms: int
) -> None:
    table = timetable(zone=zone, hours=[{"from_hour": begin, "to_hour": end} for begin, end in hours])
    found = openings([table], from_ms, from_ms + span_ms)
    for hour, at_ms in found.items():
        assert from_ms <= at_ms < from_ms + span_ms
        assert (at_ms // HOUR_MS % 24, table.is_open(at_ms)) == (hour, True)
        assert at_ms == max(from_ms, at_ms - at_ms % HOUR_MS) or not table.is_open(at_ms - 1)
    for at_ms in range(from_ms, from_ms + span_ms, 17 * 60_000):
        assert not table.is_open(at_ms) or found[at_ms // HOUR_MS % 24] <= at_ms

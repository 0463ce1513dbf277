"""Plans and the laws of pacing."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.pacing import Now, PaceRules, control, due_micros, expected_spend, observe, probability
from pipeline.core.pacing_plan import (
    EVERY_HOUR,
    Pacing,
    Plan,
    Schedule,
    day_plan,
    flight_plan,
    hour_weights,
    learn_requests,
)
from schemas.pacing import WEEK_HOURS, HourCurve, Pace
from tests.core.plan_rig import DAY_MS, HOUR_MS, MINUTE_MS, at

MONDAY = at("2026-03-02 00:00:00")
BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # its clock moves by half an hour
ZONES = st.sampled_from(
    [UTC, BERLIN, LORD_HOWE, ZoneInfo("Asia/Kathmandu"), timezone(timedelta(hours=-9, minutes=-30))]
)
HOURS = st.one_of(st.just(EVERY_HOUR), st.frozensets(st.integers(0, WEEK_HOURS - 1)))
COUNTS = st.lists(st.integers(0, 1_000), min_size=WEEK_HOURS, max_size=WEEK_HOURS)


def week(count: int = 100, **by_hour: int) -> HourCurve:
    """A curve of one week; by_hour: h9=300 gives hour 9 of every day 300 requests."""
    curve = HourCurve()
    for hour in range(WEEK_HOURS):
        found = by_hour.get(f"h{hour % 24}", count)
        learn_requests(curve, found, MONDAY + hour * HOUR_MS, MONDAY + (hour + 1) * HOUR_MS)
    return curve


@st.composite
def plans(draw: st.DrawFn) -> tuple[Schedule, Plan]:
    start = MONDAY + draw(st.integers(0, 60 * DAY_MS))
    schedule = Schedule(start, start + draw(st.integers(1, 9 * DAY_MS)), draw(HOURS), draw(ZONES))
    curve = HourCurve([float(one) for one in draw(COUNTS)], [1.0] * WEEK_HOURS, start)
    return schedule, flight_plan(schedule, draw(st.sampled_from(Pacing)), curve)


paces = st.builds(
    Pace,
    time_ms=st.integers(0, MONDAY + 70 * DAY_MS),
    offered_micros=st.integers(0, 2**60),
    spent_micros=st.integers(-(2**40), 2**60),
    rate=st.floats(0.0, 1e12),
    measured_ms=st.integers(0, 15_000_000),
    win=st.floats(1e-6, 1e6),
    won=st.floats(0.0, 1e15),
    tried=st.floats(0.0, 1e15),
    probability=st.floats(0.0, 1.0),
    from_share=st.floats(0.0, 1.0),
    from_micros=st.integers(0, 2**50),
)


# --- plans -----------------------------------------------------------------------------------------------------------


@given(plans(), st.lists(st.integers(-DAY_MS, 10 * DAY_MS), min_size=2, max_size=20))
def test_a_plan_grows_from_nothing_to_all_and_only_while_open(made: tuple[Schedule, Plan], offsets: list[int]) -> None:
    schedule, plan = made
    times = [schedule.start_ms + offset for offset in sorted(offsets)]
    shares = [plan.share(time_ms) for time_ms in times]
    assert shares == sorted(shares)
    assert plan.share(schedule.start_ms - 1) == 0.0
    assert plan.share(schedule.end_ms) == (0.0 if plan.is_empty else 1.0)
    for time_ms in times:
        local = datetime.fromtimestamp(time_ms / 1_000, schedule.zone)
        may_run = schedule.start_ms <= time_ms < schedule.end_ms
        may_run = may_run and local.weekday() * 24 + local.hour in schedule.hours
        until_ms = plan.open_until(time_ms)
        assert (until_ms > time_ms) if may_run else (until_ms == 0)
        if not may_run and plan.pacing is not Pacing.ASAP:
            assert plan.share(time_ms) == pytest.approx(plan.share(time_ms + 1), abs=1e-7)


def test_an_even_plan_spends_half_by_half_time() -> None:
    plan = flight_plan(Schedule(MONDAY, MONDAY + DAY_MS), Pacing.EVEN)
    assert [plan.share(MONDAY + hour * HOUR_MS) for hour in (0, 6, 12, 24)] == pytest.approx([0.0, 0.25, 0.5, 1.0])


def test_a_plan_as_soon_as_possible_wants_all_at_its_first_open_hour() -> None:
    plan = flight_plan(Schedule(MONDAY, MONDAY + DAY_MS, frozenset({9})), Pacing.ASAP)
    assert (plan.share(MONDAY + 9 * HOUR_MS - 1), plan.share(MONDAY + 9 * HOUR_MS)) == (0.0, 1.0)


def test_a_learnt_plan_gives_an_hour_with_three_times_the_visitors_three_times_the_share() -> None:
    plan = flight_plan(Schedule(MONDAY, MONDAY + DAY_MS), Pacing.LEARNT, week(1_000, h9=3_000))
    nine = plan.share(MONDAY + 10 * HOUR_MS) - plan.share(MONDAY + 9 * HOUR_MS)
    eight = plan.share(MONDAY + 9 * HOUR_MS) - plan.share(MONDAY + 8 * HOUR_MS)
    assert nine / eight == pytest.approx(3.0, rel=0.1)  # a little is shrunk away


def test_without_anything_learnt_the_hours_are_alike() -> None:
    schedule = Schedule(MONDAY, MONDAY + DAY_MS)
    assert flight_plan(schedule, Pacing.LEARNT, HourCurve()).due == flight_plan(schedule, Pacing.EVEN).due


def test_hours_are_those_of_the_lines_zone() -> None:
    """Nine in the morning in Berlin is eight in UTC in winter and seven in summer."""
    nine = frozenset(day * 24 + 9 for day in range(7))
    winter = flight_plan(Schedule(MONDAY, MONDAY + DAY_MS, nine, BERLIN), Pacing.EVEN)
    assert winter.open_until(MONDAY + 8 * HOUR_MS) == MONDAY + 9 * HOUR_MS
    summer_ms = at("2026-07-06 00:00:00")
    summer = flight_plan(Schedule(summer_ms, summer_ms + DAY_MS, nine, BERLIN), Pacing.EVEN)
    assert summer.open_until(summer_ms + 7 * HOUR_MS) == summer_ms + 8 * HOUR_MS


@pytest.mark.parametrize(("noon", "hours"), [("2026-03-29 12:00:00", 23), ("2026-10-25 12:00:00", 25)])
def test_a_day_on_which_the_clock_changes_has_its_real_length(noon: str, hours: int) -> None:
    plan = day_plan(Schedule(MONDAY, MONDAY + 300 * DAY_MS, zone=BERLIN), Pacing.EVEN, at(noon))
    assert plan.edges_ms[-1] - plan.edges_ms[0] == hours * HOUR_MS
    assert len(plan.edges_ms) == hours + 1


@pytest.mark.parametrize("zone", [BERLIN, LORD_HOWE, UTC], ids=str)
def test_every_hour_of_a_year_is_the_one_that_the_clock_shows(zone: tzinfo) -> None:
    plan = flight_plan(Schedule(MONDAY + 1_234, MONDAY + 366 * DAY_MS, frozenset({9, 50}), zone), Pacing.EVEN)
    for from_ms, to_ms, until_ms in zip(plan.edges_ms, plan.edges_ms[1:], plan.open_until_ms, strict=False):
        first, last = (datetime.fromtimestamp(one / 1_000, zone) for one in (from_ms, to_ms - 1))
        assert (first.weekday(), first.hour) == (last.weekday(), last.hour)
        assert bool(until_ms) == (first.weekday() * 24 + first.hour in (9, 50))


def test_a_day_outside_the_flight_has_an_empty_plan() -> None:
    schedule = Schedule(MONDAY, MONDAY + DAY_MS)
    assert day_plan(schedule, Pacing.EVEN, MONDAY + 3 * DAY_MS).is_empty
    assert day_plan(schedule, Pacing.EVEN, MONDAY - 1).is_empty
    assert day_plan(schedule, Pacing.EVEN, MONDAY - 1).share(MONDAY) == 0.0


def test_a_days_plan_begins_where_the_flight_begins_on_that_day() -> None:
    plan = day_plan(Schedule(MONDAY + 18 * HOUR_MS, MONDAY + 9 * DAY_MS), Pacing.EVEN, MONDAY + 20 * HOUR_MS)
    assert plan.share(MONDAY + 21 * HOUR_MS) == pytest.approx(0.5)


@pytest.mark.parametrize(("length_ms", "said"), [(0, "flight ends at"), (4_000 * DAY_MS, "4,000 days, expected 1,098")])
def test_a_flight_that_cannot_be_is_refused(length_ms: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        flight_plan(Schedule(MONDAY, MONDAY + length_ms), Pacing.EVEN)


# --- the learnt curve ------------------------------------------------------------------------------------------------


@given(COUNTS)
def test_hours_weigh_one_on_average_and_none_is_nothing(counts: list[int]) -> None:
    weights = hour_weights(HourCurve([float(one) for one in counts], [1.0] * WEEK_HOURS, 1))
    assert sum(weights) == pytest.approx(WEEK_HOURS)
    assert min(weights) > 0.0


def test_one_day_of_watching_tells_about_the_same_hours_of_other_days() -> None:
    curve = HourCurve()
    for hour in range(24):
        learn_requests(curve, 1_000 if hour == 20 else 100, MONDAY + hour * HOUR_MS, MONDAY + (hour + 1) * HOUR_MS)
    weights = hour_weights(curve)
    assert weights[3 * 24 + 20] > 3 * weights[3 * 24 + 19]
    assert weights[20] > weights[3 * 24 + 20]  # the hour that was watched itself is believed more


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200), st.integers(0, 7 * DAY_MS))
def test_a_curve_watched_minute_by_minute_is_that_of_whole_hours(minutes: list[int], offset_ms: int) -> None:
    fine, start_ms = HourCurve(), MONDAY + offset_ms
    for place, count in enumerate(minutes):
        learn_requests(fine, count, start_ms + place * MINUTE_MS, start_ms + (place + 1) * MINUTE_MS)
    assert sum(fine.requests) == pytest.approx(sum(minutes), rel=0.01)
    assert sum(fine.hours) == pytest.approx(len(minutes) / 60, rel=0.01)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fine), type=HourCurve) == fine


def test_what_was_long_ago_counts_half_after_four_weeks() -> None:
    curve = week(1_000)
    for hour in range(4 * WEEK_HOURS, 5 * WEEK_HOURS):
        learn_requests(
            curve, 3_000 if hour % 24 == 9 else 1_000, MONDAY + hour * HOUR_MS, MONDAY + (hour + 1) * HOUR_MS
        )
    assert hour_weights(curve)[9] / hour_weights(curve)[8] == pytest.approx((1.0 + 2 * 3.0) / 3.0, rel=0.1)


def test_a_span_that_is_empty_or_goes_back_teaches_nothing() -> None:
    curve = HourCurve()
    learn_requests(curve, 9, MONDAY, MONDAY)
    learn_requests(curve, 9, MONDAY, MONDAY - HOUR_MS)
    assert curve == HourCurve()


# --- the laws of pacing ----------------------------------------------------------------------------------------------

money = st.integers(0, 2**50)


@given(plans(), money, st.integers(-DAY_MS, 10 * DAY_MS), money, money, money, paces)
def test_a_probability_is_one_and_nothing_is_given_when_the_budget_is_used_up(
    made: tuple[Schedule, Plan], budget: int, offset: int, spent: int, offered: int, cost: int, pace: Pace
) -> None:
    schedule, plan = made
    now = Now(schedule.start_ms + offset, spent, offered, cost)
    told, kept = control(plan, budget, now, pace)
    assert 0.0 <= told <= 1.0
    if spent >= budget or budget - spent < cost or not plan.open_until(now.time_ms):
        assert told == 0.0
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(kept), type=Pace) == kept
    assert control(plan, budget, now, pace) == (told, kept)


@given(plans(), money, st.integers(-DAY_MS, 10 * DAY_MS), st.lists(money, min_size=2, max_size=8), money, paces)
def test_the_more_is_spent_the_lower_the_probability(
    made: tuple[Schedule, Plan], budget: int, offset: int, spends: list[int], cost: int, pace: Pace
) -> None:
    schedule, plan = made
    kept = observe(plan, budget, Now(schedule.start_ms + offset, spends[0], 0, cost), pace)
    found = [
        probability(plan, budget, Now(schedule.start_ms + offset, spent, 0, cost), kept) for spent in sorted(spends)
    ]
    assert found == sorted(found, reverse=True)


def steady(plan: Plan, budget: int, seconds: int = 120) -> tuple[Now, Pace]:
    """A thousand requests a second at noon, on plan."""
    pace = Pace()
    for second in range(seconds):
        now = Now(MONDAY + 12 * HOUR_MS + second * 1_000, budget // 2, 2_000_000 * second, 2_000)
        pace = control(plan, budget, now, pace).pace
    return now, pace


def test_the_first_second_is_for_looking() -> None:
    plan = flight_plan(Schedule(MONDAY, MONDAY + DAY_MS), Pacing.EVEN)
    now, pace = steady(plan, 10**9, 1)
    assert pace.probability == 0.0
    assert control(plan, 10**9, now._replace(time_ms=now.time_ms + 1_000), pace).probability > 0.0


def test_ahead_of_the_plan_by_more_than_the_horizon_it_waits() -> None:
    plan, budget = flight_plan(Schedule(MONDAY, MONDAY + DAY_MS), Pacing.EVEN), 10**9
    now, pace = steady(plan, budget)
    due = due_micros(plan, budget, now.time_ms + PaceRules().horizon_ms, pace)
    assert probability(plan, budget, now._replace(spent_micros=round(due) + 1), pace) == 0.0
    assert probability(plan, budget, now._replace(spent_micros=round(due) - 10_000), pace) > 0.0


def test_a_changed_budget_is_spread_over_the_rest_and_is_no_debt() -> None:
    plan = flight_plan(Schedule(MONDAY, MONDAY + DAY_MS), Pacing.EVEN)
    now, pace = steady(plan, 10**9)
    doubled = observe(plan, 2 * 10**9, now._replace(time_ms=now.time_ms + 1_000), pace)
    assert due_micros(plan, 2 * 10**9, now.time_ms + 1_000, doubled) == pytest.approx(10**9 / 2)
    assert due_micros(plan, 2 * 10**9, MONDAY + DAY_MS, doubled) == 2 * 10**9
    assert doubled.rate > 0.0  # what was learnt of the traffic stays


def test_counters_that_go_back_teach_nothing() -> None:
    """A process that starts anew, or a clock that is set back."""
    plan = flight_plan(Schedule(MONDAY, MONDAY + DAY_MS), Pacing.EVEN)
    now, pace = steady(plan, 10**9)
    assert observe(plan, 10**9, now._replace(time_ms=now.time_ms - 5_000), pace) == pace
    back = observe(plan, 10**9, now._replace(time_ms=now.time_ms + 1_000, offered_micros=0), pace)
    assert 0.0 < back.rate < pace.rate


@given(money, money, money, st.integers(1, 2**40))
def test_expected_spend_lies_between_what_is_settled_and_all(
    settled: int, opened: int, released: int, sure: int
) -> None:
    found = expected_spend(settled, opened, released, sure)
    assert settled <= found <= settled + opened + 1 + opened // 2**40
    assert expected_spend(settled, opened, 0, sure) >= found


def test_a_plan_whose_curve_has_moved_goes_on_from_what_was_due() -> None:
    """Not from its own share at that time: the line would stand still for hours, or spend hours at once."""
    schedule, budget = Schedule(MONDAY, MONDAY + DAY_MS), 10**9
    before = flight_plan(schedule, Pacing.LEARNT, week(1_000))
    now, pace = steady(before, budget)
    due = pace.due_micros
    moved = flight_plan(schedule, Pacing.LEARNT, week(1_000, h20=5_000))
    assert moved.plan_id == before.plan_id
    assert moved.share(now.time_ms) < before.share(now.time_ms) - 0.05
    after = control(moved, budget, now._replace(time_ms=now.time_ms + 500), pace)
    assert due_micros(moved, budget, now.time_ms + 500, after.pace) == pytest.approx(due, rel=1e-4)
    assert due_micros(moved, budget, MONDAY + DAY_MS, after.pace) == pytest.approx(budget)
    assert after.probability > 0.0

"""Days with real hour curves: what is spent follows the plan. Seeds and figures are printed (`pytest -s`)."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.core.pacing import Now, Paced, control, expected_spend
from pipeline.core.pacing_plan import Pacing, Plan, Schedule, flight_plan
from schemas.pacing import Pace
from tests.core.pacing_rig import COST, MINUTE_STEPS, STEP_MS, Day, Traffic, learnt, play, play_apart
from tests.core.plan_rig import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    MINUTES,
    Counts,
    clicks_on_ads,
    decisions_of_a_shop,
    events_of_a_shop,
    requests_of_a_site,
)

WITHIN = 0.02
LOGS: dict[str, tuple[Callable[[], tuple[int, Counts]], int, float]] = {
    "ad clicks": (clicks_on_ads, 1, 10.0),
    "a shop's decisions": (decisions_of_a_shop, 6, 20.0),
    "an access log": (requests_of_a_site, 1, 50.0),
}
"""Where it comes from, how many of its days are learnt from (the next is played), and how many times its traffic."""


def day_of_log(name: str) -> tuple[int, Counts, Counts]:
    """Return (start of the day, requests by minute of the days before, of the day)."""
    read, days, scale = LOGS[name]
    start_ms, counts = read()
    border = days * MINUTES
    return start_ms + days * DAY_MS, counts[:border] * scale, counts[border : border + MINUTES] * scale


def plan_of(start_ms: int, before: Counts, pacing: Pacing) -> Plan:
    days = len(before) // MINUTES
    curve = learnt(start_ms - days * DAY_MS, before) if pacing is Pacing.LEARNT else None
    return flight_plan(Schedule(start_ms, start_ms + DAY_MS), pacing, curve)


def budget_of(requests: Counts, share: float) -> int:
    return round(float(requests.sum()) * share) * COST


def jumps(factor: float, seed: int) -> Counts:
    """1 or `factor`, changing every 10 to 60 minutes."""
    rng = np.random.default_rng(seed)
    spans = [np.full(rng.integers(10, 60), rng.choice([1.0, factor])) for _ in range(MINUTES // 10)]
    return np.concatenate(spans)[:MINUTES]


def told(what: str, seed: int, day: Day, leave_out: frozenset[int] = frozenset()) -> Day:
    print(
        f"{what}, seed {seed}: spent {day.used:.4%} of the budget, worst hour {day.worst(leave_out):.3%} off the plan"
    )
    return day


@pytest.mark.parametrize(("name", "pacing"), [*((name, Pacing.LEARNT) for name in LOGS), ("ad clicks", Pacing.EVEN)])
def test_a_day_follows_its_plan_within_two_percent(name: str, pacing: Pacing) -> None:
    start_ms, before, requests = day_of_log(name)
    share = 0.3 if pacing is Pacing.LEARNT else 0.1  # even: the emptiest hour must be able to pay its part
    plan, budget = plan_of(start_ms, before, pacing), budget_of(requests, share)
    day = told(f"{name}, {pacing}", 1, play(plan, budget, Traffic(start_ms, requests), 1))
    assert abs(day.used - 1.0) <= WITHIN
    assert day.worst() <= WITHIN
    assert len(day.hours) == 24


def test_without_pacing_the_same_day_is_far_from_its_plan() -> None:
    """The check above can fail: all that may take part does, or a constant share that was right the day before."""
    start_ms, before, requests = day_of_log("a shop's decisions")
    plan, budget = plan_of(start_ms, before, Pacing.LEARNT), budget_of(requests, 0.1)
    everything = play(plan, budget, Traffic(start_ms, requests), 1, lambda now, pace: Paced(1.0, pace))
    assert told("everything", 1, everything).worst() > 10 * WITHIN
    constant = budget / COST / (float(before.sum()) / (len(before) / MINUTES))
    fixed = play(plan, budget, Traffic(start_ms, requests * jumps(5.0, 2)), 1, lambda now, pace: Paced(constant, pace))
    assert told(f"always {constant:.2f}", 1, fixed).worst() > 3 * WITHIN


@pytest.mark.parametrize(("factor", "seed"), [(5.0, 2), (25.0, 3)])
def test_traffic_that_jumps_does_not_move_the_spend(factor: float, seed: int) -> None:
    start_ms, before, requests = day_of_log("ad clicks")
    plan, budget = plan_of(start_ms, before, Pacing.LEARNT), budget_of(requests, 0.3)
    traffic = Traffic(start_ms, requests * jumps(factor, seed))
    day = told(f"jumps by {factor:g}", seed, play(plan, budget, traffic, seed))
    assert day.offered * COST > 2 * budget / 0.3
    assert abs(day.used - 1.0) <= WITHIN
    assert day.worst() <= WITHIN


def test_an_hour_without_visitors_is_made_up_for_within_the_next() -> None:
    start_ms, before, requests = day_of_log("an access log")
    plan, budget = plan_of(start_ms, before, Pacing.LEARNT), budget_of(requests, 0.3)
    dead = requests.copy()
    dead[600:660] = 0.0
    day = play(plan, budget, Traffic(start_ms, dead), 4)
    told("a dead hour", 4, day, frozenset({10}))
    assert day.hours[10].off > WITHIN  # nobody was there to spend it on
    assert day.worst(frozenset({10})) <= WITHIN
    assert abs(day.used - 1.0) <= WITHIN


def test_a_late_start_spreads_the_budget_over_what_is_left_of_the_plan() -> None:
    start_ms, before, requests = day_of_log("ad clicks")
    plan, budget = plan_of(start_ms, before, Pacing.LEARNT), budget_of(requests, 0.15)
    day = told("a start at 9:05", 5, play(plan, budget, Traffic(start_ms, requests, from_minute=545), 5))
    assert len(day.hours) == 15
    assert day.hours[0].spent < 0.1  # no burst for the nine hours that were missed
    assert day.worst() <= WITHIN
    assert abs(day.used - 1.0) <= WITHIN


@pytest.mark.parametrize(("win", "lag_steps"), [(0.1, (1, 2)), (1.0, (5, 10))])
def test_a_line_that_wins_little_or_hears_late_follows_all_the_same(win: float, lag_steps: tuple[int, int]) -> None:
    """Nine in ten decisions go to others although it takes part; or counters come 10 to 20 s late."""
    start_ms, before, requests = day_of_log("a shop's decisions")
    plan, budget = plan_of(start_ms, before, Pacing.LEARNT), budget_of(requests, 0.3 * win)
    traffic = Traffic(start_ms, requests * jumps(5.0, 6), win, lag_steps)
    day = told(f"wins {win:g}, {lag_steps} steps late", 6, play(plan, budget, traffic, 6))
    assert abs(day.used - 1.0) <= WITHIN
    assert day.worst() <= WITHIN


@pytest.mark.parametrize(("second_from", "share"), [(0, 0.5), (300, 0.5), (450, 0.1)])
def test_processes_that_see_only_their_own_offers_follow_together(second_from: int, share: float) -> None:
    """What the other one spends shows as a larger share won of one's own; also when one joins, and takes nearly all."""
    start_ms, before, requests = day_of_log("ad clicks")
    plan, budget = plan_of(start_ms, before, Pacing.LEARNT), budget_of(requests, 0.3)
    traffic = Traffic(start_ms, requests * jumps(5.0, 14))
    day = told(f"second from {second_from}, {share:.0%}", 14, play_apart(plan, budget, traffic, 14, second_from, share))
    assert abs(day.used - 1.0) <= WITHIN
    assert day.worst() <= WITHIN


def test_a_curve_that_is_learnt_meanwhile_neither_stops_the_line_nor_lets_it_burst() -> None:
    """At 13:00 the line learns how the day goes: by the new plan 10 % less should be spent than is."""
    start_ms, before, requests = day_of_log("a shop's decisions")
    budget = budget_of(requests, 0.2)
    plans = plan_of(start_ms, before, Pacing.EVEN), plan_of(start_ms, before, Pacing.LEARNT)
    # the same line: only its curve has moved
    plans = replace(plans[0], plan_id=plans[1].plan_id, pacing=Pacing.LEARNT), plans[1]
    noon_ms = start_ms + 13 * HOUR_MS
    assert abs(plans[0].share(noon_ms) - plans[1].share(noon_ms)) > 2 * WITHIN

    def chance(now: Now, pace: Pace) -> Paced:
        return control(plans[now.time_ms >= noon_ms], budget, now, pace)

    day = play(plans[0], budget, Traffic(start_ms, requests), 15, chance)
    hourly = np.diff([hour.spent for hour in day.hours])
    wanted = np.diff([plans[1].share(hour.time_ms) for hour in day.hours])[13:]
    rest = (1.0 - day.hours[12].spent) / (1.0 - plans[1].share(noon_ms))
    print(f"learnt at 13:00, seed 15: spent {day.used:.3%}, {hourly[12:].min():.2%} to {hourly.max():.2%} an hour")
    assert abs(day.used - 1.0) <= WITHIN
    assert hourly[13:] == pytest.approx(wanted * rest, abs=0.005)


def test_a_budget_of_few_decisions_is_at_most_two_of_them_off() -> None:
    """60 of 390 a day: one is 1.7 % of the budget."""
    start_ms, before, requests = day_of_log("a shop's decisions")
    plan = plan_of(start_ms, before, Pacing.LEARNT)
    few = requests * (200.0 / float(requests.sum()))
    day = told("60 decisions", 7, play(plan, 60 * COST, Traffic(start_ms, few), 7))
    assert day.worst() <= 2.5 / 60
    assert day.used >= 59 / 60


def test_closed_hours_get_nothing_and_the_open_ones_follow() -> None:
    start_ms, before, requests = day_of_log("an access log")
    hours = frozenset(day * 24 + hour for day in range(7) for hour in (9, 10, 11, 14, 15, 20))
    curve = learnt(start_ms - DAY_MS, before)
    plan = flight_plan(Schedule(start_ms, start_ms + DAY_MS, hours), Pacing.LEARNT, curve)
    day = told("six open hours", 8, play(plan, budget_of(requests, 0.05), Traffic(start_ms, requests), 8))
    spent = [hour.spent for hour in day.hours]
    assert spent[8] == 0.0
    assert all(spent[hour] == spent[hour - 1] for hour in (12, 13, 16, 17, 18, 19, 21, 22, 23))
    assert day.worst() <= WITHIN
    assert abs(day.used - 1.0) <= WITHIN


def test_a_shop_whose_traffic_stops_for_two_hours_ends_within_its_budget() -> None:
    """REES46: what the dead hours can pay is spent in time, and the wave of 200 times the traffic brings no excess."""
    start_ms, requests = events_of_a_shop()
    plan = flight_plan(Schedule(start_ms, start_ms + 170 * MINUTE_MS), Pacing.EVEN)
    traffic = Traffic(start_ms, requests * 20)
    slow = told("what the quiet can pay", 9, play(plan, budget_of(traffic.requests, 0.01), traffic, 9))
    assert max(hour.off for hour in slow.hours) <= WITHIN
    assert abs(slow.used - 1.0) <= WITHIN
    more = told("ten times that", 9, play(plan, budget_of(traffic.requests, 0.1), traffic, 9))
    assert abs(more.used - 1.0) <= WITHIN
    assert all(hour.spent <= hour.due + WITHIN for hour in more.hours)


def test_as_soon_as_possible_spends_with_the_first_requests() -> None:
    start_ms, _, requests = day_of_log("an access log")
    plan = flight_plan(Schedule(start_ms, start_ms + DAY_MS), Pacing.ASAP)
    day = play(plan, budget_of(requests, 0.02), Traffic(start_ms, requests), 10)
    assert day.used == 1.0
    assert day.hours[0].spent == 1.0


def test_a_line_paid_by_click_is_paced_by_what_will_be_settled() -> None:
    """Each decision reserves a click; one in five comes, within a minute; the others are released after ten."""
    start_ms, before, requests = day_of_log("ad clicks")
    plan, budget = plan_of(start_ms, before, Pacing.LEARNT), budget_of(requests, 0.05)
    settled = _by_click(plan, budget, requests, start_ms)
    due = [plan.share(start_ms + hour * HOUR_MS) for hour in range(1, 25)]
    off = max(abs(one - two) for one, two in zip(settled[1:], due[1:], strict=True))
    print(f"by click, seed 11: settled {settled[-1]:.3%}, worst hour {off:.3%} off the plan")
    assert off <= WITHIN
    assert 1.0 - WITHIN <= settled[-1] <= 1.0


def _by_click(plan: Plan, budget: int, requests: Counts, start_ms: int) -> list[float]:
    """Return the settled share of the budget at the end of each hour."""
    rng = np.random.default_rng(11)
    arrivals = rng.poisson(np.repeat(requests / MINUTE_STEPS, MINUTE_STEPS)).tolist()
    clicks: deque[int] = deque([0] * MINUTE_STEPS)
    losses: deque[int] = deque([0] * (10 * MINUTE_STEPS))
    settled = released = opened = offered = 0
    pace, chance, hours = Pace(), 0.0, []
    for step, came in enumerate(arrivals):
        taken = int(rng.binomial(came, chance)) if came and chance else 0
        taken = min(taken, (budget - settled - opened) // COST)
        offered += came * COST
        clicks.append(int(rng.binomial(taken, 0.2)))
        losses.append(taken - clicks[-1])
        settled_now, released_now = clicks.popleft() * COST, losses.popleft() * COST
        settled, released = settled + settled_now, released + released_now
        opened += taken * COST - settled_now - released_now
        spent = expected_spend(settled, opened, released, 50 * COST)
        now_ms = start_ms + (step + 1) * STEP_MS
        chance, pace = control(plan, budget, Now(now_ms, spent, offered, COST), pace)
        if (step + 1) % (60 * MINUTE_STEPS) == 0:
            hours.append(settled / budget)
    return hours

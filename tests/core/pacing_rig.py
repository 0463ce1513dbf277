"""A day of decisions under a pace: two processes that see what was published a while ago, and one ledger."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.core.pacing import Now, Paced, PaceRules, control
from pipeline.core.pacing_plan import Plan, learn_requests
from schemas.pacing import HourCurve, Pace
from tests.core.plan_rig import HOUR_MS, MINUTE_MS, Counts

COST = 2_000
STEP_MS = 2_000
MINUTE_STEPS = MINUTE_MS // STEP_MS


class Hour(NamedTuple):
    """What stood at the end of an hour of the flight. due, spent: shares of the budget."""

    time_ms: int
    due: float
    spent: float

    @property
    def off(self) -> float:
        return abs(self.spent - self.due)


@dataclass
class Day:
    """What came of a day. hours: as often as one ended. refused: by the ledger, the budget being used up."""

    budget_micros: int
    spent_micros: int = 0
    offered: int = 0
    refused: int = 0
    hours: list[Hour] = field(default_factory=list)

    @property
    def used(self) -> float:
        return self.spent_micros / self.budget_micros

    def worst(self, leave_out: frozenset[int] = frozenset()) -> float:
        """The largest distance from the plan at the end of an hour after the first. leave_out: places of hours."""
        return max(hour.off for place, hour in enumerate(self.hours) if place and place not in leave_out)


@dataclass
class Traffic:
    """requests: expected by minute. win: share of decisions that the line wins when it takes part. lag_steps: how old
    what a process sees may be, in steps of 2 s. from_minute: the system stands still before.
    """

    start_ms: int
    requests: Counts
    win: float = 1.0
    lag_steps: tuple[int, int] = (1, 2)
    from_minute: int = 0


def paced(plan: Plan, budget: int, rules: PaceRules | None = None) -> Callable[[Now, Pace], Paced]:
    return lambda now, pace: control(plan, budget, now, pace, rules or PaceRules())


def play(
    plan: Plan, budget: int, traffic: Traffic, seed: int, chance: Callable[[Now, Pace], Paced] | None = None
) -> Day:
    """Two processes draw with the probability that was published last that they know of; the ledger grants."""
    chance = chance or paced(plan, budget)
    rng, arrivals, lags = _drawn(traffic, seed)
    day, pace = Day(budget), Pace()
    published: deque[float] = deque([0.0] * (traffic.lag_steps[1] + 1), maxlen=traffic.lag_steps[1] + 1)
    for step in range(traffic.from_minute * MINUTE_STEPS, len(arrivals[0])):
        time_ms = traffic.start_ms + step * STEP_MS
        if plan.open_until(time_ms):
            for process in (0, 1):
                came = arrivals[process][step]
                day.offered += came
                _take_part(day, came, published[-1 - lags[process][step]] * traffic.win, rng)
        told, pace = chance(Now(time_ms + STEP_MS, day.spent_micros, day.offered * COST, COST), pace)
        published.append(told)
        if (time_ms + STEP_MS - traffic.start_ms) % HOUR_MS == 0:
            due = _due(plan, pace, budget, time_ms + STEP_MS)
            day.hours.append(Hour(time_ms + STEP_MS, due, day.spent_micros / budget))
    return day


def play_apart(plan: Plan, budget: int, traffic: Traffic, seed: int, second_from: int, share: float) -> Day:
    """Two processes, each with a memory of its own: they see what both have spent, late, but only their own offers.

    second_from: minute at which the second one starts. share: of the traffic that the first one gets from then on.
    """
    rng, arrivals, lags = _drawn(traffic, seed)
    day, paces, chances, offered = Day(budget), [Pace(), Pace()], [0.0, 0.0], [0, 0]
    spent: deque[int] = deque([0] * (traffic.lag_steps[1] + 1), maxlen=traffic.lag_steps[1] + 1)
    for step in range(len(arrivals[0])):
        time_ms = traffic.start_ms + step * STEP_MS
        both = arrivals[0][step] + arrivals[1][step]
        first = both if step < second_from * MINUTE_STEPS else int(rng.binomial(both, share))
        for process, came in ((0, first), (1, both - first)):
            offered[process] += came * COST
            day.offered += came
            _take_part(day, came, chances[process] * traffic.win, rng)
        spent.append(day.spent_micros)
        for process in (0, 1) if step >= second_from * MINUTE_STEPS else (0,):
            now = Now(time_ms + STEP_MS, spent[-1 - lags[process][step]], offered[process], COST)
            chances[process], paces[process] = control(plan, budget, now, paces[process])
        if (time_ms + STEP_MS - traffic.start_ms) % HOUR_MS == 0:
            due = _due(plan, paces[0], budget, time_ms + STEP_MS)
            day.hours.append(Hour(time_ms + STEP_MS, due, day.spent_micros / budget))
    return day


def _drawn(traffic: Traffic, seed: int) -> tuple[np.random.Generator, list[list[int]], list[list[int]]]:
    """Return the source of chance, requests by process and step, and how many steps late each hears then."""
    rng = np.random.default_rng(seed)
    by_step = np.repeat(traffic.requests / MINUTE_STEPS, MINUTE_STEPS)
    arrivals = rng.poisson(by_step / 2.0, (2, len(by_step))).tolist()
    lags = rng.integers(traffic.lag_steps[0], traffic.lag_steps[1] + 1, (2, len(arrivals[0]))).tolist()
    return rng, arrivals, lags


def _due(plan: Plan, pace: Pace, budget: int, time_ms: int) -> float:
    """The plan of what was left where the pace began, written down anew."""
    if pace.from_share == 1.0:
        return 1.0
    began = pace.from_micros / budget
    return began + (1.0 - began) * (plan.share(time_ms) - pace.from_share) / (1.0 - pace.from_share)


def _take_part(day: Day, came: int, chance: float, rng: np.random.Generator) -> None:
    taken = int(rng.binomial(came, chance)) if came and chance else 0
    granted = min(taken, (day.budget_micros - day.spent_micros) // COST)
    day.spent_micros += granted * COST
    day.refused += taken - granted


def learnt(start_ms: int, requests: Counts) -> HourCurve:
    """The curve after these minutes."""
    curve = HourCurve()
    for place, count in enumerate(requests.tolist()):
        learn_requests(curve, round(count), start_ms + place * MINUTE_MS, start_ms + (place + 1) * MINUTE_MS)
    return curve

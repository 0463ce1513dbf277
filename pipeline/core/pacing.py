"""Pacing: with which probability a line takes part in a decision now, so that its spend follows its plan.

Pure: (plan, budget, counters now, what was remembered) -> (probability, what to remember). Counters add up over
processes, so every process that sees the same published counters and memory comes to the same probability.

How: spend should reach what the plan wants in `horizon_ms`, and what comes in that time, if all of it took part, is
known from what came lately. Where the guess of traffic is off by a factor k the spend settles at most
horizon x (1 - 1/k) of plan away, without a sum of errors that could wind up; ahead of plan by a horizon, it stops.
With spend known late by L the loop is stable while k L < pi/2 horizons, i.e. traffic may jump by 20 within one horizon.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from msgspec.structs import replace

from pipeline.core.pacing_plan import Pacing, Plan
from schemas.pacing import Pace

WIN_MIN: Final = 1e-6
MANY: Final = 20.0
"""With so many chances within a horizon, catching up may take its time; with fewer each one counts."""


class Now(NamedTuple):
    """Counters of one budget, of all processes together, in micros.

    spent_micros: settled, and reserved and not yet released (see `expected_spend`). offered_micros: what the decisions
    in which the line was eligible would have cost, had it won each; only grows. cost_micros: of one such decision.
    """

    time_ms: int
    spent_micros: int
    offered_micros: int
    cost_micros: int


class Paced(NamedTuple):
    """probability: to take part in a decision, 0..1. pace: to remember and publish."""

    probability: float
    pace: Pace


@dataclass(frozen=True, slots=True)
class PaceRules:
    """horizon_ms: how far ahead it aims, and by how much of the plan it may be ahead; far above the feedback's delay.
    catch_up_ms: over how long a lag behind the plan is made up for: no burst after a dead hour. rate_ms: memory of the
    traffic. win_ms: memory of the share won. look_ms: how long traffic is watched before the first decision.
    """

    horizon_ms: int = 60_000
    horizon_ms_min: int = 5_000
    catch_up_ms: int = 300_000
    rate_ms: int = 15_000
    win_ms: int = 120_000
    look_ms: int = 1_000


DEFAULT: Final = PaceRules()


def control(plan: Plan, budget_micros: int, now: Now, pace: Pace, rules: PaceRules = DEFAULT) -> Paced:
    """Return the probability to take part, and the new memory. Call it when counters come in, every 0.1-2 s.

    pace: what the last call returned; `Pace()` at first. Then, and where the plan or the budget was changed, the rest
    of the budget is spread over the rest of the plan: what was missed before is no debt to be paid at once. Where only
    a learnt curve has moved, the rest follows the new one from where the old one stood.
    """
    pace = observe(plan, budget_micros, now, pace, rules)
    chance = probability(plan, budget_micros, now, pace, rules)
    return Paced(chance, replace(pace, probability=chance))


def observe(plan: Plan, budget_micros: int, now: Now, pace: Pace, rules: PaceRules = DEFAULT) -> Pace:
    """Return the memory with the counters taken in. A time or counter that goes back teaches nothing."""
    if pace.plan_id != plan.plan_id or pace.budget_micros != budget_micros or not pace.time_ms:
        pace = _begun(plan, budget_micros, now, pace, max(0, now.spent_micros))
    elif pace.shape_id != plan.shape_id:
        # The curve was learnt on: what is due goes on from where it was, or the line would stand still, or burst.
        pace = _begun(plan, budget_micros, now, pace, round(pace.due_micros))
    if not pace.time_ms:
        return replace(pace, time_ms=now.time_ms, offered_micros=now.offered_micros, spent_micros=now.spent_micros)
    passed_ms = now.time_ms - pace.time_ms
    if passed_ms <= 0:
        return pace
    offered = max(0, now.offered_micros - pace.offered_micros)
    # The first moments are a plain mean: else an exponential one would start from 0 and let too much through.
    measured_ms = min(pace.measured_ms + passed_ms, 1_000 * rules.rate_ms)
    weight = max(-math.expm1(-passed_ms / rules.rate_ms), passed_ms / measured_ms)
    fade = math.exp(-passed_ms / rules.win_ms)
    won = max(0.0, pace.won * fade + now.spent_micros - pace.spent_micros)
    tried = pace.tried * fade + pace.probability * offered
    known = 5.0 * now.cost_micros + 1.0  # holds the last win where little was tried since
    win = max(WIN_MIN, (won + known * pace.win) / (tried + known))
    rate = pace.rate + weight * (offered / passed_ms - pace.rate)
    return replace(
        pace, time_ms=now.time_ms, offered_micros=now.offered_micros, spent_micros=now.spent_micros,
        rate=rate, measured_ms=measured_ms, win=win, won=won, tried=tried,
        due_micros=due_micros(plan, budget_micros, now.time_ms, pace),
    )  # fmt: skip


def _begun(plan: Plan, budget_micros: int, now: Now, pace: Pace, from_micros: int) -> Pace:
    """Return the memory with the plan followed from now on: from `from_micros`, over what is left of it."""
    return replace(
        pace, from_share=plan.share(now.time_ms), from_micros=from_micros, budget_micros=budget_micros,
        plan_id=plan.plan_id, shape_id=plan.shape_id, due_micros=float(from_micros),
    )  # fmt: skip


def probability(plan: Plan, budget_micros: int, now: Now, pace: Pace, rules: PaceRules = DEFAULT) -> float:
    """Return the probability to take part in a decision now, 0..1; the more is spent, the lower.

    0 where the line may not run now, and where the rest of the budget does not pay for one more decision.
    Cheap enough for each decision, with what the process itself has reserved since in now.spent_micros.
    """
    left, until_ms = budget_micros - now.spent_micros, plan.open_until(now.time_ms)
    if not until_ms or left <= 0 or left < now.cost_micros:
        return 0.0
    if plan.pacing is Pacing.ASAP:
        return 1.0
    if pace.measured_ms < rules.look_ms:
        return 0.0
    horizon_ms = max(min(rules.horizon_ms, until_ms - now.time_ms), rules.horizon_ms_min)
    due = due_micros(plan, budget_micros, now.time_ms, pace)
    coming = due_micros(plan, budget_micros, now.time_ms + horizon_ms, pace) - due
    cost = max(1, now.cost_micros)
    offered = max(pace.rate * horizon_ms * pace.win, cost)
    behind = due - now.spent_micros
    if behind > 0.0:
        behind *= horizon_ms / _catch_up_ms(horizon_ms, offered / cost, plan.closes_ms - now.time_ms, rules)
    return min(1.0, max(0.0, (coming + behind) / offered))


def _catch_up_ms(horizon_ms: int, chances: float, left_ms: int, rules: PaceRules) -> float:
    """Return over how long to catch up: slowly where there are many chances, and not beyond the end."""
    longest = min(rules.catch_up_ms, left_ms / 8.0)
    return max(horizon_ms, horizon_ms + (longest - horizon_ms) * min(1.0, chances / MANY))


def due_micros(plan: Plan, budget_micros: int, time_ms: int, pace: Pace) -> float:
    """Return what should be spent by a time: the plan for what was left of the budget when `pace` began."""
    rest = 1.0 - pace.from_share
    if rest <= 0.0:
        return float(budget_micros)
    done = max(0.0, plan.share(time_ms) - pace.from_share) / rest
    return pace.from_micros + (budget_micros - pace.from_micros) * done


def expected_spend(settled_micros: int, open_micros: int, released_micros: int, sure_micros: int) -> int:
    """Return what a budget will have spent once everything open is settled or released: to pace by, not to stop by.

    A line paid by click reserves a click at each decision and gets nearly all of them back: paced by reservations, it
    would stand still until they run out. settled_micros, released_micros: so far, of this budget. sure_micros: how much
    must be decided before the share that is settled is believed; until then what is open counts in full.
    The budget itself is kept by settled + open, which stays the ledger's business.
    """
    decided = settled_micros + released_micros
    share = (settled_micros + max(1, sure_micros)) / (decided + max(1, sure_micros))
    return settled_micros + math.ceil(open_micros * share)

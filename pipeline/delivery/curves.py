"""`GET /v1/learning/{placement}`: how a placement has learnt, from the warehouse's outcomes and decisions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.core.learning_curve import Cell, curves, drifts, regret
from pipeline.core.policy import PolicyRules
from pipeline.delivery.api import ArmCurve, ArmPoint, DriftAlarm, LearningAnswer, RegretOut
from pipeline.delivery.reports import Source, Span

ARMS_MAX: Final = 100
"""The most tried arms are shown; regret and drift look at all."""
BUCKETS: Final[Mapping[str, str]] = {
    "minute": "toStartOfMinute(decided)", "hour": "toStartOfHour(decided)", "day": "toStartOfDay(decided)",
}  # fmt: skip

_OUTCOMES: Final = """
SELECT toUnixTimestamp({bucket}) AS bucket, action_id, count(), sum(reward_micros) / 1e6, sum(1 / propensity),
  sum(reward_micros / propensity) / 1e6, sum(pow(reward_micros / propensity / 1e6, 2)), max(1 / propensity)
FROM outcomes FINAL
WHERE placement_id = %(placement)s AND is_bot = 0 AND toUnixTimestamp(impressed) > 0 AND propensity > 0
  AND decided >= fromUnixTimestamp64Milli(%(from_ms)s, 'UTC') AND decided < fromUnixTimestamp64Milli(%(to_ms)s, 'UTC')
GROUP BY bucket, action_id ORDER BY bucket, action_id
"""
_DECISIONS: Final = """
SELECT toUnixTimestamp({bucket}) AS bucket, action_id, avg(share)
FROM decisions FINAL ARRAY JOIN candidates AS action_id, propensities AS share
WHERE placement_id = %(placement)s
  AND decided >= fromUnixTimestamp64Milli(%(from_ms)s, 'UTC') AND decided < fromUnixTimestamp64Milli(%(to_ms)s, 'UTC')
GROUP BY bucket, action_id
"""


def read_cells(warehouse: Source, placement: str, span: Span) -> list[Cell]:
    """Return what each arm was given and earned, by interval, oldest first. Raises what the warehouse raises."""
    params = {"placement": placement, "from_ms": span.from_ms, "to_ms": span.to_ms}
    bucket = BUCKETS[span.interval]
    shares: dict[tuple[Any, Any], Any] = {
        (time_s, arm): share for time_s, arm, share in warehouse.execute(_DECISIONS.format(bucket=bucket), params)
    }
    rows: Sequence[Any] = warehouse.execute(_OUTCOMES.format(bucket=bucket), params)
    return [
        Cell(time_s * 1_000, arm, trials, reward, weights, weighted, squares, most, shares.get((time_s, arm), math.nan))
        for time_s, arm, trials, reward, weights, weighted, squares, most in rows
    ]


def learning(placement: str, span: Span, cells: Sequence[Cell], rules: PolicyRules) -> LearningAnswer:
    """Return how a placement has learnt. cells: as `read_cells` gives them; rules: of its policy."""
    points = curves(cells, rules.prior_mean, rules.prior_trials)
    shown = sorted(points, key=lambda arm: -sum(point.trials for point in points[arm]))[:ARMS_MAX]
    lost = regret(cells)
    return LearningAnswer(
        placement=placement,
        from_ms=span.from_ms,
        to_ms=span.to_ms,
        interval=span.interval,
        arms=[
            ArmCurve(
                id=arm,
                points=[
                    ArmPoint(**{**point._asdict(), "probability": _known(point.probability)}) for point in points[arm]
                ],
            )
            for arm in shown
        ],
        regret=None
        if lost is None
        else RegretOut(
            best=lost.best,
            best_value=lost.value,
            best_low=lost.interval.low,
            best_high=lost.interval.high,
            earned=lost.earned,
            decisions=lost.decisions,
            each=lost.each,
        ),
        drifts=[DriftAlarm(**found._asdict()) for found in drifts(cells)],
        truncated=len(points) > ARMS_MAX,
    )


def _known(share: float) -> float | None:
    return None if math.isnan(share) else share

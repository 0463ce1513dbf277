"""`GET /v1/learning/{placement}`: how a placement has learnt, from the warehouse's outcomes and decisions."""

import math
from collections.abc import Sequence
from typing import Final

from pipeline.core.learning_curve import Cell, Point, curves, drifts, regret
from pipeline.core.policy import Policy
from pipeline.delivery.api import ArmCurve, ArmPoint, DriftAlarm, LearningAnswer, RegretOut
from pipeline.delivery.reports import Span
from pipeline.edge.rewards import read_cells

__all__ = ["learning", "read_cells"]

ARMS_MAX: Final = 100
"""The most tried arms are shown; regret and drift look at all."""


def learning(
    placement: str, span: Span, cells: Sequence[Cell], policy: Policy, worth_micros: int = 0
) -> LearningAnswer:
    """Return how a placement has learnt.

    cells: as `read_cells` gives them. policy: as it is now; the prior in the curves is what it expects of each arm.
    worth_micros: what a reward of 1 is worth there.
    """
    by_arm: dict[str, list[Cell]] = {}
    for cell in cells:
        by_arm.setdefault(cell.arm, []).append(cell)
    shown = sorted(by_arm, key=lambda arm: -sum(cell.trials for cell in by_arm[arm]))[:ARMS_MAX]
    points: dict[str, list[Point]] = {}
    for arm in shown:
        points |= curves(by_arm[arm], policy.priors.of(arm), policy.rules.prior_trials)
    lost = regret(cells)
    return LearningAnswer(
        placement=placement,
        from_ms=span.from_ms,
        to_ms=span.to_ms,
        interval=span.interval,
        worth_micros=worth_micros,
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
        truncated=len(by_arm) > ARMS_MAX,
    )


def _known(share: float) -> float | None:
    return None if math.isnan(share) else share

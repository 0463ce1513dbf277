"""Learning that can be seen: what each arm was given and earned over time, regret against the best arm, and drift.

Everything is computed from sums by interval and arm, so the warehouse does the counting. Rewards are shares (0..1),
weights are 1 / propensity: by them an arm that was hardly shown is judged as if it had always been.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import scipy.special

from pipeline.core.evaluate.intervals import Interval, fay_feuer

TRIALS_MIN: Final = 10
"""An arm with fewer trials is never called the best: its estimate says nothing."""
ALARM_P: Final = 0.01


class Cell(NamedTuple):
    """One arm in one interval. trials: shown, machines left out. probability: mean over all decisions it was part of.

    reward: sum. weights, weighted, weighted_squares, weight_max: of 1 / propensity; of reward / propensity and squares.
    """

    time_ms: int
    arm: str
    trials: int
    reward: float
    weights: float
    weighted: float
    weighted_squares: float
    weight_max: float
    probability: float = math.nan


class Point(NamedTuple):
    """An arm at the end of an interval. mean, low, high: of all so far, with the prior; probability: NaN = unknown."""

    time_ms: int
    trials: int
    reward: float
    probability: float
    mean: float
    low: float
    high: float


class Regret(NamedTuple):
    """What always showing the best arm would have earned more, in rewards a decision. earned: what was earned.

    best: that arm; value: what it would have earned (self-normalised), with its 95 % interval.
    """

    best: str
    value: float
    interval: Interval
    earned: float
    decisions: int

    @property
    def each(self) -> float:
        """Regret of one decision; below 0 where the policy did better than any fixed arm."""
        return self.value - self.earned


class Drift(NamedTuple):
    """An arm whose rewards have changed. time_ms: the first interval of the new rate. p: after correction."""

    arm: str
    time_ms: int
    before: float
    after: float
    p: float


def curves(cells: Iterable[Cell], prior_mean: float, prior_trials: float) -> dict[str, list[Point]]:
    """Return each arm's points, oldest first.

    cells: in order of time. prior_mean, prior_trials: as the policy has them; the interval is the Beta posterior's.
    """
    found: dict[str, list[Point]] = {}
    sums: dict[str, tuple[int, float]] = {}
    for cell in cells:
        trials, reward = sums.get(cell.arm, (0, 0.0))
        trials, reward = trials + cell.trials, reward + cell.reward
        sums[cell.arm] = trials, reward
        alpha = max(prior_mean * prior_trials + reward, 1e-9)
        beta = max((1.0 - prior_mean) * prior_trials + trials - reward, 1e-9)
        low, high = (float(scipy.special.betaincinv(alpha, beta, tail)) for tail in (0.025, 0.975))
        point = Point(cell.time_ms, cell.trials, cell.reward, cell.probability, alpha / (alpha + beta), low, high)
        found.setdefault(cell.arm, []).append(point)
    return found


def regret(cells: Sequence[Cell]) -> Regret | None:
    """Return the regret against the arm that would have earned most; None where no arm has TRIALS_MIN trials.

    An arm's value is self-normalised (Swaminathan & Joachims 2015); its interval is Fay and Feuer's, see `evaluate`.
    """
    trials = sum(cell.trials for cell in cells)
    values = {arm: _value(found) for arm, found in _by_arm(cells).items() if sum(c.trials for c in found) >= TRIALS_MIN}
    if not values:
        return None
    best = max(values, key=lambda arm: (values[arm][0], arm))
    return Regret(best, *values[best], sum(cell.reward for cell in cells) / trials, trials)


def _value(cells: Sequence[Cell]) -> tuple[float, Interval]:
    weights, weighted = sum(cell.weights for cell in cells), sum(cell.weighted for cell in cells)
    squares = sum(cell.weighted_squares for cell in cells)
    largest = max(cell.weight_max for cell in cells)
    return weighted / weights, fay_feuer(weighted, squares, largest, round(weights))


def drifts(cells: Sequence[Cell]) -> list[Drift]:
    """Return the arms whose rate of reward has changed, the surest first.

    For each arm the split in time is sought whose two sides differ most (binary segmentation, Scott & Knott 1974), by
    the test of two proportions; p is corrected for all splits of all arms (Bonferroni), so that a false alarm in a
    stationary hour is rarer than ALARM_P.
    """
    by_arm = _by_arm(cells)
    splits = sum(max(0, len(found) - 1) for found in by_arm.values())
    candidates = [_split(arm, found) for arm, found in by_arm.items() if len(found) > 1]
    alarms = [found._replace(p=min(1.0, found.p * splits)) for found in candidates]
    return sorted((found for found in alarms if found.p < ALARM_P), key=lambda found: found.p)


def _split(arm: str, cells: Sequence[Cell]) -> Drift:
    """Return the split of an arm's time whose sides differ most. cells: two at least, in order of time."""
    trials, reward = sum(cell.trials for cell in cells), sum(cell.reward for cell in cells)
    rate = reward / trials if trials else 0.0
    best = Drift(arm, cells[0].time_ms, rate, rate, 1.0)
    seen, earned = 0, 0.0
    for last, cell in pairwise(cells):
        seen, earned = seen + last.trials, earned + last.reward
        left = trials - seen
        if seen < TRIALS_MIN or left < TRIALS_MIN:
            continue
        before, after = earned / seen, (reward - earned) / left
        deviation = math.sqrt(max(rate * (1.0 - rate), 1e-12) * (1.0 / seen + 1.0 / left))
        p = math.erfc(abs(before - after) / deviation / math.sqrt(2.0))
        if p < best.p:
            best = Drift(arm, cell.time_ms, before, after, p)
    return best


def _by_arm(cells: Iterable[Cell]) -> Mapping[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.trials:
            found.setdefault(cell.arm, []).append(cell)
    return found

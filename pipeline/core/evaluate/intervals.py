"""Intervals for means of weighted rewards, from sums alone. Both ends are of the mean, not of the sum."""

import math
from typing import Final, NamedTuple

import scipy.special

CONFIDENCE: Final = 0.95


class Interval(NamedTuple):
    """Where a mean lies with the stated confidence, in the unit of the rewards."""

    low: float
    high: float

    def covers(self, value: float) -> bool:
        """Say whether a value lies within, ends included."""
        return self.low <= value <= self.high


def fay_feuer(total: float, squares: float, weight_max: float, count: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the gamma interval for the mean of non-negative weighted rewards.

    total: sum of weight x reward. squares: sum of their squares. weight_max: the largest that a reward not yet seen may
    count for. count: decisions, rewarded or not.
    Where rewards are rare the usual intervals, normal or bootstrap, are far too narrow; this one held its confidence on
    every simulated log. With weights of 1 it is the exact (Garwood) interval of a Poisson count.
    Source: Fay & Feuer, "Confidence intervals for directly standardized rates", Statistics in Medicine 16 (1997).
    """
    if count <= 0:
        return Interval(0.0, math.inf)
    tail = (1.0 - confidence) / 2.0
    low = high = 0.0
    if total > 0.0:
        low = squares / total * float(scipy.special.gammaincinv(total**2 / squares, tail))
    wider, more = squares + weight_max**2, total + weight_max
    if more > 0.0:
        high = wider / more * float(scipy.special.gammaincinv(more**2 / wider, 1.0 - tail))
    return Interval(low / count, high / count)


def empirical_bernstein(
    total: float, squares: float, value_max: float, count: int, confidence: float = CONFIDENCE
) -> Interval:
    """Return an interval for the mean of values in [0, value_max] that holds for any distribution and any count.

    total, squares: sums of the values and of their squares. value_max: a bound known beforehand, not the largest seen.
    It is wide: what it says is safe. Each end has half of the error.
    Source: Maurer & Pontil, "Empirical Bernstein Bounds and Sample Variance Penalization", COLT 2009, theorem 4.
    """
    if count < 2:
        return Interval(0.0, value_max)
    mean = total / count
    variance = max(0.0, (squares - total * mean) / (count - 1))
    log_term = math.log(2.0 / ((1.0 - confidence) / 2.0))
    reach = math.sqrt(2.0 * variance * log_term / count) + 7.0 * value_max * log_term / (3.0 * (count - 1))
    return Interval(max(0.0, mean - reach), min(value_max, mean + reach))


def effective(total: float, squares: float) -> float:
    """Return Kish's effective number of equal terms: (sum)^2 / sum of squares; 0 where there are none.

    total: sum of the terms. squares: sum of their squares. Source: Kish, "Survey Sampling" (1965).
    """
    return total**2 / squares if squares > 0.0 else 0.0

"""One variant against the control in one metric: difference and ratio of means, with intervals that hold at every look.

The ratio's interval is Fieller's: all r for which the sequence does not tell mean - r x control's mean from 0. So the
lift leaves 0 % out exactly where the difference leaves 0 out, which intervals of a logarithm do not.
Source: Fieller, "Some problems in interval estimation", JRSS B 16 (1954), with the sequence's factor for Student's t.
"""

import math
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.evaluate.intervals import Interval
from pipeline.core.experiment.analysis.sequence import ALPHA, Floats, Mixture

UNUSUAL_MIN: Final = 10.0
"""Visitors with another value than most have, to be expected in the smaller arm if arms are equal: with fewer, the
sequence's normal limit is not near. Of both arms together, so that what is looked at does not depend on its outcome."""
UNKNOWN: Final = Interval(-math.inf, math.inf)


class Verdict(StrEnum):
    """What can be said of a comparison. A closed list."""

    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "unclear"
    TOO_FEW = "too_few"


class Arm(NamedTuple):
    """visitors: how many. mean: of the metric. of_mean: the variance of that mean. unusual: visitors whose value is
    not the one that most have.
    """

    visitors: int
    mean: float
    of_mean: float
    unusual: int


class Difference(NamedTuple):
    """difference: in the metric's unit. lift: as a share of the control's mean; NaN where that is 0. Intervals hold
    with 95 % at all looks together, each by itself. p: valid at any time, not corrected.
    """

    difference: float
    interval: Interval
    lift: float
    lift_interval: Interval
    p: float
    is_enough: bool


def arm(values: Floats, unusual: int) -> Arm:
    """Return what an arm's values say. values: one for each visitor, 2 at least. unusual: see Arm."""
    return Arm(len(values), float(values.mean()), float(values.var(ddof=1)) / len(values), unusual)


def is_unusual(values: Floats) -> NDArray[np.bool_]:
    """Say of each value whether it is another than the one that most have. values: one at least."""
    found, counts = np.unique(values, return_counts=True)
    unusual: NDArray[np.bool_] = values != found[np.argmax(counts)]
    return unusual


def compare(treated: Arm, control: Arm, mixture: Mixture, in_common: float = 0.0, alpha: float = ALPHA) -> Difference:
    """Return the difference of two arms. in_common: variance that both means share (CUPED's `of_mean`)."""
    visitors = treated.visitors + control.visitors
    factor = float(mixture.factor(visitors, alpha))
    difference = treated.mean - control.mean
    error = math.sqrt(treated.of_mean + control.of_mean)
    lift = difference / abs(control.mean) if control.mean else math.nan
    if not _is_enough(treated, control):
        return Difference(difference, UNKNOWN, lift, UNKNOWN, 1.0, False)
    interval = Interval(difference - factor * error, difference + factor * error)
    p = float(mixture.p_value(difference / error, visitors))
    return Difference(difference, interval, lift, _lift_interval(treated, control, factor, in_common), p, True)


def _is_enough(treated: Arm, control: Arm) -> bool:
    smaller = min(treated.visitors, control.visitors) / (treated.visitors + control.visitors)
    is_spread = min(treated.of_mean, control.of_mean) > 0.0
    return is_spread and (treated.unusual + control.unusual) * smaller >= UNUSUAL_MIN


def _lift_interval(treated: Arm, control: Arm, factor: float, in_common: float) -> Interval:
    """Return Fieller's interval of the ratio of means, less 1; without ends where the control's mean may be 0."""
    square = factor**2
    a = control.mean**2 - square * (control.of_mean + in_common)
    b = treated.mean * control.mean - square * in_common
    c = treated.mean**2 - square * (treated.of_mean + in_common)
    inside = b * b - a * c
    if a <= 0.0 or inside < 0.0 or control.mean <= 0.0:
        return UNKNOWN
    root = math.sqrt(inside)
    return Interval((b - root) / a - 1.0, (b + root) / a - 1.0)

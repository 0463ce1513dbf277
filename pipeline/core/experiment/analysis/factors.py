"""The effect of each factor of a multivariate test on each goal, over the levels of the others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from pipeline.core.evaluate.intervals import Interval
from pipeline.core.experiment.analysis.correction import holm
from pipeline.core.experiment.analysis.effect import UNKNOWN, UNUSUAL_MIN, is_unusual
from pipeline.core.experiment.analysis.regression import Fit, Level, design, linear, logistic
from pipeline.core.experiment.analysis.sequence import Floats, Mixture
from pipeline.core.experiment.analysis.tally import Sample
from schemas.experiment import Experiment


@dataclass(frozen=True)
class FactorEffect:
    """A level against the control's level of that factor. difference: by linear regression, in the metric's unit. odds:
    for rates, by logistic regression, the factor that the odds are multiplied with; None where they have no end.
    Intervals hold with 95 % at all looks together, each by itself. p: of the difference, at any time; p_adjusted: for
    all of the table (Holm). is_enough: else intervals have no ends.
    """

    metric: str
    level: Level
    difference: float
    interval: Interval
    p: float
    p_adjusted: float
    odds: float | None = None
    odds_interval: Interval | None = None
    is_enough: bool = True


@dataclass(frozen=True)
class Interaction:
    """Two levels together, beyond what each of them does by itself: difference in the metric's unit, by linear
    regression on levels and pairs. p, p_adjusted: as of FactorEffect, among all pairs.
    """

    metric: str
    first: Level
    second: Level
    difference: float
    p: float
    p_adjusted: float


def interactions(
    experiment: Experiment, sample: Sample, values: Sequence[Floats], mixture: Mixture
) -> tuple[Interaction, ...]:
    """Return what pairs of levels do beyond their sum; none where not every pair was tried. Arguments: as below.

    Where one of them is shown, the factors do not simply add up, and the variants are to be read instead.
    """
    control = next(one for one in experiment.variants if one.name == experiment.baseline)
    levels, rows = design([one.factors for one in experiment.variants], control.factors)
    pairs = [(one, two) for one, two in combinations(range(len(levels)), 2) if levels[one].factor != levels[two].factor]
    if not pairs:
        return ()
    products = np.column_stack([rows[:, 1 + one] * rows[:, 1 + two] for one, two in pairs])
    columns, shares = np.column_stack((rows, products))[sample.variant], products[sample.variant].mean(axis=0)
    made = []
    for goal, compared, raw in zip(experiment.goals, values, sample.metrics, strict=True):
        unusual = int(np.count_nonzero(is_unusual(raw)))
        fit = linear(columns, compared)
        if fit is None:
            continue
        for place, (one, two) in enumerate(pairs):
            value, error = float(fit.coefficients[1 + len(levels) + place]), float(fit.errors[1 + len(levels) + place])
            is_enough = unusual * shares[place] >= UNUSUAL_MIN and error > 0.0
            p = float(mixture.p_value(value / error, len(raw))) if is_enough else 1.0
            made.append(Interaction(goal.metric, levels[one], levels[two], value, p, 1.0))
    adjusted = holm([one.p for one in made])
    return tuple(replace(one, p_adjusted=p) for one, p in zip(made, adjusted, strict=True))


def factor_effects(
    experiment: Experiment, sample: Sample, values: Sequence[Floats], mixture: Mixture
) -> tuple[FactorEffect, ...]:
    """Return every factor's effect on every goal; none where the variants are not made of factors.

    values: of each goal, as they are compared (cut, adjusted). The odds are of the rates as they came.
    """
    control = next(one for one in experiment.variants if one.name == experiment.baseline)
    if not control.factors:
        return ()
    levels, rows = design([one.factors for one in experiment.variants], control.factors)
    columns = rows[sample.variant]
    made: list[FactorEffect] = []
    for goal, compared, raw in zip(experiment.goals, values, sample.metrics, strict=True):
        fit = linear(columns, compared)
        odds = logistic(columns, raw) if goal.kind == "rate" else None
        smaller = _smaller_shares(levels, columns)
        unusual = int(np.count_nonzero(is_unusual(raw)))
        are_enough = [unusual * share >= UNUSUAL_MIN for share in smaller]
        made += _effects(_Fits(goal.metric, len(raw), fit, odds), levels, are_enough, mixture) if fit else []
    adjusted = holm([one.p for one in made])
    return tuple(replace(one, p_adjusted=p) for one, p in zip(made, adjusted, strict=True))


class _Fits(NamedTuple):
    metric: str
    visitors: int
    linear: Fit
    logistic: Fit | None


def _effects(fits: _Fits, levels: list[Level], are_enough: list[bool], mixture: Mixture) -> list[FactorEffect]:
    factor = float(mixture.factor(fits.visitors))
    made = []
    for place, (level, is_enough) in enumerate(zip(levels, are_enough, strict=True), 1):
        value, error = float(fits.linear.coefficients[place]), float(fits.linear.errors[place])
        if not is_enough or error <= 0.0:
            made.append(FactorEffect(fits.metric, level, value, UNKNOWN, 1.0, 1.0, is_enough=False))
            continue
        p = float(mixture.p_value(value / error, fits.visitors))
        one = FactorEffect(fits.metric, level, value, Interval(value - factor * error, value + factor * error), p, 1.0)
        if fits.logistic:
            log_odds, reach = float(fits.logistic.coefficients[place]), factor * float(fits.logistic.errors[place])
            interval = Interval(math.exp(log_odds - reach), math.exp(log_odds + reach))
            one = replace(one, odds=math.exp(log_odds), odds_interval=interval)
        made.append(one)
    return made


def _smaller_shares(levels: list[Level], columns: Floats) -> list[float]:
    """Return for each level the share of the visitors that met it, or met what it is compared with, if fewer."""
    means = columns.mean(axis=0)[1:].tolist()
    beside = {
        factor: 1.0 - sum(mean for mean, one in zip(means, levels, strict=True) if one.factor == factor)
        for factor in {one.factor for one in levels}
    }
    return [min(mean, beside[one.factor]) for mean, one in zip(means, levels, strict=True)]

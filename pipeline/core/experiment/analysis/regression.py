"""What each factor of a multivariate test does by itself: a regression on all factors at once.

Linear: differences in the metric's unit, for any metric. Logistic: odds ratios, for rates; by iteratively reweighted
least squares. Standard errors are the sandwich's, so they hold where errors differ in spread (they do: a rate's
variance depends on the rate), and for the linear fit even where effects do not simply add up.
Sources: Huber (1967), White (1980); small samples: MacKinnon & White's HC1 (1985); IRLS: McCullagh & Nelder (1989).
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import scipy.special

from pipeline.core.experiment.analysis.sequence import Floats

STEPS_MAX: Final = 50
CHANGE_MAX: Final = 1e-10
LOG_ODDS_MAX: Final = 30.0
"""Beyond it a level never, or always, has the outcome: the odds have no end."""


class Fit(NamedTuple):
    """coefficients: of each column. errors: their standard errors."""

    coefficients: Floats
    errors: Floats


class Level(NamedTuple):
    """A factor's level, beside the level that it is compared with."""

    factor: str
    level: str
    beside: str


def design(factors: Sequence[Mapping[str, str]], reference: Mapping[str, str]) -> tuple[list[Level], Floats]:
    """Return the levels to be compared, and a row for each variant: 1, then a 0 or 1 for each of these levels.

    factors: each variant's, factor -> level. reference: the control's, with whose levels the others are compared.
    """
    levels = [
        Level(factor, level, usual)
        for factor, usual in reference.items()
        for level in dict.fromkeys(one[factor] for one in factors)
        if level != usual
    ]
    rows = [[1.0, *(float(one[level.factor] == level.level) for level in levels)] for one in factors]
    return levels, np.array(rows)


def linear(columns: Floats, values: Floats) -> Fit | None:
    """Return the least-squares fit; None where the columns cannot be told apart. columns: shape (visitors, columns)."""
    bread = _inverse(columns.T @ columns)
    if bread is None or len(values) <= columns.shape[1]:
        return None
    coefficients = bread @ (columns.T @ values)
    return Fit(coefficients, _sandwich(bread, columns, values - columns @ coefficients))


def logistic(columns: Floats, values: Floats) -> Fit | None:
    """Return the fit of log odds; None where the columns cannot be told apart or a level's odds have no end.

    columns: shape (visitors, columns), the first all 1. values: 0 or 1.
    """
    coefficients = np.zeros(columns.shape[1])
    share = float(values.mean())
    if not 0.0 < share < 1.0 or len(values) <= columns.shape[1]:
        return None
    coefficients[0] = np.log(share / (1.0 - share))
    for _ in range(STEPS_MAX):
        expected = scipy.special.expit(columns @ coefficients)
        bread = _inverse((columns * (expected * (1.0 - expected))[:, None]).T @ columns)
        if bread is None:
            return None
        step = bread @ (columns.T @ (values - expected))
        coefficients = coefficients + step
        if np.abs(coefficients).max() > LOG_ODDS_MAX:
            return None
        if np.abs(step).max() < CHANGE_MAX:
            return Fit(coefficients, _sandwich(bread, columns, values - expected))
    return None


def _sandwich(bread: Floats, columns: Floats, residuals: Floats) -> Floats:
    scores = columns * residuals[:, None]
    rows, width = columns.shape
    variance = bread @ (scores.T @ scores) @ bread * (rows / (rows - width))
    errors: Floats = np.sqrt(np.diag(variance))
    return errors


def _inverse(matrix: Floats) -> Floats | None:
    """Return the inverse; None where there is none that can be trusted."""
    if not np.isfinite(matrix).all() or np.linalg.cond(matrix) > 1e12:
        return None
    return np.linalg.inv(matrix).astype(np.float64)

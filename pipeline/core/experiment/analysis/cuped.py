"""CUPED: what was known of a visitor before he was exposed explains part of his metric; that part is taken away.

Y' = Y - (X - mean X) b, with b from a least-squares fit within the arms. X is from before, so its mean is the same in
all arms but for chance: the difference between arms keeps its meaning, and its variance falls by R^2.
A visitor of whom nothing was known has his own column that says so, and 0 in the others.
Source: Deng, Xu, Kohavi, Walker, "Improving the sensitivity of online controlled experiments by utilizing
pre-experiment data", WSDM 2013; several covariates as in Lin, Annals of Applied Statistics 7 (2013).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.experiment.analysis.sequence import Floats


class Adjusted(NamedTuple):
    """values: the metric, adjusted, its mean over all visitors kept. kept: share of the variance that is left.
    of_mean: variance of what all arms' means have in common, the mean of (X - mean X) b over all visitors.
    """

    values: Floats
    kept: float
    of_mean: float


def adjust(values: Floats, covariates: Sequence[Floats], variant: NDArray[np.int64]) -> Adjusted:
    """Return a metric with what the covariates explain taken away.

    values: one for each visitor. covariates: each of the same length, NaN = not known. variant: each visitor's, 0...
    Covariates that say nothing (constant, or copies of others) do no harm.
    """
    table = _columns(covariates, len(values))
    centred_y = _within(values, variant)
    before = float(centred_y @ centred_y)
    if not table.shape[1] or before <= 0.0:
        return Adjusted(values, 1.0, 0.0)
    centred = np.column_stack([_within(column, variant) for column in table.T])
    slopes = np.linalg.lstsq(centred, centred_y, rcond=1e-9)[0]
    explained = (table - table.mean(axis=0)) @ slopes
    left = centred_y - centred @ slopes
    return Adjusted(values - explained, float(left @ left) / before, float(explained.var()) / len(values))


def _columns(covariates: Sequence[Floats], rows: int) -> Floats:
    """Return a table of columns of spread 1, and one more for each covariate that is not always known."""
    columns: list[Floats] = []
    for covariate in covariates:
        known = np.isfinite(covariate)
        filled = np.where(known, covariate, 0.0)
        columns.append(filled)
        if not known.all():
            columns.append(known.astype(np.float64))
    spread = [(column, float(column.std())) for column in columns]
    kept = [column / width for column, width in spread if width > 0.0]
    return np.column_stack(kept) if kept else np.empty((rows, 0))


def _within(values: Floats, variant: NDArray[np.int64]) -> Floats:
    """Return values less their arm's mean."""
    counts = np.bincount(variant)
    means = np.bincount(variant, weights=values) / np.maximum(counts, 1)
    found: Floats = values - means[variant]
    return found

"""A bootstrap that reads its rows once: each row enters each resample a Poisson(1) number of times.

Only the resamples' sums are kept, so a log of any length takes the same memory. The draws are SplitMix64 of (seed, row
number, resample): the same rows and seed give the same sums, however the rows are cut into chunks.
Sources: Chamandy et al., "Estimating uncertainty for massive data streams" (2012) for the Poisson bootstrap; Steele,
Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 for SplitMix64.
"""

from typing import Final

import numpy as np
import scipy.special
from numpy.typing import NDArray

from pipeline.core.evaluate.intervals import CONFIDENCE, Interval

RESAMPLES: Final = 1_000
ROWS_AT_ONCE: Final = 1_024
_DRAWS_A_WORD: Final = 4
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


def _poisson_table() -> NDArray[np.uint8]:
    """Return a Poisson(1) count for each 16-bit draw: the inverse of the distribution function at the middles."""
    reached = scipy.special.pdtr(np.arange(12), 1.0)
    return np.searchsorted(reached, (np.arange(65_536) + 0.5) / 65_536).astype(np.uint8)


_TABLE: Final = _poisson_table()


def split_mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's output for each state, shape kept."""
    mixed = state + _GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))


class Bootstrap:
    """Sums of a table's columns in RESAMPLES resamples of its rows."""

    def __init__(self, columns: int, seed: int, resamples: int = RESAMPLES) -> None:
        """columns: how many. seed: names the draws. resamples: rounded up to a multiple of 4."""
        self._words = -(-resamples // _DRAWS_A_WORD)
        self._seed = split_mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
        self._rows = 0
        self.sums: NDArray[np.float64] = np.zeros((self._words * _DRAWS_A_WORD, columns))

    def add(self, values: NDArray[np.float64]) -> None:
        """Take rows in. values: shape (rows, columns)."""
        for start in range(0, len(values), ROWS_AT_ONCE):
            part = values[start : start + ROWS_AT_ONCE]
            self.sums += self._counts(len(part)).T @ part
            self._rows += len(part)

    def _counts(self, rows: int) -> NDArray[np.float64]:
        """Return how often each of the next rows is in each resample, shape (rows, resamples)."""
        first = self._rows * self._words
        places = np.arange(first, first + rows * self._words, dtype=np.uint64)
        draws = split_mix(self._seed + places * _GAMMA).astype("<u8").view("<u2")
        counts: NDArray[np.float64] = _TABLE[draws].reshape(rows, -1).astype(np.float64)
        return counts


def percentile(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """Return the interval between the outer percentiles of a bootstrap's values; those that are no number are left out.

    values: one for each resample. Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    found = values[np.isfinite(values)]
    if not len(found):
        return Interval(float("nan"), float("nan"))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(found, [tail, 1.0 - tail]).tolist()
    return Interval(low, high)


def deviation(values: NDArray[np.float64]) -> float:
    """Return the standard deviation of a bootstrap's values: a standard error. What is no number is left out."""
    found = values[np.isfinite(values)]
    return float(found.std()) if len(found) else 0.0

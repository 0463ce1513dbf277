"""Adds the rows of an experiment up by visitor: who met which variant, and what he did."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.experiment.analysis.sequence import Floats
from schemas.experiment import Experiment

_SEVERAL = -1


class Row(NamedTuple):
    """One exposure of a visitor, or all he did.

    variant: its number in the experiment. metrics: in the order of the goals. covariates, segments: in the order of
    the experiment's; NaN or "" = not known. exposed_ms: when he was shown the variant, ms since 1970 UTC; 0 = not said.
    """

    visitor: str
    variant: int
    metrics: Sequence[float]
    covariates: Sequence[float] = ()
    segments: Sequence[str] = ()
    exposed_ms: int = 0


@dataclass(frozen=True)
class Sample:
    """Visitors who met one variant each, in no order. All arrays have one value for each of them.

    variant: number of the variant. several: visitors left out, because they met more than one.
    """

    variant: NDArray[np.int64]
    metrics: tuple[Floats, ...]
    covariates: tuple[Floats, ...]
    segments: tuple[NDArray[np.str_], ...]
    several: int


class Tally:
    """Rows in, a sample out. Several rows of a visitor are added up; of a rate the largest counts; what was known of
    him beforehand, and his segments, are those of his first exposure.
    """

    def __init__(self, experiment: Experiment) -> None:
        """experiment: names the goals, covariates and segments that rows have."""
        self._rates = [goal.kind == "rate" for goal in experiment.goals]
        self._places: dict[str, int] = {}
        self._variant = array("q")
        self._first_ms = array("q")
        self._metrics = [array("d") for _ in experiment.goals]
        self._covariates = [array("d") for _ in experiment.covariates]
        self._segments: list[list[str]] = [[] for _ in experiment.segments]

    def __len__(self) -> int:
        """Visitors so far."""
        return len(self._places)

    def add(self, row: Row) -> None:
        """Take a row in."""
        at = self._places.setdefault(row.visitor, len(self._places))
        if at == len(self._variant):
            self._begin(row)
            return
        if self._variant[at] != row.variant:
            self._variant[at] = _SEVERAL
        for is_rate, column, value in zip(self._rates, self._metrics, row.metrics, strict=True):
            column[at] = max(column[at], value) if is_rate else column[at] + value
        if row.exposed_ms < self._first_ms[at]:
            self._first_ms[at] = row.exposed_ms
            for known, covariate in zip(self._covariates, row.covariates, strict=True):
                known[at] = covariate
            for column_of, segment in zip(self._segments, row.segments, strict=True):
                column_of[at] = segment

    def _begin(self, row: Row) -> None:
        self._variant.append(row.variant)
        self._first_ms.append(row.exposed_ms)
        for column, value in zip(self._metrics, row.metrics, strict=True):
            column.append(value)
        for known, covariate in zip(self._covariates, row.covariates, strict=True):
            known.append(covariate if math.isfinite(covariate) else math.nan)
        for column_of, segment in zip(self._segments, row.segments, strict=True):
            column_of.append(segment)

    def sample(self) -> Sample:
        """Return all visitors so far."""
        variant = np.array(self._variant, dtype=np.int64)
        one = variant != _SEVERAL
        return Sample(
            variant[one],
            tuple(np.array(column)[one] for column in self._metrics),
            tuple(np.array(column)[one] for column in self._covariates),
            tuple(np.array(column, dtype=np.str_)[one] for column in self._segments),
            int(np.count_nonzero(~one)),
        )

"""Simulated experiments for the tests of their analysis."""

import gzip
import os
from collections.abc import Iterable, Sequence
from csv import DictReader
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core.experiment.analysis.effect import Arm
from pipeline.core.experiment.analysis.tally import Sample
from schemas.experiment import Experiment

SEED = 20_261_122
DATA = Path(os.environ.get("HERALD_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
Floats = NDArray[np.float64]


def trial(names: str = "ab", **more: object) -> Experiment:
    """An experiment whose variants have these letters for names, the first being the control."""
    return Experiment.model_validate({"id": "x", "variants": [{"name": name} for name in names]} | more)


def sample(
    variant: Iterable[int], *metrics: Floats, covariates: Sequence[Floats] = (), segments: Sequence[Sequence[str]] = ()
) -> Sample:
    """Visitors who met one variant each."""
    return Sample(
        np.array(variant, dtype=np.int64),
        tuple(np.asarray(metric, dtype=np.float64) for metric in metrics),
        tuple(covariates),
        tuple(np.array(segment, dtype=np.str_) for segment in segments),
        0,
    )


def at_looks(values: Floats, is_in: NDArray[np.bool_], looks: NDArray[np.int64]) -> list[Arm]:
    """What an arm says after so many visitors of the experiment, at each look; as `effect.arm`, in one pass."""
    among = is_in.astype(np.float64)
    sums = [np.cumsum(part)[looks - 1] for part in (among, values * among, values**2 * among, (values != 0.0) * among)]
    arms = []
    for count, total, squares, unusual in zip(*sums, strict=True):
        mean = total / count
        arms.append(Arm(int(count), mean, (squares - count * mean**2) / (count - 1) / count, int(unusual)))
    return arms


def rows_of(*parts: str) -> list[dict[str, str]]:
    """A CSV file of real data; a test that needs what is not there is skipped."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path.name} is not in {DATA} (HERALD_TEST_DATA)")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(DictReader(stream))

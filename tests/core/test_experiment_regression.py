"""The effect of factors by regression: the closed forms, what a simulated factorial was made with, and the coverage."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.special

from pipeline.core.experiment.analysis.effect import UNKNOWN
from pipeline.core.experiment.analysis.regression import Level, design, linear, logistic
from pipeline.core.experiment.analysis.report import analyse
from schemas.experiment import Experiment
from tests.core.experiment_rig import SEED, Floats, sample

Z_95 = 1.96
FACTORS = {"text": ["buy", "order"], "colour": ["red", "blue", "green"]}
VARIANTS = [dict(zip(FACTORS, levels, strict=True)) for levels in product(*FACTORS.values())]
LEVELS = [Level("text", "order", "buy"), Level("colour", "blue", "red"), Level("colour", "green", "red")]
TRUTH = np.array([-2.0, 0.4, -0.3, 0.0])
RUNS, VISITORS = 300, 3_000


def page(**more: object) -> Experiment:
    return Experiment.model_validate({"id": "page", "factors": FACTORS} | more)


def test_a_design_compares_each_level_with_the_controls() -> None:
    levels, rows = design(VARIANTS, VARIANTS[0])
    assert levels == LEVELS
    assert rows.tolist() == [[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]


def coverage(is_rate: bool) -> Floats:
    """How often the 95 % interval of each coefficient covered what 300 simulated tests were made with."""
    rng = np.random.Generator(np.random.PCG64(SEED + is_rate))
    _, rows = design(VARIANTS, VARIANTS[0])
    covered = np.zeros(len(TRUTH))
    for _ in range(RUNS):
        columns = rows[rng.integers(0, len(VARIANTS), VISITORS)]
        expected = columns @ TRUTH
        if is_rate:
            fit = logistic(columns, (rng.random(VISITORS) < scipy.special.expit(expected)).astype(float))
        else:  # the noise of one level is three times the others'
            fit = linear(columns, expected + rng.normal(size=VISITORS) * (1.0 + 2.0 * columns[:, 3]))
        assert fit is not None
        covered += np.abs(fit.coefficients - TRUTH) <= Z_95 * fit.errors
    print(f"seed {SEED + is_rate}: {'logistic' if is_rate else 'linear'} covers {covered / RUNS}")
    return covered / RUNS


@pytest.mark.parametrize("is_rate", [False, True])
def test_the_intervals_of_a_simulated_factorial_cover_as_often_as_they_say(is_rate: bool) -> None:
    """300 runs: 95 % give or take 1.3 points of chance."""
    assert np.all(np.abs(coverage(is_rate) - 0.95) < 0.035)


def test_errors_that_took_all_spreads_for_equal_would_be_wrong() -> None:
    """The control of the sandwich: half of the visitors with ten times the spread, in the smaller group."""
    rng = np.random.Generator(np.random.PCG64(SEED + 2))
    is_in = np.arange(4_000) < 400
    columns = np.column_stack((np.ones(4_000), is_in))
    values = rng.normal(size=4_000) * np.where(is_in, 10.0, 1.0)
    fit = linear(columns, values)
    assert fit is not None
    within = [values[is_in], values[~is_in]]
    honest = math.sqrt(sum(float(part.var(ddof=1)) / len(part) for part in within))
    pooled = math.sqrt(float(values.var()) * (1.0 / 400 + 1.0 / 3_600))
    assert fit.coefficients[1] == pytest.approx(within[0].mean() - within[1].mean())
    assert fit.errors[1] == pytest.approx(honest, rel=0.01)
    assert pooled < 0.75 * honest


def test_one_factor_of_two_levels_is_the_odds_ratio_of_a_table() -> None:
    """By hand, 30 of 100 beside 10 of 100: ln (30 90 / 70 10), its error sqrt(1/30 + 1/70 + 1/10 + 1/90)."""
    values = np.array([1.0] * 10 + [0.0] * 90 + [1.0] * 30 + [0.0] * 70)
    columns = np.column_stack((np.ones(200), np.arange(200) >= 100))
    fit = logistic(columns, values)
    assert fit is not None
    assert fit.coefficients[1] == pytest.approx(math.log(30 * 90 / (70 * 10)), abs=1e-9)
    assert fit.errors[1] == pytest.approx(math.sqrt(1 / 30 + 1 / 70 + 1 / 10 + 1 / 90), rel=0.01)


def test_what_cannot_be_fitted_is_not() -> None:
    ones = np.ones((100, 1))
    twice = np.ones((100, 2))
    half = (np.arange(100) % 2).astype(float)
    assert linear(twice, half) is None
    assert logistic(twice, half) is None
    assert logistic(ones, np.zeros(100)) is None
    assert logistic(np.column_stack((np.ones(100), half)), half) is None  # the odds have no end
    assert linear(ones[:1], half[:1]) is None


def test_the_factors_of_a_multivariate_test_are_taken_apart() -> None:
    rng = np.random.Generator(np.random.PCG64(SEED + 3))
    print(f"seed {SEED + 3}")
    variant = rng.integers(0, 6, 60_000)
    _, rows = design(VARIANTS, VARIANTS[0])
    bought = (rng.random(60_000) < scipy.special.expit(rows[variant] @ TRUTH)).astype(float)
    rare = np.zeros(60_000)
    rare[:20] = 1.0
    goals = [{"metric": "bought", "kind": "rate"}, {"metric": "rare", "kind": "rate"}]
    found = analyse(sample(variant, bought, rare), page(goals=goals)).factors
    assert [one.level for one in found] == LEVELS * 2
    text, blue, green = found[:3]
    for one, truth in zip((text, blue, green), TRUTH[1:], strict=True):
        assert one.odds_interval is not None
        assert one.odds_interval.covers(math.exp(truth))
    assert (text.p_adjusted < 0.001, blue.p_adjusted < 0.001, green.p_adjusted < 0.05) == (True, True, False)
    assert text.difference > 0.03
    assert blue.difference < -0.02
    assert {(one.is_enough, one.interval, one.p_adjusted) for one in found[3:]} == {(False, UNKNOWN, 1.0)}


def test_variants_that_are_not_made_of_factors_have_none() -> None:
    plain = Experiment.model_validate({"id": "x", "variants": [{"name": "a"}, {"name": "b"}], "goals": ["y"]})
    values = np.arange(1_000.0) % 7
    assert analyse(sample(np.arange(1_000) % 2, values), plain).factors == ()

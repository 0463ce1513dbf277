"""Intervals that hold at every look: an A/A test looked at a hundred times keeps its 5 %, a real lift is found."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.experiment.analysis.effect import UNKNOWN, Arm, Verdict, arm, compare, is_unusual
from pipeline.core.experiment.analysis.report import analyse
from pipeline.core.experiment.analysis.sequence import Mixture, narrowest_at
from tests.core.experiment_rig import SEED, Floats, at_looks, sample, trial

VISITORS, LOOKS, RUNS = 20_000, 100, 400
AT = np.linspace(VISITORS / LOOKS, VISITORS, LOOKS).astype(np.int64)
Z_95 = 1.96


class Peeked(NamedTuple):
    """Of all runs, how many ended at some look in: a difference by z-test; one by the sequence; an interval that left
    the truth out; a difference by the sequence at the last look.
    """

    z_test: int
    sequence: int
    truth_missed: int
    at_the_end: int


def peek(draw: Callable[[np.random.Generator], Floats], seed: int, share: float = 0.5, lift: float = 0.0) -> Peeked:
    """Look a hundred times at each of 400 experiments. draw: the visitors' values without the treatment, which scales
    those of the treated so that their mean is 1 + lift of it. share: of the treated.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    mixture = narrowest_at(VISITORS // 2)
    counts = np.zeros(4, dtype=int)
    for _ in range(RUNS):
        treated, values = rng.random(VISITORS) < share, draw(rng)
        values = np.where(treated & (rng.random(VISITORS) < lift), values + draw(rng), values)
        arms = zip(at_looks(values, treated, AT), at_looks(values, ~treated, AT), strict=True)
        truth = lift * TRUE_MEANS[draw]
        looks = np.array([seen(one, other, mixture, truth) for one, other in arms])
        counts += [*looks.any(axis=0), looks[-1, 1]]
    return Peeked(*counts.tolist())


def seen(treated: Arm, control: Arm, mixture: Mixture, truth: float) -> tuple[bool, bool, bool]:
    """One look: whether z-test and sequence see a difference, and whether the sequence leaves the truth out."""
    found = compare(treated, control, mixture)
    error = math.sqrt(treated.of_mean + control.of_mean)
    return abs(found.difference) > Z_95 * error, not found.interval.covers(0.0), not found.interval.covers(truth)


def clicks(rng: np.random.Generator) -> Floats:
    return (rng.random(VISITORS) < 0.05).astype(np.float64)


def spend(rng: np.random.Generator) -> Floats:
    return (rng.random(VISITORS) < 0.03) * rng.lognormal(3.0, 1.0, VISITORS)


TRUE_MEANS = {clicks: 0.05, spend: 0.03 * math.exp(3.5)}


@pytest.mark.parametrize(("draw", "share"), [(clicks, 0.5), (spend, 0.5), (clicks, 0.1)])
def test_a_test_of_equals_keeps_its_5_percent_however_often_one_looks(
    draw: Callable[[np.random.Generator], Floats], share: float
) -> None:
    """And a z-test at each look, the control, calls a third of them different."""
    found = peek(draw, SEED, share)
    print(f"seed {SEED}: {draw.__name__}, {share:.0%} treated: {found} of {RUNS} with {LOOKS} looks")
    assert found.sequence <= 0.05 * RUNS
    assert found.z_test >= 0.25 * RUNS


def test_a_lift_is_found_and_its_interval_covers_it_at_every_look() -> None:
    found = peek(clicks, SEED + 1, lift=0.4)
    print(f"seed {SEED + 1}: +40 %: {found} of {RUNS}")
    assert found.sequence >= 0.95 * RUNS
    assert found.truth_missed <= 0.05 * RUNS


# --- laws ------------------------------------------------------------------------------------------------------------

ERRORS = st.floats(0.001, 10.0)
MEANS = st.floats(-50.0, 50.0)
COUNTS = st.integers(100, 10**7)


@given(MEANS, ERRORS, MEANS, ERRORS, COUNTS, COUNTS)
def test_p_interval_and_lift_say_the_same(
    mean: float, error: float, other: float, other_error: float, visitors: int, planned: int
) -> None:
    """p below 5 %, a difference whose interval leaves 0 out, a lift whose interval leaves 0 % out: all or none."""
    control, treated = Arm(visitors, other, other_error**2, visitors), Arm(visitors, mean, error**2, visitors)
    found = compare(treated, control, narrowest_at(planned))
    if abs(found.p - 0.05) < 1e-6:
        return
    assert (found.p < 0.05) == (not found.interval.covers(0.0))
    if found.lift_interval != UNKNOWN:
        assert found.lift_interval.covers(0.0) == found.interval.covers(0.0)
        assert found.lift_interval.covers(found.lift)


@given(COUNTS, COUNTS)
def test_a_sequence_is_narrowest_where_it_was_told(visitors: int, other: int) -> None:
    assert narrowest_at(visitors).factor(visitors) <= narrowest_at(other).factor(visitors) * (1.0 + 1e-9)


@given(COUNTS, COUNTS)
def test_a_sequence_is_wider_than_an_interval_that_may_be_read_once(visitors: int, planned: int) -> None:
    assert 2.9 < narrowest_at(planned).factor(planned) < 3.1
    assert narrowest_at(planned).factor(visitors) > 2.9


def test_the_sequence_is_the_published_one() -> None:
    """By hand for r = 1/100, t = 100, a = .05: sqrt(2 (ln 2 / 2 - ln .05) 2) = 3.6558; e = exp(z^2 / 4) / sqrt 2."""
    assert float(Mixture(0.01).factor(100)) == pytest.approx(math.sqrt(2 * (math.log(2) + 2 * math.log(20))), abs=1e-12)
    assert float(Mixture(0.01).p_value(4.0, 100)) == pytest.approx(math.sqrt(2) / math.exp(4.0), rel=1e-9)
    assert float(Mixture(0.01).p_value(0.5, 100)) == 1.0


def test_a_constant_is_no_difference_and_a_handful_is_not_enough() -> None:
    mixture = narrowest_at(1_000)
    same = np.ones(500)
    assert not compare(arm(same, 0), arm(same, 0), mixture).is_enough
    few = np.zeros(500)
    few[:9] = 1.0
    count = int(is_unusual(few).sum())
    assert count == 9
    assert not compare(arm(few, count), arm(few, count), mixture).is_enough
    assert compare(arm(few, 10), arm(few, 10), mixture).is_enough
    assert compare(arm(few, 9), arm(few, 9), mixture).interval == UNKNOWN


def test_a_lift_on_a_control_that_may_be_nothing_has_no_end() -> None:
    found = compare(Arm(500, 5.0, 1.0, 500), Arm(500, 0.5, 1.0, 500), narrowest_at(1_000))
    assert found.lift == pytest.approx(9.0)
    assert found.lift_interval == UNKNOWN
    assert math.isnan(compare(Arm(500, 5.0, 1.0, 500), Arm(500, 0.0, 1.0, 500), narrowest_at(1_000)).lift)


def test_the_whole_analysis_keeps_its_5_percent_however_often_one_looks() -> None:
    """60 experiments of equals, three goals that go together, covariates, a heavy tail, 10 looks: any goal called
    different at any look counts.
    """
    rng = np.random.Generator(np.random.PCG64(SEED + 2))
    goals = [
        {"metric": "visit", "kind": "rate"},
        {"metric": "order", "kind": "rate"},
        {"metric": "spend", "kind": "money"},
    ]
    experiment = trial(goals=goals, covariates=["before"], expected_visitors=2_000)
    false = refused = 0
    for _ in range(60):
        before, variant = rng.exponential(size=4_000), rng.integers(0, 2, 4_000)
        visit = rng.random(4_000) < 0.1 + 0.2 * np.tanh(before)
        order = visit & (rng.random(4_000) < 0.3)
        columns = [visit.astype(float), order.astype(float), order * rng.lognormal(3.0, 1.5, 4_000)]
        looks = [
            analyse(sample(variant[:n], *(each[:n] for each in columns), covariates=[before[:n]]), experiment)
            for n in range(400, 4_001, 400)
        ]
        refused += any(look.refusals for look in looks)
        false += any(effect.verdict in (Verdict.BETTER, Verdict.WORSE) for look in looks for effect in look.effects)
    print(f"seed {SEED + 2}: called different {false}, refused at some look {refused} of 60")
    assert false <= 3
    assert refused <= 3

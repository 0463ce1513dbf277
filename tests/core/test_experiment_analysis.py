"""What is done to an experiment's numbers before they are compared, and whether they may be compared at all."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.experiment.analysis.checks import sample_ratio
from pipeline.core.experiment.analysis.correction import benjamini_hochberg, holm
from pipeline.core.experiment.analysis.cuped import adjust
from pipeline.core.experiment.analysis.effect import UNKNOWN, Verdict
from pipeline.core.experiment.analysis.report import Analysis, Effect, Reason, analyse
from pipeline.core.experiment.analysis.tails import winsorise
from pipeline.core.experiment.analysis.tally import Row, Tally
from tests.core.experiment_rig import SEED, Floats, sample, trial

VISITORS = 20_000


def rng_of(number: int) -> np.random.Generator:
    print(f"seed {SEED + number}")
    return np.random.Generator(np.random.PCG64(SEED + number))


def the(effects: Sequence[Effect], metric: str = "y", variant: str = "b") -> Effect:
    (found,) = [one for one in effects if (one.metric, one.variant) == (metric, variant)]
    return found


# --- CUPED -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_cuped_leaves_of_the_variance_what_theory_says(correlation: float) -> None:
    """1 - correlation^2; the difference stays what it is."""
    rng = rng_of(round(10 * correlation))
    before, noise = rng.normal(0.0, 2.0, VISITORS), rng.normal(0.0, 2.0, VISITORS)
    variant = rng.integers(0, 2, VISITORS)
    values = correlation * before + math.sqrt(1.0 - correlation**2) * noise + 0.3 * variant
    found = adjust(values, [before], variant)
    assert found.kept == pytest.approx(1.0 - correlation**2, abs=0.02)
    assert found.values.mean() == pytest.approx(values.mean())
    experiment = trial(goals=["y"], covariates=["before"])
    with_it = the(analyse(sample(variant, values, covariates=[before]), experiment).effects).found
    without = the(analyse(sample(variant, values), trial(goals=["y"])).effects).found
    width = (with_it.interval.high - with_it.interval.low) / (without.interval.high - without.interval.low)
    assert width == pytest.approx(math.sqrt(1.0 - correlation**2), abs=0.02)
    assert with_it.interval.covers(0.3)
    assert without.interval.covers(0.3)


def test_several_covariates_some_not_known_explain_together() -> None:
    """Half of the visitors are new: nothing is known of them, and they behave differently."""
    rng = rng_of(20)
    variant, is_new = rng.integers(0, 2, VISITORS), rng.random(VISITORS) < 0.5
    visits, spent = rng.normal(size=VISITORS), rng.normal(size=VISITORS)
    values = np.where(is_new, 5.0, visits + spent) + rng.normal(size=VISITORS)
    known = [np.where(is_new, np.nan, one) for one in (visits, spent)]
    assert adjust(values, known, variant).kept == pytest.approx(1.0 / (1.0 + 1.0 + 25.0 / 4.0), abs=0.01)


def test_covariates_that_say_nothing_do_no_harm() -> None:
    rng = rng_of(21)
    variant, values, known = rng.integers(0, 2, 1_000), rng.normal(size=1_000), rng.normal(size=1_000)
    nothing = [np.full(1_000, np.nan), np.full(1_000, 7.0), known, known, 2.0 * known]
    one, other = adjust(values, nothing, variant), adjust(values, [known], variant)
    assert one.values == pytest.approx(other.values)
    assert adjust(values, nothing[:2], variant).values is values
    constant = adjust(np.ones(1_000), [known], variant)
    assert (constant.kept, constant.values.tolist()) == (1.0, [1.0] * 1_000)


def test_cuped_keeps_an_experiment_of_equals_at_its_5_percent() -> None:
    """200 experiments, adjusted by what explains most of them."""
    rng = rng_of(22)
    false = 0
    for _ in range(200):
        before, variant = rng.exponential(size=1_000), rng.integers(0, 2, 1_000)
        values = before + rng.normal(0.0, 0.3, 1_000)
        effects = analyse(
            sample(variant, values, covariates=[before]), trial(goals=["y"], covariates=["before"])
        ).effects
        false += the(effects).verdict is not Verdict.UNCLEAR
    assert false <= 10


# --- tails -----------------------------------------------------------------------------------------------------------


def test_the_largest_amounts_count_as_the_quantile_of_those_above_0() -> None:
    values = np.array([0.0] * 900 + [float(n) for n in range(1, 101)])
    found = winsorise(values, 0.95)
    assert (found.limit, found.cut, float(found.values.max())) == (96.0, 4, 96.0)
    assert winsorise(values, 1.0).values is values
    assert winsorise(np.zeros(10), 0.95).limit is None


def test_one_order_of_a_wholesaler_does_not_decide() -> None:
    """The same two arms but for one amount: uncut it hides the difference, cut it does not."""
    rng = rng_of(30)
    variant = rng.integers(0, 2, VISITORS)
    spent = (rng.random(VISITORS) < 0.1 + 0.05 * variant) * rng.lognormal(3.0, 0.7, VISITORS)
    spent[np.flatnonzero(variant == 0)[0]] = 200_000.0
    goals = [{"metric": "y", "kind": "money"}]
    cut = analyse(sample(variant, spent), trial(goals=goals))
    uncut = analyse(sample(variant, spent), trial(goals=[{"metric": "y", "kind": "money", "cap_quantile": 1.0}]))
    assert the(cut.effects).verdict is Verdict.BETTER
    assert the(uncut.effects).verdict is Verdict.UNCLEAR
    assert cut.metrics[0].cut == pytest.approx(0.01 * np.count_nonzero(spent), abs=2)
    assert cut.metrics[0].means == pytest.approx([spent[variant == n].mean() for n in (0, 1)])


# --- many comparisons ------------------------------------------------------------------------------------------------

P_VALUES = st.lists(st.floats(0.0, 1.0), max_size=30)


def test_the_corrections_are_the_named_ones() -> None:
    """By hand."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])


@given(P_VALUES)
def test_benjamini_hochbergs_are_scipys(p_values: list[float]) -> None:
    if p_values:
        assert benjamini_hochberg(p_values) == pytest.approx(scipy.stats.false_discovery_control(p_values).tolist())
    else:
        assert benjamini_hochberg([]) == holm([]) == []


@given(P_VALUES)
def test_corrected_values_only_grow_and_keep_their_order(p_values: list[float]) -> None:
    strict, mild = holm(p_values), benjamini_hochberg(p_values)
    for p, one, other in zip(p_values, strict, mild, strict=True):
        assert p <= other * (1 + 1e-12)
        assert other <= one * (1 + 1e-12) <= 1 + 1e-9
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [strict[n] for n in order] == sorted(strict)


def test_many_goals_without_an_effect_rarely_find_one() -> None:
    """100 experiments with ten goals each: by itself a goal in one of three would be found by a z-test."""
    rng = rng_of(40)
    names = [f"g{number}" for number in range(10)]
    found = naive = 0
    for _ in range(100):
        variant = rng.integers(0, 2, 400)
        metrics = [rng.normal(size=400) for _ in names]
        effects = analyse(sample(variant, *metrics), trial(goals=names, expected_visitors=400)).effects
        found += any(one.verdict is not Verdict.UNCLEAR for one in effects)
        halves = [(one[variant == 0], one[variant == 1]) for one in metrics]
        naive += any(
            abs(a.mean() - b.mean()) > 1.96 * math.sqrt(a.var() / len(a) + b.var() / len(b)) for a, b in halves
        )
    print(f"found {found}, by z-test {naive} of 100")
    assert found <= 5
    assert naive >= 25


# --- checks ----------------------------------------------------------------------------------------------------------


def test_the_sample_ratio_check_is_pearsons() -> None:
    """An example of the literature: 821,588 and 815,482 of a planned half each."""
    found = sample_ratio([821_588, 815_482], [0.5, 0.5])
    assert found.p == pytest.approx(1.8e-6, rel=0.05)
    assert found.is_off
    fit = scipy.stats.chisquare([10, 30, 60], [20, 30, 50])
    assert sample_ratio([10, 30, 60], [0.2, 0.3, 0.5])[2:] == pytest.approx((fit.statistic, fit.pvalue))
    assert not sample_ratio([10, 30, 60], [0.2, 0.3, 0.5]).is_off


def test_somebody_with_a_variant_that_nobody_was_to_have_is_an_imbalance() -> None:
    assert sample_ratio([500, 500, 1], [0.5, 0.5, 0.0]).is_off
    assert not sample_ratio([500, 500, 0], [0.5, 0.5, 0.0]).is_off


def test_a_true_split_raises_an_alarm_once_in_a_thousand() -> None:
    rng = rng_of(50)
    splits = rng.multinomial(10_000, [0.2, 0.3, 0.5], size=5_000)
    alarms = sum(sample_ratio(split.tolist(), [0.2, 0.3, 0.5]).is_off for split in splits)
    assert alarms <= 14  # of 5 expected: more would happen once in five thousand


def reasons(found: Analysis) -> set[Reason]:
    assert found.effects == found.segments == () or not found.refusals
    return {one.reason for one in found.refusals}


def two_arms(first: int, second: int) -> tuple[list[int], Floats]:
    return [0] * first + [1] * second, np.arange(first + second) % 2


def test_an_experiment_that_is_not_split_as_planned_says_nothing() -> None:
    variant, values = two_arms(1_000, 1_200)
    found = analyse(sample(variant, values), trial(goals=["y"]))
    assert reasons(found) == {Reason.SAMPLE_RATIO}
    assert "a 1,000 (expected 1,100), b 1,200 (expected 1,100)" in found.refusals[0].text
    planned = trial(goals=["y"], variants=[{"name": "a", "weight": 10}, {"name": "b", "weight": 12}])
    assert reasons(analyse(sample(variant, values), planned)) == set()


def test_an_experiment_without_visitors_or_with_few_says_nothing() -> None:
    assert reasons(analyse(sample([], np.array([])), trial(goals=["y"]))) == {Reason.NO_VISITORS}
    variant, values = two_arms(99, 105)
    assert reasons(analyse(sample(variant, values), trial(goals=["y"]))) == {Reason.FEW_VISITORS}
    variant, values = two_arms(100, 105)
    assert reasons(analyse(sample(variant, values), trial(goals=["y"]))) == set()


def test_visitors_who_saw_several_variants_are_left_out_and_too_many_say_nothing() -> None:
    tally = Tally(trial(goals=["y"]))
    for number in range(1_000):
        tally.add(Row(f"v{number}", number % 2, [1.0 + number % 3]))
    for number in range(10):
        tally.add(Row(f"v{number}", 1 - number % 2, [500.0]))
    found = analyse(tally.sample(), trial(goals=["y"]))
    assert (found.several.visitors, sum(found.ratio.counts)) == (10, 990)
    assert reasons(found) == set()
    assert the(found.effects).mean < 3.0
    tally.add(Row("v10", 1, [1.0]))
    assert reasons(analyse(tally.sample(), trial(goals=["y"]))) == {Reason.SEVERAL_VARIANTS}


# --- the whole -------------------------------------------------------------------------------------------------------


def test_a_goal_that_should_fall_is_better_when_it_falls() -> None:
    rng = rng_of(60)
    variant = rng.integers(0, 3, 30_000)
    left = (rng.random(30_000) < np.array([0.10, 0.05, 0.20])[variant]).astype(float)
    found = analyse(sample(variant, left), trial("abc", goals=[{"metric": "y", "kind": "rate", "better": "lower"}]))
    assert {one.variant: one.verdict for one in found.effects} == {"b": Verdict.BETTER, "c": Verdict.WORSE}
    assert the(found.effects).found.lift == pytest.approx(-0.5, abs=0.1)


def test_the_control_is_the_one_that_is_named() -> None:
    rng = rng_of(61)
    variant, values = rng.integers(0, 2, 2_000), rng.normal(size=2_000)
    one = analyse(sample(variant, values), trial(goals=["y"])).effects[0]
    other = analyse(sample(variant, values), trial(goals=["y"], control="b")).effects[0]
    assert (other.variant, other.found.difference) == ("a", -one.found.difference)
    assert other.found.p == pytest.approx(one.found.p)


def test_a_segment_with_an_effect_of_its_own_is_found_among_many() -> None:
    rng = rng_of(62)
    variant, place = rng.integers(0, 2, 40_000), rng.integers(0, 20, 40_000)
    values = rng.normal(size=40_000) + 0.5 * variant * (place == 7)
    names = np.array([f"p{number:02d}" for number in range(20)])
    segment = list(names[place])
    segment[:50] = ["tiny"] * 50
    found = analyse(sample(variant, values, segments=[segment]), trial(goals=["y"], segments=["place"]))
    assert [one.segment for one in found.segments if one.verdict is Verdict.BETTER] == [("place", "p07")]
    assert (len(found.segments), found.segments_small) == (20, 1)
    assert the(found.effects).visitors + the(found.effects).control_visitors == 40_000


def test_a_metric_with_hardly_anything_to_count_has_no_interval() -> None:
    variant, _ = two_arms(500, 500)
    values = np.zeros(1_000)
    values[:12] = 1.0
    found = the(analyse(sample(variant, values), trial(goals=["y"])).effects)
    assert (found.verdict, found.found.interval, found.p_adjusted) == (Verdict.TOO_FEW, UNKNOWN, 1.0)


# --- rows by visitor -------------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.builds(
        lambda visitor, value, at_ms: (visitor, value, at_ms),
        st.sampled_from("pqrstu"), st.integers(0, 5), st.integers(1, 10**6),
    ),
    unique_by=lambda row: row[2], max_size=30,
)  # fmt: skip


@given(ROWS, st.randoms(use_true_random=False))
def test_in_which_order_rows_come_changes_nothing(rows: list[tuple[str, int, int]], shuffler: object) -> None:
    experiment = trial(goals=["y", {"metric": "z", "kind": "rate"}], covariates=["c"], segments=["s"])
    shuffled = list(rows)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = Tally(experiment), Tally(experiment)
    for tally, some in ((one, rows), (other, shuffled)):
        for visitor, value, at_ms in some:
            is_one = float(value > 3)
            tally.add(Row(visitor, ord(visitor) % 2, [float(value), is_one], [float(at_ms)], [f"s{at_ms}"], at_ms))
    assert people(one) == people(other)
    total = sum(value for _, value, _ in rows)
    assert sum(first for first, *_ in people(one)) == total
    firsts = {visitor: min(at for name, _, at in rows if name == visitor) for visitor, _, _ in rows}
    assert sorted(covariate for *_, covariate, _ in people(one)) == sorted(firsts.values())


def people(tally: Tally) -> list[tuple[float, ...]]:
    found = tally.sample()
    columns = [*found.metrics, found.variant, *found.covariates, *found.segments]
    return sorted(zip(*(column.tolist() for column in columns), strict=True))

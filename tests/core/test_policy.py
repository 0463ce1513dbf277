"""Policies: exact probabilities over whatever can be shown, and River's own estimates behind them."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import bandit, stats

from pipeline.core.policy import (
    MICROS,
    POLICIES,
    THOMPSON_FLOOR,
    EpsilonGreedy,
    PolicyRules,
    ThompsonSampling,
    Uniform,
    UpperBound,
    best_probabilities,
    estimate,
    merge,
)
from schemas.model import ArmStatistics

RULES = PolicyRules(epsilon=0.1, prior_mean=0.02, prior_trials=50.0)


@st.composite
def arms(draw: st.DrawFn) -> dict[str, ArmStatistics]:
    found = {}
    for number in range(draw(st.integers(1, 8))):
        trials = draw(st.integers(0, 5_000))
        found[f"a{number}"] = ArmStatistics(trials, draw(st.integers(0, trials)) * MICROS)
    return found


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0.0, 0.25, 1.0])), max_size=200))
def test_the_estimates_are_those_of_a_river_bandit_fed_the_same_rewards(rewards: list[tuple[str, float]]) -> None:
    """Sums in, one by one in River: the same means, and the same greedy action where there is no tie."""
    river = bandit.EpsilonGreedy(epsilon=0.1, reward_obj=stats.BayesianMean(RULES.prior_mean, RULES.prior_trials))
    sums: dict[str, ArmStatistics] = {}
    for action_id, reward in rewards:
        river.update(action_id, reward)
        arm = sums.setdefault(action_id, ArmStatistics())
        arm.trials += 1
        arm.reward_micros += round(reward * MICROS)
    policy = EpsilonGreedy(sums, RULES)
    ids = list("abcd")
    expected = [river._rewards[action_id].get() for action_id in ids]
    assert policy.scores(ids) == pytest.approx(expected, abs=1e-12)
    if rewards:
        assert policy.river._n == river._n
        assert policy.river.ranking[:1] == sorted(sums, key=lambda arm: policy.river._rewards[arm], reverse=True)[:1]


def test_a_river_policy_made_from_sums_goes_on_learning_where_the_sums_ended() -> None:
    policy = EpsilonGreedy({"a": ArmStatistics(10, 4 * MICROS)}, RULES)
    policy.river.update("a", 1.0)
    assert policy.river._rewards["a"].get() == pytest.approx((50 * 0.02 + 5) / (50 + 11))


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(known=arms(), new=st.integers(0, 3))
def test_probabilities_sum_to_one_and_keep_the_floor(name: str, known: dict[str, ArmStatistics], new: int) -> None:
    """For any sums and any set of actions, tried or not: no action is left without the exploration's share."""
    policy = POLICIES[name](known, RULES)
    ids = [*known, *(f"new{number}" for number in range(new))]
    found = policy.probabilities(policy.scores(ids))
    floor = {"thompson": THOMPSON_FLOOR, "uniform": 1.0}.get(name, RULES.epsilon) / len(ids)
    assert math.fsum(found) == pytest.approx(1.0, abs=1e-12)
    assert min(found) >= floor - 1e-15


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=80))
def test_the_upper_bounds_are_those_of_rivers_ucb_fed_the_same_rewards(rewards: list[tuple[str, bool]]) -> None:
    """Where there is no prior, and but for what was never tried: River's bound of that is infinite."""
    sums: dict[str, ArmStatistics] = {}
    for action_id, reward in rewards:
        arm = sums.setdefault(action_id, ArmStatistics())
        arm.trials += 1
        arm.reward_micros += MICROS * reward
    policy = UpperBound(sums, PolicyRules(0.1, 0.02, 0.0))
    river = bandit.UCB(delta=policy.delta, reward_obj=stats.Mean(), seed=1)
    for action_id, reward in rewards:
        river.update(action_id, float(reward))
    ids = list(sums)
    scores = policy.scores(ids)
    bounds = [
        river._rewards[arm].get() + river.delta * math.sqrt(2 * math.log(river._n) / river._counts[arm]) for arm in ids
    ]
    assert scores == pytest.approx(bounds, abs=1e-12)
    assert scores[ids.index(river.pull(ids))] == pytest.approx(max(scores), abs=1e-12)
    assert all(math.isfinite(score) for score in policy.scores(["never"]))


def test_an_action_tried_less_has_the_higher_bound_of_two_that_earned_alike() -> None:
    """And a new one is tried, but does not get everything at once, whatever it may be."""
    policy = UpperBound({"often": ArmStatistics(9_000, 180 * MICROS), "seldom": ArmStatistics(450, 9 * MICROS)}, RULES)
    often, seldom, new = policy.scores(["often", "seldom", "new"])
    assert often < seldom < new < 0.2
    good = UpperBound({"good": ArmStatistics(9_000, 900 * MICROS)}, RULES)
    assert good.probabilities(good.scores(["good", "new"])) == pytest.approx([0.95, 0.05])


def test_the_best_action_gets_all_but_epsilon_and_ties_share_it() -> None:
    policy = EpsilonGreedy({"a": ArmStatistics(100, 50 * MICROS), "b": ArmStatistics(100, 10 * MICROS)}, RULES)
    assert policy.probabilities(policy.scores(["a", "b"])) == pytest.approx([0.95, 0.05])
    assert policy.probabilities(policy.scores(["b", "a", "a2"])) == pytest.approx([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])
    assert policy.probabilities(policy.scores(["x", "y"])) == [0.5, 0.5]


def test_one_lucky_click_of_a_new_action_does_not_beat_a_proven_one() -> None:
    policy = EpsilonGreedy({"proven": ArmStatistics(10_000, 600 * MICROS), "lucky": ArmStatistics(1, MICROS)}, RULES)
    proven, lucky = policy.scores(["proven", "lucky"])
    assert proven > lucky > RULES.prior_mean


def test_without_any_prior_an_untried_action_still_has_a_score() -> None:
    policy = EpsilonGreedy({"a": ArmStatistics(2, MICROS)}, PolicyRules(0.1, 0.02, 0.0))
    assert policy.scores(["a", "new"]) == [0.5, 0.02]


def test_the_chance_to_be_the_best_agrees_with_a_million_draws() -> None:
    alpha = np.array([1.0, 5.0, 21.0, 200.0, 1.0])
    beta = np.array([50.0, 200.0, 1_000.0, 9_800.0, 50.0])
    rng = np.random.default_rng(7)
    drawn = np.argmax(rng.beta(alpha, beta, size=(1_000_000, 5)), axis=1)
    expected = np.bincount(drawn, minlength=5) / 1_000_000
    assert best_probabilities(alpha, beta) == pytest.approx(expected, abs=0.004)


@given(st.integers(2, 30), st.floats(0.5, 500), st.floats(0.5, 5_000))
def test_equal_arms_are_equally_likely_to_be_the_best(count: int, alpha: float, beta: float) -> None:
    found = best_probabilities(np.full(count, alpha), np.full(count, beta))
    assert found == pytest.approx(np.full(count, 1 / count), abs=1e-9)


def test_thompson_gives_the_proven_action_most_and_the_hopeless_one_the_floor() -> None:
    policy = ThompsonSampling(
        {"good": ArmStatistics(5_000, 400 * MICROS), "bad": ArmStatistics(5_000, 20 * MICROS)}, RULES
    )
    good, bad = policy.probabilities(policy.scores(["good", "bad"]))
    assert good > 0.97
    assert bad == pytest.approx(THOMPSON_FLOOR / 2, abs=1e-6)
    assert policy.posterior("good").cdf(1_601 / 20_050) == pytest.approx(0.5, abs=0.02)


def test_uniform_ignores_what_was_learnt() -> None:
    policy = Uniform({"a": ArmStatistics(10, 10 * MICROS)}, RULES)
    assert policy.probabilities(policy.scores(["a", "b", "c", "d"])) == [0.25] * 4


@given(st.lists(arms(), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_merging_is_the_same_in_any_order(shards: list[dict[str, ArmStatistics]], rng: random.Random) -> None:
    shuffled = list(shards)
    rng.shuffle(shuffled)
    merged = merge(shards)
    assert merged == merge(shuffled)
    assert sum(arm.trials for arm in merged.values()) == sum(arm.trials for one in shards for arm in one.values())


def test_merging_leaves_the_partitions_alone() -> None:
    first, second = {"a": ArmStatistics(1, 2, 3)}, {"a": ArmStatistics(10, 20, 30)}
    assert merge([first, second]) == {"a": ArmStatistics(11, 22, 33)}
    assert first == {"a": ArmStatistics(1, 2, 3)}


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_the_interval_holds_the_mean_and_stays_between_nothing_and_one(trials: int, rate: float) -> None:
    found = estimate(ArmStatistics(trials, round(trials * rate * MICROS)), RULES)
    assert 0.0 <= found.low <= found.high <= 1.0
    assert 0.0 <= found.mean <= 1.0

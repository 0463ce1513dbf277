"""Linear policies: exact probabilities, and actions that are started anew where they have changed."""

import json
import math
import random
from collections import Counter
from collections.abc import Mapping
from statistics import fmean

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.decide import uniform
from pipeline.core.features import FeatureSpace
from pipeline.core.linear import (
    LinearDelta,
    learn,
    merge,
    read_lesson,
    start_anew,
)
from pipeline.core.linear_drift import DriftWatch, learn_watching
from pipeline.core.linear_model import ArmRidges, RidgeRules
from pipeline.core.linear_policy import LINEAR_POLICIES, LinearRules
from pipeline.core.policy import PolicyRules
from schemas.linear import LinearArm, LinearStatistics
from tests.core.linear_rig import (
    CONTEXT,
    MICROS,
    SPACE,
    TRAINED,
    empty,
    learnt,
    played,
    policy_of,
)

DEVICES = FeatureSpace(4, ("device=phone", "device=desk", "device=tablet"))


some_scores = st.lists(st.floats(-2.0, 2.0).map(lambda score: round(score, 9)), min_size=1, max_size=40)


@pytest.mark.parametrize("name", sorted(LINEAR_POLICIES))
@given(scores=some_scores)
def test_probabilities_sum_to_one_and_keep_the_floor(name: str, scores: list[float]) -> None:
    found = policy_of(name, TRAINED).probabilities(scores)
    assert math.fsum(found) == pytest.approx(1.0, abs=1e-9)
    assert min(found) >= 0.01 / len(scores) - 1e-15
    assert found[scores.index(max(scores))] == max(found)


@pytest.mark.parametrize("name", sorted(LINEAR_POLICIES))
@given(scores=some_scores, rng=st.randoms(use_true_random=False))
def test_the_actions_order_permutes_the_probabilities(name: str, scores: list[float], rng: random.Random) -> None:
    """Ties too: nothing is gained by standing first in the request."""
    policy = policy_of(name, TRAINED)
    order = list(range(len(scores)))
    rng.shuffle(order)
    found = policy.probabilities(scores)
    assert policy.probabilities([scores[at] for at in order]) == [found[at] for at in order]


@pytest.mark.parametrize("name", sorted(LINEAR_POLICIES))
def test_many_actions_of_the_same_sums_have_the_same_probability(name: str) -> None:
    """Where a row stands in a matrix product may change its last bits, but not who is among the best."""
    statistics = learnt([delta._replace(action_id="a") for delta in played(100)])
    statistics.arms.update({f"a{number}": statistics.arms["a"] for number in range(102)})
    policy = policy_of(name, statistics)
    found = policy.probabilities(policy.scores_for(list(statistics.arms), CONTEXT, ()))
    assert found == pytest.approx([1 / 103] * 103, abs=1e-12)


@pytest.mark.parametrize("name", sorted(LINEAR_POLICIES))
def test_draws_follow_the_probabilities(name: str) -> None:
    """Chi-square of 20,000 seeded draws by the hash that delivery draws with: p above .001."""
    policy = policy_of(name, TRAINED, linear=LinearRules(5.0, 2.0, 0.3, 0.05))
    found = policy.probabilities(policy.scores_for(["a", "b", "c", "new"], CONTEXT, ()))
    reached = np.cumsum(found)
    drawn = Counter(
        int(np.searchsorted(reached, uniform(f"{number:032x}", "seed", 0), side="right")) for number in range(20_000)
    )
    expected = np.array(found) * 20_000
    observed = [drawn[at] for at in range(len(found))]
    assert scipy.stats.chisquare(observed, expected * sum(observed) / expected.sum()).pvalue > 0.001


def test_a_policy_says_the_same_again() -> None:
    """From the same sums, however they came together: the same scores and vectors, bit for bit."""
    found = played(200)
    shards = [learnt(found[::2]), learnt(found[1::2])]
    one, two = policy_of("linear_igw", merge(shards)), policy_of("linear_igw", learnt(found))
    assert one.scores_for(list("abcd"), CONTEXT, ()) == two.scores_for(list("abcd"), CONTEXT, ())
    assert one.lesson_for(CONTEXT, {}) == two.lesson_for(CONTEXT, {})


@pytest.mark.parametrize("name", sorted(LINEAR_POLICIES))
@given(scores=some_scores)
def test_a_draw_can_be_done_again_from_the_logged_rules_and_scores(name: str, scores: list[float]) -> None:
    """Through JSON and back, without the model: the same probabilities to the last bit."""
    policy = policy_of(name, TRAINED)
    log = json.loads(json.dumps({"rules": policy.logged_rules(), "scores": scores}))
    assert LINEAR_POLICIES[name].from_log(log["rules"]).probabilities(log["scores"]) == policy.probabilities(scores)


@pytest.mark.parametrize("name", sorted(LINEAR_POLICIES))
def test_a_policy_without_a_model_gives_all_actions_the_same(name: str) -> None:
    policy = LINEAR_POLICIES[name]({}, PolicyRules())
    assert policy.probabilities(policy.scores(["a", "b"])) == [0.5, 0.5]
    assert policy.lesson_for(CONTEXT, {}) == b""


def test_more_knowledge_makes_a_policy_greedier() -> None:
    few, many = learnt(played(30)), learnt(played(3_000))
    for name in ("linear_squarecb", "linear_igw"):
        early, late = policy_of(name, few), policy_of(name, many)
        assert max(late.probabilities([0.3, 0.2])) > max(early.probabilities([0.3, 0.2]))


def test_the_scale_free_form_is_uniform_until_something_was_earned() -> None:
    """With other policies the first click would decide; click rates are low."""
    statistics = learnt([delta._replace(reward_micros=0) for delta in played(100)])
    assert policy_of("linear_igw", statistics).probabilities([0.02, 0.01]) == [0.5, 0.5]


def play(policy_name: str, rounds: int, seed: int) -> float:
    """Return the mean reward over rounds in which each device wants another action."""
    rng = random.Random(seed)
    wanted: Mapping[str, str] = {"phone": "a", "desk": "b", "tablet": "c"}
    statistics, model, earned = LinearStatistics(DEVICES.fingerprint, DEVICES.dimension, {}), None, 0
    for number in range(rounds):
        model = ArmRidges(DEVICES, statistics, before=model)
        policy = policy_of(policy_name, statistics, model)
        context = {"device": rng.choice(list(wanted))}
        shares = policy.probabilities(policy.scores_for(list("abc"), context, ()))
        action = rng.choices("abc", shares)[0]
        reward = rng.random() < (0.6 if wanted[context["device"]] == action else 0.1)
        earned += reward
        vector = read_lesson(policy.lesson_for(context, {})).own
        learn(statistics, [LinearDelta(action, vector, 1, MICROS * reward, decided_ms=number)])
    return earned / rounds


@pytest.mark.parametrize("name", sorted(LINEAR_POLICIES))
def test_it_learns_which_context_wants_which_action(name: str) -> None:
    """Uniform choice earns .27, any action alone the same, the best for each device .60."""
    assert fmean([play(name, 600, seed) for seed in range(4)]) > 0.42


# Drift


def test_what_changed_is_learnt_anew_and_the_rest_is_kept() -> None:
    """One action's reward turns round: it alone is started anew, and news of its older decisions does not count."""
    statistics, watch, alarms = empty(), DriftWatch(), []
    vector = SPACE.vector(CONTEXT)
    for number in range(2_000):
        reward = MICROS * (number < 1_000)
        found = [LinearDelta("a", vector, 1, reward, decided_ms=number), LinearDelta("b", vector, 1, 0)]
        alarms += learn_watching(statistics, found, watch, RidgeRules())
    assert alarms == ["a"]
    arm = statistics.arms["a"]
    assert 1_000 <= arm.since_ms < 1_200
    assert arm.reward_micros == 0
    assert statistics.arms["b"].trials == 2_000
    learn(statistics, [LinearDelta("a", vector, 0, MICROS, decided_ms=500)])
    assert statistics.arms["a"] == arm


def test_what_pays_seldom_now_is_noticed_although_the_errors_shrink() -> None:
    """40 % vary more than 5 %: a watch for growing errors alone would sleep."""
    statistics, watch, alarms = empty(), DriftWatch(), []
    rng, vector = random.Random(6), SPACE.vector(CONTEXT)
    for number in range(4_000):
        reward = MICROS * (rng.random() < (0.4 if number < 2_000 else 0.05))
        found = [LinearDelta("a", vector, 1, reward, decided_ms=number)]
        alarms += [number] if learn_watching(statistics, found, watch, RidgeRules()) else []
    assert alarms
    assert 2_000 <= alarms[0] < 2_600


def test_a_steady_action_raises_no_alarm() -> None:
    statistics, watch = empty(), DriftWatch()
    found = played(3_000)
    raised = [
        one
        for at in range(0, 3_000, 10)
        for one in learn_watching(statistics, found[at : at + 10], watch, RidgeRules())
    ]
    assert raised == []


def test_a_watch_that_was_kept_goes_on_as_if_never_stopped() -> None:
    rng = random.Random(2)
    errors = [0.1 * rng.random() + 0.6 * (number > 400) for number in range(800)]
    whole, stopped = DriftWatch(), DriftWatch()
    alarms = [whole.see("a", error) for error in errors]
    again = []
    for number, error in enumerate(errors):
        if number % 50 == 0:
            stopped = DriftWatch(stopped.keep())
        again.append(stopped.see("a", error))
    assert again == alarms
    assert sum(alarms) == 1


def test_an_arm_started_anew_is_empty() -> None:
    statistics = learnt(played(30))
    start_anew(statistics, "a", 5)
    assert statistics.arms["a"] == LinearArm(since_ms=5)

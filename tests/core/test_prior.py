"""What is expected of an action before its first trial: the mean of the others, and what its features have earned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.decide import Action, Ask, Known, decide, make_id
from pipeline.core.policy import MICROS, POLICIES, Policy, PolicyRules
from pipeline.core.prior import Priors, described, priors
from pipeline.core.redraw import redraw
from schemas.model import ArmStatistics

RULES = PolicyRules()
LEARNING = ["epsilon_greedy", "thompson", "ucb"]
FEATURES: dict[str, dict[str, object]] = {
    **{f"red-{number}": {"colour": "red", "price": 10 + number} for number in range(4)},
    **{f"blue-{number}": {"colour": "blue", "price": 20 - number} for number in range(4)},
    "new-red": {"colour": "red", "price": 15},
    "new-blue": {"colour": "blue", "price": 15},
}


def arm(trials: int, rate: float) -> ArmStatistics:
    return ArmStatistics(trials, round(trials * rate * MICROS))


ARMS = {name: arm(2_000, 0.30 if name.startswith("red") else 0.10) for name in FEATURES if "new" not in name}


def made(name: str) -> Policy:
    return POLICIES[name](ARMS, RULES, priors(ARMS, RULES.prior_mean, RULES.prior_trials, described(FEATURES)))


def test_where_nothing_was_tried_the_setting_is_all_that_is_known() -> None:
    assert priors({}, 0.02, 50.0, described(FEATURES)) == Priors(0.02)
    assert priors({"a": ArmStatistics(0, 0)}, 0.02, 50.0).of("a") == 0.02
    assert described({"a": {}, "b": {}}) is None


def test_a_new_action_is_expected_to_be_as_the_others_are_each_counted_once() -> None:
    """The one with most of the trials is the best: a new one need not be."""
    arms = {"best": arm(10**9, 0.5), "worse": arm(10**6, 0.1), "bad": arm(10**6, 0.1)}
    found = priors(arms, 0.1, 50.0)
    assert found.mean == pytest.approx((0.1 + 0.5 + 0.1 + 0.1) / 4, abs=1e-4)


def test_an_action_of_few_trials_says_little_of_the_others() -> None:
    assert priors({"lucky": arm(1, 1.0)}, 0.02, 50.0).mean == pytest.approx((0.02 + 1 / 51) / (1 + 1 / 51))


def test_a_new_creative_begins_with_what_those_like_it_have_earned() -> None:
    found = priors(ARMS, 0.02, 50.0, described(FEATURES))
    assert 0.22 < found.of("new-red") < 0.32
    assert 0.05 < found.of("new-blue") < 0.15
    assert found.of("unknown") == found.mean


def test_what_one_action_alone_has_counts_for_less_than_what_many_share() -> None:
    arms = {**{f"p{number}": arm(10**6, 0.1) for number in range(5)}, "odd": arm(10**6, 0.5)}
    plain: dict[str, dict[str, object]] = {f"p{number}": {"shape": "round"} for number in range(5)}
    one = priors(arms, 0.1, 50.0, described({**plain, "odd": {"shape": "star"}, "new": {"shape": "star"}}))
    more = {f"odd{number}": arm(10**6, 0.5) for number in range(4)}
    stars: dict[str, dict[str, object]] = {name: {"shape": "star"} for name in ("odd", "new", *more)}
    many = priors({**arms, **more}, 0.1, 50.0, described({**plain, **stars}))
    believed = [(found.of("new") - found.mean) / (0.5 - found.mean) for found in (one, many)]
    assert 0.4 < believed[0] < 0.7 < believed[1] < 1.0


@pytest.mark.parametrize("name", LEARNING)
def test_a_policy_s_first_decisions_of_a_new_creative_follow_its_features(name: str) -> None:
    red, blue, unknown = made(name).scores(["new-red", "new-blue", "unknown"])
    assert red > blue
    assert blue < unknown < red


@pytest.mark.parametrize("name", LEARNING)
def test_a_decision_with_priors_is_drawn_again_bit_for_bit_from_its_log(name: str) -> None:
    actions = [Action(action_id, features=found) for action_id, found in FEATURES.items()]
    for number in range(20):
        log = decide(Ask("home", "v", actions, 3), Known(made(name), "0:1"), make_id(1, "v", number), "seed")
        assert redraw(log).differences == []


@pytest.mark.parametrize("name", LEARNING)
def test_what_an_action_has_earned_itself_soon_counts_for_more(name: str) -> None:
    arms = {**ARMS, "new-blue": arm(3_000, 0.6)}
    policy = POLICIES[name](arms, RULES, priors(arms, RULES.prior_mean, RULES.prior_trials, described(FEATURES)))
    scores = dict(zip(FEATURES, policy.scores(list(FEATURES)), strict=True))
    assert max(scores, key=lambda action_id: scores[action_id]) == "new-blue"


SUMS = st.dictionaries(
    st.sampled_from([*FEATURES, "x", "y"]),
    st.builds(arm, st.integers(0, 10_000), st.floats(0, 1))
    | st.builds(ArmStatistics, st.integers(-1, 3), st.integers(-(2**62), 2**62)),
)


@given(SUMS, st.floats(0, 1), st.floats(0, 1_000))
def test_an_expected_reward_is_one_and_the_order_of_the_actions_changes_no_bit(
    arms: dict[str, ArmStatistics], prior_mean: float, prior_trials: float
) -> None:
    found = priors(arms, prior_mean, prior_trials, described(FEATURES))
    assert all(0.0 <= expected <= 1.0 for expected in (found.mean, *found.by_action.values()))
    turned = priors(dict(reversed(arms.items())), prior_mean, prior_trials, described(dict(reversed(FEATURES.items()))))
    assert turned == found

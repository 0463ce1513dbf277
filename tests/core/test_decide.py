"""Decisions: the law of the draw, what is excluded and why, and the same answer again from the log."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.decide import (
    Action,
    Ask,
    Known,
    decide,
    draw,
    is_id,
    made_elsewhere,
    make_id,
    partition_of,
    time_of,
    uniform,
)
from pipeline.core.policy import POLICIES, EpsilonGreedy, Policy, PolicyRules, ThompsonSampling, Uniform
from pipeline.core.redraw import NotDrawable, redraw
from schemas import block
from schemas.model import ArmStatistics
from schemas.outcome import DecisionLog

MICROS = 1_000_000
RULES = PolicyRules(epsilon=0.2)
ARMS = {f"a{number}": ArmStatistics(1_000, number * 10 * MICROS) for number in range(5)}
ACTIONS = [Action(f"a{number}", campaign_id=f"c{number}") for number in range(5)]


class Given(Uniform):
    """Scores are the probabilities."""

    def probabilities(self, scores: Sequence[float]) -> list[float]:
        return list(scores)


def known(policy: Policy | None = None) -> Known:
    return Known(policy or EpsilonGreedy(ARMS, RULES), "0:7")


def decision(number: int, how_many: int = 1, policy: Policy | None = None) -> DecisionLog:
    rng = random.Random(number)
    decision_id = make_id(1_700_000_000_000 + number, f"v{number}", rng.getrandbits(48))
    return decide(Ask("home", f"v{number}", ACTIONS, how_many), known(policy), decision_id, "seed")


@given(st.integers(0, 2**47), st.text(min_size=1), st.integers(0, 2**48 - 1), st.integers(1, 64))
def test_an_id_tells_its_time_and_the_partition_of_its_visitor(
    time_ms: int, visitor: str, rand: int, partitions: int
) -> None:
    decision_id = make_id(time_ms, visitor, rand)
    assert is_id(decision_id)
    assert time_of(decision_id) == time_ms
    assert partition_of(decision_id, partitions) == block.partition_of(visitor, partitions)


def test_decisions_without_a_visitor_are_spread_over_the_partitions() -> None:
    rng = random.Random(3)
    found = Counter(partition_of(make_id(1, "", rng.getrandbits(48)), 4) for _ in range(4_000))
    assert scipy.stats.chisquare([found[at] for at in range(4)]).pvalue > 0.001


@pytest.mark.parametrize("text", ["", "x" * 32, "A" * 32, "0" * 31, "0" * 33, "é" * 32, "0" * 31 + "\n"])
def test_what_is_no_id_is_not_taken_for_one(text: str) -> None:
    assert not is_id(text)


def test_the_numbers_of_the_draw_are_uniform_and_independent_of_rank() -> None:
    drawn = [[uniform(make_id(1, "v", number), "s", rank) for number in range(5_000)] for rank in (0, 1)]
    for numbers in drawn:
        assert all(0.0 <= number < 1.0 for number in numbers)
        assert scipy.stats.kstest(numbers, "uniform").pvalue > 0.001
    assert abs(scipy.stats.pearsonr(*drawn).statistic) < 0.05


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_actions_are_drawn_as_often_as_their_logged_probability_says(name: str) -> None:
    """Chi-square over 20,000 decisions of different visitors."""
    policy = POLICIES[name](ARMS, RULES)
    found = Counter(decision(number, policy=policy).choices[0].action_id for number in range(20_000))
    expected = decision(0, policy=policy).propensities
    observed = [found[action.id] for action in ACTIONS]
    assert scipy.stats.chisquare(observed, [20_000 * share for share in expected]).pvalue > 0.001


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 1e-9]), min_size=1, max_size=12).filter(any), st.integers(0, 2**48 - 1)
)
def test_the_action_drawn_is_the_one_whose_stretch_holds_the_number(shares: list[float], random_48: int) -> None:
    """Also where the probabilities sum to less than the number: then the last that can be drawn; never one of 0."""
    decision_id = make_id(1_700_000_000_000, "v", random_48)
    u, possible = uniform(decision_id, "seed", 0), [at for at, share in enumerate(shares) if share > 0.0]
    expected = next((at for at in possible if u < sum(shares[: at + 1])), possible[-1])
    assert draw(Given({}, RULES), shares, 1, decision_id, "seed")[1] == [(expected, shares[expected])]


def test_a_pair_is_drawn_as_often_as_the_product_of_its_probabilities_says() -> None:
    """The second is drawn from what is left, by the same policy: the law of ordered pairs is the product."""
    observed: Counter[tuple[str, ...]] = Counter()
    expected: dict[tuple[str, ...], float] = {}
    for number in range(20_000):
        log = decision(number, how_many=2)
        pair = tuple(choice.action_id for choice in log.choices)
        observed[pair] += 1
        expected[pair] = math.prod(choice.propensity for choice in log.choices)
    pairs = sorted(expected)
    assert math.fsum(expected.values()) == pytest.approx(1.0, abs=1e-9)
    chi_square = scipy.stats.chisquare([observed[pair] for pair in pairs], [20_000 * expected[pair] for pair in pairs])
    assert chi_square.pvalue > 0.001


ASKED = st.builds(
    Ask,
    st.just("home"),
    st.text(max_size=5),
    st.lists(st.builds(Action, st.sampled_from([f"a{number}" for number in range(9)]),
                       st.sampled_from(["", "https://shop.example/x", "javascript:1"])), max_size=12),
    st.integers(1, 15),
    st.just({}),
)  # fmt: skip


@given(ASKED, st.sampled_from(sorted(POLICIES)), st.integers(0, 2**48 - 1))
def test_every_decision_can_be_made_again_from_its_log_to_the_last_bit(ask: Ask, name: str, rand: int) -> None:
    policy = POLICIES[name](ARMS, RULES)
    log = decide(ask, known(policy), make_id(5, ask.visitor, rand), "seed")
    logged = msgspec.json.decode(msgspec.json.encode(log), type=DecisionLog)  # as it stands in the log
    again = redraw(logged)
    assert again.differences == []
    assert again.propensities == log.propensities
    assert again.choices == [(choice.action_id, choice.propensity) for choice in log.choices]
    shown = [choice.action_id for choice in log.choices]
    assert len(shown) == len(set(shown)) == min(ask.how_many, len(log.candidates))
    assert set(shown) <= set(log.candidates)
    if log.candidates:
        assert math.fsum(log.propensities) == pytest.approx(1.0, abs=1e-9)
        assert log.choices[0].propensity == log.propensities[log.candidates.index(shown[0])]


@pytest.mark.parametrize(
    ("altered", "told"),
    [
        ({"scores": [0.5, 0.0, 0.0, 0.0, 0.0]}, "a0: probability 0.84"),
        ({"rules": {"epsilon": 0.3}}, "a4: probability 0.76"),
        ({"policy": "uniform"}, "a4: probability 0.2, the log has 0.84"),
        ({"propensities": [0.2]}, "5 probabilities, the log has 1"),
    ],
)
def test_an_altered_log_does_not_come_out_the_same(altered: dict[str, Any], told: str) -> None:
    log = decision(1, how_many=5)
    assert redraw(log).differences == []
    found = redraw(msgspec.structs.replace(log, **altered)).differences
    assert any(difference.startswith(told) for difference in found), found


@pytest.mark.parametrize("altered", [{"seed": "another"}, {"decision_id": "0" * 32}])
def test_another_seed_or_id_is_another_draw(altered: dict[str, str]) -> None:
    log = decision(1, how_many=5, policy=Uniform(ARMS, RULES))
    found = redraw(msgspec.structs.replace(log, **altered))
    assert found.propensities == log.propensities
    assert found.differences[0].startswith("rank ")


@pytest.mark.parametrize(
    ("altered", "told"),
    [
        ({"policy": "linear"}, "policy 'linear' is not known here; expected one of epsilon_greedy"),
        ({"scores": []}, "0 scores of 5 candidates"),
        ({"rules": {}}, "0 rules; expected one score each"),
        ({"rules": {"greed": 1.0}}, "expected epsilon, prior_mean, prior_trials"),
    ],
)
def test_a_log_that_cannot_be_drawn_again_says_what_it_lacks(altered: dict[str, Any], told: str) -> None:
    with pytest.raises(NotDrawable) as caught:
        redraw(msgspec.structs.replace(decision(1), **altered))
    assert told in str(caught.value)


def test_what_another_system_chose_is_not_drawn_again() -> None:
    log = made_elsewhere(Ask("home", "v", ACTIONS), "a1", 0.5, make_id(1, "v", 1))
    with pytest.raises(NotDrawable, match="made elsewhere"):
        redraw(log)


def test_each_excluded_action_is_named_with_its_reason() -> None:
    ask = Ask(
        "home", "v", [Action("a"), Action("b", url="//evil.example"), Action("a"), Action("c", url="https://x.example")]
    )
    log = decide(ask, known(), make_id(1, "v", 1), "seed")
    assert log.candidates == ["a", "c"]
    assert log.excluded == {"b": "bad_url", "a": "duplicate"}


def test_nothing_to_show_is_an_answer_too() -> None:
    log = decide(Ask("home", "v", [Action("b", url="javascript:alert(1)")]), known(), make_id(1, "v", 1), "seed")
    assert (log.choices, log.candidates, log.propensities) == ([], [], [])
    assert log.excluded == {"b": "bad_url"}


def test_the_log_says_what_was_known_and_who_was_chosen() -> None:
    ask = Ask("home", "v", [Action("a1", campaign_id="c", creative_id="k", features={"x": 1})], 1, {"hour": 7})
    log = decide(ask, Known(ThompsonSampling(ARMS, RULES), "0:7,1:9", ["profiles_stale"]), make_id(1, "v", 1), "s")
    assert (log.policy, log.model_version, log.seed, log.degraded) == ("thompson", "0:7,1:9", "s", ["profiles_stale"])
    assert (log.choices[0].campaign_id, log.choices[0].creative_id, log.choices[0].rank) == ("c", "k", 0)
    assert (log.features, log.context) == ({"a1": {"x": 1}}, {"hour": 7})

"""The reward model of DM and DR: it believes an action's own mean as far as chance allows."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.evaluate.logged import MICROS
from pipeline.core.evaluate.reward_model import RewardModel

ARMS = st.lists(st.tuples(st.integers(1, 500), st.floats(0.0, 1.0)), min_size=1, max_size=8)


def model_of(arms: list[tuple[int, float]]) -> RewardModel:
    """arms: (trials, share of them that earned 1)."""
    model = RewardModel()
    for number, (trials, share) in enumerate(arms):
        for trial in range(trials):
            model.sums.add(f"a{number}", 1, MICROS * (trial < round(share * trials)))
    model.refresh()
    return model


def names(count: int) -> list[str]:
    return [f"a{number}" for number in range(count)]


@given(ARMS)
def test_a_guess_lies_between_the_actions_own_mean_and_that_of_all(arms: list[tuple[int, float]]) -> None:
    guesses = model_of(arms).guesses(names(len(arms)))
    own = [round(share * trials) / trials for trials, share in arms]
    mean = sum(trials * one for (trials, _), one in zip(arms, own, strict=True)) / sum(trials for trials, _ in arms)
    for guess, one in zip(guesses, own, strict=True):
        assert min(one, mean) - 1e-9 <= guess <= max(one, mean) + 1e-9


def test_before_anything_is_known_every_guess_is_nothing() -> None:
    model = RewardModel()
    model.refresh()
    assert model.guesses(["a", "b"]) == [0.0, 0.0]
    assert model.error({"a": 1.0}) == 0.0


def test_an_untried_action_is_guessed_to_be_like_all() -> None:
    assert model_of([(100, 0.2), (100, 0.4)]).guesses(["new"]) == pytest.approx([0.3])


def test_differences_that_chance_explains_are_not_believed() -> None:
    """3, 4, 5 and 6 of 300 is what one rate would give; the best is not a third above the mean."""
    guesses = model_of([(300, 0.01), (300, 4 / 300), (300, 5 / 300), (300, 0.02)]).guesses(names(4))
    assert guesses == pytest.approx([0.015] * 4)


def test_differences_beyond_chance_are_believed_the_more_the_more_is_known() -> None:
    few, many = model_of([(50, 0.1), (50, 0.5)]), model_of([(5_000, 0.1), (5_000, 0.5)])
    assert 0.4 < few.guesses(names(2))[1] < many.guesses(names(2))[1] < 0.5
    assert many.guesses(names(2)) == pytest.approx([0.1, 0.5], abs=0.001)


def test_the_error_shrinks_with_what_is_known_and_grows_with_what_is_not() -> None:
    errors = [model_of([(trials, 0.1), (trials, 0.5)]).error({"a0": 0.5, "a1": 0.5}) for trials in (20, 200, 2_000)]
    assert all(more > less > 0.0 for more, less in pairwise(errors))
    model = model_of([(200, 0.1), (200, 0.5)])
    assert model.error({"new": 1.0}) > 2 * model.error({"a0": 1.0})

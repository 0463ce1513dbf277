"""Features made into vectors, and what of them a decision logs: the same on every machine, bounded, or refused."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.features import GRID, FeatureSpace, pack, unpack
from pipeline.core.linear import (
    SHARED,
    pack_lesson,
    read_lesson,
)
from pipeline.core.linear_model import SharedRidge, shared_space
from tests.core.linear_rig import ACTIONS, CONTEXT, CONTEXTS, SPACE, TRAINED, features, policy_of, shared

GOLDEN_FINGERPRINT = 262940836622706
GOLDEN = [1024, 3611, 1024, -710, 0, 0, 0, 0, 0, 1283, -1024, 0]
GOLDEN_HEX = "00041b0e00043afd00000000000000000000030500fc0000"


def test_the_hashing_is_frozen() -> None:
    """Logged vectors are learnt from for months: another hash, scale or rounding would be another space."""
    space = FeatureSpace(12, ("age", "device=phone"), seed=5)
    assert space.fingerprint == GOLDEN_FINGERPRINT
    found = space.vector({"age": 33, "device": "phone", "visits": 2.5, "city": "Łódź", "new": True, "gone": None})
    assert found.tolist() == GOLDEN
    assert pack(found).hex() == GOLDEN_HEX


@given(features, st.randoms(use_true_random=False))
def test_a_vector_does_not_depend_on_the_features_order(given_features: dict[str, object], rng: random.Random) -> None:
    items = list(given_features.items())
    rng.shuffle(items)
    assert SPACE.vector(given_features).tolist() == SPACE.vector(dict(items)).tolist()


@given(features)
def test_a_vector_is_bounded_and_survives_packing(given_features: dict[str, object]) -> None:
    vector = SPACE.vector(given_features)
    assert vector[0] == GRID
    assert np.abs(vector.astype(int)).max() <= 16 * GRID
    assert unpack(pack(vector)).tolist() == vector.tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        SPACE.vector({"age": value})
    with pytest.raises(ValueError, match="finite"):
        policy_of("linear_squarecb", TRAINED).scores_for(["a"], {"age": value}, ())


def test_a_profile_inside_the_context_is_features_but_for_its_version() -> None:
    """As delivery logs it: visits count, where in the log it was read does not."""
    profile = {"version": 8_123_456, "visits": 7, "interest": "shoes", "is_bot": False}
    flat = {"profile.visits": 7, "profile.interest": "shoes", "profile.is_bot": False}
    space = FeatureSpace(32, ("profile.version",))
    assert space.vector({"profile": profile}).tolist() == space.vector(flat).tolist()
    assert space.vector({"profile": profile})[1] == 0


def test_a_list_among_the_features_is_refused() -> None:
    with pytest.raises(TypeError, match="list"):
        SPACE.vector({"age": [1]})


def test_a_space_without_room_for_its_names_is_refused() -> None:
    with pytest.raises(ValueError, match="dimension 2"):
        FeatureSpace(2, ("age", "visits"))


def test_a_space_that_is_full_ignores_other_features() -> None:
    space = FeatureSpace(2, ("age",))
    assert space.vector({"age": 1, "other": 5}).tolist() == space.vector({"age": 1}).tolist()


def test_a_choice_survives_packing_with_all_that_its_learner_needs() -> None:
    """Its space, its vector, and under which key it is learnt."""
    own = policy_of("linear_igw", TRAINED).lesson_for(CONTEXT, {"colour": "red"})
    found = read_lesson(own)
    assert (found.space, found.arm("a")) == (SPACE.fingerprint, "a")
    assert found.vector.tolist() == SPACE.vector(CONTEXT).tolist()
    model = SharedRidge(ACTIONS, CONTEXTS, shared([]))
    again = read_lesson(pack_lesson(model.lesson(CONTEXT, {"colour": "red"})))
    assert (again.space, again.arm("a")) == (model.space, SHARED)
    assert len(again.vector) == model.dimension


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00" * 8,
        b"\x02" + b"\x00" * 20,
        b"\x00" * 10,
        b"\x00" * 7 + b"\xff\x7f" * 4,
        b"\x00" * 7 + b"\x00" * 514,
    ],
    ids=["nothing", "half a number", "kind 2", "odd", "a value too large", "257 columns"],
)
def test_a_choice_that_nobody_here_has_written_is_refused(raw: bytes) -> None:
    """Decisions come in over the API too: absurd vectors must not grow the learner's memory or break its sums."""
    with pytest.raises(ValueError):
        read_lesson(raw)


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_choice_or_refused(raw: bytes) -> None:
    try:
        found = read_lesson(raw)
    except ValueError:
        return
    assert pack_lesson(found) == raw


def test_spaces_too_large_to_learn_from_are_refused() -> None:
    with pytest.raises(ValueError, match="256"):
        FeatureSpace(257)
    with pytest.raises(ValueError, match="20 x 20"):
        shared_space(FeatureSpace(20), FeatureSpace(20))

"""Features made into vectors, and what of them a decision logs: the same on every machine, bounded, or refused."""

import math
import random
import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.features import GRID, FeatureSpace, crossed, crossing, folded, pack, unpack
from pipeline.core.linear import HEAD_BYTES, Lesson, pack_lesson, read_lesson, vectors_of
from pipeline.core.linear_blend import ACTIONS as ACTIONS_OF_BLEND
from pipeline.core.linear_blend import CONTEXTS as CONTEXTS_OF_BLEND
from pipeline.core.linear_blend import OWN, Blend, nothing
from pipeline.core.linear_model import ArmRidges, SharedRidge, shared_space
from tests.core.linear_rig import ACTIONS, CONTEXT, CONTEXTS, SPACE, TRAINED, empty, features, policy_of, shared

GOLDEN_FINGERPRINT = 262940836622706
GOLDEN = [1024, 3611, 1024, -710, 0, 0, 0, 0, 0, 1283, -1024, 0]
GOLDEN_PLACE = 204
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
    """Its space, and what its action's own ridge and that of all learn from."""
    found = read_lesson(policy_of("linear_igw", TRAINED).lesson_for(CONTEXT, {"colour": "red"}))
    assert (found.space, found.is_own, found.is_shared) == (SPACE.fingerprint, True, False)
    assert found.own.tolist() == SPACE.vector(CONTEXT).tolist()
    assert found.columns == (SPACE.dimension, 0)
    model = SharedRidge(ACTIONS, CONTEXTS, shared([]))
    again = read_lesson(pack_lesson(model.lesson(CONTEXT, {"colour": "red"})))
    assert (again.space, again.is_own, again.is_shared) == (model.space, False, True)
    assert again.columns == (0, model.dimension)
    assert again.shared.tolist() == model.lesson(CONTEXT, {"colour": "red"}).shared.tolist()
    blend = Blend(*nothing())
    both = read_lesson(pack_lesson(blend.lesson(CONTEXT, {"colour": "red"})))
    assert both.columns == (len(both.own), len(both.shared)) == (OWN.dimension, blend.dimension)
    assert both.own.tolist() == OWN.vector(CONTEXT).tolist()


def test_a_choice_takes_three_bytes_for_each_column_that_is_not_0() -> None:
    """It is kept with every open decision, and travels with every outcome."""
    lesson = Blend(*nothing()).lesson({"device": "phone", "hour": 13}, {"colour": "red"})
    assert len(pack_lesson(lesson)) == HEAD_BYTES + 3 * (3 + 2)


def raw_of(head: list[int], places: list[int], values: list[int]) -> bytes:
    """A choice's bytes by hand: kind, columns of the action, of the context less one; the rest of the head is 0."""
    return bytes(head) + bytes(6) + bytes(places) + struct.pack(f"<{len(values)}h", *values)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        raw_of([1, 0, 7], [0], [1_024])[:-1],
        raw_of([0, 0, 7], [0], [1_024]),
        raw_of([4, 0, 7], [0], [1_024]),
        raw_of([1, 2, 7], [0], [1_024]),
        raw_of([3, 0, 7], [0], [1_024]),
        raw_of([1, 0, 7], [8], [1_024]),
        raw_of([1, 0, 7], [3, 3], [1_024, 1_024]),
        raw_of([1, 0, 7], [3, 2], [1_024, 1_024]),
        raw_of([1, 0, 7], [0], [0]),
        raw_of([1, 0, 7], [0], [16_385]),
        raw_of([1, 0, 7], [0], [-32_768]),
        raw_of([3, 200, 99], [0], [1_024]),
    ],
    ids=["nothing", "cut short", "nobody learns", "kind 4", "own with an action", "shared without one", "column 9 of 8",
         "a column twice", "columns out of order", "a value of 0", "a value too large", "the lowest value",
         "300 columns"],
)  # fmt: skip
def test_a_choice_that_nobody_here_has_written_is_refused(raw: bytes) -> None:
    """Decisions come in over the API too: absurd vectors must not grow the learner's memory or break its sums."""
    with pytest.raises(ValueError):
        read_lesson(raw)


def packed_lessons() -> list[bytes]:
    """Choices of every kind of model."""
    models = (ArmRidges(SPACE, empty()), SharedRidge(ACTIONS, CONTEXTS, shared([])), Blend(*nothing()))
    contexts = (CONTEXT, {"device": "phone"}, {})
    return [pack_lesson(model.lesson(context, {"colour": "red"})) for model in models for context in contexts]


@st.composite
def altered(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """One of these with up to two bytes replaced by any; one of its columns left out, or one more, or at its bounds."""
    raw = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 2))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    columns = (len(raw) - HEAD_BYTES) // 3
    match draw(st.sampled_from(["as it is", "as it is", "less", "more", "cut", "bounds", "bounds"])):
        case "less" if columns:
            del raw[HEAD_BYTES + columns - 1], raw[-2:]
        case "more":
            raw.insert(HEAD_BYTES + columns, draw(st.integers(0, 255)))
            raw += struct.pack("<h", draw(st.integers(-(2**15), 2**15 - 1)))
        case "bounds" if columns:
            at = HEAD_BYTES + columns + 2 * draw(st.integers(0, columns - 1))
            raw[at : at + 2] = struct.pack("<h", draw(st.sampled_from([0, 16 * GRID, 16 * GRID + 1, -16 * GRID - 1])))
        case "cut":
            del raw[draw(st.integers(0, len(raw))) :]
    return bytes(raw)


def test_any_bytes_are_a_choice_or_refused() -> None:
    """What is taken is what would have been written, byte for byte."""
    taken: Counter[bool] = Counter()

    @settings(max_examples=200)
    @given(altered(packed_lessons()))
    def is_either(raw: bytes) -> None:
        found = read_or_refused(raw)
        taken[found is not None] += 1
        assert found is None or pack_lesson(found) == raw

    is_either()
    assert min(taken[True], taken[False]) > 10, taken


def read_or_refused(raw: bytes) -> Lesson | None:
    try:
        return read_lesson(raw)
    except ValueError:
        return None


def test_spaces_too_large_to_learn_from_are_refused() -> None:
    with pytest.raises(ValueError, match="256"):
        FeatureSpace(257)
    with pytest.raises(ValueError, match=r"200 \+ 100"):
        shared_space(FeatureSpace(200), FeatureSpace(100))


# Products, and columns that are shared


@given(features, features)
def test_products_without_a_column_each_are_added_up_by_a_frozen_hash(
    action: dict[str, object], context: dict[str, object]
) -> None:
    """32 x 64 products in 256 columns: what `crossed` adds up is what a model's weights are read from."""
    a, c = ACTIONS_OF_BLEND.vector(action), CONTEXTS_OF_BLEND.vector(context)
    table = crossing(len(a), len(c))
    expected = np.zeros(256)
    for i, j in np.argwhere(np.outer(a != 0, c != 0)):
        expected[table.places[i, j]] += table.signs[i, j] * np.rint(float(a[i]) * float(c[j]) / GRID)
    assert crossed(a, c).tolist() == np.clip(expected, -16 * GRID, 16 * GRID).tolist()


def test_an_actions_own_columns_keep_a_column_each_in_the_product() -> None:
    """What an action's features say by themselves must not be blurred by what they say together with a context."""
    table = crossing(ACTIONS_OF_BLEND.dimension, CONTEXTS_OF_BLEND.dimension)
    assert table.places[:, 0].tolist() == list(range(32))
    assert table.places[:, 1:].min() == 32
    assert table.places.max() == 255
    assert int(table.places[5, 7]) == GOLDEN_PLACE


@given(st.lists(st.integers(-16 * GRID, 16 * GRID), min_size=1, max_size=80), st.integers(2, 40))
def test_a_folded_vector_has_every_value_once_and_the_constant_alone(values: list[int], columns: int) -> None:
    found = folded(np.array(values, np.int16), columns)
    if len(values) <= columns:
        assert found.tolist() == values
        return
    assert len(found) == columns
    assert found[0] == values[0]
    sums = [sum(values[at :: columns - 1]) for at in range(1, columns)]
    assert found[1:].tolist() == [max(-16 * GRID, min(16 * GRID, one)) for one in sums]


@settings(deadline=None)
@given(st.lists(st.tuples(features, features, st.sampled_from(["own", "shared", "both"])), max_size=8))
def test_vectors_made_together_are_those_made_one_by_one(
    found: list[tuple[dict[str, object], dict[str, object], str]],
) -> None:
    """Of lessons of different shapes, too, in their order."""
    blend = Blend(*nothing())
    models = {"own": ArmRidges(SPACE, empty()), "shared": SharedRidge(ACTIONS, CONTEXTS, shared([])), "both": blend}
    lessons = [models[who].lesson(context, action) for action, context, who in found]
    owns, shareds = vectors_of(lessons)
    for lesson, own, one in zip(lessons, owns, shareds, strict=True):
        assert (own is not None, one is not None) == (lesson.is_own, lesson.is_shared)
        assert own is None or own.tolist() == lesson.own.tolist()
        assert one is None or one.tolist() == lesson.shared.tolist()


def test_a_context_that_changed_in_place_is_another_context() -> None:
    """The vector of the scores is used again for the lesson, but only while the context is the same."""
    blend, context = Blend(*nothing()), {"device": "phone"}
    blend.scores(["a"], context, ())
    before = blend.lesson(context, {})
    context["device"] = "desk"
    assert blend.lesson(context, {}).context.tolist() != before.context.tolist()

"""Linear statistics and models: sums that merge to the same bits, and the same means as River's ridge."""

import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river import linear_model

from pipeline.core.features import GRID
from pipeline.core.linear import (
    FORGET_MIN,
    SHARED,
    TOGETHER_COLUMNS_MAX,
    WEIGHT,
    LinearDelta,
    eta_of,
    learn,
    merge,
    precision_of,
    weight_of,
)
from pipeline.core.linear_model import ArmRidges, RidgeRules, SharedRidge
from schemas.linear import LinearStatistics, decode, encode
from tests.core.linear_rig import (
    ACTIONS,
    CONTEXT,
    CONTEXTS,
    DAY_MS,
    MICROS,
    SPACE,
    TRAINED,
    empty,
    features,
    learnt,
    played,
    shared,
)

# Sums

deltas = st.builds(
    LinearDelta,
    st.sampled_from("abc"),
    features.map(SPACE.vector),
    st.integers(0, 1),
    st.integers(-MICROS, MICROS),
    st.integers(WEIGHT, 64 * WEIGHT),
    st.integers(0, 2**45),
)


@settings(deadline=None)
@given(st.lists(deltas, max_size=30), st.integers(1, 4), st.integers(0, 2**32).map(random.Random))
def test_any_order_and_any_sharding_give_the_same_bits(
    found: list[LinearDelta], count: int, rng: random.Random
) -> None:
    """In whole numbers nothing is rounded: not nearly the same, the same."""
    shards = [empty() for _ in range(count)]
    shuffled = list(found)
    rng.shuffle(shuffled)
    for delta in shuffled:
        learn(rng.choice(shards), [delta])
    rng.shuffle(shards)
    merged = merge(shards)
    assert merged.arms == learnt(found).arms


@settings(deadline=None)
@given(st.lists(deltas, max_size=10), st.lists(deltas, max_size=10), st.lists(deltas, max_size=10))
def test_merging_is_associative_and_has_a_neutral_element(
    one: list[LinearDelta], two: list[LinearDelta], three: list[LinearDelta]
) -> None:
    a, b, c = learnt(one), learnt(two), learnt(three)
    before = encode(a)
    assert merge([merge([a, b]), c]).arms == merge([a, merge([b, c])]).arms == merge([c, b, a]).arms
    assert merge([a, empty()]).arms == a.arms
    assert encode(a) == before, "a shard that was merged has changed"


def test_a_late_reward_and_its_correction_are_as_if_known_at_once() -> None:
    """The trial first, its reward days later, a part of it taken back: the same sums, to the last bit."""
    vector = SPACE.vector(CONTEXT)
    late = learnt(played(50))
    learn(late, [LinearDelta("a", vector, 1, 0)])
    learn(late, played(50, seed=8))
    learn(late, [LinearDelta("a", vector, 0, MICROS)])
    learn(late, [LinearDelta("a", vector, 0, -400_000)])
    at_once = learnt([*played(50), *played(50, seed=8), LinearDelta("a", vector, 1, 600_000)])
    assert late.arms == at_once.arms


def test_thousands_of_outcomes_of_the_largest_values_are_still_exact() -> None:
    """At once or one after the other: the fast products in floating point round nothing either."""
    rng = np.random.default_rng(3)
    found = [
        LinearDelta("a", rng.integers(-16 * GRID, 16 * GRID + 1, 8).astype(np.int16), 1, MICROS - int(n), 64 * WEIGHT)
        for n in rng.integers(0, 1_000, 5_000)
    ]
    statistics = learnt(found)
    rows = np.array([delta.vector for delta in found], object)
    whole = rows.T @ (rows * (64 * WEIGHT))
    assert np.frombuffer(statistics.arms["a"].precision, "<i8").tolist() == whole[np.triu_indices(8)].tolist()
    rewards = np.array([delta.reward_micros * delta.weight for delta in found], object)
    assert np.frombuffer(statistics.arms["a"].eta, "<i8").tolist() == (rewards @ rows).tolist()


@settings(deadline=None)
@given(st.lists(deltas, max_size=30))
def test_wide_vectors_are_summed_to_the_same_bits_as_narrow_ones(found: list[LinearDelta]) -> None:
    """Wide ones arm by arm, narrow ones all arms at once: columns of nothing change no sum."""
    narrow, wide, dimension = learnt(found), LinearStatistics(0, TOGETHER_COLUMNS_MAX + 9, {}), SPACE.dimension
    learn(wide, [delta._replace(vector=np.resize(delta.vector, wide.dimension) * _first(wide)) for delta in found])
    assert wide.arms.keys() == narrow.arms.keys()
    for action_id, arm in wide.arms.items():
        known = narrow.arms[action_id]
        assert (arm.trials, arm.reward_micros, arm.weight) == (known.trials, known.reward_micros, known.weight)
        inside = precision_of(arm, wide.dimension)[:dimension, :dimension]
        assert (inside == precision_of(known, dimension)).all()
        assert (eta_of(arm, wide.dimension)[:dimension] == eta_of(known, dimension)).all()


def _first(wide: LinearStatistics) -> NDArray[np.int16]:
    """1 in the columns that a narrow vector has, 0 in the others."""
    return (np.arange(wide.dimension) < SPACE.dimension).astype(np.int16)


def test_a_vector_of_another_dimension_is_refused_whole() -> None:
    statistics = learnt(played(20))
    before = encode(statistics)
    with pytest.raises(ValueError, match="shape"):
        learn(statistics, [*played(5), LinearDelta("a", ACTIONS.vector({}), 1, 0)])
    assert encode(statistics) == before


def test_statistics_of_another_space_neither_merge_nor_make_a_model() -> None:
    other = LinearStatistics(SPACE.fingerprint + 1, SPACE.dimension, {})
    with pytest.raises(ValueError, match="expected"):
        merge([TRAINED, other])
    with pytest.raises(ValueError, match="has changed"):
        ArmRidges(SPACE, other)


def test_statistics_survive_their_encoding() -> None:
    assert decode(encode(TRAINED)) == TRAINED


def test_damaged_statistics_are_refused() -> None:
    """A precision cut short must not become a model."""
    arm = TRAINED.arms["a"]
    cut = LinearStatistics(SPACE.fingerprint, SPACE.dimension, {"a": msgspec.structs.replace(arm, eta=arm.eta[:-8])})
    with pytest.raises(msgspec.ValidationError, match="'a'"):
        decode(encode(cut))


def test_forgetting_weighs_a_trial_and_its_late_reward_alike() -> None:
    """Forward decay: by the decision's own day, so sums stay sums; what is 1,000 days old counts e^-1."""
    assert weight_of(0, 0, 1.0) == weight_of(400 * DAY_MS, 0, 1.0) == WEIGHT
    assert weight_of(1_000 * DAY_MS, 0, FORGET_MIN) / WEIGHT == pytest.approx(math.e, rel=0.01)
    with pytest.raises(ValueError, match=r"0\.9"):
        weight_of(0, 0, 0.9)
    vector = SPACE.vector({})
    old = [LinearDelta("a", vector, 1, 0)] * 100
    today = weight_of(1_000 * DAY_MS, 0, FORGET_MIN)
    new = [LinearDelta("a", vector, 1, MICROS, today)] * 100
    rules = RidgeRules(alpha=1e-9, today=today)
    found = ArmRidges(SPACE, learnt(old + new), rules).scores(["a"], {}, ())
    assert found[0] == pytest.approx(today / (today + WEIGHT), abs=1e-6)


# Models


def test_a_ridge_is_rivers_bayesian_regression_given_the_same_vectors() -> None:
    """To 1e-12, at every step; the prior of 0 is River's."""
    river = {action: linear_model.BayesianLinearRegression() for action in "abc"}
    statistics = empty()
    model = None
    for delta in played(200):
        learn(statistics, [delta])
        x = dict(enumerate((delta.vector / GRID).tolist()))
        river[delta.action_id].learn_one(x, delta.reward_micros / MICROS)
        model = ArmRidges(SPACE, statistics, RidgeRules(prior_mean=0.0), model)
        assert set(statistics.arms) <= set(river)
        for action in statistics.arms:
            ours = model._means[model._rows[action]] @ (delta.vector / GRID)
            assert ours == pytest.approx(river[action].predict_one(x), abs=1e-12)
        assert model.scores([delta.action_id], {}, ()) == pytest.approx(
            [river[delta.action_id].predict_one({0: 1.0})], abs=1e-9
        )


def test_an_action_nobody_has_tried_gets_the_prior() -> None:
    model = ArmRidges(SPACE, TRAINED, RidgeRules(prior_mean=0.05))
    assert model.scores(["new"], CONTEXT, ()).tolist() == [0.05]
    untrained = SharedRidge(ACTIONS, CONTEXTS, shared([]), RidgeRules(prior_mean=0.05))
    assert untrained.scores(["a", "b"], CONTEXT, [{"colour": "red"}, {}]).tolist() == [0.05, 0.05]


def test_a_new_action_is_known_by_its_features() -> None:
    """Red earns, blue does not: an id never seen before gets the score of its colour."""
    untrained = SharedRidge(ACTIONS, CONTEXTS, shared([]))
    rng = random.Random(4)
    found = []
    for _ in range(400):
        colour = rng.choice(["red", "blue"])
        vector = untrained.lesson({"age": rng.randrange(60)}, {"colour": colour}).shared
        found.append(LinearDelta(SHARED, vector, 1, MICROS * (colour == "red")))
    model = SharedRidge(ACTIONS, CONTEXTS, shared(found), before=untrained)
    red, blue = model.scores(["new1", "new2"], {"age": 30}, [{"colour": "red"}, {"colour": "blue"}])
    assert red == pytest.approx(1.0, abs=0.1)
    assert blue == pytest.approx(0.0, abs=0.1)


@settings(deadline=None)
@given(st.lists(features, min_size=1, max_size=6), features)
def test_the_shared_models_scores_are_those_of_the_vectors_that_are_learnt(
    actions: list[dict[str, object]], context: dict[str, object]
) -> None:
    """a' W c in one product is the ridge's weights times the logged vector, but for its rounding to 1/1024."""
    rng = np.random.default_rng(1)
    rows = rng.integers(-GRID, GRID, (50, 12)).astype(np.int16)
    model = SharedRidge(ACTIONS, CONTEXTS, shared([LinearDelta(SHARED, row, 1, MICROS // 2) for row in rows]))
    got = model.scores([str(number) for number in range(len(actions))], context, actions)
    weights = model._weights.reshape(-1)
    for score, action in zip(got, actions, strict=True):
        vector = model.lesson(context, action).shared
        is_clipped = np.abs(vector.astype(int)).max() == 16 * GRID
        assert is_clipped or score == pytest.approx(weights @ vector / GRID, abs=np.abs(weights).sum() / GRID)


def test_actions_that_did_not_change_are_taken_over_from_the_version_before() -> None:
    statistics = learnt(played(300))
    before = ArmRidges(SPACE, statistics)
    learn(statistics, [LinearDelta("a", SPACE.vector(CONTEXT), 1, MICROS), LinearDelta("d", SPACE.vector({}), 1, 0)])
    again = ArmRidges(SPACE, statistics, before=before)
    anew = ArmRidges(SPACE, statistics)
    ids = ["a", "b", "c", "d", "e"]
    assert again.scores(ids, CONTEXT, ()).tolist() == anew.scores(ids, CONTEXT, ()).tolist()
    assert again.scores(["a"], CONTEXT, ()).tolist() != before.scores(["a"], CONTEXT, ()).tolist()

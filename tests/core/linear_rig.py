"""What the tests of linear policies share: spaces of features, outcomes, and what was learnt from them."""

import random

from hypothesis import strategies as st

from pipeline.core.features import FeatureSpace
from pipeline.core.linear import (
    LinearDelta,
    learn,
)
from pipeline.core.linear_model import ArmRidges, LinearModel, shared_space
from pipeline.core.linear_policy import LINEAR_POLICIES, LinearPolicy, LinearRules
from pipeline.core.policy import PolicyRules
from schemas.linear import LinearStatistics
from schemas.model import ArmStatistics

MICROS = 1_000_000
DAY_MS = 86_400_000
SPACE = FeatureSpace(8, ("age", "visits"), seed=1)
ACTIONS, CONTEXTS = FeatureSpace(4, seed=2), FeatureSpace(3, ("age",), seed=3)


def empty() -> LinearStatistics:
    return LinearStatistics(SPACE.fingerprint, SPACE.dimension, {})


def played(count: int, seed: int = 7) -> list[LinearDelta]:
    """Outcomes of three actions whose rewards depend on the context in different ways."""
    rng = random.Random(seed)
    deltas = []
    for _ in range(count):
        visits, device = rng.random() * 5, rng.choice(["phone", "desk"])
        context = {"age": rng.randrange(80), "visits": visits, "device": device}
        action = rng.choice("abc")
        chance = {"a": 0.2, "b": 0.5 * (device == "phone"), "c": visits / 10}[action]
        deltas.append(LinearDelta(action, SPACE.vector(context), 1, MICROS * (rng.random() < chance)))
    return deltas


def learnt(deltas: list[LinearDelta]) -> LinearStatistics:
    statistics = empty()
    learn(statistics, deltas)
    return statistics


def arms_of(statistics: LinearStatistics) -> dict[str, ArmStatistics]:
    return {action: ArmStatistics(arm.trials, arm.reward_micros) for action, arm in statistics.arms.items()}


def policy_of(
    name: str, statistics: LinearStatistics, model: LinearModel | None = None, linear: LinearRules | None = None
) -> LinearPolicy:
    made = model if model is not None else ArmRidges(SPACE, statistics)
    return LINEAR_POLICIES[name](arms_of(statistics), PolicyRules(), made, linear)


TRAINED = learnt(played(600))
CONTEXT = {"age": 33, "visits": 2.5, "device": "phone"}

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63) + 1, 2**63 - 1) | st.booleans()
values = numbers | st.text(max_size=12) | st.none()
features = st.dictionaries(st.sampled_from(["age", "visits", "device", "x", "y", "z"]), values, max_size=6)


def shared(found: list[LinearDelta]) -> LinearStatistics:
    statistics = LinearStatistics(*space_of_shared(), {})
    learn(statistics, found)
    return statistics


def space_of_shared() -> tuple[int, int]:
    return shared_space(ACTIONS, CONTEXTS), ACTIONS.dimension * CONTEXTS.dimension

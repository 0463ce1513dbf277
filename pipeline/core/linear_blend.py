"""The linear model of a placement: what its actions' features say of each, and what each one's own record says.

One ridge over actions' features x context knows something of every action, also of one that was never shown; a ridge
for each action knows its own taste, once there are trials enough. A score is between the two: the more trials, the more
the action's own ridge counts. (Measured, regret over 2,000 rounds, 3 seeds: clicks on 34 actions with features .057,
where the first alone has .063, the second .067 and epsilon-greedy .112; 7 classes without features at a floor of 1 % in
all .16, as the second alone, where the first knows nothing.)

Which columns there are is the same for every placement: nothing has to be set, and what one delivery has logged any
other can learn from. Categories and all that is not named here share columns by a hash.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Final, NamedTuple

import numpy as np

from pipeline.core.features import GRID, FeatureSpace, FoldedSpace, Vector, crossed_columns, folded
from pipeline.core.linear import OWN_COLUMNS, Lesson
from pipeline.core.linear_model import DECIMALS, ArmRidges, Floats, RidgeRules, SharedRidge, shared_space
from schemas.linear import LinearStatistics

CONTEXTS: Final = FeatureSpace(64, ("profile.visits", "profile.events", "profile.purchases"), seed=1)
OWN: Final = FoldedSpace(CONTEXTS, OWN_COLUMNS)
ACTIONS: Final = FeatureSpace(32, seed=2)
OWN_TRIALS: Final = 100.0
"""An action's own ridge counts half once it has learnt from so many trials."""


class _Actions(NamedTuple):
    """Some actions, and what one version of a model knows of each: its own weights, its features, which of both counts.

    own: shape (K, OWN_COLUMNS). vectors: shape (K, columns of ACTIONS). trust: shape (K,), of its own ridge.
    """

    ids: list[str]
    features: list[Mapping[str, object]]
    own: Floats
    vectors: Floats
    trust: Floats


class Blend:
    """One version of a placement's linear model (a LinearModel). Its scores are asked for by one thread."""

    space: Final = shared_space(ACTIONS, CONTEXTS)
    dimension: Final = crossed_columns(ACTIONS.dimension, CONTEXTS.dimension)

    def __init__(
        self,
        own: LinearStatistics,
        shared: LinearStatistics,
        rules: RidgeRules | None = None,
        before: "Blend | None" = None,
    ) -> None:
        """own, shared: sums as `nothing` begins them. before: the version before, of which the unchanged is taken over.

        Raises ValueError where the sums are of other feature spaces.
        """
        own_before, shared_before = (before.own, before.shared) if before is not None else (None, None)
        self.own: ArmRidges = ArmRidges(OWN, own, rules, own_before)
        self.shared: SharedRidge = SharedRidge(ACTIONS, CONTEXTS, shared, rules, shared_before)
        self.trials, self.reward_micros = self.shared.trials, self.shared.reward_micros
        trials = np.array([0, *(arm.trials for arm in self.own.arms.values())], np.float64)
        self._trust = trials / (trials + OWN_TRIALS)
        self._last: _Actions | None = None
        self._seen: tuple[Mapping[str, object], Vector] = {}, CONTEXTS.vector({})

    def apart(self) -> "Blend":
        """See LinearModel."""
        found = copy(self)
        found.shared, found._last = self.shared.apart(), None
        return found

    def scores(
        self, action_ids: Sequence[str], context: Mapping[str, object], features: Sequence[Mapping[str, object]]
    ) -> Floats:
        """See LinearModel."""
        vector = self._vector(context)
        actions = self._gathered(action_ids, features)
        own = actions.own @ (folded(vector, OWN_COLUMNS) / GRID)
        shared = actions.vectors @ self.shared.by_action(vector)
        found: Floats = np.round(shared + actions.trust * (own - shared), DECIMALS)
        return found

    def _gathered(self, action_ids: Sequence[str], features: Sequence[Mapping[str, object]]) -> "_Actions":
        """What is known of these actions. A placement mostly asks for the same ones again: then it is at hand."""
        ids, last = [*action_ids], self._last
        if last is not None and last.ids == ids and last.features == features:
            return last
        rows = self.own.rows(ids)
        vectors = self.shared.vectors(len(rows), features)
        self._last = _Actions(ids, [*features], self.own.weights_of(rows), vectors, self._trust[rows])
        return self._last

    def _vector(self, context: Mapping[str, object]) -> Vector:
        """The context's vector: asked for the scores, and at once again for the lesson of what was chosen."""
        seen = self._seen
        if seen[0] != context:
            seen = self._seen = dict(context), CONTEXTS.vector(context)
        return seen[1]

    def lesson(self, context: Mapping[str, object], features: Mapping[str, object]) -> Lesson:
        """See LinearModel: both ridges learn from it."""
        return Lesson(self.space, ACTIONS.vector(features), self._vector(context), is_own=True, is_shared=True)


def nothing() -> tuple[LinearStatistics, LinearStatistics]:
    """Return the sums, the actions' own and those of all, of a placement that nothing is known of."""
    return LinearStatistics(OWN.fingerprint, OWN.dimension), LinearStatistics(Blend.space, Blend.dimension)

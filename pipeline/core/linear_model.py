"""Linear models made from sums: one ridge for each action, or one over actions x context for many and new actions.

A ridge here is the posterior mean of River's BayesianLinearRegression (alpha = beta = 1) given the same vectors: a test
holds them equal to 1e-12. River's objects are not used to decide: in a loop they cost 19 us an action, the stacked
means cost 0.1. A model is made once for each version of the statistics and then only read.

Scores are rounded to 1e-9: what two actions with the same sums get must not differ by how a matrix product adds up,
since the best ones share what the others leave; and another machine's last bits then change hardly any decision.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Final, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features import (
    DIMENSION_MAX,
    GRID,
    FeatureSpace,
    FoldedSpace,
    Vector,
    crossed_columns,
    crossing,
)
from pipeline.core.linear import SHARED, WEIGHT, Lesson, eta_of, precision_of
from schemas.linear import LinearArm, LinearStatistics

Floats = NDArray[np.float64]
DECIMALS: Final = 9
SOLVED_AT_ONCE: Final = 256
ACTIONS_CACHED_MAX: Final = 20_000
_NOTHING: Final = LinearArm()
_NO_COLUMNS: Final = np.zeros(0, np.int16)


class RidgeRules(NamedTuple):
    """The prior of a ridge.

    alpha: precision of each weight around the prior. prior_mean: expected reward of an action nothing is known of
    (the constant column's prior weight). today: weight of a decision made now (see `weight_of`).
    """

    alpha: float = 1.0
    prior_mean: float = 0.02
    today: int = WEIGHT


class LinearModel(Protocol):
    """One version of a placement's linear model."""

    @property
    def space(self) -> int:
        """Fingerprint of what its vectors are made by; statistics of another one are not its own."""

    @property
    def dimension(self) -> int:
        """Of the vectors that are learnt from."""

    @property
    def trials(self) -> int:
        """How many choices it has learnt from."""

    @property
    def reward_micros(self) -> int:
        """What they have earned in all, in millionths."""

    def apart(self) -> Self:
        """Return the same model for another thread: scores of one are asked for by one thread."""

    def scores(
        self, action_ids: Sequence[str], context: Mapping[str, object], features: Sequence[Mapping[str, object]]
    ) -> Floats:
        """Return each action's expected reward, shape (K,). Raises ValueError for a number that is not finite."""

    def lesson(self, context: Mapping[str, object], features: Mapping[str, object]) -> Lesson:
        """Return what is logged and learnt from of a choice: the vector behind its score."""


class ArmRidges:
    """One ridge for each action over the context: each action's own taste; for up to some hundreds of actions."""

    def __init__(
        self,
        space: FeatureSpace | FoldedSpace,
        statistics: LinearStatistics,
        rules: RidgeRules | None = None,
        before: "ArmRidges | None" = None,
    ) -> None:
        """before: the version before of the same model; actions whose sums are the same are taken over from it.

        Raises ValueError where the statistics are of another feature space.
        """
        _check(statistics, space.fingerprint, space.dimension)
        self.space, self.dimension = space.fingerprint, space.dimension
        self.rules = rules if rules is not None else RidgeRules()
        self._space = space
        self._arms = dict(statistics.arms)
        self._rows = {action_id: row for row, action_id in enumerate(self._arms, 1)}  # row 0: the prior
        self._means = np.empty((len(self._arms) + 1, self.dimension))
        self._means[0] = prior_weights(self.dimension, self.rules)
        self.trials = sum(arm.trials for arm in self._arms.values())
        self.reward_micros = sum(arm.reward_micros for arm in self._arms.values())
        self._make(before if before is not None and before.rules == self.rules else None)

    def _make(self, before: "ArmRidges | None") -> None:
        changed = []
        for action_id, row in self._rows.items():
            known = before._arms.get(action_id) if before is not None else None
            if before is not None and (known is self._arms[action_id] or known == self._arms[action_id]):
                self._means[row] = before._means[before._rows[action_id]]
            else:
                changed.append(action_id)
        for at in range(0, len(changed), SOLVED_AT_ONCE):
            part = changed[at : at + SOLVED_AT_ONCE]
            arms = [self._arms[action_id] for action_id in part]
            self._means[[self._rows[action_id] for action_id in part]] = weights(arms, self.dimension, self.rules)

    def scores(
        self, action_ids: Sequence[str], context: Mapping[str, object], features: Sequence[Mapping[str, object]]
    ) -> Floats:
        """See LinearModel. Actions' features play no part."""
        weights_of = self.weights_of(self.rows(action_ids))
        found: Floats = np.round(weights_of @ (self._space.vector(context) / GRID), DECIMALS)
        return found

    def rows(self, action_ids: Sequence[str]) -> list[int]:
        """Return each action's row, in the same order; 0 is the prior's, of those that nothing is known of."""
        row_of = self._rows.get
        return [row_of(action_id, 0) for action_id in action_ids]

    def weights_of(self, rows: Sequence[int]) -> Floats:
        """Return the weights of these rows, shape (len(rows), dimension)."""
        found: Floats = self._means[rows]
        return found

    @property
    def arms(self) -> Mapping[str, LinearArm]:
        """The sums it was made from, in the order of the rows from 1 on."""
        return self._arms

    def apart(self) -> "ArmRidges":
        """See LinearModel: nothing here ever changes."""
        return self

    def lesson(self, context: Mapping[str, object], features: Mapping[str, object]) -> Lesson:
        """See LinearModel: the context alone."""
        return Lesson(self.space, _NO_COLUMNS, self._space.vector(context))


class SharedRidge:
    """One ridge over actions' features x context: a new action is known by its features; for any number of actions.

    An action's score is a' W c, with a and c the vectors of its features and of the context: W c once a decision.
    """

    def __init__(
        self,
        actions: FeatureSpace,
        contexts: FeatureSpace,
        statistics: LinearStatistics,
        rules: RidgeRules | None = None,
        before: "SharedRidge | None" = None,
    ) -> None:
        """actions, contexts: the spaces of both. before: the version before, whose actions' vectors are taken over.

        Raises ValueError where the statistics are of other feature spaces, or these have too many columns.
        """
        self.space = shared_space(actions, contexts)
        self.dimension = crossed_columns(actions.dimension, contexts.dimension)
        _check(statistics, self.space, self.dimension)
        self.rules = rules if rules is not None else RidgeRules()
        self._actions, self._contexts = actions, contexts
        arm = statistics.arms.get(SHARED, _NOTHING)
        self.trials, self.reward_micros = arm.trials, arm.reward_micros
        made = weights([arm], self.dimension, self.rules)[0]
        table = crossing(actions.dimension, contexts.dimension)
        self._weights: Floats = made[table.places] * table.signs
        self._cache: _ActionVectors
        is_same = before is not None and before._actions == actions
        self._cache = before._cache if before is not None and is_same else _ActionVectors(actions)

    def apart(self) -> "SharedRidge":
        """Return the same ridge for another thread: with a cache of its own, which is all that ever changes here."""
        found = copy(self)
        found._cache = _ActionVectors(self._actions)
        return found

    def scores(
        self, action_ids: Sequence[str], context: Mapping[str, object], features: Sequence[Mapping[str, object]]
    ) -> Floats:
        """See LinearModel. Actions without features (or beyond their list) have the constant column alone."""
        vectors = self.vectors(len(action_ids), features)
        found: Floats = np.round(vectors @ self.by_action(self._contexts.vector(context)), DECIMALS)
        return found

    def by_action(self, context: Vector) -> Floats:
        """Return W c: what each column of an action's adds in this context."""
        found: Floats = self._weights @ (context / GRID)
        return found

    def vectors(self, count: int, features: Sequence[Mapping[str, object]]) -> Floats:
        """Return the vectors of `count` actions with these features, shape (count, columns of an action)."""
        given = features if len(features) == count else [*features, *[{}] * (count - len(features))]
        return self._cache.matrix(given)

    def lesson(self, context: Mapping[str, object], features: Mapping[str, object]) -> Lesson:
        """See LinearModel: both vectors, of whose columns' products it learns."""
        action, found = self._actions.vector(features), self._contexts.vector(context)
        return Lesson(self.space, action, found, is_own=False, is_shared=True)


class _ActionVectors:
    """Vectors of action features that were seen before: hashing a thousand actions anew would cost milliseconds.

    Equal keys have equal vectors (True, 1 and 1.0 are one number), so what is cached changes no score. For one thread:
    two that add at once could give one row to two keys.
    """

    def __init__(self, space: FeatureSpace) -> None:
        self._space = space
        self._rows: dict[tuple[tuple[str, object], ...], int] = {}
        self._known: Floats = np.empty((64, space.dimension))

    def matrix(self, features: Sequence[Mapping[str, object]]) -> Floats:
        """Return the vectors, shape (K, dimension)."""
        if len(self._rows) > ACTIONS_CACHED_MAX:
            self._rows, self._known = {}, np.empty((64, self._space.dimension))
        row_of = self._rows.get
        keys = [tuple(one.items()) for one in features]
        rows = [row_of(key, -1) for key in keys]
        if -1 in rows:
            rows = [self._row(key) if row < 0 else row for key, row in zip(keys, rows, strict=True)]
        found: Floats = self._known[rows]
        return found

    def _row(self, key: tuple[tuple[str, object], ...]) -> int:
        row = self._rows.get(key)
        if row is None:
            vector = self._space.vector(dict(key))
            row = len(self._rows)
            if row == len(self._known):
                self._known = np.resize(self._known, (2 * row, self._space.dimension))
            self._known[row] = vector / GRID
            self._rows[key] = row
        return row


def shared_space(actions: FeatureSpace, contexts: FeatureSpace) -> int:
    """Return the fingerprint of the products of two spaces. Raises ValueError where they have too many columns."""
    columns = actions.dimension + contexts.dimension
    if columns > DIMENSION_MAX:
        raise ValueError(
            f"feature spaces: {actions.dimension} + {contexts.dimension} = {columns} columns, "
            f"expected at most {DIMENSION_MAX}"
        )
    return (actions.fingerprint * 31 + contexts.fingerprint) % 2**48


def prior_weights(dimension: int, rules: RidgeRules) -> Floats:
    """Return the prior's weights, shape (dimension,): the constant column expects the prior mean."""
    prior = np.zeros(dimension)
    prior[0] = rules.prior_mean
    return prior


def weights(arms: Sequence[LinearArm], dimension: int, rules: RidgeRules) -> Floats:
    """Return the arms' posterior means, shape (len(arms), dimension): (alpha I + A)^-1 (alpha prior + eta)."""
    now = rules.today / WEIGHT
    precisions = np.empty((len(arms), dimension, dimension))
    etas = np.empty((len(arms), dimension))
    for at, arm in enumerate(arms):
        precisions[at] = precision_of(arm, dimension)
        etas[at] = eta_of(arm, dimension)
    precisions /= now
    etas /= now
    etas += rules.alpha * prior_weights(dimension, rules)
    diagonal = np.arange(dimension)
    precisions[:, diagonal, diagonal] += rules.alpha
    solved = np.linalg.solve(precisions, etas[:, :, None])[:, :, 0]
    return solved.astype(np.float64, copy=False)


def _check(statistics: LinearStatistics, space: int, dimension: int) -> None:
    if (statistics.space, statistics.dimension) != (space, dimension):
        raise ValueError(
            f"linear statistics of space {statistics.space} (dimension {statistics.dimension}), "
            f"expected {space} ({dimension}): the placement's feature space has changed"
        )

"""What to expect of an action before it was tried: what others of its placement earn, those like it most of all.

Empirical Bayes in two steps, both from the placement's own sums, made when they change and not for each decision:

- The mean of an action of which nothing is known is the mean over actions, each with the weight n / (n + prior_trials)
  of its n trials. Over actions, not over trials: those go to the best, and a new action is not the best. The setting
  prior_mean counts as one action more, so that it is all there is at first and hardly matters later.
- What features (`colour`, `kind`, `price`) add to it is a ridge of the actions' means on their features, each action
  with the same weight. Each feature's effect is drawn to 0 as by one action more that has it and earns no better than
  the mean: what one action alone has counts for about half, what many share for most.

It is worth prior_trials trials (see PolicyRules), of a new action and of one that was tried: what an action has earned
itself soon counts for more. Rounded to 1e-9, so that a sum's last bits do not decide between two actions.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features import GRID, FeatureSpace
from schemas.model import ArmStatistics

MICROS: Final = 1_000_000
DECIMALS: Final = 9
SPACE: Final = FeatureSpace(32)
PENALTY: Final = 1.0
"""Of each feature's effect: as much as one action that was tried for ever."""


class Described(NamedTuple):
    """Actions with features. rows: their vectors without the constant column, shape (len(ids), 31)."""

    ids: tuple[str, ...]
    rows: NDArray[np.float64]


def described(features: Mapping[str, Mapping[str, object]]) -> Described | None:
    """Return the actions that have features, in the order of their ids; None where none has any.

    features: action id -> its features. Raises ValueError for a number that is not finite.
    """
    ids = tuple(sorted(name for name, found in features.items() if found))
    if not ids:
        return None
    return Described(ids, np.array([SPACE.vector(features[name])[1:] for name in ids], np.float64) / GRID)


class Priors(NamedTuple):
    """Expected rewards, 0..1. mean: of an action of which nothing is known. by_action: of those with features."""

    mean: float
    by_action: Mapping[str, float] = {}

    def of(self, action_id: str) -> float:
        """Return an action's."""
        return self.by_action.get(action_id, self.mean)


def priors(
    arms: Mapping[str, ArmStatistics], prior_mean: float, prior_trials: float, known: Described | None = None
) -> Priors:
    """Return what to expect of a placement's actions.

    arms: action id -> its sums. prior_mean, prior_trials: see PolicyRules. known: its actions with features, tried or
    not.
    """
    tried = [(name, arm) for name, arm in sorted(arms.items()) if arm.trials > 0]
    if not tried:
        return Priors(prior_mean)
    trials = np.array([arm.trials for _, arm in tried], np.float64)
    means = np.clip(np.array([arm.reward_micros for _, arm in tried], np.float64) / (MICROS * trials), 0.0, 1.0)
    weights = trials / (trials + prior_trials)
    mean = float((prior_mean + weights @ means) / (1.0 + weights.sum()))
    by_action: dict[str, float] = {}
    if known is not None:
        at = {name: row for row, (name, _) in enumerate(tried)}
        rows = [at.get(name, -1) for name in known.ids]
        added = _added(known.rows, np.append(weights, 0.0)[rows], np.append(means - mean, 0.0)[rows])
        by_action = dict(zip(known.ids, np.clip(mean + added, 0.0, 1.0).round(DECIMALS).tolist(), strict=True))
    return Priors(round(mean, DECIMALS), by_action)


def _added(rows: NDArray[np.float64], weights: NDArray[np.float64], above: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what features add to the mean. weights: 0 for what was not tried. above: how far an action is above it."""
    whole = weights.sum()
    if whole <= 0.0:
        return np.zeros(len(rows))
    centred = rows - weights @ rows / whole
    weighed = centred * weights[:, None]
    precision = centred.T @ weighed + PENALTY * np.eye(rows.shape[1])
    found: NDArray[np.float64] = centred @ np.linalg.solve(precision, weighed.T @ above)
    return found

"""Policies: what share of decisions each action gets, exactly. The bandits are River's; the sums come from the log.

A policy is made once for each version of a placement's model and then only read: a decision costs microseconds. It
says two things: a score for each action, and the probability of each action given the scores of those still in play.
The draw itself is in `decide.py`. Since it uses these very probabilities, the propensity that is logged is exact by
construction, also where the score behind it was computed numerically (Thompson).

These know no context; those that do are in `linear_policy.py`, and all of them in `policies.py`.

What is River and what is ours: the bandit, its reward objects and their prior are River's (`bandit.EpsilonGreedy` over
`stats.BayesianMean`; posteriors are `proba.Beta`), loaded from sums instead of fed one reward at a time. River's `pull`
is not used: it gives no propensity, draws from a generator that cannot be replayed, and gives every tie to the first
action of the request.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, NamedTuple, Self

import numpy as np
import scipy.special
from numpy.typing import NDArray
from river import bandit, proba, stats

from pipeline.core.prior import Priors
from schemas.model import ArmStatistics

MICROS: Final = 1_000_000
THOMPSON_FLOOR: Final = 0.05
THOMPSON_SHARPNESS: Final = 4.0
UCB_GAIN: Final = 0.4
GRID_POINTS: Final = 257
PROPENSITIES_CACHED_MAX: Final = 64


class PolicyRules(NamedTuple):
    """What a policy needs besides the sums.

    epsilon: share of decisions that explore uniformly. prior_mean: expected reward (0..1) of an untried action.
    prior_trials: how many trials that expectation is worth.
    """

    epsilon: float = 0.1
    prior_mean: float = 0.02
    prior_trials: float = 50.0


class Policy(ABC):
    """One placement's policy at one version of its model. Immutable to its readers; safe to share between threads."""

    name: ClassVar[str]

    def __init__(self, arms: Mapping[str, ArmStatistics], rules: PolicyRules, priors: Priors | None = None) -> None:
        """arms: action id -> its sums over the whole log. Actions that are not among them have the prior.

        priors: what to expect of each action at first (see `prior.py`); None = rules.prior_mean of all. They are in no
        log: the scores are, which they are a part of.
        """
        self.arms = dict(arms)
        self.rules = rules
        self.priors = priors if priors is not None else Priors(rules.prior_mean)

    def apart(self) -> Self:
        """Return the same policy for another thread to ask, beside the one that decides."""
        return self

    @abstractmethod
    def scores(self, action_ids: Sequence[str]) -> list[float]:
        """Return one number for each action, in the same order: what `probabilities` weighs."""

    def scores_for(
        self, action_ids: Sequence[str], context: Mapping[str, object], features: Sequence[Mapping[str, object]]
    ) -> list[float]:
        """Return the scores in this context; features: each action's, in the same order. Most policies know neither."""
        return self.scores(action_ids)

    def lesson_for(self, context: Mapping[str, object], features: Mapping[str, object]) -> bytes:
        """Return what the learner needs to know of a choice besides its reward; b"" for policies without context."""
        return b""

    def logged_rules(self) -> dict[str, float]:
        """Return what a log must hold besides the scores, so that the draw can be done again."""
        return self.rules._asdict()

    @classmethod
    def from_log(cls, rules: Mapping[str, float]) -> Self:
        """Return a policy that draws as the logged one did, from logged scores. Raises TypeError for other rules."""
        return cls({}, PolicyRules(**rules))

    @abstractmethod
    def probabilities(self, scores: Sequence[float]) -> list[float]:
        """Return the probability of each action among those whose scores are given (at least one); they sum to 1."""


class EpsilonGreedy(Policy):
    """River's epsilon-greedy over means with a prior: p = epsilon/K + (1 - epsilon) [is best] / ties.

    A prior at the base rate keeps one lucky click of a new action from taking all traffic (BayesianMean: as if
    `prior_trials` trials had already earned the prior each). Best of all on rare rewards without context.
    """

    name = "epsilon_greedy"

    def __init__(self, arms: Mapping[str, ArmStatistics], rules: PolicyRules, priors: Priors | None = None) -> None:
        """See Policy."""
        super().__init__(arms, rules, priors)
        self.river = bandit.EpsilonGreedy(
            epsilon=rules.epsilon, reward_obj=stats.BayesianMean(self.priors.mean, rules.prior_trials)
        )
        self._means: dict[str, float] = dict(self.priors.by_action)
        for action_id, arm in self.arms.items():
            if arm.trials > 0:
                prior = self.priors.of(action_id)
                reward = stats.BayesianMean(prior, rules.prior_trials)  # River's clone() costs 10 times this
                reward._mean = stats.Mean._from_state(arm.trials, arm.reward_micros / (MICROS * arm.trials))
                self.river._rewards[action_id] = reward
                self.river._counts[action_id] = arm.trials
                self.river._n += arm.trials
                self._means[action_id] = float(reward.get())

    def scores(self, action_ids: Sequence[str]) -> list[float]:
        """Return River's estimate of each action's mean reward."""
        means, prior = self._means, self.priors.mean
        return [means.get(action_id, prior) for action_id in action_ids]

    def probabilities(self, scores: Sequence[float]) -> list[float]:
        """Return epsilon/K for each, and the rest shared by the best (ties share it equally)."""
        best = max(scores)
        ties = scores.count(best)
        explore = self.rules.epsilon / len(scores)
        exploit = explore + (1.0 - self.rules.epsilon) / ties
        return [exploit if score == best else explore for score in scores]


class UpperBound(EpsilonGreedy):
    """River's UCB, mixed with exploration: p = epsilon/K + (1 - epsilon) [bound is best] / ties.

    Plain UCB has no propensities: what it does not choose it cannot have chosen. And while rewards are on their way it
    gives everything to one action; so a share of `epsilon` goes evenly to all. Its bonus is for rewards of any size:
    with one of 1 it explores click rates for ever (measured: .10 of the attainable lift, with .05 .71), so it is
    UCB_GAIN deviations of a reward. What was never tried counts as `prior_trials` trials: River's infinite bound would
    give new actions everything, and could not be logged.
    """

    name = "ucb"

    def __init__(self, arms: Mapping[str, ArmStatistics], rules: PolicyRules, priors: Priors | None = None) -> None:
        """See Policy."""
        super().__init__(arms, rules, priors)
        trials = sum(arm.trials for arm in self.arms.values()) + rules.prior_trials
        rewards = sum(arm.reward_micros for arm in self.arms.values()) / MICROS
        rewards += self.priors.mean * rules.prior_trials
        mean = min(max(rewards / trials, 0.0), 1.0) if trials > 0.0 else 0.5
        self.delta = UCB_GAIN * math.sqrt(mean * (1.0 - mean))
        self._logarithm = 2.0 * math.log(max(1.0, trials))

    def scores(self, action_ids: Sequence[str]) -> list[float]:
        """Return each action's upper bound: its mean, and the more the less it was tried."""
        means = super().scores(action_ids)
        return [mean + self._bonus(action_id) for action_id, mean in zip(action_ids, means, strict=True)]

    def _bonus(self, action_id: str) -> float:
        arm = self.arms.get(action_id)
        tried = (max(0, arm.trials) if arm is not None else 0) + self.rules.prior_trials
        return self.delta * math.sqrt(self._logarithm / max(1.0, tried))


class ThompsonSampling(Policy):
    """Thompson sampling with Beta posteriors, its choice probabilities by quadrature, mixed with a floor.

    The floor (THOMPSON_FLOOR, shared equally) keeps importance weights bounded. Counts weigh THOMPSON_SHARPNESS times:
    at click rates plain Thompson explores far longer than it pays. The scores are kept for each set of actions seen.
    River: an arm's posterior is `proba.Beta`; its sampling is replaced by the exact probability of being the best.
    """

    name = "thompson"

    def __init__(self, arms: Mapping[str, ArmStatistics], rules: PolicyRules, priors: Priors | None = None) -> None:
        """See Policy."""
        super().__init__(arms, rules, priors)
        self._cached: dict[tuple[str, ...], list[float]] = {}

    def posterior(self, action_id: str) -> proba.Beta:
        """Return an action's posterior as River holds it: successes and failures may be fractions."""
        return proba.Beta(*self._parameters(action_id))  # type: ignore[arg-type]  # River says int; fractions work

    def scores(self, action_ids: Sequence[str]) -> list[float]:
        """Return the probability that each action's posterior draw is the largest."""
        key = tuple(action_ids)
        found = self._cached.get(key)
        if found is None:
            parameters = np.array([self._parameters(action_id) for action_id in key])
            found = best_probabilities(parameters[:, 0], parameters[:, 1]).tolist()
            if len(self._cached) >= PROPENSITIES_CACHED_MAX:
                self._cached.clear()
            self._cached[key] = found
        return list(found)

    def probabilities(self, scores: Sequence[float]) -> list[float]:
        """Return the scores made to sum to 1 and mixed with the floor."""
        whole, floor = math.fsum(scores), THOMPSON_FLOOR / len(scores)
        if whole <= 0.0:  # none of those left was ever the best
            return [1.0 / len(scores)] * len(scores)
        share = (1.0 - THOMPSON_FLOOR) / whole
        return [floor + share * score for score in scores]

    def _parameters(self, action_id: str) -> tuple[float, float]:
        trials = self.rules.prior_trials or 1.0
        mean = min(max(self.priors.of(action_id), 1e-6), 1 - 1e-6)  # a Beta needs both of its parameters above 0
        alpha, beta = mean * trials, (1 - mean) * trials
        arm = self.arms.get(action_id)
        if arm is None or arm.trials <= 0:
            return alpha, beta
        successes = min(max(arm.reward_micros / MICROS, 0.0), float(arm.trials))
        return alpha + THOMPSON_SHARPNESS * successes, beta + THOMPSON_SHARPNESS * (arm.trials - successes)


class Uniform(Policy):
    """Every action equally often: for tests between actions and for logs that any policy can be judged on."""

    name = "uniform"

    def scores(self, action_ids: Sequence[str]) -> list[float]:
        """Return 0 for each."""
        return [0.0] * len(action_ids)

    def probabilities(self, scores: Sequence[float]) -> list[float]:
        """Return 1/K for each."""
        return [1.0 / len(scores)] * len(scores)


POLICIES: Final[Mapping[str, type[Policy]]] = {
    policy.name: policy for policy in (EpsilonGreedy, UpperBound, ThompsonSampling, Uniform)
}


def best_probabilities(alpha: NDArray[np.float64], beta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for independent Beta variables, the probability that each is the largest (they sum to 1).

    alpha, beta: parameters, shape (K,), all above 0.
    A sum over GRID_POINTS - 1 cells of P(i in cell) x P(all others below it); equal pairs are computed once. The cells
    span where the maximum can lie. Cost: about 60 ns for each pair of parameters and cell.
    """
    pairs, inverse, many = np.unique(np.column_stack((alpha, beta)), axis=0, return_inverse=True, return_counts=True)
    a, b = pairs[:, 0], pairs[:, 1]
    mean = a / (a + b)
    deviation = np.sqrt(mean * (1.0 - mean) / (a + b + 1.0))
    low = max(0.0, float(np.max(mean - 5.0 * deviation)))
    high = min(1.0, float(np.max(mean + 12.0 * deviation)))
    below = scipy.special.betainc(a[:, None], b[:, None], np.linspace(low, high, GRID_POINTS)[None, :])
    inside = np.diff(below, axis=1)
    inside[:, 0] += below[:, 0]  # what lies under the grid: hardly ever the largest
    middle = np.log(np.maximum((below[:, 1:] + below[:, :-1]) / 2.0, 1e-300))
    others = many @ middle - middle
    best = np.maximum((inside * np.exp(others)).sum(axis=1), 0.0)[inverse.reshape(-1)]
    whole = float(best.sum())
    count = len(best)
    return best / whole if whole > 0.0 else np.full(count, 1.0 / count)


class Estimate(NamedTuple):
    """What is believed of one arm: mean reward (with the prior) and its central 95 % interval."""

    mean: float
    low: float
    high: float


def estimate(arm: ArmStatistics, rules: PolicyRules, prior: float | None = None) -> Estimate:
    """Return an arm's mean with the prior and the 95 % interval of its Beta posterior (exact for rewards of 0 or 1).

    arm: its sums. prior: the mean that was expected of it; None = rules.prior_mean.
    Rewards between 0 and 1 vary less than the Beta supposes: the interval is then on the wide side.
    """
    trials = rules.prior_trials or 1.0
    successes = min(max(arm.reward_micros / MICROS, 0.0), float(max(arm.trials, 0)))
    mean = rules.prior_mean if prior is None else prior
    alpha = max(mean * trials + successes, 1e-9)
    beta = max((1.0 - mean) * trials + max(arm.trials, 0) - successes, 1e-9)
    low, high = scipy.special.betaincinv(alpha, beta, np.array([0.025, 0.975])).tolist()
    return Estimate(alpha / (alpha + beta), low, high)


def merge(shards: Sequence[Mapping[str, ArmStatistics]]) -> dict[str, ArmStatistics]:
    """Return the sums over several partitions' arms of one placement: integers, so the order changes nothing."""
    merged: dict[str, ArmStatistics] = {}
    for shard in shards:
        for action_id, arm in shard.items():
            found = merged.get(action_id)
            if found is None:
                merged[action_id] = ArmStatistics(arm.trials, arm.reward_micros, arm.reward_squares_micros)
            else:
                found.trials += arm.trials
                found.reward_micros += arm.reward_micros
                found.reward_squares_micros += arm.reward_squares_micros
    return merged

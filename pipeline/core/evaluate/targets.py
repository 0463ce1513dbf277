"""The policies that can be asked about, each as a file describes it (`KINDS`) and as the fold asks it (`Target`).

A new kind is one class with a `policy` of its own and one entry in KINDS.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.core.evaluate.logged import Logged
from pipeline.core.evaluate.sums import Sums
from pipeline.core.linear import SHARED, LinearDelta, learn
from pipeline.core.linear_blend import Blend, nothing
from pipeline.core.linear_book import Told
from pipeline.core.linear_model import RidgeRules
from pipeline.core.linear_policy import LINEAR_POLICIES, LinearRules
from pipeline.core.policy import POLICIES, PolicyRules
from pipeline.core.prior import Described, priors

REFRESH_EVERY: Final = 100
SUM_TOLERANCE: Final = 1e-6
_RULES: Final = PolicyRules()
_LINEAR: Final = LinearRules()
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Target(Protocol):
    """A policy under evaluation. It is told what became known before each decision, never what came after it.

    learns: whether what it is told changes its answers. reads_context: whether its answers depend on more of a decision
    than its candidates. refresh_every: decisions between two refreshes.
    """

    learns: bool
    reads_context: bool
    refresh_every: int

    def learn(self, decision: Logged, trials: int, reward_micros: int) -> None:
        """Add what became known of a decision to the sums: its trial when it was shown, its reward when it came."""

    def refresh(self) -> None:
        """Make the policy anew from the sums: the next version of its model."""

    def probabilities(self, decision: Logged) -> Sequence[float]:
        """Return each candidate's probability, in their order; what is missing to 1 could not be chosen here at all."""

    def unseen(self) -> Sequence[str]:
        """Return actions that it wants to show and that were no decision's candidates."""


class Learnt:
    """One of POLICIES, made of the sums of the log so far and of what its actions are like, as delivery makes it."""

    reads_context = False

    def __init__(
        self, name: str, rules: PolicyRules, refresh_every: int, learns: bool = True, known: Described | None = None
    ) -> None:
        """name: in POLICIES. rules: as delivery's. learns: whether the sums change what it does. known: see Spec."""
        self.learns, self.refresh_every = learns, refresh_every
        self._make, self._rules, self._known = POLICIES[name], rules, known
        self.sums = Sums()
        self.refresh()

    def learn(self, decision: Logged, trials: int, reward_micros: int) -> None:
        """See Target."""
        self.sums.add(decision.action_id, trials, reward_micros)

    def refresh(self) -> None:
        """See Target."""
        arms, rules = self.sums.arms, self._rules
        self._policy = self._make(arms, rules, priors(arms, rules.prior_mean, rules.prior_trials, self._known))

    def probabilities(self, decision: Logged) -> Sequence[float]:
        """See Target."""
        return self._policy.probabilities(self._policy.scores(decision.candidates))

    def unseen(self) -> Sequence[str]:
        """See Target: none, it only chooses among candidates."""
        return ()


class LinearLearnt:
    """One of LINEAR_POLICIES, its model made from the contexts and rewards of the log so far, as delivery makes it."""

    learns = True
    reads_context = True

    def __init__(self, name: str, prior_mean: float, rules: LinearRules, refresh_every: int) -> None:
        """name: in LINEAR_POLICIES. prior_mean, rules: as delivery's."""
        self.refresh_every = refresh_every
        self._make, self._rules, self._linear = LINEAR_POLICIES[name], PolicyRules(prior_mean=prior_mean), rules
        self._own, self._shared = nothing()
        self._waiting = Told([], [])
        self._model: Blend | None = None
        self.refresh()

    def learn(self, decision: Logged, trials: int, reward_micros: int) -> None:
        """See Target."""
        assert self._model is not None
        action_id = decision.action_id
        lesson = self._model.lesson(decision.context, decision.features.get(action_id, {}))
        self._waiting.own.append(LinearDelta(action_id, lesson.own, trials, reward_micros))
        self._waiting.shared.append(LinearDelta(SHARED, lesson.shared, trials, reward_micros))

    def refresh(self) -> None:
        """See Target."""
        waiting, self._waiting = self._waiting, Told([], [])
        learn(self._own, waiting.own)
        learn(self._shared, waiting.shared)
        rules = RidgeRules(prior_mean=self._rules.prior_mean)
        self._model = Blend(self._own, self._shared, rules, self._model)
        self._policy = self._make({}, self._rules, self._model, self._linear)

    def probabilities(self, decision: Logged) -> Sequence[float]:
        """See Target."""
        features = [decision.features.get(action_id, {}) for action_id in decision.candidates]
        scores = self._policy.scores_for(decision.candidates, decision.context, features)
        return self._policy.probabilities(scores)

    def unseen(self) -> Sequence[str]:
        """See Target: none, it only chooses among candidates."""
        return ()


class Fixed:
    """The same probabilities always, shared anew among those of its actions that are candidates."""

    learns = False
    reads_context = False
    refresh_every = REFRESH_EVERY

    def __init__(self, actions: dict[str, float]) -> None:
        """actions: id -> probability; they sum to 1."""
        self._actions = actions
        self._unseen = {name for name, probability in actions.items() if probability > 0.0}

    def learn(self, decision: Logged, trials: int, reward_micros: int) -> None:
        """See Target: it does not."""

    def refresh(self) -> None:
        """See Target: nothing changes."""

    def probabilities(self, decision: Logged) -> Sequence[float]:
        """See Target."""
        self._unseen.difference_update(decision.candidates)
        found = [self._actions.get(name, 0.0) for name in decision.candidates]
        whole = sum(found)
        return [one / whole for one in found] if whole > 0.0 else found

    def unseen(self) -> Sequence[str]:
        """See Target."""
        return sorted(self._unseen)


class Spec(BaseModel, ABC):
    """A policy as a file describes it. wants_features: whether `target` makes anything of `known`."""

    wants_features: ClassVar[bool] = False
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @abstractmethod
    def target(self, known: Described | None = None) -> Target:
        """Return the policy with nothing learnt.

        known: the placement's published creatives that have features: what policies of sums expect of an action at
        first comes of them (`prior.py`). None = none has any, or the caller of each decision gave the actions.
        """


class _ExploringSpec(Spec):
    """A policy of sums that explores by epsilon: as delivery makes it, from the log so far."""

    wants_features = True
    policy: str
    epsilon: Probability = _RULES.epsilon
    prior_mean: Probability = _RULES.prior_mean
    prior_trials: float = Field(_RULES.prior_trials, ge=0.0)
    refresh_every: int = Field(REFRESH_EVERY, ge=1)

    def target(self, known: Described | None = None) -> Target:
        """See Spec."""
        rules = PolicyRules(self.epsilon, self.prior_mean, self.prior_trials)
        return Learnt(self.policy, rules, self.refresh_every, known=known)


class EpsilonGreedySpec(_ExploringSpec):
    """`policy: epsilon_greedy`."""

    policy: Literal["epsilon_greedy"]


class UcbSpec(_ExploringSpec):
    """`policy: ucb`."""

    policy: Literal["ucb"]


class ThompsonSpec(Spec):
    """`policy: thompson`: as delivery makes it, from the log so far."""

    wants_features = True
    policy: Literal["thompson"]
    prior_mean: Probability = _RULES.prior_mean
    prior_trials: float = Field(_RULES.prior_trials, ge=0.0)
    refresh_every: int = Field(REFRESH_EVERY, ge=1)

    def target(self, known: Described | None = None) -> Target:
        """See Spec."""
        rules = PolicyRules(_RULES.epsilon, self.prior_mean, self.prior_trials)
        return Learnt(self.policy, rules, self.refresh_every, known=known)


class LinearSpec(Spec):
    """`policy: linear_igw`, `linear_squarecb` or `linear_epsilon`: as delivery makes it, from the log so far."""

    policy: Literal["linear_igw", "linear_squarecb", "linear_epsilon"]
    epsilon: Probability = _LINEAR.epsilon
    floor: Probability = _LINEAR.floor
    prior_mean: Probability = _RULES.prior_mean
    refresh_every: int = Field(REFRESH_EVERY, ge=1)

    def target(self, known: Described | None = None) -> Target:
        """See Spec."""
        rules = LinearRules(epsilon=self.epsilon, floor=self.floor)
        return LinearLearnt(self.policy, self.prior_mean, rules, self.refresh_every)


class UniformSpec(Spec):
    """`policy: uniform`: every candidate equally often."""

    policy: Literal["uniform"]

    def target(self, known: Described | None = None) -> Target:
        """See Spec: it learns nothing."""
        return Learnt(self.policy, _RULES, REFRESH_EVERY, learns=False)


class FixedSpec(Spec):
    """`policy: fixed`: `actions` maps action ids to probabilities that sum to 1."""

    policy: Literal["fixed"]
    actions: dict[str, Probability] = Field(min_length=1)

    @field_validator("actions")
    @classmethod
    def _sums_to_one(cls, actions: dict[str, float]) -> dict[str, float]:
        whole = sum(actions.values())
        if abs(whole - 1.0) > SUM_TOLERANCE:
            raise ValueError(f"the probabilities sum to {whole:g}, expected 1")
        return actions

    def target(self, known: Described | None = None) -> Target:
        """See Spec: it learns nothing."""
        return Fixed(dict(self.actions))


KINDS: Final[dict[str, type[Spec]]] = {
    "epsilon_greedy": EpsilonGreedySpec,
    "ucb": UcbSpec,
    "thompson": ThompsonSpec,
    **dict.fromkeys(LINEAR_POLICIES, LinearSpec),
    "uniform": UniformSpec,
    "fixed": FixedSpec,
}
"""Every kind of policy that a file may name."""

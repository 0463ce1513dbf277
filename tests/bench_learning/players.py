"""Our players: the policies of pipeline/core, played as delivery and the learner use them, a model for each round.

A player chooses, and is told later. Ours take a reward as an addition whenever it comes (`is_additive`): the trial is
learnt at once. Others are told once, when all is known.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pipeline.core.features import FeatureSpace
from pipeline.core.linear import SHARED, LinearDelta, learn, read_lesson
from pipeline.core.linear_drift import DriftWatch, learn_watching
from pipeline.core.linear_model import ArmRidges, RidgeRules, SharedRidge, shared_space
from pipeline.core.linear_policy import LINEAR_POLICIES, LinearPolicy, LinearRules
from pipeline.core.policy import POLICIES, Policy, PolicyRules
from schemas.linear import LinearStatistics
from schemas.model import ArmStatistics
from tests.bench_learning.problems import Features, World

MICROS = 1_000_000
A_BLOCK = 10
"""Outcomes that come to the learner together, and after which delivery has a new model. A model lasts a tenth of a
second at least, so this is a placement with a hundred decisions a second."""


class Turn(NamedTuple):
    """A choice made: what the player needs to learn from it."""

    number: int
    action: int
    probability: float
    context: Features
    logged: bytes = b""


class Player(Protocol):
    """One that plays one world."""

    is_additive: bool

    def choose(self, number: int, context: Features, u: float) -> Turn:
        """Choose by u in [0, 1)."""

    def learn(self, turn: Turn, trials: int, reward: float) -> None:
        """Be told: trials 1 the first time, 0 for what comes after."""


def pick(probabilities: Sequence[float], u: float) -> int:
    """Return the index whose stretch of the cumulated probabilities holds u."""
    reached = 0.0
    for at, probability in enumerate(probabilities):
        reached += probability
        if u < reached:
            return at
    return len(probabilities) - 1


class Plain:
    """A policy without context."""

    is_additive = True

    def __init__(self, world: World, name: str) -> None:
        self.ids = world.action_ids
        self.name = name
        self.arms: dict[str, ArmStatistics] = {}
        self.policy: Policy = POLICIES[name]({}, PolicyRules())

    def choose(self, number: int, context: Features, u: float) -> Turn:
        """See Player."""
        if self.name != "thompson" or number % 20 == 0:  # its quadrature is for one version, which lasts a while
            self.policy = POLICIES[self.name](self.arms, PolicyRules())
        found = self.policy.probabilities(self.policy.scores(self.ids))
        at = pick(found, u)
        return Turn(number, at, found[at], context)

    def learn(self, turn: Turn, trials: int, reward: float) -> None:
        """See Player."""
        _count(self.arms, self.ids[turn.action], trials, reward)


class Linear:
    """A linear policy over one ridge for each action, or (is_shared) one over actions' features x context."""

    is_additive = True

    def __init__(
        self,
        world: World,
        name: str,
        rules: LinearRules,
        is_shared: bool = False,
        is_watched: bool = False,
        dimension: int = 0,
    ) -> None:
        self.ids, self.features, self.name, self.linear = world.action_ids, world.action_features, name, rules
        self.space = FeatureSpace(dimension) if dimension else named_space(world.contexts)
        self.actions = named_space(world.action_features)
        self.watch = DriftWatch() if is_watched else None
        self.is_shared = is_shared
        if is_shared:
            size = self.actions.dimension * self.space.dimension
            self.statistics = LinearStatistics(shared_space(self.actions, self.space), size, {})
        else:
            self.statistics = LinearStatistics(self.space.fingerprint, self.space.dimension, {})
        self.arms: dict[str, ArmStatistics] = {}
        self.model: ArmRidges | SharedRidge | None = None
        self.policy = self._made()

    def _made(self) -> LinearPolicy:
        if self.is_shared:
            before = self.model if isinstance(self.model, SharedRidge) else None
            self.model = SharedRidge(self.actions, self.space, self.statistics, before=before)
        else:
            before_arms = self.model if isinstance(self.model, ArmRidges) else None
            self.model = ArmRidges(self.space, self.statistics, before=before_arms)
        return LINEAR_POLICIES[self.name](self.arms, PolicyRules(), self.model, self.linear)

    def choose(self, number: int, context: Features, u: float) -> Turn:
        """See Player."""
        found = self.policy.probabilities(self.policy.scores_for(self.ids, context, self.features))
        at = pick(found, u)
        return Turn(number, at, found[at], context, self.policy.lesson_for(context, self.features[at]))

    def learn(self, turn: Turn, trials: int, reward: float) -> None:
        """See Player."""
        action_id = self.ids[turn.action]
        _count(self.arms, action_id, trials, reward)
        lesson = read_lesson(turn.logged)
        arm, vector = (SHARED, lesson.shared) if lesson.is_shared else (action_id, lesson.own)
        delta = LinearDelta(arm, vector, trials, round(MICROS * reward), decided_ms=turn.number)
        if self.watch is not None:
            learn_watching(self.statistics, [delta], self.watch, RidgeRules())
        else:
            learn(self.statistics, [delta])
        self.policy = self._made()


def named_space(rows: Sequence[Features]) -> FeatureSpace:
    """Return the space in which every feature of these has a column of its own: as a placement's settings name them."""
    tokens = {
        f"{name}={value}" if isinstance(value, str) else name for row in rows[:500] for name, value in row.items()
    }
    return FeatureSpace(1 + len(tokens), tuple(sorted(tokens)))


def _count(arms: dict[str, ArmStatistics], action_id: str, trials: int, reward: float) -> None:
    arm = arms.setdefault(action_id, ArmStatistics())
    arm.trials += trials
    arm.reward_micros += round(MICROS * reward)

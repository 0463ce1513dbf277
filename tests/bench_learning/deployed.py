"""What is deployed, played whole: delivery's decision, the learn stage's fold, its packed state, delivery's mirror.

Settings are the defaults that Herald starts with (exploration, the floor of 1 % an action, the watch for drift). Each
A_BLOCK outcomes the learn stage folds a block, and delivery makes a model from what that changed in the packed state.
Only the transport between them is left out: the broker, and the log of decisions.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

import msgspec

from pipeline.core.decide import Action, Ask, Known, decide, make_id
from pipeline.core.learn import Learn
from pipeline.core.linear_book import LearnRules
from pipeline.core.linear_policy import LINEAR_POLICIES, LinearRules
from pipeline.core.policy import POLICIES, Policy, PolicyRules
from pipeline.core.state import StateView
from pipeline.delivery.linear import LinearMirror
from pipeline.settings import Settings
from schemas.block import Origin, OutcomeBlock
from schemas.linear import is_linear_key, read_key
from schemas.model import ArmStatistics, PlacementModel
from schemas.outcome import DecisionLog, Outcome
from tests.bench_learning.players import A_BLOCK, MICROS, Turn
from tests.bench_learning.problems import Features, World

PLACEMENT: Final = "home"
ROUND_MS: Final = 10
_decode_model = msgspec.msgpack.Decoder(PlacementModel).decode


def default(name: str) -> Any:
    """Return what a setting is where nobody sets it."""
    return Settings.model_fields[name].default


class Deployed:
    """One placement with one of Herald's policies. The learn stage has one partition."""

    is_additive = True

    def __init__(self, world: World, name: str, floor: float | None = None) -> None:
        """floor: HERALD_POLICY_FLOOR, where somebody has set it."""
        self.ids, self.name = world.action_ids, name
        self.actions = [
            Action(one, features=features) for one, features in zip(self.ids, world.action_features, strict=True)
        ]
        self.at = {one: at for at, one in enumerate(self.ids)}
        self.rules = PolicyRules(
            default("policy_epsilon"), default("policy_prior_mean"), default("policy_prior_trials")
        )
        self.linear = LinearRules(
            epsilon=default("policy_epsilon"), floor=default("policy_floor") if floor is None else floor
        )
        self.fold = Learn(StateView(), LearnRules(default("policy_prior_mean"), default("policy_drift_watch")))
        self.mirror = LinearMirror(self.rules.prior_mean)
        self.offsets = count()
        self.waiting: list[Outcome] = []
        self.known = Known(self._made({}), "")

    def _made(self, arms: Mapping[str, ArmStatistics]) -> Policy:
        if self.name in LINEAR_POLICIES:
            return LINEAR_POLICIES[self.name](arms, self.rules, self.mirror.make(), self.linear)
        return POLICIES[self.name](arms, self.rules)

    def decide(self, number: int, context: Features, u: float) -> DecisionLog:
        """Return the whole log of a decision."""
        decision_id = make_id(number * ROUND_MS, "", int(u * 2**48))
        return decide(Ask(PLACEMENT, "", self.actions, 1, context), self.known, decision_id, "bench")

    def choose(self, number: int, context: Features, u: float) -> Turn:
        """See Player."""
        [choice] = self.decide(number, context, u).choices
        return Turn(number, self.at[choice.action_id], choice.propensity, context, choice.lesson)

    def learn(self, turn: Turn, trials: int, reward: float) -> None:
        """See Player."""
        self.waiting.append(outcome_of(turn, self.ids, trials, reward))
        if len(self.waiting) >= A_BLOCK:
            self.waiting, outcomes = [], self.waiting
            self.take(learnt(self.fold, next(self.offsets), outcomes))

    def take(self, changes: Sequence[tuple[str, bytes]]) -> None:
        """Make the policy anew from the entries that the learn stage has changed."""
        linear = {read_key(key): raw for key, raw in changes if is_linear_key(key)}
        [sums] = [_decode_model(raw) for key, raw in changes if key == PLACEMENT]
        if self.name in LINEAR_POLICIES:
            self.mirror.take(0, linear)
        self.known = Known(self._made(sums.arms), "")


def learnt(fold: Learn, offset: int, outcomes: list[Outcome]) -> list[tuple[str, bytes]]:
    """Fold a block; return the entries that are to be written."""
    fold.apply(Origin(0, offset), OutcomeBlock(1, outcomes))
    return fold.take_changes()[0]


def outcome_of(turn: Turn, ids: Sequence[str], trials: int, reward: float) -> Outcome:
    """Return what the learn stage is told of a turn."""
    micros = round(MICROS * reward)
    return Outcome(
        decision_id="",
        action_id=ids[turn.action],
        placement_id=PLACEMENT,
        visitor="",
        decided_ms=turn.number * ROUND_MS,
        impressed_ms=turn.number * ROUND_MS,
        clicked_ms=0,
        conversions=0,
        revenue_micros=0,
        reward_micros=micros,
        propensity=turn.probability,
        trials_delta=trials,
        reward_delta_micros=micros,
        lesson=turn.logged,
    )

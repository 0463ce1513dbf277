"""The learn stage's fold: outcomes -> each placement's sums, from which River's bandits are made (see `policy.py`).

What is River and what is sums: a bandit over independent actions knows no more of its past than, for each action, how
often it was tried and what it earned. River keeps these as a running mean; here they are integers (trials, millionths
of reward), because then a late correction is an addition, partitions merge by adding in any order, a replay gives the
same bits, and an older decision can be rewarded after a newer one. Delivery adds the partitions' sums and makes the
River policy from them; a test holds it equal to a River policy that was fed the same rewards one by one.
"""

from collections import Counter
from typing import ClassVar, Final, cast

import msgspec
from msgspec import Struct

from pipeline.core.linear_book import LearnRules, LinearBooks
from pipeline.core.stage import Applied
from pipeline.core.state import Entries, StateView
from schemas.block import Origin, OutcomeBlock
from schemas.linear import is_linear_key
from schemas.model import ArmStatistics, LearnFixed, PlacementModel
from schemas.outcome import Outcome
from schemas.topics import MODELS, OUTCOMES, Topic

MICROS: Final = 1_000_000
ARMS_MAX: Final = 10_000
"""Arms kept of one placement: a client that invents action ids must not fill the memory of every reader."""


class Learn:
    """Fold of `outcomes` into `models`: placement id -> PlacementModel, for one partition of the log.

    Outcomes with a lesson go to the placement's linear model as well, whose entries stand beside (see `linear_book`).
    """

    name: ClassVar[str] = "learn"
    source: ClassVar[Topic] = OUTCOMES
    reads: ClassVar[type[Struct]] = OutcomeBlock
    state: ClassVar[Topic] = MODELS

    def __init__(self, view: StateView, rules: LearnRules | None = None) -> None:
        """view: the restored partition. rules: of linear models; what a reward is worth is the profile stage's to say.

        Its entries are owned by this object from now on.
        """
        self._models = Entries(view.entries, PlacementModel)
        self._linear = LinearBooks(view.entries, rules if rules is not None else LearnRules())
        self._fixed = msgspec.msgpack.decode(view.fixed, type=LearnFixed) if view.fixed else LearnFixed()

    def apply(self, origin: Origin, block: Struct) -> Applied:
        """Add a block's outcomes to their placements. Nothing is written but the state itself."""
        outcomes = cast(OutcomeBlock, block)
        counts: Counter[tuple[str, str]] = Counter()
        self._fixed.block_time_ms = max(self._fixed.block_time_ms, outcomes.block_time_ms)
        for outcome in outcomes.outcomes:
            if outcome.trials_delta or outcome.reward_delta_micros:
                self._learn(outcome, outcomes.block_time_ms, counts)
                self._fixed.trials += outcome.trials_delta
                self._fixed.reward_micros += outcome.reward_delta_micros
                if outcome.chosen_by:
                    self._learn(of_group(outcome), outcomes.block_time_ms, counts)
        return Applied([], counts)

    def take_changes(self) -> tuple[list[tuple[str, bytes]], list[str]]:
        """Return (puts, deletes) since the last call, packed."""
        puts, deletes = self._models.take_changes()
        more, gone = self._linear.take_changes()
        return puts + more, deletes + gone

    def fixed(self) -> bytes:
        """Return the partition's totals, packed."""
        return msgspec.msgpack.encode(self._fixed)

    def _learn(self, outcome: Outcome, block_time_ms: int, counts: Counter[tuple[str, str]]) -> None:
        counts["learn", self._add(outcome, block_time_ms)] += 1
        if outcome.lesson:
            for what, many in self._linear.add(outcome).items():
                counts["lesson", what] += many

    def _add(self, outcome: Outcome, block_time_ms: int) -> str:
        if is_linear_key(outcome.placement_id):
            return "bad_placement"
        model = self._models.get(outcome.placement_id)
        if model is None:
            model = PlacementModel({})
        arm = model.arms.get(outcome.action_id)
        if arm is None:
            if len(model.arms) >= ARMS_MAX:
                return "arms_full"
            arm = model.arms[outcome.action_id] = ArmStatistics()
        arm.trials += outcome.trials_delta
        arm.reward_micros += outcome.reward_delta_micros
        before = outcome.reward_micros - outcome.reward_delta_micros
        # each square is cut to whole millionths by itself, so that corrections cancel exactly
        arm.reward_squares_micros += outcome.reward_micros**2 // MICROS - before**2 // MICROS
        model.updated_ms = max(model.updated_ms, block_time_ms)
        self._models.put(outcome.placement_id, model)
        return "trial" if outcome.trials_delta else "correction"


def of_group(outcome: Outcome) -> Outcome:
    """Return what an outcome teaches the group that chose its placement: that the member earned what the choice did."""
    return msgspec.structs.replace(
        outcome,
        placement_id=outcome.chosen_by,
        action_id=outcome.placement_id,
        propensity=outcome.group_propensity,
        lesson=outcome.group_lesson,
        chosen_by="",
    )

"""One decision of the log with what it earned: all that an evaluation knows of it."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

MICROS: Final = 1_000_000


class Logged(NamedTuple):
    """A decision's first choice (rank 0). Further ranks are drawn given the first, and are not evaluated.

    decided_ms: when, ms since 1970 UTC. action_id: what was chosen. propensity: with which probability.
    candidates: what could have been chosen. propensities: the candidates' probabilities in the same order; empty where
    another system decided and told only that of its choice. reward_micros: what the learner was told, 0..1 in
    millionths. shown_ms: when it is known to have been shown; 0 = never. rewarded_ms: when all of the reward was known,
    by the latest event that it is made of (of rows older than that column: the click).
    context, features: as the decision was asked with; empty unless the target reads them.
    """

    decision_id: str
    decided_ms: int
    action_id: str
    propensity: float
    candidates: tuple[str, ...]
    propensities: Sequence[float] = ()
    reward_micros: int = 0
    shown_ms: int = 0
    rewarded_ms: int = 0
    context: Mapping[str, object] = {}
    features: Mapping[str, Mapping[str, object]] = {}

    @property
    def reward(self) -> float:
        """What it earned, 0..1."""
        return self.reward_micros / MICROS

"""A decision drawn again from its log alone: scores, the policy's rules, id and seed give the same answer bit for bit.

No model is needed: what it said of each action at that moment, its score, is in the log.
"""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.core.decide import MADE_ELSEWHERE, draw, fallen_behind
from pipeline.core.group import group_decision
from pipeline.core.policies import ALL_POLICIES
from pipeline.core.policy import PolicyRules
from schemas.outcome import DecisionLog


class Redrawn(NamedTuple):
    """What came out. choices: (action, its probability at its draw), by rank. propensities: of all, at the first draw.

    differences: where it is not what the log says, a sentence each; none: the same to the last bit.
    member: (placement, its probability) as the group drew it that chose the placement; None where none did.
    """

    choices: list[tuple[str, float]]
    propensities: list[float]
    differences: list[str]
    member: tuple[str, float] | None = None


class NotDrawable(ValueError):
    """The log does not hold what a draw needs; the text says what, and what was expected."""


def redraw(log: DecisionLog) -> Redrawn:
    """Draw a logged decision again, and before it that of the group that chose its placement.

    Raises NotDrawable for one that we have not drawn, or that was logged unscored.
    """
    top = group_decision(log)
    found = _redrawn(log)
    if top is None:
        return found
    above = _redrawn(top)
    differences = [f"group {top.placement_id}: {one}" for one in above.differences]
    return found._replace(differences=differences + found.differences, member=above.choices[0])


def _redrawn(log: DecisionLog) -> Redrawn:
    kind = ALL_POLICIES.get(log.policy)
    if log.policy == MADE_ELSEWHERE:
        raise NotDrawable("it was made elsewhere: only its choice and that one's probability are known")
    if kind is None:
        raise NotDrawable(f"policy {log.policy!r} is not known here; expected one of {', '.join(ALL_POLICIES)}")
    if len(log.scores) != len(log.candidates) or not log.rules:
        found = f"{len(log.scores)} scores of {len(log.candidates)} candidates and {len(log.rules)} rules"
        raise NotDrawable(f"the log has {found}; expected one score each, and the policy's rules")
    try:
        policy = kind.from_log(log.rules)
    except TypeError as error:
        expected = ", ".join(kind({}, PolicyRules()).logged_rules())
        raise NotDrawable(f"rules {log.rules}: {error}; expected {expected}") from None
    out = fallen_behind(log)
    propensities, drawn = draw(
        policy, log.scores, len(log.choices), log.decision_id, log.seed, lambda rank, *_: out.get(rank, ())
    )
    choices = [(log.candidates[at], probability) for at, probability in drawn]
    return Redrawn(choices, propensities, list(_differences(log, choices, propensities)))


def _differences(log: DecisionLog, choices: list[tuple[str, float]], propensities: list[float]) -> Iterator[str]:
    for action_id, found, expected in zip(log.candidates, propensities, log.propensities, strict=False):
        if found != expected:
            yield f"{action_id}: probability {found!r}, the log has {expected!r}"
    if len(propensities) != len(log.propensities):
        yield f"{len(propensities)} probabilities, the log has {len(log.propensities)}"
    logged = [(choice.action_id, choice.propensity) for choice in log.choices]
    for rank, (drawn, said) in enumerate(zip(choices, logged, strict=False)):
        if drawn != said:
            yield f"rank {rank}: {drawn[0]} at {drawn[1]!r}, the log has {said[0]} at {said[1]!r}"

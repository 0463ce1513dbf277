"""The choice of a channel: a group's policy chooses one of its placements, and that one's policy what is shown there.

Two decisions under one id. The group's is made as any other, with the members' ids as actions, and drawn with a seed of
its own, so that the two draws are independent: the probability of the whole choice is the product of both parts. Each
part is logged by itself. So a member's log says how its creatives were chosen given the member, which is what judging
another policy of that placement needs, whoever asked; and the group's how the member was.
"""

from collections.abc import Sequence

from msgspec import UNSET

from pipeline.core.decide import Action, Ask, Known, decide
from schemas.outcome import Choice, DecisionLog, GroupLog


def group_seed(seed: str, group_id: str) -> str:
    """Return the seed of a group's draw. seed: the decision's."""
    return f"{seed}|{group_id}"


def choose_member(ask: Ask, known: Known, decision_id: str, seed: str) -> DecisionLog:
    """Return the group's decision; no choice where no member has anything to show.

    ask: the group's, its actions the members (see `members`). seed: of this delivery process, as for any decision.
    """
    return decide(ask, known, decision_id, group_seed(seed, ask.placement_id))


def members(names: Sequence[str]) -> list[Action]:
    """Return a group's members as what can be chosen."""
    return [Action(name) for name in names]


def note_group(log: DecisionLog, top: DecisionLog) -> None:
    """Write how a decision's placement was chosen into its log, and into its first choice, whose outcome teaches both.

    top: the group's decision, which chose the log's placement.
    """
    chosen = top.choices[0]
    log.group = GroupLog(
        top.placement_id,
        top.policy,
        top.model_version,
        chosen.propensity,
        top.candidates,
        top.propensities,
        top.excluded,
        top.scores,
        top.rules,
    )
    for choice in log.choices[:1]:
        choice.chosen_by, choice.group_propensity = top.placement_id, chosen.propensity
        choice.group_lesson = chosen.lesson


def group_decision(log: DecisionLog) -> DecisionLog | None:
    """Return the group's decision as it was made, from a member's log; None where the placement was asked for."""
    group = log.group
    if group is UNSET:
        return None
    return DecisionLog(
        log.decision_id,
        group.placement_id,
        group.policy,
        group.model_version,
        group_seed(log.seed, group.placement_id),
        [Choice(log.placement_id, 0, group.propensity)],
        group.candidates,
        group.propensities,
        group.excluded,
        scores=group.scores,
        rules=group.rules,
    )


def whole_probability(choice: Choice) -> float:
    """Return the probability of a choice with that of its member; of a later rank, given the ranks before it."""
    return choice.propensity * choice.group_propensity

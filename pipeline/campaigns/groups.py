"""What a group of placements must fulfil: its members are there, ordinary, and of different channels."""

from collections.abc import Mapping

from pipeline.campaigns.refusals import Reason, Refused
from schemas.campaign import Placement


def check_group(body: Placement, others: Mapping[str, Placement]) -> None:
    """Check a placement that is a group, or stands in one. Raises Refused.

    others: all placements but it, by id; none of those that can neither be read nor are named by it.
    """
    if body.members:
        above = [name for name, other in others.items() if body.id in other.members]
        if above:
            _refuse(body, f"it stands in the group {above[0]}, and groups hold no groups", "none")
        _check_members(body, others)
    for name, other in others.items():
        twins = [one for one in other.members if one in others and others[one].channel is body.channel]
        if body.id in other.members and twins:
            expected = f"another channel than that of {twins[0]}, which stands in the group {name} beside it"
            detail = f"placements/{body.id}: channel: found {body.channel.value}, expected {expected}"
            raise Refused(Reason.MEMBERS, detail, [("channel", expected)])


def _check_members(body: Placement, others: Mapping[str, Placement]) -> None:
    unknown = [name for name in body.members if name not in others]
    if unknown:
        names = ", ".join(unknown)
        detail = f"placements/{body.id}: members: no {names}; expected ids of placements"
        raise Refused(Reason.UNKNOWN_PLACEMENT, detail, [("members", "ids of placements")])
    nested = [name for name in body.members if others[name].members]
    if nested:
        _refuse(body, f"{nested[0]} is a group itself", "ordinary placements")
    channels: dict[str, str] = {}
    for name in body.members:
        channel = others[name].channel.value
        twin = channels.setdefault(channel, name)
        if twin != name:
            _refuse(body, f"{twin} and {name} are both of the channel {channel}", "placements of different channels")
    worths = {others[name].reward_worth_micros for name in body.members}
    if len(worths) > 1 and body.reward_worth_micros is None:
        expected = "reward_worth_micros of the group, since its members' differ and their rewards are compared"
        detail = f"placements/{body.id}: reward_worth_micros: found none, expected {expected}"
        raise Refused(Reason.MEMBERS, detail, [("reward_worth_micros", expected)])


def _refuse(body: Placement, found: str, expected: str) -> None:
    raise Refused(
        Reason.MEMBERS, f"placements/{body.id}: members: {found}; expected {expected}", [("members", expected)]
    )

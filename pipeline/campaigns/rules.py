"""What an object must fulfil beside its own model: what its texts mean, and what of it can still change."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from pipeline.campaigns.refusals import Reason, Refused
from schemas.campaign import KEY_PATTERN, KINDS, PARENTS, STEPS, Line, Placement, Status, Stored
from schemas.experiment import Experiment

BODY_BYTES_MAX: Final = 1_048_576
KEY: Final = re.compile(KEY_PATTERN.removesuffix("$"))
ORDER: Final = ("placements", *(kind for kind in KINDS if kind != "placements"))
"""The kinds, each behind those that its objects name."""

FIXED: Final[Mapping[str, tuple[str, ...]]] = {
    "campaigns": ("advertiser", "currency"),
    "lines": ("campaign",),
    "creatives": ("line",),
}
"""Fields that cannot change once an object was published: what was spent and shown is booked under them."""

_NEVER_PUBLISHED: Final = frozenset({Status.DRAFT, Status.REVIEW})  # no step leads back to these


def parent_of(kind: str, body: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (kind, id) of an object's parent, None for a kind without one."""
    if kind not in PARENTS:
        return None
    field, parent_kind = PARENTS[kind]
    return parent_kind, body[field]


def as_json(body: BaseModel) -> dict[str, Any]:
    """Return a body as the store keeps it: all fields, those left out with their defaults."""
    return body.model_dump(mode="json")


def read(stored: Stored) -> BaseModel:
    """Return a stored body as its model. Raises Refused where the model of today does not take it any more."""
    try:
        return KINDS[stored.kind].model_validate(stored.body)
    except ValidationError as error:
        errors = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors(include_context=False)]
        detail = f"{stored.kind}/{stored.id}: version {stored.version} is not valid any more: {errors[0][1]}"
        raise Refused(Reason.INVALID, detail, errors) from None


def check_texts(kind: str, body: BaseModel) -> None:
    """Check what is written in another language: audiences, names of policies. Raises Refused."""
    if isinstance(body, Line) and body.audience:
        _check_audience(f"{kind}/{body.id}", body.audience)
    if isinstance(body, Placement) and body.policy:
        _check_policy(f"{kind}/{body.id}", "policy", body.policy, _policies())
    if isinstance(body, Experiment):
        _check_experiment(f"{kind}/{body.id}", body)


def _check_experiment(name: str, body: Experiment) -> None:
    """A file of an experiment may have another id; what is stored is an address."""
    if re.fullmatch(KEY_PATTERN, body.id) is None:
        expected = "lower case letters, digits, `_`, `.`, `-`; 1 to 64"
        raise Refused(Reason.INVALID, f"{name}: id: expected {expected}", [("id", expected)])
    for at, variant in enumerate(body.variants):
        if variant.factors.get("policy"):
            _check_policy(name, f"variants.{at}.factors.policy", variant.factors["policy"], _summed())


def _check_policy(name: str, where: str, policy: str, known: frozenset[str]) -> None:
    if policy not in known:
        listed = ", ".join(sorted(known))
        detail = f"{name}: {where}: {policy!r} is unknown; expected one of {listed}"
        raise Refused(Reason.UNKNOWN_POLICY, detail, [(where, f"one of {listed}")])


def _check_audience(name: str, text: str) -> None:
    from pipeline.core import audience

    try:
        audience.parse(text)
    except audience.AudienceError as error:
        where = f"at position {error.position}: {error.expected}"
        raise Refused(Reason.AUDIENCE, f"{name}: audience: {error}", [("audience", where)]) from None


@cache
def _policies() -> frozenset[str]:
    from pipeline.core.policies import ALL_POLICIES

    return frozenset(ALL_POLICIES)


@cache
def _summed() -> frozenset[str]:
    """Policies that any placement's sums are enough for: a variant may have one beside the placement's own."""
    from pipeline.core.policy import POLICIES

    return frozenset(POLICIES)


def check_change(before: Stored, body: Mapping[str, object]) -> None:
    """Check that an object may become this. Raises Refused where it has ended, or a field is fixed."""
    name = f"{before.kind}/{before.id}"
    if before.status is Status.ENDED:
        raise Refused(Reason.ENDED, f"{name}: it has ended, which is for ever; expected another id")
    if before.status in _NEVER_PUBLISHED:
        return
    for field in FIXED.get(before.kind, ()):
        if body[field] != before.body[field]:
            was = f"{before.body[field]!r}, as it was when it was published; make a new one for another"
            detail = f"{name}: {field} cannot change to {body[field]!r}: expected {was}"
            raise Refused(Reason.FIXED, detail, [(field, str(before.body[field]))])


def check_step(before: Stored, to: Status) -> None:
    """Check that a status may follow the present one. Raises Refused."""
    if to not in STEPS[before.status]:
        steps = ", ".join(sorted(STEPS[before.status])) or "none: it is for ever"
        detail = f"{before.kind}/{before.id}: {to} cannot follow {before.status}; expected one of: {steps}"
        raise Refused(Reason.STEP, detail, [("to", steps)])


def way(start: Status, to: Status) -> list[Status] | None:
    """Return the shortest way of steps from a status to another; [] where it is there, None where none leads."""
    ways: dict[Status, list[Status]] = {start: []}
    waiting = [start]
    while waiting:
        at = waiting.pop(0)
        for following in sorted(STEPS[at]):
            if following not in ways:
                ways[following] = [*ways[at], following]
                waiting.append(following)
    return ways.get(to)

"""A decision: which actions to show, each with its exact probability: a pure function of what it was asked and told.

The draw uses u = hash(decision id, seed, rank), so the same request against the same model gives the same answer bit
for bit, on any machine: `redraw.py` does it from the log.
"""

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import Final, NamedTuple, Protocol, cast

import msgspec

from pipeline.core.link import is_safe_target
from pipeline.core.policy import Policy
from schemas.outcome import Choice, DecisionLog

ID_CHARS: Final = 32
MADE_ELSEWHERE: Final = "made_elsewhere"
"""In place of the policy's name in the log of another system's decision."""
_HEX: Final = frozenset("0123456789abcdef")
_TWO_64: Final = float(2**64)


class Excluded(StrEnum):
    """Why an action of the request could not be chosen. A closed list; logged with the decision."""

    DUPLICATE = "duplicate"  # the same id stood earlier in the request: the first one counts
    BAD_URL = "bad_url"  # its target is no plain http(s) address, so no click could be sent there


class Candidate(Protocol):
    """One action that may be chosen: of the request as it came, not copied (there may be a thousand of them)."""

    @property
    def id(self) -> str:
        """Which action."""

    @property
    def url(self) -> str:
        """Where its click leads; "" when it has none."""

    @property
    def campaign_id(self) -> str:
        """Which campaign it belongs to, or ""."""

    @property
    def creative_id(self) -> str:
        """What is shown, or ""."""

    @property
    def features(self) -> Mapping[str, object]:
        """What is known of it, flat."""


class Action(msgspec.Struct, frozen=True, gc=False):
    """A candidate by itself."""

    id: str
    url: str = ""
    campaign_id: str = ""
    creative_id: str = ""
    features: dict[str, object] = {}


class Ask(NamedTuple):
    """What is asked. visitor: "" without consent or id. how_many: different actions, at most.

    excluded: action id -> why, of those that fell out before; they are not among the actions.
    """

    placement_id: str
    visitor: str
    actions: Sequence[Candidate]
    how_many: int = 1
    context: Mapping[str, object] = {}
    excluded: Mapping[str, str] = {}


class Known(NamedTuple):
    """What a decision is made from: one version of one placement's policy, and what of it may be out of date."""

    policy: Policy
    model_version: str
    degraded: Sequence[str] = ()


def make_id(time_ms: int, visitor: str, random_48: int) -> str:
    """Return a decision id: 12 hex digits of time, 8 of route, 12 of randomness.

    time_ms: when it is decided. visitor: whose decision, or "". random_48: 48 random bits.
    The route is the visitor's hash: news of the decision finds the visitor's partition without the visitor's id.
    """
    rand = f"{random_48:012x}"
    return f"{time_ms:012x}{route(visitor or rand):08x}{rand}"


def route(key: str) -> int:
    """Return the 32 bits of a visitor (or of a visitorless decision's random part) of which the partition is made."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass"))


def is_id(text: str) -> bool:
    """Say whether a text has the form of a decision id."""
    return len(text) == ID_CHARS and _HEX.issuperset(text)


def time_of(decision_id: str) -> int:
    """Return when a decision was made, ms since 1970 UTC. decision_id: as `is_id` wants it."""
    return int(decision_id[:12], 16)


def route_of(decision_id: str) -> int:
    """Return a decision's route. decision_id: as `is_id` wants it."""
    return int(decision_id[12:20], 16)


def partition_of(decision_id: str, partitions: int) -> int:
    """Return the partition in which a decision, and all news of it, is logged."""
    return route_of(decision_id) % partitions


def uniform(decision_id: str, seed: str, rank: int) -> float:
    """Return the number in [0, 1) that draws the action of this rank: a hash, so anyone can draw it again."""
    text = f"{decision_id}|{seed}|{rank}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()[:8]) // 2048 * 2048 / _TWO_64


def decide(ask: Ask, known: Known, decision_id: str, seed: str) -> DecisionLog:
    """Choose up to `ask.how_many` of the actions that can be shown, and say all that is needed to explain it.

    decision_id: as `make_id` gives it. seed: of this delivery process; logged.
    Returns the decision in full; no choices when no action can be shown. `propensities` are the candidates' at the
    first draw. Each later rank is drawn from those that are left, by the same policy, and each choice's propensity is
    its probability at its own draw: given what was drawn before it.
    """
    candidates, ids, excluded = _eligible(ask.actions)
    policy, features = known.policy, [action.features for action in candidates]
    scores = policy.scores_for(ids, ask.context, features) if ids else []
    propensities, drawn = draw(policy, scores, ask.how_many, decision_id, seed)
    choices = [
        Choice(
            ids[at],
            rank,
            probability,
            candidates[at].campaign_id,
            candidates[at].creative_id,
            policy.lesson_for(ask.context, features[at]),
        )
        for rank, (at, probability) in enumerate(drawn)
    ]
    return DecisionLog(
        decision_id,
        ask.placement_id,
        known.policy.name,
        known.model_version,
        seed,
        choices,
        ids,
        propensities,
        {**ask.excluded, **excluded},
        dict(ask.context),
        cast(dict[str, dict[str, object]], {name: found for name, found in zip(ids, features, strict=True) if found}),
        list(known.degraded),
        scores,
        policy.logged_rules(),
    )


def made_elsewhere(
    ask: Ask, action_id: str, probability: float, decision_id: str, policy: Policy | None = None
) -> DecisionLog:
    """Return the log of a decision that another system made: its choice as it was, learnt from like our own.

    probability: with which that system chose it. policy: the placement's, which learns from it.
    Returns no choices where the action is not among the eligible ones.
    What the others' probabilities were is not known: each is given an equal share of the rest.
    """
    candidates, ids, excluded = _eligible(ask.actions)
    rest = (1 - probability) / max(1, len(ids) - 1)
    choices = [
        Choice(
            action_id,
            0,
            probability,
            action.campaign_id,
            action.creative_id,
            policy.lesson_for(ask.context, action.features) if policy is not None else b"",
        )
        for action in candidates
        if action.id == action_id
    ]
    return DecisionLog(
        decision_id,
        ask.placement_id,
        MADE_ELSEWHERE,
        "",
        "",
        choices,
        ids,
        [probability if name == action_id else rest for name in ids],
        excluded,
        dict(ask.context),
    )


def draw(
    policy: Policy, scores: Sequence[float], count: int, decision_id: str, seed: str
) -> tuple[list[float], list[tuple[int, float]]]:
    """Draw up to `count` different actions, one after the other.

    scores: the policy's, of the actions that can be drawn.
    Returns (the probabilities of all at the first draw, [(index into scores, probability at its draw)]).
    """
    if not scores:
        return [], []
    left, scores_left = list(range(len(scores))), list(scores)
    first = probabilities = policy.probabilities(scores_left)
    drawn: list[tuple[int, float]] = []
    for rank in range(min(count, len(scores))):
        if rank:
            probabilities = policy.probabilities(scores_left)
        at = _pick(probabilities, uniform(decision_id, seed, rank))
        drawn.append((left.pop(at), probabilities[at]))
        del scores_left[at]
    return first, drawn


def _eligible(actions: Sequence[Candidate]) -> tuple[Sequence[Candidate], list[str], dict[str, str]]:
    """Return the actions that can be shown, their ids, and why the others cannot."""
    ids = [action.id for action in actions]
    targets = filter(None, [action.url for action in actions])
    if len(set(ids)) == len(ids) and all(map(is_safe_target, targets)):
        return actions, ids, {}  # nearly always
    candidates: dict[str, Candidate] = {}
    excluded: dict[str, str] = {}
    for action in actions:
        if action.url and not is_safe_target(action.url):
            excluded[action.id] = Excluded.BAD_URL.value
        elif action.id in candidates or action.id in excluded:
            excluded.setdefault(action.id, Excluded.DUPLICATE.value)
        else:
            candidates[action.id] = action
    return list(candidates.values()), list(candidates), excluded


def _pick(probabilities: Sequence[float], u: float) -> int:
    """Return the index whose stretch of the cumulated probabilities holds u."""
    at = bisect_right(list(accumulate(probabilities)), u)
    while at == len(probabilities) or probabilities[at] <= 0.0:
        at -= 1  # the sum of the probabilities fell short of u by rounding
    return at

"""A decision: which actions to show, each with its exact probability: a pure function of what it was asked and told.

The draw uses u = hash(decision id, seed, rank), so the same request against the same model gives the same answer bit
for bit, on any machine: `redraw.py` does it from the log.
"""

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
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
_NONE: Final[Mapping[str, str]] = {}


class Excluded(StrEnum):
    """Why an action of the request could not be chosen. A closed list; logged with the decision."""

    DUPLICATE = "duplicate"  # the same id stood earlier in the request: the first one counts
    BAD_URL = "bad_url"  # its target is no plain http(s) address, so no click could be sent there
    TAKEN = "taken"  # not to be had beside what was chosen first: `taken:rank:why`, out of the draws behind that rank


_TAKEN: Final = Excluded.TAKEN.value


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


Take = Callable[[Choice, Candidate], Mapping[str, str] | None]
"""Has what was just drawn, before the next rank is: pays for it, say, and writes that into the choice.

Returns which other candidates cannot be had beside it, id -> why: the next ranks are drawn without them, so that each
probability is that of a draw among what could be had. None: it cannot be had itself, and nothing more is drawn.
"""


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


def decide(ask: Ask, known: Known, decision_id: str, seed: str, take: Take | None = None) -> DecisionLog:
    """Choose up to `ask.how_many` of the actions that can be shown, and say all that is needed to explain it.

    decision_id: as `make_id` gives it. seed: of this delivery process; logged. take: told of each choice in its turn;
    None = there is enough of everything.
    Returns the decision in full; no choices when no action can be shown. `propensities` are the candidates' at the
    first draw. Each later rank is drawn from those that are left, by the same policy, and each choice's propensity is
    its probability at its own draw: given what was drawn before it. A candidate that `take` lets fall out stays one,
    and is among the excluded as well, with the rank behind which it was out of play.
    """
    candidates, ids, excluded = _eligible(ask.actions)
    policy, features = known.policy, [action.features for action in candidates]
    scores = policy.scores_for(ids, ask.context, features) if ids else []
    choices: list[Choice] = []
    fallen: dict[str, str] = {}

    def had(rank: int, at: int, probability: float) -> Collection[int] | None:
        action = candidates[at]
        lesson = policy.lesson_for(ask.context, features[at])
        choice = Choice(ids[at], rank, probability, action.campaign_id, action.creative_id, lesson)
        beside = take(choice, action) if take is not None else _NONE
        if beside is None:
            return None
        choices.append(choice)
        out = [at for at, name in enumerate(ids) if name in beside and name not in fallen] if beside else ()
        fallen.update((ids[at], f"{_TAKEN}:{rank}:{beside[ids[at]]}") for at in out)
        return out

    propensities, _ = draw(policy, scores, ask.how_many, decision_id, seed, had)
    return DecisionLog(
        decision_id,
        ask.placement_id,
        known.policy.name,
        known.model_version,
        seed,
        choices,
        ids,
        propensities,
        {**fallen, **ask.excluded, **excluded},  # those that a redraw needs first: of a huge log the last are left out
        dict(ask.context),
        cast(dict[str, dict[str, object]], {name: found for name, found in zip(ids, features, strict=True) if found}),
        list(known.degraded),
        scores,
        policy.logged_rules(),
    )


def fallen_behind(log: DecisionLog) -> dict[int, list[int]]:
    """Return which candidates, by their index, fell out of play behind which rank, from a decision's log."""
    found: dict[int, list[int]] = {}
    if len(log.choices) > 1:
        for at, name in enumerate(log.candidates):
            kind, _, rest = log.excluded.get(name, "").partition(":")
            if kind == _TAKEN:
                found.setdefault(int(rest.partition(":")[0]), []).append(at)
    return found


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
    policy: Policy,
    scores: Sequence[float],
    count: int,
    decision_id: str,
    seed: str,
    had: Callable[[int, int, float], Collection[int] | None] | None = None,
) -> tuple[list[float], list[tuple[int, float]]]:
    """Draw up to `count` different actions, one after the other.

    scores: the policy's, of the actions that can be drawn. had: told (rank, index, probability) of each draw in its
    turn; returns the indices that are out of play from then on, or None: the draw counts for nothing, and is the last.
    Returns (the probabilities of all at the first draw, [(index into scores, probability at its draw)]).
    """
    if not scores:
        return [], []
    left, scores_left = list(range(len(scores))), list(scores)
    first = probabilities = policy.probabilities(scores_left)
    drawn: list[tuple[int, float]] = []
    for rank in range(min(count, len(scores))):
        if rank:
            if not left:
                break
            probabilities = policy.probabilities(scores_left)
        at = _pick(probabilities, uniform(decision_id, seed, rank))
        probability = probabilities[at]
        index = left.pop(at)
        del scores_left[at]
        out = had(rank, index, probability) if had is not None else ()
        if out is None:
            break
        drawn.append((index, probability))
        if out:
            gone = frozenset(out)
            left = [index for index in left if index not in gone]
            scores_left = [scores[index] for index in left]
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

"""Decisions joined to what followed: impressions, clicks, conversions and rewards, within windows of event time.

All times are minima and all rewards maxima, so what a decision has earned does not depend on the order in which the
news of it came. The learner is told differences (Outcome.trials_delta, reward_delta_micros) and only adds.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from schemas.event import Event, EventType
from schemas.outcome import Choice, OpenDecision, Outcome, Response

MICROS: Final = 1_000_000
_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 86_400_000

CONVERSIONS: Final = frozenset({EventType.CONVERSION, EventType.PURCHASE})
RESPONSES: Final = CONVERSIONS | {EventType.IMPRESSION, EventType.CLICK, EventType.REWARD}


@dataclass(frozen=True, slots=True)
class OutcomeRules:
    """The rules of outcomes. All windows are in event time and include their last millisecond.

    click_window_ms: from the decision to an impression or click.
    conversion_window_ms: from the click (or, without one, the decision) to a conversion or a reward by name.
    early_window_ms: how long a response waits for its decision to appear in the log.
    expired_entries_max: entries cleared of expired decisions in one block, so that no state record grows without bound.
    """

    click_window_ms: int = _DAY_MS
    conversion_window_ms: int = 7 * _DAY_MS
    early_window_ms: int = 60 * _MINUTE_MS
    open_decisions_max: int = 50
    early_max: int = 20
    expired_entries_max: int = 1_000
    reward_click_micros: int = MICROS
    reward_conversion_micros: int = 0


class Effect(Enum):
    """What a response did to its decision."""

    JOINED = "joined"
    REPEATED = "repeated"  # seen before: pays once
    EXPIRED = "expired"  # past the window


class _Head(Struct):
    """What of a DecisionLog is needed here; the rest (candidates, features) is skipped unread."""

    decision_id: str
    placement_id: str
    policy: str
    model_version: str
    choices: list[Choice]


_read_head = msgspec.json.Decoder(_Head).decode


def open_decisions(event: Event) -> list[OpenDecision] | None:
    """Return the open decisions of a decision event, one for each choice; None where its log cannot be read."""
    try:
        head = _read_head(event.properties)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    if not head.decision_id:
        return None
    return [
        OpenDecision(
            head.decision_id,
            event.event_time_ms,
            head.placement_id,
            choice,
            model_version=head.model_version,
            policy=head.policy,
            site=event.site,
        )
        for choice in head.choices
    ]


def read_response(event: Event) -> Response:
    """Return an event of one of RESPONSES as a response. A score outside 0..1 counts as the nearer bound, NaN as 0."""
    kind = event.event_type
    explicit = round(min(1.0, max(0.0, event.score)) * MICROS) if kind is EventType.REWARD else 0
    revenue = event.revenue_micros if kind in CONVERSIONS else 0
    return Response(event.decision_id, event.action_id, kind.value, event.event_time_ms, revenue, explicit)


def choose(named: Sequence[OpenDecision], response: Response) -> OpenDecision | None:
    """Return the choice that a response means, of those of its decision; None where it names another action.

    Without an action it is the first choice; for a conversion, the choice that was clicked last before it, if any.
    """
    if response.action_id:
        return next((found for found in named if found.choice.action_id == response.action_id), None)
    if response.kind in CONVERSIONS:
        clicked = [found for found in named if 0 < found.clicked_ms <= response.event_time_ms]
        if clicked:
            return max(clicked, key=lambda found: found.clicked_ms)
    return named[0] if named else None


def last_touch(decisions: Sequence[OpenDecision], time_ms: int, rules: OutcomeRules) -> OpenDecision | None:
    """Return the decision that a conversion of this time is owed to: clicked last before it, within the window."""
    clicked = [
        found
        for found in decisions
        if found.clicked_ms and 0 <= time_ms - found.clicked_ms <= rules.conversion_window_ms
    ]
    return max(clicked, key=lambda found: found.clicked_ms, default=None)


def take_response(decision: OpenDecision, response: Response, rules: OutcomeRules) -> Effect:
    """Write a response into its decision. Whatever came back implies that the choice was shown.

    A response before its decision (clocks differ) is within the window.
    """
    time_ms = response.event_time_ms
    if time_ms > _closes_ms(decision, response.kind, rules):
        return Effect.EXPIRED
    before = (decision.impressed_ms, decision.clicked_ms, decision.explicit_micros)
    decision.impressed_ms = min(decision.impressed_ms or time_ms, time_ms)
    if response.kind == EventType.CLICK:
        decision.clicked_ms = min(decision.clicked_ms or time_ms, time_ms)
    elif response.kind == EventType.REWARD:
        decision.explicit_micros = max(decision.explicit_micros, response.explicit_micros)
    elif response.kind in CONVERSIONS:
        decision.conversions += 1
        decision.revenue_micros += response.revenue_micros
        return Effect.JOINED
    after = (decision.impressed_ms, decision.clicked_ms, decision.explicit_micros)
    return Effect.JOINED if before != after else Effect.REPEATED


def _closes_ms(decision: OpenDecision, kind: str, rules: OutcomeRules) -> int:
    """The last moment at which a response of this kind counts."""
    if kind in (EventType.IMPRESSION, EventType.CLICK):
        return decision.decided_ms + rules.click_window_ms
    return (decision.clicked_ms or decision.decided_ms) + rules.conversion_window_ms


def expires_ms(decision: OpenDecision, rules: OutcomeRules) -> int:
    """Return the last moment at which anything can still count for a decision."""
    click_ms = decision.decided_ms + rules.click_window_ms
    conversion_ms = (decision.clicked_ms or decision.decided_ms) + rules.conversion_window_ms
    return click_ms if click_ms > conversion_ms else conversion_ms  # hot: half the time of max()


def reward_micros(decision: OpenDecision, rules: OutcomeRules) -> int:
    """Return what a decision has earned so far, in millionths, at most 1: by rule, or by name where that is more."""
    earned = rules.reward_click_micros if decision.clicked_ms else 0
    if decision.conversions:
        earned += rules.reward_conversion_micros
    return max(min(MICROS, earned), decision.explicit_micros)


class Delta(NamedTuple):
    """What the learner is still to be told."""

    trials: int
    reward_micros: int


def settle(decision: OpenDecision, is_bot: bool, rules: OutcomeRules) -> Delta:
    """Return what the learner does not know yet of a decision, and note in the decision that it has been told.

    The trial counts once the choice was shown. Of a bot the learner is told nothing.
    """
    if is_bot or not decision.impressed_ms:
        return Delta(0, 0)
    reward = reward_micros(decision, rules)
    delta = Delta(0 if decision.counted else 1, reward - decision.reward_micros)
    decision.counted = True
    decision.reward_micros = reward
    return delta


def has_paid_event(decision: OpenDecision) -> bool:
    """Say whether what a choice pays for has come. An action is a conversion or a purchase."""
    match decision.choice.pays_for:
        case "impression":
            return decision.impressed_ms > 0
        case "click":
            return decision.clicked_ms > 0
        case "action":
            return decision.conversions > 0
    return False


class _Change(Struct):
    decision: OpenDecision
    visitor: str
    is_bot: bool
    trials: int = 0
    reward_micros: int = 0
    is_new: bool = False
    is_paid: bool = False


class OutcomeBook:
    """The outcomes of one block: each changed decision once, in the order of first change, with its deltas summed.

    Deltas are settled event by event, so that they do not depend on how the log is cut into blocks.
    """

    def __init__(self, rules: OutcomeRules) -> None:
        """Start an empty book."""
        self.rules = rules
        self.counts: Counter[tuple[str, str]] = Counter()
        self._changes: dict[tuple[str, str, str], _Change] = {}

    def note(self, decision: OpenDecision, visitor: str, is_bot: bool) -> None:
        """Settle a decision that was just made."""
        self._note(decision, visitor, is_bot).is_new = True

    def _note(self, decision: OpenDecision, visitor: str, is_bot: bool) -> _Change:
        name = (visitor, decision.decision_id, decision.choice.action_id)
        change = self._changes.get(name)
        if change is None:
            change = self._changes[name] = _Change(decision, visitor, is_bot)
        trials, reward = settle(decision, is_bot, self.rules)
        change.decision, change.is_bot = decision, is_bot
        change.trials += trials
        change.reward_micros += reward
        return change

    def respond(self, decision: OpenDecision, response: Response, visitor: str, is_bot: bool) -> bool:
        """Take a response to a decision in; return whether the decision changed."""
        was_paid = has_paid_event(decision)
        effect = take_response(decision, response, self.rules)
        if effect is Effect.JOINED:
            change = self._note(decision, visitor, is_bot)
            change.is_paid |= not is_bot and not was_paid and has_paid_event(decision)
            self.counts["response", response.kind] += 1
            return True
        what = "repeated_response" if effect is Effect.REPEATED else "unknown_decision"
        self.counts[what, response.kind] += 1
        return False

    def unknown(self, kind: str) -> None:
        """Count a response whose decision is not known, or not any more."""
        self.counts["unknown_decision", kind] += 1

    def take(self) -> list[Outcome]:
        """Return the block's outcomes and start anew."""
        outcomes = [_outcome(change) for change in self._changes.values()]
        self._changes = {}
        return outcomes

    def take_counts(self) -> Counter[tuple[str, str]]:
        """Return the block's counts and start anew."""
        counts, self.counts = self.counts, Counter()
        return counts


def _outcome(change: _Change) -> Outcome:
    decision = change.decision
    return Outcome(
        decision_id=decision.decision_id,
        action_id=decision.choice.action_id,
        placement_id=decision.placement_id,
        visitor=change.visitor,
        decided_ms=decision.decided_ms,
        impressed_ms=decision.impressed_ms,
        clicked_ms=decision.clicked_ms,
        conversions=decision.conversions,
        revenue_micros=decision.revenue_micros,
        reward_micros=decision.reward_micros,
        propensity=decision.choice.propensity,
        trials_delta=change.trials,
        reward_delta_micros=change.reward_micros,
        campaign_id=decision.choice.campaign_id,
        creative_id=decision.choice.creative_id,
        model_version=decision.model_version,
        policy=decision.policy,
        is_bot=change.is_bot,
        site=decision.site,
        lesson=decision.choice.lesson,
        line_id=decision.choice.line_id,
        pays_for=decision.choice.pays_for,
        price_micros=decision.choice.price_micros,
        lease_id=decision.choice.lease_id,
        budget_day=decision.choice.budget_day,
        campaign_day=decision.choice.campaign_day,
        is_new=change.is_new,
        is_paid=change.is_paid,
    )

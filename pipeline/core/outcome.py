"""Decisions joined to what followed: impressions, clicks, conversions and rewards, within windows of event time.

Times are minima, rewards by name maxima, and revenue sums. The learner is told differences (Outcome.trials_delta,
reward_delta_micros) and only adds.

What is measured from the decision (impressions, clicks, goals of these) does not depend on the order in which the news
of it came. What is measured from the click (conversions, goals beyond it, rewards by name) is judged once, when it
comes, by the earliest click known then: an event that stands in the log before its click is measured from the decision,
and a click that is told later, even if it was an earlier one, neither brings in what was out of its window nor takes
out what was in. So the result is one of the log's order, not of the events' times alone; of one log it is always the
same, however it is cut into blocks or replayed.

A choice that carries goals earns by them alone, each within its own window; which they are was written into it when it
was decided, so that what a marketer changes later changes nothing of it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from pipeline.core.whole import fitting
from schemas.event import Event, EventType
from schemas.outcome import OWN_REVENUE, Choice, OpenDecision, Outcome, Reached, Response
from schemas.spend import Hold

MICROS: Final = 1_000_000
_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 86_400_000

CONVERSIONS: Final = frozenset({EventType.CONVERSION, EventType.PURCHASE})
_SHOWING: Final = frozenset({EventType.IMPRESSION, EventType.CLICK})
WANTED: Final = CONVERSIONS | {EventType.SUBSCRIBE, EventType.ADD_TO_CART}
"""What may follow a click. Of these, one that is no conversion counts for the choices only that have it as a goal."""
RESPONSES: Final = WANTED | _SHOWING | {EventType.REWARD}


@dataclass(frozen=True, slots=True)
class OutcomeRules:
    """The rules of outcomes. All windows are in event time and include their last millisecond.

    A goal's own window is what counts for that goal; where it is longer, its events are joined for that long.

    click_window_ms: from the decision (of what is sent: from when it was to be) to an impression or click.
    conversion_window_ms: from the click (or, without one, from there) to a conversion or a reward by name.
    reward_…_micros: of choices whose placement does not say what a reward is worth.
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
    UNWANTED = "unwanted"  # no conversion, and no goal of the choice


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
    revenue = event.revenue_micros if kind in WANTED else 0
    return Response(event.decision_id, event.action_id, kind.value, event.event_time_ms, revenue, explicit)


def choose(named: Sequence[OpenDecision], response: Response) -> OpenDecision | None:
    """Return the choice that a response means, of those of its decision; None where it names another action.

    Without an action it is the first choice; for what follows a click, the choice that was clicked last before it, if
    any: of those that want it, else of all.
    """
    if response.action_id:
        return next((found for found in named if found.choice.action_id == response.action_id), None)
    if response.kind in WANTED:
        clicked = [found for found in named if 0 < found.clicked_ms <= response.event_time_ms]
        if clicked:
            return max(clicked, key=lambda found: (wants(found.choice, response.kind), found.clicked_ms))
        return next((found for found in named if wants(found.choice, response.kind)), named[0] if named else None)
    return named[0] if named else None


def last_touch(
    decisions: Sequence[OpenDecision], time_ms: int, rules: OutcomeRules, kind: str = EventType.CONVERSION
) -> OpenDecision | None:
    """Return the decision that an event of WANTED of this time is owed to: clicked last before it, within its window.

    kind: of the event. One that earns by it goes before one that would not: nobody's click takes what it does not want.
    """
    best: tuple[bool, int] = (False, 0)
    owed = None
    for found in decisions:
        after_ms = time_ms - found.clicked_ms
        if not found.clicked_ms or after_ms < 0:
            continue
        is_told = kind in CONVERSIONS and after_ms <= rules.conversion_window_ms
        earns = wants(found.choice, kind, after_ms) if found.choice.goals else is_told
        if (earns or is_told) and (earns, found.clicked_ms) > best:
            best, owed = (earns, found.clicked_ms), found
    return owed


def wants(choice: Choice, kind: str, after_ms: int = 0) -> bool:
    """Say whether an event of WANTED pays for a choice: one of its goals; where it has none, a conversion.

    kind: of the event. after_ms: how long after the click it came; windows of goals include their last millisecond.
    """
    if not choice.goals:
        return kind in CONVERSIONS
    return any(goal.event == kind and after_ms <= goal.window_ms for goal in choice.goals)


def take_response(decision: OpenDecision, response: Response, rules: OutcomeRules) -> Effect:
    """Write a response into its decision. Whatever came back implies that the choice was shown.

    A response before its decision (clocks differ) is within the window.
    """
    time_ms, kind, choice = response.event_time_ms, response.kind, decision.choice
    if kind in WANTED and kind not in CONVERSIONS and not wants(choice, kind):
        return Effect.UNWANTED
    if time_ms > _closes_ms(decision, kind, rules):
        return Effect.EXPIRED
    before = (decision.impressed_ms, decision.clicked_ms, decision.explicit_micros)
    decision.impressed_ms = min(decision.impressed_ms or time_ms, time_ms)
    if kind == EventType.CLICK:
        decision.clicked_ms = min(decision.clicked_ms or time_ms, time_ms)
    elif kind == EventType.REWARD:
        decision.explicit_micros = max(decision.explicit_micros, response.explicit_micros)
    elif kind in WANTED:
        if kind in CONVERSIONS:
            decision.conversions += 1
            decision.revenue_micros = fitting(decision.revenue_micros + response.revenue_micros)
        _reach(decision, response)
        return Effect.JOINED
    after = (decision.impressed_ms, decision.clicked_ms, decision.explicit_micros)
    return Effect.JOINED if before != after else Effect.REPEATED


def _reach(decision: OpenDecision, response: Response) -> None:
    """Note a goal's event, if it came within that goal's window."""
    goals = decision.choice.goals
    for at, goal in enumerate(goals):
        if goal.event == response.kind and response.event_time_ms <= _clicked_or_decided_ms(decision) + goal.window_ms:
            if not decision.reached:
                decision.reached = [Reached() for _ in goals]
            reached = decision.reached[at]
            reached.count += 1
            reached.revenue_micros = fitting(reached.revenue_micros + response.revenue_micros)


def has_reached(decision: OpenDecision, at: int) -> bool:
    """Say whether the choice's goal of this index was reached within its window."""
    goal = decision.choice.goals[at]
    if goal.event == EventType.IMPRESSION:
        return 0 < decision.impressed_ms <= _begins_ms(decision) + goal.window_ms
    if goal.event == EventType.CLICK:
        return 0 < decision.clicked_ms <= _begins_ms(decision) + goal.window_ms
    return bool(decision.reached) and decision.reached[at].count > 0


def _begins_ms(decision: OpenDecision) -> int:
    """When its windows begin: with the decision, or when it was to be sent."""
    return decision.choice.send_ms or decision.decided_ms


def _clicked_or_decided_ms(decision: OpenDecision) -> int:
    return decision.clicked_ms or _begins_ms(decision)


def _window_ms(choice: Choice, kind: str, least_ms: int) -> int:
    """For how long events of a kind are joined: least_ms, or as long as a goal of the choice says."""
    for goal in choice.goals:
        if goal.event == kind and goal.window_ms > least_ms:
            return goal.window_ms
    return least_ms


def _closes_ms(decision: OpenDecision, kind: str, rules: OutcomeRules) -> int:
    """The last moment at which a response of this kind counts."""
    choice = decision.choice
    if kind in _SHOWING:
        return _begins_ms(decision) + _window_ms(choice, kind, rules.click_window_ms)
    least_ms = 0 if kind in WANTED and kind not in CONVERSIONS else rules.conversion_window_ms
    return _clicked_or_decided_ms(decision) + _window_ms(choice, kind, least_ms)


def expires_ms(decision: OpenDecision, rules: OutcomeRules) -> int:
    """Return the last moment at which anything can still count for a decision."""
    begins_ms = decision.choice.send_ms or decision.decided_ms
    click_ms = begins_ms + rules.click_window_ms
    conversion_ms = (decision.clicked_ms or begins_ms) + rules.conversion_window_ms
    for goal in decision.choice.goals:
        if goal.event in _SHOWING:
            click_ms = max(click_ms, begins_ms + goal.window_ms)
        else:
            conversion_ms = max(conversion_ms, _clicked_or_decided_ms(decision) + goal.window_ms)
    return click_ms if click_ms > conversion_ms else conversion_ms  # hot: half the time of max()


def reward_micros(decision: OpenDecision, rules: OutcomeRules) -> int:
    """Return what a decision has earned so far, in millionths, at most 1: by rule, or by name where that is more."""
    worth = decision.choice.worth_micros
    if worth:
        earned = min(max(value_micros(decision), 0), worth) * MICROS // worth
    else:
        earned = rules.reward_click_micros if decision.clicked_ms else 0
        if has_acted(decision):
            earned += rules.reward_conversion_micros
    return max(min(MICROS, earned), decision.explicit_micros)


def value_micros(decision: OpenDecision) -> int:
    """Return what a decision has earned in money: the values of its goals, each once; without goals, the revenue."""
    goals = decision.choice.goals
    if not goals:
        return decision.revenue_micros
    earned = 0
    for at, goal in enumerate(goals):
        if goal.value_micros != OWN_REVENUE:
            earned += goal.value_micros if has_reached(decision, at) else 0
        elif decision.reached:
            earned += decision.reached[at].revenue_micros
    return fitting(earned)


def has_acted(decision: OpenDecision) -> bool:
    """Say whether a goal beyond a click was reached; without goals, whether a conversion came."""
    if decision.choice.goals:
        return any(reached.count for reached in decision.reached)
    return decision.conversions > 0


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
    """Say whether what a choice pays for has come. An action is its first goal; without goals, any conversion."""
    match decision.choice.pays_for:
        case "impression":
            return decision.impressed_ms > 0
        case "click":
            return decision.clicked_ms > 0
        case "action":
            return has_reached(decision, 0) if decision.choice.goals else decision.conversions > 0
    return False


class _Change(Struct):
    decision: OpenDecision
    visitor: str
    is_bot: bool
    holds: tuple[Hold, ...]
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

    def _note(self, decision: OpenDecision, visitor: str, is_bot: bool, time_ms: int = 0) -> _Change:
        name = (visitor, decision.decision_id, decision.choice.action_id)
        change = self._changes.get(name)
        if change is None:
            # now: a purchase in this very block takes its piece out of the decision, but not out of what was held
            change = self._changes[name] = _Change(decision, visitor, is_bot, decision.choice.holds)
        trials, reward = settle(decision, is_bot, self.rules)
        if reward:
            decision.rewarded_ms = max(decision.rewarded_ms, time_ms)
        change.decision, change.is_bot = decision, is_bot
        change.trials += trials
        change.reward_micros += reward
        return change

    def respond(self, decision: OpenDecision, response: Response, visitor: str, is_bot: bool) -> bool:
        """Take a response to a decision in; return whether the decision changed."""
        was_paid = has_paid_event(decision)
        effect = take_response(decision, response, self.rules)
        if effect is Effect.JOINED:
            change = self._note(decision, visitor, is_bot, response.event_time_ms)
            change.is_paid |= not is_bot and not was_paid and has_paid_event(decision)
            self.counts["response", response.kind] += 1
            return True
        if effect is Effect.UNWANTED:
            return False
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
        value_micros=value_micros(decision),
        holds=change.holds,
        hold_ms=decision.choice.hold_ms,
        chosen_by=decision.choice.chosen_by,
        group_propensity=decision.choice.group_propensity,
        group_lesson=decision.choice.group_lesson,
        send_ms=decision.choice.send_ms,
        rank=decision.choice.rank, has_paid=has_paid_event(decision), rewarded_ms=decision.rewarded_ms,
    )  # fmt: skip

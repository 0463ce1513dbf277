"""Streams for the profile stage's tests: short words for events, and a story that folds blocks and keeps what came."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from pipeline.core.decide import make_id
from pipeline.core.outcome import OutcomeRules
from pipeline.core.profile import ProfileRules
from pipeline.core.profile_stage import Profiles, ProfilesRules
from pipeline.core.state import StateView
from schemas.block import EventBlock, Origin, OutcomeBlock, Totals
from schemas.event import Event, EventType
from schemas.outcome import Choice, DecisionLog, Outcome
from schemas.profile import VisitorState
from schemas.topics import OUTCOMES

START_MS = 1_700_000_000_000
CLICK_WINDOW_MS, CONVERSION_WINDOW_MS, EARLY_WINDOW_MS = 1_000, 3_000, 200
RULES = ProfilesRules(
    ProfileRules(),
    OutcomeRules(
        click_window_ms=CLICK_WINDOW_MS,
        conversion_window_ms=CONVERSION_WINDOW_MS,
        early_window_ms=EARLY_WINDOW_MS,
        open_decisions_max=3,
        early_max=2,
        reward_click_micros=400_000,
        reward_conversion_micros=500_000,
    ),
)
ID = make_id(START_MS, "ann", 1)


class Story(NamedTuple):
    """What came of some blocks: the fold, its restorable state, all outcomes and counts."""

    fold: Profiles
    view: StateView
    outcomes: list[Outcome]
    counts: Counter[tuple[str, str]]
    blocks: list[OutcomeBlock]

    def state(self, key: str) -> VisitorState | None:
        """The packed state of a key."""
        raw = self.view.entries.get(key)
        return None if raw is None else msgspec.msgpack.decode(raw, type=VisitorState)

    def told(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Trials and reward that the learner was told, by decision and action."""
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for outcome in self.outcomes:
            name = (outcome.decision_id, outcome.action_id)
            trials, reward = sums.get(name, (0, 0))
            sums[name] = (trials + outcome.trials_delta, reward + outcome.reward_delta_micros)
        return sums

    def last(self) -> dict[tuple[str, str, str], Outcome]:
        """The newest outcome of each decision and action."""
        return {(each.visitor, each.decision_id, each.action_id): each for each in self.outcomes}


def event(kind: EventType, at_ms: int, visitor: str = "ann", **fields: Any) -> Event:
    """An event this long after the start."""
    return Event("e", kind, START_MS + at_ms, START_MS + at_ms, "shop", visitor, **fields)


def decision(
    at_ms: int = 0,
    visitor: str = "ann",
    decision_id: str = ID,
    actions: Sequence[str] = ("a",),
    flags: int = 0,
    line_id: str = "",
) -> Event:
    """A decision event as delivery logs it. line_id: of a campaign's creatives."""
    choices = [
        Choice(action, rank, 0.5, "camp", action if line_id else "", line_id=line_id)
        for rank, action in enumerate(actions)
    ]
    log = DecisionLog(decision_id, "home", "greedy", "0:1", "s", choices, list(actions), [0.5])
    properties = msgspec.json.encode(log).decode()
    return event(EventType.DECISION, at_ms, visitor, decision_id=decision_id, properties=properties, flags=flags)


def click(at_ms: int, visitor: str = "ann", decision_id: str = ID, action_id: str = "", flags: int = 0) -> Event:
    """A click that names its decision."""
    return event(EventType.CLICK, at_ms, visitor, decision_id=decision_id, action_id=action_id, flags=flags)


def page(at_ms: int, visitor: str = "clock") -> Event:
    """A page view, by which stream time moves on."""
    return event(EventType.PAGE, at_ms, visitor)


def tell(*blocks: Sequence[Event], rules: ProfilesRules = RULES, view: StateView | None = None) -> Story:
    """Fold blocks (block time = the last event's time; without events, a tick a second after the one before)."""
    view = view or StateView()
    fold = Profiles(view, rules)
    outcomes: list[Outcome] = []
    written: list[OutcomeBlock] = []
    counts: Counter[tuple[str, str]] = Counter()
    block_time_ms = START_MS
    for offset, events in enumerate(blocks):
        block_time_ms = (
            max([block_time_ms, *(each.event_time_ms for each in events)]) if events else block_time_ms + 1_000
        )
        applied = fold.apply(Origin(0, offset), EventBlock(block_time_ms, Totals(), [], list(events)))
        (output,) = applied.outputs
        assert output.topic is OUTCOMES
        assert isinstance(output.block, OutcomeBlock)
        assert output.rows == len(output.block.outcomes)
        written.append(output.block)
        outcomes += output.block.outcomes
        counts += applied.counts
        fold.take_changes()  # packs into the view's entries, which the fold owns
        view.fixed = fold.fixed()
    return Story(fold, view, outcomes, counts, written)

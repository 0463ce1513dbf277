"""The profile stage's fold: clean events -> each visitor's profile and open decisions; and the outcomes of decisions.

Decisions of visitors without an id have entries of their own, named "~" + decision id, that vanish when they expire.
News of a decision may come without the visitor (a signed link does not carry it): it is found by the route, the
visitor's hash inside the decision id.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, cast

import msgspec
from msgspec import Struct

from pipeline.core.bought import sales
from pipeline.core.deadlines import ANONYMOUS, Deadlines
from pipeline.core.outcome import (
    RESPONSES,
    WANTED,
    OutcomeBook,
    OutcomeRules,
    choose,
    expires_ms,
    last_touch,
    open_decisions,
    read_response,
)
from pipeline.core.profile import ENGAGEMENT_POINTS, ProfileRules, learn
from pipeline.core.shown import note_shown
from pipeline.core.stage import Applied, Output
from pipeline.core.state import Entries, StateView
from pipeline.core.stream_time import NEVER, StreamTime
from schemas.block import EventBlock, Origin, OutcomeBlock
from schemas.event import Event, EventFlag, EventType
from schemas.outcome import OpenDecision, Response
from schemas.profile import Profile, ProfileFixed, VisitorState
from schemas.spend import Sale, StockLevel
from schemas.topics import EVENTS, OUTCOMES, PROFILES, Topic

_BOT: Final = int(EventFlag.BOT)
_CLAMPED: Final = int(EventFlag.TIME_CLAMPED)
_DECISION: Final = EventType.DECISION


@dataclass(frozen=True, slots=True)
class ProfilesRules:
    """The rules of the profile stage."""

    profile: ProfileRules
    outcome: OutcomeRules


class Profiles:
    """Fold of `events` into `profiles` (visitor -> VisitorState) and `outcomes`, for one partition."""

    name: ClassVar[str] = "profile"
    source: ClassVar[Topic] = EVENTS
    reads: ClassVar[type[Struct]] = EventBlock
    state: ClassVar[Topic] = PROFILES

    def __init__(self, view: StateView, rules: ProfilesRules) -> None:
        """view: the restored partition; its entries are owned by this object from now on."""
        self._rules = rules
        self._visitors = Entries(view.entries, VisitorState)
        self._deadlines = Deadlines(rules.outcome, view.entries)
        self._book = OutcomeBook(rules.outcome)
        self._totals = ProfileFixed(NEVER, NEVER)
        if view.fixed:
            self._totals = msgspec.msgpack.decode(view.fixed, type=ProfileFixed)
        self._clock = StreamTime(self._totals.stream_ms, self._totals.block_time_ms)
        self._stock: list[StockLevel] = []  # what this block says of it
        self._sales: list[Sale] = []
        self._touched: dict[str, None] = {}  # keys whose deadline may have changed in this block

    def apply(self, origin: Origin, block: Struct) -> Applied:
        """Take a block in. Always gives one OutcomeBlock, empty where no decision changed."""
        clean = cast(EventBlock, block)
        self._clock.enter(clean.block_time_ms, is_tick=clean.is_tick)
        for event in clean.events:
            if not event.flags & _CLAMPED:
                self._clock.advance(event.event_time_ms)
            self._take(event)
        self._clear()
        outcomes = self._book.take()
        counts = self._book.take_counts()
        self._totals.events += len(clean.events)
        for (what, _), many in counts.items():
            if what == "decision":
                self._totals.decisions += many
            elif what == "response":
                self._totals.responses += many
            elif what == "unknown_decision":
                self._totals.unknown += many
        block_out = OutcomeBlock(clean.block_time_ms, outcomes, self._stock, self._sales)
        self._stock, self._sales = [], []
        return Applied([Output(OUTCOMES, block_out, len(outcomes))], counts)

    def take_changes(self) -> tuple[list[tuple[str, bytes]], list[str]]:
        """Return (puts, deletes) since the last call, packed."""
        return self._visitors.take_changes()

    def fixed(self) -> bytes:
        """Return stream time and the partition's totals, packed."""
        self._totals.stream_ms, self._totals.block_time_ms = self._clock.now_ms, self._clock.block_time_ms
        return msgspec.msgpack.encode(self._totals)

    def _take(self, event: Event) -> None:
        kind, visitor = event.event_type, event.visitor
        state = None
        if visitor and kind in ENGAGEMENT_POINTS:
            state = self._state(visitor)
            learn(state.profile, event, self._rules.profile)
            self._visitors.put(visitor, state)
        if event.flags & _BOT:
            self._book.counts["bot_event", kind.value] += 1
        if kind in RESPONSES:
            if event.decision_id:
                self._respond(event)
            elif state is not None and state.decisions and kind in WANTED:
                self._attribute(visitor, state, event)
            elif kind is EventType.REWARD:
                self._book.unknown(kind.value)
            if kind is EventType.PURCHASE:
                self._sell(event)
        elif kind is _DECISION:
            self._open(event)
        elif kind is EventType.STOCK and event.product_id:
            self._stock.append(StockLevel(event.site, event.product_id, event.stock_level, event.event_time_ms))

    def _state(self, key: str) -> VisitorState:
        """The state of a key, new where there is none, without what has expired."""
        state = self._visitors.get(key)
        if state is None:
            return VisitorState(Profile())
        if (state.decisions or state.early) and self._drop_expired(key, state):
            self._visitors.put(key, state)
        return state

    def _open(self, event: Event) -> None:
        """Open a decision's choices, and join what came before it."""
        opened = open_decisions(event)
        if opened is None:
            self._book.counts["bad_decision", "properties"] += 1
            return
        if not opened:
            return  # nothing could be chosen: nothing can follow
        if expires_ms(opened[0], self._rules.outcome) < self._clock.now_ms:
            # nothing can follow any more; opened anew, one that comes a second time would be paid a second time
            self._book.counts["expired_decision", ""] += 1
            return
        decision_id = opened[0].decision_id
        key = event.visitor or ANONYMOUS + decision_id
        state = self._state(key)
        if event.flags & _BOT:
            state.profile.is_bot = True
        if any(known.decision_id == decision_id for known in state.decisions):
            self._book.counts["repeated_decision", ""] += 1
        else:
            for decision in opened:
                state.decisions.append(decision)
                self._book.note(decision, event.visitor, state.profile.is_bot)
                self._book.counts["decision", ""] += 1
            if event.visitor and opened[0].choice.line_id:
                note_shown(state, opened)
            self._deadlines.keep_route(key)  # at once: a signed click may follow in this very block
            self._join_early(key, state, opened)
            self._evict(state)
        self._touch(key, state)

    def _join_early(self, key: str, state: VisitorState, opened: list[OpenDecision]) -> None:
        """Give a new decision the responses that came before it, under its visitor or without one."""
        decision_id = opened[0].decision_id
        waiting = [found for found in state.early if found.decision_id == decision_id]
        if waiting:
            state.early = [found for found in state.early if found.decision_id != decision_id]
        lone_key = ANONYMOUS + decision_id
        if lone_key != key:
            lone = self._visitors.get(lone_key)
            if lone is not None and lone.early:
                self._drop_expired(lone_key, lone)
                waiting += lone.early
                lone.early = []
                self._touch(lone_key, lone)
        for response in waiting:
            self._join(key, state, opened, response)

    def _evict(self, state: VisitorState) -> None:
        """Keep open_decisions_max decisions: those decided last (ties: those that came last)."""
        while len(state.decisions) > self._rules.outcome.open_decisions_max:
            oldest = min(range(len(state.decisions)), key=lambda at: state.decisions[at].decided_ms)
            del state.decisions[oldest]
            self._book.counts["evicted_decision", ""] += 1

    def _respond(self, event: Event) -> None:
        """Join a response that names its decision; keep it where the decision has not come yet."""
        response, visitor, is_bot = read_response(event), event.visitor, self._is_bot(event)
        lone_key = ANONYMOUS + response.decision_id
        keys = (visitor, lone_key) if visitor else (lone_key, *self._deadlines.routed(response.decision_id))
        for key in keys:
            if is_bot and key != visitor:
                return  # a mail scanner that follows a link says nothing of the visitor whose decision it was
            state = self._visitors.get(key)
            if state is None or not state.decisions:
                continue
            state = self._state(key)
            named = [found for found in state.decisions if found.decision_id == response.decision_id]
            if named:
                state.profile.is_bot |= is_bot
                self._join(key, state, named, response)
                self._touch(key, state)
                return
        if not is_bot:
            self._keep_early(visitor or lone_key, response)

    def _is_bot(self, event: Event) -> bool:
        """Whether a bot did this, or a visitor known as one."""
        state = self._visitors.get(event.visitor) if event.visitor else None
        return bool(event.flags & _BOT) or (state is not None and state.profile.is_bot)

    def _join(self, key: str, state: VisitorState, named: list[OpenDecision], response: Response) -> None:
        decision = choose(named, response)
        if decision is None:
            self._book.unknown(response.kind)
        else:
            self._book.respond(decision, response, _visitor_of(key), state.profile.is_bot)

    def _attribute(self, visitor: str, state: VisitorState, event: Event) -> None:
        """Give a conversion, or a goal's event, that names no decision to the visitor's last click."""
        decision = last_touch(state.decisions, event.event_time_ms, self._rules.outcome, event.event_type)
        if decision is not None:
            self._book.respond(decision, read_response(event), visitor, state.profile.is_bot)
            self._touch(visitor, state)

    def _sell(self, event: Event) -> None:
        """Say which held pieces a purchase is of: of the visitor's, or of the decision that it names."""
        keys = [event.visitor] if event.visitor else []
        if event.decision_id:
            keys += [ANONYMOUS + event.decision_id, *self._deadlines.routed(event.decision_id)]
        is_bot = self._is_bot(event)
        for key in keys:
            state = self._visitors.get(key)
            if state is None or is_bot or state.profile.is_bot:
                continue
            found = sales(event, state.decisions)
            if found:
                self._sales += found
                self._touch(key, state)
                return

    def _keep_early(self, key: str, response: Response) -> None:
        rules = self._rules.outcome
        if response.event_time_ms + rules.early_window_ms < self._clock.now_ms:
            self._book.unknown(response.kind)
            return
        state = self._state(key)
        state.early.append(response)
        self._book.counts["early_response", response.kind] += 1
        if len(state.early) > rules.early_max:
            self._book.unknown(state.early.pop(0).kind)
        self._touch(key, state)

    def _drop_expired(self, key: str, state: VisitorState) -> bool:
        """Drop what nothing can follow any more at the stream's time; return whether there was any."""
        now_ms, rules = self._clock.now_ms, self._rules.outcome
        kept = [found for found in state.decisions if expires_ms(found, rules) >= now_ms]
        early = [found for found in state.early if found.event_time_ms + rules.early_window_ms >= now_ms]
        if len(kept) == len(state.decisions) and len(early) == len(state.early):
            return False
        for response in state.early:
            if response.event_time_ms + rules.early_window_ms < now_ms:
                self._book.unknown(response.kind)
        state.decisions, state.early = kept, early
        if key.startswith(ANONYMOUS) and not kept and not early:
            state.profile = Profile()  # as if the entry had been deleted, which it will be
        self._touched[key] = None
        return True

    def _touch(self, key: str, state: VisitorState) -> None:
        self._visitors.put(key, state)
        self._touched[key] = None

    def _clear(self) -> None:
        """Set the deadlines of what changed, then clear entries whose deadline has passed."""
        for key in self._touched:
            self._settle_entry(key)
        self._touched.clear()
        for key in self._deadlines.due(self._clock.now_ms):
            state = self._visitors.get(key)
            if state is not None and self._drop_expired(key, state):
                self._visitors.put(key, state)
            self._settle_entry(key)
        self._touched.clear()

    def _settle_entry(self, key: str) -> None:
        state = self._visitors.get(key)
        if state is None:
            return
        self._deadlines.set(key, state.decisions, state.early)
        says_nothing = not state.decisions and not state.early and not state.shown
        if says_nothing and not state.profile.events and not state.profile.is_bot:
            self._visitors.delete(key)  # it says nothing any more


def _visitor_of(key: str) -> str:
    return "" if key.startswith(ANONYMOUS) else key

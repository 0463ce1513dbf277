"""The sessionise stage's fold: `events` -> `sessions`, for one partition of the log.

Each block gives the sessions that it changed, each in full and once, so that the sessions in the world always hold
exactly the events with a visitor that came so far. Which session an event belongs to, and how long one is kept, is in
`sessions.py`; here are the clock, the index of what is due to be closed, and what is written.
"""

from collections import Counter
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import ClassVar

import msgspec
from msgspec import Struct

from pipeline.core import sessions as rule
from pipeline.core.sessions import SessionRules
from pipeline.core.stage import Applied, Output
from pipeline.core.state import Entries, StateView
from pipeline.core.stream_time import NEVER, StreamTime
from pipeline.errors import StateError
from schemas.block import EventBlock, Origin, SessionBlock
from schemas.event import Event
from schemas.session import Session, SessioniseFixed, SessionRow, VisitorSessions
from schemas.topics import EVENTS, SESSIONISE_STATE, SESSIONS, Topic

LEAPS_MAX = 64
"""Leaps of stream time remembered while sessions overdue before them wait for their turn: far more than there are."""


class _Visitor:
    """One visitor while a block is applied: the sessions, and what the world will have to hear about them."""

    __slots__ = ("changed", "forgotten", "names", "sessions", "state")

    def __init__(self, state: VisitorSessions) -> None:
        self.state = state
        self.sessions = state.sessions
        self.names: list[tuple[int, str]] | None = None  # as the world knows them; see keep_names
        self.changed: dict[int, Session] = {}  # by id(): two sessions may be equal, and a start may move
        self.forgotten: list[Session] = []

    def keep_names(self) -> None:
        """To be called before a session is added or moved, for only then may a name become void."""
        if self.names is None:
            self.names = [(session.start_ms, session.stray_id) for session in self.sessions]


class Sessionise:
    """Fold of `events` into `sessions`; state: visitor -> VisitorSessions.

    counts: ("sessions", opened|closed|reopened|merged|forced), ("late", merged|opened|alone): a late event joined a
    kept session, began one because nothing was there to join, or began one because what was there is forgotten.
    """

    name: ClassVar[str] = "sessionise"
    source: ClassVar[Topic] = EVENTS
    reads: ClassVar[type[Struct]] = EventBlock
    state: ClassVar[Topic] = SESSIONISE_STATE

    def __init__(self, view: StateView, rules: SessionRules) -> None:
        """view: the restored partition, owned from now on. Raises StateError where its fixed part is not ours."""
        self._rules = rules
        self._entries = Entries(view.entries, VisitorSessions)
        self._totals = _read_fixed(view.fixed)
        self._clock = StreamTime(self._totals.stream_ms, self._totals.block_time_ms)
        # When each visitor's next session is to be closed or forgotten, or earlier: an event that prolongs a session
        # costs nothing here, and the entry finds its new place when it comes up. Every heap entry that is not in
        # `_scheduled` is void. A rebuilt index has no early entries but closes at the same events, in the same order.
        self._scheduled = {
            visitor: rule.next_change_ms(state.sessions, self._totals.leaps, rules)
            for visitor, state in self._entries.items()
        }
        self._due = [(due_ms, visitor) for visitor, due_ms in self._scheduled.items()]
        heapify(self._due)
        self._visitors: dict[str, _Visitor] = {}  # those that the block has met
        self._counts: Counter[tuple[str, str]] = Counter()
        self._budget = 0

    def apply(self, origin: Origin, block: Struct) -> Applied:
        """Take one EventBlock in. What it returns shares sessions with the state until `take_changes` is called."""
        assert isinstance(block, EventBlock), f"{origin}: {type(block).__name__}, expected EventBlock"
        self._visitors = {}
        self._counts = Counter()
        self._budget = self._rules.settle_max
        before_ms = self._clock.now_ms
        self._clock.enter(block.block_time_ms, is_tick=block.is_tick)
        self._note_leap(before_ms)
        self._settle_due("")
        self._take(block.events)
        self._forget_leaps()
        rows: list[SessionRow] = []
        for visitor in sorted(self._visitors):  # the order of meeting them depends on how early the index was
            self._write(visitor, self._visitors[visitor], rows)
        outputs = [Output(SESSIONS, SessionBlock(block.block_time_ms, rows), len(rows))] if rows else []
        return Applied(outputs, self._counts)

    def take_changes(self) -> tuple[list[tuple[str, bytes]], list[str]]:
        """Return (puts, deletes) since the last call, packed."""
        return self._entries.take_changes()

    def fixed(self) -> bytes:
        """Return SessioniseFixed, packed."""
        self._totals.stream_ms = self._clock.now_ms
        self._totals.block_time_ms = self._clock.block_time_ms
        return msgspec.msgpack.encode(self._totals)

    def _take(self, events: Iterable[Event]) -> None:
        """The hot path: most events prolong their visitor's open session."""
        clock, due, visitors = self._clock, self._due, self._visitors
        split, extend, begins_anew = self._rules.split_on_campaign, rule.extend, rule.begins_anew
        gap_ms = self._rules.gap_ms
        for event in events:
            time_ms = event.event_time_ms
            name = event.visitor
            before_ms = clock.now_ms
            if time_ms > before_ms:
                clock.now_ms = time_ms
                if time_ms - before_ms > gap_ms:
                    self._note_leap(before_ms)
            if due and due[0][0] < clock.now_ms:
                self._settle_due(name)
            if not name:
                continue
            self._totals.events += 1
            visitor = visitors.get(name) or self._meet(name)
            if visitor.sessions:
                last = visitor.sessions[-1]
                # an open session ended at most a gap before stream time, so this event is within the gap and not late
                if time_ms >= last.end_ms and not last.closed and not (split and begins_anew(last, event)):
                    extend(last, event, clock.now_ms)
                    visitor.changed[id(last)] = last
                    continue
            if time_ms == clock.now_ms:
                self._open(name, visitor, event)
            else:
                self._place(name, visitor, event)

    def _note_leap(self, before_ms: int) -> None:
        """Keep in mind where stream time has leapt to. In the index all is due earlier then, which it may be."""
        if self._clock.now_ms - before_ms > self._rules.gap_ms and before_ms != NEVER:
            leaps = self._totals.leaps = [*self._totals.leaps[1 - LEAPS_MAX :], (before_ms, self._clock.now_ms)]
            self._totals.leapt_ms = leaps[-1][1]

    def _meet(self, name: str) -> _Visitor:
        visitor = self._visitors[name] = _Visitor(self._entries.get(name) or VisitorSessions([]))
        return visitor

    def _open(self, name: str, visitor: _Visitor, event: Event) -> None:
        """Begin a session with the newest event of all, after all the visitor's own: `_place` without its questions."""
        visitor.keep_names()
        session = rule.session_of(event, event.event_time_ms, self._rules)
        visitor.sessions.append(session)
        visitor.changed[id(session)] = session
        self._totals.opened += 1
        self._counts["sessions", "opened"] += 1
        if len(visitor.sessions) > self._rules.sessions_max:
            self._force(visitor)
        due_ms = rule.close_ms(session, self._rules)
        if due_ms < self._scheduled.get(name, due_ms + 1):
            self._scheduled[name] = due_ms
            heappush(self._due, (due_ms, name))

    def _place(self, name: str, visitor: _Visitor, event: Event) -> None:
        """Place an event that begins a session, or is late or out of order."""
        now_ms, rules, sessions, totals = self._clock.now_ms, self._rules, visitor.sessions, self._totals
        time_ms = event.event_time_ms
        is_stray = time_ms < now_ms - rules.gap_ms - rules.retain_ms
        is_unknown = is_stray or time_ms <= visitor.state.forced_ms
        visitor.keep_names()
        closed_before = sum(session.closed for session in sessions)
        held, joined = rule.insert(sessions, rule.session_of(event, now_ms, rules, is_stray=is_unknown), rules)
        others_closed = sum(session.closed for session in sessions if session is not held)
        was_closed = closed_before > others_closed  # one of those that went into it
        held.closed = now_ms > rule.close_ms(held, rules)
        visitor.changed[id(held)] = held
        totals.closed += others_closed + held.closed - closed_before
        if joined:
            totals.merged += joined - 1
            self._count("sessions", "merged", joined - 1)
        else:
            totals.opened += 1
            self._count("sessions", "opened", 1)
        self._count("sessions", "closed", int(held.closed and not was_closed))
        self._count("sessions", "reopened", int(was_closed and not held.closed))
        if time_ms < now_ms - rules.gap_ms:
            self._count("late", "merged" if joined else "alone" if is_stray else "opened", 1)
        while len(sessions) > rules.sessions_max:
            self._force(visitor)
        self._schedule(name, sessions)

    def _force(self, visitor: _Visitor) -> None:
        """Forget the visitor's first session early; it is closed, because nothing can be added to it any more."""
        first = visitor.sessions.pop(0)
        visitor.state.forced_ms = max(visitor.state.forced_ms, first.start_ms)
        visitor.forgotten.append(first)
        self._count("sessions", "forced", 1)
        if not first.closed:
            self._close(visitor, first)

    def _close(self, visitor: _Visitor, session: Session) -> None:
        session.closed = True
        visitor.changed[id(session)] = session
        self._totals.closed += 1
        self._count("sessions", "closed", 1)

    def _settle_due(self, name: str) -> None:
        """Close and forget what stream time has passed, in the order of (time, visitor), and in any case `name`'s.

        At most settle_max visitors a block: after an hour's silence all sessions are due at once, and would not fit
        into one record. The rest comes with the next blocks; visitors do not touch each other's sessions, so an
        event only needs its own visitor's to be settled.
        """
        due, scheduled, now_ms = self._due, self._scheduled, self._clock.now_ms
        leaps, rules = self._totals.leaps, self._rules
        while self._budget and due and due[0][0] < now_ms:
            due_ms, who = heappop(due)
            if scheduled.get(who) != due_ms:
                continue
            del scheduled[who]
            visitor = self._visitors.get(who) or self._meet(who)
            # An early entry costs no budget and no turn: an index just rebuilt has none, and must do the same.
            if rule.next_change_ms(visitor.sessions, leaps, rules) == due_ms:
                self._budget -= 1
                self._settle(visitor, now_ms)
            self._schedule(who, visitor.sessions)
        if scheduled.get(name, now_ms) < now_ms:
            del scheduled[name]
            visitor = self._visitors.get(name) or self._meet(name)
            self._settle(visitor, now_ms)
            self._schedule(name, visitor.sessions)

    def _forget_leaps(self) -> None:
        """Once nobody is overdue, whoever is left has outlived all leaps: the last one's end says it all."""
        leaps, due, scheduled, now_ms = self._totals.leaps, self._due, self._scheduled, self._clock.now_ms
        while len(leaps) > 1 and due and due[0][0] < now_ms:
            due_ms, who = due[0]
            is_void = scheduled.get(who) != due_ms
            if not is_void and rule.next_change_ms(self._sessions_of(who), leaps, self._rules) == due_ms:
                return
            heappop(due)
            if not is_void:
                del scheduled[who]
                self._schedule(who, self._sessions_of(who))
        if len(leaps) > 1:
            self._totals.leaps = [(NEVER, leaps[-1][1])]

    def _sessions_of(self, name: str) -> list[Session]:
        visitor = self._visitors.get(name)
        return visitor.sessions if visitor is not None else (self._entries.get(name) or VisitorSessions([])).sessions

    def _settle(self, visitor: _Visitor, now_ms: int) -> None:
        rules, leaps = self._rules, self._totals.leaps
        forgets = False
        for session in visitor.sessions:
            if not session.closed and now_ms > rule.close_ms(session, rules):
                self._close(visitor, session)
            if session.closed and now_ms > rule.forget_ms(session, leaps, rules):
                visitor.forgotten.append(session)
                forgets = True
        if forgets:
            visitor.sessions[:] = [one for one in visitor.sessions if now_ms <= rule.forget_ms(one, leaps, rules)]

    def _schedule(self, name: str, sessions: list[Session]) -> None:
        if not sessions:
            return
        due_ms = rule.next_change_ms(sessions, self._totals.leaps, self._rules)
        if due_ms < self._scheduled.get(name, due_ms + 1):
            self._scheduled[name] = due_ms
            heappush(self._due, (due_ms, name))

    def _write(self, name: str, visitor: _Visitor, rows: list[SessionRow]) -> None:
        """Put the visitor's state and append the rows that tell of it: void names first, then sessions by start."""
        changed, forgotten, sessions = visitor.changed, visitor.forgotten, visitor.sessions
        if not changed and not forgotten:
            return  # met only because the index was early
        if sessions:
            self._entries.put(name, visitor.state)
        else:
            self._entries.delete(name)
        if not changed:
            return
        known = [*forgotten, *sessions] if forgotten else sessions
        if visitor.names:
            names = {(session.start_ms, session.stray_id) for session in known}
            for start_ms, stray_id in visitor.names:
                if (start_ms, stray_id) not in names:
                    rows.append(SessionRow(name, Session(start_ms, start_ms, stray_id=stray_id), deleted=True))
        for session in known:
            if id(session) in changed:
                rows.append(SessionRow(name, session))

    def _count(self, what: str, label: str, times: int) -> None:
        if times:
            self._counts[what, label] += times


def _read_fixed(fixed: bytes) -> SessioniseFixed:
    if not fixed:
        return SessioniseFixed(NEVER, NEVER)
    try:
        found = msgspec.msgpack.decode(fixed, type=SessioniseFixed)
    except msgspec.MsgspecError as error:
        raise StateError(f"fixed part of {SESSIONISE_STATE.name}: {error}; expected SessioniseFixed") from error
    if not found.leaps and found.leapt_ms != NEVER:  # written before leaps were kept
        found.leaps = [(NEVER, found.leapt_ms)]
    return found

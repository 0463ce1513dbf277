"""Sessions: the gap rule, late events, names, and the fold that keeps them."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.core.sessionise import Sessionise
from pipeline.core.sessions import SessionRules, extend, merge, session_of
from pipeline.core.stage import Applied
from pipeline.core.state import StateView
from pipeline.errors import StateError
from schemas.block import EventBlock, Origin, SessionBlock, Totals, encode
from schemas.event import Event, EventFlag, EventType
from schemas.session import Session, SessionRow

GAP, RETAIN = 10, 25
RULES = SessionRules(gap_ms=GAP, retain_ms=RETAIN)
Name = tuple[str, int, str]

# ---------------------------------------------------------------- a small world around the fold


def happen(time_ms: int, visitor: str = "ann", event_id: str = "", **fields: Any) -> Event:
    kind = fields.pop("event_type", EventType.PAGE)
    return Event(event_id or f"{visitor}-{time_ms}", kind, time_ms, time_ms, "shop", visitor=visitor, **fields)


def block_of(events: Iterable[Event], block_time_ms: int = 0) -> EventBlock:
    return EventBlock(block_time_ms, Totals(), [], list(events))


def passing(first_ms: int, last_ms: int) -> list[Event]:
    """Events of nobody that let time pass without a leap; first_ms: stream time before them, last_ms: after."""
    steps = [*range(first_ms + GAP, last_ms, GAP), last_ms]
    return [happen(time_ms, visitor="") for time_ms in steps]


class World:
    """A fold with its state log and the reader of its output: what the warehouse would hold."""

    def __init__(self, rules: SessionRules = RULES) -> None:
        self.rules = rules
        self.entries: dict[str, bytes] = {}
        self.fixed = b""
        self.sessions: dict[Name, Session] = {}
        self.counts: dict[tuple[str, str], int] = {}
        self.told: list[bytes] = []
        self.last: list[SessionRow] = []
        self.stage = self._restored()

    def _restored(self) -> Sessionise:
        view = StateView()
        view.entries, view.fixed = dict(self.entries), self.fixed
        return Sessionise(view, self.rules)

    def kill(self) -> None:
        """Lose the process; a new one takes over from the state log."""
        self.stage = self._restored()

    def feed(self, *blocks: EventBlock) -> "World":
        for block in blocks:
            applied = self.stage.apply(Origin(0, 0), block)
            self._read(applied)
            puts, deletes = self.stage.take_changes()
            self.entries.update(puts)
            for key in deletes:
                del self.entries[key]  # a KeyError here is a delete of what was never put
            self.fixed = self.stage.fixed()
        return self

    def events(self, *events: Event) -> "World":
        return self.feed(block_of(events))

    def tick(self, block_time_ms: int) -> "World":
        return self.feed(block_of([], block_time_ms))

    def _read(self, applied: Applied) -> None:
        for what, times in applied.counts.items():
            self.counts[what] = self.counts.get(what, 0) + times
        self.last = []
        for output in applied.outputs:
            assert isinstance(output.block, SessionBlock)
            self.last = output.block.sessions
            assert output.rows == len(self.last) > 0
            self.told.append(encode(output.block))
        names = [(row.visitor, row.session.start_ms, row.session.stray_id) for row in self.last]
        assert len(set(names)) == len(names), "a name twice in one block: which row would win?"
        for name, row in zip(names, self.last, strict=True):
            if row.deleted:
                del self.sessions[name]  # a KeyError here is a void name that nobody ever heard of
            else:
                self.sessions[name] = msgspec.msgpack.decode(msgspec.msgpack.encode(row.session), type=Session)

    def spans(self, visitor: str = "ann") -> list[tuple[int, int, int]]:
        """(start, end, events) of each session in the world."""
        found = (session for (who, _, _), session in self.sessions.items() if who == visitor)
        return sorted((session.start_ms, session.end_ms, session.events) for session in found)

    def one(self) -> Session:
        (session,) = self.sessions.values()
        return session


def by_the_book(events: Iterable[Event], gap_ms: int, splits: bool = False) -> dict[tuple[str, int], Session]:
    """Sessions by definition: sort all events, cut at every longer pause, look at each piece as a whole."""
    pieces: dict[str, list[list[Event]]] = {}
    for event in sorted(events, key=lambda one: (one.event_time_ms, one.event_id)):
        if not event.visitor:
            continue
        mine = pieces.setdefault(event.visitor, [])
        campaign = event.utm_campaign or event.click_id
        if (
            not mine
            or event.event_time_ms - mine[-1][-1].event_time_ms > gap_ms
            or (splits and campaign and campaign != next(filter(None, map(campaign_of, mine[-1])), ""))
        ):
            mine.append([])
        mine[-1].append(event)
    return {(who, piece[0].event_time_ms): look_at(piece) for who, mine in pieces.items() for piece in mine}


def campaign_of(event: Event) -> str:
    return event.utm_campaign or event.click_id


def look_at(piece: list[Event]) -> Session:
    def count(*kinds: EventType) -> int:
        return sum(event.event_type in kinds for event in piece)

    def first(has: Callable[[Event], object]) -> Event | None:
        return next(filter(has, piece), None)

    session = Session(piece[0].event_time_ms, piece[-1].event_time_ms, site=piece[0].site, first_id=piece[0].event_id)
    looked = [event for event in piece if event.event_type in (EventType.PAGE, EventType.SCREEN)]
    pages = [(event.event_time_ms, event.event_id, event.path or event.name) for event in looked]
    if pages:
        session.landing, session.exit = pages[0], pages[-1]
    if sent := first(lambda e: e.channel or e.utm_source):
        session.source = (
            sent.event_time_ms, sent.event_id, sent.channel, sent.utm_source, sent.utm_medium, sent.utm_campaign
        )  # fmt: skip
    if tagged := first(campaign_of):
        session.campaign = (tagged.event_time_ms, tagged.event_id, campaign_of(tagged))
    if seen := first(lambda e: e.device):
        session.device, session.device_key = seen.device, (seen.event_time_ms, seen.event_id)
    session.events, session.pages = len(piece), len(pages)
    session.impressions, session.clicks = count(EventType.IMPRESSION), count(EventType.CLICK)
    session.conversions, session.purchases = count(EventType.CONVERSION), count(EventType.PURCHASE)
    session.revenue_micros = sum(event.revenue_micros for event in piece)
    session.is_bot = any(event.flags & EventFlag.BOT for event in piece)
    return session


def timeless(session: Session) -> Session:
    """The session without what tells of its arrival."""
    return msgspec.structs.replace(session, late_events=0, touched_ms=0, closed=False)


# ---------------------------------------------------------------- named boundaries


def test_an_event_at_exactly_the_gap_still_belongs() -> None:
    assert World().events(happen(0), happen(GAP)).spans() == [(0, GAP, 2)]


def test_an_event_past_the_gap_begins_a_session() -> None:
    world = World().events(happen(0), happen(GAP + 1))
    assert world.spans() == [(0, 0, 1), (GAP + 1, GAP + 1, 1)]
    assert [session.closed for session in world.sessions.values()] == [True, False]


def test_a_session_closes_only_once_stream_time_is_past_its_gap() -> None:
    world = World().events(happen(0), happen(GAP, visitor="bob"))
    assert not world.sessions["ann", 0, ""].closed
    world.events(happen(GAP + 1, visitor="bob"))
    assert world.sessions["ann", 0, ""].closed


def test_a_tick_closes_the_last_session_of_a_quiet_partition() -> None:
    world = World().feed(block_of([happen(500)], 10_000))
    assert world.tick(10_000 + GAP).last == []
    (row,) = world.tick(10_000 + GAP + 1).last
    assert (row.session.start_ms, row.session.closed) == (500, True)


def test_a_tick_before_any_event_says_nothing() -> None:
    assert World().tick(5).tick(1_000_000).told == []


def test_an_event_without_a_visitor_moves_time_and_nothing_else() -> None:
    world = World().events(happen(0), happen(GAP + 1, visitor=""))
    assert world.spans() == [(0, 0, 1)]
    assert world.one().closed
    assert list(world.entries) == ["ann"]


def test_nothing_changed_means_no_output() -> None:
    world = World().events(happen(0))
    told = len(world.told)
    world.events(happen(1, visitor="")).feed(block_of([]))
    assert len(world.told) == told


def test_each_changed_session_is_told_once_a_block_in_its_last_state() -> None:
    world = World().events(happen(0), happen(1), happen(2), happen(1, visitor="bob"))
    assert [(row.visitor, row.session.events) for row in world.last] == [("ann", 3), ("bob", 1)]


def test_a_session_opened_closed_and_forgotten_in_one_block_is_told_closed() -> None:
    world = World().events(happen(0), *passing(0, 1_000), happen(1_000, visitor="bob"))
    assert world.sessions["ann", 0, ""].closed
    assert list(world.entries) == ["bob"]


def test_a_late_event_joins_a_closed_session_which_stays_closed() -> None:
    world = World().events(happen(0), happen(3), happen(30, visitor="bob"), happen(2))
    session = world.sessions["ann", 0, ""]
    assert (session.events, session.late_events, session.closed) == (3, 1, True)
    assert world.counts["late", "merged"] == 1


def test_an_event_exactly_the_gap_behind_stream_time_is_not_late() -> None:
    world = World().events(happen(GAP, visitor="bob"), happen(0))
    assert world.sessions["ann", 0, ""].late_events == 0
    assert World().events(happen(GAP + 1, visitor="bob"), happen(0)).sessions["ann", 0, ""].late_events == 1


def test_a_late_event_that_prolongs_a_closed_session_to_within_the_gap_opens_it_again() -> None:
    world = World().events(happen(0), happen(11, visitor="bob"))
    assert world.sessions["ann", 0, ""].closed
    world.events(happen(5))
    assert not world.sessions["ann", 0, ""].closed
    assert world.counts["sessions", "reopened"] == 1
    world.events(happen(16, visitor="bob"))
    assert world.sessions["ann", 0, ""].closed


def test_an_earlier_event_moves_the_start_and_voids_the_old_name() -> None:
    world = World().events(happen(20)).events(happen(15))
    assert [(row.session.start_ms, row.deleted) for row in world.last] == [(20, True), (15, False)]
    assert world.spans() == [(15, 20, 2)]


def test_a_bridge_makes_two_sessions_one_and_voids_the_later_name() -> None:
    world = World().events(happen(0), happen(20))
    assert world.spans() == [(0, 0, 1), (20, 20, 1)]
    world.events(happen(10))
    assert [(row.session.start_ms, row.deleted) for row in world.last] == [(20, True), (0, False)]
    assert world.spans() == [(0, 20, 3)]
    assert world.counts["sessions", "merged"] == 1


def test_an_event_that_reaches_only_one_side_does_not_bridge() -> None:
    assert World().events(happen(0), happen(21), happen(10)).spans() == [(0, 10, 2), (21, 21, 1)]


def test_a_session_that_came_and_went_within_a_block_was_never_there() -> None:
    world = World().events(happen(20), happen(15))
    assert [(row.session.start_ms, row.deleted) for row in world.last] == [(15, False)]
    world.events(happen(40), happen(35), happen(30), happen(25))
    assert [(row.session.start_ms, row.deleted) for row in world.last] == [(15, False)]


def test_a_late_event_finds_its_session_until_the_promise_ends() -> None:
    """gap + retain behind stream time, and a full gap behind the session's end: just still there."""
    last_ms = GAP + GAP + RETAIN
    world = World().events(happen(0), *passing(0, last_ms), happen(GAP))
    assert world.spans() == [(0, GAP, 2)]
    world = World().events(happen(0), *passing(0, last_ms + 1), happen(GAP))
    assert world.spans() == [(0, 0, 1), (GAP, GAP, 1)]
    assert world.counts["late", "alone"] == 1
    assert world.sessions["ann", GAP, f"ann-{GAP}"].late_events == 1


def test_a_late_event_whose_visitor_was_not_there_opens_a_session_and_is_not_called_alone() -> None:
    world = World().events(happen(GAP + RETAIN, visitor="bob"), happen(0))
    assert world.counts["late", "opened"] == 1
    assert ("late", "alone") not in world.counts


def test_a_stray_event_at_a_forgotten_sessions_start_does_not_take_over_its_row() -> None:
    """A file replayed twice: the second time every event is as old as a session that nobody remembers."""
    world = World().events(happen(0), happen(1), *passing(1, 1_000), happen(0, event_id="again"))
    assert world.spans() == [(0, 0, 1), (0, 1, 2)]
    world.events(happen(1, event_id="and again"))
    assert world.spans() == [(0, 1, 2), (0, 1, 2)]


def test_a_leap_of_stream_time_cuts_no_session_in_two() -> None:
    """One live event in a partition that replays last year: ann, in the middle of her session, goes on with it."""
    live_ms = 1_000_000
    world = World().events(happen(0), happen(live_ms, visitor="bob"), happen(5))
    assert world.spans() == [(0, 5, 2)]
    world.events(*passing(live_ms, live_ms + RETAIN), happen(12))
    assert world.spans() == [(0, 12, 3)]


def test_a_session_from_before_a_leap_is_forgotten_as_long_after_it_as_any_other() -> None:
    live_ms = 1_000_000
    world = World().events(happen(0), happen(live_ms, visitor="bob"), *passing(live_ms, live_ms + RETAIN))
    assert "ann" in world.entries
    world.events(happen(live_ms + RETAIN + 1, visitor=""))
    assert "ann" not in world.entries


def test_a_leap_by_a_tick_is_a_leap() -> None:
    """Nothing came for long, not even ticks: the collector was away, and its clients have kept their events."""
    world = World().feed(block_of([happen(0)], 0)).tick(10_000).events(happen(5))
    assert world.spans() == [(0, 5, 2)]


def test_a_stray_session_is_kept_as_long_as_news_of_it_come() -> None:
    """A device that was offline sends its old events one after the other."""
    world = World().events(happen(10_000, visitor="bob"))
    for step in range(5):
        world.events(happen(100 + 5 * step), happen(10_000 + RETAIN * (step + 1), visitor="bob"))
    assert world.spans() == [(100, 120, 5)]


def test_a_forgotten_visitor_leaves_no_entry_behind() -> None:
    last_ms = 2 * GAP + RETAIN
    world = World().events(happen(0)).events(*passing(0, last_ms))
    assert "ann" in world.entries
    world.events(happen(last_ms + 1, visitor=""))
    assert "ann" not in world.entries
    assert ("ann", 0, "") in world.sessions


def test_a_visitor_with_too_many_sessions_loses_none_of_their_rows() -> None:
    """A device uploads a year at once, or somebody makes up times: the entry stays small, the sums stay right."""
    world = World(SessionRules(GAP, RETAIN, sessions_max=3)).events(happen(100_000, visitor="bob"))
    times = [*range(0, 2_000, 100), *range(50, 2_000, 100), *range(0, 2_000, 100)]
    for number, time_ms in enumerate(times):
        world.events(happen(time_ms, event_id=f"e{number}"))
    assert sum(events for _, _, events in world.spans()) == len(times)
    assert len(world.entries["ann"]) < 500
    assert world.counts["sessions", "forced"] > 0


def test_when_everything_is_due_at_once_each_block_settles_its_share() -> None:
    """After an hour's silence a hundred thousand sessions are due, and no record holds them all."""
    world = World(SessionRules(GAP, RETAIN, settle_max=3)).events(*(happen(n, f"v{n}") for n in range(8)))
    world.tick(1).tick(1_000)
    assert [row.visitor for row in world.last] == ["v0", "v1", "v2"]
    world.events(happen(2_000, "v7"))
    told = [(row.visitor, row.session.start_ms, row.session.closed) for row in world.last]
    assert told == [("v3", 3, True), ("v4", 4, True), ("v5", 5, True), ("v7", 7, True), ("v7", 2_000, False)]
    world.tick(1_000)
    assert [row.visitor for row in world.last] == ["v6"]


def test_an_event_at_the_start_of_a_session_forgotten_early_does_not_take_over_its_row() -> None:
    world = World(SessionRules(GAP, RETAIN, sessions_max=1)).events(happen(0), happen(20), happen(0, event_id="b"))
    assert world.spans() == [(0, 0, 1), (0, 0, 1), (20, 20, 1)]


def test_an_index_entry_that_is_early_costs_no_share_of_the_block() -> None:
    """ann was due at 10 until she came again; a rebuilt index does not know that and must close the same sessions."""
    visit = [happen(0), happen(1, "bob"), happen(5)]
    steady, restored = (World(SessionRules(GAP, RETAIN, settle_max=1)).events(*visit) for _ in range(2))
    restored.kill()
    for world in (steady, restored):
        world.events(happen(12, "cy"))
        assert world.sessions["bob", 1, ""].closed
        assert not world.sessions["ann", 0, ""].closed
    assert steady.told == restored.told


def test_a_session_that_only_waits_for_its_turn_is_forgotten_before_stream_time_leaps() -> None:
    """Whether its turn came is chance, and no event may be counted otherwise by it."""
    visits = [happen(0), happen(0, "bob")]
    later = [happen(time_ms, "cy") for time_ms in (10, 20, 21, 32)]
    for together in (True, False):
        for is_killed in (True, False):
            world = World(SessionRules(GAP, 0, settle_max=1)).events(*visits)
            for part in [later] if together else [[event] for event in later]:
                world.events(*part)
            if is_killed:
                world.kill()
            world.events(happen(5, "bob", "late"))
            found = {key: session.events for key, session in world.sessions.items() if key[0] == "bob"}
            assert found == {("bob", 0, ""): 1, ("bob", 5, "late"): 1}


def test_rows_stand_in_the_same_order_after_a_restart() -> None:
    steady, restored = (World().events(happen(0), happen(5)) for _ in range(2))
    restored.kill()
    for world in (steady, restored):
        world.events(happen(12, "Zoe"), happen(12, "bob"), happen(12))
        assert [row.visitor for row in world.last] == ["Zoe", "ann", "bob"]
    assert steady.told == restored.told


def test_every_field_is_a_sum_a_first_or_a_last() -> None:
    kinds = EventType
    world = World().events(
        happen(1, event_type=kinds.IMPRESSION),
        happen(2, path="/in", channel="email", utm_source="letter", utm_medium="email", utm_campaign="may"),
        happen(3, event_type=kinds.CLICK, device="mobile"),
        happen(4, event_type=kinds.PURCHASE, revenue_micros=2_500_000, device="desktop"),
        happen(5, event_type=kinds.CONVERSION, revenue_micros=1),
        happen(6, event_type=kinds.SCREEN, name="Out", flags=int(EventFlag.BOT | EventFlag.SKEW_CORRECTED)),
    )
    session = world.one()
    assert (session.impressions, session.pages, session.clicks) == (1, 2, 1)
    assert (session.purchases, session.conversions) == (1, 1)
    assert (session.landing, session.exit) == ((2, "ann-2", "/in"), (6, "ann-6", "Out"))
    assert session.source == (2, "ann-2", "email", "letter", "email", "may")
    assert (session.device, session.revenue_micros, session.is_bot, session.site) == ("mobile", 2_500_001, True, "shop")


def test_ties_in_time_are_broken_by_event_id() -> None:
    pages = [happen(5, event_id=name, path=f"/{name}") for name in "bca"]
    session = World().events(*pages).one()
    assert (session.landing[2], session.exit[2], session.first_id) == ("/a", "/c", "a")


def test_a_new_campaign_splits_inside_the_gap_only_by_the_setting() -> None:
    visit = [happen(0), happen(1, utm_campaign="may"), happen(2), happen(3, click_id="g1"), happen(4, click_id="g1")]
    assert World().events(*visit).spans() == [(0, 4, 5)]
    split = World(SessionRules(GAP, RETAIN, split_on_campaign=True)).events(*visit)
    assert split.spans() == [(0, 0, 1), (1, 2, 2), (3, 4, 2)]


def test_with_the_split_a_late_event_inside_a_session_joins_it_whatever_its_campaign() -> None:
    world = World(SessionRules(GAP, RETAIN, split_on_campaign=True))
    world.events(happen(0, utm_campaign="may"), happen(6), happen(3, utm_campaign="june"))
    assert world.spans() == [(0, 6, 3)]


def test_with_the_split_a_late_event_takes_in_a_later_session_without_a_campaign_of_its_own() -> None:
    rules = SessionRules(GAP, RETAIN, split_on_campaign=True)
    world = World(rules).events(happen(0, utm_campaign="may"), happen(11), happen(5, utm_campaign="june"))
    assert world.spans() == [(0, 0, 1), (5, 11, 2)]
    world = World(rules).events(happen(0), happen(11, utm_campaign="may"), happen(5))
    assert world.spans() == [(0, 5, 2), (11, 11, 1)]


def test_with_the_split_a_late_campaign_joins_the_sessions_that_it_turns_out_to_have_brought() -> None:
    rules = SessionRules(GAP, RETAIN, split_on_campaign=True)
    world = World(rules).events(happen(11), happen(15, utm_campaign="may"))
    assert world.spans() == [(11, 11, 1), (15, 15, 1)]
    assert world.events(happen(5, utm_campaign="may")).spans() == [(5, 15, 3)]


def test_with_the_split_two_sessions_never_share_a_start() -> None:
    rules = SessionRules(GAP, RETAIN, split_on_campaign=True)
    late = [happen(5, utm_campaign="may"), happen(6, utm_campaign="june"), happen(5, event_id="b", click_id="g1")]
    assert World(rules).events(*late).spans() == [(5, 5, 2), (6, 6, 1)]
    visit = [happen(5, event_id=name, utm_campaign=name) for name in ("a", "b", "c")]
    assert World(rules).events(*visit).spans() == [(5, 5, 3)]


def test_a_state_that_is_not_ours_stops_the_start() -> None:
    view = StateView()
    view.fixed = msgspec.msgpack.encode({"stream_ms": "yesterday"})
    with pytest.raises(StateError, match="sessionise-state"):
        Sessionise(view, RULES)


# ---------------------------------------------------------------- laws

# Nothing here may depend on how busy the machine is.
law = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
VISITORS = ("ann", "bob", "cy", "")
LOOKS: tuple[dict[str, Any], ...] = (
    {},
    {"path": "/a", "channel": "direct"},
    {"path": "/b", "channel": "email", "utm_campaign": "may", "device": "mobile"},
    {"event_type": EventType.SCREEN, "name": "Home", "utm_campaign": "june"},
    {"event_type": EventType.IMPRESSION, "device": "desktop"},
    {"event_type": EventType.CLICK, "click_id": "g1", "utm_source": "ads"},
    {"event_type": EventType.CONVERSION, "revenue_micros": 1, "flags": int(EventFlag.SKEW_CORRECTED)},
    {"event_type": EventType.PURCHASE, "revenue_micros": 2_500_000},
    {"event_type": EventType.SEARCH, "flags": int(EventFlag.BOT), "utm_campaign": "may", "click_id": "g1"},
)
"""Kinds of event: every field that a session reads, set and unset."""


@st.composite
def histories(draw: st.DrawFn, span_ms: int = 200, events_max: int = 30) -> list[Event]:
    """Events in no order, few visitors, many ties; the event ids' order is not that of arrival."""
    one = st.tuples(st.integers(0, span_ms), st.sampled_from(VISITORS), st.sampled_from(LOOKS), st.integers(0, 3))
    drawn = draw(st.lists(one, max_size=events_max))
    return [
        happen(time_ms, visitor, f"{rank}-{number}", **look)
        for number, (time_ms, visitor, look, rank) in enumerate(drawn)
    ]


@st.composite
def logs(draw: st.DrawFn) -> list[EventBlock]:
    """Blocks with ticks between them, some events very late."""
    events = draw(histories(span_ms=300))
    if draw(st.booleans()):
        events.sort(key=lambda event: event.event_time_ms)
    sizes = draw(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 1, GAP, 3 * GAP])), max_size=20))
    blocks, block_time_ms = [], 0
    for size, passed_ms in [*sizes, (len(events), 0)]:
        block_time_ms += passed_ms
        blocks.append(block_of(events[:size], block_time_ms))
        events = events[size:]
    return blocks


all_rules = st.builds(
    SessionRules,
    gap_ms=st.just(GAP),
    retain_ms=st.sampled_from([0, 5, RETAIN]),
    split_on_campaign=st.booleans(),
    sessions_max=st.sampled_from([1, 2, 64]),
    settle_max=st.sampled_from([1, 500]),
)


@law
@given(histories(), st.data())
def test_arrival_order_does_not_matter_within_retention(history: list[Event], data: st.DataObject) -> None:
    """No event is more than gap + retain behind stream time: the sessions are those of the sorted events."""
    delays = data.draw(st.lists(st.integers(0, GAP + RETAIN), min_size=len(history), max_size=len(history)))
    arrivals = sorted(zip(delays, history, strict=True), key=lambda pair: pair[0] + pair[1].event_time_ms)
    size = data.draw(st.integers(1, 10))
    world = World()
    for begin in range(0, len(arrivals), size):
        world.events(*(event for _, event in arrivals[begin : begin + size]))
    found = {(who, start): timeless(session) for (who, start, _), session in world.sessions.items()}
    assert found == by_the_book(history, GAP)
    assert ("late", "alone") not in world.counts
    latest_ms = max((event.event_time_ms for event in history), default=0)
    for session in world.sessions.values():
        assert session.closed == (latest_ms > session.end_ms + GAP)


@law
@given(histories())
def test_with_the_split_events_in_order_give_the_sessions_of_the_book(history: list[Event]) -> None:
    """Within one instant no order is the true one, so here every event has its own."""
    history.sort(key=lambda event: (event.event_time_ms, event.event_id))
    history = [msgspec.structs.replace(one, event_time_ms=3 * n + one.event_time_ms) for n, one in enumerate(history)]
    world = World(SessionRules(GAP, RETAIN, split_on_campaign=True)).events(*history)
    found = {(who, start): timeless(session) for (who, start, _), session in world.sessions.items()}
    assert found == by_the_book(history, GAP, splits=True)


@law
@given(logs(), all_rules)
def test_where_blocks_are_cut_does_not_matter(log: list[EventBlock], rules: SessionRules) -> None:
    """Blocks with events are cut into single events; ticks stay where they are. At the end, what is due is settled."""
    singly = [part for block in log for part in ([block_of([e], block.block_time_ms) for e in block.events] or [block])]
    rest = [block_of([])] * len(VISITORS)
    assert World(rules).feed(*singly, *rest).sessions == World(rules).feed(*log, *rest).sessions


@law
@given(logs(), all_rules, st.sets(st.integers(0, 40)))
def test_a_kill_at_any_block_changes_nothing(log: list[EventBlock], rules: SessionRules, kills: set[int]) -> None:
    """The block is applied, told or not, and lost; a new owner does it again from the state before it."""
    steady, shaken = World(rules), World(rules)
    for number, block in enumerate(log):
        steady.feed(block)
        if number in kills:
            shaken.stage.apply(Origin(0, 0), block)
            shaken.kill()
        shaken.feed(block)
        assert shaken.entries == steady.entries
        assert shaken.fixed == steady.fixed
    assert shaken.told == steady.told
    assert shaken.counts == steady.counts


@law
@given(logs(), all_rules)
def test_the_sessions_in_the_world_hold_every_event_with_a_visitor_once(
    log: list[EventBlock], rules: SessionRules
) -> None:
    """After every block, however late the events are and whatever was forgotten."""
    world, events, revenue_micros = World(rules), 0, 0
    for block in log:
        world.feed(block)
        events += sum(bool(event.visitor) for event in block.events)
        revenue_micros += sum(event.revenue_micros for event in block.events if event.visitor)
        assert sum(session.events for session in world.sessions.values()) == events
        assert sum(session.revenue_micros for session in world.sessions.values()) == revenue_micros
        totals = world.stage._totals
        assert totals.events == events
        assert totals.opened - totals.merged == len(world.sessions)
        assert totals.closed == sum(session.closed for session in world.sessions.values())


@law
@given(logs(), all_rules)
@example([block_of([happen(0), happen(0, event_id="b")])], RULES)
def test_no_block_is_changed_by_being_applied(log: list[EventBlock], rules: SessionRules) -> None:
    before = [encode(block) for block in log]
    World(rules).feed(*log)
    assert [encode(block) for block in log] == before


@law
@given(logs(), all_rules)
def test_a_visitors_entry_is_bounded(log: list[EventBlock], rules: SessionRules) -> None:
    world = World(rules)
    for block in log:
        world.feed(block)
        for raw in world.entries.values():
            assert 1 <= len(msgspec.msgpack.decode(raw)[0]) <= rules.sessions_max


@law
@given(histories(span_ms=GAP))
def test_extending_by_an_event_is_merging_with_the_session_of_it(history: list[Event]) -> None:
    history.sort(key=lambda event: event.event_time_ms)
    if not history:
        return
    extended = session_of(history[0], history[0].event_time_ms, RULES)
    merged = session_of(history[0], history[0].event_time_ms, RULES)
    for event in history[1:]:
        extend(extended, event, event.event_time_ms)
        merge(merged, session_of(event, event.event_time_ms, RULES))
    assert extended == merged


@law
@given(histories(span_ms=GAP, events_max=8), st.data())
def test_merging_is_adding_in_any_order(history: list[Event], data: st.DataObject) -> None:
    """Any order, as long as the earlier one takes in the later one: that is what `merge` asks for."""
    if not history:
        return

    def total(events: list[Event]) -> Session:
        sessions = [session_of(event, 0, RULES) for event in events]
        while len(sessions) > 1:
            one, other = sorted(sessions[:2], key=lambda session: session.start_ms)
            merge(one, other)
            sessions[:2] = [one]
        return sessions[0]

    assert total(data.draw(st.permutations(history))) == total(history)

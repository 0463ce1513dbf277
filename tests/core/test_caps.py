"""Frequency caps: what the profile stage keeps, what this process adds, and that no cap is ever exceeded."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_rig import CONVERSION_WINDOW_MS, START_MS, decision, event, page, tell

from pipeline.core.caps import (
    ELSEWHERE,
    MANY,
    UNKNOWN,
    CapCounts,
    Closed,
    OwnShows,
    cap_key,
    cap_rules,
    own_shows,
)
from pipeline.core.decide import make_id
from pipeline.core.shown import CREATIVES_MAX, KEPT_MS, STAMPS_MAX, ShownRules, note_shown, stamp, stamp_ms
from schemas.campaign import DAY_MS, HOUR_MS, Cap
from schemas.event import EventType
from schemas.outcome import Choice, OpenDecision
from schemas.profile import Profile, Shown, VisitorState

MINUTE_MS = 60_000
LINES = {"a": "shoes", "b": "shoes", "c": "hats"}  # all of one campaign


def made(at_ms: int, creative: str = "a", number: int = 0) -> OpenDecision:
    """A decision of one creative, so long after the start."""
    time_ms = START_MS + at_ms
    choice = Choice(creative, 0, 1.0, "spring", creative, line_id=LINES.get(creative, "many"))
    return OpenDecision(make_id(time_ms, "ann", number), time_ms, "home", choice)


def kept(decisions: Sequence[OpenDecision], rules: ShownRules | None = None) -> VisitorState:
    """The state after these."""
    state = VisitorState(Profile())
    for each in decisions:
        note_shown(state, [each], rules or ShownRules())
    return state


def counts(state: VisitorState, at_ms: int) -> CapCounts:
    return CapCounts(state, (), START_MS + at_ms)


def by_hand(decisions: Sequence[OpenDecision], level: str, name: str, per: str, at_ms: int) -> int:
    """How often, counted one by one."""
    window_ms = {"hour": HOUR_MS, "day": DAY_MS, "lifetime": 2**60}[per]
    names = {"creative": lambda one: one.creative_id, "line": lambda one: one.line_id, "campaign": lambda one: "spring"}
    return sum(
        names[level](each.choice) == name and START_MS + at_ms - each.decided_ms < window_ms for each in decisions
    )


def test_a_cap_is_full_at_its_count_and_has_room_again_after_exactly_an_hour() -> None:
    state = kept([made(0, "a", 1), made(MINUTE_MS, "a", 2)])
    rules = cap_rules("creative", "a", [Cap(count=2, per="hour")])
    assert counts(state, 2 * MINUTE_MS).full(rules) == rules[0]
    assert counts(state, HOUR_MS - 1).full(rules) == rules[0]
    assert counts(state, HOUR_MS).full(rules) is None


def test_each_level_counts_all_that_stands_under_it() -> None:
    state = kept([made(0, "a", 1), made(1, "b", 2), made(2, "c", 3)])
    found = counts(state, 3)
    assert [found.count("creative", name, "day") for name in ("a", "b", "c", "d")] == [1, 1, 1, 0]
    assert [found.count("line", name, "hour") for name in ("shoes", "hats")] == [2, 1]
    assert found.count("campaign", "spring", "lifetime") == 3


def test_the_first_full_cap_is_told_with_its_level_and_time() -> None:
    state = kept([made(0, "a", 1), made(1, "b", 2)])
    line = cap_rules("line", "shoes", [Cap(count=9, per="hour"), Cap(count=2, per="day"), Cap(count=1, per="lifetime")])
    full = counts(state, 2).full(cap_rules("campaign", "spring", [Cap(count=3, per="day")]) + line)
    assert full is not None
    assert full.detail == "line:day"


def test_a_visitor_who_was_shown_nothing_has_room_in_every_cap() -> None:
    rules = cap_rules("line", "shoes", [Cap(count=1, per="lifetime")])
    assert CapCounts(None, (), START_MS).full(rules) is None
    assert counts(VisitorState(Profile()), 0).full(rules) is None


# What the profile stage keeps


def test_the_profile_stage_counts_each_choice_of_a_campaign_s_decision_once() -> None:
    first = decision(0, actions=("a", "b"), line_id="shoes")
    other_id = make_id(START_MS + 5, "ann", 2)
    story = tell([first, first], [decision(5, decision_id=other_id, line_id="shoes")], [first])
    state = story.state("ann")
    assert state is not None
    one, other = stamp(make_id(START_MS, "ann", 1), 0), stamp(other_id, 0)
    assert state.shown == {"a": Shown("shoes", "camp", 2, [one, other]), "b": Shown("shoes", "camp", 1, [one])}
    assert story.counts["repeated_decision", ""] == 2


def test_a_decision_that_comes_again_after_it_was_evicted_is_still_counted_once() -> None:
    ids = [make_id(START_MS + number, "ann", number) for number in range(4)]
    made_all = [decision(number, decision_id=name, line_id="shoes") for number, name in enumerate(ids)]
    story = tell(made_all, made_all[:1])
    state = story.state("ann")
    assert state is not None
    assert story.counts["evicted_decision", ""] == 2  # it was let in again, as the one that is to go
    assert (state.shown["a"].total, len(state.shown["a"].stamps)) == (4, 4)


def test_a_decision_without_a_line_or_without_a_visitor_is_not_counted() -> None:
    lone = make_id(START_MS, "", 9)
    story = tell([decision(0), decision(0, "", lone, line_id="shoes")])
    for key in ("ann", "~" + lone):
        state = story.state(key)
        assert state is not None
        assert (state.shown, state.shown_lost_ms) == ({}, 0)


def test_what_was_shown_stays_when_the_decision_has_expired_and_is_all_that_stays() -> None:
    state = tell([decision(0, line_id="shoes")], [page(CONVERSION_WINDOW_MS + 1)]).state("ann")
    assert state is not None
    assert (state.decisions, state.profile.events, list(state.shown)) == ([], 0, ["a"])


def test_without_campaigns_an_entry_is_deleted_as_before() -> None:
    assert tell([decision(0)], [page(CONVERSION_WINDOW_MS + 1)]).state("ann") is None


def test_responses_are_not_counted_they_may_come_too_late() -> None:
    impression = event(EventType.IMPRESSION, 10, decision_id=make_id(START_MS, "ann", 1))
    one = tell([decision(0, line_id="shoes")]).state("ann")
    other = tell([decision(0, line_id="shoes")], [impression, impression]).state("ann")
    assert one is not None
    assert other is not None
    assert one.shown == other.shown


def test_a_stamp_is_the_decision_s_own_time_and_tells_decisions_of_one_millisecond_apart() -> None:
    one, other = make_id(START_MS, "ann", 1), make_id(START_MS, "ann", 2)
    assert stamp(one, START_MS + 77) != stamp(other, START_MS + 77)
    assert stamp_ms(stamp(one, START_MS + 77)) == START_MS
    for foreign in ("zz" * 16, "", "order-7", "é" * 32, "\ud800"):
        assert stamp_ms(stamp(foreign, START_MS)) == START_MS


MOMENTS = st.integers(0, 3 * 24 * 60)  # minutes
SHOWS = st.lists(st.tuples(MOMENTS, st.sampled_from("abc")), max_size=25, unique_by=lambda each: each)


def decisions_of(shows: Sequence[tuple[int, str]]) -> list[OpenDecision]:
    return [made(minute * MINUTE_MS, creative, number) for number, (minute, creative) in enumerate(shows)]


@given(SHOWS, st.randoms(use_true_random=False), st.sampled_from([ShownRules(), ShownRules(stamps_max=4)]))
@settings(max_examples=150, deadline=None)
def test_what_is_kept_does_not_depend_on_the_order(
    shows: list[tuple[int, str]], order: Random, rules: ShownRules
) -> None:
    decisions = decisions_of(shows)
    one = kept(decisions, rules)
    order.shuffle(decisions)
    other = kept(decisions, rules)
    assert (one.shown, one.shown_lost_ms) == (other.shown, other.shown_lost_ms)


@given(SHOWS, st.integers(0, 30 * 60))
@settings(max_examples=150, deadline=None)
def test_what_is_kept_counts_as_by_hand(shows: list[tuple[int, str]], later: int) -> None:
    decisions = decisions_of(shows)
    at_ms = (max((minute for minute, _ in shows), default=0) + later) * MINUTE_MS
    found = counts(kept(decisions), at_ms)
    for level, name in (("creative", "a"), ("line", "shoes"), ("line", "hats"), ("campaign", "spring")):
        for per in ("hour", "day", "lifetime"):
            assert found.count(level, name, per) == by_hand(decisions, level, name, per, at_ms)


@given(SHOWS, st.integers(3, 6), st.integers(0, 30 * 60))
@settings(max_examples=150, deadline=None)
def test_where_there_is_no_room_for_all_stamps_no_count_is_too_low(
    shows: list[tuple[int, str]], stamps_max: int, later: int
) -> None:
    decisions = decisions_of(shows)
    state = kept(decisions, ShownRules(stamps_max))
    assert sum(len(each.stamps) for each in state.shown.values()) <= stamps_max
    at_ms = (max((minute for minute, _ in shows), default=0) + later) * MINUTE_MS
    found = counts(state, at_ms)
    for level, name in (("creative", "a"), ("line", "shoes"), ("campaign", "spring")):
        for per in ("hour", "day"):
            count = found.count(level, name, per)
            assert count in (MANY, by_hand(decisions, level, name, per, at_ms))
        assert found.count(level, name, "lifetime") == by_hand(decisions, level, name, "lifetime", at_ms)


def test_a_visitor_s_state_is_bounded_and_the_creative_shown_longest_ago_is_forgotten() -> None:
    many = [made(number, f"c{number:04}", number) for number in range(CREATIVES_MAX + 3)]
    state = kept(many)
    assert list(state.shown) == [f"c{number:04}" for number in range(3, CREATIVES_MAX + 3)]
    assert counts(state, 1_000).count("creative", "c0000", "day") == MANY  # forgotten: nobody knows
    assert counts(state, 1_000).count("creative", "c0000", "lifetime") == 0
    often = kept([made(number, "a", number) for number in range(STAMPS_MAX + 5)])
    assert (len(often.shown["a"].stamps), often.shown["a"].total) == (STAMPS_MAX, STAMPS_MAX + 5)
    rules = cap_rules("creative", "b", [Cap(count=1_000, per="day")])
    assert counts(often, 2_000).full(rules) == rules[0]
    assert counts(often, 2_000 + DAY_MS).full(rules) is None


def test_stamps_older_than_a_day_go_but_the_newest_of_each_creative() -> None:
    state = kept([made(0, "a", 1), made(1, "a", 2), made(2, "b", 3), made(KEPT_MS + 2, "b", 4)])
    assert [[stamp_ms(mark) - START_MS for mark in state.shown[name].stamps] for name in "ab"] == [[1], [KEPT_MS + 2]]
    assert [state.shown[name].total for name in "ab"] == [2, 2]


# What this process knows beyond the state


def note(own: OwnShows, each: OpenDecision, key: str = "ann") -> None:
    own.note(key, each.decision_id, each.decided_ms, [each.choice])


def test_a_decision_of_this_process_counts_at_once_and_once() -> None:
    own, one = OwnShows(), made(0, "a", 1)
    note(own, one)
    before, after = VisitorState(Profile()), kept([one])
    for state in (before, after):
        found = CapCounts(state, own.of("ann", state, START_MS + 1), START_MS + 1)
        assert [found.count("line", "shoes", per) for per in ("hour", "day", "lifetime")] == [1, 1, 1]
    assert len(own) == 0  # the state has it now


@given(SHOWS, st.integers(0, 25), st.integers(0, 25), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_own_decisions_and_those_in_the_state_are_counted_once_each(
    shows: list[tuple[int, str]], read: int, own_from: int, later: int
) -> None:
    """The stage has read the first `read` decisions; this process made those from `own_from` on; none is in neither."""
    decisions = sorted(decisions_of(shows), key=lambda each: each.decided_ms)
    own_from = min(own_from, read)
    own, state = OwnShows(), kept(decisions[:read])
    for each in decisions[own_from:]:
        note(own, each)
    at_ms = (max((minute for minute, _ in shows), default=0) + later) * MINUTE_MS
    found = CapCounts(state, own.of("ann", state, START_MS + at_ms), START_MS + at_ms)
    for level, name in (("creative", "a"), ("line", "shoes"), ("campaign", "spring")):
        for per in ("hour", "day"):
            assert found.count(level, name, per) == by_hand(decisions, level, name, per, at_ms)


CAPS = [Cap(count=2, per="hour"), Cap(count=3, per="day"), Cap(count=7, per="lifetime")]


@given(st.lists(st.tuples(st.integers(0, 300), st.sampled_from("abc"), st.integers(0, 4)), max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_cap_is_ever_exceeded_however_far_the_stage_is_behind(asked: list[tuple[int, str, int]]) -> None:
    """Each request comes some minutes after the last one; the stage has read all but the last few decisions."""
    own, shown, minute, read = OwnShows(), list[OpenDecision](), 0, 0
    for number, (gap, creative, behind) in enumerate(asked):
        minute += gap
        time_ms = START_MS + minute * MINUTE_MS
        read = max(read, len(shown) - behind)
        state = kept(shown[:read])
        rules = cap_rules("creative", creative, CAPS) + cap_rules("line", LINES[creative], CAPS)
        if CapCounts(state, own.of("ann", state, time_ms), time_ms).full(rules) is None:
            one = made(minute * MINUTE_MS, creative, number)
            note(own, one)
            shown.append(one)
            for level, name in (("creative", creative), ("line", LINES[creative])):
                for cap in CAPS:
                    assert by_hand(shown, level, name, cap.per, minute * MINUTE_MS) <= cap.count
    assert bool(shown) == bool(asked), "the first is let through"


def test_own_decisions_are_bounded_and_those_of_visitors_not_seen_for_long_go_first() -> None:
    own = OwnShows(keys_max=2)
    for key in ("ann", "bob"):
        note(own, made(0, "a", 1), key)
    assert own.of("ann", None, START_MS)
    note(own, made(0, "a", 1), "cid")
    assert [bool(own.of(key, None, START_MS)) for key in ("ann", "bob", "cid")] == [True, False, True]
    assert own.evicted == 1
    for number in range(STAMPS_MAX + 5):
        note(own, made(number, "a", number))
    assert len(own.of("ann", None, START_MS + STAMPS_MAX)) == STAMPS_MAX


def test_a_choice_without_a_line_is_nothing_to_count() -> None:
    own = OwnShows()
    own.note("ann", make_id(START_MS, "ann", 1), START_MS, [Choice("a", 0, 1.0)])
    assert len(own) == 0


# Without consent


def test_a_key_for_caps_is_of_one_day_one_hint_and_one_secret() -> None:
    salt, other, long = b"s" * 16, b"t" * 16, b"l" * 65
    assert cap_key(salt, "2026-05-01", "net|browser") == cap_key(salt, "2026-05-01", "net|browser")
    keys = {
        cap_key(key, day, hint)
        for key in (salt, other, long, long[:64])
        for day in ("2026-05-01", "2026-05-02")
        for hint in ("a", "b", "\ud800")
    }
    assert len(keys) == 24
    assert {len(each) for each in keys} == {33}


def test_when_the_day_ends_what_was_kept_without_consent_is_forgotten() -> None:
    own = OwnShows()
    own.turn("2026-05-01")
    note(own, made(0, "a", 1), "-key")
    own.turn("2026-05-01")
    assert own.of("-key", None, START_MS)
    own.turn("2026-05-02")
    assert len(own) == 0


@pytest.mark.parametrize("per", ["hour", "day", "lifetime"])
def test_a_cap_without_consent_holds_within_the_day(per: str) -> None:
    own = OwnShows()
    note(own, made(0, "a", 1), "-key")
    rules = cap_rules("line", "shoes", [Cap.model_validate({"count": 1, "per": per})])
    assert CapCounts(None, own.of("-key", None, START_MS + 1), START_MS + 1).full(rules) == rules[0]


def test_of_a_day_it_is_remembered_of_whom_nothing_is_known_any_more() -> None:
    own = OwnShows(keys_max=2, keeps_lost=True)
    own.turn("20000")
    for number, key in enumerate("abc"):
        own.note(key, make_id(START_MS, key, number), START_MS, [made(0).choice])
    assert [own.is_lost(key) for key in "abcd"] == [True, False, False, False]
    own.note("a", make_id(START_MS, "a", 9), START_MS, [made(0).choice])
    assert own.is_lost("a")
    own.turn("20001")
    assert not own.is_lost("a")


def test_what_another_process_has_shown_counts_once_however_often_it_is_told() -> None:
    own, one = OwnShows(), made(0, "a", 1)
    own.note("ann", one.decision_id, START_MS, [one.choice])
    told = own_shows(made(0, "b", 2).decision_id, START_MS, [made(0, "b", 2).choice])
    for _ in range(2):
        own.merge("ann", [*told, *own_shows(one.decision_id, START_MS, [one.choice])])
    assert CapCounts(None, own.of("ann", None, START_MS), START_MS).count("line", "shoes", "day") == 2


@pytest.mark.parametrize("closed", [ELSEWHERE, UNKNOWN])
def test_where_it_is_not_known_how_often_every_cap_is_full(closed: Closed) -> None:
    full = closed.full(cap_rules("line", "shoes", [Cap(count=1_000, per="hour")]))
    assert full is not None
    assert full.detail in ("elsewhere", "unknown")

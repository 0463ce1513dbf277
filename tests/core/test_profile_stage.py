"""The profile stage as a fold: joins, expiry, and the laws that make a replay give the same state and outcomes."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_rig import (
    CLICK_WINDOW_MS,
    CONVERSION_WINDOW_MS,
    EARLY_WINDOW_MS,
    ID,
    RULES,
    START_MS,
    click,
    decision,
    event,
    page,
    tell,
)

from pipeline.core.deadlines import Deadlines
from pipeline.core.decide import make_id, route_of
from pipeline.core.outcome import MICROS, OutcomeRules
from pipeline.core.profile import ProfileRules, learn
from pipeline.core.profile_stage import Profiles, ProfilesRules
from pipeline.core.state import StateView
from schemas.block import EventBlock, Origin, Totals
from schemas.event import Event, EventFlag, EventType
from schemas.profile import Profile, ProfileFixed


def test_every_block_gives_one_outcome_block_even_an_empty_one() -> None:
    story = tell([page(0)], [], [page(5_000)])
    assert [block.outcomes for block in story.blocks] == [[], [], []]
    assert [block.block_time_ms - START_MS for block in story.blocks] == [0, 1_000, 5_000]


def test_a_decision_alone_is_an_outcome_without_a_trial() -> None:
    (outcome,) = tell([decision()]).outcomes
    assert (outcome.trials_delta, outcome.reward_micros, outcome.impressed_ms) == (0, 0, 0)
    assert (outcome.decision_id, outcome.visitor, outcome.site, outcome.model_version) == (ID, "ann", "shop", "0:1")


def test_an_impression_counts_the_trial_and_a_click_adds_its_reward() -> None:
    impression = event(EventType.IMPRESSION, 10, decision_id=ID)
    story = tell([decision()], [impression], [click(20)])
    assert [(each.trials_delta, each.reward_delta_micros) for each in story.outcomes] == [(0, 0), (1, 0), (0, 400_000)]
    assert story.outcomes[-1].clicked_ms == START_MS + 20


def test_one_block_gives_a_decision_one_outcome_with_its_deltas_summed() -> None:
    (outcome,) = tell([decision(), click(20)]).outcomes
    assert (outcome.trials_delta, outcome.reward_delta_micros, outcome.reward_micros) == (1, 400_000, 400_000)


def test_a_click_at_the_window_s_edge_pays_and_one_past_it_is_counted_as_unknown() -> None:
    assert tell([decision(), click(CLICK_WINDOW_MS)]).told() == {(ID, "a"): (1, 400_000)}
    past = tell([decision(), click(CLICK_WINDOW_MS + 1)])
    assert past.told() == {(ID, "a"): (0, 0)}
    assert past.counts["unknown_decision", "click"] == 1


def test_a_click_twice_pays_once() -> None:
    story = tell([decision(), click(10)], [click(20)])
    assert story.told() == {(ID, "a"): (1, 400_000)}
    assert story.counts["repeated_response", "click"] == 1
    assert len(story.outcomes) == 1


def test_a_click_before_its_decision_in_the_log_joins_when_the_decision_comes() -> None:
    story = tell([click(20)], [decision(0)])
    assert story.told() == {(ID, "a"): (1, 400_000)}
    state = story.state("ann")
    assert state is not None
    assert state.early == []
    assert story.counts["unknown_decision", "click"] == 0


def test_an_early_click_whose_decision_never_comes_is_counted_as_unknown_when_its_wait_is_over() -> None:
    waiting = tell([click(0)], [page(EARLY_WINDOW_MS)])
    assert waiting.counts["unknown_decision", "click"] == 0
    over = tell([click(0)], [page(EARLY_WINDOW_MS + 1)])
    assert over.counts["unknown_decision", "click"] == 1
    state = over.state("ann")
    assert state is not None
    assert state.early == []


def test_a_decision_one_past_the_wait_of_an_early_click_finds_it_gone() -> None:
    assert tell([click(0)], [page(EARLY_WINDOW_MS)], [decision(0)]).told() == {(ID, "a"): (1, 400_000)}
    assert tell([click(0), page(EARLY_WINDOW_MS + 1), decision(0)]).told() == {(ID, "a"): (0, 0)}


def test_early_responses_of_one_visitor_are_bounded() -> None:
    story = tell([click(n, decision_id=f"{n}") for n in range(5)])
    state = story.state("ann")
    assert state is not None
    assert [each.decision_id for each in state.early] == ["3", "4"]
    assert story.counts["unknown_decision", "click"] == 3


def test_an_early_signed_click_without_a_visitor_joins_its_visitor_s_decision() -> None:
    story = tell([click(20, visitor="")], [decision(0)])
    assert story.told() == {(ID, "a"): (1, 400_000)}
    assert set(story.view.entries) == {"ann"}


def test_a_signed_click_without_a_visitor_finds_the_decision_by_its_route() -> None:
    story = tell([decision()], [click(20, visitor="")])
    assert story.told() == {(ID, "a"): (1, 400_000)}
    assert story.outcomes[-1].visitor == "ann"
    state = story.state("ann")
    assert state is not None
    assert state.profile == Profile()


def test_another_visitor_s_click_does_not_pay() -> None:
    story = tell([decision()], [click(20, visitor="bob"), page(EARLY_WINDOW_MS + 21)])
    assert story.told() == {(ID, "a"): (0, 0)}
    assert story.counts["unknown_decision", "click"] == 1


def test_of_two_choices_the_named_one_is_paid() -> None:
    story = tell([decision(actions=("a", "b")), click(10, action_id="b")])
    assert story.told() == {(ID, "a"): (0, 0), (ID, "b"): (1, 400_000)}


def test_a_click_that_names_an_action_that_was_not_chosen_pays_nothing() -> None:
    story = tell([decision(), click(10, action_id="z")])
    assert story.told() == {(ID, "a"): (0, 0)}
    assert story.counts["unknown_decision", "click"] == 1


def test_a_purchase_without_a_decision_goes_to_the_last_click() -> None:
    other = make_id(START_MS, "ann", 2)
    bought = event(EventType.PURCHASE, 900, revenue_micros=7)
    story = tell([decision(), decision(5, decision_id=other), click(10, decision_id=other), click(20), bought])
    assert story.told() == {(ID, "a"): (1, 900_000), (other, "a"): (1, 400_000)}
    assert story.last()["ann", ID, "a"].revenue_micros == 7


def test_a_purchase_after_the_window_of_every_click_is_nobody_s_and_no_unknown_decision() -> None:
    at_edge = event(EventType.PURCHASE, 10 + CONVERSION_WINDOW_MS)
    assert tell([decision(), click(10), at_edge]).told() == {(ID, "a"): (1, 900_000)}
    past = tell([decision(), click(10), event(EventType.PURCHASE, 11 + CONVERSION_WINDOW_MS)])
    assert past.told() == {(ID, "a"): (1, 400_000)}
    assert not past.counts["unknown_decision", "purchase"]


def test_a_reward_by_name_is_the_reward_where_it_is_more() -> None:
    reward = event(EventType.REWARD, 30, "", decision_id=ID, score=0.75)
    assert tell([decision(), reward, click(40)]).told() == {(ID, "a"): (1, 750_000)}


def test_a_reward_for_no_decision_at_all_is_counted_as_unknown() -> None:
    assert tell([event(EventType.REWARD, 0, score=1.0)]).counts["unknown_decision", "reward"] == 1


def test_a_decision_without_a_visitor_has_an_entry_of_its_own_that_vanishes_when_it_expires() -> None:
    lone = make_id(START_MS, "", 9)
    story = tell([decision(visitor="", decision_id=lone)], [click(5, "", lone)])
    assert set(story.view.entries) == {"~" + lone}
    assert story.told() == {(lone, "a"): (1, 400_000)}
    assert {each.visitor for each in story.outcomes} == {""}
    edge_ms = 5 + CONVERSION_WINDOW_MS
    assert "~" + lone in tell([page(edge_ms)], view=story.view).view.entries
    assert "~" + lone not in tell([page(edge_ms + 1)], view=story.view).view.entries


def test_a_visitor_known_since_may_click_a_decision_that_was_made_without_one() -> None:
    lone = make_id(START_MS, "", 9)
    assert tell([decision(visitor="", decision_id=lone), click(5, "ann", lone)]).told() == {(lone, "a"): (1, 400_000)}


def test_ticks_alone_expire_an_idle_visitor_s_decisions_and_an_empty_entry_goes() -> None:
    story = tell([decision()], [], [], [])
    assert "ann" in story.view.entries  # three seconds: exactly the window
    assert tell([decision()], [], [], [], []).view.entries == {}


def test_a_profile_stays_when_its_decisions_expire() -> None:
    state = tell([decision(), page(0, "ann")], [page(CONVERSION_WINDOW_MS + 1)]).state("ann")
    assert state is not None
    assert (state.decisions, state.profile.pages) == ([], 1)


def test_the_decisions_made_first_go_when_there_are_too_many() -> None:
    ids = [make_id(START_MS, "ann", n) for n in range(5)]
    story = tell([decision(at_ms, decision_id=name) for name, at_ms in zip(ids, (5, 4, 3, 2, 1), strict=True)])
    state = story.state("ann")
    assert state is not None
    assert [each.decision_id for each in state.decisions] == ids[:3]
    assert story.counts["evicted_decision", ""] == 2
    assert len(story.outcomes) == 5


def test_a_decision_seen_twice_is_one_decision() -> None:
    story = tell([decision(), click(1), decision()])
    assert story.told() == {(ID, "a"): (1, 400_000)}
    assert story.counts["repeated_decision", ""] == 1


def test_a_decision_that_comes_again_after_it_has_expired_is_not_paid_again() -> None:
    again = [page(CONVERSION_WINDOW_MS + 1_000), decision(), click(10)]
    story = tell([decision(), click(10)], again)
    assert story.told() == {(ID, "a"): (1, 400_000)}
    assert story.counts["expired_decision", ""] == 1
    at_edge = tell([page(CONVERSION_WINDOW_MS)], [decision(), click(10)])
    assert at_edge.told() == {(ID, "a"): (1, 400_000)}


def test_a_decision_whose_log_is_broken_is_counted_and_left_out() -> None:
    story = tell([event(EventType.DECISION, 0, decision_id=ID, properties="{")])
    assert (story.outcomes, story.view.entries) == ([], {})
    assert story.counts["bad_decision", "properties"] == 1


def test_a_bot_s_outcome_is_marked_and_teaches_nothing_then_or_later() -> None:
    story = tell([decision(), click(10, flags=int(EventFlag.BOT))], [click(20), event(EventType.PURCHASE, 30)])
    assert story.told() == {(ID, "a"): (0, 0)}
    assert [each.is_bot for each in story.outcomes] == [True, True]
    assert story.outcomes[-1].reward_micros == 0


def test_a_mail_scanner_that_follows_a_link_does_not_spoil_the_visitor() -> None:
    scanner = click(10, visitor="", flags=int(EventFlag.BOT))
    story = tell([decision(), scanner, click(20)])
    assert story.told() == {(ID, "a"): (1, 400_000)}
    assert not story.outcomes[-1].is_bot
    assert story.counts["bot_event", "click"] == 1


def test_a_bot_that_clicks_a_decision_made_without_a_visitor_pays_nothing() -> None:
    lone = make_id(START_MS, "", 9)
    made, bot = decision(visitor="", decision_id=lone), int(EventFlag.BOT)
    assert tell([made, click(5, "ann", lone, flags=bot)]).told() == {(lone, "a"): (0, 0)}
    assert tell([event(EventType.PAGE, 0, flags=bot), made, click(5, "ann", lone)]).told() == {(lone, "a"): (0, 0)}
    assert tell([made, click(5, "", lone, flags=bot), click(6, "", lone)]).told() == {(lone, "a"): (1, 400_000)}


def test_a_bot_s_reward_or_early_click_pays_nothing() -> None:
    bot = int(EventFlag.BOT)
    reward = event(EventType.REWARD, 5, decision_id=ID, score=1.0, flags=bot)
    assert tell([decision(), reward]).told() == {(ID, "a"): (0, 0)}
    assert tell([reward, decision()]).told() == {(ID, "a"): (0, 0)}
    assert tell([click(5, "", flags=bot), decision()]).told() == {(ID, "a"): (0, 0)}


def test_an_event_without_a_visitor_has_no_profile() -> None:
    assert tell([event(EventType.PAGE, 0, "")]).view.entries == {}


def test_a_time_that_had_to_be_clamped_does_not_move_stream_time() -> None:
    clamped = event(EventType.PAGE, 10**9, "bob", flags=int(EventFlag.TIME_CLAMPED))
    assert tell([decision(), clamped, click(10)]).told() == {(ID, "a"): (1, 400_000)}


def test_expiry_clears_a_bounded_number_of_entries_in_one_block_and_goes_on_in_the_next() -> None:
    outcome = OutcomeRules(conversion_window_ms=10, click_window_ms=10, expired_entries_max=2)
    rules = ProfilesRules(ProfileRules(), outcome)
    made = [decision(0, f"v{n}", make_id(START_MS, f"v{n}", n)) for n in range(5)]
    assert len(tell(made, [page(11)], rules=rules).view.entries) == 4
    assert set(tell(made, [page(11)], [], [], rules=rules).view.entries) == {"clock"}


def test_a_deadline_that_has_moved_does_not_use_up_the_bound() -> None:
    """A click moves v0's deadline: its old place in the heap must not count, or a restored fold would differ."""
    outcome = OutcomeRules(conversion_window_ms=10, click_window_ms=10, expired_entries_max=1)
    rules = ProfilesRules(ProfileRules(), outcome)
    ids = [make_id(START_MS, f"v{n}", n) for n in range(2)]
    made = [decision(n, f"v{n}", decision_id) for n, decision_id in enumerate(ids)]
    story = tell(made, [click(9, "", ids[0])], [page(12)], rules=rules)
    assert set(story.view.entries) == {"v0", "clock"}


def test_the_totals_count_what_went_through() -> None:
    story = tell([decision(actions=("a", "b")), click(1), event(EventType.REWARD, 0)])
    totals = msgspec.msgpack.decode(story.view.fixed, type=ProfileFixed)
    assert totals == ProfileFixed(START_MS + 1, START_MS + 1, 3, 2, 1, 1)


def test_a_profile_in_the_state_is_the_profile_arithmetic_over_its_visitor_s_events() -> None:
    events = [page(n * 700, visitor) for n in range(6) for visitor in ("ann", "bob")]
    story = tell(events[:5], events[5:])
    for visitor in ("ann", "bob"):
        expected = Profile()
        for each in events:
            if each.visitor == visitor:
                learn(expected, each, RULES.profile)
        state = story.state(visitor)
        assert state is not None
        assert state.profile == expected


def test_visitors_whose_hashes_collide_keep_their_own_decisions() -> None:
    """Two visitors of one crc32 ("plumless", "buckeroo"): a signed click finds the decision of the right one."""
    ids = {visitor: make_id(START_MS, visitor, n) for n, visitor in enumerate(("plumless", "buckeroo"))}
    assert len({route_of(each) for each in ids.values()}) == 1
    made = [decision(0, visitor, decision_id) for visitor, decision_id in ids.items()]
    for visitor, decision_id in ids.items():
        story = tell(made, [click(9, "", decision_id)])
        assert story.outcomes[-1].visitor == visitor
    gone = tell(made, [page(CONVERSION_WINDOW_MS + 1)])
    assert Deadlines(RULES.outcome, gone.view.entries)._routes == gone.fold._deadlines._routes == {}


IDS = [make_id(START_MS, "ann", 1), make_id(START_MS, "ann", 2), make_id(START_MS, "bob", 3), make_id(START_MS, "", 4)]
OWNERS = dict(zip(IDS, ["ann", "ann", "bob", ""], strict=True))
DECIDED_MS = dict(zip(IDS, [0, 900, 400, 2_000], strict=True))
KINDS = [EventType.IMPRESSION, EventType.CLICK, EventType.CONVERSION, EventType.PURCHASE, EventType.REWARD]


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Streams in which decisions, responses and profile events of a few visitors meet in any order, bots among them."""
    events: list[Event] = []
    for _ in range(draw(st.integers(0, 25))):
        at_ms = draw(st.integers(0, 6_000))
        flags = draw(st.sampled_from([0, 0, 0, 0, 0, int(EventFlag.BOT)]))
        decision_id = draw(st.sampled_from(IDS))
        what = draw(st.sampled_from(["decision", "response", "response", "named", "page", "purchase"]))
        visitor = draw(st.sampled_from(["ann", "bob", ""]))
        if what == "decision":
            made_ms = DECIDED_MS[decision_id]  # seen again it is the same decision
            line_id = "line" if decision_id == IDS[0] else ""
            events.append(decision(made_ms, OWNERS[decision_id], decision_id, ("a", "b"), flags, line_id))
        elif what == "page":
            events.append(event(EventType.PAGE, at_ms, visitor, category="c", flags=flags))
        elif what == "purchase":
            events.append(event(EventType.PURCHASE, at_ms, visitor, revenue_micros=3, flags=flags))
        else:
            who = OWNERS[decision_id] if what == "named" else visitor
            kind, action = draw(st.sampled_from(KINDS)), draw(st.sampled_from(["", "a", "b", "z"]))
            fields = {"decision_id": decision_id, "action_id": action, "score": 0.6, "flags": flags}
            events.append(event(kind, at_ms, who, **fields))
    if draw(st.booleans()):
        events.sort(key=lambda each: each.event_time_ms)
    return events


def cut(events: list[Event], at: Sequence[int]) -> list[list[Event]]:
    """Cut into blocks that all hold events."""
    ends = sorted({0, len(events), *(place % (len(events) + 1) for place in at)})
    return [events[begin:end] for begin, end in pairwise(ends)]


@given(streams(), st.lists(st.integers(0, 100), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_cut_into_blocks_gives_the_same_profiles_outcomes_and_counts(events: list[Event], at: list[int]) -> None:
    whole, parts = tell(*cut(events, [])), tell(*cut(events, at))
    assert whole.view.entries == parts.view.entries
    assert whole.told() == parts.told()
    assert whole.counts == parts.counts
    strip = {"trials_delta": 0, "reward_delta_micros": 0, "is_new": False, "is_paid": False}  # of one block
    whole_last = {name: msgspec.structs.replace(each, **strip) for name, each in whole.last().items()}
    assert whole_last == {name: msgspec.structs.replace(each, **strip) for name, each in parts.last().items()}


@given(streams(), st.lists(st.integers(0, 100), max_size=8), st.sampled_from([1, 1_000]))
@settings(max_examples=150, deadline=None)
def test_killed_and_restored_after_every_block_the_fold_gives_the_same(
    events: list[Event], at: list[int], expired_entries_max: int
) -> None:
    rules = ProfilesRules(RULES.profile, replace(RULES.outcome, expired_entries_max=expired_entries_max))
    blocks: list[list[Event]] = [*cut(events, at), [], [], [], []]
    running, restored = Profiles(StateView(), rules), StateView()
    for offset, block_events in enumerate(blocks):
        block = EventBlock(START_MS + offset * 500, Totals(), [], block_events)
        fresh = Profiles(restored, rules)
        one, other = running.apply(Origin(0, offset), block), fresh.apply(Origin(0, offset), block)
        assert one == other
        assert running.take_changes() == fresh.take_changes()
        assert running.fixed() == fresh.fixed()
        restored.fixed = fresh.fixed()


@given(streams(), st.lists(st.integers(0, 100), max_size=8))
@settings(max_examples=150, deadline=None)
def test_the_learner_never_holds_more_reward_than_trials_and_what_it_was_told_is_the_outcome(
    events: list[Event], at: list[int]
) -> None:
    rules = ProfilesRules(RULES.profile, replace(RULES.outcome, open_decisions_max=50))
    story = tell(*cut(events, at), rules=rules)
    running: dict[str, tuple[int, int]] = {}
    for outcome in story.outcomes:
        trials, reward = running.get(outcome.action_id, (0, 0))
        trials, reward = trials + outcome.trials_delta, reward + outcome.reward_delta_micros
        assert 0 <= reward <= trials * MICROS
        running[outcome.action_id] = (trials, reward)
        assert outcome.trials_delta >= 0
        assert outcome.reward_micros >= outcome.reward_delta_micros
    for name, (trials, reward) in story.told().items():
        finals = [each for each in story.last().values() if (each.decision_id, each.action_id) == name]
        assert reward == sum(each.reward_micros for each in finals)
        assert trials <= len(finals)


@given(streams())
def test_no_outcome_of_a_bot_ever_carries_a_difference(events: list[Event]) -> None:
    for outcome in tell(*([each] for each in events)).outcomes:
        assert not outcome.is_bot or (outcome.trials_delta, outcome.reward_delta_micros) == (0, 0)


@given(st.permutations(range(5)), st.lists(st.integers(0, 900), min_size=4, max_size=4), st.sampled_from(IDS))
def test_in_any_order_within_the_windows_the_sum_told_is_the_same(
    order: list[int], times: list[int], decision_id: str
) -> None:
    rules = ProfilesRules(ProfileRules(), OutcomeRules(reward_click_micros=300_000, reward_conversion_micros=200_000))
    visitor = OWNERS[decision_id]
    kinds = [EventType.IMPRESSION, EventType.CLICK, EventType.CONVERSION, EventType.REWARD]
    events = [decision(0, visitor, decision_id)]
    for kind, at_ms in zip(kinds, times, strict=True):
        events.append(event(kind, at_ms, visitor, decision_id=decision_id, action_id="a", score=0.25))
    story = tell(*([events[place]] for place in order), rules=rules)
    assert story.told() == {(decision_id, "a"): (1, 500_000)}
    assert story.outcomes[-1].reward_micros == 500_000


@given(streams())
def test_deadlines_rebuilt_from_the_entries_are_the_ones_that_were_kept(events: list[Event]) -> None:
    story = tell(*([each] for each in events))
    kept, rebuilt = story.fold._deadlines, Deadlines(RULES.outcome, story.view.entries)
    assert kept._due == rebuilt._due
    assert {route: set(keys) for route, keys in kept._routes.items()} == {
        route: set(keys) for route, keys in rebuilt._routes.items()
    }


@pytest.mark.parametrize("decision_id", ["x", "", "zz" * 16, "é" * 40])
def test_a_decision_id_that_is_not_ours_is_unknown_and_no_error(decision_id: str) -> None:
    story = tell([click(0, "", decision_id or "-")], [page(EARLY_WINDOW_MS + 1)])
    assert story.counts["unknown_decision", "click"] == 1
    assert set(story.view.entries) == {"clock"}

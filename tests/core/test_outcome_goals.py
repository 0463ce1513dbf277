"""What a choice with goals earns: each within its own window, in the placement's unit, in any order of the news."""

import itertools
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.outcome import (
    MICROS,
    Effect,
    OutcomeRules,
    choose,
    expires_ms,
    has_paid_event,
    last_touch,
    reward_micros,
    settle,
    take_response,
    value_micros,
)
from pipeline.core.spend import Spend, SpendRules
from pipeline.core.state import StateView
from schemas.block import Origin
from schemas.event import Event, EventType
from schemas.outcome import Choice, DecisionLog, GoalTerms, OpenDecision, Reached
from tests.core.profile_rig import ID, START_MS, click, event, page, tell
from tests.core.spend_rig import lines_of
from tests.core.test_outcome import DECIDED_MS, RULES, response

EURO = 1_000_000
PURCHASE, SUBSCRIBE, CLICK = EventType.PURCHASE, EventType.SUBSCRIBE, EventType.CLICK
GOALS = (
    GoalTerms("purchase", window_ms=5_000),
    GoalTerms("subscribe", 5 * EURO, 9_000),
    GoalTerms("click", EURO // 10, 1_500),
)
WORTH = 20 * EURO


def opened(goals: Sequence[GoalTerms] = GOALS, worth_micros: int = WORTH, pays_for: str = "action") -> OpenDecision:
    """A decision of one choice with goals."""
    choice = Choice("a", 0, 0.5, line_id="l1", pays_for=pays_for, goals=tuple(goals), worth_micros=worth_micros)
    return OpenDecision("d", DECIDED_MS, "home", choice)


def told(decision: OpenDecision, *events: tuple[EventType, int, int]) -> OpenDecision:
    """The decision after these: (kind, after the decision, revenue)."""
    for kind, after_ms, revenue in events:
        take_response(decision, response(kind, after_ms, revenue=revenue), RULES)
    return decision


def test_the_reward_is_the_sum_of_the_goals_values_in_the_placement_s_unit() -> None:
    decision = opened()
    rewards = []
    for each in [(CLICK, 10, 0), (SUBSCRIBE, 20, 0), (PURCHASE, 30, 3 * EURO), (PURCHASE, 40, 50 * EURO)]:
        rewards.append(reward_micros(told(decision, each), RULES))
    assert rewards == [5_000, 255_000, 405_000, MICROS]
    assert value_micros(decision) == 58_100_000


def test_a_goal_with_a_value_counts_once_and_revenue_adds_up() -> None:
    twice = told(opened(), (SUBSCRIBE, 1, 7), (SUBSCRIBE, 2, 7), (PURCHASE, 3, EURO), (PURCHASE, 4, EURO))
    assert value_micros(twice) == 7 * EURO
    assert twice.reached == [Reached(2, 2 * EURO), Reached(2, 14), Reached()]


@pytest.mark.parametrize(("kind", "window_ms"), [(PURCHASE, 5_000), (SUBSCRIBE, 9_000), (CLICK, 1_500)])
def test_a_goal_at_its_window_s_edge_counts_and_one_past_it_does_not(kind: EventType, window_ms: int) -> None:
    """The click's and the subscription's are longer than what the rules say of others."""
    assert value_micros(told(opened(), (kind, window_ms, EURO))) > 0
    late = opened()
    assert take_response(late, response(kind, window_ms + 1, revenue=EURO), RULES) is Effect.EXPIRED
    assert late == opened()


def test_a_goal_s_window_begins_at_the_click() -> None:
    assert value_micros(told(opened(), (CLICK, 900, 0), (SUBSCRIBE, 9_900, 0))) == 5_100_000
    assert value_micros(told(opened(), (CLICK, 900, 0), (SUBSCRIBE, 9_901, 0))) == EURO // 10


def test_what_comes_after_a_narrower_window_is_told_but_earns_and_pays_nothing() -> None:
    late = told(opened([GoalTerms("purchase", window_ms=100)]), (PURCHASE, 101, EURO))
    assert (late.conversions, late.revenue_micros) == (1, EURO)
    assert (value_micros(late), reward_micros(late, RULES), has_paid_event(late)) == (0, 0, False)


def test_a_decision_with_goals_expires_when_nothing_can_count_any_more() -> None:
    assert expires_ms(opened(), RULES) == DECIDED_MS + 9_000
    assert expires_ms(told(opened(), (CLICK, 900, 0)), RULES) == DECIDED_MS + 9_900
    assert expires_ms(opened([GoalTerms("click", 1, 8_000)]), RULES) == DECIDED_MS + 8_000
    assert expires_ms(opened([GoalTerms("purchase", window_ms=1)]), RULES) == DECIDED_MS + 5_000


def test_what_is_no_goal_of_a_choice_earns_and_pays_nothing() -> None:
    decision = told(opened([GoalTerms("subscribe", EURO, 5_000)]), (CLICK, 1, 0), (PURCHASE, 2, 90 * EURO))
    assert (reward_micros(decision, RULES), has_paid_event(decision)) == (0, False)
    assert decision.revenue_micros == 90 * EURO, "it is told all the same"
    assert has_paid_event(told(decision, (SUBSCRIBE, 3, 0)))
    assert reward_micros(decision, RULES) == 50_000


def test_an_event_that_is_no_conversion_counts_only_for_a_choice_that_wants_it() -> None:
    for goals in ([], [GoalTerms("purchase", window_ms=5_000)]):
        decision = opened(goals)
        assert take_response(decision, response(SUBSCRIBE, 1), RULES) is Effect.UNWANTED
        assert decision == opened(goals)


@pytest.mark.parametrize("first", range(3))
def test_an_action_s_price_is_paid_by_the_first_goal_alone(first: int) -> None:
    goals = [GOALS[first], *GOALS[:first], *GOALS[first + 1 :]]
    for at, kind in enumerate((PURCHASE, SUBSCRIBE, CLICK)):
        assert has_paid_event(told(opened(goals), (kind, 1, 0))) is (at == first)
    assert has_paid_event(told(opened([GoalTerms("impression", 1, 9)]), (EventType.IMPRESSION, 9, 0)))


def test_a_purchase_without_revenue_pays_for_an_action_though_it_is_worth_nothing() -> None:
    decision = told(opened(), (PURCHASE, 1, 0))
    assert (has_paid_event(decision), value_micros(decision)) == (True, 0)


def test_without_goals_a_choice_earns_its_revenue_in_the_placement_s_unit() -> None:
    """One unit for all that compete in a placement."""
    decision = told(opened([]), (CLICK, 1, 0), (EventType.CONVERSION, 2, 4 * EURO), (PURCHASE, 3, 4 * EURO))
    assert reward_micros(decision, RULES) == 400_000
    assert has_paid_event(decision)


def test_without_a_unit_goals_are_weighed_by_the_settings() -> None:
    """RULES: 0.3 for a click and 0.9 for a goal beyond it."""
    assert reward_micros(told(opened(worth_micros=0), (CLICK, 1, 0)), RULES) == 300_000
    assert reward_micros(told(opened(worth_micros=0), (SUBSCRIBE, 1, 0)), RULES) == 900_000
    wants_no_purchase = opened([GoalTerms("subscribe", 1, 9)], worth_micros=0)
    assert reward_micros(told(wants_no_purchase, (PURCHASE, 1, EURO)), RULES) == 0


def test_a_reward_by_name_stands_where_it_is_more() -> None:
    decision = told(opened(), (SUBSCRIBE, 1, 0))
    take_response(decision, response(EventType.REWARD, 2, score=0.125), RULES)
    assert reward_micros(decision, RULES) == 250_000
    take_response(decision, response(EventType.REWARD, 2, score=0.5), RULES)
    assert reward_micros(decision, RULES) == 500_000


def test_money_taken_back_is_never_less_than_nothing() -> None:
    assert reward_micros(told(opened(), (PURCHASE, 1, -EURO)), RULES) == 0
    assert reward_micros(told(opened(), (PURCHASE, 1, -EURO), (PURCHASE, 2, 2 * EURO)), RULES) == 50_000


def clicked(after_ms: int, goals: Sequence[GoalTerms]) -> OpenDecision:
    return told(opened(goals), (CLICK, after_ms, 0))


def test_the_last_touch_of_a_goal_s_event_is_of_those_that_want_it() -> None:
    wants, other = clicked(10, GOALS), clicked(20, [GoalTerms("purchase", window_ms=5_000)])
    plain = clicked(30, [])
    assert last_touch([wants, other, plain], DECIDED_MS + 40, RULES, SUBSCRIBE) is wants
    assert last_touch([other, plain], DECIDED_MS + 40, RULES, SUBSCRIBE) is None
    assert last_touch([wants], DECIDED_MS + 9_010, RULES, SUBSCRIBE) is wants
    assert last_touch([wants], DECIDED_MS + 9_011, RULES, SUBSCRIBE) is None


def test_nobody_s_click_takes_a_purchase_that_it_does_not_want() -> None:
    early, late = clicked(10, GOALS), clicked(20, [GoalTerms("subscribe", 1, 5_000)])
    assert last_touch([early, late], DECIDED_MS + 40, RULES, PURCHASE) is early
    assert last_touch([late], DECIDED_MS + 40, RULES, PURCHASE) is late, "it is told, and earns nothing"
    assert last_touch([early, clicked(20, [])], DECIDED_MS + 40, RULES, PURCHASE) is not early


def test_a_click_whose_goal_s_window_is_over_takes_nothing_from_one_that_still_earns() -> None:
    early, late = clicked(10, []), clicked(20, [GoalTerms("purchase", window_ms=100)])
    assert last_touch([early, late], DECIDED_MS + 120, RULES, PURCHASE) is late
    assert last_touch([early, late], DECIDED_MS + 121, RULES, PURCHASE) is early
    assert last_touch([late], DECIDED_MS + 121, RULES, PURCHASE) is late, "it is told, and earns nothing"


def test_of_one_decision_s_choices_the_one_that_wants_the_event_is_meant() -> None:
    plain, wants = opened([]), opened([GoalTerms("subscribe", 1, 5_000)])
    assert choose([plain, wants], response(SUBSCRIBE, 5)) is wants
    told(plain, (CLICK, 2, 0))
    told(wants, (CLICK, 1, 0))
    assert choose([plain, wants], response(SUBSCRIBE, 5)) is wants
    assert choose([plain, wants], response(PURCHASE, 5)) is plain


NEWS = st.tuples(
    st.sampled_from(
        [EventType.IMPRESSION, CLICK, EventType.CONVERSION, PURCHASE, SUBSCRIBE, EventType.ADD_TO_CART]
    ),
    st.integers(-500, 1_000),
    st.integers(0, 30 * EURO),
)  # fmt: skip
ANY_GOALS = st.lists(
    st.builds(
        GoalTerms,
        st.sampled_from(["impression", "click", "conversion", "purchase", "subscribe", "add_to_cart"]),
        st.one_of(st.just(-1), st.integers(1, 30 * EURO)),
        st.integers(1_500, 9_000),
    ),
    max_size=4,
    unique_by=lambda goal: goal.event,
)


@given(st.lists(NEWS, max_size=4), ANY_GOALS, st.sampled_from([0, 1, WORTH]))
def test_in_any_order_the_differences_add_up_to_the_same_reward(
    news: list[tuple[EventType, int, int]], goals: list[GoalTerms], worth_micros: int
) -> None:
    ends = set()
    for order in itertools.permutations(news):
        decision, trials, reward, paid = opened(goals, worth_micros), 0, 0, 0
        for each in order:
            was_paid = has_paid_event(decision)
            told(decision, each)
            paid += has_paid_event(decision) and not was_paid
            assert was_paid <= has_paid_event(decision), "what was paid for stays paid"
            delta = settle(decision, False, RULES)
            assert delta.reward_micros >= 0
            trials, reward = trials + delta.trials, reward + delta.reward_micros
        assert (reward, paid) == (reward_micros(decision, RULES), int(has_paid_event(decision)))
        assert 0 <= reward <= trials * MICROS <= MICROS
        ends.add(msgspec.msgpack.encode(decision))
    assert len(ends) == 1


HOUR_MS = 3_600_000


def test_what_follows_a_click_is_judged_when_it_comes_by_the_click_known_then() -> None:
    """The order in the log counts, and only that: no window is opened or closed anew by what is told later."""
    rules = OutcomeRules()
    clicked, bought = response(CLICK, 5 * HOUR_MS), response(PURCHASE, 11 * HOUR_MS // 2, revenue=7 * EURO)
    earlier = response(CLICK, 1 * HOUR_MS)
    earned = {}
    for name, order in {
        "in order": [clicked, bought], "bought first": [bought, clicked],
        "an earlier click after": [clicked, bought, earlier], "an earlier click before": [earlier, clicked, bought],
    }.items():  # fmt: skip
        decision = opened([GoalTerms("purchase", window_ms=HOUR_MS)])
        effects = [take_response(decision, each, rules) for each in order]
        assert Effect.EXPIRED not in effects
        earned[name] = value_micros(decision)
    assert earned == {"in order": 7 * EURO, "bought first": 0, "an earlier click after": 7 * EURO,
                      "an earlier click before": 0}  # fmt: skip


# Through the profile stage: what the log holds is all there is

PAID = Choice("a", 0, 0.5, "c1", "a", b"", "l1", "action", 7, "g1", "2023-11-14", "", GOALS, WORTH)


def decided(choice: Choice = PAID) -> Event:
    """A decision with goals, as delivery logs it."""
    log = DecisionLog(ID, "home", "thompson", "0:1", "s", [choice], ["a"], [0.5])
    return event(EventType.DECISION, 0, decision_id=ID, properties=msgspec.json.encode(log).decode())


def test_a_goal_s_event_that_names_no_decision_goes_to_the_last_click() -> None:
    story = tell([decided(), click(10)], [event(SUBSCRIBE, 20)], [event(EventType.ADD_TO_CART, 30)])
    assert story.told() == {(ID, "a"): (1, 255_000)}
    (outcome,) = story.last().values()
    assert (outcome.value_micros, outcome.conversions) == (5_100_000, 0)


def test_a_late_purchase_corrects_the_reward_while_its_goal_s_window_is_open() -> None:
    """The window is longer than that of the rules, 3 s."""
    story = tell([decided()], [click(10)], [page(4_900)], [event(PURCHASE, 5_000, revenue_micros=10 * EURO)])
    assert [one.reward_delta_micros for one in story.outcomes] == [0, 5_000, 500_000]
    assert (story.outcomes[-1].reward_micros, story.outcomes[-1].is_paid) == (505_000, True)


def test_a_goal_s_event_before_its_decision_is_in_the_log_waits_for_it() -> None:
    early = event(SUBSCRIBE, 5, decision_id=ID)
    assert tell([early], [decided()]).told() == tell([decided()], [early]).told() == {(ID, "a"): (1, 250_000)}


def test_an_event_that_no_choice_wants_changes_nothing() -> None:
    plain = msgspec.structs.replace(PAID, goals=())
    story = tell([decided(plain)], [event(SUBSCRIBE, 5, decision_id=ID)], [event(SUBSCRIBE, 6)])
    assert [one.trials_delta for one in story.outcomes] == [0]


EVENTS = st.lists(
    st.sampled_from([
        click(1, action_id="a"), event(SUBSCRIBE, 2), event(SUBSCRIBE, 3, decision_id=ID),
        event(PURCHASE, 4, revenue_micros=EURO), event(PURCHASE, 5, decision_id=ID, revenue_micros=EURO),
        event(EventType.ADD_TO_CART, 6), event(EventType.IMPRESSION, 7, decision_id=ID), decided(), page(8_000),
    ]),
    max_size=8,
)  # fmt: skip


@given(EVENTS, st.permutations(GOALS), st.sets(st.integers(0, 8)))
def test_rewards_and_money_are_the_same_however_the_events_are_cut_into_blocks(
    events: list[Event], goals: list[GoalTerms], cuts: set[int]
) -> None:
    stream = [decided(msgspec.structs.replace(PAID, goals=tuple(goals))), *events]
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(stream)), len(stream)]
    whole, cut = tell(stream), tell(*(stream[start:end] for start, end in pairwise(edges)))
    assert whole.told() == cut.told()
    assert whole.view.entries == cut.view.entries
    books = []
    for story in (whole, cut):
        view = StateView()
        spend = Spend(view, SpendRules())
        for offset, block in enumerate(story.blocks):
            spend.apply(Origin(0, offset), msgspec.structs.replace(block, block_time_ms=START_MS))
            spend.take_changes()
        books.append(lines_of(view)["c1", "l1"].total)
    assert books[0] == books[1]
    assert books[0].settled.count <= 1


@given(EVENTS, st.integers(0, 9))
def test_a_restored_stage_goes_on_with_goals_as_if_it_had_never_stopped(events: list[Event], at: int) -> None:
    stream = [[each] for each in [decided(), *events]]
    whole = tell(*stream)
    first = tell(*stream[:at])
    rest = tell(*stream[at:], view=first.view)
    assert rest.view.entries == whole.view.entries


def test_what_an_older_writer_left_has_no_goals_and_goes_on() -> None:
    plain = OpenDecision("d", DECIDED_MS, "home", Choice("a", 0, 0.5))
    fields = msgspec.to_builtins(plain, builtin_types=(bytes,))
    old = [*fields[: OpenDecision.__struct_fields__.index("reached")]]
    old[3] = old[3][: Choice.__struct_fields__.index("goals")]
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=OpenDecision)
    assert read == plain
    assert reward_micros(told(read, (PURCHASE, 1, 5)), OutcomeRules(reward_conversion_micros=70)) == 70

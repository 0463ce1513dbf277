"""What a response does to its decision: windows, repetition, reward and the differences told to the learner."""

import itertools
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.outcome import (
    MICROS,
    Delta,
    Effect,
    OutcomeRules,
    choose,
    expires_ms,
    last_touch,
    open_decisions,
    read_response,
    reward_micros,
    settle,
    take_response,
)
from schemas.event import Event, EventType
from schemas.outcome import Choice, DecisionLog, OpenDecision, Response

RULES = OutcomeRules(
    click_window_ms=1_000, conversion_window_ms=5_000, reward_click_micros=300_000, reward_conversion_micros=900_000
)
DECIDED_MS = 1_000_000


def decision(action_id: str = "a", decided_ms: int = DECIDED_MS) -> OpenDecision:
    """An open decision for one action."""
    return OpenDecision("d", decided_ms, "home", Choice(action_id, 0, 0.5))


def response(kind: EventType, after_ms: int, action_id: str = "", score: float = 0.0, revenue: int = 0) -> Response:
    """A response this long after the decision."""
    time_ms = DECIDED_MS + after_ms
    event = Event("e", kind, time_ms, time_ms, "shop", "ann", decision_id="d", action_id=action_id)
    event.score, event.revenue_micros = score, revenue
    return read_response(event)


def after(*responses: Response) -> OpenDecision:
    """The decision after these responses."""
    opened = decision()
    for each in responses:
        take_response(opened, each, RULES)
    return opened


@pytest.mark.parametrize("kind", [EventType.IMPRESSION, EventType.CLICK])
def test_a_click_at_the_window_s_edge_counts_and_one_past_it_does_not(kind: EventType) -> None:
    assert take_response(decision(), response(kind, 1_000), RULES) is Effect.JOINED
    opened = decision()
    assert take_response(opened, response(kind, 1_001), RULES) is Effect.EXPIRED
    assert opened == decision()


@pytest.mark.parametrize("kind", [EventType.CONVERSION, EventType.PURCHASE, EventType.REWARD])
def test_a_conversion_at_its_window_s_edge_counts_and_one_past_it_does_not(kind: EventType) -> None:
    assert take_response(decision(), response(kind, 5_000), RULES) is Effect.JOINED
    assert take_response(decision(), response(kind, 5_001), RULES) is Effect.EXPIRED


def test_a_click_moves_the_conversion_window_to_itself() -> None:
    opened = after(response(EventType.CLICK, 800))
    assert take_response(opened, response(EventType.CONVERSION, 5_800), RULES) is Effect.JOINED
    assert take_response(opened, response(EventType.CONVERSION, 5_801), RULES) is Effect.EXPIRED


def test_a_decision_expires_when_nothing_can_count_any_more() -> None:
    assert expires_ms(decision(), RULES) == DECIDED_MS + 5_000
    assert expires_ms(after(response(EventType.CLICK, 800)), RULES) == DECIDED_MS + 5_800
    assert expires_ms(decision(), OutcomeRules(click_window_ms=9, conversion_window_ms=1)) == DECIDED_MS + 9


def test_a_click_before_its_decision_by_a_wrong_clock_is_within_the_window() -> None:
    assert take_response(decision(), response(EventType.CLICK, -400), RULES) is Effect.JOINED


def test_a_click_implies_an_impression_and_the_earlier_sign_stands() -> None:
    assert after(response(EventType.CLICK, 300)).impressed_ms == DECIDED_MS + 300
    opened = after(response(EventType.CLICK, 300), response(EventType.IMPRESSION, 100))
    assert (opened.impressed_ms, opened.clicked_ms) == (DECIDED_MS + 100, DECIDED_MS + 300)


def test_a_second_click_changes_nothing() -> None:
    opened = after(response(EventType.CLICK, 300))
    assert take_response(opened, response(EventType.CLICK, 300), RULES) is Effect.REPEATED
    assert take_response(opened, response(EventType.CLICK, 400), RULES) is Effect.REPEATED
    assert opened == after(response(EventType.CLICK, 300))


def test_the_reward_is_the_rule_s_or_the_one_given_by_name_where_that_is_more() -> None:
    click, bought = response(EventType.CLICK, 1), response(EventType.PURCHASE, 2)
    assert reward_micros(after(response(EventType.IMPRESSION, 1)), RULES) == 0
    assert reward_micros(after(click), RULES) == 300_000
    assert reward_micros(after(bought), RULES) == 900_000
    assert reward_micros(after(click, bought), RULES) == MICROS
    assert reward_micros(after(click, response(EventType.REWARD, 3, score=0.25)), RULES) == 300_000
    assert reward_micros(after(click, response(EventType.REWARD, 3, score=0.75)), RULES) == 750_000


def test_two_conversions_add_their_revenue_and_pay_once() -> None:
    opened = after(response(EventType.PURCHASE, 1, revenue=5), response(EventType.PURCHASE, 2, revenue=7))
    assert (opened.conversions, opened.revenue_micros, reward_micros(opened, RULES)) == (2, 12, 900_000)


@pytest.mark.parametrize(("score", "micros"), [(-1.0, 0), (0.5, 500_000), (7.0, MICROS), (math.nan, 0)])
def test_a_reward_outside_its_range_counts_as_the_nearer_bound(score: float, micros: int) -> None:
    assert response(EventType.REWARD, 0, score=score).explicit_micros == micros


def test_a_response_without_an_action_means_the_first_choice_and_a_strange_action_none() -> None:
    named = [decision("a"), decision("b")]
    assert choose(named, response(EventType.CLICK, 1)) is named[0]
    assert choose(named, response(EventType.CLICK, 1, "b")) is named[1]
    assert choose(named, response(EventType.CLICK, 1, "c")) is None


def test_a_conversion_without_an_action_means_the_choice_clicked_last_before_it() -> None:
    named = [decision("a"), decision("b")]
    named[1].clicked_ms = DECIDED_MS + 100
    assert choose(named, response(EventType.PURCHASE, 100)) is named[1]
    assert choose(named, response(EventType.PURCHASE, 99)) is named[0]


def test_the_last_touch_is_the_latest_click_before_the_conversion_within_the_window() -> None:
    early, late, unclicked = decision(), decision(), decision()
    early.clicked_ms, late.clicked_ms = DECIDED_MS, DECIDED_MS + 500
    opened = [late, early, unclicked]
    assert last_touch(opened, DECIDED_MS + 499, RULES) is early
    assert last_touch(opened, DECIDED_MS + 500, RULES) is late
    assert last_touch(opened, DECIDED_MS + 5_500, RULES) is late
    assert last_touch(opened, DECIDED_MS + 5_501, RULES) is None
    assert last_touch([unclicked], DECIDED_MS, RULES) is None


def test_the_learner_is_told_the_trial_once_and_then_differences() -> None:
    opened = decision()
    told = [settle(opened, False, RULES)]
    for each in (response(EventType.IMPRESSION, 1), response(EventType.CLICK, 2), response(EventType.PURCHASE, 3)):
        take_response(opened, each, RULES)
        told.append(settle(opened, False, RULES))
    assert told == [Delta(0, 0), Delta(1, 0), Delta(0, 300_000), Delta(0, 700_000)]


def test_the_learner_is_told_nothing_of_a_bot() -> None:
    opened = after(response(EventType.CLICK, 1))
    assert settle(opened, True, RULES) == Delta(0, 0)
    assert not opened.counted


def log(*actions: str) -> str:
    """A decision's properties as delivery writes them."""
    choices = [Choice(action, rank, 0.5, "camp", "creative") for rank, action in enumerate(actions)]
    made = DecisionLog("d", "home", "thompson", "3:17", "seed", choices, list(actions), [0.5], features={"a": {"x": 1}})
    return msgspec.json.encode(made).decode()


def test_a_decision_event_opens_one_decision_for_each_choice() -> None:
    event = Event("e", EventType.DECISION, DECIDED_MS, DECIDED_MS, "shop", "ann", properties=log("a", "b"))
    opened = open_decisions(event)
    assert opened is not None
    assert [each.choice for each in opened] == [
        Choice("a", 0, 0.5, "camp", "creative"),
        Choice("b", 1, 0.5, "camp", "creative"),
    ]
    assert {(each.decision_id, each.decided_ms, each.policy, each.site) for each in opened} == {
        ("d", DECIDED_MS, "thompson", "shop")
    }


@pytest.mark.parametrize(
    "properties", ["", "{}", "[1]", '{"decision_id": 7}', log("a")[:-5], log("a").replace('"d"', '""')]
)
def test_a_decision_whose_log_cannot_be_read_opens_nothing(properties: str) -> None:
    event = Event("e", EventType.DECISION, DECIDED_MS, DECIDED_MS, "shop", "ann", properties=properties)
    assert open_decisions(event) is None


RESPONSE = st.builds(
    response,
    st.sampled_from(
        [EventType.IMPRESSION, EventType.CLICK, EventType.CONVERSION, EventType.PURCHASE, EventType.REWARD]
    ),
    st.integers(-500, 1_000),
    score=st.floats(0, 1),
    revenue=st.integers(0, 9),
)


@given(st.lists(RESPONSE, max_size=4))
def test_in_any_order_the_differences_add_up_to_the_same_reward_of_the_same_trial(responses: list[Response]) -> None:
    ends = set()
    for order in itertools.permutations(responses):
        opened, trials, reward = decision(), 0, 0
        for each in order:
            take_response(opened, each, RULES)
            delta = settle(opened, False, RULES)
            trials, reward = trials + delta.trials, reward + delta.reward_micros
            assert 0 <= reward <= trials * MICROS
        assert (trials, reward) == (int(bool(responses)), reward_micros(opened, RULES))
        ends.add(msgspec.msgpack.encode(opened))
    assert len(ends) == 1

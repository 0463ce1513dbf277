"""Whatever a client writes where a number should stand, no stage stops: from the raw event to the warehouse's rows."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.bought import sales
from pipeline.core.learn import Learn
from pipeline.core.profile_stage import Profiles
from pipeline.core.rollup import Chunk, Rollup
from pipeline.core.rows import Columns, decision_columns, event_columns, outcome_columns, session_columns
from pipeline.core.sessionise import Sessionise
from pipeline.core.sessions import SessionRules
from pipeline.core.spend import Spend
from pipeline.core.stage import Fold
from pipeline.core.state import StateView
from pipeline.core.whole import INT64_MAX
from schemas.block import EventBlock, OutcomeBlock, SessionBlock, Totals
from schemas.event import Collected, Event, EventType, Protocol
from schemas.outcome import Choice, DecisionLog, GoalTerms, OpenDecision
from schemas.spend import Hold
from tests.core import spend_rig
from tests.core.clean_rig import NOW_MS, block, context, fold, origin, parts
from tests.core.profile_rig import ID, RULES, START_MS, click, decision, event, tell

WORDS = (
    "NaN", "nan", "-nan", "sNaN", "inf", "-inf", "Infinity", "1e400", "-1e400", "1e308", "-1e308", "9" * 400, "-1", "0",
    "1E+999999999", "1E-999999999", "5e-324", "0x10", "1_000", " 7 ", "\u0661\u0662", "\u00b3", "1.5", "", "-", "1,5",
    "9223372036854775808",
)  # fmt: skip
NUMBERS = (
    math.nan, math.inf, -math.inf, 1e308, -1e308, 1e16, 1e-320, -1, 0, 2**31, 2**63, -(2**63), 2**64, 10**25, 10**9,
    None, True, [], {}, ["NaN"], {"value": "NaN"},
)  # fmt: skip
WILD = st.sampled_from(WORDS) | st.sampled_from(NUMBERS) | st.floats() | st.integers()
FIELDS = (
    "revenue", "total", "value", "price", "cost", "quantity", "score", "rating", "stock_level", "stock", "position",
    "depth", "sku", "product_id", "timestamp", "currency", "products",
)  # fmt: skip
NAMES = (
    "Order Completed", "Product Added", "Product Reviewed", "Stock Level", "Ad Spend", "Promotion Clicked", "Scrolled",
)  # fmt: skip
SHORT = ("ts", "st", "q", "pr", "rev", "cost", "sc", "sl", "pid")
PACKED = ("dtm", "ttm", "stm", "tr_tt", "ti_pr", "ti_qu", "se_va")

items = st.fixed_dictionaries(
    {"sku": st.just("lamp") | WILD, "quantity": WILD}, optional=dict.fromkeys(("product_id", "id", "price"), WILD)
)
segment = st.builds(
    lambda name, found, products: {
        "type": "track", "event": name, "anonymousId": "ann", "sentAt": found.get("timestamp"),
        "timestamp": found.get("timestamp"), "properties": {"products": products, "decision_id": ID, **found},
    },
    st.sampled_from(NAMES), st.dictionaries(st.sampled_from(FIELDS), WILD, max_size=4), st.lists(items, max_size=3),
)  # fmt: skip
pixel = st.builds(
    lambda kind, found, products: {"e": kind, "v": "ann", "p": json.dumps({"products": products}), **found},
    st.sampled_from(["purchase", "satisfaction", "stock", "cost", "click"]),
    st.dictionaries(st.sampled_from(SHORT), WILD, max_size=4), st.lists(items, max_size=3),
)  # fmt: skip
snowplow = st.builds(
    lambda code, action, found: {"e": code, "se_ac": action, "se_ca": "x", **found},
    st.sampled_from(["se", "tr", "ti"]), st.sampled_from(["purchase", "rating", "click"]),
    st.dictionaries(st.sampled_from(PACKED), WILD, max_size=4),
)  # fmt: skip
MESSAGES = st.one_of(
    segment.map(lambda found: (Protocol.SEGMENT, found)),
    pixel.map(lambda found: (Protocol.PIXEL, found)),
    snowplow.map(lambda found: (Protocol.SNOWPLOW, found)),
)


def ordered(*products: object) -> dict[str, Any]:
    """An order of ann's, as Segment's libraries send it."""
    return {"type": "track", "event": "Order Completed", "anonymousId": "ann", "properties": {"products": products}}


def deciding() -> Event:
    """A decision that holds a lamp for ann, and wants purchases."""
    goals = (GoalTerms("purchase", window_ms=86_400_000),)
    choice = Choice("a", 0, 0.5, "c1", holds=(Hold("demo", "lamp"),), hold_ms=86_400_000, goals=goals, worth_micros=10)
    log = DecisionLog(ID, "home", "greedy", "0:1", "s", [choice], ["a"], [1.0])
    found = event(EventType.DECISION, 0, decision_id=ID, properties=msgspec.json.encode(log).decode())
    return msgspec.structs.replace(found, event_time_ms=NOW_MS, received_time_ms=NOW_MS, site="demo")


def outputs(stage: Fold, *blocks: msgspec.Struct) -> list[msgspec.Struct]:
    """What a stage writes, with its state packed after every block."""
    found: list[msgspec.Struct] = []
    for offset, each in enumerate(blocks):
        found += [output.block for output in stage.apply(origin(offset), each).outputs]
        stage.take_changes()
        stage.fixed()
    return [msgspec.msgpack.decode(msgspec.msgpack.encode(each), type=type(each)) for each in found]


def check(columns: Columns) -> None:
    """Every number fits its column, and none is NaN or infinite."""
    for column, values in zip(columns.table.columns, columns.columns, strict=True):
        for value in values:
            if column.type == "Int64":
                assert isinstance(value, int)
                assert -INT64_MAX - 1 <= value <= INT64_MAX
            elif column.type == "Float64":
                assert isinstance(value, float | int)
                assert math.isfinite(value)


def through(messages: list[tuple[Protocol, dict[str, Any]]]) -> list[Event]:
    """Run raw events through every stage and into rows; return those that were clean."""
    contexts = [context(protocol) for protocol, _ in messages]
    raw = [Collected(at, f"m{at}", "ann", json.dumps(found).encode()) for at, (_, found) in enumerate(messages)]
    cleaned, _ = parts(fold().apply(origin(0), block(raw, NOW_MS, *contexts)))
    events = [deciding(), *cleaned.events]
    clean = EventBlock(NOW_MS, Totals(), list(range(len(events))), events)
    (outcomes,) = outputs(Profiles(StateView(), RULES), clean)
    (sessions,) = outputs(Sessionise(StateView(), SessionRules(1_800_000, 86_400_000)), clean)
    assert isinstance(outcomes, OutcomeBlock)
    assert isinstance(sessions, SessionBlock)
    outputs(Spend(StateView(), spend_rig.RULES), outcomes)
    outputs(Learn(StateView()), outcomes)
    rollup = Rollup(1_000, lambda partition, minutes, below: ())
    rollup.assign(0, -1)
    check(rollup.apply([Chunk(0, 0, 0, events)]))
    check(event_columns([(origin(0), clean)]))
    check(outcome_columns([(origin(0), outcomes)]))
    check(session_columns([(origin(0), sessions)]))
    check(decision_columns([(origin(0), clean)]))
    return cleaned.events


@given(st.lists(MESSAGES, min_size=1, max_size=4))
@example([(Protocol.SEGMENT, ordered({"sku": "lamp", "quantity": "NaN"}))])
def test_no_number_that_a_client_can_write_stops_a_stage(messages: list[tuple[Protocol, dict[str, Any]]]) -> None:
    through(messages)


@pytest.mark.parametrize("quantity", [*WORDS, *NUMBERS[3:]], ids=lambda value: repr(value)[:12])
def test_an_item_buys_its_held_piece_whatever_its_quantity_says(quantity: object) -> None:
    """Ann is bought a lamp at least; what JSON cannot hold is refused by the clean stage, so it is not here."""
    found = ordered({"sku": 7.0, "quantity": []}, "?", {"sku": "lamp", "quantity": quantity})
    events = through([(Protocol.SEGMENT, found)])
    if isinstance(quantity, int) and abs(quantity) > INT64_MAX:
        assert not events
        return
    holding = OpenDecision("d", NOW_MS, "home", Choice("a", 0, 0.5, holds=(Hold("demo", "lamp"),), hold_ms=1))
    assert [sale.sku for sale in sales(events[0], [holding])] == ["lamp"]


@pytest.mark.parametrize(("quantity", "many"), [
    (1, 1), (2, 2), ("2", 2), (2.9, 2), ("2.9", 2), (0, 1), (-5, 1), ("NaN", 1), ("inf", 1), ("-inf", 1), (1e308, 3),
    (None, 1),
])  # fmt: skip
def test_a_quantity_is_whole_pieces_one_at_least(quantity: object, many: int) -> None:
    lamp = (Hold("shop", "lamp"),)
    held = [OpenDecision(f"d{at}", START_MS, "home", Choice("a", 0, 0.5, holds=lamp, hold_ms=9)) for at in range(3)]
    properties = json.dumps({"products": [{"sku": "lamp", "quantity": quantity}]})
    assert len(sales(event(EventType.PURCHASE, 1, properties=properties), held)) == many


@given(st.lists(st.sampled_from([2**62, -(2**62), 10**15, INT64_MAX]), min_size=1, max_size=6))
@example([INT64_MAX, INT64_MAX, 1])
def test_sums_of_money_stay_within_what_the_log_can_hold(amounts: list[int]) -> None:
    """A browser that buys for a billion twenty thousand times would else stop its partition for good."""
    buys = [event(EventType.PURCHASE, 2, revenue_micros=each) for each in amounts]
    story = tell([decision(), click(1)], buys)
    (outcome,) = story.last().values()
    state = story.state("ann")
    assert state is not None
    clean = EventBlock(START_MS, Totals(), list(range(len(buys))), buys)
    (sessions,) = outputs(Sessionise(StateView(), SessionRules(1_800_000, 86_400_000)), clean)
    assert isinstance(sessions, SessionBlock)
    found = {outcome.revenue_micros, state.profile.revenue_micros, sessions.sessions[-1].session.revenue_micros}
    assert found == {max(-INT64_MAX - 1, min(INT64_MAX, sum(amounts)))} or min(amounts) < 0
    assert all(-INT64_MAX - 1 <= each <= INT64_MAX for each in found)


def test_a_score_that_is_none_leaves_the_mean_of_the_others_alone() -> None:
    scores = [4.0, 1e308, -1e308, math.nan, math.inf, 2.0]
    state = tell([event(EventType.SATISFACTION, 1, score=score) for score in scores]).state("ann")
    assert state is not None
    assert (state.profile.satisfaction_mean, state.profile.satisfaction_count) == (3.0, 2)

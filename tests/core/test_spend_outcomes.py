"""What the profile stage tells the spend stage: a decision once, what it pays for once and by no bot; and stock."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.spend import Spend, SpendRules
from pipeline.core.state import StateView
from schemas.block import Origin
from schemas.event import Event, EventFlag, EventType
from schemas.outcome import Choice, DecisionLog, Outcome
from schemas.spend import Money, StockLevel
from tests.core.profile_rig import ID, START_MS, click, event, page, tell
from tests.core.spend_rig import balanced, lines_of

BOT = int(EventFlag.BOT)


def decided(pays_for: str = "impression", at_ms: int = 0, flags: int = 0) -> Event:
    """A decision of two choices, of which the first costs something."""
    paid = Choice("a", 0, 0.5, "c1", "", b"", "l1", pays_for, 7, "g1", "2023-11-14", "2023-11-15")
    log = DecisionLog(ID, "home", "greedy", "0:1", "s", [paid, Choice("b", 1, 0.5)], ["a", "b"], [0.5, 0.5])
    properties = msgspec.json.encode(log).decode()
    return event(EventType.DECISION, at_ms, decision_id=ID, properties=properties, flags=flags)


def seen(at_ms: int, flags: int = 0, action_id: str = "a") -> Event:
    """An impression."""
    return event(EventType.IMPRESSION, at_ms, decision_id=ID, action_id=action_id, flags=flags)


def bought(at_ms: int) -> Event:
    """A purchase that names its decision."""
    return event(EventType.PURCHASE, at_ms, decision_id=ID, action_id="a")


def told(*blocks: Sequence[Event]) -> list[tuple[bool, bool, bool]]:
    """(is_new, is_paid, is_bot) of the first choice's outcomes."""
    return [(one.is_new, one.is_paid, one.is_bot) for one in tell(*blocks).outcomes if one.action_id == "a"]


def test_a_decision_is_told_when_it_is_opened_with_all_that_was_reserved() -> None:
    first, second = tell([decided()]).outcomes
    assert (first.is_new, first.is_paid) == (True, False)
    reserved = (first.line_id, first.pays_for, first.price_micros, first.lease_id, first.budget_day, first.campaign_day)
    assert reserved == ("l1", "impression", 7, "g1", "2023-11-14", "2023-11-15")
    assert (second.is_new, second.pays_for) == (True, "")


def test_what_is_paid_for_is_told_once_in_the_decisions_block_or_after_it_or_before_it() -> None:
    assert told([decided(), seen(1), seen(2)]) == [(True, True, False)]
    assert told([decided()], [seen(1)], [seen(2)], [click(3)]) == [(True, False, False), (False, True, False),
                                                                    (False, False, False)]  # fmt: skip
    assert told([seen(0)], [decided()]) == [(True, True, False)]


@pytest.mark.parametrize(
    ("pays_for", "paid_by"), [("impression", [True, False, False]), ("click", [False, True, False]),
                              ("action", [False, False, True]), ("", [False, False, False])],
)  # fmt: skip
def test_only_what_a_choice_pays_for_pays(pays_for: str, paid_by: list[bool]) -> None:
    outcomes = told([decided(pays_for)], [seen(1)], [click(2, action_id="a")], [bought(3)])
    assert [is_paid for _, is_paid, _ in outcomes[1:]] == paid_by


def test_a_click_that_pays_for_an_impression_nobody_told_of_pays() -> None:
    """Whatever came back implies that the choice was shown."""
    assert told([decided()], [click(1, action_id="a")])[1] == (False, True, False)


def test_nothing_that_a_bot_does_pays() -> None:
    assert told([decided(flags=BOT)], [seen(1)]) == [(True, False, True), (False, False, True)]
    assert told([decided()], [seen(1, flags=BOT)], [seen(2)]) == [(True, False, False), (False, False, True)]
    assert told([decided(), seen(1), click(2, action_id="a", flags=BOT)]) == [(True, True, True)]


def test_another_action_of_the_decision_pays_nothing() -> None:
    assert told([decided()], [seen(1, action_id="b")]) == [(True, False, False)]


def test_a_decision_that_comes_twice_is_new_once() -> None:
    assert told([decided()], [decided()]) == [(True, False, False)]


def test_stock_is_told_whoever_sends_it_and_what_has_no_sku_is_not() -> None:
    some = event(EventType.STOCK, 5, "", product_id="sku", stock_level=3, flags=BOT)
    story = tell([some, event(EventType.STOCK, 6, "", stock_level=3)], [page(7)])
    assert [block.stock for block in story.blocks] == [[StockLevel("shop", "sku", 3, START_MS + 5)], []]


def billed(blocks: Sequence[Sequence[Event]]) -> Money:
    """The line's books after all stages; time stands still, so that nothing is released."""
    view = StateView()
    fold = Spend(view, SpendRules())
    for offset, block in enumerate(tell(*blocks).blocks):
        fold.apply(Origin(0, offset), msgspec.structs.replace(block, block_time_ms=START_MS))
        fold.take_changes()
    return lines_of(view)["c1", "l1"].total


@given(
    st.lists(
        st.sampled_from([seen(1), seen(2), click(3, action_id="a"), bought(4), seen(5, flags=BOT), decided(at_ms=6)]),
        max_size=8,
    ),
    st.sampled_from(["impression", "click", "action"]),
    st.sets(st.integers(0, 8)),
)
def test_the_money_is_the_same_however_the_events_are_cut_into_blocks(
    events: list[Event], pays_for: str, cuts: set[int]
) -> None:
    stream = [decided(pays_for), *events]
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(stream)), len(stream)]
    one, cut = billed([stream]), billed([stream[start:end] for start, end in pairwise(edges)])
    balanced(one)
    assert one == cut


def test_the_flags_are_in_no_outcome_of_an_older_writer() -> None:
    old = msgspec.msgpack.encode(["d", "a", "home", "v", 1, 0, 0, 0, 0, 0, 0.5, 0, 0])
    read = msgspec.msgpack.decode(old, type=Outcome)
    assert (read.is_new, read.is_paid, read.pays_for) == (False, False, "")

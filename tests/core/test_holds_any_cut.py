"""Held pieces from the decision's event to the books: how the log is cut into blocks changes nothing of them."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.decide import make_id
from pipeline.core.holds import HELD, PIECES
from pipeline.core.spend import Spend, SpendRules
from pipeline.core.state import StateView
from schemas.block import Origin
from schemas.event import Event, EventFlag, EventType
from schemas.outcome import Choice, DecisionLog
from schemas.spend import Hold, Pieces
from tests.core.profile_rig import START_MS, Story, event, tell

HOLD_MS = 1_000
BOT = int(EventFlag.BOT)
IDS = {"d1": make_id(START_MS, "ann", 1), "d2": make_id(START_MS, "ann", 2), "d3": make_id(START_MS, "bob", 3)}
SKUS = {"d1": ("a", "b"), "d2": ("a",), "d3": ("a",)}
OWNERS = {"d1": "ann", "d2": "ann", "d3": "bob"}


def decided(name: str, flags: int = 0) -> Event:
    """A decision that holds its pieces under a lease of its own, and costs money for an action."""
    holds = tuple(Hold("shop", sku, f"g-{name}") for sku in SKUS[name])
    choice = Choice("a", 0, 0.5, "c1", "a", b"", "l1", "action", 7, "g1", "2023-11-14", holds=holds, hold_ms=HOLD_MS)
    log = DecisionLog(IDS[name], "home", "greedy", "0:1", "s", [choice], ["a"], [1.0])
    properties = msgspec.json.encode(log).decode()
    return event(EventType.DECISION, 0, OWNERS[name], decision_id=IDS[name], properties=properties, flags=flags)


def buys(visitor: str, at_ms: int, *skus: str, name: str = "", flags: int = 0) -> Event:
    """An order of a piece of each. name: of the decision that it names."""
    properties = msgspec.json.encode({"products": [{"sku": sku} for sku in skus]}).decode()
    decision_id = IDS[name] if name else ""
    return event(EventType.PURCHASE, at_ms, visitor, decision_id=decision_id, properties=properties, flags=flags)


def said(kind: EventType, name: str, flags: int = 0) -> Event:
    """A response that names its decision."""
    return event(kind, 1, OWNERS[name], decision_id=IDS[name], flags=flags)


def level(at_ms: int, left: int) -> Event:
    return event(EventType.STOCK, at_ms, "", product_id="a", stock_level=left)


names, bots = st.sampled_from(sorted(IDS)), st.sampled_from([0, 0, 0, BOT])
times = st.sampled_from([2, 500, HOLD_MS, HOLD_MS + 1])
skus = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3)
EVENTS = st.one_of(
    st.builds(decided, names, bots),
    st.builds(lambda who, at, some, flags: buys(who, at, *some, flags=flags), st.sampled_from(["ann", "bob"]), times,
              skus, bots),
    st.builds(lambda who, at, some, name: buys(who, at, *some, name=name), st.sampled_from(["", "ann"]), times, skus,
              names),
    st.builds(said, st.sampled_from([EventType.IMPRESSION, EventType.CLICK]), names, bots),
    st.builds(level, st.sampled_from([2, 3]), st.integers(0, 3)),
)  # fmt: skip


def cut(events: Sequence[Event], edges: set[int]) -> list[Sequence[Event]]:
    """Cut into blocks that all hold events."""
    places = [0, *sorted(edge for edge in edges if 0 < edge < len(events)), len(events)]
    return [events[begin:end] for begin, end in pairwise(places) if begin < end]


def spent(story: Story, spans: Sequence[int]) -> StateView:
    """The spend stage's state after all. spans: into how many blocks each stretch of time was cut."""
    view = StateView()
    fold = Spend(view, SpendRules())
    clocks = [START_MS + number * HOLD_MS * 3 // 4 for number, many in enumerate(spans) for _ in range(many)]
    for offset, (block, clock_ms) in enumerate(zip(story.blocks, clocks, strict=True)):
        fold.apply(Origin(0, offset), msgspec.structs.replace(block, block_time_ms=clock_ms))
        fold.take_changes()
        view.fixed = fold.fixed()
    return view


def new_holds(story: Story) -> dict[str, tuple[Hold, ...]]:
    """What each decision's first outcome says that it holds."""
    return {one.decision_id: one.holds for one in story.outcomes if one.is_new}


@given(st.lists(st.lists(EVENTS, max_size=7), min_size=1, max_size=3), st.lists(st.sets(st.integers(1, 6)), min_size=3))
@example(
    [[decided("d1"), buys("ann", 2, "a"), buys("ann", 2, "a", flags=BOT), said(EventType.CLICK, "d1")]], [{1, 2}] * 3
)
def test_any_cut_into_blocks_gives_the_same_books_of_pieces_and_money(
    stretches: list[list[Event]], edges: list[set[int]]
) -> None:
    """A decision and its purchase may stand in one block, a bot's verdict too: a piece is held, bought, let go of."""
    whole = [cut(events, set()) for events in stretches]
    parts = [cut(events, some) for events, some in zip(stretches, edges, strict=False)]
    one, other = (tell(*(block for blocks in stretch for block in blocks)) for stretch in (whole, parts))
    assert one.view.entries == other.view.entries
    assert (one.told(), new_holds(one)) == (other.told(), new_holds(other))
    books, others = spent(one, [len(blocks) for blocks in whole]), spent(other, [len(blocks) for blocks in parts])
    assert books.entries == others.entries
    assert books.fixed == others.fixed


def test_a_piece_that_is_held_and_bought_in_one_block_is_in_the_books_and_counts_until_the_level_says_so() -> None:
    view = spent(tell([decided("d1"), buys("ann", 2, "a")]), [1])
    assert f"b:{IDS['d1']}/a/a" in view.entries
    assert [key for key in view.entries if key.startswith(HELD)] == [f"{HELD}{IDS['d1']}/a/b"]
    pieces = msgspec.msgpack.decode(view.entries[f"{PIECES}shop/a"], type=Pieces)
    assert (pieces.held, pieces.bought, pieces.open) == (1, 1, 0)


def test_what_was_bought_before_a_bots_verdict_in_the_same_block_is_bought() -> None:
    events = [decided("d1"), buys("ann", 2, "a"), said(EventType.CLICK, "d1", BOT)]
    for story, spans in ((tell(events), [1]), (tell(*([each] for each in events)), [3])):
        view = spent(story, spans)
        found = [msgspec.msgpack.decode(view.entries[f"{PIECES}shop/{sku}"], type=Pieces) for sku in ("a", "b")]
        assert [(one.bought, one.bots, one.open) for one in found] == [(1, 0, 0), (0, 1, 0)]

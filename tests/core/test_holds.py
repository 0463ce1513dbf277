"""Held pieces: never more than there are, whatever goes wrong; what ends a hold; and which of them a level contains."""

import io
from collections.abc import Sequence
from random import Random

import msgspec
import pytest
from rich.console import Console

from pipeline.core.bought import SKEW_MS, sales
from pipeline.core.holds import PIECES, counts_against
from pipeline.core.lease import SKU, Ask, Lease, Limits, of_newest_level, of_sku
from pipeline.core.spend import Spend
from pipeline.core.state import StateView
from pipeline.core.wallet import Wallet
from pipeline.pieces import SkuPieces, books_of, show
from schemas.block import Origin, OutcomeBlock
from schemas.event import Event, EventFlag, EventType
from schemas.outcome import Choice, DecisionLog, OpenDecision, Outcome
from schemas.spend import Hold, Pieces, Sale, Sold, StockLevel
from tests.core.lease_rig import MemoryStore
from tests.core.profile_rig import ID, event
from tests.core.profile_rig import tell as told_of
from tests.core.spend_rig import RULES, START_MS, restored
from tests.core.spend_rig import tell as told
from tests.core.stock_rig import GOODS, NAME, Shop, storm
from tests.core.wrong_stores import WRONG_STORES, is_found, met_in

HOLD_MS = 1_000


def stormed(seed: int, store: MemoryStore) -> Shop:
    """Processes that die, records late or lost, a stage that is killed, views that lag, purchases, new levels."""
    shop = Shop(seed % 13, store)
    storm(shop, Random(seed), 2_000)
    return shop


def test_in_any_storm_whoever_is_shown_a_piece_can_buy_it() -> None:
    """And the storms are some: pieces are shown and bought, and now and then every one is held."""
    runs = met_in(stormed, 20)
    assert min(runs["shown"], runs["bought"]) > runs["all"] // 2, runs
    assert runs["all held"] > runs["all"] // 10, runs


@pytest.mark.parametrize("wrong", WRONG_STORES)
def test_a_wrong_rule_is_found(wrong: type[MemoryStore]) -> None:
    assert is_found(stormed, wrong)


def held(number: int, at_ms: int = 0, is_new: bool = True, is_bot: bool = False) -> Outcome:
    """Decision `number` holds a piece."""
    return Outcome(
        f"d{number}", "a", "home", "v", START_MS + at_ms, 0, 0, 0, 0, 0, 0.5, 0, 0, is_new=is_new, is_bot=is_bot,
        holds=(Hold("shop", GOODS, "g1"),), hold_ms=HOLD_MS,
    )  # fmt: skip


Block = tuple[int, Sequence[Outcome], Sequence[Sale]]


def booked(*blocks: Block) -> tuple[int, int, int, int, int]:
    """(held, bought, ended, bots, open) after these blocks; checked against a stage that is restored in between."""
    views = [StateView(), StateView()]
    folds = [Spend(view, RULES) for view in views]
    for offset, (at_ms, outcomes, sold) in enumerate(blocks):
        for at, fold in enumerate(folds):
            fold.apply(Origin(0, offset), OutcomeBlock(START_MS + at_ms, list(outcomes), [], list(sold)))
            fold.take_changes()
            views[at].fixed = fold.fixed()
        views[1] = restored(told(view=views[1]), offset)
        folds[1] = Spend(views[1], RULES)
    assert dict(views[0].entries) == dict(views[1].entries)
    found = msgspec.msgpack.decode(views[0].entries[f"{PIECES}{NAME}"], type=Pieces)
    assert found.held == found.bought + found.ended + found.bots + found.open
    return found.held, found.bought, found.ended, found.bots, found.open


def bought(number: int, at_ms: int) -> Sale:
    return Sale(f"d{number}", "a", GOODS, START_MS + at_ms)


@pytest.mark.parametrize(("blocks", "expected"), [
    ([(0, [held(1), held(2)], [])], (2, 0, 0, 0, 2)),
    ([(0, [held(1)], []), (HOLD_MS, [], [])], (1, 0, 0, 0, 1)),
    ([(0, [held(1)], []), (HOLD_MS + 1, [], [])], (1, 0, 1, 0, 0)),
    ([(0, [held(1)], [bought(1, 5)])], (1, 1, 0, 0, 0)),
    ([(0, [held(1)], []), (5, [], [bought(1, 5)]), (6, [], [bought(1, 6)])], (1, 1, 0, 0, 0)),
    ([(0, [held(1)], []), (HOLD_MS + 1, [], [bought(1, 5)])], (1, 0, 1, 0, 0)),
    ([(0, [held(1)], []), (5, [held(1, is_new=False, is_bot=True)], [])], (1, 0, 0, 1, 0)),
    ([(0, [held(1, is_bot=True)], [])], (1, 0, 0, 1, 0)),
    ([(HOLD_MS + 1, [held(1)], []), (HOLD_MS + 2, [], [])], (1, 0, 1, 0, 0)),
    ([(0, [held(1)], []), (1, [held(1)], [])], (1, 0, 0, 0, 1)),
])  # fmt: skip
def test_a_hold_ends_once_by_its_time_a_purchase_or_a_bots_verdict(
    blocks: list[Block], expected: tuple[int, ...]
) -> None:
    assert booked(*blocks) == expected


def test_a_level_contains_what_was_bought_up_to_its_moment_and_a_hold_s_end_is_the_end() -> None:
    sold = Sold("shop", GOODS, ends_ms=50, event_time_ms=20)
    assert counts_against(sold, None, 50)
    assert not counts_against(sold, None, 51)
    assert counts_against(sold, StockLevel("shop", GOODS, 3, 19), 50)
    assert not counts_against(sold, StockLevel("shop", GOODS, 3, 20), 50)


class Levels:
    """What a view says of levels."""

    def __init__(self, level: StockLevel) -> None:
        self._level = level

    def level(self, name: str) -> StockLevel | None:
        return self._level if name == NAME else None


def test_the_limit_is_the_level_by_which_a_view_counts_what_was_bought() -> None:
    """Else a piece that was bought would be in neither: no longer counted, and still in the older level."""
    terms = of_sku("shop", GOODS, HOLD_MS, StockLevel("shop", GOODS, 9, 10))
    newest = of_newest_level(terms, Levels(StockLevel("shop", GOODS, 2, 11)))  # type: ignore[arg-type]
    assert newest.limits == {(SKU, NAME): Limits(11, 2, None)}
    assert Limits(11, 1, None).is_newer(Limits(11, 2, None))
    assert not Limits(10, 1, None).is_newer(Limits(11, 2, None))


def leased(many: int) -> Wallet:
    """A wallet with so many pieces of a level of 100."""
    made = Wallet(60_000, lambda: "g1")
    made.publish([of_sku("shop", GOODS, HOLD_MS, StockLevel("shop", GOODS, 100, 1))])
    asks = made.asks(START_MS)
    assert [(ask.lease.pays_for, ask.unit_micros) for ask in asks] == [("hold:1000", 1)]
    made.granted(asks, [grant(ask, many) for ask in asks], (), START_MS)
    return made


def grant(ask: Ask, many: int) -> Lease:
    return ask.lease._replace(granted_micros=many)


@pytest.mark.parametrize(("left", "free", "kept"), [(2, 16, True), (2, 15, False), (1, 0, False), (4, 99, True)])
def test_where_little_is_left_of_a_new_level_a_lease_is_given_back_first(left: int, free: int, kept: bool) -> None:
    made = leased(left)
    made.relevel(of_sku("shop", GOODS, HOLD_MS, StockLevel("shop", GOODS, 90, 2)), free)
    assert (made.take_declared(START_MS) == {}) == kept
    assert made.has_room(f"{HOLD_MS}/{NAME}", START_MS) == kept


def deciding(*skus: str, at_ms: int = 0) -> OpenDecision:
    choice = Choice("a", 0, 0.5, holds=tuple(Hold("shop", sku) for sku in skus), hold_ms=HOLD_MS)
    return OpenDecision(f"d{at_ms}", START_MS + at_ms, "home", choice)


def order(at_ms: int, properties: str = "", **more: str | int) -> Event:
    found = event(EventType.PURCHASE, 0, properties=properties, **more)
    found.event_time_ms = START_MS + at_ms
    return found


def test_an_order_buys_the_held_pieces_of_its_products_the_oldest_holds_first() -> None:
    decisions = [deciding("a", "b", at_ms=10), deciding("a", "c"), deciding("a", at_ms=20)]
    products = '{"products":[{"product_id":"a","quantity":"2"},{"sku":"b"},{"id":7}]}'
    found = sales(order(100, products, product_id="a", quantity=2), decisions)
    assert [(sale.decision_id, sale.sku) for sale in found] == [("d0", "a"), ("d10", "a"), ("d10", "b")]
    assert [[hold.sku for hold in one.choice.holds] for one in decisions] == [[], ["c"], ["a"]]


@pytest.mark.parametrize(("at_ms", "more", "many"), [
    (HOLD_MS, {"product_id": "a"}, 1), (HOLD_MS + 1, {"product_id": "a"}, 0), (5, {"product_id": "b"}, 0),
    (-SKEW_MS, {"product_id": "a"}, 1), (-SKEW_MS - 1, {"product_id": "a"}, 0), (5, {}, 0),
    (5, {"properties": '{"products":[{"product_id":"a","quantity":"many"}]}', "product_id": "a"}, 1),
])  # fmt: skip
def test_what_is_bought_while_it_is_held_is_a_sale(at_ms: int, more: dict[str, str], many: int) -> None:
    assert len(sales(order(at_ms, **more), [deciding("a")])) == many


def decided(flags: int = 0) -> Event:
    choice = Choice("a", 0, 0.5, "c1", holds=(Hold("shop", "a"),), hold_ms=HOLD_MS)
    log = DecisionLog(ID, "home", "greedy", "0:1", "s", [choice], ["a"], [1.0])
    return event(EventType.DECISION, 0, decision_id=ID, properties=msgspec.json.encode(log).decode(), flags=flags)


def test_the_profile_stage_tells_sales_of_the_visitor_s_holds_and_of_no_bot_s() -> None:
    def sold(*events: Event) -> list[str]:
        return [sale.sku for block in told_of(list(events)).blocks for sale in block.sales]

    buys = event(EventType.PURCHASE, 5, product_id="a")
    named = event(EventType.PURCHASE, 5, visitor="", product_id="a", decision_id=ID)
    assert sold(decided(), buys) == sold(decided(), named) == ["a"]
    assert sold(decided(), buys, buys) == ["a"]
    assert sold(decided(int(EventFlag.BOT)), buys) == []
    assert sold(decided(), event(EventType.PURCHASE, 5, visitor="bob", product_id="a")) == []


def test_what_is_held_of_each_sku_is_shown_with_its_level_over_all_partitions() -> None:
    levels = [StockLevel("shop", GOODS, 9, START_MS), StockLevel("shop", GOODS, 3, START_MS + 1)]
    views = [told((0, [held(number), held(number + 2)]), stock=[level]).view for number, level in enumerate(levels)]
    (row,) = books_of(views)
    assert row == SkuPieces("shop", GOODS, level=3, held=4, bought=0, ended=0, bots=0, open=4)
    assert row.is_balanced
    assert not row._replace(open=3).is_balanced
    console = Console(file=io.StringIO(), width=100)
    show([row], console)
    assert f"shop/{GOODS}" in console.file.getvalue()  # type: ignore[attr-defined]

"""Streams of outcomes for the tests of money: short words for what happens, and the fold with its restorable state."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from pipeline.core.spend import DAY, LINE, RESERVATION, Spend, SpendRules, day_of, line_of
from pipeline.core.state import StateView, StateWriter
from schemas.block import Origin, OutcomeBlock
from schemas.outcome import Outcome
from schemas.spend import Money, Reservation, SpendFixed, StockLevel, Sum

START_MS = 1_790_000_000_000
RULES = SpendRules(impression_ms=1_000, click_ms=3_000, action_ms=10_000)
PRICE = 5


def choice(
    number: int,
    at_ms: int = 0,
    pays_for: str = "impression",
    line_id: str = "l1",
    campaign_id: str = "c1",
    price_micros: int = PRICE,
    lease_id: str = "g1",
    is_new: bool = True,
    is_paid: bool = False,
    is_bot: bool = False,
    clicked_ms: int = 0,
    budget_day: str = "2026-09-21",
    campaign_day: str = "",
) -> Outcome:
    """An outcome of decision `number`, which was made at_ms after the start."""
    return Outcome(
        f"d{number}", "a", "home", "v", START_MS + at_ms, 0, clicked_ms, 0, 0, 0, 0.5, 0, 0,
        campaign_id=campaign_id, is_bot=is_bot, line_id=line_id, pays_for=pays_for, price_micros=price_micros,
        lease_id=lease_id, budget_day=budget_day, campaign_day=campaign_day, is_new=is_new, is_paid=is_paid,
    )  # fmt: skip


def news(number: int, at_ms: int = 0, **words: object) -> Outcome:
    """What comes after decision `number` was opened."""
    return choice(number, at_ms, is_new=False, **words)  # type: ignore[arg-type]


class Told(NamedTuple):
    """What came of some blocks."""

    fold: Spend
    view: StateView
    counts: Counter[tuple[str, str]]

    @property
    def fixed(self) -> SpendFixed:
        """Clock and totals."""
        return msgspec.msgpack.decode(self.fold.fixed(), type=SpendFixed)

    def lines(self) -> "dict[tuple[str, str], LineBooks]":
        """The books by (campaign, line)."""
        return lines_of(self.view)

    def books(self, line_id: str = "l1", campaign_id: str = "c1") -> Money:
        """One line's books."""
        return self.lines()[campaign_id, line_id].total


class LineBooks(NamedTuple):
    """One line's books. days: by the name of the day."""

    total: Money
    days: dict[str, Money]


def lines_of(view: StateView) -> dict[tuple[str, str], LineBooks]:
    """The books of all lines in a state, by (campaign, line)."""
    decode = msgspec.msgpack.Decoder(Money).decode
    lines = {line_of(key): LineBooks(decode(raw), {}) for key, raw in view.entries.items() if key.startswith(LINE)}
    for key, raw in view.entries.items():
        if key.startswith(DAY):
            campaign_id, line_id, name = day_of(key)
            lines[campaign_id, line_id].days[name] = decode(raw)
    return lines


def open_of(view: StateView) -> list[Reservation]:
    """The open reservations in a state."""
    return [
        msgspec.msgpack.decode(raw, type=Reservation)
        for key, raw in view.entries.items()
        if key.startswith(RESERVATION)
    ]


def tell(
    *blocks: tuple[int, Sequence[Outcome]],
    rules: SpendRules = RULES,
    view: StateView | None = None,
    first: int = 0,
    stock: Iterable[StockLevel] = (),
) -> Told:
    """Fold blocks, each (its time after the start, its outcomes). stock: in the first block."""
    view = StateView() if view is None else view
    fold = Spend(view, rules)
    counts: Counter[tuple[str, str]] = Counter()
    for offset, (at_ms, outcomes) in enumerate(blocks):
        levels = [] if offset else list(stock)
        counts += fold.apply(Origin(0, first + offset), OutcomeBlock(START_MS + at_ms, list(outcomes), levels)).counts
        fold.take_changes()
        view.fixed = fold.fixed()
    return Told(fold, view, counts)


def restored(told: Told, version: int = 0) -> StateView:
    """The state as a new owner reads it from its log."""
    read = StateView()
    read.apply(StateWriter.fence("x"), 0)
    puts = list(told.view.entries.items())
    for record in StateWriter(read, "x").records(version, told.fold.fixed(), (puts, []), 1_000_000):
        read.apply(record, 1)
    return read


def check_books(view: StateView) -> None:
    """The laws of the books: each column is the sum of its parts, and what is open is what is held."""
    held = Counter[tuple[str, str, str]]()
    micros = Counter[tuple[str, str, str]]()
    for one in open_of(view):
        held[one.campaign_id, one.line_id, one.day] += 1
        micros[one.campaign_id, one.line_id, one.day] += one.price_micros
    totals = []
    for (campaign_id, line_id), books in lines_of(view).items():
        for day, money in books.days.items():
            assert money.open == Sum(held[campaign_id, line_id, day], micros[campaign_id, line_id, day])
        for money in (books.total, *books.days.values()):
            balanced(money)
        assert books.total == added(books.days.values())
        totals.append(books.total)
    fixed = msgspec.msgpack.decode(view.fixed, type=SpendFixed)
    assert fixed.total == added(totals)


def balanced(money: Money) -> None:
    """reserved = settled + released + open, in pieces and in money."""
    assert money.reserved.count == money.settled.count + money.released.count + money.open.count
    assert money.reserved.micros == money.settled.micros + money.released.micros + money.open.micros
    assert money.open.count >= 0
    assert money.bots.count + money.stale.count <= money.released.count


def added(several: Iterable[Money]) -> Money:
    """The sum."""
    total = Money()
    for money in several:
        for column in Money.__struct_fields__:
            found, more = getattr(total, column), getattr(money, column)
            setattr(total, column, Sum(found.count + more.count, found.micros + more.micros))
    return total

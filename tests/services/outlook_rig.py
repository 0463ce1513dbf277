"""A shop's history: what it sold by the day, what it has left, and how two arms of a placement did."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby

from msgspec.structs import replace

from pipeline.core.rows import Columns, event_columns, outcome_columns
from schemas.block import EventBlock, Origin, OutcomeBlock, Totals
from schemas.event import Event, EventType
from schemas.outcome import Outcome

DAY_MS = 86_400_000


def sold(now_ms: int, days: int) -> list[Event]:
    """Each day two boats in an order of their own, and a rope and a cap in an order of two; a bot that buys all."""
    events = []
    for day in range(days):
        at_ms = now_ms - day * DAY_MS - 3_600_000
        boats = Event("", EventType.PURCHASE, at_ms, at_ms, "dock", "v1", product_id="boat", quantity=2)
        products = '{"products":[{"product_id":"rope","quantity":1},{"sku":"cap","product_id":"p7","quantity":"1"}]}'
        events += [boats, replace(boats, product_id="rope", quantity=1, properties=products)]
        events.append(replace(boats, product_id="rope", quantity=1_000, bot_reason="robot"))
    return events


def left(now_ms: int, sku: str, level: int) -> Event:
    return Event("", EventType.STOCK, now_ms, now_ms, "dock", "", product_id=sku, stock_level=level)


def rows(offset: int, events: list[Event]) -> Iterator[Columns]:
    """Rows of `events`: an insert each for a month, as the writer does it."""
    events = sorted(events, key=lambda event: event.event_time_ms)
    for month, some in groupby(events, key=lambda event: datetime.fromtimestamp(event.event_time_ms / 1e3, UTC).month):
        found = list(some)
        block = EventBlock(0, Totals(), list(range(len(found))), found)
        yield event_columns([(Origin(month, offset), block)])


def learnt(now_ms: int, placement: str, rates: dict[str, tuple[int, int]], many: int = 400) -> Columns:
    """Outcomes of an even split. rates: an arm's rewards of a hundred shown, before and after half of twelve hours."""
    found = []
    for arm, (before, after) in rates.items():
        for number in range(many):
            at_ms = now_ms - 12 * 3_600_000 + number * 12 * 3_600_000 // many
            is_rewarded = number * 37 % 100 < (before if number < many // 2 else after)
            named = (f"{placement}-{arm}-{number}", arm, placement, "v", at_ms, at_ms, 0, 0, 0, 1_000_000 * is_rewarded)
            found.append(Outcome(*named, 1 / len(rates), 1, 0))
    return outcome_columns([(Origin(3, now_ms % 1_000 + len(placement)), OutcomeBlock(now_ms, found))])

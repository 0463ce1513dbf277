"""Which held pieces a purchase is of: the profile stage, which knows a visitor's decisions, tells the spend stage."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from schemas.event import Event
from schemas.outcome import OpenDecision
from schemas.spend import Sale

PRODUCTS_MAX: Final = 1_000
SKEW_MS: Final = 60_000
"""By so much the clocks of who decides and who buys may differ."""


class _Product(Struct):
    """An item of an order, in the names of Segment's and GA4's specifications."""

    sku: str | int = ""
    product_id: str | int = ""
    id: str | int = ""
    quantity: float = 1


class _Order(Struct):
    products: list[_Product] = []


_read_order = msgspec.json.Decoder(_Order, strict=False).decode


def sales(event: Event, decisions: Sequence[OpenDecision]) -> list[Sale]:
    """Return the held pieces that a purchase is of, and take them out of their decisions.

    decisions: the visitor's open ones. Of several holds of a sku the one that was decided first is bought. A hold whose
    time was over when it was bought is none any more; nor is one of later than the purchase.
    """
    holding = [one for one in decisions if one.choice.holds]
    if not holding:
        return []
    bought = _bought(event)
    found = []
    for decision in sorted(holding, key=lambda one: one.decided_ms):
        choice = decision.choice
        if not decision.decided_ms - SKEW_MS <= event.event_time_ms <= decision.decided_ms + choice.hold_ms:
            continue
        left = []
        for hold in choice.holds:
            if hold.site == event.site and bought[hold.sku] > 0:
                bought[hold.sku] -= 1
                found.append(Sale(decision.decision_id, choice.action_id, hold.sku, event.event_time_ms))
            else:
                left.append(hold)
        choice.holds = tuple(left)
    return found


def _bought(event: Event) -> Counter[str]:
    """Return how many pieces of each sku an order is of: its list of products, or the one that it names itself."""
    pieces: Counter[str] = Counter()
    if '"products"' in event.properties:
        try:
            order = _read_order(event.properties)
        except (msgspec.DecodeError, msgspec.ValidationError):
            order = _Order()
        for product in order.products[:PRODUCTS_MAX]:
            for name in {str(product.sku), str(product.product_id), str(product.id)} - {""}:
                pieces[name] += max(1, int(min(product.quantity, 1e6)))
    if event.product_id and event.product_id not in pieces:
        pieces[event.product_id] = max(1, event.quantity)
    return pieces

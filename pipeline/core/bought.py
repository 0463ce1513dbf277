"""Which held pieces a purchase is of: the profile stage, which knows a visitor's decisions, tells the spend stage."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from schemas.event import Event
from schemas.outcome import OpenDecision
from schemas.spend import Sale

PRODUCTS_MAX: Final = 1_000
PIECES_MAX: Final = 1_000_000
"""Of one item. The warehouse is asked with the same bound, see `pipeline.audit.stock`."""
SKEW_MS: Final = 60_000
"""By so much the clocks of who decides and who buys may differ."""


class _Order(Struct):
    """An order's list of items, as it came: whatever a client writes into one item costs the others nothing."""

    products: object = None


_read_order = msgspec.json.Decoder(_Order).decode
_NAMES: Final = ("sku", "product_id", "id")
"""An item's names in Segment's and GA4's specifications."""


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
        for product in _products(event.properties):
            many = _pieces(product.get("quantity"))
            for name in {_name(product.get(key)) for key in _NAMES} - {""}:
                pieces[name] += many
    if event.product_id and event.product_id not in pieces:
        pieces[event.product_id] = _pieces(event.quantity)
    return pieces


def _products(properties: str) -> list[dict[str, object]]:
    try:
        products = _read_order(properties).products
    except (msgspec.DecodeError, msgspec.ValidationError):
        return []
    found = products[:PRODUCTS_MAX] if isinstance(products, list) else []
    return [product for product in found if isinstance(product, dict)]


def _name(value: object) -> str:
    """A name of an item as the clean stage has it of an event: 42 is "42", and 42.0 too."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _pieces(quantity: object) -> int:
    """How many pieces an item is of: one at least, and of what is no number one. Clients write "NaN" and "-inf"."""
    try:
        many = float(quantity) if isinstance(quantity, str | int | float) else 1.0
    except (ValueError, OverflowError):
        return 1
    return int(min(max(many, 1.0), PIECES_MAX)) if math.isfinite(many) else 1

"""Which of our event types a client's own name for an event means. One entry a name; unknown names are `custom`.

Names are compared in lower case with runs of other characters than letters and digits as one blank: "Order Completed",
"order_completed" and "orderCompleted" are the same. Sources: Segment's e-commerce and promotion specs, Snowplow's
schemas and structured actions, GA4's recommended events.
"""

import re
from functools import lru_cache

from schemas.event import EventType

_E = EventType

NAMES: dict[str, EventType] = {
    # pages
    "page": _E.PAGE, "pageview": _E.PAGE, "page view": _E.PAGE, "pv": _E.PAGE, "loaded a page": _E.PAGE,
    "screen": _E.SCREEN, "screen view": _E.SCREEN, "mobile screen view": _E.SCREEN,
    # promotion
    "impression": _E.IMPRESSION, "ad impression": _E.IMPRESSION, "promotion viewed": _E.IMPRESSION,
    "view promotion": _E.IMPRESSION, "banner viewed": _E.IMPRESSION, "experiment viewed": _E.IMPRESSION,
    "click": _E.CLICK, "ad click": _E.CLICK, "promotion clicked": _E.CLICK, "select promotion": _E.CLICK,
    "banner clicked": _E.CLICK, "link click": _E.CLICK, "email link clicked": _E.CLICK, "clickout item": _E.CLICK,
    "conversion": _E.CONVERSION, "ad conversion": _E.CONVERSION, "goal": _E.CONVERSION,
    "generate lead": _E.CONVERSION, "lead": _E.CONVERSION,
    # shop
    "product view": _E.PRODUCT_VIEW, "product viewed": _E.PRODUCT_VIEW, "view item": _E.PRODUCT_VIEW,
    "view": _E.PRODUCT_VIEW, "product clicked": _E.PRODUCT_VIEW, "interaction item image": _E.PRODUCT_VIEW,
    "interaction item info": _E.PRODUCT_VIEW, "interaction item rating": _E.PRODUCT_VIEW,
    "interaction item deals": _E.PRODUCT_VIEW,
    "add to cart": _E.ADD_TO_CART, "product added": _E.ADD_TO_CART, "cart": _E.ADD_TO_CART,
    "add to basket": _E.ADD_TO_CART, "add to bag": _E.ADD_TO_CART,
    "purchase": _E.PURCHASE, "order completed": _E.PURCHASE, "completed order": _E.PURCHASE,
    "transaction": _E.PURCHASE,
    # interest
    "search": _E.SEARCH, "site search": _E.SEARCH, "products searched": _E.SEARCH, "view search results": _E.SEARCH,
    "search for item": _E.SEARCH, "search for destination": _E.SEARCH, "search for poi": _E.SEARCH,
    "share": _E.SHARE, "product shared": _E.SHARE, "cart shared": _E.SHARE, "social interaction": _E.SHARE,
    "subscribe": _E.SUBSCRIBE, "signed up": _E.SUBSCRIBE, "sign up": _E.SUBSCRIBE, "email subscribed": _E.SUBSCRIBE,
    "satisfaction": _E.SATISFACTION, "product reviewed": _E.SATISFACTION, "rating": _E.SATISFACTION,
    "nps": _E.SATISFACTION, "survey answered": _E.SATISFACTION,
    # operations
    "stock": _E.STOCK, "stock level": _E.STOCK, "inventory updated": _E.STOCK,
    "cost": _E.COST, "ad cost": _E.COST, "ad spend": _E.COST,
    # people
    "identify": _E.IDENTIFY, "group": _E.GROUP, "alias": _E.ALIAS,
    # our own
    "reward": _E.REWARD, "custom": _E.CUSTOM,
}  # fmt: skip

_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_OTHER = re.compile(r"[^a-z0-9]+")


NAME_CHARS_MAX = 128  # longer than every name here; what is remembered must be bounded


def type_of(name: str) -> EventType:
    """Return the event type that a client's name means; `custom` for a name we do not know."""
    return _type_of(name[:NAME_CHARS_MAX])


@lru_cache(maxsize=4_096)
def _type_of(name: str) -> EventType:
    words = _OTHER.sub(" ", _HUMPS.sub(" ", name).lower()).strip()
    return NAMES.get(words, EventType.CUSTOM)

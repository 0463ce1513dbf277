"""From each protocol's own words to the common form (schemas/incoming.py). One adapter a protocol, chosen by
`ADAPTERS`.

An adapter only renames and picks: types are checked afterwards, in one place, for all protocols alike. It raises
BadPayload where the protocol's own wrapping does not decode.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from pipeline.core.event_names import type_of
from schemas.event import Context, EventType, Protocol

Message = dict[str, Any]


class BadPayload(ValueError):
    """What a protocol wraps an event in does not decode; the text names the field."""


# Segment: `properties` under the names its own specs use -> ours.
SEGMENT_PROPERTIES: Mapping[str, str] = {
    "revenue": "revenue", "currency": "currency", "price": "price", "cost": "cost", "quantity": "quantity",
    "product_id": "product_id", "category": "category", "brand": "brand", "query": "search", "score": "score",
    "stock_level": "stock_level", "campaign_id": "campaign_id", "creative_id": "creative_id",
    "placement_id": "placement_id", "action_id": "action_id", "decision_id": "decision_id", "url": "url",
    "title": "title", "referrer": "referrer",
}  # fmt: skip

# Further names for the same: they count where the first name is not there, the earlier before the later.
SECOND_NAMES: Mapping[str, str] = {
    "sku": "product_id", "category_code": "category", "rating": "score", "stock": "stock_level",
    "promotion_id": "campaign_id", "creative": "creative_id", "placement": "placement_id",
}  # fmt: skip
# What a name means only in some events: an order's total is revenue, a viewed product's value is none; a promotion's
# position is a place on the page, a product's is its rank in a list.
AMOUNTS: Mapping[str, str] = {"total": "revenue", "value": "revenue"}
PLACES: Mapping[str, str] = {"position": "placement_id"}
SPENDINGS: Mapping[str, str] = {"value": "cost", "total": "cost"}
NAMES_OF_TYPE: Mapping[str, Mapping[str, str]] = {
    EventType.PURCHASE: AMOUNTS,
    EventType.CONVERSION: AMOUNTS,
    EventType.IMPRESSION: PLACES,
    EventType.CLICK: PLACES,
    EventType.COST: SPENDINGS,
}

SEGMENT_CAMPAIGN: Mapping[str, str] = {
    "source": "utm_source", "medium": "utm_medium", "name": "utm_campaign", "term": "utm_term",
    "content": "utm_content", "id": "campaign_id",
}  # fmt: skip

# Snowplow's tracker protocol -> ours.
SNOWPLOW_FIELDS: Mapping[str, str] = {
    "uid": "user_id", "url": "url", "page": "title", "refr": "referrer", "ua": "user_agent", "lang": "language",
    "stm": "sent_time", "ttm": "event_time", "tr_tt": "revenue", "tr_cu": "currency", "ti_sk": "product_id",
    "ti_ca": "category", "ti_pr": "price", "ti_qu": "quantity", "ti_cu": "currency",
}  # fmt: skip
SNOWPLOW_TYPES: Mapping[str, str] = {"pv": "page", "pp": "page ping", "tr": "transaction", "ti": "transaction item"}
# Self-describing events: the names of Iglu Central's ad, shop and search schemas; then those of Segment.
SNOWPLOW_DATA: Mapping[str, str] = {
    "campaignId": "campaign_id", "bannerId": "creative_id", "zoneId": "placement_id", "unitPrice": "price",
    "sku": "product_id", "terms": "search",
}  # fmt: skip

# Our pixel's short keys -> ours (the collector's documentation is made from this table).
PIXEL_FIELDS: Mapping[str, str] = {
    "e": "type", "n": "name", "uid": "user_id", "ts": "event_time", "st": "sent_time", "u": "url", "t": "title",
    "r": "referrer", "ua": "user_agent", "l": "language", "cid": "campaign_id", "cr": "creative_id",
    "pl": "placement_id", "a": "action_id", "d": "decision_id", "pid": "product_id", "cat": "category", "b": "brand",
    "q": "quantity", "pr": "price", "rev": "revenue", "cost": "cost", "cur": "currency", "s": "search", "sc": "score",
    "sl": "stock_level",
}  # fmt: skip

HERALD_FIELDS = frozenset({
    "event_time", "decision_id", "placement_id", "action_id", "campaign_id", "creative_id", "url", "user_agent",
    "referrer", "product_id", "revenue", "cost", "currency", "properties",
})  # fmt: skip


def _object(value: object) -> Message:
    return value if isinstance(value, dict) else {}


def _take(source: Message, names: Mapping[str, str], into: Message) -> Message:
    """Copy what is there under our names, unless taken; null is absence. Return the rest, without repetitions."""
    rest: Message = {}
    for theirs, value in source.items():
        ours = names.get(theirs)
        if ours is None or ours in into:
            if ours is None or into[ours] != value:
                rest[theirs] = value
        elif value is not None and value != "":
            into[ours] = value
    return rest


def _pick(source: Message, names: Mapping[str, str], into: Message) -> None:
    """Copy a few names of many, where they are there and not taken already."""
    for theirs, ours in names.items():
        value = source.get(theirs)
        if value is not None and value != "" and ours not in into:
            into[ours] = value


def _take_second(rest: Message, names: Mapping[str, str], into: Message) -> None:
    """Move what is still missing from the rest, in the order of the names."""
    for theirs, ours in names.items():
        if theirs in rest and ours not in into and rest[theirs] is not None and rest[theirs] != "":
            into[ours] = rest.pop(theirs)


def _open(text: object, name: str) -> Any:
    """Return the value of JSON inside of text; what is no text is open already."""
    try:
        return msgspec.json.decode(text) if isinstance(text, str) else text
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise BadPayload(f"{name}: {error}, expected JSON") from None


_SEGMENT_TOP: Mapping[str, str] = {
    "userId": "user_id", "timestamp": "event_time", "originalTimestamp": "event_time",
}  # fmt: skip
_SEGMENT_PAGE: Mapping[str, str] = {"url": "url", "title": "title", "referrer": "referrer"}
_SEGMENT_OUTER: Mapping[str, str] = {"userAgent": "user_agent", "locale": "language"}


def from_segment(message: Message, context: Context) -> Message:
    """Segment's spec: identify, track, page, screen, group, alias. What no field takes stays in the properties.

    Traits describe a person or company: their `title` or `position` is not the page's, so they all stay properties.
    The page that something happened on outranks a product's `url` and `title`; in a page call the two are the same.
    """
    kind = str(message.get("type") or context.kind)
    named = message.get("event" if kind == "track" else "name")
    found: Message = {"type": type_of(str(named or "")) if kind == "track" else kind}
    if named:
        found["name"] = named
    _pick(message, _SEGMENT_TOP, found)
    outer = _object(message.get("context"))
    if outer:
        _pick(_object(outer.get("page")), _SEGMENT_PAGE, found)
        _pick(outer, _SEGMENT_OUTER, found)
    if kind in ("identify", "group"):
        rest = _object(message.get("traits"))
    else:
        rest = _take_properties(_object(message.get("properties")), found)
    if outer:
        _pick(_object(outer.get("campaign")), SEGMENT_CAMPAIGN, found)
    if rest:
        found["properties"] = rest
    return found


_FIRST_PRODUCT: Mapping[str, str] = {
    "product_id": "product_id", "sku": "product_id", "category": "category", "brand": "brand",
}  # fmt: skip


def _take_properties(properties: Message, found: Message) -> Message:
    """Take what has a field of its own; return the rest. An order's first product stands for it."""
    own = NAMES_OF_TYPE.get(found["type"])
    rest = _take(properties, SEGMENT_PROPERTIES, found)
    if own is not None:
        if own is SPENDINGS and "cost" not in found and "revenue" in found:
            found["cost"] = found.pop("revenue")
        _take_second(rest, own, found)
    if rest:
        _take_second(rest, SECOND_NAMES, found)
        products = rest.get("products")
        if isinstance(products, list) and products and "product_id" not in found:
            _pick(_object(products[0]), _FIRST_PRODUCT, found)
    return rest


def from_snowplow(message: Message, context: Context) -> Message:
    """Snowplow's tracker protocol: page views and pings, structured and self-describing events, transactions."""
    code = str(message.get("e") or "")
    found: Message = {}
    left = _take(message, SNOWPLOW_FIELDS, found)
    _pick(message, {"dtm": "event_time"}, found)
    if code == "se":
        name, rest = _structured(message, found)
    elif code == "ue":
        name, rest = _self_describing(message, found)
    else:
        name = SNOWPLOW_TYPES.get(code, code)
        rest = {key: value for key, value in left.items() if key.startswith(("tr_", "ti_"))}
        found["type"] = type_of(name)
    found["name"] = name
    if rest:
        found["properties"] = rest
    return found


def _structured(message: Message, found: Message) -> tuple[str, Message]:
    """Category, action, label, property, value. The label is a product and the value an amount where it is shopping."""
    action = str(message.get("se_ac") or "")
    kind = found["type"] = type_of(action)
    names = {"se_ca": "category"}
    if kind in (EventType.PRODUCT_VIEW, EventType.ADD_TO_CART, EventType.PURCHASE):
        names["se_la"] = "product_id"
    if kind in (EventType.PURCHASE, EventType.CONVERSION):
        names["se_va"] = "revenue"
    elif kind is EventType.SATISFACTION:
        names["se_va"] = "score"
    elif kind is EventType.SEARCH:
        names["se_la"] = "search"
    parts = {key: message[key] for key in ("se_ca", "se_la", "se_pr", "se_va") if message.get(key)}
    rest = _take(parts, names, found)
    return action or "structured", {_STRUCTURED[key]: value for key, value in rest.items()}


_STRUCTURED: Mapping[str, str] = {"se_ca": "category", "se_la": "label", "se_pr": "property", "se_va": "value"}


def _self_describing(message: Message, found: Message) -> tuple[str, Message]:
    """`ue_pr` holds {schema: unstruct_event, data: {schema: iglu:vendor/name/…, data: {…}}}."""
    wrapped = _open(message.get("ue_pr"), "ue_pr")
    try:
        inner = wrapped["data"]
        name = str(inner["schema"]).split("/")[1]
        data = dict(_object(inner["data"]))
    except (KeyError, TypeError, IndexError) as error:
        raise BadPayload(f"ue_pr: {error!r}, expected an unstruct_event with a schema and data") from None
    found["type"] = type_of(name)
    if isinstance(data.get("terms"), list):
        data["terms"] = " ".join(str(term) for term in data["terms"])
    rest = _take(data, SNOWPLOW_DATA, found)
    return name, _take_properties(rest, found)


def from_pixel(message: Message, context: Context) -> Message:
    """Our pixel: short keys, values as text; `p` holds further properties as a JSON object."""
    found: Message = {}
    _take(message, PIXEL_FIELDS, found)
    name = str(found.get("type") or "page")
    found["type"] = type_of(name)
    if found["type"] is EventType.CUSTOM:
        found.setdefault("name", name)
    if "url" not in found and context.referrer:
        found["url"] = context.referrer  # an image's Referer header is the page that it stands on
    if message.get("p"):
        found["properties"] = _open(message["p"], "p")
        if not isinstance(found["properties"], dict):
            raise BadPayload(f"p: found {type(found['properties']).__name__}, expected a JSON object")
    return found


def from_herald(message: Message, context: Context) -> Message:
    """What our own delivery writes: already in our words."""
    found = {key: value for key, value in message.items() if key in HERALD_FIELDS and value not in (None, "")}
    found["type"] = message.get("type", "")
    if "value_micros" in message and isinstance(message["value_micros"], int):
        found["revenue"] = Decimal(message["value_micros"]) / 1_000_000
    if "event_time_ms" in message:
        found["event_time"] = message["event_time_ms"]
    if "reward" in message:
        found["score"] = message["reward"]
    return found


ADAPTERS: Mapping[Protocol, Callable[[Message, Context], Message]] = {
    Protocol.SEGMENT: from_segment,
    Protocol.SNOWPLOW: from_snowplow,
    Protocol.PIXEL: from_pixel,
    Protocol.HERALD: from_herald,
}

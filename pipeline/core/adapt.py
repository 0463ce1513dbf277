"""From each protocol's own words to the common form (schemas/incoming.py). One adapter a protocol, chosen by
`ADAPTERS`.

An adapter only renames and picks: types are checked afterwards, in one place, for all protocols alike. It raises
BadPayload where the protocol's own wrapping does not decode.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pipeline.core.event_names import type_of
from schemas.event import Context, EventType, Protocol

Message = dict[str, Any]


class BadPayload(ValueError):
    """What a protocol wraps an event in does not decode; the text names the field."""


# Segment: `properties` (or, for identify, `traits`) under the names its own specs use -> ours.
SEGMENT_PROPERTIES: Mapping[str, str] = {
    "revenue": "revenue", "total": "revenue", "value": "revenue", "currency": "currency", "price": "price",
    "cost": "cost", "quantity": "quantity", "product_id": "product_id", "sku": "product_id", "category": "category",
    "category_code": "category", "brand": "brand", "query": "search", "rating": "score", "score": "score",
    "stock_level": "stock_level", "stock": "stock_level", "promotion_id": "campaign_id", "campaign_id": "campaign_id",
    "creative_id": "creative_id", "creative": "creative_id", "placement_id": "placement_id", "position": "placement_id",
    "placement": "placement_id", "action_id": "action_id", "decision_id": "decision_id", "url": "url",
    "title": "title", "referrer": "referrer",
}  # fmt: skip

SEGMENT_CAMPAIGN: Mapping[str, str] = {
    "source": "utm_source", "medium": "utm_medium", "name": "utm_campaign", "term": "utm_term",
    "content": "utm_content", "id": "campaign_id",
}  # fmt: skip

# Snowplow's tracker protocol -> ours.
SNOWPLOW_FIELDS: Mapping[str, str] = {
    "uid": "user_id", "url": "url", "page": "title", "refr": "referrer", "ua": "user_agent", "lang": "language",
    "stm": "sent_time", "tr_tt": "revenue", "tr_cu": "currency", "ti_sk": "product_id", "ti_ca": "category",
    "ti_pr": "price", "ti_qu": "quantity", "ti_cu": "currency",
}  # fmt: skip
SNOWPLOW_TYPES: Mapping[str, str] = {"pv": "page", "pp": "page ping", "tr": "transaction", "ti": "transaction item"}

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


def _take(source: Message, names: Mapping[str, str], into: Message) -> None:
    """Copy what is there under our names; the first of several names that mean the same wins; null is absence."""
    for theirs, value in source.items():
        ours = names.get(theirs)
        if ours is not None and value is not None and value != "" and ours not in into:
            into[ours] = value


def from_segment(message: Message, context: Context) -> Message:
    """Segment's spec: identify, track, page, screen, group, alias."""
    kind = str(message.get("type") or context.kind)
    properties = _object(message.get("traits") if kind in ("identify", "group") else message.get("properties"))
    named = message.get("event") if kind == "track" else message.get("name")
    found: Message = {"type": type_of(str(named or "")) if kind == "track" else kind}
    _take(message, {"userId": "user_id", "timestamp": "event_time", "originalTimestamp": "event_time"}, found)
    if named:
        found["name"] = named
    _take(properties, SEGMENT_PROPERTIES, found)
    if found["type"] is EventType.COST and "cost" not in found and "revenue" in found:
        found["cost"] = found.pop("revenue")
    outer = _object(message.get("context"))
    page = _object(outer.get("page"))
    _take(page, {"url": "url", "title": "title", "referrer": "referrer"}, found)
    _take(outer, {"userAgent": "user_agent", "locale": "language"}, found)
    _take(_object(outer.get("campaign")), SEGMENT_CAMPAIGN, found)
    rest = {key: value for key, value in properties.items() if key not in SEGMENT_PROPERTIES}
    _add_products(found, rest)
    if rest:
        found["properties"] = rest
    return found


def _add_products(found: Message, rest: Message) -> None:
    """An order's first product stands for it; all of them stay in the properties."""
    products = rest.get("products")
    if isinstance(products, list) and products and "product_id" not in found:
        _take(_object(products[0]), {"product_id": "product_id", "sku": "product_id", "category": "category"}, found)


def from_snowplow(message: Message, context: Context) -> Message:
    """Snowplow's tracker protocol: page views and pings, structured and self-describing events, transactions."""
    code = str(message.get("e") or "")
    found: Message = {}
    _take(message, SNOWPLOW_FIELDS, found)
    found["event_time"] = message.get("ttm") or message.get("dtm") or ""
    rest: Message = {}
    if code == "se":
        name, rest = _structured(message, found)
    elif code == "ue":
        name, rest = _self_describing(message)
        _take(rest, SEGMENT_PROPERTIES, found)
        rest = {key: value for key, value in rest.items() if key not in SEGMENT_PROPERTIES}
    else:
        name = SNOWPLOW_TYPES.get(code, code)
    found["type"] = type_of(name)
    found["name"] = name
    if rest:
        found["properties"] = rest
    return {key: value for key, value in found.items() if value != ""}


def _structured(message: Message, found: Message) -> tuple[str, Message]:
    action, value = str(message.get("se_ac") or ""), message.get("se_va")
    if value not in (None, ""):
        found["revenue" if type_of(action) is EventType.PURCHASE else "score"] = value
    _take(message, {"se_ca": "category", "se_la": "product_id"}, found)
    prop = message.get("se_pr")
    return action or "structured", {"property": prop} if prop else {}


def _self_describing(message: Message) -> tuple[str, Message]:
    """`ue_pr` holds {schema: unstruct_event, data: {schema: iglu:vendor/name/…, data: {…}}}."""
    raw = message.get("ue_pr")
    try:
        wrapped: Any = msgspec.json.decode(raw) if isinstance(raw, str) else raw
        inner = wrapped["data"]
        name = str(inner["schema"]).split("/")[1]
        data = inner["data"]
    except (msgspec.MsgspecError, KeyError, TypeError, IndexError) as error:
        raise BadPayload(f"ue_pr: {error!r}, expected an unstruct_event with a schema and data") from None
    return name, dict(_object(data))


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
    raw = message.get("p")
    if raw:
        try:
            found["properties"] = msgspec.json.decode(raw) if isinstance(raw, str) else raw
        except msgspec.MsgspecError as error:
            raise BadPayload(f"p: {error}, expected a JSON object") from None
    return found


def from_herald(message: Message, context: Context) -> Message:
    """What our own delivery writes: already in our words."""
    found = {key: value for key, value in message.items() if key in HERALD_FIELDS and value not in (None, "")}
    found["type"] = message.get("type", "")
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

"""Meanings that have no other place: the reasons for which an event is refused, and the flags of a mended one."""

from schemas.event import DropReason, EventFlag, EventType

REASONS: dict[DropReason, str] = {
    DropReason.BAD_JSON: "the event is not JSON",
    DropReason.NOT_AN_OBJECT: "the event is JSON, but no object",
    DropReason.BAD_TYPE: "a field cannot be read as its type; the detail names field, value and what was expected",
    DropReason.TOO_LARGE: "the event is larger than `HERALD_EVENT_BYTES_MAX`",
    DropReason.TOO_COMPLEX: "too deep, too many keys, or a key that is too long",
    DropReason.UNKNOWN_TYPE: "the protocol knows no such kind of event",
    DropReason.MISSING_FIELD: "a field that this kind of event needs is not there",
    DropReason.TOO_OLD: "the event is older than `HERALD_AGE_MAX_MS`",
    DropReason.BAD_PAYLOAD: "a Snowplow or pixel field does not decode (base64, JSON within text)",
}

TYPES: dict[EventType, str] = {
    EventType.PAGE: "a page was opened",
    EventType.SCREEN: "an app's screen was opened",
    EventType.IMPRESSION: "something promoted was seen",
    EventType.CLICK: "something promoted was clicked",
    EventType.CONVERSION: "a goal was reached",
    EventType.PRODUCT_VIEW: "a product was looked at",
    EventType.ADD_TO_CART: "a product was put into the cart",
    EventType.PURCHASE: "an order was placed, with revenue and currency",
    EventType.SEARCH: "somebody searched",
    EventType.SHARE: "something was shared",
    EventType.SUBSCRIBE: "somebody subscribed or signed up",
    EventType.SATISFACTION: "a satisfaction score was given",
    EventType.STOCK: "how many pieces are left",
    EventType.COST: "what an ad cost",
    EventType.DECISION: "delivery decided (written by delivery alone)",
    EventType.REWARD: "a decision's reward was told by name",
    EventType.IDENTIFY: "traits of a user",
    EventType.GROUP: "traits of a group",
    EventType.ALIAS: "two ids are the same person: stored, not applied",
    EventType.CUSTOM: "anything else, under its own name",
}

FLAGS: dict[EventFlag, str] = {EventFlag.BOT: "a machine did it: `bot_reason` says why"}

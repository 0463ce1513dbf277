"""The event, before (`Collected`) and after (`Event`) the clean stage, and why an event may be refused.

Both are msgspec Structs written as arrays: fields are only ever appended, with a default, so that old blocks stay
readable. gc=False: they hold no cycles, and a block makes thousands of them.
"""

from enum import IntFlag, StrEnum

from msgspec import Struct


class EventType(StrEnum):
    """The closed list of what can happen on an information-promotion platform."""

    PAGE = "page"
    SCREEN = "screen"
    IMPRESSION = "impression"
    CLICK = "click"
    CONVERSION = "conversion"
    PRODUCT_VIEW = "product_view"
    ADD_TO_CART = "add_to_cart"
    PURCHASE = "purchase"
    SEARCH = "search"
    SHARE = "share"
    SUBSCRIBE = "subscribe"
    SATISFACTION = "satisfaction"
    STOCK = "stock"
    COST = "cost"
    DECISION = "decision"
    REWARD = "reward"
    IDENTIFY = "identify"
    GROUP = "group"
    ALIAS = "alias"
    CUSTOM = "custom"


class Protocol(StrEnum):
    """How an event reached us; the clean stage has one adapter for each."""

    SEGMENT = "segment"
    SNOWPLOW = "snowplow"
    PIXEL = "pixel"
    HERALD = "herald"  # written by our own delivery: decisions, rewards, signed impressions and clicks


class DropReason(StrEnum):
    """Why an event is refused. Each one is counted, and the event is kept in `bad` with its raw bytes."""

    BAD_JSON = "bad_json"
    NOT_AN_OBJECT = "not_an_object"
    BAD_TYPE = "bad_type"
    TOO_LARGE = "too_large"
    TOO_COMPLEX = "too_complex"
    UNKNOWN_TYPE = "unknown_type"
    MISSING_FIELD = "missing_field"
    TOO_OLD = "too_old"
    BAD_PAYLOAD = "bad_payload"  # a Snowplow or pixel field that does not decode


class EventFlag(IntFlag):
    """What the clean stage noticed and mended; kept with the event."""

    NONE = 0
    TIME_MISSING = 1  # no usable time was sent: received_time_ms is used
    TIME_CLAMPED = 2  # more than HERALD_FUTURE_MAX_MS ahead of our clock: received_time_ms is used
    SKEW_CORRECTED = 4  # moved by received - sent
    IDENTITY_DROPPED = 8  # an id was sent that names nobody: "null", "undefined", zeros, too long
    NO_CONSENT = 16  # DNT, Sec-GPC or a consent flag: counted without an id
    BOT = 32
    TYPE_CORRECTED = 64  # a number sent as text, or a label as a number, where the protocol has types


class Context(Struct, array_like=True, frozen=True):
    """What all events of one HTTP request share. Written once a request into a block.

    ip is already cut to /24 or /48, user_agent and referrer are masked. sent_time_ms is 0 where the client sent none.
    """

    protocol: Protocol
    kind: str  # the endpoint: "track", "batch", "tp2", "gif"
    site: str
    received_time_ms: int
    sent_time_ms: int = 0
    ip: str = ""
    user_agent: str = ""
    referrer: str = ""
    no_consent: bool = False


class Collected(Struct, array_like=True, frozen=True, gc=False):
    """One event as received: its routing ids and its bytes (masked JSON), not yet validated.

    refused is a DropReason that was already certain at the door, else "".
    """

    context: int  # index into the block's contexts
    event_id: str  # "" where the client sent none
    visitor: str  # the id that chose the partition; "" without consent or id
    raw: bytes
    refused: str = ""


class Event(Struct, array_like=True, gc=False):
    """One event after the clean stage: typed, corrected, enriched.

    Money in micros of `currency`, times in ms since 1970 UTC.
    """

    event_id: str
    event_type: EventType
    event_time_ms: int
    received_time_ms: int
    site: str
    visitor: str = ""  # "" without consent or id: counted, never profiled
    user_id: str = ""
    name: str = ""  # the client's own name for it: "Order Completed"
    protocol: Protocol = Protocol.SEGMENT
    flags: int = 0
    bot_reason: str = ""
    url: str = ""
    host: str = ""
    path: str = ""
    title: str = ""
    referrer: str = ""
    referrer_class: str = ""
    utm_source: str = ""
    utm_medium: str = ""
    utm_campaign: str = ""
    utm_term: str = ""
    utm_content: str = ""
    click_id: str = ""
    click_id_type: str = ""
    channel: str = ""
    browser: str = ""
    os: str = ""
    device: str = ""
    language: str = ""
    ip: str = ""
    campaign_id: str = ""
    creative_id: str = ""
    placement_id: str = ""
    action_id: str = ""
    decision_id: str = ""
    product_id: str = ""
    category: str = ""
    brand: str = ""
    quantity: int = 0
    price_micros: int = 0
    revenue_micros: int = 0
    cost_micros: int = 0
    currency: str = ""
    search: str = ""
    score: float = 0.0
    stock_level: int = 0
    properties: str = ""  # JSON object of what has no field of its own
    stated_time_ms: int = 0  # the client's own clock, uncorrected; 0 where it stated no time that can be read

    @property
    def is_bot(self) -> bool:
        """True where the clean stage found a reason to believe that no person did this."""
        return bool(self.flags & EventFlag.BOT)


class Refused(Struct, array_like=True, frozen=True):
    """One event that was refused: enough to look at it, and to replay it once the cause is mended."""

    row: int  # its place in the collected block
    reason: str
    detail: str  # what was wrong, where, what was expected
    event_id: str
    visitor: str
    received_time_ms: int
    site: str
    protocol: str
    kind: str
    raw: bytes

"""One collected event -> one clean event, or the reason why not.

Cleaning is the visible list STEPS: each step reads the work in hand and either goes on or returns a Drop. To add a
rule, write one function, add it to the list, add its DropReason and its test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import NamedTuple

import msgspec
from pydantic import ValidationError

from pipeline.core.adapt import ADAPTERS, BadPayload, Message
from pipeline.core.channel import channel_of
from pipeline.core.event_time import time_ms as time_ms
from pipeline.core.ids import usable_id
from pipeline.core.raw_json import Drop as Drop
from pipeline.core.raw_json import check_bounds, mended, needs_mending, read_object
from pipeline.core.referrer import read_referrer
from pipeline.core.url import URL_CHARS_MAX, read_url
from pipeline.core.user_agent import BotReason, read_user_agent
from schemas.event import Collected, Context, DropReason, Event, EventFlag, EventType, Protocol
from schemas.incoming import INCOMING, Incoming

MICRO = Decimal("0.000001")
PLACES_CACHED_MAX = 16_384

# an operation on an IntFlag runs Python code and costs a microsecond; on an int, thirty nanoseconds
_TIME_MISSING = int(EventFlag.TIME_MISSING)
_TIME_CLAMPED = int(EventFlag.TIME_CLAMPED)
_SKEW_CORRECTED = int(EventFlag.SKEW_CORRECTED)
_IDENTITY_DROPPED = int(EventFlag.IDENTITY_DROPPED)
_NO_CONSENT = int(EventFlag.NO_CONSENT)
_BOT = int(EventFlag.BOT)
_TYPE_CORRECTED = int(EventFlag.TYPE_CORRECTED)


@dataclass(frozen=True)
class CleanRules:
    """The bounds of cleaning, from the settings. Times in ms."""

    future_max_ms: int
    age_max_ms: int
    skew_min_ms: int
    skew_max_ms: int
    dedupe_window_ms: int


class Work:
    """One event between raw and clean; each step fills in more.

    message: as sent. common: in the common form, types as sent. incoming: the same, of the right types.
    """

    __slots__ = ("collected", "common", "context", "event", "incoming", "message", "rules")
    message: Message
    common: Message
    incoming: Incoming
    event: Event

    def __init__(self, collected: Collected, context: Context, rules: CleanRules) -> None:
        self.collected, self.context, self.rules = collected, context, rules


Step = Callable[[Work], Drop | None]


def read_json(work: Work) -> Drop | None:
    """Decode the raw bytes, within bounds; what strict JSON forbids but senders do is mended, not refused."""
    raw = work.collected.raw
    message = read_object(raw)
    if isinstance(message, Drop):
        return message
    # A decision's log names up to a thousand candidates with their features; delivery has bounds of its own.
    dropped = None if work.context.protocol is Protocol.HERALD else check_bounds(message)
    if dropped is None:
        work.message = mended(message) if needs_mending(raw) else message
    return dropped


_WRAPPING = frozenset({Protocol.SNOWPLOW, Protocol.PIXEL})  # these carry JSON inside of text, not checked until now


def adapt(work: Work) -> Drop | None:
    """Bring the protocol's own words into the common form, and check every type in one place."""
    protocol = work.context.protocol
    try:
        common = work.common = ADAPTERS[protocol](work.message, work.context)
        if protocol in _WRAPPING and "properties" in common:
            dropped = check_bounds(common)
            if dropped is not None:
                return dropped
            common["properties"] = mended(common["properties"])
        work.incoming = INCOMING.validate_python(common)
    except BadPayload as error:
        return Drop(DropReason.BAD_PAYLOAD, str(error))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return Drop(DropReason.BAD_TYPE, f"{first['loc'][0]} = {str(first['input'])[:80]!r}: {first['msg']}")
    return None


_EVENT_TYPES = {kind.value: kind for kind in EventType}


def read_type(work: Work) -> Drop | None:
    """Take the type and fill in what needs no thought. Only delivery decides: a decision from outside is none."""
    collected, context = work.collected, work.context
    stated = work.incoming.get("type", "")
    kind = _EVENT_TYPES.get(stated)
    if kind is None or (kind is EventType.DECISION and context.protocol is not Protocol.HERALD):
        known = ", ".join(name for name in _EVENT_TYPES if name != EventType.DECISION)
        return Drop(DropReason.UNKNOWN_TYPE, f"type = {stated[:80]!r}, expected one of {known}")
    work.event = Event(
        event_id=collected.event_id,
        event_type=kind,
        event_time_ms=context.received_time_ms,
        received_time_ms=context.received_time_ms,
        site=context.site,
        visitor=collected.visitor,
        protocol=context.protocol,
        ip=context.ip,
        flags=_NO_CONSENT if context.no_consent else 0,
    )
    return None


_SAME_NAME = frozenset({
    "name", "title", "language", "campaign_id", "creative_id", "placement_id", "action_id", "decision_id",
    "product_id", "category", "brand", "quantity", "search", "score", "stock_level",
})  # fmt: skip
_MONEY = {"price": "price_micros", "revenue": "revenue_micros", "cost": "cost_micros"}
_TYPED = frozenset({Protocol.SEGMENT, Protocol.HERALD})  # in the other protocols every value is text


def copy_fields(work: Work) -> Drop | None:
    """Copy what keeps its name; money becomes integer micros, exact to the last digit that matters."""
    event, common = work.event, work.common
    is_corrected = False
    for name, value in work.incoming.items():
        if name in _SAME_NAME:
            setattr(event, name, value)
        elif name in _MONEY:
            setattr(event, _MONEY[name], _micros(value))  # type: ignore[arg-type]
        else:
            continue
        is_corrected |= (type(value) is str) is not (type(common[name]) is str)
    if is_corrected and work.context.protocol in _TYPED:
        event.flags |= _TYPE_CORRECTED
    if "currency" in work.incoming:
        event.currency = work.incoming["currency"].upper()
    if work.incoming.get("properties"):
        event.properties = msgspec.json.encode(work.incoming["properties"]).decode()
    return None


def _micros(amount: Decimal) -> int:
    """Round half to even, as IEEE 754 and Decimal do: 0.0000005 is 0, 0.0000015 is 2."""
    return int(amount.quantize(MICRO, ROUND_HALF_EVEN).scaleb(6))


_VISITOR_KEY = {Protocol.SEGMENT: "anonymousId", Protocol.SNOWPLOW: "duid", Protocol.PIXEL: "v"}


def read_identity(work: Work) -> Drop | None:
    """Take the user's id, but not one that names nobody; flag an event where such an id was left out."""
    event, stated = work.event, work.incoming.get("user_id")
    if work.context.no_consent:
        return None
    if stated is not None:
        event.user_id = usable_id(stated) if isinstance(stated, str | int | float) else ""
        if not event.user_id:
            event.flags |= _IDENTITY_DROPPED
    visitor = work.message.get(_VISITOR_KEY.get(work.context.protocol, ""))
    if visitor is not None and visitor != "" and visitor != event.visitor and not usable_id(visitor):
        event.flags |= _IDENTITY_DROPPED
    return None


def need_fields(work: Work) -> Drop | None:
    """Refuse an event without what gives it its meaning."""
    event = work.event
    if event.event_type is EventType.DECISION and not (event.decision_id and event.placement_id):
        return Drop(DropReason.MISSING_FIELD, "decision: decision_id and placement_id are required")
    if event.event_type is EventType.REWARD and not event.decision_id:
        return Drop(DropReason.MISSING_FIELD, "reward: decision_id is required")
    if event.event_type is EventType.STOCK and (not event.product_id or work.incoming.get("stock_level") is None):
        return Drop(DropReason.MISSING_FIELD, "stock: product_id and stock_level are required")  # else it read as 0
    return None


def set_time(work: Work) -> Drop | None:
    """Settle event_time_ms: the client's time, its clock corrected by what it said when sending, inside bounds.

    What the client stated is kept beside it as it was.
    """
    event, rules, received = work.event, work.rules, work.context.received_time_ms
    stated = time_ms(work.incoming.get("event_time"))
    if stated is None:
        event.flags |= _TIME_MISSING
        return None
    event.stated_time_ms = stated
    sent = time_ms(work.incoming.get("sent_time")) or work.context.sent_time_ms
    skew = received - sent if sent else 0
    if rules.skew_min_ms <= abs(skew) <= rules.skew_max_ms:
        stated += skew
        event.flags |= _SKEW_CORRECTED
    if stated > received + rules.future_max_ms:
        event.flags |= _TIME_CLAMPED
        return None
    if stated < received - rules.age_max_ms:
        days = (received - stated) // 86_400_000
        return Drop(
            DropReason.TOO_OLD, f"event_time: {days} days old, expected at most {rules.age_max_ms // 86_400_000}"
        )
    event.event_time_ms = stated
    return None


class Place(NamedTuple):
    """Where an event happened and what led there; a pure function of few texts, so it is remembered."""

    url: str
    host: str
    path: str
    utm_source: str
    utm_medium: str
    utm_campaign: str
    utm_term: str
    utm_content: str
    click_id: str
    click_id_type: str
    referrer: str
    referrer_class: str
    channel: str


@lru_cache(maxsize=PLACES_CACHED_MAX)
def place_of(url: str, referrer: str, utm_source: str, utm_medium: str, utm_campaign: str) -> Place:
    """Return the canonical URL, campaign tags (a stated one wins over the URL's), referrer class and channel."""
    page = read_url(url)
    tagged = msgspec.structs.replace(
        page,
        utm_source=utm_source or page.utm_source,
        utm_medium=utm_medium or page.utm_medium,
        utm_campaign=utm_campaign or page.utm_campaign,
    )
    found = read_referrer(referrer, tagged)
    return Place(
        url=page.url,
        host=page.host,
        path=page.path,
        utm_source=tagged.utm_source,
        utm_medium=tagged.utm_medium,
        utm_campaign=tagged.utm_campaign,
        utm_term=page.utm_term,
        utm_content=page.utm_content,
        click_id=page.click_id,
        click_id_type=page.click_id_type,
        referrer=read_url(referrer).url if referrer else "",
        referrer_class=found.kind.value,
        channel=channel_of(tagged, found).value,
    )


def read_page(work: Work) -> Drop | None:
    """Where it happened, what led there."""
    event, found = work.event, work.incoming
    place = place_of(
        found.get("url", "")[:URL_CHARS_MAX],
        found.get("referrer", "")[:URL_CHARS_MAX],
        found.get("utm_source", ""),
        found.get("utm_medium", ""),
        found.get("utm_campaign", ""),
    )
    event.url, event.host, event.path = place.url, place.host, place.path
    event.utm_source, event.utm_medium, event.utm_campaign = place.utm_source, place.utm_medium, place.utm_campaign
    event.utm_term = found.get("utm_term") or place.utm_term
    event.utm_content = found.get("utm_content") or place.utm_content
    event.click_id, event.click_id_type = place.click_id, place.click_id_type
    event.referrer, event.referrer_class, event.channel = place.referrer, place.referrer_class, place.channel
    return None


_SERVER_CLIENTS = frozenset({BotReason.LIBRARY, BotReason.EMPTY})


def read_device(work: Work) -> Drop | None:
    """Browser, system, device; the bot flag with its reason.

    A library's user agent is a bot on a pixel, which only browsers load; on an API call it is the shop's own server,
    and then says nothing about the visitor.
    """
    event, stated = work.event, work.incoming.get("user_agent", "")
    if work.context.protocol is Protocol.HERALD and not stated:
        return None
    agent = read_user_agent(stated or work.context.user_agent)
    is_server = not stated and work.context.protocol is not Protocol.PIXEL and agent.bot in _SERVER_CLIENTS
    if is_server:
        return None
    event.browser, event.os, event.device = agent.browser, agent.os, agent.device.value
    if agent.bot is not None:
        event.flags |= _BOT
        event.bot_reason = agent.bot.value
    return None


STEPS: tuple[Step, ...] = (
    read_json,
    adapt,
    read_type,
    copy_fields,
    read_identity,
    need_fields,
    set_time,
    read_page,
    read_device,
)


def clean(collected: Collected, context: Context, rules: CleanRules) -> Event | Drop:
    """Return the clean event, or why it is refused. Never raises for anything that a sender can send."""
    if collected.refused:
        return _refused_at_door(collected.refused)
    work = Work(collected, context, rules)
    for step in STEPS:
        dropped = step(work)
        if dropped is not None:
            return dropped
    return work.event


def _refused_at_door(reason: str) -> Drop:
    """A collector newer than we are may know reasons that we do not."""
    if reason in list(DropReason):
        return Drop(DropReason(reason), "refused by the collector")
    return Drop(DropReason.BAD_PAYLOAD, f"refused by the collector as {reason[:80]!r}, a reason unknown here")

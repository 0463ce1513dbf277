"""One collected event -> one clean event, or the reason why not.

Cleaning is the visible list STEPS: each step reads the work in hand and either goes on or returns a Drop. To add a
rule, write one function, add it to the list, add its DropReason and its test.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from pydantic import ValidationError

from pipeline.core.adapt import ADAPTERS, BadPayload, Message
from pipeline.core.channel import channel_of
from pipeline.core.referrer import read_referrer
from pipeline.core.url import URL_CHARS_MAX, read_url
from pipeline.core.user_agent import BotReason, read_user_agent
from schemas.event import Collected, Context, DropReason, Event, EventFlag, EventType, Protocol
from schemas.incoming import INCOMING, Incoming

DEPTH_MAX = 16
KEYS_MAX = 256
KEY_BYTES_MAX = 128
VALUES_MAX = 5_000
MICROS = 1_000_000
PLACES_CACHED_MAX = 16_384
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECONDS_UNTIL = 100_000_000_000  # a smaller number is unix time in s (until the year 5138), a larger one in ms


class Drop(NamedTuple):
    """Expected bad data, as a value: why, and what was wrong, where, what was expected."""

    reason: DropReason
    detail: str


@dataclass(frozen=True)
class CleanRules:
    """The bounds of cleaning, from the settings. Times in ms."""

    future_max_ms: int
    age_max_ms: int
    skew_min_ms: int
    skew_max_ms: int
    dedupe_window_ms: int


@dataclass
class Work:
    """One event between raw and clean; each step fills in more."""

    collected: Collected
    context: Context
    rules: CleanRules
    message: Message = field(default_factory=dict)
    incoming: Incoming = field(default_factory=lambda: Incoming())
    event: Event = field(default_factory=lambda: Event("", EventType.CUSTOM, 0, 0, ""))


Step = Callable[[Work], Drop | None]


def read_json(work: Work) -> Drop | None:
    """Decode the raw bytes. What strict JSON forbids but senders do (a lone surrogate) is mended, not refused."""
    raw = work.collected.raw
    try:
        message = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = _read_lenient(raw)
    if isinstance(message, Drop):
        return message
    if not isinstance(message, dict):
        return Drop(DropReason.NOT_AN_OBJECT, f"event: found {type(message).__name__}, expected a JSON object")
    work.message = message
    return None


def _read_lenient(raw: bytes) -> object:
    try:
        text = raw.decode("utf-8", "replace")
        value = json.loads(text, parse_constant=_refuse_constant)
        return json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
    except _NotFinite as error:
        return Drop(DropReason.BAD_TYPE, f"event: {error}, expected a finite number")
    except RecursionError:
        return Drop(DropReason.TOO_COMPLEX, f"event: nested too deep, expected at most {DEPTH_MAX} levels")
    except ValueError as error:
        finite = "Out of range float" not in str(error)
        return Drop(DropReason.BAD_JSON if finite else DropReason.BAD_TYPE, f"event: {error}, expected JSON")


class _NotFinite(Exception):
    pass


def _refuse_constant(name: str) -> float:
    raise _NotFinite(name)


def check_complexity(work: Work) -> Drop | None:
    """Refuse what would cost too much further on. Counting brackets and colons first spares most events the walk."""
    raw = work.collected.raw
    opened = raw.count(b"{") + raw.count(b"[")
    if opened <= DEPTH_MAX and raw.count(b":") <= KEYS_MAX and raw.count(b",") < KEYS_MAX:
        long_key = next((key for key in work.message if len(key) > KEY_BYTES_MAX), None)
        return None if long_key is None and len(raw) < 4_096 else _walk(work.message)
    return _walk(work.message)


def _walk(message: object) -> Drop | None:
    level: list[Any] = [message]
    values = keys = 0
    for depth in range(1, DEPTH_MAX + 2):
        if not level:
            return None
        if depth > DEPTH_MAX:
            break
        keys += sum(len(node) for node in level if isinstance(node, dict))
        for node in level:
            if isinstance(node, dict) and any(len(key.encode("utf-8", "replace")) > KEY_BYTES_MAX for key in node):
                return Drop(DropReason.TOO_COMPLEX, f"event: a key is longer than {KEY_BYTES_MAX} bytes")
        children = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
        values += len(children)
        if keys > KEYS_MAX or values > VALUES_MAX:
            found = f"{keys} keys and {values} values"
            return Drop(DropReason.TOO_COMPLEX, f"event: {found}, expected at most {KEYS_MAX} and {VALUES_MAX}")
        level = [child for child in children if isinstance(child, dict | list) and child]
    return Drop(DropReason.TOO_COMPLEX, f"event: nested deeper than {DEPTH_MAX} levels")


def adapt(work: Work) -> Drop | None:
    """Bring the protocol's own words into the common form, and check every type in one place."""
    try:
        common = ADAPTERS[work.context.protocol](work.message, work.context)
        work.incoming = INCOMING.validate_python(common)
    except BadPayload as error:
        return Drop(DropReason.BAD_PAYLOAD, str(error))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return Drop(DropReason.BAD_TYPE, f"{place} = {str(first['input'])[:80]!r}: {first['msg']}")
    return None


def read_type(work: Work) -> Drop | None:
    """Take the type and fill in what needs no thought."""
    found, collected, context = work.incoming, work.collected, work.context
    try:
        kind = EventType(found.get("type", ""))
    except ValueError:
        return Drop(
            DropReason.UNKNOWN_TYPE, f"type = {found.get('type', '')!r}, expected one of {', '.join(EventType)}"
        )
    work.event = Event(
        event_id=collected.event_id,
        event_type=kind,
        event_time_ms=context.received_time_ms,
        received_time_ms=context.received_time_ms,
        site=context.site,
        visitor=collected.visitor,
        protocol=context.protocol,
        ip=context.ip,
        flags=EventFlag.NO_CONSENT if context.no_consent else EventFlag.NONE,
    )
    return None


_SAME_NAME = (
    "name", "user_id", "title", "language", "campaign_id", "creative_id", "placement_id", "action_id", "decision_id",
    "product_id", "category", "brand", "quantity", "search", "score", "stock_level",
)  # fmt: skip
_MONEY = (("price", "price_micros"), ("revenue", "revenue_micros"), ("cost", "cost_micros"))


def copy_fields(work: Work) -> Drop | None:
    """Copy what keeps its name; money becomes integer micros, exact to the last digit that matters."""
    event, found = work.event, work.incoming
    for name in _SAME_NAME:
        if name in found:
            setattr(event, name, found[name])  # type: ignore[literal-required]
    for theirs, ours in _MONEY:
        if theirs in found:
            setattr(event, ours, _micros(found[theirs]))  # type: ignore[literal-required]
    if "currency" in found:
        event.currency = found["currency"].upper()
    if work.context.no_consent:
        event.user_id = ""
    if found.get("properties"):
        event.properties = msgspec.json.encode(found["properties"]).decode()
    return None


def _micros(amount: Decimal) -> int:
    return int((amount * MICROS).to_integral_value())


def need_fields(work: Work) -> Drop | None:
    """Refuse an event without what gives it its meaning."""
    event = work.event
    if event.event_type is EventType.DECISION and not (event.decision_id and event.placement_id):
        return Drop(DropReason.MISSING_FIELD, "decision: decision_id and placement_id are required")
    if event.event_type is EventType.REWARD and not event.decision_id:
        return Drop(DropReason.MISSING_FIELD, "reward: decision_id is required")
    return None


def set_time(work: Work) -> Drop | None:
    """Settle event_time_ms: the client's time, its clock corrected by what it said when sending, inside bounds."""
    event, rules, received = work.event, work.rules, work.context.received_time_ms
    stated = time_ms(work.incoming.get("event_time"))
    if stated is None:
        event.flags |= EventFlag.TIME_MISSING
        return None
    sent = time_ms(work.incoming.get("sent_time")) or work.context.sent_time_ms
    skew = received - sent if sent else 0
    if rules.skew_min_ms <= abs(skew) <= rules.skew_max_ms:
        stated += skew
        event.flags |= EventFlag.SKEW_CORRECTED
    if stated > received + rules.future_max_ms:
        event.flags |= EventFlag.TIME_CLAMPED
        return None
    if stated < received - rules.age_max_ms:
        days = (received - stated) // 86_400_000
        return Drop(
            DropReason.TOO_OLD, f"event_time: {days} days old, expected at most {rules.age_max_ms // 86_400_000}"
        )
    event.event_time_ms = stated
    return None


def time_ms(stated: object) -> int | None:
    """Return ms since 1970 UTC of an ISO 8601 text or a unix time in s or ms; None for what is neither.

    A time without zone is UTC: the log must not depend on where it is read.
    """
    if isinstance(stated, str):
        try:
            moment = datetime.fromisoformat(stated)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            elapsed = moment - EPOCH
            return (elapsed.days * 86_400 + elapsed.seconds) * 1000 + elapsed.microseconds // 1000
        except (ValueError, OverflowError):
            stated = _number(stated)
    if not isinstance(stated, int | float) or isinstance(stated, bool) or not math.isfinite(stated) or stated <= 0:
        return None
    ms = int(stated * 1000) if stated < SECONDS_UNTIL else int(stated)
    return ms if ms < 1000 * SECONDS_UNTIL else None


def _number(text: str) -> float | int | None:
    try:
        return int(text) if text.isdecimal() and len(text) < 20 else float(text)
    except ValueError:
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
        event.flags |= EventFlag.BOT
        event.bot_reason = agent.bot.value
    return None


STEPS: tuple[Step, ...] = (
    read_json,
    check_complexity,
    adapt,
    read_type,
    copy_fields,
    need_fields,
    set_time,
    read_page,
    read_device,
)


def clean(collected: Collected, context: Context, rules: CleanRules) -> Event | Drop:
    """Return the clean event, or why it is refused. Never raises for anything that a sender can send."""
    if collected.refused:
        return Drop(DropReason(collected.refused), "refused by the collector")
    work = Work(collected, context, rules)
    for step in STEPS:
        dropped = step(work)
        if dropped is not None:
            return dropped
    return work.event

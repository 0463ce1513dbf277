"""The Snowplow tracker protocol: POST of many events as flat maps of text, or one event in a query string.

Base64 fields are unpacked before masking: what masking cannot see would carry addresses into the log.
Source: https://docs.snowplow.io/docs/events/going-deeper/http-requests/ ; `aid` (app id) is our write key.
"""

from base64 import urlsafe_b64decode
from typing import Any

import msgspec
from msgspec import Struct

from pipeline.collector.body import decode, encode_mended, has_damage, mend, strip_bom
from pipeline.collector.items import SNOWPLOW_IDENTITY, refuse, without_identity
from pipeline.collector.query import read_query
from pipeline.collector.request import Intake, Item, Request, Rules
from pipeline.core.event_time import time_ms
from pipeline.core.ids import usable_id
from pipeline.core.mask import mask
from pipeline.http.message import Refusal
from schemas.event import Context, DropReason, Protocol

BASE64_FIELDS = (("ue_px", "ue_pr"), ("cx", "co"))
JSON_FIELDS = ("ue_pr", "co")

Message = dict[str, Any]


class _Payload(Struct):
    data: list[msgspec.Raw] | None = None


_payload = msgspec.json.Decoder(_Payload)
_message = msgspec.json.Decoder(dict[str, Any])
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode


class _Found(Struct):
    """One event before masking: its map as JSON, and what was wrong with it. site: "" for an unknown app."""

    raw: bytes
    key: str = ""
    site: str = ""
    event_id: str = ""
    sent_time_ms: int = 0
    refused: DropReason | None = None


def read_post(request: Request, rules: Rules) -> Intake:
    """Return the events of a POST. Raises Refusal 400, 401 or 422: trackers resend for ever on 404 and 413."""
    body = strip_bom(request.body)
    raws = _split(body)
    if not raws:
        raise Refusal(400, "empty", "the request holds no events: expected a list under `data`")
    if len(raws) > rules.batch_events_max:
        raise Refusal(422, "too_many", f"{len(raws)} events, expected at most {rules.batch_events_max}")
    return _intake(request, rules, [_read_raw(raw, is_broken, rules) for raw, is_broken in raws])


def read_get(request: Request, rules: Rules) -> Intake:
    """Return the one event of a query string. Raises Refusal as read_post does."""
    message: Message = dict(read_query(request.query))
    return _intake(request, rules, [_read_message(message, rules)])


def _split(body: bytes) -> list[tuple[bytes, bool]]:
    """Return (bytes of each event, holds NaN and the like)."""
    if not has_damage(body):
        try:
            payload: _Payload = decode(body, _payload)
        except msgspec.DecodeError:
            pass  # the lenient way tells what is wrong
        else:
            return [(bytes(raw), False) for raw in payload.data or ()]
    value = mend(body)
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, list):
        raise Refusal(400, "bad_json", "expected an object with a list under `data`")
    try:
        return [encode_mended(item) for item in data]
    except RecursionError:
        raise Refusal(400, "too_complex", "the JSON nests too deep") from None


def _read_raw(raw: bytes, is_broken: bool, rules: Rules) -> _Found:
    try:
        message = _message.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return _Found(raw, refused=DropReason.NOT_AN_OBJECT)
    found = _read_message(message, rules)
    if is_broken:
        found.refused = DropReason.BAD_TYPE
    return found


def _read_message(message: Message, rules: Rules) -> _Found:
    aid = message.get("aid")
    key = aid if isinstance(aid, str) else ""
    found = _Found(b"", key, rules.keys.site(key), usable_id(message.get("eid")), time_ms(message.get("stm")) or 0)
    if any(isinstance(message.get(name), dict | list | bool) for name in ("eid", "duid", "uid", "nuid")):
        found.refused = DropReason.BAD_TYPE
    try:
        _open_base64(message)
    except (ValueError, RecursionError):  # msgspec's and binascii's errors are ValueErrors
        found.refused = DropReason.BAD_PAYLOAD
        for name, _ in BASE64_FIELDS:
            message.pop(name, None)  # unreadable, so it cannot be masked and must not be kept
        for name in JSON_FIELDS:
            message.pop(name, None)
    found.raw = _encode(message)
    return found


def _open_base64(message: Message) -> None:
    """Put plain JSON in place of base64, and write it anew: an escape inside of escaped text would hide an address."""
    for packed, plain in BASE64_FIELDS:
        text = message.pop(packed, None)
        if text:
            padded = str(text).replace("+", "-").replace(" ", "-").replace("/", "_").rstrip("=")
            message[plain] = urlsafe_b64decode(padded + "=" * (-len(padded) % 4)).decode("utf-8", "replace")
    for plain in JSON_FIELDS:
        value = message.get(plain)
        if value is not None:
            message[plain] = _encode(_any.decode(value) if isinstance(value, str) else value).decode()


def _intake(request: Request, rules: Rules, found: list[_Found]) -> Intake:
    """Mask all events at once and make items of them.

    An event whose `aid` is no key of ours belongs to no site and is not stored; where all are such, the request is
    refused with 401, which every Snowplow tracker takes as final.
    """
    first = next((one for one in found if one.site), None)
    if first is None:
        raise Refusal(401, "unknown_key", "no event has a known write key as its app id (`aid`)")
    for one in found:
        if one.refused is DropReason.NOT_AN_OBJECT:
            one.key, one.site = first.key, first.site  # it names no app itself, but came with events of this one
    unknown = {place: one.event_id for place, one in enumerate(found) if not one.site}
    masked = _raws.decode(mask(b"[" + b",".join(one.raw for one in found) + b"]", rules.mask_key))
    contexts: dict[tuple[str, int], Context] = {}
    intake = Intake([], unknown=unknown)
    for place, (one, raw) in enumerate(zip(found, masked, strict=True)):
        if place not in unknown:
            context = contexts.get((one.site, one.sent_time_ms))
            if context is None:
                context = contexts[one.site, one.sent_time_ms] = _context(request, one)
            intake.items.append(_item(request, rules, intake, context, one, bytes(raw)))
            intake.keys[one.key] = intake.keys.get(one.key, 0) + 1
    return intake


def _context(request: Request, one: _Found) -> Context:
    return Context(
        protocol=Protocol.SNOWPLOW,
        kind=request.kind,
        site=one.site,
        received_time_ms=request.received_time_ms,
        sent_time_ms=one.sent_time_ms,
        ip="" if request.no_consent else request.ip,
        user_agent=request.user_agent,
        referrer=request.referrer,
        no_consent=request.no_consent,
    )


def _item(request: Request, rules: Rules, intake: Intake, context: Context, one: _Found, raw: bytes) -> Item:
    if one.refused is DropReason.NOT_AN_OBJECT:
        return refuse(context, one.refused, raw, rules.event_bytes_max)
    message = _message.decode(raw)  # again: masking may have changed the ids
    event_id = usable_id(message.get("eid")) if one.refused is not DropReason.BAD_TYPE else ""
    if context.no_consent:
        left = without_identity(raw, SNOWPLOW_IDENTITY)
        raw, one.refused = left or b"", one.refused if left is not None else DropReason.BAD_PAYLOAD
    if one.refused is None and len(raw) > rules.event_bytes_max:
        one.refused = DropReason.TOO_LARGE
    if one.refused is not None:
        return refuse(context, one.refused, raw, rules.event_bytes_max, event_id)
    return Item(context, event_id, "" if context.no_consent else _visitor(message, request, intake, rules), raw)


def _visitor(message: Message, request: Request, intake: Intake, rules: Rules) -> str:
    """The tracker's own domain id, then our cookie, then the user id, then a new cookie."""
    found = usable_id(message.get("duid")) or usable_id(message.get("nuid")) or request.cookie
    found = found or usable_id(message.get("uid"))
    if not found:
        found = intake.new_visitor = intake.new_visitor or rules.new_visitor()
    return str(found)

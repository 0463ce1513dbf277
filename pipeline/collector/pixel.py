"""Our pixel, `GET /p.gif`: one event in short keys. The table of keys is the documentation.

The keys of the event itself come from the clean stage's table, so that the two cannot drift apart.
"""

from collections.abc import Mapping

import msgspec

from pipeline.collector.items import PIXEL_IDENTITY, refuse, without_identity
from pipeline.collector.query import read_query
from pipeline.collector.request import Intake, Item, Request, Rules
from pipeline.core.adapt import PIXEL_FIELDS
from pipeline.core.event_time import time_ms
from pipeline.core.ids import usable_id
from pipeline.core.mask import mask
from pipeline.http.message import Refusal
from schemas.event import Context, DropReason, Protocol

# 1 x 1, transparent, 43 bytes
GIF = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")

OWN_KEYS: Mapping[str, str] = {
    "k": "write key (needed)",
    "v": "visitor id; without it our cookie is used",
    "id": "event id: the same id again is stored once",
    "c": "consent: 0 = count without any id",
    "p": "further properties, a JSON object",
}
KEYS: Mapping[str, str] = {**OWN_KEYS, **PIXEL_FIELDS}
"""Every key of the pixel and what it means (for the event's own: the field that it becomes)."""

_encode = msgspec.json.Encoder().encode
_texts = msgspec.json.Decoder(dict[str, str])
_object = msgspec.json.Decoder(dict[str, object])


def read(request: Request, rules: Rules) -> Intake:
    """Return the one event of a pixel request. Raises Refusal 401 without a known key; all else wrong is an item."""
    message = read_query(request.query)
    key = message.pop("k", "")
    site = rules.keys.site(key)
    if not site:
        raise Refusal(401, "unknown_key", "no known write key: expected it as k=")
    no_consent = request.no_consent or message.get("c") == "0"
    context = _context(request, site, time_ms(message.get("st")) or 0, no_consent)
    refused = _open_properties(message)
    plain = _encode(message)
    raw = mask(plain, rules.mask_key)
    if raw is not plain:
        message = _texts.decode(raw)  # ids may hold an address too
    event_id = usable_id(message.get("id"))
    if refused is None and len(raw) > rules.event_bytes_max:
        refused = DropReason.TOO_LARGE
    if no_consent:
        left = without_identity(raw, PIXEL_IDENTITY)
        raw, refused = left or b"", refused if left is not None else DropReason.BAD_PAYLOAD
    if refused is not None:
        return Intake([refuse(context, refused, raw, rules.event_bytes_max, event_id)], keys={key: 1})
    if no_consent:
        return Intake([Item(context, event_id, "", raw)], keys={key: 1})
    visitor, new_visitor = _visitor(message, request.cookie, rules)
    return Intake([Item(context, event_id, visitor, raw)], new_visitor, keys={key: 1})


def _open_properties(message: dict[str, str]) -> DropReason | None:
    """Write `p` anew as plain JSON, so that no escape hides an address; drop what cannot be read or masked."""
    text = message.get("p")
    if not text:
        return None
    try:
        message["p"] = _encode(_object.decode(text)).decode()
    except (msgspec.DecodeError, RecursionError):
        del message["p"]
        return DropReason.BAD_PAYLOAD
    return None


def _visitor(message: dict[str, str], cookie: str, rules: Rules) -> tuple[str, str]:
    """Return (visitor id, the same id if it is new and must be set as cookie)."""
    known = usable_id(message.get("v")) or cookie
    if known:
        return known, ""
    made = rules.new_visitor()
    return made, made


def _context(request: Request, site: str, sent_time_ms: int, no_consent: bool) -> Context:
    return Context(
        protocol=Protocol.PIXEL,
        kind=request.kind,
        site=site,
        received_time_ms=request.received_time_ms,
        sent_time_ms=sent_time_ms,
        ip="" if no_consent else request.ip,
        user_agent=request.user_agent,
        referrer=request.referrer,
        no_consent=no_consent,
    )

"""The Segment HTTP API: `/v1/batch`, or one event a request. Only the envelope and the ids are decoded.

Source: https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/ ; what SDKs really send was seen
on the wire (gzip without a header, text/plain, explicit nulls, NaN).
"""

from base64 import b64decode
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from pipeline.collector.body import NotFinite, decode, encode_mended, has_damage, mend, strip_bom
from pipeline.collector.identity import WriteKeys
from pipeline.collector.items import refuse, without_identity
from pipeline.collector.request import Intake, Item, Request, Rules
from pipeline.core.event_time import time_ms
from pipeline.core.ids import usable_id
from pipeline.core.mask import mask
from pipeline.http.message import Refusal
from schemas.event import Context, DropReason, Protocol

Id = str | int | float | None
OBJECT = ord("{")

SHORT_KINDS = {
    "i": "identify", "t": "track", "p": "page", "s": "screen", "g": "group", "a": "alias", "m": "batch", "b": "batch",
}  # fmt: skip


class _Envelope(Struct):
    batch: list[msgspec.Raw] | None = None
    writeKey: Any = None  # noqa: N815 - the protocol's name
    sentAt: Any = None  # noqa: N815


class _Outer(Struct):
    consent: Any = None


class _Ids(Struct):
    messageId: Id = None  # noqa: N815
    anonymousId: Id = None  # noqa: N815
    userId: Id = None  # noqa: N815


class _Consent(Struct):
    context: _Outer | None = None


_envelope = msgspec.json.Decoder(_Envelope)
_ids = msgspec.json.Decoder(_Ids)
_consent = msgspec.json.Decoder(_Consent)


def read(request: Request, rules: Rules) -> Intake:
    """Return the events of one request. kind `batch` has many under `batch`; every other kind is one event.

    Raises Refusal: 401 without a known key, 400 for what is no JSON object or has no events, 413 for too many events.
    """
    body = strip_bom(request.body)
    is_batch = request.kind == "batch"
    raws, envelope, broken = _split(body, is_batch, rules.mask_key)
    key, site = _authorise(request, envelope, body, rules.keys)
    if not raws:
        raise Refusal(400, "empty", "the request holds no events: expected a list under `batch`")
    if len(raws) > rules.batch_events_max:
        raise Refusal(413, "too_many", f"{len(raws)} events, expected at most {rules.batch_events_max}")
    context = _context(request, site, envelope, no_consent=request.no_consent)
    anonymous = context
    if not request.no_consent and b'"consent"' in body:
        anonymous = _context(request, site, envelope, no_consent=True)
    intake = _read_items(raws, broken, request, rules, (context, anonymous))
    intake.keys[key] = len(raws)
    return intake


SAMPLE_BYTES_MAX = 4_096  # of a request that is refused whole: a sample to look at, nothing to replay
KEPT_REFUSALS = {
    "bad_json": DropReason.BAD_JSON, "too_complex": DropReason.TOO_COMPLEX, "too_many": DropReason.TOO_LARGE,
}  # fmt: skip


def keep_refused(request: Request, rules: Rules, refusal: Refusal) -> Intake | None:
    """Return a refused request as one refused event, its body masked and cut short, so that it can be looked at.

    None where the reason is not the body's, or where no known key in the headers says whose it is.
    """
    reason, (_, site) = KEPT_REFUSALS.get(refusal.code), _header_key(request, rules.keys)
    if reason is None or not site:
        return None
    context = _context(request, site, _Envelope(), no_consent=request.no_consent)
    sample = mask(request.body[:SAMPLE_BYTES_MAX], rules.mask_key)
    return Intake([refuse(context, reason, sample, SAMPLE_BYTES_MAX)])


def _split(body: bytes, is_batch: bool, mask_key: bytes) -> tuple[list[bytes], _Envelope, frozenset[int]]:
    """Return (masked bytes of each event, envelope, places of events that hold NaN and the like)."""
    if not has_damage(body):
        masked = mask(body, mask_key)
        try:
            envelope: _Envelope = decode(masked, _envelope)
        except msgspec.DecodeError:
            pass  # the lenient way tells what is wrong
        else:
            raws = [bytes(raw) for raw in envelope.batch or ()] if is_batch else [masked.strip()]
            return raws, envelope, frozenset()
    return _split_mended(mend(body), is_batch, mask_key)


def _split_mended(value: Any, is_batch: bool, mask_key: bytes) -> tuple[list[bytes], _Envelope, frozenset[int]]:
    if not isinstance(value, dict):
        raise Refusal(400, "bad_json", f"the body is a JSON {type(value).__name__}, expected an object")
    found = value.get("batch")
    if is_batch and not isinstance(found, list | None):
        raise Refusal(400, "bad_json", f"`batch` is a JSON {type(found).__name__}, expected a list")
    items = (found or []) if is_batch else [value]
    try:
        encoded = [encode_mended(item) for item in items]
    except RecursionError:
        raise Refusal(400, "too_complex", "the JSON nests too deep") from None
    key, sent = value.get("writeKey"), value.get("sentAt")
    envelope = _Envelope(writeKey=key, sentAt=None if isinstance(sent, NotFinite) else sent)
    broken = frozenset(place for place, (_, is_broken) in enumerate(encoded) if is_broken)
    return [mask(raw, mask_key) for raw, _ in encoded], envelope, broken


def _authorise(request: Request, envelope: _Envelope, body: bytes, keys: WriteKeys) -> tuple[str, str]:
    """Return (key, site). The key is the Basic user, or X-Write-Key, or `writeKey` in the body, or in the query."""
    given, site = _header_key(request, keys)
    if given is None:
        if isinstance(envelope.writeKey, str):
            given = envelope.writeKey
            if not keys.site(given) and body:  # a key that masking took for something else
                given = _key_unmasked(body) or given
        elif request.query.startswith("writeKey="):
            given = request.query[9:].partition("&")[0]
        site = keys.site(given) if given else ""
    if not site:
        raise Refusal(401, "unknown_key", "no known write key: expected Basic auth, X-Write-Key or `writeKey`")
    return given or "", site


def _header_key(request: Request, keys: WriteKeys) -> tuple[str | None, str]:
    """Return (key in the headers, its site); None where they hold no key. Found once for all with the same headers."""
    found: tuple[str | None, str] | None = request.notes.get("header_key")
    if found is None:
        key = _read_header_key(request)
        found = request.notes["header_key"] = key, keys.site(key) if key else ""
    return found


def _read_header_key(request: Request) -> str | None:
    authorization = request.header("authorization")
    if authorization[:6].lower() == "basic ":
        try:
            return b64decode(authorization[6:].strip()).decode().partition(":")[0]
        except ValueError:
            return ""
    return request.header("x-write-key").partition(":")[0] or None


def _key_unmasked(body: bytes) -> str:
    try:
        found: _Envelope = decode(body, _envelope)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a damaged body was mended, but only a copy of it
        return ""
    return found.writeKey if isinstance(found.writeKey, str) else ""


def _context(request: Request, site: str, envelope: _Envelope, no_consent: bool) -> Context:
    return Context(
        protocol=Protocol.SEGMENT,
        kind=request.kind,
        site=site,
        received_time_ms=request.received_time_ms,
        sent_time_ms=time_ms(envelope.sentAt) or 0,
        ip="" if no_consent else request.ip,
        user_agent=request.user_agent,
        referrer=request.referrer,
        no_consent=no_consent,
    )


def _read_items(
    raws: Iterable[bytes], broken: frozenset[int], request: Request, rules: Rules, contexts: tuple[Context, Context]
) -> Intake:
    context, anonymous = contexts
    cookie = request.cookie if request.header("origin") else ""  # a browser's; a server's batch is of many visitors
    items: list[Item] = []
    for place, raw in enumerate(raws):
        if raw[0] != OBJECT:
            items.append(refuse(context, DropReason.NOT_AN_OBJECT, raw, rules.event_bytes_max))
        elif place in broken:
            items.append(refuse(context, DropReason.BAD_TYPE, raw, rules.event_bytes_max))
        else:
            items.append(_read_item(raw, cookie, rules.event_bytes_max, context, anonymous))
    return Intake(items)


def _read_item(raw: bytes, cookie: str, event_bytes_max: int, context: Context, anonymous: Context) -> Item:
    try:
        ids = _ids.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return refuse(context, DropReason.BAD_TYPE, raw, event_bytes_max)
    visitor, event_id = usable_id(ids.anonymousId) or usable_id(ids.userId) or cookie, usable_id(ids.messageId)
    if context.no_consent or (anonymous is not context and b'"consent"' in raw and _refuses_consent(raw)):
        left = without_identity(raw)
        if left is None:
            return refuse(anonymous, DropReason.BAD_TYPE, raw, event_bytes_max, event_id)
        context, visitor, raw = anonymous, "", left
    if len(raw) > event_bytes_max:
        return refuse(context, DropReason.TOO_LARGE, raw, event_bytes_max, event_id)
    return Item(context, event_id, visitor, raw)


def _refuses_consent(raw: bytes) -> bool:
    """True where context.consent is false, or all of its categoryPreferences are."""
    try:
        outer = _consent.decode(raw).context
    except (msgspec.DecodeError, RecursionError):
        return False
    consent = outer.consent if outer is not None else None
    if isinstance(consent, dict):
        preferences = consent.get("categoryPreferences")
        return isinstance(preferences, dict) and bool(preferences) and not any(preferences.values())
    return consent is False

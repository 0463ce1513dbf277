"""What every protocol does with one event: the cheap checks at the door, and taking ids out where there is no consent.

What is refused here still travels, with its raw bytes: the clean stage counts it and keeps it in `bad`.
"""

from typing import Any

import msgspec

from pipeline.collector.request import Item
from schemas.event import Context, DropReason

# Who somebody is, under any of the names that trackers use, at any depth. Compared in lower case without _ and -.
IDENTITY_KEYS = frozenset({
    "anonymousid", "userid", "previousid", "groupid", "distinctid", "visitorid", "clientid", "externalids",
    "externalid", "traits", "email", "phone", "firstname", "lastname", "fullname", "username", "customerid",
    "accountid", "ip", "ipaddress", "advertisingid", "idfa", "idfv", "gaid", "deviceid", "devicetoken", "sessionid",
    "firsteventid", "networkuserid", "domainuserid",
})  # fmt: skip
SNOWPLOW_IDENTITY = frozenset({"duid", "uid", "nuid", "tnuid", "fuid", "sid", "vid", "ip"})
PIXEL_IDENTITY = frozenset({"v", "uid"})

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def refuse(context: Context, reason: DropReason, raw: bytes, raw_bytes_max: int, event_id: str = "") -> Item:
    """Return an item that is refused already, with its raw bytes, so that it can be replayed once the cause is mended.

    raw_bytes_max: what is longer is cut, since it was too large for an event. Without consent the bytes lose their ids
    first, and are not kept at all where they cannot be read.
    """
    if context.no_consent:
        raw = without_identity(raw) or b""
    return Item(context, event_id, "", raw[:raw_bytes_max], reason.value)


def without_identity(raw: bytes, own_keys: frozenset[str] = frozenset()) -> bytes | None:
    """Return an event's JSON without ids, traits and addresses at any depth, also in JSON inside of text.

    own_keys: names that mean identity at the top level of this protocol. None where the JSON cannot be read: it is
    damaged, nests too deep, or holds a number that no double can.
    """
    try:
        message = _decode(raw)
        if isinstance(message, dict):
            message = {key: value for key, value in message.items() if key not in own_keys}
        return _encode(_purge(message))
    except (msgspec.DecodeError, RecursionError):
        return None


def _purge(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _purge(inner) for key, inner in value.items() if not _is_identity(key)}
    if isinstance(value, list):
        return [_purge(inner) for inner in value]
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            inner = _decode(value)
        except msgspec.DecodeError:
            return value
        return _encode(_purge(inner)).decode()
    return value


def _is_identity(key: str) -> bool:
    return key.lower().replace("_", "").replace("-", "") in IDENTITY_KEYS

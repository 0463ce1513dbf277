"""The first steps of cleaning: an event's bytes -> a JSON object that is safe and cheap to work with.

What strict JSON forbids but senders do (lone surrogates, wrong UTF-8) is mended; what JSON cannot hold (NaN, 1e999) is
refused; so is what would cost too much further on.
"""

import json
import math
import re
from itertools import repeat
from typing import Any, NamedTuple

import msgspec

from schemas.event import DropReason

DEPTH_MAX = 16
KEYS_MAX = 256
KEY_BYTES_MAX = 128
VALUES_MAX = 5_000
INT_MAX = 2**63 - 1
PROTO_KEY = "__proto__"  # sets the prototype of whatever object a script copies the properties into

_PROTO_BYTES = PROTO_KEY.encode()
_decode = msgspec.json.Decoder().decode
_SURROGATES = re.compile("[\ud800-\udfff]")
_SURELY_SHORT_CHARS = KEY_BYTES_MAX // 4


class Drop(NamedTuple):
    """Expected bad data, as a value: why, and what was wrong, where, what was expected."""

    reason: DropReason
    detail: str


def read_object(raw: bytes) -> dict[str, Any] | Drop:
    """Return the JSON object in raw. Of equal keys the last one wins. Raises nothing.

    Wrong UTF-8 and lone surrogates become U+FFFD: in the same way in every replay.
    """
    value: object
    try:
        value = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _read_lenient(raw)
    if isinstance(value, dict | Drop):
        return value
    return Drop(DropReason.NOT_AN_OBJECT, f"event: found {type(value).__name__}, expected a JSON object")


class _NotFinite(Exception):
    pass


def _read_lenient(raw: bytes) -> object:
    try:
        text = raw.decode("utf-8", "replace")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
        return _decode(_SURROGATES.sub("\ufffd", json.dumps(value, ensure_ascii=False)).encode())
    except _NotFinite as error:
        return Drop(DropReason.BAD_TYPE, f"event: {error}, expected a finite number of at most 64 bits")
    except RecursionError:
        return Drop(DropReason.TOO_COMPLEX, f"event: nested too deep, expected at most {DEPTH_MAX} levels")
    except ValueError as error:
        return Drop(DropReason.BAD_JSON, f"event: {error}, expected JSON")


def _refuse(text: str) -> float:
    raise _NotFinite(text[:40])


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= 20 else _refuse(text)


def check_bounds(message: object) -> Drop | None:
    """Refuse what nests too deep, has too many or too long keys, too many values, or numbers beyond 64 bits."""
    keys = values = 0
    level: list[Any] = [message]
    for _ in range(DEPTH_MAX):
        deeper: list[Any] = []
        for node in level:
            values += len(node)
            is_object = type(node) is dict
            keys += len(node) if is_object else 0
            for key, value in node.items() if is_object else zip(repeat(""), node):
                if len(key) > _SURELY_SHORT_CHARS and len(key.encode("utf-8", "replace")) > KEY_BYTES_MAX:
                    return Drop(DropReason.TOO_COMPLEX, f"event: a key is longer than {KEY_BYTES_MAX} bytes")
                kind = type(value)
                if kind is str:
                    continue
                if kind is dict or kind is list:
                    deeper.append(value)
                elif kind is int and not -INT_MAX <= value <= INT_MAX:
                    return Drop(DropReason.BAD_TYPE, f"event: {str(value)[:40]}, expected a number of at most 64 bits")
        if keys > KEYS_MAX or values > VALUES_MAX:
            found = f"{keys} keys and {values} values"
            return Drop(DropReason.TOO_COMPLEX, f"event: {found}, expected at most {KEYS_MAX} and {VALUES_MAX}")
        if not deeper:
            return None
        level = deeper
    return Drop(DropReason.TOO_COMPLEX, f"event: nested deeper than {DEPTH_MAX} levels")


def needs_mending(raw: bytes) -> bool:
    """True where raw may hold a NUL or a `__proto__` key, plain or with escapes."""
    return (b"\\" in raw and b"\\u00" in raw) or _PROTO_BYTES in raw


def mended(value: Any) -> Any:
    """Return a JSON value (of checked depth) with NUL as U+FFFD in every text, and without `__proto__` keys."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [mended(inner) for inner in value]
    if isinstance(value, dict):
        return {mended(key): mended(inner) for key, inner in value.items() if key != PROTO_KEY}
    return value

"""Bytes to JSON: unpacking with a cap, and mending of what JSON should not hold but clients send."""

import json
import math
import re
import zlib
from typing import Any

import msgspec

from pipeline.http.message import Refusal

GZIP_MAGIC = b"\x1f\x8b"
ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip"})

_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def unpack(body: bytes, encoding: str, unpacked_bytes_max: int) -> bytes:
    """Return the body unpacked. gzip is told by its first two bytes, whatever the headers say.

    encoding: the Content-Encoding header. Raises Refusal: 415 for another packing, 413 past unpacked_bytes_max (never
    more than that is unpacked), 400 for damaged gzip.
    """
    if body[:2] != GZIP_MAGIC:
        if encoding.strip().lower() not in ENCODINGS:
            raise Refusal(415, "bad_encoding", f"Content-Encoding {encoding[:40]!r}: expected gzip or none")
        return body
    parts: list[bytes] = []
    left = unpacked_bytes_max + 1
    while body:  # a gzip file may have several members
        unpacker = zlib.decompressobj(wbits=31)
        try:
            parts.append(unpacker.decompress(body, left))
        except zlib.error as error:
            raise Refusal(400, "bad_gzip", f"the body is not whole gzip: {error}") from None
        left -= len(parts[-1])
        if left <= 0:
            raise Refusal(413, "too_large", f"more than {unpacked_bytes_max} bytes after unpacking")
        if not unpacker.eof:
            raise Refusal(400, "bad_gzip", "the gzip body ends too early")
        body = unpacker.unused_data
    return b"".join(parts)


def has_damage(body: bytes) -> bool:
    """True where the bytes are no UTF-8 or hold a lone surrogate: `mend` them first, or no reader could take them."""
    if not body.isascii():
        try:
            body.decode("utf-8")
        except UnicodeDecodeError:
            return True
    if b"\\" not in body:  # found ten times faster than what comes after it
        return False
    return (b"\\ud" in body or b"\\uD" in body) and _LONE_SURROGATE.search(body) is not None


class NotFinite:
    """Stands for NaN, Infinity or a number beyond a double, which JSON cannot hold."""


def mend(body: bytes) -> Any:
    """Return the value of JSON that a strict reader refuses: wrong UTF-8 and lone surrogates become U+FFFD.

    NaN, Infinity and 1e999 become NotFinite objects. Raises Refusal 400: bad_json, or too_complex where it nests too
    deep.
    """
    try:
        text = body.decode("utf-8", "replace")
        return json.loads(text, parse_constant=lambda _: NotFinite(), parse_float=_finite, parse_int=_integer)
    except RecursionError:
        raise Refusal(400, "too_complex", "the JSON nests too deep") from None
    except ValueError as error:
        raise Refusal(400, "bad_json", f"the body is not JSON: {error}"[:200]) from None


def _finite(text: str) -> object:
    value = float(text)
    return value if math.isfinite(value) else NotFinite()


def _integer(text: str) -> object:
    return int(text) if len(text) < 40 else NotFinite()


def encode_mended(value: Any) -> tuple[bytes, bool]:
    """Return (JSON bytes of a mended value, True where it held a number that JSON cannot hold; null stands for it)."""
    found: list[object] = []
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=lambda thing: found.append(thing))
    return _SURROGATES.sub("\ufffd", text).encode(), bool(found)


def decode(body: bytes, decoder: "msgspec.json.Decoder[Any]") -> Any:
    """Decode the envelope of a request. Raises msgspec.DecodeError (msgspec.ValidationError is one) or Refusal."""
    try:
        return decoder.decode(body)
    except RecursionError:
        raise Refusal(400, "too_complex", "the JSON nests too deep") from None


def strip_bom(body: bytes) -> bytes:
    """Return the body without a UTF-8 byte order mark. Raises Refusal 400 for UTF-16 and UTF-32."""
    if body[:3] == b"\xef\xbb\xbf":
        return body[3:]
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in body[:2]:  # with a mark, or with none
        raise Refusal(400, "bad_json", "the body is UTF-16 or UTF-32: expected UTF-8")
    return body

"""Signed addresses: what an impression or click address says, sealed so that nobody can change or invent one.

token = base64url(HMAC-SHA256 cut to 16 bytes, then msgpack of the Link). The seal covers the decision, the action, the
expiry and the target, so that no click can be moved to another action and no redirect bent to another site.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

TARGET_CHARS_MAX: Final = 2_048
TOKEN_CHARS_MAX: Final = 6_000
SEAL_BYTES: Final = 16

# An http(s) URL in ASCII: a host (no user before it), then visible characters only. Browsers read a backslash as a
# slash, and hosts in Unicode can look like others: neither is let through.
_TARGET = re.compile(
    r"https?://(?:[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\.?|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?"
    r"(?:[/?#][!#-;=?-\[\]-~]*)?",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")


class LinkKind(StrEnum):
    """What following a link means. One kind's token is refused on the other's address."""

    IMPRESSION = "impression"
    CLICK = "click"


class LinkFault(StrEnum):
    """Why a token is refused."""

    MALFORMED = "malformed"
    FORGED = "forged"  # the seal is not ours: altered, invented, or sealed with another key


class Link(Struct, array_like=True, frozen=True, gc=False):
    """What a signed address says. The visitor's route is part of the decision id; the visitor's id is not in it.

    site: of the write key under which it is counted. target: where a click leads; "" for impressions.
    """

    kind: LinkKind
    decision_id: str
    action_id: str
    site: str
    placement_id: str
    campaign_id: str
    creative_id: str
    expires_ms: int
    target: str = ""


class Expired(NamedTuple):
    """A link of ours whose time is over: it counts no more, but leads where it always led."""

    link: Link


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Link)


@lru_cache(maxsize=16_384)
def is_safe_target(url: str) -> bool:
    """Say whether a click may be sent there: a plain absolute http(s) URL in ASCII.

    No user before the host, no space, quote, backslash or control character, no Unicode, at most 2,048 characters.

    >>> is_safe_target("https://shop.example/p?id=1"), is_safe_target("//evil.example"), is_safe_target("javascript:1")
    (True, False, False)
    """
    return len(url) <= TARGET_CHARS_MAX and _TARGET.fullmatch(url) is not None


def seal(link: Link, key: bytes) -> str:
    """Return the token of a link: letters, digits, `-` and `_`. key: of any length, 32 random bytes advised."""
    said = _encode(link)
    return urlsafe_b64encode(_seal_of(said, key) + said).rstrip(b"=").decode("ascii")


def unseal(token: str, keys: Sequence[bytes], kind: LinkKind, now_ms: int) -> Link | Expired | LinkFault:
    """Return what a token says, that it is too old to count, or why it is refused; raises nothing, whatever the token.

    keys: any of them may have sealed it. kind: of the address it came by. now_ms: when; a link still holds at just its
    expiry.
    """
    if len(token) > TOKEN_CHARS_MAX or _TOKEN.fullmatch(token) is None or len(token) % 4 == 1:
        return LinkFault.MALFORMED
    sealed = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    if urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii") != token:
        return LinkFault.MALFORMED  # base64 has several spellings of the last bytes; one token has one
    mac, said = sealed[:SEAL_BYTES], sealed[SEAL_BYTES:]
    if not any(hmac.compare_digest(mac, _seal_of(said, key)) for key in keys):
        return LinkFault.FORGED
    try:
        link = _decoder.decode(said)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return LinkFault.MALFORMED  # sealed by us, in a shape that this version does not know
    if link.kind is not kind or (kind is LinkKind.CLICK and not is_safe_target(link.target)):
        return LinkFault.MALFORMED
    return link if now_ms <= link.expires_ms else Expired(link)


def _seal_of(said: bytes, key: bytes) -> bytes:
    sealing = _begun(key).copy()  # unlike hmac.digest, this keeps other threads from taking their turn in between
    sealing.update(said)
    return sealing.digest()[:SEAL_BYTES]


@lru_cache(maxsize=8)
def _begun(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod=hashlib.sha256)

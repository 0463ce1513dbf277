"""Take personal data and secrets out of a request's body before it is written anywhere.

Called by the collector on the raw bytes, ahead of Kafka: what must not be kept must not enter the log, because a log
cannot forget. It works on bytes, not on parsed JSON, since a parse costs more than all the rest of the collector.
E-mail addresses become keyed pseudonyms, so that an id that is an address still joins with itself.

Every search starts at a rare byte (`=`, `@`, a digit) and looks back a bounded way and forth once, so the time is
linear in the body whatever it holds. A repeated group is kept from backtracking by an atomic group, `(?>(…)+)`: the
possessive quantifier matches too much before Python 3.11.5 (CPython issues 100061 and 106052).
"""

import hmac
import ipaddress
import re
from functools import lru_cache
from typing import Final

# Query keys whose values are secrets, lower case. A leading * also stands for longer names that end so (reset_token).
SECRET_KEYS: Final = (
    "*access_key", "*api-key", "*api_key", "*apikey", "*authorization", "*credential", "*credentials", "*jwt",
    "*passphrase", "*passwd", "*password", "*private_key", "*secret", "*session_id", "*sessionid", "*signature",
    "*token", "*token_auth", "auth", "auth_key", "bearer", "code", "hmac", "key", "otp", "pass", "pin", "pwd",
    "samlresponse", "session", "sessid", "sid", "sig", "ssid", "ticket",
)  # fmt: skip

# At the top level of a query-string body these are fields of the trackers' protocols, not secrets.
TRACKER_FIELDS: Final = frozenset({
    "code", "key", "pin", "session", "sessid", "sid", "ssid", "ticket", "*session_id", "*sessionid",
})  # fmt: skip

IPS_CACHED_MAX: Final = 16_384


def mask(raw: bytes, key: bytes) -> bytes:
    """Return raw with e-mail addresses, secrets, JWTs and card numbers replaced; the same object when it has none.

    raw: JSON, or a query string (application/x-www-form-urlencoded). key: secret of the HMAC.
    - e-mail address, also percent-encoded up to four times or with JSON's escapes: `em_` and 16 hex digits, the same
      for every encoding and case of an address under one key
    - value of a SECRET_KEYS key before a `=`, also once or twice percent-encoded: `x`
    - JWT: `jwt`; card number in a query value (issuer's range, length and Luhn sum hold): `card`
    Valid JSON stays valid and is otherwise unchanged; masking again changes nothing. Raises nothing.
    Not seen: what is encoded in another way (base64), and secrets under plain JSON keys ("password": "…").
    """
    # single bytes first: they are found many times faster than words
    if not (b"=" in raw or b"@" in raw or b"%" in raw or (b"\\" in raw and b"\\u00" in raw)):
        return raw if b"J" not in raw or b"eyJ" not in raw else _JWT.sub(b"jwt", raw)
    masked = _mask_secrets(raw)
    if b"J" in masked and b"eyJ" in masked:
        masked = _JWT.sub(b"jwt", masked)
    # before cards: what an address has in it may hide where a value begins
    if b"@" in masked or (b"40" in masked and (b"%" in masked or b"u0040" in masked)):
        masked = _mask_addresses(masked, key)
    if b"=" in masked or b"%" in masked or b"\\u" in masked:
        masked = _mask_cards(masked)
    return masked


# --- secrets: find each "=", look back at the key, then forth to the value's end ---

_KEY_BYTES: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
_KEY_BYTES_MAX: Final = 64
# (?<!\\\\): only the first backslash of a run begins a match, else a long run costs its square
_ESCAPED_EQUALS = re.compile(rb"\\(?<!\\\\)\\*+u003[dD]")
_ESCAPE_BEFORE_KEY = re.compile(rb"%(?:25)*[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\[a-z]")
_ESCAPED_END: Final = rb"(?!00(?:2[0236]|3[cCeE]|[01]))"  # blank " # & < > and control characters end a value

# No value ends before a byte that an address may hold, else masking twice would differ from masking once.
_ESCAPED_IN_VALUE: Final = rb"|\\+/|\\+u" + _ESCAPED_END + rb"[0-9A-Fa-f]{4})+"
_VALUE: Final = {
    b"=": re.compile(rb"(?:[^&#\"\\<>\x00-\x20]" + _ESCAPED_IN_VALUE),
    b"%3d": re.compile(rb"(?:[^&#\"\\<>%\x00-\x20]|%(?!2[236])" + _ESCAPED_IN_VALUE),
    b"%253d": re.compile(rb"(?:[^&#\"\\<>%\x00-\x20]|%(?!(?:25)?2[236])" + _ESCAPED_IN_VALUE),
}


def _names(*, without: frozenset[str]) -> tuple[frozenset[bytes], tuple[bytes, ...]]:
    kept = [name for name in SECRET_KEYS if name not in without]
    return (
        frozenset(name.encode() for name in kept if not name.startswith("*")),
        tuple(name[1:].encode() for name in kept if name.startswith("*")),
    )


_SECRETS: Final = _names(without=frozenset())
_OWN_SECRETS: Final = _names(without=TRACKER_FIELDS)
_LAST_LETTERS: Final = frozenset(name[-3:].encode() for name in SECRET_KEYS)


def _mask_secrets(raw: bytes) -> bytes:
    found = _find_keys(raw)
    if not found:
        return raw
    is_query = raw.lstrip()[:1] not in {b"{", b"[", b'"'}
    pieces: list[bytes] = []
    done = 0
    for at, value_at, sign in found:
        if at < done or not _is_secret(raw, at, is_query):
            continue
        value = _VALUE[sign].match(raw, value_at)
        if value is not None:
            pieces += (raw[done:value_at], b"x")
            done = value.end()
    return b"".join((*pieces, raw[done:])) if pieces else raw


def _find_keys(raw: bytes) -> list[tuple[int, int, bytes]]:
    """Where a word that ends like a secret's name meets a "=": (its end, the value's start, the sign), in order.

    By splitting at the sign, which is several times faster than a regex with a match for each pair of a query.
    """
    lower = raw.lower()
    found: list[tuple[int, int, bytes]] = []
    for sign in (b"=", b"%3d", b"%253d") if b"%" in lower else (b"=",):
        words = lower.split(sign)
        if _LAST_LETTERS.isdisjoint([word[-3:] for word in words]):
            continue
        at = 0
        for word in words[:-1]:
            at += len(word)
            if word[-3:] in _LAST_LETTERS:
                found.append((at, at + len(sign), sign))
            at += len(sign)
    if b"u003d" in lower:
        found += [(match.start(), match.end(), b"=") for match in _ESCAPED_EQUALS.finditer(raw)]
    return sorted(found)


def _is_secret(raw: bytes, at: int, is_query: bool) -> bool:
    """Whether the key that ends before `at` names a secret."""
    window = raw[max(0, at - _KEY_BYTES_MAX) : at]
    start = len(window.rstrip(_KEY_BYTES))
    before = window[start - 1 : start]
    if before in {b"%", b"\\"}:  # the word begins inside an escape, %3F or \u0026
        escape = _ESCAPE_BEFORE_KEY.match(window, start - 1)
        start = escape.end() if escape else start
    is_own_field = is_query and before in {b"", b"&"} and raw[at : at + 1] == b"="
    exact, ends = _OWN_SECRETS if is_own_field else _SECRETS
    name = window[start:].lower()
    return name in exact or name.endswith(ends)


# --- tokens and cards ---

# A token begins after a byte that is not of its alphabet, or after an escape: else each `eyJ` of a long run would
# search the rest of the run. Its padding goes with it: what is left must not read as a secret's name with a value.
_JWT = re.compile(
    rb"eyJ(?:(?<![A-Za-z0-9_-]...)|(?<=%[0-9A-Fa-f]{2}...)|(?<=\\[nrt]...)|(?<=\\u[0-9A-Fa-f]{4}...))"
    rb"[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{4,}+(?:\.[A-Za-z0-9_-]*+){1,3}"
    rb"(?:=|%(?:25)?3[dD]|\\+u003[dD])*"
)
_CARD = re.compile(
    # digits first: then few places are tried; none of a pseudonym of ours, nor behind a dot, where a domain may end
    rb"[2-6][0-9]{3}(?:(?<![0-9A-Za-z%._]....)|(?<=%(?!2[eE])[0-9A-Fa-f]{2}....))"
    rb"(?:(?:[+-]|%20)?[0-9]){9,15}"  # not atomic: another number may follow, and part of it be taken first
    rb"(?![0-9A-Za-z_@]|[.-][0-9A-Za-z]|%(?:25)*40|\\u0040)"
)
_BEFORE_BYTES: Final = 64
_VALUE_START = re.compile(rb"=|%(?:25)*3[dD]|\\u003[dD]")
_VALUE_LEFT = re.compile(rb"[&#\"\\<>/?\x00-\x20]|%(?:25)*2[26fF3]")

# First digits of an issuer's numbers and their lengths. Times in ms and ad ids are as long, but begin otherwise.
_ISSUERS: Final = (
    (re.compile(r"4"), frozenset({13, 16, 19})),  # Visa
    (re.compile(r"5[1-5]|22[2-9]|2[3-6]|27[01]|2720"), frozenset({16})),  # Mastercard
    (re.compile(r"3[47]"), frozenset({15})),  # American Express
    (re.compile(r"6011|64[4-9]|65"), frozenset({16, 19})),  # Discover
    (re.compile(r"3[68]|30[0-5]"), frozenset({14})),  # Diners Club
    (re.compile(r"35[2-8]"), frozenset({16, 19})),  # JCB
    (re.compile(r"62"), frozenset({16, 17, 18, 19})),  # UnionPay
)


def _mask_cards(raw: bytes) -> bytes:
    """What stands before a number is looked at as it is masked: so another look finds no value that began nearer."""
    pieces: list[bytes] = []
    done, before = 0, b""
    for found in _CARD.finditer(raw):
        before = (before + raw[max(done, found.start() - _BEFORE_BYTES) : found.start()])[-_BEFORE_BYTES:]
        number = b"card" if _is_in_value(before) and _is_card(found[0]) else found[0]
        before += number
        pieces += (raw[done : found.start()], number)
        done = found.end()
    return b"".join((*pieces, raw[done:])) if pieces else raw


def _is_in_value(before: bytes) -> bool:
    starts = [start.end() for start in _VALUE_START.finditer(before)]
    return bool(starts) and not _VALUE_LEFT.search(before, starts[-1])


def _is_card(written: bytes) -> bool:
    return is_card_number(re.sub(rb"%20|[+-]", b"", written).decode())


def is_card_number(digits: str) -> bool:
    """Whether 13 to 19 digits are a payment card's: an issuer's range and length, and the Luhn sum.

    >>> is_card_number("4111111111111111"), is_card_number("4111111111111112"), is_card_number("1700000000000")
    (True, False, False)
    """
    if not any(start.match(digits) and len(digits) in lengths for start, lengths in _ISSUERS):
        return False
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(int(digit) for digit in digits[-1::-2])) % 10 == 0


# --- e-mail addresses: find each "@", look back for the local part and forth for the domain ---

LOCAL_BYTES_MAX: Final = 256
_TRIMMED: Final = b".+'~-"  # a quote, a dash or an encoded blank before an address is not part of it

_AT = re.compile(rb"@|%(?:25){0,3}40|\\(?<!\\\\)\\*+u0040")

# The local part is matched on the reversed bytes, so that the look back is one pass. "%2B" reversed is "B2%".
_LETTER_HEX: Final = rb"(?:[0-9]3|[1-9A-Fa-f][46]|[0-9Aa][57]|[BbDdEe]2|72|[Ff]5|[Ee]7)"
_ESCAPED_LETTER: Final = _LETTER_HEX + rb"(?:(?:52){0,3}%|00u\\+)"
_NOT_IN_ESCAPE: Final = rb"(?![0-9A-Fa-f]{2}(?:52){0,3}%)(?![0-9A-Fa-f]{4}u\\)(?![bfnrtu/\"]\\)"
_LETTER: Final = _NOT_IN_ESCAPE + rb"[A-Za-z0-9._+'~-]"
_LOCAL_REVERSED = re.compile(rb"(?>(?:" + _ESCAPED_LETTER + rb"|" + _LETTER + rb")+)")

# Letters beyond ASCII count only when there is no other: in most scripts the text before an address has no blank.
_WIDE: Final = rb"[\x80-\xff]|[0-9A-Fa-f][89A-Fa-f](?:52){0,3}%|[0-9A-Fa-f]{2}(?!00)[0-9A-Fa-f]{2}u\\+"
_WIDE_LOCAL_REVERSED = re.compile(rb"(?>(?:" + _WIDE + rb"|" + _ESCAPED_LETTER + rb"|" + _LETTER + rb")+)")

_WIDE_FORWARD: Final = rb"[\x80-\xff]|%(?:25){0,3}[89A-Fa-f][0-9A-Fa-f]|\\+u(?!00[0-7])[0-9A-Fa-f]{4}"
_DOMAIN = re.compile(
    rb"(?![0-9]x\.(?:png|jpe?g|gif|webp|avif|svg|css|js)(?![A-Za-z]))"  # logo@2x.png
    rb"(?:(?>(?:[A-Za-z0-9-]|" + _WIDE_FORWARD + rb")+)(?:\.|%(?:25){0,3}2[eE]|\\+u002[eE]))+"
    rb"(?:xn--[A-Za-z0-9-]+|(?!em_)[A-Za-z]{2,}+|(?>(?:" + _WIDE_FORWARD + rb"){2,}))"
)
_JSON_ESCAPE = re.compile(rb"\\+u([0-9A-Fa-f]{4})")
_TRIPLET = re.compile(rb"%([0-9A-Fa-f]{2})")


def _mask_addresses(raw: bytes, key: bytes) -> bytes:
    pieces: list[bytes] = []
    done = 0
    for at in _AT.finditer(raw):
        if at.start() < done:
            continue
        domain = _DOMAIN.match(raw, at.end())
        if domain is None:
            continue
        start = _local_start(raw, done, at.start())
        if pieces and raw[done:start].strip(_TRIMMED) == b"" and start == at.start():
            local = pieces.pop() + raw[done:start]
        elif start < at.start():
            local = raw[start : at.start()]
            pieces.append(raw[done:start])
        else:
            continue
        pieces.append(pseudonym(local + b"@" + domain[0], key))
        done = domain.end()
    return b"".join((*pieces, raw[done:])) if pieces else raw


def _local_start(raw: bytes, from_: int, to: int) -> int:
    window = raw[max(from_, to - LOCAL_BYTES_MAX) : to][::-1]
    found = _LOCAL_REVERSED.match(window) or _WIDE_LOCAL_REVERSED.match(window)
    if found is None:
        return to
    local = found[0][::-1].lstrip(_TRIMMED)
    while local and 0x80 <= local[0] < 0xC0:  # the window cut a character in two: leave all of it
        local = local[1:]
    return to - len(local)


def pseudonym(address: bytes, key: bytes) -> bytes:
    """`em_` and 16 hex digits for an address in any of the encodings that `mask` knows.

    >>> pseudonym(b"Ann%2540Shop.example", b"k") == pseudonym(b"ann@shop.example", b"k")
    True
    """
    plain = address
    if b"\\" in plain:
        plain = _JSON_ESCAPE.sub(lambda found: chr(int(found[1], 16)).encode("utf-8", "replace"), plain)
    while b"%" in plain and (decoded := _TRIPLET.sub(lambda found: bytes((int(found[1], 16),)), plain)) != plain:
        plain = decoded
    text = plain.decode("utf-8", "replace").lower().lstrip(_TRIMMED.decode())
    return b"em_" + hmac.digest(key, text.encode(), "sha256")[:8].hex().encode()


# --- addresses of the network ---


@lru_cache(maxsize=IPS_CACHED_MAX)
def _truncate_ip(ip: str) -> str:
    try:
        address = ipaddress.ip_address(ip.strip().partition("%")[0])
    except ValueError:  # expected bad data: the header came from outside
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    bits = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network((address, bits), strict=False).network_address)


def truncate_ip(ip: str) -> str:
    """The network of a client: /24 of IPv4 (also when mapped into IPv6), /48 of IPv6; "" for what is no address.

    >>> truncate_ip("203.0.113.77"), truncate_ip("2001:db8:1:2::3"), truncate_ip("::ffff:203.0.113.77")
    ('203.0.113.0', '2001:db8:1::', '203.0.113.0')
    """
    return _truncate_ip(ip[:64])

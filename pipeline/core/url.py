"""Canonical page URLs: one spelling for one page, the campaign tags taken out and kept beside it.

First enrichment of the `clean` stage. A page's address arrives in as many spellings as there are ways to reach it;
reports, audiences and models need one. Click ids and utm tags describe the visit, not the page: they leave the URL.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_plus, unquote_to_bytes

import msgspec

URL_CHARS_MAX: Final = 2_048
TAG_CHARS_MAX: Final = 256
CLICK_ID_CHARS_MAX: Final = 512
PAIRS_MAX: Final = 100
HOST_CHARS_MAX: Final = 253
URLS_CACHED_MAX: Final = 16_384

# The query keys that choose what a page shows; every other key is dropped from the canonical URL.
KEPT_KEYS: Final = frozenset({
    "category", "category_id", "cat", "id", "item", "item_id", "keyword", "lang", "p", "page", "page_id", "pid",
    "post", "product", "product_id", "q", "query", "s", "search", "search_query", "sku", "tab", "tag", "variant",
})  # fmt: skip

# Click ids and who adds them. The first one present in this order is the page's click id.
CLICK_ID_KEYS: Final = (
    "gclid",  # Google Ads
    "gbraid",  # Google Ads, iOS app to web
    "wbraid",  # Google Ads, iOS web to app
    "dclid",  # Google Display & Video 360
    "msclkid",  # Microsoft Advertising
    "yclid",  # Yandex Direct
    "ttclid",  # TikTok
    "twclid",  # X
    "li_fat_id",  # LinkedIn
    "sccid",  # Snapchat
    "rdt_cid",  # Reddit
    "epik",  # Pinterest, on paid and on unpaid clicks
    "fbclid",  # Meta, on paid and on unpaid clicks
    "tblci",  # Taboola
    "irclickid",  # Impact (affiliates)
    "cjevent",  # CJ (affiliates)
    "awc",  # Awin (affiliates)
    "mc_cid",  # Mailchimp
)

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_SCHEMES: Final = frozenset({"http", "https", "android-app", "ios-app", "app"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_-])?|\[[0-9a-f:.]+\]")
_AUTHORITY_END = re.compile(r"[/?#]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNSAFE_PATH = re.compile(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9._~!$&'()*+,;=:@/-]")
_UNSAFE_VALUE = re.compile(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9._~!$'()*,;:@/-]")
_CUT_TRIPLET = re.compile(r"%[0-9A-Fa-f]?\Z")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Page(msgspec.Struct, frozen=True, gc=False):
    """A page as reports name it, and the tags its address carried. A missing text is "".

    url: canonical address, only KEPT_KEYS in its query, sorted; "" when there is no page (javascript:, broken host).
    host: lower case, punycode, without port or user; path: percent-encoding normalised, dot segments resolved.
    click_id_type: one of CLICK_ID_KEYS.
    """

    url: str = ""
    host: str = ""
    path: str = ""
    utm_source: str = ""
    utm_medium: str = ""
    utm_campaign: str = ""
    utm_term: str = ""
    utm_content: str = ""
    utm_id: str = ""
    click_id: str = ""
    click_id_type: str = ""


def read_url(raw: str) -> Page:
    """Read an address as a browser sent it.

    raw: absolute, protocol-relative or relative URL of any length; what is past URL_CHARS_MAX characters is not read.
    A relative URL gives a Page without host, its url the canonical path and query.
    Raises nothing: what cannot be read is "". Reading a Page's url again gives the same url.
    Hosts in Unicode become punycode by IDNA 2003, which maps "ß" to "ss"; browsers send punycode already.
    Source: RFC 3986 section 6.2.2 (normalisation), and the WHATWG URL standard where browsers are laxer.
    """
    return _read_url(raw[:URL_CHARS_MAX])  # cut before the cache, so that its memory is bounded


@lru_cache(maxsize=URLS_CACHED_MAX)
def _read_url(raw: str) -> Page:
    text = _CONTROL.sub("", _mend(raw)).strip()
    if len(raw) == URL_CHARS_MAX:
        text = _CUT_TRIPLET.sub("", text)
    scheme, rest = _split_scheme(text)
    if scheme not in _SCHEMES and scheme != "":
        return Page()
    rest, _, fragment = rest.partition("#")
    before_query, _, query = rest.partition("?")
    before_query = before_query.replace("\\", "/")
    authority, path, has_authority = _split_authority(before_query)
    host, port = _split_host(authority, scheme)
    path = normalise_path(path, absolute=has_authority)
    if "utm_" in fragment:
        query = f"{query}&{fragment}"
    tags = _read_query(query)
    url = ""
    if host or not has_authority:
        origin = f"{scheme or 'https'}://{host}{port}" if host else ""
        url = origin + path + ("?" + tags.kept if tags.kept else "")
    return Page(url, host, path, *tags[1:])


def _mend(text: str) -> str:
    """Lone surrogates, which no encoder takes, become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _split_scheme(text: str) -> tuple[str, str]:
    found = _SCHEME.match(text)
    if found is None:
        return "", text
    scheme, rest = found[1].lower(), text[found.end() :]
    if scheme in _DEFAULT_PORTS and not rest.startswith(("//", "/\\", "\\")):
        return scheme, "//" + rest.lstrip("/\\")  # browsers read http:example.com as http://example.com
    if rest[:1].isdigit() and ("." in scheme or scheme == "localhost"):
        return "", "//" + text  # example.com:8080/path
    return scheme, rest


def _split_authority(text: str) -> tuple[str, str, bool]:
    if not text.startswith("//"):
        return "", text, False
    text = text.lstrip("/")
    end = _AUTHORITY_END.search(text)
    at = end.start() if end else len(text)
    return text[:at], text[at:], True


def _split_host(authority: str, scheme: str) -> tuple[str, str]:
    """Host and ":port" (or "", when it is the scheme's own); both "" when the host is none."""
    host = authority.rpartition("@")[2]
    port = ""
    name, colon, digits = host.rpartition(":")
    if colon and not digits.endswith("]"):
        if digits and not (digits.isascii() and digits.isdigit() and int(digits) < 65_536):
            return "", ""
        host, port = name, digits.lstrip("0")
    host = _ascii_host(host)
    if not _HOST.fullmatch(host):
        return "", ""
    return host, "" if not port or port == _DEFAULT_PORTS.get(scheme or "https") else ":" + port


def _ascii_host(host: str) -> str:
    if len(host) > HOST_CHARS_MAX:
        return ""
    if "%" in host:
        host = unquote_to_bytes(host).decode("utf-8", "replace")
    host = host.rstrip(".").lower()
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError:  # a label too long or a character no host may have: expected bad data
        return ""


def normalise_path(path: str, *, absolute: bool) -> str:
    """Resolve dot segments and percent-encoding; an absolute path begins with exactly the slashes it was given.

    >>> normalise_path("/a/../%7ebob/./caf\\u00e9", absolute=True)
    '/~bob/caf%C3%A9'
    """
    path = _UNSAFE_PATH.sub(_encode_match, path)
    rooted = absolute or path.startswith("/")
    if "/." in path or path.startswith("."):
        path = _resolve_dots(path)
    if absolute:
        return path if path.startswith("/") else "/" + path
    if rooted:
        return "/" + path.lstrip("/")  # two slashes would be read as a host
    first, slash, rest = path.lstrip("/").partition("/")
    return first.replace(":", "%3A") + slash + rest  # a colon would be read as a scheme


def _resolve_dots(path: str) -> str:
    segments = path.split("/")
    resolved: list[str] = []
    for segment in segments:
        if segment == "..":
            if len(resolved) > 1 or (resolved and resolved[0] != ""):
                resolved.pop()
        elif segment != ".":
            resolved.append(segment)
    if segments[-1] in {".", ".."}:
        resolved.append("")
    return "/".join(resolved)


def _encode_match(found: re.Match[str]) -> str:
    text = found[0]
    if len(text) == 3 and text[0] == "%":
        char = chr(int(text[1:], 16))
        return char if char in _UNRESERVED else text.upper()
    return "".join(f"%{byte:02X}" for byte in text.encode())


class _Tags(NamedTuple):
    """A query taken apart: the kept pairs as a canonical query, then the last fields of Page in their order."""

    kept: str = ""
    utm_source: str = ""
    utm_medium: str = ""
    utm_campaign: str = ""
    utm_term: str = ""
    utm_content: str = ""
    utm_id: str = ""
    click_id: str = ""
    click_id_type: str = ""


_UTM_KEYS: Final = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "utm_id")
_EXTRACTED: Final = frozenset(_UTM_KEYS) | frozenset(CLICK_ID_KEYS)
_NO_TAGS: Final = _Tags()


def _read_query(query: str) -> _Tags:
    if not query:
        return _NO_TAGS
    pairs: set[str] = set()
    seen: dict[str, str] = {}
    for pair in query.split("&", PAIRS_MAX)[:PAIRS_MAX]:
        name, _, value = pair.partition("=")
        name = name.lower()
        if name in KEPT_KEYS:
            pairs.add(f"{name}={_UNSAFE_VALUE.sub(_encode_match, value.replace('+', '%20'))}")
        elif value and name in _EXTRACTED:
            seen.setdefault(name, value)
    kept = "&".join(sorted(pairs))
    if not seen:
        return _Tags(kept)
    source, medium, campaign, term, content, id_ = (_tag(seen.get(name, ""), TAG_CHARS_MAX) for name in _UTM_KEYS)
    click_id_type = next((name for name in CLICK_ID_KEYS if name in seen), "")
    click_id = _tag(seen.get(click_id_type, ""), CLICK_ID_CHARS_MAX)
    return _Tags(kept, source, medium, campaign, term, content, id_, click_id, click_id_type)


def _tag(value: str, chars_max: int) -> str:
    return _CONTROL.sub("", unquote_plus(value, errors="replace")).strip()[:chars_max] if value else ""

"""Where a visit came from: the class of its referrer, the source's name and the search term when it is known.

Second enrichment of the `clean` stage. What the host says is looked up once per referrer and cached; what the page's
own tags say (utm, click id) is laid over it. The marketing channel made from both is in `channel.py`.
"""

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from pipeline.core.url import URL_CHARS_MAX, Page, read_url

REFERRERS_CACHED_MAX: Final = 16_384
TERM_CHARS_MAX: Final = 256

CHATBOTS: Final = {
    "chatgpt.com": "ChatGPT",
    "chat.openai.com": "ChatGPT",
    "perplexity.ai": "Perplexity",
    "claude.ai": "Claude",
    "gemini.google.com": "Gemini",
    "bard.google.com": "Gemini",
    "notebooklm.google.com": "NotebookLM",
    "copilot.microsoft.com": "Copilot",
    "copilot.cloud.microsoft": "Copilot",
    "chat.deepseek.com": "DeepSeek",
    "chat.mistral.ai": "Le Chat",
    "grok.com": "Grok",
    "meta.ai": "Meta AI",
    "poe.com": "Poe",
    "you.com": "You.com",
    "phind.com": "Phind",
    "chat.qwen.ai": "Qwen",
    "kimi.com": "Kimi",
    "doubao.com": "Doubao",
    "character.ai": "Character.AI",
    "duck.ai": "Duck.ai",
}

WEBMAIL: Final = {
    "mail.google.com": "Gmail",
    "com.google.android.gm": "Gmail",
    "outlook.live.com": "Outlook",
    "outlook.office.com": "Outlook",
    "outlook.office365.com": "Outlook",
    "outlook.com": "Outlook",
    "hotmail.com": "Outlook",
    "com.microsoft.office.outlook": "Outlook",
    "mail.live.com": "Outlook",
    "mail.yahoo.com": "Yahoo! Mail",
    "mail.yahoo.co.jp": "Yahoo! Mail",
    "mail.aol.com": "AOL Mail",
    "mail.proton.me": "Proton Mail",
    "icloud.com": "iCloud Mail",
    "mail.ru": "Mail.ru",
    "e.mail.ru": "Mail.ru",
    "mail.yandex.ru": "Yandex Mail",
    "mail.yandex.com": "Yandex Mail",
    "mail.zoho.com": "Zoho Mail",
    "app.fastmail.com": "Fastmail",
    "navigator.gmx.net": "GMX",
    "gmx.net": "GMX",
    "gmx.com": "GMX",
    "navigator.web.de": "Web.de",
    "mail.163.com": "163 Mail",
    "mail.126.com": "126 Mail",
    "mail.qq.com": "QQ Mail",
    "mail.naver.com": "Naver Mail",
    "email.seznam.cz": "Seznam Email",
    "poczta.onet.pl": "Onet Poczta",
    "poczta.wp.pl": "WP Poczta",
    "email.t-online.de": "T-Online E-Mail",
    "webmail.orange.fr": "Orange Mail",
    "mail.laposte.net": "La Poste Mail",
    "deref-gmx.net": "GMX",
    "deref-web.de": "Web.de",
}

# Click ids that only an advertisement adds. The others (fbclid, epik, mc_cid) also come on unpaid clicks.
PAID_CLICK_IDS: Final = frozenset({
    "gclid", "gbraid", "wbraid", "dclid", "msclkid", "yclid", "ttclid", "twclid", "li_fat_id", "sccid", "rdt_cid",
    "tblci",
})  # fmt: skip
PAID_MEDIUM: Final = re.compile(r".*cp[acmv]|ppc|retargeting|remarketing|paid.*|display|banner", re.IGNORECASE)

# Second-level names under which countries sell domains, and hosts that give each customer a subdomain.
_SECOND_LEVEL: Final = frozenset({"ac", "co", "com", "edu", "go", "gob", "gov", "gouv", "ne", "net", "or", "org"})
_SHARED_HOSTS: Final = frozenset({
    "appspot.com", "azurewebsites.net", "blogspot.com", "cloudfront.net", "firebaseapp.com", "fly.dev", "github.io",
    "gitlab.io", "herokuapp.com", "myshopify.com", "netlify.app", "onrender.com", "pages.dev", "substack.com",
    "tumblr.com", "vercel.app", "web.app", "webflow.io", "wixsite.com", "wordpress.com", "workers.dev",
})  # fmt: skip
# Paths by which engines send the visitor on; they carry no term.
_REDIRECTS: Final = frozenset({"/url", "/link", "/l/", "/clck/jsredir", "/clck/redir"})
_DATA: Final = Path(__file__).resolve().parent.parent / "data" / "referrers"


class ReferrerKind(StrEnum):
    """What kind of place sent the visitor. PAID and CAMPAIGN come from the page's tags, all others from the host."""

    DIRECT = "direct"
    INTERNAL = "internal"
    SEARCH = "search"
    SOCIAL = "social"
    EMAIL = "email"
    PAID = "paid"
    CAMPAIGN = "campaign"
    CHATBOT = "chatbot"
    OTHER = "other"
    SPAM = "spam"


class Referrer(msgspec.Struct, frozen=True, gc=False):
    """The class of a referrer; a missing text is "".

    source: name of the engine, network or assistant, else utm_source, else the host.
    term: what was searched for, from the engine's own URL or utm_term.
    host_kind: what the host alone says, also when the page's tags made `kind` PAID or CAMPAIGN.
    """

    kind: ReferrerKind
    host: str = ""
    source: str = ""
    term: str = ""
    host_kind: ReferrerKind = ReferrerKind.DIRECT


_NO_REFERRER: Final = Referrer(ReferrerKind.DIRECT)


def read_referrer(raw: str, page: Page, own_hosts: frozenset[str] = frozenset()) -> Referrer:
    """Class a visit's referrer.

    raw: the referrer as sent, any text; page: the page it led to, with its tags.
    own_hosts: further hosts of the same site (lower case); a referrer there, or under page's own domain, is internal.
    Order: spam, paid (an advertisement's click id or medium), campaign (utm_source or utm_campaign), then the host.
    A tag outranks an internal host, because a banner on one's own site is a campaign too.
    Raises nothing: a referrer that cannot be read is direct.
    """
    found = _read_host(raw[:URL_CHARS_MAX]) if raw else _NO_REFERRER
    if found.kind is ReferrerKind.SPAM:
        return found
    if found.host and is_internal(found.host, page.host, own_hosts):
        found = Referrer(ReferrerKind.INTERNAL, found.host, found.host, "", ReferrerKind.INTERNAL)
    if not (page.utm_source or page.utm_medium or page.utm_campaign or page.click_id_type):
        return found
    if page.click_id_type in PAID_CLICK_IDS or PAID_MEDIUM.fullmatch(page.utm_medium):
        kind = ReferrerKind.PAID
    elif page.utm_source or page.utm_campaign:
        kind = ReferrerKind.CAMPAIGN
    else:
        return found
    return Referrer(kind, found.host, page.utm_source or found.source, page.utm_term or found.term, found.host_kind)


def is_internal(host: str, page_host: str, own_hosts: frozenset[str] = frozenset()) -> bool:
    """Whether a referrer's host belongs to the site of page_host (same registrable domain) or is one of own_hosts.

    >>> is_internal("blog.shop.co.uk", "www.shop.co.uk")
    True
    >>> is_internal("a.github.io", "b.github.io")
    False
    """
    return host == page_host or host in own_hosts or (page_host != "" and site_of(host) == site_of(page_host))


@lru_cache(maxsize=REFERRERS_CACHED_MAX)
def site_of(host: str) -> str:
    """The registrable domain of a lower-case host; an address or single name is its own site.

    An approximation without the Public Suffix List: two labels, three under a country's second level (co.uk) and
    under hosts that give subdomains away (github.io).
    """
    labels = host.split(".")
    if len(labels) < 3 or labels[-1].isdigit() or host.startswith("["):
        return host
    shared = ".".join(labels[-2:]) in _SHARED_HOSTS or (len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL)
    return ".".join(labels[-3:] if shared else labels[-2:])


@lru_cache(maxsize=REFERRERS_CACHED_MAX)
def _read_host(raw: str) -> Referrer:
    page = read_url(raw)
    host = page.host
    if not host:
        return _NO_REFERRER
    lists = _lists()
    if any(name in lists.spam for name in _self_and_parents(host)):
        return Referrer(ReferrerKind.SPAM, host, host, "", ReferrerKind.SPAM)
    for kind, names in ((ReferrerKind.EMAIL, WEBMAIL), (ReferrerKind.CHATBOT, CHATBOTS)):
        bare = host.removeprefix("www.")
        if bare in names:
            return Referrer(kind, host, names[bare], "", kind)
    if host.startswith(("webmail.", "mail.")):
        return Referrer(ReferrerKind.EMAIL, host, host, "", ReferrerKind.EMAIL)
    if host.endswith("bing.com") and page.path.startswith("/chat"):
        return Referrer(ReferrerKind.CHATBOT, host, "Copilot", "", ReferrerKind.CHATBOT)
    searched = _read_search(host, page.path, raw)
    if searched is not None:
        name, term = searched
        return Referrer(ReferrerKind.SEARCH, host, name, term, ReferrerKind.SEARCH)
    for name in _self_and_parents(host):
        if name in lists.social:
            return Referrer(ReferrerKind.SOCIAL, host, lists.social[name], "", ReferrerKind.SOCIAL)
    return Referrer(ReferrerKind.OTHER, host, host, "", ReferrerKind.OTHER)


class _Engine(NamedTuple):
    name: str
    params: tuple[str, ...]
    term_patterns: tuple[re.Pattern[str], ...]
    pages_without_term: tuple[re.Pattern[str], ...]
    charsets: tuple[str, ...]


class _Lists(NamedTuple):
    engines: tuple[_Engine, ...]
    search_hosts: dict[str, tuple[int, bool]]
    social: dict[str, str]
    spam: frozenset[str]


@cache
def _lists() -> _Lists:
    search = json.loads((_DATA / "search.json").read_text("utf-8"))
    engines = tuple(
        _Engine(
            name,
            tuple(params),
            tuple(re.compile(text) for text in terms),
            tuple(re.compile(text) for text in pages),
            tuple(charsets),
        )
        for name, params, terms, pages, charsets in search["engines"]
    )
    hosts = {host: (index, bool(bare)) for host, (index, bare) in search["hosts"].items()}
    social = json.loads((_DATA / "social.json").read_text("utf-8"))
    spam = frozenset(json.loads((_DATA / "spam.json").read_text("utf-8")))
    return _Lists(engines, hosts, social, spam)


def source_kind(source: str) -> ReferrerKind:
    """What kind of place a utm_source names ("google", "Facebook", "m.facebook.com"); OTHER when it is in no list."""
    return _source_kinds().get(source.strip().casefold().removeprefix("www."), ReferrerKind.OTHER)


@cache
def _source_kinds() -> dict[str, ReferrerKind]:
    lists = _lists()
    kinds = dict.fromkeys(CHATBOTS, ReferrerKind.CHATBOT) | dict.fromkeys(WEBMAIL, ReferrerKind.EMAIL)
    for name in (*lists.social, *lists.social.values(), "fb", "ig", "meta", "x", "insta", "yt", "linked-in", "pin"):
        kinds.setdefault(name.casefold(), ReferrerKind.SOCIAL)
    for name in (*lists.search_hosts, *(engine.name for engine in lists.engines), "yahoo", "adwords", "google-ads"):
        kinds.setdefault(name.casefold(), ReferrerKind.SEARCH)
    for name in (*CHATBOTS.values(), "openai"):
        kinds.setdefault(name.casefold(), ReferrerKind.CHATBOT)
    return kinds


def _self_and_parents(host: str) -> Iterator[str]:
    while host:
        yield host
        host = host.partition(".")[2]


def _read_search(host: str, path: str, raw: str) -> tuple[str, str] | None:
    """Engine and term, when host and path are a search engine's; a page of its other services is none."""
    lists = _lists()
    for name in _spellings(host, path):
        if name not in lists.search_hosts:
            continue
        index, bare = lists.search_hosts[name]
        engine = lists.engines[index]
        term = _read_term(engine, raw)
        if term:
            return engine.name, term
        tail = _tail(raw)
        if (bare and (tail in {"", "/"} or path in _REDIRECTS)) or any(
            page.fullmatch(tail) for page in engine.pages_without_term
        ):
            return engine.name, ""
    return None


def _spellings(host: str, path: str) -> Iterator[str]:
    """Keys under which an engine may be listed, the most special first; {} stands for a country."""
    bare = host.removeprefix("www.")
    hosts = [bare]
    labels = bare.split(".")
    if len(labels) > 2 and len(labels[0]) == 2:
        hosts.append(".".join(["{}", *labels[1:]]))
    if len(labels) > 1 and (len(labels[-1]) == 2 or labels[-1] == "com"):
        hosts.append(".".join([*labels[:-1], "{}"]))
        if len(labels) > 2 and labels[-2] in _SECOND_LEVEL:
            hosts.append(".".join([*labels[:-2], "{}"]))
    first = "/" + path.split("/")[1] if path.startswith("/") else ""
    yield from (name + first for name in hosts if len(first) > 1)
    yield from hosts


def _tail(raw: str) -> str:
    """Path and query of a referrer, as sent."""
    rest = raw.partition("//")[2] or raw
    cut = re.search(r"[/?]", rest)
    return rest[cut.start() :].partition("#")[0] if cut else ""


def _read_term(engine: _Engine, raw: str) -> str:
    tail = _tail(raw)
    query = tail.partition("?")[2]
    values = {name: value for name, _, value in (pair.partition("=") for pair in query.split("&")) if value}
    for name in engine.params:
        if name in values:
            return _decode_term(values[name], engine.charsets)
    for pattern in engine.term_patterns:
        found = pattern.search(tail)
        if found is not None and found.groups():
            return _decode_term(found[1], engine.charsets)
    return ""


def _decode_term(text: str, charsets: tuple[str, ...]) -> str:
    raw = unquote_to_bytes(text.replace("+", " ").encode("utf-8", "replace"))
    for charset in ("utf-8", *charsets):
        try:
            decoded = raw.decode(charset)
            break
        except UnicodeDecodeError:
            continue
    else:
        decoded = raw.decode("utf-8", "replace")
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", decoded).split())[:TERM_CHARS_MAX]

"""The marketing channel of a visit: one visible, ordered list of rules; the first that holds names the channel.

Made from the page's tags and its referrer, when a session begins. The grouping follows the default channel groups of
Google Analytics 4, so that figures can be compared, with fewer groups: shopping and video count as search and social.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from pipeline.core.referrer import Referrer, ReferrerKind, source_kind
from pipeline.core.url import Page


class Channel(StrEnum):
    """A closed list; OTHER is tagged traffic that no rule knows, and refused traffic."""

    DIRECT = "direct"
    ORGANIC_SEARCH = "organic_search"
    PAID_SEARCH = "paid_search"
    ORGANIC_SOCIAL = "organic_social"
    PAID_SOCIAL = "paid_social"
    EMAIL = "email"
    DISPLAY = "display"
    AFFILIATE = "affiliate"
    REFERRAL = "referral"
    PUSH = "push"
    SMS = "sms"
    OTHER = "other"


class Signals(NamedTuple):
    """What the rules look at.

    source, medium: utm values, lower case. kind: the referrer's. named: what utm_source names, or else the host.
    """

    source: str
    medium: str
    click_id_type: str
    kind: ReferrerKind
    named: ReferrerKind


class Rule(NamedTuple):
    """One entry of RULES."""

    channel: Channel
    holds: Callable[[Signals], bool]


SIGNALS_CACHED_MAX: Final = 4_096

_EMAIL = re.compile(r"e[-_ ]?mail|newsletter")
_SOCIAL_MEDIUM = re.compile(r"(organic[-_ ]?)?(social|sm|social[-_ ]?(network|media))")
_PAID_SEARCH_MEDIUM = re.compile(r"paid[-_ ]?search|sem")
_PAID_SOCIAL_MEDIUM = re.compile(r"(paid|cpc|ppc)[-_ ]?social|social[-_ ]?(paid|ads|cpc)")
_PAID_MEDIUM = re.compile(r".*cp[acv]|ppc|retargeting|remarketing|paid.*")
_DISPLAY_MEDIUM = re.compile(r"display|banner|expandable|interstitial|cpm|native|programmatic")

SEARCH_AD_CLICK_IDS: Final = frozenset({"gclid", "gbraid", "wbraid", "msclkid", "yclid"})
SOCIAL_AD_CLICK_IDS: Final = frozenset({"ttclid", "twclid", "li_fat_id", "sccid", "rdt_cid"})
SOCIAL_CLICK_IDS: Final = frozenset({"fbclid", "epik"})
DISPLAY_CLICK_IDS: Final = frozenset({"dclid", "tblci"})
AFFILIATE_CLICK_IDS: Final = frozenset({"irclickid", "cjevent", "awc"})

RULES: Final = (
    Rule(Channel.OTHER, lambda s: s.kind is ReferrerKind.SPAM),
    Rule(Channel.AFFILIATE, lambda s: s.medium in {"affiliate", "affiliates"}),
    Rule(Channel.AFFILIATE, lambda s: s.click_id_type in AFFILIATE_CLICK_IDS),
    Rule(Channel.SMS, lambda s: "sms" in {s.medium, s.source}),
    Rule(Channel.PUSH, lambda s: s.medium.endswith("push") or "notification" in s.medium or s.source == "push"),
    Rule(Channel.EMAIL, lambda s: bool(_EMAIL.fullmatch(s.medium) or _EMAIL.fullmatch(s.source))),
    Rule(Channel.DISPLAY, lambda s: bool(_DISPLAY_MEDIUM.fullmatch(s.medium))),
    Rule(Channel.PAID_SOCIAL, lambda s: bool(_PAID_SOCIAL_MEDIUM.fullmatch(s.medium))),
    Rule(Channel.PAID_SEARCH, lambda s: bool(_PAID_SEARCH_MEDIUM.fullmatch(s.medium))),
    Rule(Channel.PAID_SOCIAL, lambda s: s.named is ReferrerKind.SOCIAL and bool(_PAID_MEDIUM.fullmatch(s.medium))),
    Rule(Channel.PAID_SEARCH, lambda s: s.named is ReferrerKind.SEARCH and bool(_PAID_MEDIUM.fullmatch(s.medium))),
    Rule(Channel.PAID_SEARCH, lambda s: s.click_id_type in SEARCH_AD_CLICK_IDS),
    Rule(Channel.PAID_SOCIAL, lambda s: s.click_id_type in SOCIAL_AD_CLICK_IDS),
    Rule(Channel.DISPLAY, lambda s: s.click_id_type in DISPLAY_CLICK_IDS),
    Rule(Channel.OTHER, lambda s: bool(_PAID_MEDIUM.fullmatch(s.medium))),
    Rule(Channel.ORGANIC_SOCIAL, lambda s: bool(_SOCIAL_MEDIUM.fullmatch(s.medium))),
    Rule(Channel.ORGANIC_SEARCH, lambda s: s.medium == "organic"),
    Rule(Channel.REFERRAL, lambda s: s.medium in {"referral", "app", "link"}),
    Rule(Channel.ORGANIC_SOCIAL, lambda s: s.named is ReferrerKind.SOCIAL),
    Rule(Channel.ORGANIC_SEARCH, lambda s: s.named is ReferrerKind.SEARCH),
    Rule(Channel.EMAIL, lambda s: s.named is ReferrerKind.EMAIL or s.click_id_type == "mc_cid"),
    Rule(Channel.ORGANIC_SOCIAL, lambda s: s.click_id_type in SOCIAL_CLICK_IDS),
    Rule(Channel.REFERRAL, lambda s: s.named is ReferrerKind.CHATBOT or s.kind is ReferrerKind.OTHER),
    Rule(Channel.DIRECT, lambda s: s.kind in {ReferrerKind.DIRECT, ReferrerKind.INTERNAL} and not s.medium),
    Rule(Channel.DIRECT, lambda s: s.source in {"", "direct", "(direct)"} and s.medium in {"", "(none)", "(not set)"}),
    Rule(Channel.OTHER, lambda s: True),
)


def channel_of(page: Page, referrer: Referrer) -> Channel:
    """Name the channel that brought a visit.

    page: the visit's first page; referrer: what `read_referrer` made of it.
    utm_source outranks the referrer's host. An internal referrer is direct: the visit was interrupted, not sent.
    """
    source = page.utm_source.lower()
    signals = Signals(
        source=source,
        medium=page.utm_medium.lower(),
        click_id_type=page.click_id_type,
        kind=referrer.kind,
        named=source_kind(source) if source else referrer.host_kind,
    )
    return _first_channel(signals)


@lru_cache(maxsize=SIGNALS_CACHED_MAX)
def _first_channel(signals: Signals) -> Channel:
    return next(rule.channel for rule in RULES if rule.holds(signals))

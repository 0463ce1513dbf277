"""Referrers and channels: every kind by name, the order of precedence, and a real log."""

import gzip
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.channel import RULES, Channel, channel_of
from pipeline.core.referrer import Referrer, ReferrerKind, is_internal, read_referrer, site_of, source_kind
from pipeline.core.url import CLICK_ID_KEYS, Page, read_url

DATA = Path(os.environ.get("HERALD_TEST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
needs_logs = pytest.mark.skipif(
    not (DATA / "access_logs").is_dir(), reason=f"no published access logs in {DATA} (set HERALD_TEST_DATA)"
)

SHOP = read_url("https://www.shop.example/")


def tagged(query: str) -> Page:
    return read_url("https://www.shop.example/?" + query)


@pytest.mark.parametrize(
    ("raw", "kind", "source", "term"),
    [
        ("", "direct", "", ""),
        ("-", "direct", "", ""),
        ("javascript:void(0)", "direct", "", ""),
        ("https://www.shop.example/a", "internal", "www.shop.example", ""),
        ("https://blog.shop.example/", "internal", "blog.shop.example", ""),
        ("https://pay.partner.example/", "internal", "pay.partner.example", ""),
        ("https://www.google.com/", "search", "Google", ""),
        ("https://google.de", "search", "Google", ""),
        ("https://www.google.co.uk/search?q=red+shoe&hl=en", "search", "Google", "red shoe"),
        ("http://www.google.fr/url?sa=t&rct=j&q=&url=x", "search", "Google", ""),
        ("https://images.google.fr/imgres?q=%C3%A9t%C3%A9", "search", "Google Images", "été"),
        ("android-app://com.google.android.googlequicksearchbox/", "search", "Google", ""),
        ("https://www.bing.com/search?q=shoe", "search", "Bing", "shoe"),
        ("https://search.yahoo.com/search?p=shoe", "search", "Yahoo!", "shoe"),
        ("https://duckduckgo.com/", "search", "DuckDuckGo", ""),
        ("https://search.brave.com/", "search", "Brave", ""),
        ("https://yandex.ru/clck/jsredir?from=yandex.ru", "search", "Yandex", ""),
        ("https://www.baidu.com/s?wd=%D0%AC%D7%D3", "search", "Baidu", "鞋子"),
        ("https://www.google.com/maps/place/x", "other", "www.google.com", ""),
        ("https://docs.google.com/document/1", "other", "docs.google.com", ""),
        ("https://www.cnn.com/", "other", "www.cnn.com", ""),
        ("https://l.facebook.com/l.php?u=x", "social", "Facebook", ""),
        ("https://t.co/abc", "social", "Twitter", ""),
        ("https://old.reddit.com/r/shoes", "social", "reddit", ""),
        ("https://www.linkedin.com/feed/", "social", "LinkedIn", ""),
        ("https://mail.google.com/mail/u/0/", "email", "Gmail", ""),
        ("android-app://com.google.android.gm/", "email", "Gmail", ""),
        ("https://webmail.provider.example/", "email", "webmail.provider.example", ""),
        ("https://chatgpt.com/", "chatbot", "ChatGPT", ""),
        ("https://www.perplexity.ai/search/x", "chatbot", "Perplexity", ""),
        ("https://claude.ai/chat/1", "chatbot", "Claude", ""),
        ("https://gemini.google.com/app", "chatbot", "Gemini", ""),
        ("https://copilot.microsoft.com/", "chatbot", "Copilot", ""),
        ("https://www.bing.com/chat?q=x", "chatbot", "Copilot", ""),
        ("https://news.site.example/a", "other", "news.site.example", ""),
        ("http://semalt.semalt.com/crawler.php", "spam", "semalt.semalt.com", ""),
    ],
)
def test_each_host_has_its_kind_source_and_term(raw: str, kind: str, source: str, term: str) -> None:
    found = read_referrer(raw, SHOP, frozenset({"pay.partner.example"}))
    assert (found.kind, found.source, found.term) == (kind, source, term)


def test_an_advertisements_click_id_outranks_the_engine_that_showed_it() -> None:
    found = read_referrer("https://www.google.com/", tagged("gclid=1&utm_term=shoe"))
    assert found == Referrer(ReferrerKind.PAID, "www.google.com", "Google", "shoe", ReferrerKind.SEARCH)


def test_a_click_id_that_unpaid_clicks_carry_too_is_not_paid() -> None:
    assert read_referrer("https://l.facebook.com/", tagged("fbclid=1")).kind is ReferrerKind.SOCIAL


def test_a_tagged_link_is_a_campaign_even_from_the_site_itself() -> None:
    found = read_referrer("https://www.shop.example/", tagged("utm_source=banner&utm_campaign=spring"))
    assert (found.kind, found.source, found.host_kind) == ("campaign", "banner", "internal")


def test_spam_stays_spam_whatever_its_tags_say() -> None:
    assert read_referrer("https://semalt.com/", tagged("gclid=1&utm_source=google")).kind is ReferrerKind.SPAM


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("shop.example", "shop.example"),
        ("a.b.shop.example", "shop.example"),
        ("www.shop.co.uk", "shop.co.uk"),
        ("shop.co.uk", "shop.co.uk"),
        ("ann.github.io", "ann.github.io"),
        ("x.ann.github.io", "ann.github.io"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("localhost", "localhost"),
        ("", ""),
    ],
)
def test_the_registrable_domain_of_a_host(host: str, site: str) -> None:
    assert site_of(host) == site


def test_without_a_page_host_nothing_is_internal_by_its_domain() -> None:
    assert not is_internal("a.example", "")
    assert not is_internal("192.0.2.1", "192.0.2.2")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("google", "search"),
        ("Bing", "search"),
        ("facebook", "social"),
        ("FB", "social"),
        ("m.facebook.com", "other"),
        ("facebook.com", "social"),
        ("chatgpt.com", "chatbot"),
        ("partner", "other"),
        ("", "other"),
    ],
)
def test_a_utm_source_is_known_by_name_or_host(source: str, kind: str) -> None:
    assert source_kind(source) == kind


@pytest.mark.parametrize(
    ("query", "referrer", "channel"),
    [
        ("", "", Channel.DIRECT),
        ("", "https://www.shop.example/a", Channel.DIRECT),
        ("utm_source=(direct)&utm_medium=(none)", "", Channel.DIRECT),
        ("", "https://www.google.com/", Channel.ORGANIC_SEARCH),
        ("utm_source=google&utm_medium=organic", "", Channel.ORGANIC_SEARCH),
        ("gclid=1", "https://www.google.com/", Channel.PAID_SEARCH),
        ("utm_source=google&utm_medium=cpc", "", Channel.PAID_SEARCH),
        ("utm_source=bing&utm_medium=PPC", "", Channel.PAID_SEARCH),
        ("utm_source=partner&utm_medium=paid-search", "", Channel.PAID_SEARCH),
        ("", "https://t.co/x", Channel.ORGANIC_SOCIAL),
        ("fbclid=1", "", Channel.ORGANIC_SOCIAL),
        ("utm_source=facebook", "https://news.example/", Channel.ORGANIC_SOCIAL),
        ("utm_source=spring&utm_medium=social-network", "", Channel.ORGANIC_SOCIAL),
        ("utm_source=facebook&utm_medium=cpc&fbclid=1", "https://l.facebook.com/", Channel.PAID_SOCIAL),
        ("utm_source=ig&utm_medium=paid_social", "", Channel.PAID_SOCIAL),
        ("ttclid=1", "https://www.tiktok.com/", Channel.PAID_SOCIAL),
        ("utm_medium=email", "", Channel.EMAIL),
        ("utm_source=newsletter&utm_campaign=may", "", Channel.EMAIL),
        ("", "https://mail.google.com/", Channel.EMAIL),
        ("mc_cid=1", "", Channel.EMAIL),
        ("utm_source=google&utm_medium=display&gclid=1", "", Channel.DISPLAY),
        ("utm_source=x&utm_medium=cpm", "", Channel.DISPLAY),
        ("dclid=1", "", Channel.DISPLAY),
        ("utm_source=blog&utm_medium=affiliate", "", Channel.AFFILIATE),
        ("awc=1", "https://www.awin1.com/", Channel.AFFILIATE),
        ("", "https://news.example/", Channel.REFERRAL),
        ("", "https://chatgpt.com/", Channel.REFERRAL),
        ("utm_source=chatgpt.com", "https://chatgpt.com/", Channel.REFERRAL),
        ("utm_source=partner&utm_medium=referral", "", Channel.REFERRAL),
        ("utm_source=app&utm_medium=web_push", "", Channel.PUSH),
        ("utm_source=app&utm_medium=notification", "", Channel.PUSH),
        ("utm_source=sms&utm_campaign=may", "", Channel.SMS),
        ("utm_source=partner&utm_medium=cpc", "", Channel.OTHER),
        ("utm_source=partner&utm_medium=strange", "", Channel.OTHER),
        ("", "https://semalt.com/", Channel.OTHER),
    ],
)
def test_each_visit_has_its_channel(query: str, referrer: str, channel: Channel) -> None:
    page = tagged(query)
    assert channel_of(page, read_referrer(referrer, page)) is channel


def test_every_channel_has_a_rule_and_the_last_rule_always_holds() -> None:
    assert {rule.channel for rule in RULES} == set(Channel)
    assert RULES[-1].channel is Channel.OTHER


_PIECE = st.sampled_from(
    [
        "https://",
        "www.",
        "google",
        ".com",
        ".co.uk",
        "/",
        "?",
        "q=",
        "%",
        "a",
        "&",
        "://",
        "@",
        "\ud800",
        "t.co",
        "bing",
    ]
)
_ANY = st.text(alphabet=st.characters(exclude_categories=())) | st.lists(_PIECE, max_size=12).map("".join)


@settings(deadline=None)
@given(_ANY, st.sampled_from(CLICK_ID_KEYS), _ANY, _ANY)
def test_no_input_raises_and_every_visit_has_a_channel(raw: str, click: str, source: str, medium: str) -> None:
    page = Page(host="a.example", utm_source=source, utm_medium=medium, click_id="1", click_id_type=click)
    found = read_referrer(raw, page, frozenset({"google.com"}))
    assert isinstance(channel_of(page, found), Channel)
    found.source.encode("utf-8", "surrogatepass")


@needs_logs
def test_the_referrers_of_a_real_log_are_classed() -> None:
    text = gzip.decompress((DATA / "access_logs" / "apache_combined_2015.log.gz").read_bytes()).decode()
    page = read_url("http://www.semicomplete.com/")
    kinds = Counter(read_referrer(line.split('"')[3].removeprefix("-"), page).kind for line in text.splitlines())
    assert kinds == {"internal": 5_039, "direct": 4_073, "search": 590, "other": 261, "social": 37}

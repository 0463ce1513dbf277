"""Canonical URLs: every spelling of a page has one, and no input breaks the reader."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.url import CLICK_ID_KEYS, KEPT_KEYS, URL_CHARS_MAX, Page, read_url


@pytest.mark.parametrize(
    ("raw", "url"),
    [
        ("HTTP://Example.COM:80/a", "http://example.com/a"),
        ("https://example.com:443", "https://example.com/"),
        ("https://example.com:8443/", "https://example.com:8443/"),
        ("https://example.com:080/", "https://example.com:80/"),
        ("https://example.com./a", "https://example.com/a"),
        ("https://example.com/a#top", "https://example.com/a"),
        ("https://example.com/a/b/../c/./d", "https://example.com/a/c/d"),
        ("https://example.com/a/..", "https://example.com/"),
        ("https://example.com/../../a", "https://example.com/a"),
        ("https://example.com/a/%2e%2E/b", "https://example.com/b"),
        ("https://example.com/%7Ebob/%c3%a9", "https://example.com/~bob/%C3%A9"),
        ("https://example.com/café au lait", "https://example.com/caf%C3%A9%20au%20lait"),
        ("https://example.com/50%", "https://example.com/50%25"),
        ("https://example.com/a%2Fb", "https://example.com/a%2Fb"),
        ("https://example.com\\a\\b", "https://example.com/a/b"),
        ("https:example.com/a", "https://example.com/a"),
        ("//cdn.example.com/x.js", "https://cdn.example.com/x.js"),
        ("example.com:8080/a", "https://example.com:8080/a"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("https://ann:pw@example.com/a", "https://example.com/a"),
        ("http://[2001:DB8::1]:80/", "http://[2001:db8::1]/"),
        ("https://ex ample.com/a", ""),
        ("https://example.com:99999/a", ""),
        ("https:///a", "https://a/"),
        ("javascript:alert(1)", ""),
        ("data:text/html,<p>", ""),
        ("about:blank", ""),
        ("", ""),
        ("/a/../b?q=1", "/b?q=1"),
        ("?page=2", "?page=2"),
        ("/.//evil.example/", "/evil.example/"),
        ("android-app://com.google.android.gm/", "android-app://com.google.android.gm/"),
        (" https://example.com/\x00a\n", "https://example.com/a"),
    ],
)
def test_each_spelling_has_its_canonical_url(raw: str, url: str) -> None:
    assert read_url(raw).url == url


def test_only_listed_query_keys_stay_and_they_are_sorted() -> None:
    page = read_url("https://a.example/l?zz=1&q=red+shoe&Page=2&id=7&id=7&fbp=1&q=%c3%bc&s=")
    assert page.url == "https://a.example/l?id=7&page=2&q=%C3%BC&q=red%20shoe&s="


def test_campaign_tags_are_read_and_leave_the_url() -> None:
    page = read_url(
        "https://a.example/?utm_source=News%20Letter&UTM_Medium=email&utm_campaign=a+b&utm_term=t&utm_content=c&utm_id=9"
    )
    assert page == Page("https://a.example/", "a.example", "/", "News Letter", "email", "a b", "t", "c", "9")


def test_tags_in_a_fragment_are_read() -> None:
    assert read_url("https://a.example/#utm_source=x&utm_medium=y").utm_medium == "y"


@pytest.mark.parametrize("name", CLICK_ID_KEYS)
def test_every_click_id_is_extracted_and_removed(name: str) -> None:
    page = read_url(f"https://a.example/?{name}=Ab-1_2&id=3")
    assert (page.click_id, page.click_id_type, page.url) == ("Ab-1_2", name, "https://a.example/?id=3")


def test_the_first_listed_click_id_wins_whatever_the_order_in_the_url() -> None:
    page = read_url("https://a.example/?fbclid=f&gclid=g")
    assert (page.click_id_type, page.click_id) == ("gclid", "g")


def test_tags_are_read_even_when_the_host_is_broken() -> None:
    page = read_url("https://ex<am>ple/?utm_source=x")
    assert (page.url, page.host, page.path, page.utm_source) == ("", "", "/", "x")


def test_a_long_url_is_cut_before_it_is_read() -> None:
    page = read_url("https://a.example/" + "%C3%A9" * 2_000)
    assert len(page.url) <= URL_CHARS_MAX
    assert "%25" not in page.url


def test_lone_surrogates_and_nul_are_read() -> None:
    page = read_url("https://a.example/\ud800x\x00?utm_source=\udc00")
    assert page.url == "https://a.example/%EF%BF%BDx"
    page.url.encode()


_PIECES = st.sampled_from([
    "http:", "https:", "//", "/", "\\", "..", ".", "%", "%2e", "%2F", "%zz", "?", "&", "=", "#", "@", ":", "[", "]",
    "a.example", "ü", "utm_source", "gclid", "q", "id", "80", "443", " ", "\x00", "\ud800", "+", "😀", ";", "<",
])  # fmt: skip
_ANY = st.text(alphabet=st.characters(exclude_categories=())) | st.lists(_PIECES, max_size=20).map("".join)


@settings(deadline=None)
@given(_ANY)
@example("https://[::1")
@example("https://a:b:c")
@example("//" + "x." * 4_000)
def test_no_input_raises_and_the_canonical_url_is_a_fixed_point(raw: str) -> None:
    page = read_url(raw)
    assert read_url(page.url).url == page.url
    assert page.url.isascii() or not page.url
    assert "#" not in page.url
    for value in (page.url, page.host, page.path, page.utm_source, page.click_id):
        value.encode()


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(KEPT_KEYS)), st.text(max_size=20), max_size=6), st.randoms())
def test_the_order_of_query_keys_does_not_matter(pairs: dict[str, str], rng: object) -> None:
    from urllib.parse import quote

    encoded = [f"{key}={quote(value, safe='')}" for key, value in pairs.items()
               if not any(0xD800 <= ord(char) < 0xE000 for char in value)]  # fmt: skip
    shuffled = list(encoded)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert read_url("https://a.example/?" + "&".join(encoded)).url == (
        read_url("https://a.example/?" + "&".join(shuffled)).url
    )

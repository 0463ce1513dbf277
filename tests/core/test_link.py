"""Signed addresses: only ours are followed, unaltered, in time, and only to plain web addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.link import Expired, Link, LinkFault, LinkKind, is_safe_target, seal, unseal

KEY = b"k" * 32
URL = "https://shop.example/p?id=1#top"


def link(kind: LinkKind = LinkKind.CLICK, action_id: str = "a1", target: str = URL) -> Link:
    return Link(kind, "0" * 32, action_id, "demo", "home", "c1", "k1", 1_000, target)


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@given(st.builds(Link, st.just(LinkKind.CLICK), *[TEXT] * 6, st.integers(0, 2**50), st.just(URL)))
def test_a_token_says_what_was_sealed_in_it(sealed: Link) -> None:
    token = seal(sealed, KEY)
    assert unseal(token, (KEY,), LinkKind.CLICK, sealed.expires_ms) == sealed
    assert token.replace("-", "").replace("_", "").isalnum()


def test_no_character_of_a_token_can_be_changed() -> None:
    """Every place, every other character of the alphabet, and every other byte that an address may hold."""
    token = seal(link(), KEY)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~=%+/"
    for at, found in enumerate(token):
        for other in alphabet:
            if other != found:
                altered = token[:at] + other + token[at + 1 :]
                assert isinstance(unseal(altered, (KEY,), LinkKind.CLICK, 0), LinkFault), (at, other)


@given(st.data())
def test_a_token_that_is_cut_lengthened_or_turned_is_refused(data: st.DataObject) -> None:
    token = seal(link(), KEY)
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(token)), st.integers(0, len(token)))))
    extra = data.draw(st.text("ABCab01-_=", max_size=5))
    altered = token[:start] + extra + token[end:]
    if altered != token:
        assert isinstance(unseal(altered, (KEY,), LinkKind.CLICK, 0), LinkFault)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.hex()))
def test_whatever_comes_as_a_token_is_refused_without_an_error(token: str) -> None:
    assert isinstance(unseal(token, (KEY,), LinkKind.IMPRESSION, 0), LinkFault)


def test_another_key_another_kind_and_another_time_are_refused() -> None:
    token = seal(link(), KEY)
    assert unseal(token, (b"x" * 32,), LinkKind.CLICK, 0) is LinkFault.FORGED
    assert unseal(token, (KEY,), LinkKind.IMPRESSION, 0) is LinkFault.MALFORMED
    assert unseal(token, (KEY,), LinkKind.CLICK, 1_000) == link()
    assert unseal(token, (KEY,), LinkKind.CLICK, 1_001) == Expired(link())


def test_age_forgives_nothing() -> None:
    """A token that is expired and altered, of another kind or unsafe is refused like a fresh one."""
    token = seal(link(), KEY)
    assert unseal("x" + token[1:], (KEY,), LinkKind.CLICK, 1_001) is LinkFault.FORGED
    assert unseal(token, (KEY,), LinkKind.IMPRESSION, 1_001) is LinkFault.MALFORMED
    assert unseal(seal(link(target="javascript:1"), KEY), (KEY,), LinkKind.CLICK, 1_001) is LinkFault.MALFORMED


def test_the_action_of_one_token_cannot_stand_in_another() -> None:
    first, second = seal(link(action_id="a1"), KEY), seal(link(action_id="a2"), KEY)
    assert unseal(first[:24] + second[24:], (KEY,), LinkKind.CLICK, 0) is LinkFault.FORGED


def test_a_sealed_token_still_leads_nowhere_unsafe() -> None:
    assert unseal(seal(link(target="javascript:alert(1)"), KEY), (KEY,), LinkKind.CLICK, 0) is LinkFault.MALFORMED
    assert unseal(seal(link(target=""), KEY), (KEY,), LinkKind.CLICK, 0) is LinkFault.MALFORMED
    assert isinstance(unseal(seal(link(LinkKind.IMPRESSION, target=""), KEY), (KEY,), LinkKind.IMPRESSION, 0), Link)


@pytest.mark.parametrize("url", [
    "https://shop.example", "http://shop.example:8080/a?b=c&d=%20#e", "HTTPS://Shop.Example/", "http://127.0.0.1/x",
    "http://[::1]:80/x", "https://xn--bcher-kva.example/", "https://a_b.example/~x;y=(1)!*'$,|", "https://x.example./",
])  # fmt: skip
def test_plain_web_addresses_are_safe(url: str) -> None:
    assert is_safe_target(url)


@pytest.mark.parametrize("url", [
    "", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "data:text/html,x", "ftp://x.example",
    "https:/evil.example", "https:evil.example", "https:///evil.example", "https://user@evil.example",
    "https://user:pass@evil.example", "https://good.example\\@evil.example", "https://good.example\\.evil.example",
    "https://x.example/a b", "https://x.example/\r\nSet-Cookie: a=b", "https://x.example/\n", "https://x.example\t/",
    "https://x.example/\x00", "https://bücher.example/", "https://x.example/é", "https://x.example/\u2028", " https://x.example",
    "https://", "https://?", "https://x.example:port/", "https://x.example:999999/", "https://x.example/\"onclick",
    "https://x.example/<script>", "https://-", "https://x.example/" + "a" * 2_048, "https://%65vil.example/",
    "https://x.example\uff0fevil.example/", "https://\ud800.example/",
])  # fmt: skip
def test_whatever_could_lead_elsewhere_is_refused(url: str) -> None:
    assert not is_safe_target(url)


@given(st.text(max_size=60))
def test_a_safe_target_is_one_line_of_ascii_with_its_host_right_after_the_scheme(text: str) -> None:
    for url in (text, "https://" + text, "http://x.example" + text):
        if is_safe_target(url):
            assert url.isascii()
            assert url.isprintable()
            assert " " not in url
            host = url.partition("://")[2].partition("/")[0].partition("?")[0].partition("#")[0]
            assert "@" not in host
            assert "\\" not in url


def test_while_a_key_is_being_changed_addresses_of_both_are_accepted() -> None:
    older, newer = b"o" * 32, b"n" * 32
    for key in (older, newer):
        assert unseal(seal(link(), key), (newer, older), LinkKind.CLICK, 0) == link()
    assert unseal(seal(link(), older), (newer,), LinkKind.CLICK, 0) is LinkFault.FORGED
    assert unseal(seal(link(), older), (), LinkKind.CLICK, 0) is LinkFault.FORGED

"""Masking: nothing personal remains, everything else does, and the shape of the body holds."""

import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.mask import SECRET_KEYS, is_card_number, mask, pseudonym, truncate_ip

KEY = b"a key for tests"
ANN = b"em_" + pseudonym(b"ann.b+news@shop.example", KEY)[3:]
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CARD = "4111111111111111"
AN_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]+(?:@|%40|%2540|\\u0040)[A-Za-z0-9.-]+\.[A-Za-z]{2,}")


def test_a_body_with_nothing_to_mask_is_returned_as_the_same_object() -> None:
    for raw in (b"", b'{"event":"page","n":1}', b'{"url":"https://a.example/?utm_source=x&q=1%202"}', b"e=pv&p=web"):
        assert mask(raw, KEY) is raw


@pytest.mark.parametrize(
    "written",
    [
        "ann.b+news@shop.example",
        "Ann.B+News@Shop.Example",
        "ann.b%2Bnews@shop.example",
        "ann.b+news%40shop.example",
        "ann.b%2bnews%40shop%2Eexample",
        "ann.b%252Bnews%2540shop.example",
        "ann.b\\u002bnews\\u0040shop.example",
        "ann.b+news\\\\u0040shop.example",
    ],
)
def test_an_address_has_one_pseudonym_in_every_encoding(written: str) -> None:
    assert mask(f'{{"id":"{written}"}}'.encode(), KEY) == b'{"id":"%s"}' % ANN
    assert mask(f"uid={written}&e=pv".encode(), KEY) == b"uid=%s&e=pv" % ANN


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"mail:ann.b+news@shop.example, thanks"', '"mail:EM, thanks"'),
        (r'"a\nann.b+news@shop.example\tb"', r'"a\nEM\tb"'),
        (r'"\u003cann.b+news@shop.example\u003e"', r'"\u003cEM\u003e"'),
        ('"https://a.example/?e=ann.b%2Bnews%40shop.example&x=1"', '"https://a.example/?e=EM&x=1"'),
        ('"https%3A%2F%2Fa%3Fe%3Dann.b%252Bnews%2540shop.example%26x"', '"https%3A%2F%2Fa%3Fe%3DEM%26x"'),
        ('"%20ann.b+news@shop.example%20"', '"%20EM%20"'),
        ('"%253Dann.b%252Bnews%2540shop.example"', '"%253DEM"'),
        ("\"'ann.b+news@shop.example'\"", "\"'EM'\""),
        ('"写信ann.b+news@shop.example吧"', '"写信EM吧"'),
        ('"https://a.example/logo@2x.png"', '"https://a.example/logo@2x.png"'),
        ('"https://social.example/@ann/1"', '"https://social.example/@ann/1"'),
        ('"https://cdn.example/jquery@3.6.0/j.js"', '"https://cdn.example/jquery@3.6.0/j.js"'),
        ('"a @ b.example"', '"a @ b.example"'),
    ],
)
def test_an_address_is_found_where_it_stands(before: str, after: str) -> None:
    assert mask(before.encode(), KEY).decode() == after.replace("EM", ANN.decode())


def test_addresses_that_run_into_each_other_leave_none() -> None:
    for raw in (b"a@b.example@c.example", b"a@b.example.@c.example", b"a@b@c.example", b"a@b.example,c@d.example"):
        masked = mask(b'"%s"' % raw, KEY)
        assert not AN_ADDRESS.search(masked.decode())
        assert mask(masked, KEY) == masked


def test_an_address_in_other_letters_is_masked() -> None:
    raw = json.dumps({"a": "用户@例子.example", "b": "用户@例子.example"}, ensure_ascii=False).encode()
    masked = json.loads(mask(raw, KEY))
    assert re.fullmatch("em_[0-9a-f]{16}", masked["a"])
    escaped = json.loads(mask(json.dumps({"a": "用户@例子.example"}).encode(), KEY))
    encoded = mask(b"a=" + quote("用户@例子.example").encode(), KEY)
    assert masked["a"] == masked["b"] == escaped["a"] == encoded[2:].decode()


def test_another_key_gives_another_pseudonym() -> None:
    assert mask(b'"ann@shop.example"', b"1") != mask(b'"ann@shop.example"', b"2")


@pytest.mark.parametrize("name", [*(name.lstrip("*") for name in SECRET_KEYS), "reset_token", "X-Amz-Signature", "PWD"])
def test_the_value_of_every_secret_key_is_masked_in_urls(name: str) -> None:
    for before, after in (
        (f'{{"u":"https://a.example/?a=1&{name}=s3.cr/et%26x&b=2"}}', f'{{"u":"https://a.example/?a=1&{name}=x&b=2"}}'),
        (f'{{"u":"https://a.example/?{name}=s3cret"}}', f'{{"u":"https://a.example/?{name}=x"}}'),
        (f'{{"u":"\\/?{name}=a\\/b\\u0026b=2"}}', f'{{"u":"\\/?{name}=x\\u0026b=2"}}'),
        (f'{{"u":"/?a\\u003d1\\u0026{name}\\u003dabc#f"}}', f'{{"u":"/?a\\u003d1\\u0026{name}\\u003dx#f"}}'),
        (f"e=pv&url=https%3A%2F%2Fa%3F{name}%3Dab%252Fc%26b%3D2", f"e=pv&url=https%3A%2F%2Fa%3F{name}%3Dx%26b%3D2"),
        (f"u=%253Fa%253D1%2526{name}%253Dabc%2526b%253D2&q=1", f"u=%253Fa%253D1%2526{name}%253Dx%2526b%253D2&q=1"),
        (f'"{{\\"u\\":\\"/?{name}=abc\\"}}"', f'"{{\\"u\\":\\"/?{name}=x\\"}}"'),
    ):
        assert mask(before.encode(), KEY) == after.encode()


def test_a_key_that_only_ends_like_a_short_secret_stays() -> None:
    raw = b'{"u":"/?promo_code=SUMMER&monkey=1&sort_key=price&passenger=2&userid=7&design=a"}'
    assert mask(raw, KEY) is raw


def test_a_trackers_own_fields_stay_at_the_top_of_a_query_but_not_in_the_urls_it_carries() -> None:
    assert mask(b"e=pv&sid=abc&key=k&url=https%3A%2F%2Fa%3Fsid%3Dq%26a%3D1", KEY) == (
        b"e=pv&sid=abc&key=k&url=https%3A%2F%2Fa%3Fsid%3Dx%26a%3D1"
    )
    assert mask(b"sid=abc&token_auth=abc&password=p&url=/?sid=1", KEY) == b"sid=abc&token_auth=x&password=x&url=/?sid=x"


@pytest.mark.parametrize("around", ['"{}"', '"Bearer {}"', "t={}&a=1", '"/?a=1#id%3D{}"', r'"a\n{}\n"', "{}"])
def test_a_jwt_is_masked(around: str) -> None:
    assert mask(around.replace("{}", JWT).encode(), KEY) == around.replace("{}", "jwt").encode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f'"https://a.example/?cc={CARD}&a=1"', '"https://a.example/?cc=card&a=1"'),
        ('"https://a.example/?cc=4111-1111-1111-1111"', '"https://a.example/?cc=card"'),
        ('"https://a.example/?q=pay%204111%201111%201111%201111"', '"https://a.example/?q=pay%20card"'),
        (f"u=%2F%3Fcc%3D{CARD}%26a%3D1", "u=%2F%3Fcc%3Dcard%26a%3D1"),
        (f"cc={CARD}", "cc=card"),
        ('"https://a.example/?cc=4111111111111112"', None),
        (f'"https://a.example/item/{CARD}"', None),
        (f"u=https%3A%2F%2Fa%2Fitem%2F{CARD}", None),
        (f'{{"order":{CARD}}}', None),
        ('"https://a.example/?t=1700000000000&utm_id=120210000000000000"', None),
    ],
)
def test_a_card_number_is_masked_in_query_values_only(before: str, after: str | None) -> None:
    assert mask(before.encode(), KEY).decode() == (before if after is None else after)


@pytest.mark.parametrize(
    "digits", ["5555555555554444", "2223003122003222", "378282246310005", "6011111111111117", "3530111333300000"]
)
def test_published_test_cards_are_recognised(digits: str) -> None:
    assert is_card_number(digits)
    assert not is_card_number(digits[:-1] + str((int(digits[-1]) + 1) % 10))


_NAME = st.from_regex(r"[a-z0-9][a-z0-9._+-]{0,12}", fullmatch=True)
_DOMAIN = st.from_regex(r"[a-w][a-z0-9-]{0,8}(\.[a-z][a-z0-9]{0,5})?\.[a-z]{2,6}", fullmatch=True)
_ADDRESS = st.builds("{}@{}".format, _NAME, _DOMAIN)
_PIECE = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from([
        "?", "&", "=", "%", "%3D", "%26", "%253D", "%40", "%2540", "@", ".", "token", "sid", "key=", "?token=", "&sid=",
        "eyJ", JWT, CARD, "'", '"', "\\", "/", "a.example", "x.co", " ", "+", "%20", "%25", "\\u0040", "%2", "<", "-",
    ]),
    _ADDRESS,
    _ADDRESS.map(quote),
    _ADDRESS.map(lambda text: quote(quote(text))),
)  # fmt: skip
_PLAIN_PIECE = st.text("ab 1.-_+=&?/\\\"'<é写\n\x1f😀", max_size=8) | st.sampled_from(["&token=", JWT, CARD, "\\u0026"])
_TEXT = st.lists(_PIECE, max_size=8).map("".join)
_VALUE = st.recursive(
    _TEXT | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef", max_size=4), inner, max_size=3),
    max_leaves=6,
)


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shape(inner) for inner in value]
    return None if isinstance(value, str) else value


@pytest.mark.parametrize("padding", ["=", "==", "%3D", "%253d", r"\u003d"])
def test_the_padding_of_a_jwt_goes_with_it(padding: str) -> None:
    """Left behind, it would make a secret's name and a value of what follows."""
    raw = f'"{JWT}{padding}0"'.encode()
    assert mask(raw, KEY) == b'"jwt0"'
    assert mask(mask(raw, KEY), KEY) == b'"jwt0"'


@settings(deadline=None, max_examples=150)
@given(_VALUE, st.booleans())
def test_json_stays_valid_and_its_shape_and_numbers_stay(value: Any, ascii_only: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode()
    masked = mask(raw, KEY)
    assert _shape(json.loads(masked)) == _shape(value)
    assert mask(masked, KEY) == masked


@settings(deadline=None, max_examples=150)
@given(st.lists(_PLAIN_PIECE, max_size=3), _ADDRESS, st.booleans())
def test_no_address_remains_in_json(pieces: list[str], address: str, ascii_only: bool) -> None:
    raw = json.dumps({"a": " ".join([*pieces, address, *pieces])}, ensure_ascii=ascii_only).encode()
    masked = mask(raw, KEY).decode()
    assert not AN_ADDRESS.search(masked)


_FRAGMENTS = [
    b"@", b"%40", b"%2540", b"\\u0040", b"\\\\u0040", b"=", b"%3D", b"%253d", b"\\u003d", b"&", b"%26", b"?", b"/",
    b"\\/", b'"', b"'", b" ", b"+", b"%20", b"\n", b"\0", b"\xff", b"\xc3\xa9", b"\xe4\xb8\xad", b"a", b"ann", b".",
    b"-", b"_", b"~", b"a.example", b"token=", b"&sid=", b"?key=", b"password", CARD.encode(), b"378282246310005",
    b"4111", b"1", b"0", b"eyJ", b"eyJhbGciOiJ9", b".eyJzdWIi", JWT.encode(), b"em_0123456789abcdef", b"card",
    b"jwt", b"x", b"\\", b"\\u00e9", b"%C3%A9", b"%", b"%25", b"<", b"#", b"2x.png",
]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(_FRAGMENTS), max_size=12).map(b"".join), st.sampled_from([b"", b"a=1&", b'{"a":"']))
def test_what_is_masked_is_masked_once_and_for_all(before: bytes, text: bytes) -> None:
    """Whatever meets whatever, JSON or none: nothing raises, and no second look finds more."""
    masked = mask(before + text, KEY)
    assert mask(masked, KEY) == masked


@pytest.mark.parametrize(
    "raw",
    [
        rb"password%253d\/%2\u00400a.example",
        rb"a.example%20annpassword%3D%3D\\u0040b.example",
        b"cc=4111111111111111%204111111111111111",
        b"a=1&q=" + b"+".join([CARD.encode()] * 8),
        rb'" #=.eyJzdWIi_\u0040jwt2x.png%404111111111111111"',
        b"t=em_4111111111111111",
        b"%3D~password+%40eyJhbGciOiJ9%2e4111111111111111",
        rb"eyJ\\u0040jwt.4111111111111111\u00401passworda.example",
    ],
)
def test_a_second_look_finds_nothing_that_the_first_has_left(raw: bytes) -> None:
    """Each of them once did: an escaped `@` in a secret, a number before another one, one hidden by an address."""
    masked = mask(raw, KEY)
    assert mask(masked, KEY) == masked


def test_of_two_cards_in_a_row_both_are_masked() -> None:
    assert mask(b"cc=4111111111111111%204111111111111111&a=1", KEY) == b"cc=card%20card&a=1"
    assert mask(b"cc=4111111111111111+4111111111111111&a=1", KEY) == b"cc=card+card&a=1"


@settings(deadline=None)
@given(_ADDRESS)
def test_every_encoding_of_an_address_joins(address: str) -> None:
    expected = pseudonym(address.encode(), KEY)
    for written in (address, quote(address), quote(quote(address)), address.replace("@", "\\u0040"), address.upper()):
        assert mask(f'{{"a":"{written}"}}'.encode(), KEY) == b'{"a":"%s"}' % expected


@settings(deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1), st.text('abc ü\n"\\/%=&?.0123456789', max_size=30)))
def test_what_holds_nothing_personal_is_equal(value: dict[str, str]) -> None:
    raw = json.dumps(value).encode()
    masked = json.loads(mask(raw, KEY))
    for key, text in value.items():
        assert masked[key] == text or "%40" in text or re.search(r"[2-6][0-9]{3}([ %]*[0-9]){9}", text)


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("203.0.113.77", "203.0.113.0"),
        (" 10.1.2.3 ", "10.1.2.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
        ("203.0.113", ""),
        ("203.0.113.077", ""),
        ("999.1.1.1", ""),
        ("unknown", ""),
        ("", ""),
        ("x" * 10_000, ""),
    ],
)
def test_an_ip_is_cut_to_its_network(ip: str, network: str) -> None:
    assert truncate_ip(ip) == network


@settings(deadline=None)
@given(st.ip_addresses().map(str))
def test_cutting_an_ip_again_changes_nothing(ip: str) -> None:
    assert truncate_ip(truncate_ip(ip)) == truncate_ip(ip) != ""

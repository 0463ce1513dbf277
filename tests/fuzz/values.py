"""What breaks readers: hostile values, and ways to spoil a right message without making it noise."""

import copy
import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Any

Json = Any


class Literal:
    """Bytes that stand in JSON as they are, right or wrong."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __repr__(self) -> str:
        return "Literal"


class Pairs:
    """An object whose keys may come twice, or be no text."""

    def __init__(self, pairs: list[tuple[Json, Json]]) -> None:
        self.pairs = pairs

    def __repr__(self) -> str:
        return "Pairs"


LITERALS = [
    b"NaN", b"-Infinity", b"Infinity", b"1e999", b"-1e999", b"1e-999", b"9" * 400, b"9" * 5_000, b"9223372036854775808",
    b"-9223372036854775809", b"18446744073709551616", b"0.1e", b"01", b"+1", b".5", b"0x10", b"'a'", b"undefined", b"",
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"',
    b'"\\x41"', b'"\xff\xfe"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\x00"',
    b'"\n"', b'"unended', b"[" * 40 + b"]" * 40, b"[" * 3_000 + b"]" * 3_000,
    b'{"a":' * 200 + b"1" + b"}" * 200, b"{}}",
    b'{"__proto__":{"admin":true}}', b'{"constructor":{"prototype":{}}}',
]  # fmt: skip
VALUES: list[Json] = [
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 1.5, -0.0, 1e308, 5e-324, "", " ", "null",
    "undefined", "NaN", "0", "-1", "1e999", "12,50", "\0", "\u2028", "\u202e", "\ufeff", "é", "e\u0301", "😀",
    "👨‍👩‍👧", "ß" * 130,
    "x" * 129, "x" * 257, "x" * 5_000, "x" * 33_000, "%00%ff%zz", "../../etc/passwd", "' OR 1=1 --",
    "<script>alert(1)</script>",
    "${jndi:ldap://x}", "{{7*7}}", "=1+1", "ann@example.org", "javascript:alert(1)", "//evil.example", "https://a@b.example/",
    "2024-02-30T25:61:61Z", "2024-01-01T00:00:00+99:99", "-0001-01-01", "9999-12-31T23:59:59.999999999Z", "1e400",
    [], {}, [[]], [{}], [None] * 50, list(range(300)), ["x" * 200] * 20, {"": ""}, {"a": {"b": {"c": {"d": {}}}}},
    {str(number): number for number in range(300)}, {"k" * 129: 1}, {"$gt": ""}, {"data": {}}, [1] * 6_000,
]  # fmt: skip
KEYS: list[Json] = [
    "",
    "__proto__",
    "\0",
    "é",
    "a.b",
    "$a",
    "x" * 128,
    "x" * 129,
    "id",
    "type",
    "data",
    "batch",
    "0",
    " ",
]


def write(value: Json) -> bytes:
    """Return a value as JSON text; Literal and Pairs as they say."""
    try:
        return json.dumps(value, ensure_ascii=isinstance(value, dict | list) and len(value) % 2 == 0).encode(
            "utf-8", "replace"
        )
    except TypeError:
        pass  # there is a Literal or Pairs in it
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, Pairs):
        return b"{" + b",".join(write(key) + b":" + write(inner) for key, inner in value.pairs) + b"}"
    if isinstance(value, dict):
        return b"{" + b",".join(write(str(key)) + b":" + write(inner) for key, inner in value.items()) + b"}"
    return b"[" + b",".join(map(write, value)) + b"]"


def _places(value: Json, into: list[tuple[Json, Any]]) -> None:
    """Collect (container, key or index) of everything inside of a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        into.append((value, name))
        if len(into) < 400:
            _places(inner, into)


def spoil(rng: random.Random, value: Json) -> Json:
    """Change a JSON value in one place, in place where that goes; return what stands there now."""
    places: list[tuple[Json, Any]] = []
    _places(value, places)
    if not places or rng.random() < 0.02:
        return rng.choice([Literal(rng.choice(LITERALS)), any_value(rng)])
    container, name = rng.choice(places)
    rng.choice(CHANGES)(rng, container, name)
    return value


def any_value(rng: random.Random) -> Json:
    """One of VALUES, as a copy: it may be spoilt further."""
    return copy.deepcopy(rng.choice(VALUES))


def _replace(rng: random.Random, container: Json, name: Any) -> None:
    container[name] = any_value(rng)


def _literal(rng: random.Random, container: Json, name: Any) -> None:
    container[name] = Literal(rng.choice(LITERALS))


def _remove(rng: random.Random, container: Json, name: Any) -> None:
    del container[name]


def _wrap(rng: random.Random, container: Json, name: Any) -> None:
    inner = container[name]
    for _ in range(rng.choice([1, 2, 14, 15, 16, 17, 40])):
        inner = [inner] if rng.random() < 0.5 else {"a": inner}
    container[name] = inner


def _add_key(rng: random.Random, container: Json, name: Any) -> None:
    if isinstance(container, dict):
        container[rng.choice(KEYS)] = any_value(rng)
    else:
        container.insert(name, any_value(rng))


def _rename(rng: random.Random, container: Json, name: Any) -> None:
    if isinstance(container, dict):
        container[rng.choice([*KEYS, *container])] = container.pop(name)


def _twice(rng: random.Random, container: Json, name: Any) -> None:
    inner = container[name]
    if isinstance(inner, dict):
        pairs = [*inner.items(), *inner.items()]
        rng.shuffle(pairs)
        container[name] = Pairs([*pairs, (rng.choice(KEYS), any_value(rng))])
    elif isinstance(inner, list):
        container[name] = inner * 2
    else:
        container[name] = Literal(write(inner) + rng.choice([b"", b" ", b"\t", b"\x00", b"/**/"]))


def _other_type(rng: random.Random, container: Json, name: Any) -> None:
    inner = container[name]
    container[name] = rng.choice([[inner], {"value": inner}, str(inner)[:300], bool(inner), len(str(inner))])


CHANGES: list[Callable[[random.Random, Json, Any], None]] = [
    _replace, _replace, _literal, _remove, _wrap, _add_key, _rename, _twice, _other_type,
]  # fmt: skip


def damage(rng: random.Random, body: bytes) -> bytes:
    """Change bytes, whatever they mean."""
    at = rng.randrange(len(body) + 1)
    end = min(len(body), at + rng.randrange(1, 40))
    return rng.choice([
        lambda: body[:at],
        lambda: body[:at] + rng.randbytes(rng.randrange(1, 20)) + body[at:],
        lambda: body[:at] + body[end:],
        lambda: body[:end] + body[at:],
        lambda: body + body,
        lambda: b"\xef\xbb\xbf" + body,
        lambda: body.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-7"])),
        lambda: body.replace(b'"', b"'"),
        lambda: body.replace(b",", b",,", 1),
        lambda: b"data=" + body,
        lambda: b"",
    ])()  # fmt: skip


def pack(rng: random.Random, body: bytes) -> tuple[bytes, str]:
    """Return (a body packed rightly or wrongly, what Content-Encoding says of it)."""
    packed = gzip.compress(body, 1, mtime=0)
    return rng.choice([
        lambda: (packed, "gzip"),
        lambda: (packed, "gzip"),
        lambda: (packed, ""),
        lambda: (packed, "GZip"),
        lambda: (packed[:-4] + b"\0\0\0\0", "gzip"),
        lambda: (packed[: rng.randrange(len(packed))], "gzip"),
        lambda: (packed + b"rubbish", "gzip"),
        lambda: (gzip.compress(packed, 1, mtime=0), "gzip"),
        lambda: (gzip.compress(body[:7], mtime=0) + gzip.compress(body[7:], mtime=0), "gzip"),
        lambda: (b"\x1f\x8b" + body, "gzip"),
        lambda: (body, "gzip"),
        lambda: (zlib.compress(body, 1), "deflate"),
        lambda: (body, rng.choice(["br", "zstd", "deflate", "identity", "gzip, gzip", "x" * 300, "\xff"])),
    ])()  # fmt: skip

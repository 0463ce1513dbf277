"""What carries a message, spoilt: packing, headers, methods, addresses, and HTTP itself."""

import base64
import random

from tests.fuzz.shots import UNKNOWN_METHODS, Shot
from tests.fuzz.values import pack

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND", *sorted(UNKNOWN_METHODS))
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
HEADERS: dict[str, list[str]] = {
    "Authorization": ["Basic !!!", "Bearer x", "Basic", "basic " + "A" * 5_000, "\xff"],
    "Origin": ["https://shop.example", "https://evil.example", "null", "", "\xff", "x" * 500],
    "Cookie": ["herald_id=abc", "herald_id=null", 'herald_id="x', "; ; =;", "a=b; " * 1_000, "\xff=\xfe"],
    "X-Forwarded-For": ["1.2.3.4", "::1", "1.2.3.4, x, 5.6.7.8", "," * 500, "999.1.1.1", "[::1]:80"],
    "User-Agent": ["", "bot", "x" * 8_000, "\xe9\xff", "curl/8", "Googlebot/2.1"],
    "Referer": ["https://x.example/?email=jo@example.org", "\xff", "javascript:1", "x" * 8_000],
    "Content-Type": ["text/plain", "application/x-www-form-urlencoded", "", "\xff", "application/json; charset=utf-16"],
    "X-Long": ["a" * 8_000, "a" * 16_000, "a" * 17_000, "a" * 60_000],
    "Connection": ["close", "keep-alive", "Upgrade", "x, y"],
    "Upgrade": ["websocket", "h2c"],
    "Expect": ["100-continue", "x"],
    "DNT": ["1", "0", "x"],
    "Sec-GPC": ["1"],
    "SP-Anonymous": ["*"],
    "Range": ["bytes=0-1"],
    "X-HTTP-Method-Override": ["DELETE"],
}


def spoil_transport(rng: random.Random, shot: Shot, key: str) -> None:
    """Change what carries a shot, one to four times. key: a write key, for the headers that may hold one."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        kind = rng.randrange(4)
        if kind == 0:
            _spoil_body(rng, shot)
        elif kind == 1:
            _spoil_line(rng, shot)
        elif kind == 2:
            name = rng.choice(list(HEADERS))
            shot.headers.append((name, rng.choice(HEADERS[name])))
        else:
            basic = base64.b64encode(f"{key}:".encode()).decode()
            many = rng.choice([30, 58, 60, 61, 62, 63, 64, 70, 99, 130])
            shot.headers += rng.choice([
                [("Authorization", f"Basic {basic}")], [("X-Write-Key", key)], [("X-A", "1")] * many,
                [(f"X-{number}", "1") for number in range(many)],
            ])  # fmt: skip


def _spoil_body(rng: random.Random, shot: Shot) -> None:
    if rng.random() < 0.5:
        shot.body, encoding = pack(rng, shot.body)
        if encoding:
            shot.headers.append(("Content-Encoding", encoding))
    elif rng.random() < 0.5:
        shot.chunked = True
    elif rng.random() < 0.05:
        shot.body += b" " * rng.choice([1_048_576, 1_048_577])


def _spoil_line(rng: random.Random, shot: Shot) -> None:
    if rng.random() < 0.4:
        shot.method = rng.choice(METHODS)
    else:
        shot.target += rng.choice(["/", "?", "?writeKey=demo", "%20", "&x=" + "y" * 3_000])


def spoil_wire(rng: random.Random, shot: Shot) -> None:
    """Make HTTP itself wrong. What is only begun stays incomplete: it must not be stored."""
    head, _, _ = shot.payload().partition(b"\r\n\r\n")
    framing = (b"content-length", b"transfer-encoding")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(framing)]
    length = rng.choice([b"-1", b"+3", b"0x3", b"3, 4", b"9" * 30, b"\xc2\xb3", b""])
    chunk = rng.choice([b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n"])
    version = rng.choice([b"HTTP/1.2", b"HTTP/9.9", b"HTTQ/1.1", b""])
    shot.wire = rng.choice([
        _join(lines, b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + SMUGGLED,
        _join(lines, b"Transfer-Encoding: chunked", b"Content-Length: 300") + b"0\r\n\r\n" + SMUGGLED,
        _join(lines, b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
        _join(lines, b"Transfer-Encoding: chunked") + chunk,
        _join(lines, b"Content-Length: 3", b"Content-Length: 4") + b"abcd",
        _join(lines, b"Content-Length: " + length) + b"abc",
        _join(lines, b"Content-Length: 500") + shot.body[:100],
        _join(lines, b" folded", b"X:y"),
        _join(lines, b"X-Null: a\x00b", b"Bad Name: x", b": empty"),
        b"\n".join(lines)[: rng.randrange(1, 60)],
        rng.randbytes(rng.randrange(1, 400)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(100),
        lines[0].replace(b"HTTP/1.1", version) + b"\r\nHost: x\r\n\r\n",
        b"GET http://evil.example/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
    ])  # fmt: skip


def _join(lines: list[bytes], *more: bytes) -> bytes:
    return b"\r\n".join([*lines, *more]) + b"\r\n\r\n"

"""HTTP requests as bytes, made before anything is measured: the pixel, single calls, batches, decisions."""

from collections.abc import Iterable
from typing import Any, Literal
from urllib.parse import urlencode

import msgspec

from tests.bench.workload import KEY, bodies

Way = Literal["pixel", "single", "batch"]
_BROWSER = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0 Safari/537.36"


def of(way: Way, source: Iterable[dict[str, Any]]) -> list[bytes]:
    """Return the requests that carry these messages this way."""
    if way == "pixel":
        return [_pixel(message) for message in source]
    if way == "single":
        return [_post("/v1/track", msgspec.json.encode(message)) for message in source]
    return [_post("/v1/batch", body) for body in bodies(source)]


def decisions(actions: int, visitors: int) -> list[bytes]:
    """Return one question for each of so many visitors, with so many candidate actions each."""
    candidates = [{"id": f"action-{place}", "url": f"https://shop.example/{place}"} for place in range(actions)]
    return [
        _post(
            "/v1/decisions",
            msgspec.json.encode(
                {"placement": f"place-{number % 4}", "visitor": f"newcomer-{number:08d}", "actions": candidates}
            ),
        )
        for number in range(visitors)
    ]


def _pixel(message: dict[str, Any]) -> bytes:
    found = message["properties"]
    fields = {
        "k": KEY,
        "e": "product_view",
        "n": message["event"],
        "id": message["messageId"],
        "v": message["anonymousId"],
        "ts": message["timestamp"],
        "u": found.get("url", ""),
        "pid": found.get("product_id", ""),
        "b": found.get("brand", ""),
        "pr": found.get("price", ""),
        "cur": found.get("currency", ""),
    }
    query = urlencode({name: value for name, value in fields.items() if value != ""})
    return f"GET /p.gif?{query} HTTP/1.1\r\nhost: localhost\r\nuser-agent: {_BROWSER}\r\n\r\n".encode()


def _post(path: str, body: bytes) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nx-write-key: {KEY}\r\nuser-agent: analytics-python/2.4.0\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body

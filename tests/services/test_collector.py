"""The collector as its clients see it: a real process on a real broker, and what stands in the log afterwards."""

import base64
import gzip
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from collector_rig import Log, RunningCollector, broker_in, collector_on
from segment.analytics.client import Client as SegmentClient
from snowplow_tracker import Emitter, SelfDescribing, SelfDescribingJson, Subject, Tracker
from snowplow_tracker import PageView as SnowplowPageView
from taken_port import refuses_a_second

from pipeline.collector.app import ROUTES
from pipeline.collector.pixel import GIF
from schemas.block import partition_of

TP2 = "/com.snowplowanalytics.snowplow/tp2"
ORIGIN = "https://shop.example"
MEGABYTE = 1_048_576


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCollector]:
    folder = tmp_path_factory.mktemp("collector")
    with (
        broker_in(folder / "broker") as broker,
        collector_on(
            broker.bootstrap_servers,
            folder / "data",
            allowed_origins=[ORIGIN, "https://two.example"],
            trusted_proxies=["127.0.0.1"],
        ) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def log(collector: RunningCollector) -> Iterator[Log]:
    found = Log(collector.settings)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _forget_cookies(collector: RunningCollector) -> None:
    collector.http.cookies.clear()


def fresh(name: str = "e") -> str:
    return f"{name}-{uuid.uuid4().hex}"


def batch(*events: object, **more: Any) -> dict[str, Any]:
    return {"writeKey": "demo", "batch": list(events), **more}


def post(collector: RunningCollector, body: object, path: str = "/v1/batch", **kwargs: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return collector.http.post(path, content=content, **kwargs)


# --- stored, then 200 -------------------------------------------------------------------------------------------------


def test_what_was_answered_with_200_stands_in_the_log(collector: RunningCollector, log: Log) -> None:
    ids = [fresh() for _ in range(100)]
    answer = post(collector, batch(*({"messageId": name, "anonymousId": name, "n": 1.50} for name in ids)))
    assert (answer.status_code, answer.json()) == (200, {"accepted": 100, "rejected": [], "duplicate": 0})
    found = log.find(*ids)
    assert sorted(stored.event.event_id for stored in found) == sorted(ids)
    assert all(stored.partition == partition_of(stored.event.visitor, 4) for stored in found)
    assert {(stored.context.site, stored.context.kind, stored.context.protocol) for stored in found} == {
        ("shop", "batch", "segment")
    }
    assert b'"n": 1.5' in found[0].event.raw


def test_events_of_a_visitor_keep_their_order(collector: RunningCollector, log: Log) -> None:
    visitor = fresh("v")
    ids = [fresh() for _ in range(60)]
    for start in range(0, 60, 20):
        post(collector, batch(*({"messageId": name, "anonymousId": visitor} for name in ids[start : start + 20])))
    assert [stored.event.event_id for stored in log.read() if stored.event.visitor == visitor] == ids


def test_a_request_larger_than_a_block_is_stored_whole(collector: RunningCollector, log: Log) -> None:
    visitor, ids = fresh("v"), [fresh() for _ in range(120)]
    body = batch(*({"messageId": name, "anonymousId": visitor, "x": "y" * 30_000} for name in ids))
    answer = post(collector, gzip.compress(json.dumps(body).encode()))
    assert answer.json()["accepted"] == 120
    assert [stored.event.event_id for stored in log.read() if stored.event.visitor == visitor] == ids
    assert max(len(value) for *_, value in log.blocks) < 2 * collector.settings.block_bytes_max


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.handler == "segment"], ids=lambda route: route.path
)
def test_every_segment_path_takes_events_with_and_without_a_slash(
    collector: RunningCollector, log: Log, route: Any, slash: str
) -> None:
    name = fresh()
    event = {"messageId": name, "userId": "u", "writeKey": "demo"}
    answer = post(collector, batch(event) if route.kind == "batch" else event, route.path + slash)
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    assert [stored.context.kind for stored in log.find(name)] == [route.kind]


def test_the_pixel_answers_a_gif_and_stores_the_event(collector: RunningCollector, log: Log) -> None:
    name = fresh()
    answer = collector.http.get("/p.gif", params={"k": "demo", "e": "page", "id": name, "v": "v1", "u": "https://x.y/"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, GIF, "image/gif")
    assert answer.headers["cache-control"] == "no-store"
    assert [stored.event.visitor for stored in log.find(name)] == ["v1"]


def test_the_same_id_twice_in_a_request_is_counted_and_both_travel(collector: RunningCollector, log: Log) -> None:
    name = fresh()
    answer = post(collector, batch(*[{"messageId": name, "userId": "u"}] * 3, {"userId": "u"}, {"userId": "u"}))
    assert answer.json() == {"accepted": 5, "rejected": [], "duplicate": 2}
    assert len(log.find(name)) == 3


def test_one_bad_event_of_a_hundred_is_refused_alone_and_order_is_kept(collector: RunningCollector, log: Log) -> None:
    visitor, ids = fresh("v"), [fresh() for _ in range(100)]
    events: list[Any] = [{"messageId": name, "anonymousId": visitor} for name in ids]
    events[40] = {"messageId": ids[40], "anonymousId": {"not": "an id"}}
    events[41] = {"messageId": ids[41], "anonymousId": visitor, "x": "y" * 40_000}
    answer = post(collector, batch(*events)).json()
    assert (answer["accepted"], answer["duplicate"]) == (98, 0)
    assert answer["rejected"] == [
        {"i": 40, "id": "", "reason": "bad_type"},
        {"i": 41, "id": ids[41], "reason": "too_large"},
    ]
    stored = [found.event.event_id for found in log.read() if found.event.visitor == visitor]
    assert stored == ids[:40] + ids[42:]
    (refused,) = log.find(ids[41])
    assert (refused.event.refused, len(refused.event.raw)) == ("too_large", 32_768)


# --- bad input: the table ---------------------------------------------------------------------------------------------

EVENT = {"messageId": "m", "userId": "u"}
GOOD = json.dumps(batch(EVENT)).encode()


def deep(levels: int) -> bytes:
    return b'{"writeKey":"demo","batch":[' + b'{"a":' * levels + b"1" + b"}" * levels + b"]}"


BAD_INPUT: dict[str, tuple[int, str, dict[str, Any]]] = {
    "no key": (401, "unknown_key", {"body": {"batch": [EVENT]}}),
    "an unknown key": (401, "unknown_key", {"body": batch(EVENT, writeKey="nobody")}),
    "an origin that is not listed": (403, "origin", {"headers": {"Origin": "https://evil.example"}}),
    "the origin null": (403, "origin", {"headers": {"Origin": "null"}}),
    "no JSON": (400, "bad_json", {"body": b"hello"}),
    "truncated JSON": (400, "bad_json", {"body": GOOD[:-2]}),
    "UTF-16": (400, "bad_json", {"body": GOOD.decode().encode("utf-16")}),
    "a list for a body": (400, "bad_json", {"body": [EVENT]}),
    "no body": (400, "bad_json", {"body": b""}),
    "an empty batch": (400, "empty", {"body": batch()}),
    "nesting without end": (400, "too_complex", {"body": deep(100_000)}),
    "more than a thousand events": (413, "too_many", {"body": batch(*[EVENT] * 1_001)}),
    "a body over 1 MiB": (413, "too_large", {"body": b" " * (MEGABYTE + 1)}),
    "more than 4 MiB unpacked": (413, "too_large", {"body": gzip.compress(b" " * (4 * MEGABYTE + 1))}),
    "gzip in gzip": (400, "bad_json", {"body": gzip.compress(gzip.compress(GOOD))}),
    "a wrong checksum": (400, "bad_gzip", {"body": gzip.compress(GOOD)[:-8] + b"\0" * 8}),
    "gzip cut short": (400, "bad_gzip", {"body": gzip.compress(GOOD)[:-3]}),
    "brotli": (415, "bad_encoding", {"headers": {"Content-Encoding": "br"}, "body": b"\x0b\x02"}),
    "a path that is not there": (404, "unknown_path", {"path": "/v1/nothing"}),
    "a wrong method": (405, "method", {"path": "/v1/batch", "method": "PUT"}),
    "a GET of a POST path": (405, "method", {"path": "/v1/batch", "method": "GET"}),
    "a POST of the pixel's neighbour": (405, "method", {"path": "/healthz"}),
}


@pytest.mark.parametrize("row", BAD_INPUT, ids=lambda row: row.replace(" ", "_"))
def test_a_bad_request_gets_its_answer_and_stores_nothing(collector: RunningCollector, log: Log, row: str) -> None:
    status, code, given = BAD_INPUT[row]
    before = len(log.read())
    body = given.get("body", GOOD)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    method, path = given.get("method", "POST"), given.get("path", "/v1/batch")
    answer = collector.http.request(method, path, content=content, headers=given.get("headers"))
    found = answer.json()
    assert (answer.status_code, found["error"], found["accepted"], found["rejected"]) == (status, code, 0, [])
    assert found["detail"]
    assert "access-control-allow-origin" not in answer.headers
    assert (status == 405) == ("allow" in answer.headers)
    assert len(log.read()) == before


def test_a_request_that_cannot_be_read_is_kept_cut_and_masked_where_its_key_is_known(
    collector: RunningCollector, log: Log
) -> None:
    """400, and one refused event in the log under the key's site: what was wrong can be looked at."""
    before = len(log.read())
    body = b'{"batch": [{"userId": "ann@example.org", ' + b"x" * 5_000
    key = {"Authorization": "Basic " + base64.b64encode(b"demo:").decode()}
    assert collector.http.post("/v1/batch", content=body, headers=key).status_code == 400
    end = time.monotonic() + 10
    while len(found := log.read()) == before:
        assert time.monotonic() < end, "nothing was kept"
        time.sleep(0.05)
    (stored,) = found[before:]
    assert stored.event.refused == "bad_json"
    assert stored.context.site == "shop"
    assert len(stored.event.raw) <= 4_096
    assert b"ann@example.org" not in stored.event.raw
    assert b"batch" in stored.event.raw


KEPT_INPUT: dict[str, tuple[bytes, dict[str, str]]] = {
    "a UTF-8 mark": (b"\xef\xbb\xbf%s", {}),
    "a content type that is none": (b"%s", {"Content-Type": "text/plain"}),
    "a form's content type": (b"%s", {"Content-Type": "application/x-www-form-urlencoded"}),
    "plain JSON called gzip": (b"%s", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("row", KEPT_INPUT, ids=lambda row: row.replace(" ", "_"))
def test_what_clients_get_wrong_without_harm_is_kept(collector: RunningCollector, log: Log, row: str) -> None:
    name = fresh()
    template, headers = KEPT_INPUT[row]
    content = template % json.dumps(batch({"messageId": name, "userId": "u"})).encode()
    assert collector.http.post("/v1/batch", content=content, headers=headers).status_code == 200
    assert len(log.find(name)) == 1


def test_gzip_needs_no_header(collector: RunningCollector, log: Log) -> None:
    name = fresh()
    body = gzip.compress(json.dumps(batch({"messageId": name, "userId": "u"})).encode())
    assert post(collector, body, headers={"Content-Type": "text/plain"}).status_code == 200
    assert len(log.find(name)) == 1


@pytest.mark.parametrize(
    ("inside", "stored"),
    [
        (b'"a\\ud800b"', "a\ufffdb"),
        (b'"a\xc0\xafb"', "a\ufffd\ufffdb"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"a\\u0000b"', "a\0b"),
    ],
    ids=["a lone surrogate", "overlong UTF-8", "a whole pair", "NUL"],
)
def test_damaged_text_is_kept_with_the_replacement_character(
    collector: RunningCollector, log: Log, inside: bytes, stored: str
) -> None:
    name = fresh()
    body = b'{"writeKey":"demo","batch":[{"messageId":"%s","userId":"u","t":%s}]}' % (name.encode(), inside)
    assert post(collector, body).json()["accepted"] == 1
    (found,) = log.find(name)
    assert json.loads(found.event.raw)["t"] == stored


def test_a_number_that_json_cannot_hold_refuses_its_event_alone(collector: RunningCollector) -> None:
    body = b'{"writeKey":"demo","batch":[{"userId":"u"},{"userId":"u","n":NaN},{"userId":"u","n":-Infinity}]}'
    answer = post(collector, body).json()
    assert (answer["accepted"], [one["i"] for one in answer["rejected"]]) == (1, [1, 2])


def test_a_useless_id_is_dropped_and_the_event_kept(collector: RunningCollector, log: Log) -> None:
    useless = ["null", "undefined", "guest", "0000-0000", "x" * 129, None, ""]
    ids = [fresh() for _ in useless]
    post(
        collector, batch(*({"messageId": name, "anonymousId": value} for name, value in zip(ids, useless, strict=True)))
    )
    assert [stored.event.visitor for stored in log.find(*ids)] == [""] * len(useless)


def test_a_pixel_with_a_bad_query_is_answered_and_refused_in_the_log(collector: RunningCollector, log: Log) -> None:
    name = fresh()
    answer = collector.http.get("/p.gif", params={"k": "demo", "id": name, "p": "{", "v": "v"})
    assert (answer.status_code, answer.content) == (200, GIF)
    assert [stored.event.refused for stored in log.find(name)] == ["bad_payload"]
    garbage = collector.send_raw(
        b"GET /p.gif?k=demo&%zz=%ff&&=&id=%80%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert garbage.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("path", "status"), [("/p.gif", 401), ("/i", 401), ("/ice.png", 401)])
def test_an_image_without_a_known_key_is_an_image_still(collector: RunningCollector, path: str, status: int) -> None:
    answer = collector.http.get(path, params={"k": "nobody", "aid": "nobody", "e": "pv"})
    assert (answer.status_code, answer.content) == (status, GIF)


SNOWPLOW_BAD: dict[str, tuple[int, bytes, dict[str, str]]] = {
    "no JSON": (400, b"x", {}),
    "no events": (400, b'{"data":[]}', {}),
    "an unknown app": (401, b'{"data":[{"aid":"nobody","e":"pv"}]}', {}),
    "too many": (422, json.dumps({"data": [{"aid": "demo"}] * 1_001}).encode(), {}),
    "too large": (422, b" " * (MEGABYTE + 1), {}),
    "too large unpacked": (422, gzip.compress(b" " * (4 * MEGABYTE + 1)), {}),
    "brotli": (422, b"\x0b", {"Content-Encoding": "br"}),
    "an origin that is not listed": (403, b"{}", {"Origin": "https://evil.example"}),
}


@pytest.mark.parametrize("row", SNOWPLOW_BAD, ids=lambda row: row.replace(" ", "_"))
def test_snowplow_never_hears_a_status_that_it_would_resend_for_ever(collector: RunningCollector, row: str) -> None:
    status, body, headers = SNOWPLOW_BAD[row]
    assert status in (400, 401, 403, 410, 422)
    assert post(collector, body, TP2, headers=headers).status_code == status


# --- the wire ---------------------------------------------------------------------------------------------------------

HEAD = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\n"
WIRE: dict[str, tuple[bytes, bytes]] = {
    "a length and chunks at once": (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    "a bad chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", b"400"),
    "two lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"400"),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n", b"400"),
    "20 kB of headers": (HEAD + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
    "10,000 cookies": (HEAD + b"Cookie: " + b"a=b; " * 10_000 + b"\r\n\r\n", b"431"),
    "65 headers": (HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(64)) + b"\r\n", b"431"),
    "120 headers": (HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(120)) + b"\r\n", b"431"),
    "120 lines of one header": (HEAD + b"X-A: 1\r\n" * 120 + b"\r\n", b"431"),
}


@pytest.mark.parametrize("row", WIRE, ids=lambda row: row.replace(" ", "_"))
def test_a_wrong_request_on_the_wire_ends_its_connection(collector: RunningCollector, row: str) -> None:
    payload, status = WIRE[row]
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = collector.send_raw(payload + smuggled, wait_s=2)
    assert answer[:9] == b"HTTP/1.1 "
    assert answer[9:12] == status
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"herald_" not in answer


@pytest.mark.parametrize("line", [b"GET /healthz", b"GET /p.gif?k=demo", b"OPTIONS /v1/batch", b"POST /v1/nothing"])
def test_a_body_that_nobody_reads_holds_no_connection(collector: RunningCollector, line: bytes) -> None:
    """It is announced and never comes: the connection ends with the answer, and says so."""
    answer = collector.send_raw(line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nab", wait_s=30)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()


def test_sixty_four_headers_are_not_too_many(collector: RunningCollector) -> None:
    """Host, Connection and 62 more; and just under 16 KiB of them."""
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    for more in (b"".join(b"X-%d: 1\r\n" % number for number in range(62)), b"X-A: " + b"a" * 16_000 + b"\r\n"):
        assert collector.send_raw(request + more + b"\r\n")[9:12] == b"200"


def test_header_bytes_that_are_no_text_do_no_harm(collector: RunningCollector) -> None:
    payload = b"GET /p.gif?k=demo&v=v HTTP/1.1\r\nHost: x\r\nUser-Agent: \xff\xfe\r\nCookie: \xff=1\r\n"
    payload += b"Connection: close\r\n\r\n"
    assert collector.send_raw(payload)[9:12] == b"200"


def test_a_body_without_a_stated_length_is_capped(collector: RunningCollector) -> None:
    def parts(count: int) -> Iterator[bytes]:
        yield b" " * 20
        for _ in range(count):
            yield b" " * 100_000

    assert collector.http.post("/v1/batch", content=parts(30)).status_code == 413
    name = fresh()
    chunks = (part for part in (b'{"writeKey":"demo","batch":[', b'{"userId":"u","messageId":"%s"}]}' % name.encode()))
    assert collector.http.post("/v1/batch", content=chunks).status_code == 200


def test_a_gzip_bomb_costs_no_memory(collector: RunningCollector) -> None:
    bomb = gzip.compress(b"\0" * 10 * MEGABYTE)
    process = psutil.Process(collector.process.pid)
    post(collector, bomb)
    before = process.memory_info().rss
    for _ in range(30):
        assert post(collector, bomb).status_code == 413
    assert process.memory_info().rss - before < 8 * MEGABYTE


def test_slow_clients_are_shown_out_and_others_are_not_held_up(collector: RunningCollector) -> None:
    """Bodies and headers that never end: 408. Both while good requests pass."""
    answers: list[bytes] = []

    def slow(payload: bytes) -> None:
        answers.append(collector.send_raw(payload, wait_s=16))

    payloads = [
        HEAD + b"Content-Length: 100\r\n\r\nabc",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        HEAD + b"X-A",
    ]
    threads = [threading.Thread(target=slow, args=(payload,)) for payload in payloads * 10]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert post(collector, GOOD).status_code == 200
        time.sleep(0.05)
    assert time.monotonic() - started < 15.5
    assert sorted(answer[9:12] for answer in answers) == [b"408"] * 30


# --- browsers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/t/", TP2, "/p.gif", "/i"])
def test_a_preflight_is_answered_for_every_endpoint(collector: RunningCollector, path: str) -> None:
    asked = "content-type,sp-anonymous,x-retry-count"
    answer = collector.http.options(path, headers={"Origin": ORIGIN, "Access-Control-Request-Headers": asked})
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-allow-headers"] == asked
    assert "POST" in answer.headers["access-control-allow-methods"] or path in ("/p.gif", "/i")
    assert answer.headers["access-control-max-age"] == "600"


def test_a_preflight_of_an_unlisted_origin_gets_no_permission(collector: RunningCollector) -> None:
    answer = collector.http.options("/v1/batch", headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_listed_origin_is_echoed_and_may_read_retry_after(collector: RunningCollector) -> None:
    answer = post(collector, GOOD, headers={"Origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-expose-headers"] == "Retry-After"
    assert answer.headers["vary"] == "Origin"
    refused = post(collector, b"{", headers={"Origin": ORIGIN})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, ORIGIN)


def test_a_visitor_without_an_id_gets_a_cookie_and_is_known_by_it(collector: RunningCollector, log: Log) -> None:
    first, second = fresh(), fresh()
    answer = collector.http.get("/p.gif", params={"k": "demo", "e": "page", "id": first})
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=34128000"} <= set(cookie.split("; "))
    made = cookie.partition("=")[2].partition(";")[0]
    assert len(made) == 32
    headers = {"Cookie": f"a=b; herald_id={made}"}
    again = collector.http.get("/p.gif", params={"k": "demo", "e": "page", "id": second}, headers=headers)
    assert "set-cookie" not in again.headers
    assert [stored.event.visitor for stored in log.find(first, second)] == [made, made]


def test_snowplow_without_any_id_gets_a_cookie_too(collector: RunningCollector, log: Log) -> None:
    name = fresh()
    answer = collector.http.get("/i", params={"aid": "demo", "e": "pv", "eid": name})
    made = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
    assert [stored.event.visitor for stored in log.find(name)] == [made]


REFUSALS = [{"DNT": "1"}, {"Sec-GPC": "1"}, {"SP-Anonymous": "*"}]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda found: next(iter(found)))
def test_a_refusal_to_be_followed_leaves_no_id_in_the_log_and_sets_no_cookie(
    collector: RunningCollector, log: Log, refusal: dict[str, str]
) -> None:
    secret, ids = uuid.uuid4().hex, [fresh() for _ in range(5)]
    headers = {**refusal, "Cookie": f"herald_id=c{secret}", "X-Forwarded-For": "203.0.113.9"}
    event = {
        "messageId": ids[0],
        "anonymousId": f"a{secret}",
        "userId": f"u{secret}",
        "context": {"traits": {"x": secret}},
    }
    post(collector, batch(event), headers=headers)
    context = base64.urlsafe_b64encode(json.dumps({"data": [{"data": {"userId": secret}}]}).encode()).decode()
    snowplow = {"aid": "demo", "e": "pv", "duid": f"d{secret}", "uid": f"u{secret}", "cx": context}
    post(collector, {"data": [{**snowplow, "eid": ids[1]}]}, TP2, headers=headers)
    answers = [
        collector.http.get("/i", params={**snowplow, "eid": ids[2]}, headers=headers),
        collector.http.get(
            "/p.gif", params={"k": "demo", "v": f"v{secret}", "uid": secret, "id": ids[3]}, headers=headers
        ),
        collector.http.get("/p.gif", params={"k": "demo", "id": ids[4]}, headers=refusal),
    ]
    assert not [answer for answer in answers if "set-cookie" in answer.headers]
    found = log.find(*ids)
    assert len(found) == 5
    assert {(stored.event.visitor, stored.context.no_consent, stored.context.ip) for stored in found} == {
        ("", True, "")
    }
    assert secret.encode() not in log.bytes()


def test_a_consent_flag_counts_like_the_header(collector: RunningCollector, log: Log) -> None:
    secret, first, second = uuid.uuid4().hex, fresh(), fresh()
    consent = {"consent": {"categoryPreferences": {"Analytics": False}}}
    post(collector, batch({"messageId": first, "anonymousId": secret, "context": consent}))
    answer = collector.http.get("/p.gif", params={"k": "demo", "v": secret, "c": "0", "id": second})
    assert "set-cookie" not in answer.headers
    assert [stored.context.no_consent for stored in log.find(first, second)] == [True, True]
    assert secret.encode() not in log.bytes()


def test_the_client_address_is_cut_and_comes_from_the_listed_proxy(collector: RunningCollector, log: Log) -> None:
    first, second = fresh(), fresh()
    post(collector, batch({"messageId": first, "userId": "u"}), headers={"X-Forwarded-For": "1.2.3.4, 203.0.113.77"})
    post(collector, batch({"messageId": second, "userId": "u"}), headers={"X-Forwarded-For": "2001:db8:1:2::3"})
    assert {stored.context.ip for stored in log.find(first, second)} == {"203.0.113.0", "2001:db8:1::"}
    assert b"203.0.113.77" not in log.bytes()


def test_segments_browser_set_up_is_answered(collector: RunningCollector) -> None:
    found = collector.http.get("/v1/projects/demo/settings").json()["integrations"]["Segment.io"]
    port = collector.settings.collector_port
    assert found == {"apiKey": "demo", "apiHost": f"127.0.0.1:{port}/v1", "protocol": "http"}
    assert collector.http.get("/v1/projects/nobody/settings/").status_code == 401


# --- what must not enter the log --------------------------------------------------------------------------------------

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


def test_addresses_and_tokens_do_not_enter_the_log_by_any_way(collector: RunningCollector, log: Log) -> None:
    mark = "q" + uuid.uuid4().hex[:12]
    address, url = f"{mark}@example.com", f"https://x.y/?reset_token={mark}&m={mark}%40example.com&j={JWT}"
    ids = [fresh() for _ in range(6)]
    headers = {"Referer": url, "User-Agent": f"bot (+{address})"}
    escaped = address.replace("@", "\\u0040")
    event = f'{{"messageId":"{ids[0]}","userId":"{address}","properties":{{"a":"{escaped}","url":"{url}"}}}}'
    assert post(collector, f'{{"writeKey":"demo","batch":[{event}]}}'.encode(), headers=headers).status_code == 200
    assert (
        post(collector, gzip.compress(event.replace(ids[0], ids[1]).encode()), "/v1/track?writeKey=demo").status_code
        == 200
    )
    inner = f'{{"data":{{"schema":"iglu:a/b/c","data":{{"mail":"{escaped}","token":"{JWT}"}}}}}}'
    packed = base64.urlsafe_b64encode(inner.encode()).decode().rstrip("=")
    snowplow = {"aid": "demo", "e": "ue", "uid": address, "url": url, "ue_px": packed, "cx": packed, "co": inner}
    assert post(collector, {"data": [{**snowplow, "eid": ids[2]}]}, TP2, headers=headers).status_code == 200
    assert collector.http.get("/i", params={**snowplow, "eid": ids[3]}, headers=headers).status_code == 200
    properties = json.dumps({"m": address}).replace("@", "\\u0040")
    pixel = {"k": "demo", "u": url, "v": address, "p": properties, "id": ids[4]}
    assert collector.http.get("/p.gif", params=pixel, headers=headers).status_code == 200
    assert (
        post(collector, batch(address, {"messageId": ids[5], "userId": [address]}), headers=headers).status_code == 200
    )
    found = log.find(*ids[:5])
    assert len({stored.event.visitor for stored in found}) == 1, "one address is one pseudonym, whatever the protocol"
    assert found[0].event.visitor.startswith("em_")
    assert mark.encode() not in log.bytes()
    assert JWT[:40].encode() not in log.bytes()


# --- real SDKs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packs", [True, False], ids=["gzip", "plain"])
def test_segments_python_sdk_delivers(collector: RunningCollector, log: Log, packs: bool) -> None:
    visitor, failures = fresh("u"), []
    client = SegmentClient("demo", host=collector.url, gzip=packs, on_error=lambda error, items: failures.append(error))
    client.identify(visitor, {"plan": "pro"})
    for number in range(250):
        client.track(visitor, "Order Completed", {"revenue": 9.5, "n": number})
    client.page(None, "Docs", "Home", {"url": "https://x.y/?utm_source=g"}, anonymous_id=visitor)
    client.alias("an1", visitor)
    client.flush()
    client.join()
    assert failures == []
    found = [stored for stored in log.read() if stored.event.visitor == visitor]
    assert [json.loads(stored.event.raw)["type"] for stored in found] == ["identify", *["track"] * 250, "page", "alias"]
    assert [json.loads(stored.event.raw).get("properties", {}).get("n") for stored in found[1:251]] == list(range(250))
    assert all(stored.context.sent_time_ms and stored.event.event_id for stored in found)


@pytest.mark.parametrize("method", ["post", "get"])
def test_snowplows_python_tracker_delivers(collector: RunningCollector, log: Log, method: Any) -> None:
    visitor, failures = fresh("d"), []
    host = collector.url.removeprefix("http://")
    emitter = Emitter(
        host,
        protocol="http",
        method=method,
        batch_size=3,
        request_timeout=10,
        on_failure=lambda sent, left: failures.append(left),
    )
    subject = Subject().set_domain_user_id(visitor)
    tracker = Tracker("ns", emitter, subject=subject, app_id="demo")
    for number in range(4):
        tracker.track(SnowplowPageView(page_url=f"https://x.y/{number}", page_title="Home"))
    tracker.track(SelfDescribing(SelfDescribingJson("iglu:com.acme/offer_click/jsonschema/1-0-0", {"offer": "o7"})))
    tracker.flush()
    assert failures == []
    messages = [json.loads(stored.event.raw) for stored in log.read() if stored.event.visitor == visitor]
    assert [message["e"] for message in messages] == ["pv"] * 4 + ["ue"]
    assert json.loads(messages[4]["ue_pr"])["data"]["data"] == {"offer": "o7"}


# --- operation --------------------------------------------------------------------------------------------------------


def test_requests_and_refusals_are_counted(collector: RunningCollector) -> None:
    def value(text: str, name: str) -> float:
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    names = (
        'herald_requests_total{endpoint="batch",status="200"}',
        'herald_rejected_total{reason="bad_json"}',
        'herald_received_total{protocol="segment"}',
    )
    before = collector.http.get("/metrics").text
    post(collector, batch(EVENT, 7))
    post(collector, b"{")
    after = collector.http.get("/metrics").text
    assert [value(after, name) - value(before, name) for name in names] == [1, 1, 2]


def test_a_key_that_sends_too_fast_is_told_when_to_come_again(collector: RunningCollector, tmp_path: Any) -> None:
    """429 with Retry-After in every protocol, for this key alone; what was taken is the rate, and it is counted."""
    quota = {"topic_prefix": "quota.", "events_per_s_max": 20}
    with collector_on(collector.settings.bootstrap_servers, tmp_path, **quota) as slow:
        first = slow.http.post("/v1/batch", json=batch(*[EVENT] * 200))
        assert (first.status_code, first.json()["accepted"]) == (200, 200)
        refused = [
            slow.http.post("/v1/batch", json=batch(EVENT)),
            slow.http.post("/v1/track", json={**EVENT, "writeKey": "demo"}),
            slow.http.post(TP2, json={"data": [{"aid": "demo", "e": "pv"}, {"aid": "other", "e": "pv"}]}),
            slow.http.get("/p.gif", params={"k": "demo", "e": "page"}),
            slow.http.get("/i", params={"aid": "demo", "e": "pv"}),
        ]
        assert [answer.status_code for answer in refused] == [429] * 5
        assert {answer.headers["retry-after"] for answer in refused} <= {str(wait) for wait in range(5, 10)}
        assert (refused[0].json()["error"], refused[3].content) == ("quota", GIF)
        assert slow.http.post("/v1/batch", json=batch(EVENT, writeKey="other")).status_code == 200
        text = slow.http.get("/metrics").text
        assert 'herald_over_quota_total{site="shop"} 6.0' in text
        assert 'herald_rejected_total{reason="quota"} 5.0' in text
        own = Log(slow.settings)
        assert len(own.read()) == 201
        own.close()


def test_a_second_collector_on_a_taken_port_says_so_and_ends(collector: RunningCollector) -> None:
    """The kernel would else share the connections out between the two."""
    refuses_a_second("collector", collector.settings)
    assert collector.http.get("/healthz").status_code == 200


def test_a_client_that_goes_away_in_its_own_body_is_counted_and_harms_nobody(collector: RunningCollector) -> None:
    line = 'herald_rejected_total{reason="client_gone"}'
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", collector.settings.collector_port)) as connection:
            connection.sendall(HEAD + b"Content-Length: 100\r\n\r\nabc")
    deadline = time.monotonic() + 20
    while f"{line} 3.0" not in collector.http.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert post(collector, GOOD).status_code == 200


def test_quiet_partitions_tick(collector: RunningCollector, log: Log) -> None:
    log.read()
    seen = len(log.blocks)
    ticked: set[int] = set()
    deadline = time.monotonic() + 20
    while len(ticked) < 4 and time.monotonic() < deadline:
        log.read()
        ticked = {partition for partition, _, block, _ in log.blocks[seen:] if not block.events}
    assert ticked == {0, 1, 2, 3}
    for number in range(4):
        times = [block.block_time_ms for partition, _, block, _ in log.blocks if partition == number]
        assert times == sorted(times)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/healthz/", "/readyz/"])
def test_health_is_told(collector: RunningCollector, path: str) -> None:
    assert collector.http.get(path).status_code == 200


def test_a_stop_answers_what_is_under_way_and_exits_with_0(
    collector: RunningCollector, log: Log, tmp_path: Any
) -> None:
    with_own_topic = {"topic_prefix": "stop."}
    with collector_on(collector.settings.bootstrap_servers, tmp_path, **with_own_topic) as other:
        own = Log(other.settings)
        answers: list[tuple[str, int]] = []
        is_over = threading.Event()

        def send() -> None:
            with httpx.Client(base_url=other.url, timeout=10) as http:
                while not is_over.is_set():
                    name = fresh()
                    try:
                        answer = http.post("/v1/batch", json=batch({"messageId": name, "userId": name}))
                    except httpx.TransportError:
                        return
                    answers.append((name, answer.status_code))

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 30
        while len(answers) < 40 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert other.stop() == 0
        is_over.set()
        for thread in threads:
            thread.join()
        stored = {found.event.event_id for found in own.read()}
        own.close()
        promised = {name for name, status in answers if status == 200}
        assert promised
        assert promised <= stored
        assert {status for _, status in answers} <= {200, 503}

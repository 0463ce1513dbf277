"""Delivery on the wire: requests that are wrong below HTTP, too large, too slow; and addresses whose time is over.

It needs no broker for this: nothing of it may reach the log.
"""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from delivery_rig import Service, without_stores
from pydantic import SecretStr
from taken_port import refuses_a_second

from pipeline.core.link import Link, LinkKind, seal
from pipeline.edge.clock import now_ms
from pipeline.edge.secret import key_of

TARGET = "https://shop.example/a?b=1"
HEAD = b"POST /v1/decisions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"placement":"home","actions":[{"id":"a"}]}'
WIRE: dict[str, tuple[bytes, bytes]] = {
    "a length and chunks at once": (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    "chunks and a length": (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", b"400"),
    "a bad chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", b"400"),
    "two lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"400"),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n", b"400"),
    "20 kB of headers": (HEAD + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
    "10,000 cookies": (HEAD + b"Cookie: " + b"a=b; " * 10_000 + b"\r\n\r\n", b"431"),
    "65 headers": (HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(63)) + b"\r\n", b"431"),
    "65 lines of one header": (HEAD + b"X-A: 1\r\n" * 63 + b"\r\n", b"431"),
    "120 headers": (HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(120)) + b"\r\n", b"431"),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with without_stores(tmp_path_factory.mktemp("wire"), signing_secrets_accepted=[SecretStr("older")]) as service:
        yield service


def send_raw(service: Service, payload: bytes, wait_s: float = 3) -> bytes:
    """Write bytes to a connection and return all that comes back until it is closed or quiet for wait_s."""
    with socket.create_connection(("127.0.0.1", service.settings.delivery_port), timeout=wait_s) as connection:
        found = b""
        try:
            connection.sendall(payload)
            while part := connection.recv(65_536):
                found += part
        except (TimeoutError, ConnectionError):
            pass
        return found


@pytest.mark.parametrize("row", WIRE, ids=lambda row: row.replace(" ", "_"))
def test_a_wrong_request_on_the_wire_ends_its_connection(alone: Service, row: str) -> None:
    """And what stands behind it is no request of its own: nothing is smuggled."""
    payload, status = WIRE[row]
    answer = send_raw(alone, payload + b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer[9:12] == status
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"herald_" not in answer


@pytest.mark.parametrize("line", [b"GET /healthz", b"GET /c/x", b"OPTIONS /v1/decisions", b"POST /v1/nothing"])
def test_a_body_that_nobody_reads_holds_no_connection(alone: Service, line: bytes) -> None:
    """It is announced and never comes: the connection ends with the answer, and says so."""
    answer = send_raw(alone, line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nab", wait_s=30)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()


def test_a_body_that_was_read_leaves_its_connection_open(alone: Service) -> None:
    json = {"content-type": "application/json"}
    for content, status in ((BODY, 200), (b"{", 400)):
        answer = alone.http.post("/v1/decisions", content=content, headers=json)
        assert (answer.status_code, answer.headers.get("connection")) == (status, None)


def test_sixty_four_headers_are_not_too_many(alone: Service) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert send_raw(alone, request + b"X-A: 1\r\n" * 62 + b"\r\n")[9:12] == b"200"


def test_a_body_in_chunks_is_read_and_capped(alone: Service) -> None:
    def parts(count: int) -> Iterator[bytes]:
        yield BODY
        yield from [b" " * 100_000] * count

    json = {"content-type": "application/json"}
    assert alone.http.post("/v1/decisions", content=parts(1), headers=json).status_code == 200
    assert alone.http.post("/v1/decisions", content=parts(30), headers=json).status_code == 413


def test_slow_clients_are_shown_out_and_others_are_not_held_up(alone: Service) -> None:
    """A body or headers that stand still: 408. Decisions go on meanwhile."""
    answers: list[bytes] = []

    def slow(payload: bytes) -> None:
        answers.append(send_raw(alone, payload, wait_s=30))

    payloads = [
        HEAD + b"Content-Length: 100\r\n\r\nabc",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        HEAD + b"X-A",
    ]
    threads = [threading.Thread(target=slow, args=(payload,)) for payload in payloads * 10]
    for thread in threads:
        thread.start()
    decided = 0
    while any(thread.is_alive() for thread in threads):
        answer = alone.http.post("/v1/decisions", content=BODY, headers={"content-type": "application/json"})
        assert answer.status_code == 200
        decided += 1
        time.sleep(0.05)
    assert decided > 10
    assert sorted(answer[9:12] for answer in answers) == [b"408"] * 30


def test_an_address_whose_time_is_over_is_answered_counted_and_not_logged(alone: Service) -> None:
    """The visitor goes where the seal says. Without a broker, a try to log it would be counted as unlogged."""
    key = key_of(alone.settings.signing_secret, alone.settings.data_dir, "signing.key")
    for kind, path, status in ((LinkKind.CLICK, "/c/{}", 302), (LinkKind.IMPRESSION, "/v1/i/{}.gif", 200)):
        link = Link(kind, "0" * 32, "a", "demo", "home", "c1", "k1", now_ms() - 1_000, TARGET)
        token = seal(link, key)
        answer = alone.http.get(path.format(token))
        assert answer.status_code == status
        assert answer.headers.get("location") == (TARGET if kind is LinkKind.CLICK else None)
        altered = alone.http.get(path.format(token[:-2] + ("AA" if token[-2:] != "AA" else "BA")))
        assert (altered.status_code, "location" in altered.headers) == (400, False)
        text = alone.http.get("/metrics").text
        assert f'herald_rewards_total{{kind="{kind.value}",result="expired"}} 1.0' in text
        assert f'herald_rewards_total{{kind="{kind.value}",result="unlogged"}}' not in text


def test_a_look_at_where_a_click_would_lead_is_no_click(alone: Service) -> None:
    """HEAD, as previews and mail scanners ask: without a broker, a try to log it would be counted as unlogged."""
    key = key_of(alone.settings.signing_secret, alone.settings.data_dir, "signing.key")
    link = Link(LinkKind.CLICK, "1" * 32, "a", "demo", "home", "c1", "k1", now_ms() + 60_000, TARGET)
    answer = alone.http.head(f"/c/{seal(link, key)}")
    assert (answer.status_code, answer.headers["location"]) == (302, TARGET)
    assert 'kind="click",result="unlogged"' not in alone.http.get("/metrics").text


def test_an_address_signed_with_the_key_of_before_still_leads_where_it_said(alone: Service) -> None:
    link = Link(LinkKind.CLICK, "2" * 32, "a", "demo", "home", "c1", "k1", now_ms() + 60_000, TARGET)
    answers = [alone.http.head(f"/c/{seal(link, key)}") for key in (b"older", b"nobody's")]
    assert [answer.status_code for answer in answers] == [302, 400]


def test_a_second_delivery_on_a_taken_port_says_so_and_ends(alone: Service) -> None:
    refuses_a_second("delivery", alone.settings)

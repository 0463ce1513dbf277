"""Real clients against the whole of Herald: a broker that goes away, a visitor's life, and a visitor who said no."""

import base64
import json
import logging
import os
import re
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx
import psutil
import pytest
import requests
from azure.cognitiveservices.personalizer import PersonalizerClient
from azure.cognitiveservices.personalizer.models import RankableAction, RankRequest
from kafka import TopicPartition
from msrest.authentication import CognitiveServicesCredentials
from segment.analytics.client import Client
from snowplow_tracker import Emitter, PageView, SelfDescribingJson, StructuredEvent, Subject, Tracker

from pipeline.core.books import total
from pipeline.edge import kafka
from schemas.tables import TABLES
from schemas.topics import TOPICS
from tests.journeys.rig import Whole, whole
from tests.waits import until

pytestmark = pytest.mark.journey

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0"
CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
PATIENCE_S = 60.0
T = TypeVar("T")


@pytest.fixture(scope="module")
def herald(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Everything running; the collector waits two seconds for the broker, not ten."""
    with whole(tmp_path_factory.mktemp("clients"), ack_timeout_ms=2_000) as running:
        yield running


# --- a visitor's life -------------------------------------------------------------------------------------------------


class Visitor:
    """A visitor as seen by two services: the collector gets the events, delivery is asked what to show."""

    def __init__(self, herald: Whole, user_agent: str, placement: str) -> None:
        self.id = f"visitor-{uuid.uuid4().hex[:12]}"
        self.herald, self.placement = herald, placement
        self.http = httpx.Client(headers={"User-Agent": user_agent}, timeout=20)

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *error: object) -> None:
        self.http.close()

    def pixel(self, **query: str) -> None:
        answer = self.http.get(f"{self.herald.collector_url}/p.gif", params={"k": "demo", "v": self.id, **query})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/gif"

    def profile(self) -> dict[str, Any] | None:
        answer = self.http.get(f"{self.herald.delivery_url}/v1/profiles/{self.id}")
        return dict(answer.json()) if answer.status_code == 200 else None

    def decide(self) -> dict[str, Any]:
        body = {
            "placement": self.placement,
            "visitor": self.id,
            "actions": [
                {"id": name, "url": f"https://shop.example/{name}", "campaign_id": "spring"} for name in ("tea", "cup")
            ],
        }
        answer = self.http.post(f"{self.herald.delivery_url}/v1/decisions", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def see_and_click(self, decision: dict[str, Any]) -> None:
        shown = decision["actions"][0]
        assert self.http.get(shown["impression_url"]).status_code == 200
        click = self.http.get(shown["click_url"])
        assert (click.status_code, click.headers["location"]) == (302, f"https://shop.example/{shown['id']}")

    def model(self) -> dict[str, Any] | None:
        answer = self.http.get(f"{self.herald.delivery_url}/v1/models/{self.placement}")
        return dict(answer.json()) if answer.status_code == 200 else None

    def outcome(self, decision: dict[str, Any], condition: str) -> tuple[object, ...] | None:
        """Return the decision's row once it is as the condition says."""
        sql = (
            "SELECT action_id, toUnixTimestamp64Milli(impressed) > 0, toUnixTimestamp64Milli(clicked) > 0, "
            "conversions, revenue_micros, reward_micros, is_bot, visitor FROM outcomes FINAL "
            "WHERE decision_id = %(decision)s AND "
        )
        rows = self.herald.ask(sql + condition, {"decision": decision["decision_id"]})
        return rows[0] if rows else None


def test_a_visitors_life_from_the_first_page_to_a_better_decision(herald: Whole) -> None:
    """Page with campaign tags -> profile -> decision -> impression -> click -> purchase -> outcome -> other model."""
    with Visitor(herald, BROWSER, "life") as person:
        live(herald, person)


def live(herald: Whole, person: Visitor) -> None:
    person.pixel(
        e="page",
        u="https://shop.example/?utm_source=google&utm_medium=cpc&utm_campaign=spring&gclid=abc123",
        r="https://www.google.com/",
    )
    profile = until(person.profile, "a profile")["profile"]
    assert (profile["last_channel"], profile["last_campaign"], profile["is_bot"]) == ("paid_search", "spring", False)
    decision = person.decide()
    assert decision["profile"]["known"] is True
    assert decision["degraded"] == []
    person.see_and_click(decision)
    until(lambda: person.outcome(decision, "clicked > impressed - INTERVAL 1 DAY AND reward_micros > 0"), "the click")
    person.pixel(e="purchase", rev="59.90", cur="EUR", pid="tea-1")
    chosen = decision["actions"][0]["id"]
    row = until(lambda: person.outcome(decision, "conversions > 0"), "the purchase in the outcome")
    assert row == (chosen, 1, 1, 1, 59_900_000, 1_000_000, 0, person.id)
    arms = {arm["id"]: arm for arm in until(person.model, "a model")["arms"]}
    assert (arms[chosen]["trials"], arms[chosen]["reward"]) == (1, 1.0)
    assert all(arm["trials"] == 0 for name, arm in arms.items() if name != chosen)
    again = person.decide()
    assert again["model_version"] != decision["model_version"]
    why = person.http.get(f"{herald.delivery_url}/v1/decisions/{decision['decision_id']}").json()
    assert (why["visitor"], why["model_version"]) == (person.id, decision["model_version"])


def test_a_crawler_that_clicks_everything_teaches_nothing(herald: Whole) -> None:
    """The same life with a crawler's user agent: it stands in the outcomes, and no model hears of it.

    A person at the same placement afterwards shows that the learner was awake: one trial, not two.
    """
    with Visitor(herald, CRAWLER, "crawled") as machine, Visitor(herald, BROWSER, "crawled") as person:
        click_everything(machine, person)


def click_everything(machine: Visitor, person: Visitor) -> None:
    machine.pixel(e="page", u="https://shop.example/")
    until(machine.profile, "a profile")
    decision = machine.decide()
    machine.see_and_click(decision)
    machine.pixel(e="purchase", rev="10", cur="EUR")
    row = until(lambda: machine.outcome(decision, "conversions > 0"), "the crawler's outcome")
    assert row[1:] == (1, 1, 1, 10_000_000, 0, 1, machine.id)
    shown = person.decide()
    assert shown["model_version"] == decision["model_version"]
    person.see_and_click(shown)
    until(lambda: person.outcome(shown, "reward_micros > 0"), "the person's outcome")
    model = until(machine.model, "a model")
    assert sum(arm["trials"] for arm in model["arms"]) == 1
    assert sum(arm["reward"] for arm in model["arms"]) == 1.0


# --- no consent -------------------------------------------------------------------------------------------------------

MARK = uuid.uuid4().hex[:10]  # in everything that must not be kept, so that one search finds any of it
NOBODY = f"nobody-{MARK}"
MAIL = f"ann.{MARK}@mail.example"
SECRET = f"secret{MARK}"
JWT = ".".join(
    base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")
    for part in ('{"alg":"HS256","typ":"JWT"}', json.dumps({"sub": f"ann-{MARK}"}), f"signature-{MARK}")
)
PAGE = f"https://shop.example/welcome?email={MAIL}&token={SECRET}&jwt={JWT}&utm_source=letter"
REFUSING = 7
CONTROL = f"somebody-{uuid.uuid4().hex[:10]}"


def send_without_consent(herald: Whole) -> None:
    """Say no in each way that there is, one event each, with the id and an address wherever a client puts them."""
    url = herald.collector_url
    body = {
        "writeKey": "demo", "anonymousId": NOBODY, "userId": MAIL, "event": "Refused Something",
        "properties": {"email": MAIL, "url": PAGE, "note": f"mail to {MAIL}", "order": "o1"},
        "context": {"traits": {"email": MAIL}, "page": {"url": PAGE}, "ip": "203.0.113.77"},
    }  # fmt: skip
    with httpx.Client(headers={"User-Agent": BROWSER, "Referer": PAGE}, timeout=20) as http:
        for headers in ({"DNT": "1"}, {"Sec-GPC": "1"}):
            answer = http.post(f"{url}/v1/track", json=body, headers=headers)
            assert answer.json()["accepted"] == 1
        pixel = {"k": "demo", "e": "Refused Something", "v": NOBODY, "uid": MAIL, "u": PAGE}
        bare = {"k": "demo", "e": "Refused Something"}
        assert http.get(f"{url}/p.gif", params=pixel, headers={"DNT": "1"}).status_code == 200
        refusal = http.get(f"{url}/p.gif", params={**pixel, "c": "0"})
        assert (refusal.status_code, refusal.headers.get("set-cookie")) == (200, None)
        cookie = {"Cookie": f"herald_id={NOBODY}", "Sec-GPC": "1"}
        assert http.get(f"{url}/p.gif", params=bare, headers=cookie).status_code == 200
        segment = Client("demo", host=url, gzip=True)
        preferences = {"consent": {"categoryPreferences": {"Advertising": False, "Analytics": False}}}
        segment.track(MAIL, "Refused Something", body["properties"], context=preferences, anonymous_id=NOBODY)
        segment.shutdown()
        with requests.Session() as session:
            session.headers["SP-Anonymous"] = "*"
            emitter = Emitter(url, batch_size=1, session=session, request_timeout=20)
            subject = Subject().set_domain_user_id(NOBODY).set_user_id(MAIL).set_ip_address("203.0.113.77")
            tracker = Tracker("sp", emitter, subject=subject, app_id="demo")
            entity = SelfDescribingJson("iglu:com.acme/user/jsonschema/1-0-0", {"email": MAIL, "user_id": NOBODY})
            tracker.track(StructuredEvent("x", "Refused Something", property_=f"for {MAIL}", context=[entity]))
        decision = {"placement": "quiet", "visitor": NOBODY, "consent": False, "actions": [{"id": "a"}, {"id": "b"}]}
        assert http.post(f"{herald.delivery_url}/v1/decisions", json=decision).status_code == 200


def send_with_consent(herald: Whole) -> None:
    """A visitor who agreed: the id may stay, addresses and secrets may not. Base64 hides nothing."""
    url = herald.collector_url
    segment = Client("demo", host=url, gzip=True)
    segment.identify(MAIL, {"email": MAIL, "plan": "pro"}, anonymous_id=CONTROL)
    segment.page(None, "Docs", "Home", {"url": PAGE, "title": f"for {MAIL}"}, anonymous_id=CONTROL)
    segment.shutdown()
    emitter = Emitter(url, batch_size=1, request_timeout=20)
    tracker = Tracker("sp", emitter, subject=Subject().set_domain_user_id(CONTROL).set_user_id(MAIL), app_id="demo")
    entity = SelfDescribingJson("iglu:com.acme/user/jsonschema/1-0-0", {"email": MAIL, "link": PAGE})
    tracker.track(PageView(page_url=PAGE, page_title=f"for {MAIL}", referrer=PAGE, context=[entity]))
    query = {"k": "demo", "e": "page", "v": CONTROL, "u": PAGE, "r": PAGE, "p": json.dumps({"mail": MAIL})}
    headers = {"User-Agent": f"{BROWSER} ({MAIL})", "Referer": PAGE}
    assert httpx.get(f"{url}/p.gif", params=query, headers=headers, timeout=20).status_code == 200
    broken = {"type": "no such type", "anonymousId": CONTROL, "properties": {"email": MAIL, "u": PAGE}}
    assert httpx.post(f"{url}/v1/batch", json={"batch": [broken], "writeKey": "demo"}, timeout=20).status_code == 200


def log_bytes(herald: Whole) -> Iterator[tuple[str, bytes]]:
    """Yield every record of every topic as the broker hands it out, so uncompressed: (where, key + value + headers)."""
    reader = kafka.consumer(herald.settings, bootstrap_timeout_ms=kafka.BOOTSTRAP_MS)
    try:
        for topic in TOPICS:
            name = herald.settings.topic(topic.name)
            partitions = [TopicPartition(name, p) for p in range(herald.settings.partitions)]
            ends = reader.end_offsets(partitions)
            reader.assign(partitions)
            reader.seek_to_beginning(*partitions)
            while any(reader.position(tp) < end for tp, end in ends.items()):
                for tp, records in reader.poll(timeout_ms=1_000).items():
                    for record in records:
                        headers = b"".join(name.encode() + value for name, value in record.headers)
                        yield f"{tp}:{record.offset}", (record.key or b"") + (record.value or b"") + headers
    finally:
        reader.close()


def row_bytes(herald: Whole) -> Iterator[tuple[str, bytes]]:
    """Yield every row of every table, all its columns as text."""
    for table in TABLES:
        for row in herald.ask(f"SELECT * FROM {table.name}"):  # noqa: S608 - our own table names
            yield table.name, repr(row).encode()


def file_bytes(herald: Whole) -> Iterator[tuple[str, bytes]]:
    """Yield every file of the data folder as it is on the disk."""
    for path in sorted(herald.settings.data_dir.rglob("*")):
        if path.is_file():
            yield str(path), path.read_bytes().rstrip(b"\0")  # indexes are laid out ahead, as zeros


def test_who_said_no_is_counted_and_leaves_no_trace(herald: Whole) -> None:
    """Each way to refuse is counted once, without an id. Then everything stored is searched, as text and unpacked.

    Searched: every record of every topic, every column of every table, every file of the data folder. The marks are
    a part of the addresses, secrets, tokens and of the visitor's id, in plain, percent-encoded and base64 forms.
    That the search finds anything is shown by another visitor, who agreed.
    """
    send_without_consent(herald)
    send_with_consent(herald)
    herald.drained()
    refused = "SELECT count(), uniqExact(visitor), any(visitor), any(user_id) FROM events FINAL WHERE name = '{}'"
    assert herald.ask(refused.format("Refused Something")) == [(REFUSING, 1, "", "")]
    of_one = "SELECT event_type, user_id FROM events FINAL WHERE visitor = %(visitor)s ORDER BY 1"
    agreed = herald.ask(of_one, {"visitor": CONTROL})
    assert [row[0] for row in agreed] == ["identify", "page", "page", "page"]
    assert all(re.fullmatch(r"em_[0-9a-f]{16}", str(row[1])) for row in agreed if row[1])
    assert herald.ask("SELECT reason FROM bad FINAL") == [("unknown_type",)]

    sought = {MARK.encode(), b"203.0.113.77"}
    for text in (NOBODY, MAIL, SECRET, f"ann-{MARK}", f"signature-{MARK}"):
        sought |= {piece for start in range(3) for piece in base64_pieces(text[start:])}
    found: dict[str, set[bytes]] = {}
    controls = Counter()
    for kind, source in (("log", log_bytes(herald)), ("table", row_bytes(herald)), ("file", file_bytes(herald))):
        for where, content in source:
            controls[kind] += CONTROL.encode() in content
            hits = {mark for mark in sought if mark in content}
            if hits:
                found.setdefault(f"{kind} {where}", set()).update(hits)
    assert found == {}
    assert min(controls[kind] for kind in ("log", "table")) > 0


def base64_pieces(text: str) -> set[bytes]:
    """Return what a text looks like inside base64, both alphabets, without the ends that depend on its neighbours."""
    whole_triples = text[: len(text) // 3 * 3].encode()
    return {base64.b64encode(whole_triples), base64.urlsafe_b64encode(whole_triples)}


# --- a broker that goes away ------------------------------------------------------------------------------------------


class Statuses(logging.Handler):
    """What Segment's client says of its requests in its own log."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Count successes and statuses."""
        text = record.getMessage()
        if text == "data uploaded successfully":
            self.said["200"] += 1
        elif status := re.match(r"Unknown error: \[(\d+)]", text):
            self.said[status[1]] += 1


def java_of(herald: Whole) -> psutil.Process:
    """Return the broker itself, not the process that watches it."""
    pid = until(lambda: herald.supervisor.pid("broker"), "a broker")
    return until(lambda: next(iter(psutil.Process(pid).children(recursive=True)), None), "its java")


def stop_and_kill_the_broker(herald: Whole, said: Counter[str]) -> None:
    """Make it hang, go on, and die; each time until the client has been told 503, and then 200 again."""
    until(lambda: said["200"] > 3, "some batches stored")
    broker = java_of(herald)
    broker.suspend()
    until(lambda: said["503"] > 0, "a 503 from a broker that hangs")
    broker.resume()
    before = said["200"]
    until(lambda: said["200"] > before, "a batch stored after the pause")
    os.kill(java_of(herald).pid, signal.SIGKILL)
    refused = said["503"]
    until(lambda: said["503"] > refused, "a 503 from a broker that died")
    before = said["200"]
    until(lambda: said["200"] > before, "a batch stored after the restart")


def test_segments_client_survives_a_broker_that_hangs_and_then_dies(herald: Whole) -> None:
    """The client sends for some seconds while the broker is stopped, goes on, and is killed: each id is stored once.

    The client drops an event only after its last retry and then says so; it never does. Every 200 was true: all
    batches ended in one, and all ids are there. The 503s show that the broker was missed.
    """
    statuses, failed = Statuses(), []
    client = Client(
        "demo", host=herald.collector_url, gzip=True, upload_size=20, upload_interval=0.1,
        log_handler=statuses, on_error=lambda error, batch: failed.append((str(error), len(batch))),
    )  # fmt: skip
    client.log.setLevel(logging.DEBUG)
    sent: list[str] = []
    is_over = threading.Event()

    def send() -> None:
        while not is_over.wait(0.02):
            name = f"outage-{len(sent)}-{uuid.uuid4().hex[:8]}"
            client.track(event="Survived", anonymous_id=f"outage-{len(sent) % 50}", message_id=name)
            sent.append(name)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        stop_and_kill_the_broker(herald, statuses.said)
    finally:
        is_over.set()
        sender.join()
        client.log.removeHandler(statuses)
    client.shutdown()
    assert failed == []
    assert set(statuses.said) <= {"200", "503"}
    status = herald.drained()
    assert status.is_balanced
    rows = herald.ask("SELECT event_id, count() FROM events FINAL WHERE name = 'Survived' GROUP BY event_id")
    assert Counter({str(name): int(str(count)) for name, count in rows}) == Counter(sent)
    assert total(status.books).missing == 0


# --- who comes from Azure Personalizer --------------------------------------------------------------------------------


def test_personalizers_client_teaches_a_placement_also_across_a_killed_delivery(herald: Whole) -> None:
    """Ids are the client's own. The delivery that ranked is dead when the rewards come: they are found by the log."""
    loop = PersonalizerClient(f"{herald.delivery_url}/placements/azure", CognitiveServicesCredentials("any"))
    actions = [RankableAction(id=name, features=[{"kind": name}]) for name in ("a", "b")]
    names = [f"order-{uuid.uuid4()}" for _ in range(12)]
    chosen = {name: loop.rank(RankRequest(actions=actions, event_id=name)).reward_action_id for name in names}

    def told(sql: str) -> int:
        return int(str(herald.ask(f"SELECT {sql} WHERE placement_id = 'azure'")[0][0]))

    until(lambda: told("count() FROM decisions FINAL") == len(names), "the decisions are in the warehouse")
    pid = herald.supervisor.pid("delivery")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: herald.supervisor.pid("delivery") not in (None, pid) and _is_ready(herald), "delivery is back")
    for name in names:
        loop.events.reward(name, 1.0 if chosen[name] == "a" else 0.0)
    liked = sum(action == "a" for action in chosen.values())
    until(lambda: told("sum(reward_micros) FROM outcomes FINAL") == liked * 1_000_000, "the rewards are joined")
    assert told("countIf(toUnixTimestamp64Milli(impressed) > 0) FROM outcomes FINAL") == len(names)

    def learnt() -> dict[str, Any]:
        arms = requests.get(f"{herald.delivery_url}/v1/models/azure", timeout=20).json().get("arms", [])
        return {arm["id"]: (arm["trials"], arm["reward"]) for arm in arms}

    expected = {action: (many, float(many * (action == "a"))) for action, many in Counter(chosen.values()).items()}
    until(lambda: learnt() == expected, f"the placement has learnt {expected}")


def _is_ready(herald: Whole) -> bool:
    try:
        return requests.get(f"{herald.delivery_url}/readyz", timeout=5).status_code == 200
    except requests.RequestException:
        return False

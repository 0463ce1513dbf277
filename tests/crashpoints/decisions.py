"""Delivery is killed while it answers decisions and clicks: what was answered is in the log, once behind `clean`."""

import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec

from agents import clean
from pipeline import topics
from pipeline.campaigns.database import FILE
from pipeline.core.clean_stage import Clean
from pipeline.core.state import StateView
from pipeline.delivery.log import news_id
from pipeline.edge.catalogue import Entry, Publisher, key_of
from pipeline.edge.clock import now_ms
from pipeline.settings import load
from schemas import block as codec
from schemas.block import CollectedBlock, EventBlock, Origin
from schemas.campaign import Status, Stored
from schemas.event import Event, EventType
from schemas.outcome import DecisionLog
from schemas.topics import COLLECTED, EVENTS
from tests.crashpoints.log import Log, Reference
from tests.crashpoints.services import PARTITIONS, Service
from tests.waits import free_ports

LANDED_S = 15.0
PRICE, UNITS, OF_A_UNIT = 1_000, 10, 5  # micros an impression; what a line has money for; what is asked of it
ACTIONS = [{"id": "a", "url": "https://shop.example/a"}, {"id": "b", "url": "https://shop.example/b"}]


class Answers:
    """Two decisions and a click on the first: delivery promises them from the moment of its answer."""

    name = "delivery: decisions and clicks"
    calls = 12
    prefix = "crash-decisions-"

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        port, clickhouse_port, metrics_port = free_ports(3)
        self.settings = load(
            kafka_bootstrap_servers=bootstrap_servers,
            topic_prefix=self.prefix,
            partitions=PARTITIONS,
            delivery_port=port,
            clickhouse_port=clickhouse_port,
            metrics_port=metrics_port,
            data_dir=folder,
            holdout_share=0.0,
        )
        topics.apply(self.settings)
        self.log = Log(self.settings, [COLLECTED])
        self.service = Service("delivery", self.settings, port, folder)
        self.promised: set[str] = set()  # event ids, of all units so far
        self.cleaned = [Reference(Clean(view, clean.rules(self.settings)), view) for view in _views()]

    def warm(self) -> int:
        """Delivery waits with an empty spool: what the last unit left is in the log."""
        return self.service.back()

    def work(self) -> None:
        """Ask, ask again and click."""
        try:
            first = self._decide("ann")
            self._decide("ben")
            chosen = first["actions"][0]
            clicked = self.service.http.get(chosen["click_url"])
            assert clicked.is_redirect, clicked.text
            self.promised.add(news_id(first["decision_id"], chosen["id"], EventType.CLICK))
        except httpx.TransportError:
            pass  # it is dead: nothing more was promised

    def wrong(self) -> list[str]:
        """Start it again, and look for what was answered."""
        self.service.back()
        until_s = time.monotonic() + LANDED_S
        while self.promised - self._kept().keys() and time.monotonic() < until_s:
            time.sleep(0.05)
        kept = self._kept()
        lost = sorted(self.promised - kept.keys())
        self.promised -= set(lost)  # told once
        doubled = sorted(name for name, many in kept.items() if many > 1)
        return [f"answered and not in the log: {name}" for name in lost] + [f"counted twice: {x}" for x in doubled]

    def _decide(self, visitor: str) -> dict[str, Any]:
        body = {"placement": "home", "visitor": visitor, "actions": ACTIONS}
        answer = self.service.http.post("/v1/decisions", json=body).raise_for_status().json()
        self.promised.add(answer["decision_id"])
        return dict(answer)

    def _kept(self) -> Counter[str]:
        """Return how often each event stands behind `clean`."""
        return Counter(event.event_id for event in self._events())

    def _events(self) -> list[Event]:
        """Return all that stands behind `clean`."""
        for (_, partition), record in self.log.read():
            block = codec.decode(record.value, CollectedBlock)
            self.cleaned[partition].apply(Origin(partition, record.offset), block)
        blocks = [value for one in self.cleaned for (topic, _), value in one.outputs.items() if topic == EVENTS.name]
        return [event for value in blocks for event in codec.decode(value, EventBlock).events]

    def close(self) -> None:
        self.service.close()
        self.log.close()


class Paid(Answers):
    """Decisions that cost money, more than one lease is good for: none without a lease, no lease passes the budget.

    No spend stage runs, so no lease is ever closed: all that was granted still counts.
    """

    name = "delivery: decisions that are paid for"
    calls = 60
    prefix = "crash-paid-"

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        super().__init__(bootstrap_servers, folder)
        self.number = -1

    @property
    def _line(self) -> str:
        return f"line-{self.number}"

    def warm(self) -> int:
        """A line of its own for each unit is published, and known to delivery."""
        pid = super().warm()
        self.number += 1
        self._publish()
        until_s = time.monotonic() + LANDED_S
        while self._ask("nobody", exclude=["c"]).status_code != 200:
            assert time.monotonic() < until_s, "delivery does not know what was published"
            time.sleep(0.02)
        return pid

    def _publish(self) -> None:
        budget = {"price": {"per": "impression", "micros": 1_000 * PRICE}, "budget": {"total_micros": UNITS * PRICE}}
        line = {"campaign": "c", "placements": [self._line], "pacing": "asap", **budget}
        bodies: list[tuple[str, str, dict[str, Any]]] = [
            ("advertisers", "acme", {}),
            ("campaigns", "c", {"advertiser": "acme"}),
            ("lines", self._line, line),
            ("creatives", f"red-{self.number}", {"line": self._line, "content": {"title": "Red"}}),
            ("placements", self._line, {}),
        ]
        publisher = Publisher(self.settings)
        try:
            publisher.send([_entry(kind, {"id": key, "name": key, **body}) for kind, key, body in bodies])
        finally:
            publisher.close()

    def _ask(self, visitor: str, **more: Any) -> httpx.Response:
        return self.service.http.post("/v1/decisions", json={"placement": self._line, "visitor": visitor, **more})

    def work(self) -> None:
        """Ask until the unit's share of the budget is spent; money comes a little later than it is wanted."""
        chosen = 0
        until_s = time.monotonic() + LANDED_S
        try:
            while chosen < OF_A_UNIT and time.monotonic() < until_s:
                answer = self._ask(f"visitor-{chosen}").raise_for_status().json()
                self.promised.add(answer["decision_id"])
                chosen += len(answer["actions"])
                time.sleep(0.02)
        except httpx.TransportError:
            pass  # it is dead: nothing more was promised

    def wrong(self) -> list[str]:
        """Besides what Answers looks for: what was reserved under each lease, and what all leases are worth."""
        return super().wrong() + self._passed()

    def _passed(self) -> list[str]:
        with closing(sqlite3.connect(self.settings.data_dir / FILE)) as store:
            rows = store.execute("SELECT lease_id, granted_micros FROM leases WHERE line_id = ?", (self._line,))
            granted = dict(rows.fetchall())
        logs = [event.properties for event in self._events() if event.event_type is EventType.DECISION]
        choices = [one for log in logs for one in msgspec.json.decode(log, type=DecisionLog).choices]
        spent: Counter[str] = Counter()
        for one in choices:
            if one.line_id == self._line:
                spent[one.lease_id] += one.price_micros
        found = [f"lease {key}: {micros} micros spent" for key, micros in spent.items() if micros > granted.get(key, 0)]
        total = sum(granted.values())
        return found if total <= UNITS * PRICE else [*found, f"{total} micros leased, the limit is {UNITS * PRICE}"]


def _entry(kind: str, body: dict[str, Any]) -> Entry:
    stored = Stored(
        kind=kind, id=body["id"], version=1, status=Status.PUBLISHED, changed_ms=now_ms(), changed_by="ann", body=body
    )
    return Entry(key_of(kind, stored.id), stored.model_dump_json().encode())


def _views() -> list[StateView]:
    return [StateView() for _ in range(PARTITIONS)]

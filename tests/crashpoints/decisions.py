"""Delivery is killed while it answers decisions and clicks: what was answered is in the log, once behind `clean`."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from agents import clean
from pipeline import topics
from pipeline.core.clean_stage import Clean
from pipeline.core.state import StateView
from pipeline.delivery.log import news_id
from pipeline.settings import load
from schemas import block as codec
from schemas.block import CollectedBlock, EventBlock, Origin
from schemas.event import EventType
from schemas.topics import COLLECTED, EVENTS
from tests.crashpoints.log import Log, Reference
from tests.crashpoints.services import PARTITIONS, Service
from tests.journeys.rig import free_ports

LANDED_S = 15.0
ACTIONS = [{"id": "a", "url": "https://shop.example/a"}, {"id": "b", "url": "https://shop.example/b"}]


class Answers:
    """Two decisions and a click on the first: delivery promises them from the moment of its answer."""

    name = "delivery: decisions and clicks"
    calls = 12

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        port, clickhouse_port, metrics_port = free_ports(3)
        self.settings = load(
            kafka_bootstrap_servers=bootstrap_servers,
            topic_prefix="crash-decisions-",
            partitions=PARTITIONS,
            delivery_port=port,
            clickhouse_port=clickhouse_port,
            metrics_port=metrics_port,
            data_dir=folder,
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
        for (_, partition), record in self.log.read():
            block = codec.decode(record.value, CollectedBlock)
            self.cleaned[partition].apply(Origin(partition, record.offset), block)
        kept: Counter[str] = Counter()
        for one in self.cleaned:
            for (topic, _), value in one.outputs.items():
                if topic == EVENTS.name:
                    kept.update(event.event_id for event in codec.decode(value, EventBlock).events)
        return kept

    def close(self) -> None:
        self.service.close()
        self.log.close()


def _views() -> list[StateView]:
    return [StateView() for _ in range(PARTITIONS)]

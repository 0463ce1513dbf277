"""What the tests of published campaigns share: delivery processes on a real broker, and a marketer who writes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from delivery_rig import Service, read_collected
from sqlalchemy import select

from pipeline import topics
from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.lease_tables import LEASES
from pipeline.edge import kafka as edge
from pipeline.edge.clock import now_ms
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.settings import Settings
from schemas.campaign import Status, Stored
from schemas.topics import CAMPAIGNS
from tests.waits import free_port, until

PARTITIONS = 2
FALLBACK = {"title": "Welcome"}


class Desk:
    """A marketer with a hand of his own: writes objects straight to the topic, and asks two delivery processes."""

    def __init__(self, settings: Settings, services: list[Service]) -> None:
        self.settings, self.services = settings, services
        self.http = services[0].http
        for key in settings.delivery_keys[:1]:
            for service in services:
                service.http.headers["x-herald-key"] = key.get_secret_value()
        self._producer = edge.producer(settings, max_block_ms=10_000)
        self._versions: Counter[str] = Counter()

    def publish(self, kind: str, status: Status = Status.PUBLISHED, /, **body: Any) -> None:
        key = f"{kind}/{body['id']}"
        self._versions[key] += 1
        stored = Stored(
            kind=kind, id=body["id"], version=self._versions[key], status=status, changed_ms=now_ms(),
            changed_by="ann", body=body,
        )  # fmt: skip
        topic = self.settings.topic(CAMPAIGNS.name)
        self._producer.send(topic, stored.model_dump_json().encode(), key.encode(), partition=0).get(10)

    def campaign(self, name: str, creatives: Mapping[str, Mapping[str, Any]] | None = None, **line: Any) -> None:
        """Publish a placement, a campaign, a line and its creatives, all named after `name`."""
        self.publish("advertisers", id=f"{name}-adv", name=name)
        self.publish("campaigns", id=f"{name}-c", advertiser=f"{name}-adv", name=name)
        self.line(name, **line)
        for creative, more in (creatives or {f"{name}-1": {}}).items():
            body = {"id": creative, "line": f"{name}-l", "name": creative, "content": {"title": creative}, **more}
            self.publish("creatives", **body)
        self.publish("placements", id=name, name=name, fallback=FALLBACK)
        for at in range(len(self.services)):
            until(lambda at=at: self.is_asked(name, at), f"{name} published")

    def is_asked(self, name: str, at: int) -> bool:
        """Say whether a process knows a placement, with a question that nothing can be shown to, or paid for."""
        return self.ask(name, "nobody", at, wait=True, exclude=[f"{name}-c"]).status_code == 200

    def line(self, name: str, status: Status = Status.PUBLISHED, **more: Any) -> None:
        self.publish(
            "lines", status, **{"id": f"{name}-l", "campaign": f"{name}-c", "name": name, "placements": [name], **more}
        )

    def ask(self, placement: str, visitor: str, at: int = 0, *, wait: bool = False, **more: Any) -> httpx.Response:
        body = {"placement": placement, "visitor": visitor, **more}
        answer = self.services[at].http.post("/v1/decisions", json=body)
        assert wait or answer.status_code == 200, answer.text
        return answer

    def shown(self, placement: str, visitor: str, **more: Any) -> list[str]:
        return [one["id"] for one in self.ask(placement, visitor, **more).json()["actions"]]

    def why(self, placement: str, visitor: str, **more: Any) -> dict[str, str]:
        """Ask, and return why creatives fell out."""
        decision_id = self.ask(placement, visitor, **more).json()["decision_id"]
        asked = self.services[more.get("at", 0)].http
        found = asked.get(f"/v1/decisions/{decision_id}").json()["excluded"]
        assert isinstance(found, dict)
        return found

    def leases(self) -> str:
        """What the store has granted, and what the processes tell of it: for the message of a test that failed."""
        told = [service.http.get("/metrics").text.splitlines() for service in self.services]
        lines = [[line for line in one if line.startswith("herald_lease")] for one in told]
        database = Database(url_of(self.settings))
        try:
            with database.reading() as connection:
                return f"{connection.execute(select(LEASES)).all()}; {lines}"
        finally:
            database.close()

    def collected(self) -> list[dict[str, Any]]:
        """All events that delivery wrote, with their visitor."""
        found = read_collected(self.settings, PARTITIONS)
        return [{**msgspec.json.decode(event.raw), "visitor": event.visitor} for _, _, event in found]

    def close(self) -> None:
        self._producer.close()


@contextmanager
def desks(folder: Path, processes: int, **more: Any) -> Iterator[Desk]:
    """Have a broker, a store and so many delivery processes."""
    broker = EmbeddedKafka(KafkaConfig(folder / "broker", free_port(), free_port(), heap_mb=256))
    broker.start()
    services: list[Service] = []
    try:
        broker.wait_ready()
        settings = Settings(
            data_dir=folder, kafka_bootstrap_servers=broker.bootstrap_servers, partitions=PARTITIONS,
            clickhouse_port=free_port(), holdout_share=0.0, spool=False, **more,
        )  # fmt: skip
        topics.apply(settings)
        database = Database(url_of(settings))
        database.migrate()
        database.close()
        for number in range(processes):
            services.append(Service(settings.model_copy(update={"delivery_port": free_port()}), folder / f"{number}"))
        for service in services:
            service.wait_for("/readyz")
        made = Desk(settings, services)
        try:
            yield made
        finally:
            made.close()
    finally:
        codes = [service.stop() for service in services]
        broker.stop()
    assert codes == [0] * processes

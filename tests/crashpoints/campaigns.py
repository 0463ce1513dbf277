"""The campaigns' service is killed while it stores a marketer's changes and tells the topic of them."""

import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
from kafka import TopicPartition

from pipeline import topics
from pipeline.campaigns.database import FILE, Database, url_of
from pipeline.campaigns.publisher import entry_of
from pipeline.campaigns.store import Store
from pipeline.edge import kafka
from pipeline.edge.catalogue import read_all
from pipeline.settings import load
from schemas.campaign import Stored
from schemas.topics import CAMPAIGNS
from tests.crashpoints.services import Service
from tests.waits import free_ports

TOLD_S = 30.0
NEW = 201


class Changes:
    """A campaign is created, changed, and taken to review; then the topic is told of all three.

    What was answered stands, each change is there with its version, its line of the audit and its record, or with none
    of them; whoever got no answer asks again and gets what he wanted once.
    """

    name = "campaigns: changes and their publication"
    calls = 90

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        port, metrics_port = free_ports(2)
        self.settings = load(
            kafka_bootstrap_servers=bootstrap_servers,
            topic_prefix="crash-campaigns-",
            campaigns_port=port,
            metrics_port=metrics_port,
            data_dir=folder,
        )
        topics.apply(self.settings)
        self.service = Service("campaigns serve", self.settings, port, folder)
        self._file = f"file:{folder / FILE}?mode=ro"
        self.number = -1
        self.answered = 0  # of this unit's changes
        self.told: dict[tuple[str, str], list[int]] = {}  # versions of each object, as they came in the topic
        self._reader = kafka.consumer(self.settings)
        self._place = TopicPartition(self.settings.topic(CAMPAIGNS.name), 0)
        self._reader.assign([self._place])
        self._reader.seek_to_beginning()

    @property
    def _id(self) -> str:
        return f"c{self.number}"

    def warm(self) -> int:
        pid = self.service.back()
        if self.number < 0:
            assert self._put("advertisers", {"id": "acme", "name": "Acme"}) == NEW
            assert self._is_told(TOLD_S)
        self.number += 1
        self.answered = 0
        return pid

    def work(self) -> None:
        try:
            while self.answered < 3:
                code = self._change(self.answered)
                assert code in (200, NEW), f"change {self.answered}: {code}"
                self.answered += 1
            self._is_told(TOLD_S)
        except httpx.TransportError:
            pass  # it is dead

    def _change(self, which: int) -> int:
        """Ask for the unit's change `which`; each expects what the one before it left."""
        if which < 2:
            body = {"id": self._id, "advertiser": "acme", "name": f"n{which}", "labels": {"unit": str(self.number)}}
            return self._put("campaigns", body, version=which)
        return self._ask("POST", f"/v1/campaigns/{self._id}/status", {"to": "review"}, version=which)

    def _put(self, kind: str, body: dict[str, Any], version: int = 0) -> int:
        return self._ask("PUT", f"/v1/{kind}/{body['id']}", body, version)

    def _ask(self, method: str, path: str, body: dict[str, Any], version: int) -> int:
        seen = {"if-match": f'"{version}"'} if version else {"if-none-match": "*"}
        return self.service.http.request(method, path, json=body, headers=seen).status_code

    def wrong(self) -> list[str]:
        self.service.back()
        answer = self.service.http.get(f"/v1/campaigns/{self._id}")
        version = answer.json()["version"] if answer.is_success else 0
        found = []
        if version not in (self.answered, self.answered + 1):
            found.append(f"version {version} after {self.answered} answers")
        for which in range(version, 3):
            code = self._change(which)
            if code not in (200, NEW):
                found.append(f"change {which}, asked for again: {code}")
        if not self._is_told(TOLD_S):
            found.append(f"the outbox is not empty after {TOLD_S:.0f} s")
        return [*found, *self._unlike()]

    def _unlike(self) -> list[str]:
        """Compare the unit's object with its history, its audit, and the topic; and the whole topic with the store."""
        found = []
        with closing(Database(url_of(self.settings))) as database:
            store = Store(database)
            stands = store.get("campaigns", self._id)
            versions = store.versions("campaigns", self._id)
            audit = store.audit("campaigns", self._id, 0, 100)
            if read_all(self.settings) != {one.key: one.value for one in map(entry_of, store.everything())}:
                found.append("the topic is not as the store is")
        if [one.body["name"] for one in versions] != ["n0", "n1", "n1"] or stands != versions[-1]:
            found.append(f"versions {versions}, stands {stands}")
        if [one.what for one in audit] != ["create", "change", "status review"]:
            found.append(f"audit: {[one.what for one in audit]}")
        self._read()
        told = self.told.get(("campaigns", self._id), [])
        if list(dict.fromkeys(told)) != [1, 2, 3] or told[-1] != 3:
            found.append(f"the topic was told of versions {told}")
        return found

    def _read(self) -> None:
        end = self._reader.end_offsets([self._place])[self._place]
        while self._reader.position(self._place) < end:
            for record in self._reader.poll(timeout_ms=100).get(self._place, []):
                one = Stored.model_validate_json(record.value)
                self.told.setdefault((one.kind, one.id), []).append(one.version)

    def _is_told(self, timeout_s: float) -> bool:
        """Wait until the outbox is empty; False where it is not in time, or the service is dead.

        Nothing of the file is changed by this look: who recovers it after a kill is the next service.
        """
        end_s = time.monotonic() + timeout_s
        while not self.service.is_over and time.monotonic() < end_s:
            with suppress(sqlite3.OperationalError), closing(sqlite3.connect(self._file, uri=True)) as store:
                if store.execute("SELECT count(*) FROM outbox").fetchone() == (0,):
                    return True
            time.sleep(0.02)
        return False

    def close(self) -> None:
        self._reader.close(autocommit=False)
        self.service.close()

"""Campaigns on their topic, on a real broker: each version at least once, the newest last, whatever was killed."""

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import kafka
import pytest
from campaigns_rig import BODIES, Service, fill, opened, put, serving, step, without_broker

from pipeline import topics
from pipeline.archive.log import used_topics
from pipeline.campaigns.publisher import Announcer, compare, entry_of
from pipeline.campaigns.store import Store
from pipeline.edge import kafka as edge
from pipeline.edge.catalogue import Catalogue, Entry, Publisher, read_all
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.errors import Retryable
from pipeline.settings import Settings
from schemas.campaign import Status, Stored
from schemas.topics import CAMPAIGNS
from tests.waits import free_port, until


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    found = EmbeddedKafka(KafkaConfig(tmp_path_factory.mktemp("broker"), free_port(), free_port(), heap_mb=256))
    found.start()
    try:
        found.wait_ready(180)
        yield found
    finally:
        found.stop()


@pytest.fixture
def settings(broker: EmbeddedKafka, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    found = Settings(
        data_dir=tmp_path,
        kafka_bootstrap_servers=broker.bootstrap_servers,
        partitions=2,
        topic_prefix=f"{zlib.crc32(request.node.name.encode())}-",
        campaigns_port=free_port(),
    )
    topics.apply(found)
    return found


class Shelf:
    """What a reader was handed: how each object stands, and how often something came or went."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Stored] = {}
        self.taken: list[Stored] = []
        self.removed: list[tuple[str, str]] = []

    def take(self, stored: Stored) -> None:
        self.objects[stored.kind, stored.id] = stored
        self.taken.append(stored)

    def remove(self, kind: str, key: str) -> None:
        del self.objects[kind, key]
        self.removed.append((kind, key))

    def version(self, kind: str, key: str) -> int:
        """The version that it has, 0 where it has none."""
        found = self.objects.get((kind, key))
        return found.version if found else 0


@contextmanager
def following(settings: Settings) -> Iterator[Shelf]:
    """Follow the topic until the end of the block; it is loaded when the block begins."""
    shelf = Shelf()
    catalogue = Catalogue(settings, shelf.take, shelf.remove)
    catalogue.start()
    try:
        assert catalogue.wait_loaded(60)
        yield shelf
    finally:
        catalogue.stop()


@contextmanager
def announcing(settings: Settings, store: Store) -> Iterator[Announcer]:
    """Publish a store's changes until the end of the block."""
    announcer = Announcer(settings, store)
    announcer.start()
    try:
        yield announcer
    finally:
        announcer.stop(30)


def stands(store: Store) -> dict[str, bytes]:
    """Return how the topic should stand."""
    return {entry.key: entry.value for entry in map(entry_of, store.everything()) if entry.value is not None}


def is_told(settings: Settings, store: Store) -> bool:
    return not store.due(1) and read_all(settings) == stands(store)


def history(settings: Settings) -> dict[tuple[str, str], list[int]]:
    """Return all versions of each object in the order in which they stand in the topic."""
    consumer = edge.consumer(settings)
    try:
        tp = kafka.TopicPartition(settings.topic(CAMPAIGNS.name), 0)
        consumer.assign([tp])
        end = consumer.end_offsets([tp])[tp]
        consumer.seek_to_beginning(tp)
        found: dict[tuple[str, str], list[int]] = {}
        while consumer.position(tp) < end:
            for record in consumer.poll(timeout_ms=200).get(tp, []):
                stored = Stored.model_validate_json(record.value)
                assert record.key.decode() == f"{stored.kind}/{stored.id}"
                found.setdefault((stored.kind, stored.id), []).append(stored.version)
        return found
    finally:
        consumer.close()


def is_complete(versions: list[int], newest: int) -> bool:
    """Each version at least once, each for the first time behind those before it, and the newest one last."""
    return list(dict.fromkeys(versions)) == list(range(1, newest + 1)) and versions[-1] == newest


# --- from a change to its readers -------------------------------------------------------------------------------------


def test_each_change_over_http_reaches_a_reader(settings: Settings) -> None:
    """A reader that was there before, and one that comes later; both have what the service has."""
    with serving(settings) as service, following(settings) as shelf:
        for kind in BODIES:
            service.put(kind)
        until(lambda: shelf.version("creatives", "red") == 1, "the last one has come")
        assert [one.kind for one in shelf.taken] == list(BODIES)
        for version in range(1, 6):
            service.put("lines", version, name=f"n{version}")
            until(lambda v=version: shelf.version("lines", "all") == v + 1, "the change has come")
        service.http.post("/v1/lines/all/status", json={"to": "review"}, headers={"if-match": '"6"'})
        until(lambda: shelf.objects["lines", "all"].status is Status.REVIEW, "the step has come")
        with following(settings) as later:
            assert later.objects == shelf.objects
        until(lambda: service.http.get("/readyz").json()["publishing"] == "yes", "it says that it publishes")
        assert service.http.get("/metrics").text.count("herald_campaigns_unpublished 0.0") == 1


def test_what_another_process_writes_into_the_store_is_published_too(settings: Settings) -> None:
    """An import writes to the store itself."""
    with opened(settings) as store, announcing(settings, store), following(settings) as shelf:
        with opened(settings) as other:
            fill(other)
        until(lambda: shelf.version("creatives", "red") == 1, "all has come")


def test_one_publishes_and_another_takes_over(settings: Settings) -> None:
    with opened(settings) as store, opened(settings) as other, announcing(settings, other):
        with announcing(settings, store):
            fill(store)
            until(lambda: is_told(settings, store), "one of them publishes")
        put(store, "campaigns", 1, name="after the first")
        until(lambda: is_told(settings, store), "the other goes on")
    assert all(is_complete(versions, versions[-1]) for versions in history(settings).values())


# --- kills ------------------------------------------------------------------------------------------------------------


def test_a_kill_between_a_change_and_its_publication_loses_nothing(settings: Settings) -> None:
    """kill -9 of a service that has stored changes and found no broker; the next one tells all of them, in order."""
    alone = without_broker(settings.data_dir)
    with serving(alone) as service:
        for kind in BODIES:
            assert service.put(kind).status_code == 201
        for version in range(1, 4):
            assert service.put("campaigns", version, name=f"n{version}").status_code == 200
    with serving(settings), following(settings) as shelf:
        until(lambda: shelf.version("campaigns", "spring") == 4, "the newest one has come")
        until(lambda: shelf.version("creatives", "red") == 1, "all has come")
    found = history(settings)
    assert found["campaigns", "spring"] == [1, 2, 3, 4]
    assert len(found) == len(BODIES)


def test_kills_at_any_moment_lose_no_version_and_the_newest_stays_last(settings: Settings) -> None:
    """kill -9 in the middle of changes, three times: what was answered is there, and the topic comes to be complete."""
    answered = 0
    for round_ in range(3):
        with serving(settings) as service:
            if round_ == 0:
                service.put("placements")
                service.put("advertisers")
                assert service.put("campaigns").status_code == 201
                answered = 1
            stop = threading.Event()
            writer = _Writer(service, stop)
            writer.start()
            until(lambda w=writer, n=15 + 20 * (round_ % 2): w.answered >= n, "some changes are made")
            service.kill()
            stop.set()
            writer.join(60)
            answered = max(answered, writer.newest)
    with opened(settings) as store:
        with announcing(settings, store):
            until(lambda: is_told(settings, store), "all is told")
        found = store.get("campaigns", "spring")
        assert found is not None
        assert found.version >= answered > 45
        versions = history(settings)["campaigns", "spring"]
        assert is_complete(versions, found.version), versions


class _Writer(threading.Thread):
    """Changes one campaign again and again. answered: changes that were confirmed; newest: the last one's version."""

    def __init__(self, service: Service, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.service, self.stop = service, stop
        self.answered = self.newest = 0
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{service.settings.campaigns_port}", timeout=20)

    def run(self) -> None:
        with self.http:
            try:
                version = self.http.get("/v1/campaigns/spring").json()["version"]
                while not self.stop.is_set():
                    wanted = {**BODIES["campaigns"], "name": f"n{version}"}
                    headers = {"if-match": f'"{version}"'}
                    answer = self.http.put("/v1/campaigns/spring", json=wanted, headers=headers)
                    assert answer.status_code == 200, answer.text
                    version = self.newest = answer.json()["version"]
                    self.answered += 1
            except httpx.TransportError:
                return  # it was killed


# --- the topic and the store, compared --------------------------------------------------------------------------------


def _told(settings: Settings, store: Store) -> None:
    with announcing(settings, store):
        until(lambda: is_told(settings, store), "all is told")


def test_a_topic_that_was_made_anew_is_filled_again(settings: Settings) -> None:
    with opened(settings) as store:
        fill(store)
        step(store, "campaigns", "spring", Status.REVIEW, Status.PUBLISHED)
        _told(settings, store)
        name = settings.topic(CAMPAIGNS.name)
        admin = edge.admin(settings)
        admin.delete_topics([name])
        until(lambda: name not in admin.list_topics(), "the topic is gone")
        admin.close()
        with pytest.raises(Retryable, match="no such topic"):
            read_all(settings)
        topics.apply(settings)
        assert read_all(settings) == {}
        _told(settings, store)
        assert history(settings)["campaigns", "spring"] == [3]


def test_a_store_that_was_put_back_takes_the_topic_and_its_readers_back(settings: Settings, tmp_path: Path) -> None:
    """A newer version and objects that this store never had are in the topic: it is the store that counts."""
    with opened(settings) as store:
        fill(store)
        old = settings.model_copy(update={"data_dir": tmp_path / "old"})
        with opened(old) as backup:
            fill(backup)
            put(store, "campaigns", 1, name="newer")
            put(store, "advertisers", id="newcomer")
            _told(settings, store)
            with following(settings) as shelf:
                assert shelf.version("campaigns", "spring") == 2
                _told(old, backup)
                until(lambda: shelf.version("campaigns", "spring") == 1, "the older version is back")
                until(lambda: shelf.removed == [("advertisers", "newcomer")], "the newcomer is gone")
                assert read_all(settings) == stands(backup)
            with following(settings) as later:
                assert set(later.objects) == {(one.kind, one.id) for one in backup.everything()}


def test_comparing_what_is_the_same_sends_nothing(settings: Settings) -> None:
    with opened(settings) as store:
        fill(store)
        _told(settings, store)
        publisher = Publisher(settings)
        try:
            assert compare(settings, store, publisher) == 0
            publisher.send([Entry("campaigns/spring", b"{}"), Entry("lines/gone", b"{}")])
            assert compare(settings, store, publisher) == 2
            assert compare(settings, store, publisher) == 0
        finally:
            publisher.close()


# --- readers ----------------------------------------------------------------------------------------------------------


def test_a_record_that_is_no_object_is_passed_over(settings: Settings) -> None:
    with opened(settings) as store, following(settings) as shelf:
        fill(store)
        publisher = Publisher(settings)
        try:
            publisher.send([Entry("lines/all", b"\xff"), Entry("", b"{}"), Entry("lines/none", None)])
            publisher.send([entry_of(one) for one in store.everything()])
            publisher.send([Entry("lines/all", b"null"), Entry("creatives/red", None)])
        finally:
            publisher.close()
        until(lambda: shelf.removed, "the last record has come")
        assert shelf.removed == [("creatives", "red")]
        assert shelf.version("lines", "all") == 1


def test_a_reader_without_a_broker_tries_again_and_ends_when_it_is_told(tmp_path: Path) -> None:
    shelf = Shelf()
    catalogue = Catalogue(without_broker(tmp_path), shelf.take, shelf.remove)
    catalogue.start()
    assert not catalogue.wait_loaded(1)
    assert not catalogue.is_loaded
    catalogue.stop()
    assert shelf.taken == []


def test_the_topic_is_compacted_and_does_not_make_a_generation_used(settings: Settings) -> None:
    """No stage has begun with a log because campaigns are published beside it: a backup may still be restored there."""
    assert edge.topic_settings(CAMPAIGNS)["cleanup.policy"] == "compact"
    with opened(settings) as store:
        fill(store)
        _told(settings, store)
    assert read_all(settings) != {}
    assert used_topics(settings) == []

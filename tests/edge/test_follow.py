"""Following state topics on a real broker: where reading begins, and what happens when the log is trimmed under it."""

import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import kafka
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "services"))
from delivery_rig import StateTopic

from pipeline import topics
from pipeline.core.state import StateView
from pipeline.edge import kafka as edge
from pipeline.edge.follow import Follower
from pipeline.embedded.kafka import EmbeddedKafka
from pipeline.settings import Settings
from schemas.profile import Profile, VisitorState
from schemas.state import StateRecord
from schemas.topics import PROFILES, Topic
from tests.services.collector_rig import broker_in
from tests.waits import until


class Tape:
    """A reader that keeps a view, and every offset it was told of."""

    def __init__(self) -> None:
        self.view = StateView()
        self.offsets: list[int] = []
        self.begins = 0
        self.loads = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def begin(self, topic: Topic, partition: int) -> None:
        self.view, self.begins = StateView(), self.begins + 1

    def take(self, topic: Topic, partition: int, record: StateRecord, offset: int) -> None:
        self.view.apply(record, offset)
        self.offsets.append(offset)

    def loaded(self, topic: Topic, partition: int) -> None:
        self.loads += 1

    def pause(self) -> None:
        self.may_go_on.wait(30)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with broker_in(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def settings(broker: EmbeddedKafka, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    prefix = f"{zlib.crc32(request.node.name.encode())}-"
    found = Settings(
        data_dir=tmp_path, kafka_bootstrap_servers=broker.bootstrap_servers, partitions=1, topic_prefix=prefix
    )
    topics.apply(found)
    return found


def visitors(owner: StateTopic, versions: range, visitors: int = 20) -> int:
    """Write one record for each version, each about one of some visitors; returns the last offset."""
    return [owner.put(at, {f"v{at % visitors}": VisitorState(Profile(events=at))}) for at in versions][-1]


def expected(owner: StateTopic) -> dict[str, bytes]:
    return owner.view.entries


def test_reading_begins_where_the_last_record_says_and_gives_the_whole_state(settings: Settings) -> None:
    owner = StateTopic(settings, PROFILES, 0)
    last = visitors(owner, range(400))
    StateTopic(settings, PROFILES, 0, owner="next").close()  # the newest record is a fence, which knows no begin
    tape = Tape()
    follower = Follower(settings, (PROFILES,), tape)
    follower.start()
    try:
        until(lambda: tape.loads, "the partition is read")
        assert tape.view.entries == expected(owner)
        assert tape.offsets[0] > 300
        assert tape.offsets[-1] == last + 1
    finally:
        follower.stop()
        owner.close()


def test_what_is_written_later_is_followed_in_order(settings: Settings) -> None:
    owner = StateTopic(settings, PROFILES, 0)
    tape = Tape()
    follower = Follower(settings, (PROFILES,), tape)
    follower.start()
    try:
        until(lambda: tape.loads, "the partition is read")
        last = visitors(owner, range(100))
        until(lambda: tape.offsets and tape.offsets[-1] == last, "the last record is read")
        assert tape.offsets == list(range(last + 1))
        assert tape.view.entries == expected(owner)
        assert tape.begins == 1
    finally:
        follower.stop()
        owner.close()


def test_a_log_that_was_trimmed_under_the_reader_is_read_anew(settings: Settings) -> None:
    """The reader stalls, the log goes on and loses its beginning: what lies between is unknown, all is read again."""
    owner = StateTopic(settings, PROFILES, 0)
    visitors(owner, range(50))
    tape = Tape()
    follower = Follower(settings, (PROFILES,), tape)
    follower.start()
    try:
        until(lambda: tape.loads, "the partition is read")
        tape.may_go_on.clear()
        last = visitors(owner, range(50, 1_200), visitors=30)
        admin = edge.admin(settings)
        admin.delete_records({kafka.TopicPartition(owner.topic, 0): owner.writer.begin})
        admin.close()
        tape.may_go_on.set()
        until(lambda: tape.offsets[-1] == last, "the last record is read")
        assert tape.begins == 2
        assert tape.view.entries == expected(owner)
    finally:
        follower.stop()
        owner.close()

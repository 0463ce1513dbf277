"""Records of decisions outlive the process that answered: the file, and a delivery that is killed with a full one."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from delivery_rig import Service, read_collected
from hypothesis import given
from hypothesis import strategies as st

from pipeline import topics
from pipeline.delivery.spool import SEGMENT_BYTES_MAX, Entry, Spool, entries, frame
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.settings import Settings
from schemas.event import Context, Protocol
from tests.waits import free_port, until

CONTEXT = Context(Protocol.HERALD, "decision", "shop", 1_790_000_000_000)
ACTIONS = [{"id": "a", "url": "https://shop.example/a"}, {"id": "b", "url": "https://shop.example/b"}]
ENTRIES = st.builds(Entry, st.text(max_size=8), st.just(CONTEXT), st.text(max_size=8), st.text(), st.binary())


def entry(number: int, size: int = 10) -> Entry:
    return Entry(f"d{number}", CONTEXT, f"d{number}", "v", b"x" * size)


def files(folder: Path) -> list[int]:
    """Return the sizes of all files."""
    return sorted(path.stat().st_size for path in folder.glob("*"))


@given(st.lists(ENTRIES, max_size=6), st.data())
def test_whatever_end_of_a_file_is_torn_or_altered_the_entries_before_it_are_read(
    written: list[Entry], data: st.DataObject
) -> None:
    frames = [frame(one) for one in written]
    whole = b"".join(frames)
    assert list(entries(whole)) == written
    at = data.draw(st.integers(0, max(0, len(whole) - 1)))
    spared = sum(sum(map(len, frames[: number + 1])) <= at for number in range(len(frames)))
    assert list(entries(whole[:at])) == written[:spared]
    flipped = whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :] if whole else b""
    assert list(entries(flipped)) == written[:spared]


def test_a_file_is_emptied_once_the_broker_has_all_of_it_and_gone_once_it_is_full(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first, second = spool.keep(entry(1)), spool.keep(entry(2))
    size = len(frame(entry(1)))
    assert files(tmp_path) == [2 * size]
    first(True)
    assert files(tmp_path) == [2 * size]
    second(True)
    assert files(tmp_path) == [0]
    late = spool.keep(entry(3, SEGMENT_BYTES_MAX))
    early = spool.keep(entry(4))
    assert len(files(tmp_path)) == 2
    late(True)
    assert files(tmp_path) == [size]
    early(False)  # it did not land: whoever comes next sends it
    spool.close()
    assert files(tmp_path) == [size]
    assert [one.event_id for one, _ in Spool(tmp_path).left_behind()] == []  # the file is locked as long as we live


def test_only_the_files_of_the_dead_are_taken_over_and_each_goes_when_all_has_landed(tmp_path: Path) -> None:
    """A child that ends without a word, as a kill leaves it; a second one starts beside us."""
    code = f"""
import os
from pathlib import Path
from tests.services.test_delivery_spool import Spool, entry
dying = Spool(Path({str(tmp_path)!r}))
for number in range(3):
    dying.keep(entry(number))
os._exit(9)
"""
    path = os.pathsep.join(str(Path(__file__).parents[up]) for up in (0, 2))
    assert (
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, check=False).returncode == 9
    )
    alive, other = Spool(tmp_path), Spool(tmp_path)
    alive.keep(entry(7))
    left = list(alive.left_behind())
    assert [one.event_id for one, _ in left] == ["d0", "d1", "d2"]
    assert list(other.left_behind()) == []
    before = len(files(tmp_path))
    for _, landed in left:
        landed(True)
    assert len(files(tmp_path)) == before - 1


def test_a_file_that_cannot_be_read_is_left_and_does_not_hold_up_a_start(tmp_path: Path) -> None:
    (tmp_path / "1-1.spool").symlink_to(tmp_path / "gone")
    (tmp_path / "1-2.spool").write_bytes(frame(entry(1)) + b"torn")
    assert [one.event_id for one, _ in Spool(tmp_path).left_behind()] == ["d1"]


def test_a_disk_that_refuses_does_not_hold_up_an_answer(tmp_path: Path) -> None:
    blocked = tmp_path / "spool"
    blocked.write_text("no folder")
    landed = Spool(blocked).keep(entry(1))
    landed(True)
    assert files(tmp_path) == [len("no folder")]


def delivery(broker: EmbeddedKafka, data_dir: Path, name: str) -> Service:
    settings = Settings(
        data_dir=data_dir,
        kafka_bootstrap_servers=broker.bootstrap_servers,
        partitions=2,
        delivery_port=free_port(),
        clickhouse_port=free_port(),
    )
    topics.apply(settings)
    return Service(settings, data_dir / name)


def decide(service: Service, visitor: str) -> dict[str, Any]:
    asked = {"placement": "home", "visitor": visitor, "actions": ACTIONS}
    return dict(service.http.post("/v1/decisions", json=asked).json())


def test_what_a_killed_delivery_answered_is_logged_by_the_next_one(tmp_path: Path) -> None:
    """Its records waited in memory for a broker that did not answer; so did a click that was sent on."""
    broker = EmbeddedKafka(KafkaConfig(tmp_path / "broker", free_port(), free_port(), heap_mb=256))
    broker.start()
    try:
        broker.wait_ready()
        dying = delivery(broker, tmp_path, "first.log")
        dying.wait_for("/readyz")
        broken = psutil.Process(broker.pid)
        broken.suspend()
        answered = [decide(dying, f"v{number}") for number in range(30)]
        click = dying.http.get(answered[0]["actions"][0]["click_url"])
        os.kill(dying.process.pid, signal.SIGKILL)
        dying.process.wait()
        dying.http.close()
        broken.resume()
        next_one = delivery(broker, tmp_path, "second.log")
        next_one.wait_for("/readyz")
        spool = tmp_path / "spool"
        until(lambda: sum(files(spool)) == 0, "all has landed")
        events = Counter(event.event_id for _, context, event in read_collected(next_one.settings, 2))
        assert set(events) >= {one["decision_id"] for one in answered}
        assert (click.status_code, len(events)) == (302, 31)
        assert next_one.stop() == 0
        assert files(spool) == []
    finally:
        broker.stop()

"""Backup, restore and repartition on a real broker: the same bytes, found damage, kills in the middle."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from kafka import TopicPartition
from msgspec import UNSET
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent / "services"))
from campaigns_rig import fill, opened, put

from pipeline import topics
from pipeline.archive import backup, repartition, restore
from pipeline.archive import manifest as manifests
from pipeline.archive.log import Appender, CollectedLog, LogRecord
from pipeline.archive.recutting import mark_of
from pipeline.archive.segments import Damaged
from pipeline.edge import kafka
from pipeline.embedded.kafka import EmbeddedKafka
from pipeline.errors import Gap, SettingsError, StateError
from pipeline.settings import Settings, load
from schemas import block as codec
from schemas.block import CollectedBlock, partition_of
from schemas.event import Collected, Context, Protocol
from tests.agents.rig import broker

PARTITIONS = 3
BASE_MS = 1_790_000_000_000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with broker(tmp_path_factory.mktemp("broker")) as found:
        yield found


@pytest.fixture
def quiet() -> Console:
    return Console(quiet=True)


class Log:
    """A `collected` of its own: a prefix for each test."""

    def __init__(self, running: EmbeddedKafka, folder: Path, prefix: str) -> None:
        self.settings = load(
            data_dir=folder,
            kafka_bootstrap_servers=running.bootstrap_servers,
            topic_prefix=prefix,
            partitions=PARTITIONS,
            tick_ms=50,
            tick_max_ms=0,
            block_events_max=20,
        )
        topics.apply(self.settings)
        self.number = 0

    def feed(self, blocks: int, settings: Settings | None = None) -> None:
        """Write so many blocks into each partition, one in four a tick."""
        with CollectedLog(settings or self.settings) as log, Appender(log) as out:
            for _ in range(blocks):
                self.number += 1
                for partition in range(PARTITIONS):
                    value = codec.encode(self._block(partition))
                    rows = len(codec.decode(value, CollectedBlock).events)
                    out.append(partition, value, codec.headers(value, rows))
            out.flush()

    def _block(self, partition: int) -> CollectedBlock:
        time_ms = BASE_MS + self.number * 40
        context = Context(Protocol.SEGMENT, "page", "shop", time_ms, time_ms, "192.0.2.0", "")
        names = [f"visitor-{one}" for one in range(40) if partition_of(f"visitor-{one}", PARTITIONS) == partition]
        chosen = [] if self.number % 4 == 0 else names[: 1 + self.number % 5]
        events = [
            Collected(0, "", name, msgspec.json.encode({"type": "page", "timestamp": time_ms, "n": self.number}))
            for name in chosen
        ]
        return CollectedBlock(time_ms, "test", [context], events)


@pytest.fixture
def log(running: EmbeddedKafka, tmp_path: Path, request: pytest.FixtureRequest) -> Log:
    return Log(running, tmp_path / "data", f"{abs(hash(request.node.name)) % 10**8}-")


def records(settings: Settings) -> list[list[LogRecord]]:
    with CollectedLog(settings) as found:
        return [list(found.read(partition, found.firsts[partition])) for partition in range(settings.partitions)]


def content(settings: Settings) -> list[list[tuple[int, object, bytes]]]:
    return [[(one.offset, one.headers, one.value) for one in part] for part in records(settings)]


def events(settings: Settings) -> dict[str, list[bytes]]:
    """Return each visitor's events in order."""
    found: dict[str, list[bytes]] = {}
    for part in records(settings):
        for record in part:
            codec.check(record.value, record.headers)
            for event in codec.decode(record.value, CollectedBlock).events:
                found.setdefault(event.visitor, []).append(event.raw)
    return found


def other(settings: Settings, **update: object) -> Settings:
    return settings.model_copy(update=update)


def restored(settings: Settings, folder: Path, console: Console, **wish: object) -> Settings:
    """Restore into another generation; return its settings."""
    chosen = {"to_generation": 7, **wish}
    assert restore.run(settings, console, restore.Wish(folder, **chosen)) == 0  # type: ignore[arg-type]
    partitions = int(str(chosen.get("partitions") or settings.partitions))
    return other(settings, generation=int(str(chosen["to_generation"])), partitions=partitions)


def put_to_use(settings: Settings) -> None:
    """Leave a trace, as a stage does that begins with a generation."""
    client = kafka.producer(settings, max_block_ms=10_000)
    client.send(settings.topic("events"), value=b"x", partition=0).get(timeout=20)
    client.close()


def run_killed(settings: Settings, code: str, after_bytes: int) -> None:
    """Run a piece of code in a process that is killed once its stores have taken so many bytes: at any place."""
    script = KILLED.format(code=code, after=after_bytes)
    child = subprocess.run(
        [sys.executable, "-c", script], env=settings.as_environment(), capture_output=True, check=False
    )
    assert child.returncode == -9, child.stderr.decode()[-2_000:]


KILLED = """
import os, signal
from pathlib import Path
from rich.console import Console
from pipeline.archive import backup, repartition, restore, log, segments
from pipeline.settings import load
left = {after}
def counted(cls, name, size):
    real = getattr(cls, name)
    def call(self, *given):
        global left
        left -= size(*given)
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *given)
    setattr(cls, name, call)
counted(log.Appender, "append", lambda partition, value, headers: len(value))
counted(segments.SegmentWriter, "append", lambda record: len(record.value))
backup.SEGMENT_BYTES = 4_000
settings, console = load(), Console(quiet=True)
{code}
"""


def test_a_backup_restored_gives_the_same_bytes_at_the_same_offsets(log: Log, tmp_path: Path, quiet: Console) -> None:
    """In several runs, so from several files; headers and values are what they were."""
    folder = tmp_path / "backup"
    for blocks in (7, 0, 12):
        log.feed(blocks)
        assert backup.backup(log.settings, folder, quiet) == blocks * PARTITIONS
    assert backup.verify(folder, quiet) == 0
    target = restored(log.settings, folder, quiet)
    assert content(target) == content(log.settings)
    assert len(content(target)[0]) == 19


def test_a_flipped_bit_a_torn_file_and_a_missing_one_are_found_and_named(
    log: Log, tmp_path: Path, quiet: Console
) -> None:
    """By --verify, and before a restore writes anything."""
    folder = tmp_path / "backup"
    log.feed(9)
    backup.backup(log.settings, folder, quiet)
    path = folder / manifests.need(folder).parts[1].segments[0].name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    heads_flipped = whole[:8] + bytes([whole[8] ^ 128]) + whole[9:]
    for number, damage in enumerate((bytes(flipped), heads_flipped, whole[:-5], whole + b"\0", b"", None)):
        path.unlink() if damage is None else path.write_bytes(damage)
        assert backup.verify(folder, quiet) == 1, number
        (text,) = backup.damaged(folder, manifests.need(folder), quiet)
        assert text.startswith(str(path)), number
        with pytest.raises(Damaged, match=path.name):
            restored(log.settings, folder, quiet)
    path.write_bytes(whole)
    assert content(restored(log.settings, folder, quiet)) == content(log.settings)


def test_an_altered_manifest_is_found(log: Log, tmp_path: Path, quiet: Console) -> None:
    """Each of its bits: it says what belongs to the backup."""
    folder = tmp_path / "backup"
    log.feed(3)
    backup.backup(log.settings, folder, quiet)
    path = folder / manifests.NAME
    whole = path.read_bytes()
    undetected = []
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            undetected += [at] if manifests.need(folder) != msgspec.json.decode(whole, type=manifests.Manifest) else []
        except (Damaged, SettingsError):
            continue
    assert undetected == []


@pytest.mark.parametrize("after", [3_000, 20_000])
def test_a_backup_killed_anywhere_is_usable_and_goes_on(log: Log, tmp_path: Path, quiet: Console, after: int) -> None:
    """What the manifest names is whole; the next run adds the rest."""
    folder = tmp_path / "backup"
    log.feed(40)
    run_killed(log.settings, f"backup.backup(settings, Path({str(folder)!r}), console)", after)
    if manifests.read(folder) is not None:
        assert backup.verify(folder, quiet) == 0
    log.feed(2)
    backup.backup(log.settings, folder, quiet)
    assert backup.verify(folder, quiet) == 0
    assert content(restored(log.settings, folder, quiet)) == content(log.settings)


def test_a_killed_restore_goes_on_where_it_stopped(log: Log, tmp_path: Path, quiet: Console) -> None:
    """The same bytes at the same offsets in the end."""
    folder = tmp_path / "backup"
    log.feed(30)
    backup.backup(log.settings, folder, quiet)
    code = f"restore.run(settings, console, restore.Wish(Path({str(folder)!r}), to_generation=7))"
    run_killed(log.settings, code, 4_000)
    assert content(restored(log.settings, folder, quiet)) == content(log.settings)


def test_a_restore_into_a_log_that_holds_something_else_is_refused(log: Log, tmp_path: Path, quiet: Console) -> None:
    """Not a block is written; and a log with more than the backup is no interrupted restore either."""
    folder = tmp_path / "backup"
    log.feed(4)
    backup.backup(log.settings, folder, quiet)
    seventh = other(log.settings, generation=7)
    topics.apply(seventh)
    log.feed(1, seventh)
    before = content(seventh)
    with pytest.raises(SettingsError, match=r"holds 1 blocks, and that at 0 is not the backup's"):
        restored(log.settings, folder, quiet)
    assert content(seventh) == before
    assert content(restored(log.settings, folder, quiet, start_over=True)) == content(log.settings)
    log.feed(1, seventh)
    with pytest.raises(SettingsError, match=r"that at 4 is not the backup's"):
        restored(log.settings, folder, quiet)


def test_a_backup_of_another_log_is_refused(running: EmbeddedKafka, log: Log, tmp_path: Path, quiet: Console) -> None:
    """As long, but of other blocks; shorter; of another number of partitions."""
    folder = tmp_path / "backup"
    log.feed(5)
    backup.backup(log.settings, folder, quiet)
    second = Log(running, tmp_path / "second", log.settings.topic_prefix + "second-")
    with pytest.raises(StateError, match=r"ends at 0, the backup .* at 5: it is of another log"):
        backup.backup(second.settings, folder, quiet)
    second.number = 1_000
    second.feed(6)
    with pytest.raises(StateError, match="record 4 is not the one"):
        backup.backup(second.settings, folder, quiet)
    with pytest.raises(SettingsError, match="of generation 1 with 3 partitions"):
        backup.backup(other(log.settings, partitions=2), folder, quiet)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose me")
    with pytest.raises(SettingsError, match=r"holds 'thesis.txt'"):
        backup.backup(log.settings, tmp_path / "mine", quiet)


def test_events_keep_their_order_in_any_number_of_partitions(log: Log, tmp_path: Path, quiet: Console) -> None:
    """Repartition and restore: every event once, where its visitor belongs, in the visitor's order."""
    log.feed(30)
    before = events(log.settings)
    backup.backup(log.settings, tmp_path / "backup", quiet)
    for partitions in (1, 5):
        wish = repartition.Wish(partitions, to_generation=10 + partitions)
        assert repartition.run(log.settings, quiet, wish) == 0
        copied = other(log.settings, generation=10 + partitions, partitions=partitions)
        from_backup = restored(
            log.settings, tmp_path / "backup", quiet, partitions=partitions, to_generation=20 + partitions
        )
        assert events(copied) == events(from_backup) == before
        assert [[one.value for one in part] for part in records(copied)] == [
            [one.value for one in part] for part in records(from_backup)
        ]
        for number, part in enumerate(records(copied)):
            marks = [mark_of(record.headers) for record in part]
            assert [mark.at for mark in marks if mark] == list(range(len(part)))
            visitors = {event.visitor for one in part for event in codec.decode(one.value, CollectedBlock).events}
            assert {partition_of(visitor, partitions) for visitor in visitors} <= {number}


def test_a_killed_repartition_goes_on_and_takes_the_tail(log: Log, quiet: Console) -> None:
    """Killed twice at different places, fed in between: nothing lost, nothing doubled."""
    target = other(log.settings, generation=2, partitions=5)
    code = "repartition.run(settings, console, repartition.Wish(5))"
    for after in (5_000, 12_000):
        log.feed(20)
        run_killed(log.settings, code, after)
    assert repartition.run(log.settings, quiet, repartition.Wish(5)) == 0
    assert events(target) == events(log.settings)
    log.feed(3)
    put_to_use(target)  # stages may begin before the copy is whole: the log only grows
    assert repartition.run(log.settings, quiet, repartition.Wish(5)) == 0
    assert events(target) == events(log.settings)
    before = content(target)
    assert repartition.run(log.settings, quiet, repartition.Wish(5)) == 0
    assert content(target) == before, "nothing was left to copy"


def test_a_generation_that_somebody_else_writes_to_takes_no_more(log: Log, quiet: Console) -> None:
    """A collector that was started too early: said at the next run, and by every later one; --start-over mends it."""
    target = other(log.settings, generation=2)
    log.feed(5)
    repartition.run(log.settings, quiet, repartition.Wish(PARTITIONS))
    log.feed(1, target)
    with pytest.raises(SettingsError, match="is no copy: generation 2 is in use"):
        repartition.run(log.settings, quiet, repartition.Wish(PARTITIONS))
    with CollectedLog(target) as found, Appender(found) as out:
        copy = next(found.read(0, 0))
        out.append(0, copy.value, copy.headers)  # as one of a killed run that lands late
        out.flush()
    with pytest.raises(StateError, match="should stand at 0: somebody else has written there"):
        repartition.run(log.settings, quiet, repartition.Wish(PARTITIONS))
    assert repartition.run(log.settings, quiet, repartition.Wish(PARTITIONS, start_over=True)) == 0
    assert Counter({key: len(found) for key, found in events(target).items()}) == Counter(
        {key: len(found) for key, found in events(log.settings).items()}
    )


def test_a_block_that_comes_to_stand_elsewhere_stops_the_copy(log: Log) -> None:
    """The broker's answer says where a block stands: two writers notice each other at the first block."""
    log.feed(1)
    with CollectedLog(log.settings) as found, Appender(found) as out:
        log.feed(1)
        out.append(0, b"x", [])
        with pytest.raises(StateError, match=r"\[0\]: our block came to stand at 2, expected 1"):
            out.flush()


def test_a_log_without_its_beginning_is_refused_or_completed_from_a_backup(
    log: Log, tmp_path: Path, quiet: Console
) -> None:
    """Retention has passed: a text that says what to do, not a silent jump; the same for a backup that fell behind."""
    log.feed(12)
    whole = events(log.settings)
    backup.backup(log.settings, tmp_path / "backup", quiet)
    client = kafka.admin(log.settings)
    client.delete_records({TopicPartition(log.settings.topic("collected"), 1): 6})
    client.close()
    with pytest.raises(Gap, match=r"collected\[1\] begins at 6, expected 0 or before\n.*--from-backup"):
        repartition.run(log.settings, quiet, repartition.Wish(2))
    wish = repartition.Wish(2, from_backup=tmp_path / "backup")
    assert repartition.run(log.settings, quiet, wish) == 0
    assert events(other(log.settings, generation=2, partitions=2)) == whole
    assert repartition.run(log.settings, quiet, repartition.Wish(2, to_generation=3, accept_gap=True)) == 0
    assert events(other(log.settings, generation=3, partitions=2)) == events(log.settings) != whole


def test_a_backup_that_fell_behind_retention_says_so(log: Log, tmp_path: Path, quiet: Console) -> None:
    """The blocks between are nowhere any more: no backup has a hole that it does not tell of."""
    log.feed(3)
    backup.backup(log.settings, tmp_path / "backup", quiet)
    log.feed(5)
    client = kafka.admin(log.settings)
    client.delete_records({TopicPartition(log.settings.topic("collected"), 0): 6})
    client.close()
    with pytest.raises(Gap, match=r"begins at 6, the backup .* ends at 3: retention has deleted"):
        backup.backup(log.settings, tmp_path / "backup", quiet)
    assert backup.backup(log.settings, tmp_path / "second", quiet) == 8 * PARTITIONS - 6
    with pytest.raises(Gap, match="begins at 6"):
        restored(log.settings, tmp_path / "second", quiet)
    assert restored(log.settings, tmp_path / "second", quiet, accept_gap=True).generation == 7


def test_a_generation_in_use_is_left_alone(log: Log, tmp_path: Path, quiet: Console) -> None:
    """A stage has begun with it: nothing is copied into it, nothing of it deleted."""
    log.feed(2)
    target = other(log.settings, generation=2)
    topics.apply(target)
    put_to_use(target)
    for start_over in (False, True):
        with pytest.raises(SettingsError, match=r"generation 2 is in use: .*events hold something"):
            repartition.run(log.settings, quiet, repartition.Wish(PARTITIONS, start_over=start_over))
    with pytest.raises(SettingsError, match="--to-generation 1 is the present one"):
        repartition.run(log.settings, quiet, repartition.Wish(2, to_generation=1))


# --- the campaigns' store ---------------------------------------------------------------------------------------------


def campaigns_in(settings: Settings) -> list[tuple[str, int]]:
    with opened(settings) as store:
        return [(one.id, one.version) for one in store.everything()]


def test_the_campaigns_store_goes_with_the_backup_and_comes_back(log: Log, tmp_path: Path, quiet: Console) -> None:
    """As it was at the last run, with its history; a store that is there already is left alone."""
    folder = tmp_path / "backup"
    with opened(log.settings) as store:
        fill(store)
        backup.backup(log.settings, folder, quiet)
        put(store, "campaigns", 1, name="Second")  # it is written to while it is backed up
        backup.backup(log.settings, folder, quiet)
        put(store, "campaigns", 2, name="Third")
    assert len(list(folder.glob("campaigns-*"))) == 1
    assert backup.verify(folder, quiet) == 0
    elsewhere = restored(other(log.settings, data_dir=tmp_path / "new"), folder, quiet)
    assert ("spring", 2) in campaigns_in(elsewhere)
    with opened(elsewhere) as store:
        assert [one.version for one in store.versions("campaigns", "spring")] == [1, 2]
    restored(log.settings, folder, quiet, to_generation=8)
    assert ("spring", 3) in campaigns_in(log.settings)


def test_a_backup_from_where_the_store_is_not_keeps_the_one_before(log: Log, tmp_path: Path, quiet: Console) -> None:
    folder = tmp_path / "backup"
    with opened(log.settings) as store:
        fill(store)
    backup.backup(log.settings, folder, quiet)
    log.feed(1)
    backup.backup(other(log.settings, data_dir=tmp_path / "another machine"), folder, quiet)
    (path,) = folder.glob("campaigns-*")
    assert backup.verify(folder, quiet) == 0
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (text,) = backup.damaged(folder, manifests.need(folder), quiet)
    assert text.startswith(str(path))
    path.unlink()
    assert backup.verify(folder, quiet) == 1


def test_a_manifest_from_before_there_were_campaigns_is_read(log: Log, tmp_path: Path, quiet: Console) -> None:
    """Its checksum was made without that field."""
    folder = tmp_path / "backup"
    log.feed(1)
    backup.backup(log.settings, folder, quiet)
    assert b"campaigns" not in (folder / manifests.NAME).read_bytes()
    assert manifests.need(folder).campaigns is UNSET

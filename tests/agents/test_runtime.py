"""The shell around the folds, on a real broker: whatever happens to workers, each block counts exactly once."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import TopicPartition

from agents.sessionise import rules
from pipeline.core.sessionise import Sessionise
from pipeline.core.state import StateView
from pipeline.edge import kafka
from pipeline.embedded.kafka import EmbeddedKafka
from schemas import block as codec
from schemas.block import EventBlock, SessionBlock
from schemas.state import StateRecord
from tests.agents.rig import Stages, events_of, kill, live_sessions, page_views
from tests.waits import until

BLOCKS = 40
EVENTS = 25


@pytest.fixture
def stages(running: EmbeddedKafka, tmp_path: Path) -> Iterator[Stages]:
    found = Stages.on(running, tmp_path, f"t{uuid4().hex[:8]}-", partitions=2)
    try:
        yield found
    finally:
        found.stop()


def feed(stages: Stages, first: int, blocks: int, pause_s: float = 0.0) -> None:
    for number in range(first, first + blocks):
        for partition in range(2):
            stages.feed(partition, page_views(number, (2 * number + partition) * EVENTS, EVENTS))
        time.sleep(pause_s)


def all_clean(stages: Stages, blocks: int) -> bool:
    return len({codec.origin_of(record.headers) for record in stages.records("events")}) == 2 * blocks


def last_versions(stages: Stages, topic: str) -> dict[int, int]:
    versions: dict[int, int] = {}
    for record in stages.records(topic):
        state = codec.decode(record.value, StateRecord)
        if state.kind == "change":
            versions[record.partition] = state.version
    return versions


def test_workers_killed_at_random_neither_lose_nor_double_an_event(stages: Stages) -> None:
    """kill -9 of clean and sessionise, again and again while blocks come; every output is there once, and the same."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    workers = {stage: stages.start(stage, instance="0") for stage in ("clean", "sessionise")}
    for round_number in range(4):
        feed(stages, round_number * 10, 10, pause_s=rng.uniform(0.02, 0.1))
        time.sleep(rng.uniform(0.5, 4.0))
        stage = rng.choice(["clean", "sessionise"])
        kill(workers[stage])
        workers[stage] = stages.start(stage, instance="0")
    until(lambda: all_clean(stages, BLOCKS), "all blocks clean")
    until(lambda: last_versions(stages, "sessionise-state") == {0: BLOCKS - 1, 1: BLOCKS - 1}, "all sessions written")
    cleaned = events_of(stages.blocks("events", EventBlock))
    assert cleaned == {f"e{event}": 1 for event in range(2 * BLOCKS * EVENTS)}
    sessions = live_sessions(stages.blocks("sessions", SessionBlock))
    assert sum(session.events for session in sessions.values()) == 2 * BLOCKS * EVENTS


def test_a_stalled_worker_that_wakes_up_changes_nothing(stages: Stages) -> None:
    """SIGSTOP past the session timeout; another worker takes over; the first wakes up and may write: no effect."""
    zombie = stages.start("clean")
    feed(stages, 0, 5)
    until(lambda: all_clean(stages, 5), "the first worker at work")
    zombie.send_signal(signal.SIGSTOP)
    feed(stages, 5, 5)
    stages.start("clean")
    until(lambda: all_clean(stages, 10), "the second worker has taken over")
    zombie.send_signal(signal.SIGCONT)
    feed(stages, 10, 10, pause_s=0.2)
    until(lambda: all_clean(stages, 20), "work goes on")
    cleaned = events_of(stages.blocks("events", EventBlock))
    assert cleaned == {f"e{event}": 1 for event in range(2 * 20 * EVENTS)}


def test_workers_come_and_go_and_state_moves_with_the_partitions(stages: Stages) -> None:
    """1 -> 2 -> 1 workers of one stage while blocks come, each time with the state of the other to go on from."""
    stages.start("clean", instance="0")
    first = stages.start("sessionise")
    feed(stages, 0, 10)
    until(lambda: last_versions(stages, "sessionise-state") == {0: 9, 1: 9}, "one worker")
    stages.start("sessionise")
    feed(stages, 10, 10, pause_s=0.3)
    until(lambda: last_versions(stages, "sessionise-state") == {0: 19, 1: 19}, "two workers")
    first.terminate()
    first.wait(30)
    feed(stages, 20, 10, pause_s=0.3)
    until(lambda: last_versions(stages, "sessionise-state") == {0: 29, 1: 29}, "the second alone")
    sessions = live_sessions(stages.blocks("sessions", SessionBlock))
    assert sum(session.events for session in sessions.values()) == 2 * 30 * EVENTS


def test_a_missing_block_stops_the_stage_with_a_clear_text(stages: Stages) -> None:
    """A hole between the state and the next block is never jumped over."""
    value = codec.encode(EventBlock(1, codec.Totals(), [], []))
    for offset in (0, 1, 3):
        stages.feed_raw("events", 0, value, codec.headers(value, 0, codec.Origin(0, offset)))
    worker = stages.start("sessionise")
    assert worker.wait(60) == 70
    assert "block 3 after 1, expected 2" in stages.log_of("sessionise", 0)


def test_an_altered_block_stops_the_stage(stages: Stages) -> None:
    """The checksum in the header is of the value as it was written."""
    value = codec.encode(EventBlock(1, codec.Totals(), [], []))
    found = codec.headers(value, 0, codec.Origin(0, 0))
    stages.feed_raw("events", 0, value[:-1] + b"\x00", found)
    worker = stages.start("sessionise")
    assert worker.wait(60) == 70
    assert "the record was altered" in stages.log_of("sessionise", 0)


def flip_a_bit(folder: Path, topic: str, share: float) -> None:
    """Change the broker's file of partition 0, as a bad disk does. share: how far into it."""
    (segment,) = folder.rglob(f"{topic}-0/00000000000000000000.log")
    raw = bytearray(segment.read_bytes())
    with segment.open("r+b") as file:
        at = raw.index(b"v", round(len(raw) * share))  # of a visitor
        file.seek(at)
        file.write(bytes([raw[at] ^ 4]))


def straight(stages: Stages, topic: str) -> dict[int, StateView]:
    """What sessionise knows after one straight run over the clean blocks."""
    views = {partition: StateView() for partition in range(2)}
    folds = {partition: Sessionise(view, rules(stages.settings)) for partition, view in views.items()}
    for origin, block in sorted(stages.blocks(topic, EventBlock).items()):
        fold, view = folds[origin.partition], views[origin.partition]
        fold.apply(origin, block)
        fold.take_changes()
        view.fixed, view.version = fold.fixed(), origin.offset
    return views


def restored(stages: Stages, topic: str, begins: dict[int, int]) -> dict[int, StateView]:
    """What a reader knows who begins there."""
    views = {partition: StateView() for partition in range(2)}
    for record in stages.records(topic, begins):
        codec.check(record.value, record.headers)
        views[record.partition].apply(codec.decode(record.value, StateRecord), record.offset)
    return views


def begins(stages: Stages, topic: str, damaged: dict[int, int]) -> dict[int, int]:
    """Where the newest records say that reading begins. damaged: up to which record nothing can be read."""
    found: dict[int, int] = {}
    for record in stages.records(topic, {partition: offset + 1 for partition, offset in damaged.items()}):
        state = codec.decode(record.value, StateRecord)
        if state.kind == "change":
            found[record.partition] = state.begin
    return found


def ends(stages: Stages, topic: str) -> dict[int, int]:
    """The last offset of each partition."""
    reader = kafka.consumer(stages.settings)
    try:
        places = [TopicPartition(stages.settings.topic(topic), partition) for partition in range(2)]
        return {tp.partition: end - 1 for tp, end in reader.end_offsets(places).items()}
    finally:
        reader.close()


def committed(stages: Stages, group: str) -> dict[int, int]:
    """Where a group stands."""
    client = kafka.admin(stages.settings)
    try:
        name = stages.settings.topic(group)
        return {tp.partition: found.offset for tp, found in client.list_group_offsets(name)[name].items()}
    finally:
        client.close()


def test_a_damaged_state_is_found_and_computed_again(stages: Stages, folder: Path) -> None:
    """A bit flipped on the broker's disk in one partition, a record that is not what its writer wrote in the other."""
    stages.start("clean", instance="0")
    first = stages.start("sessionise", instance="0")
    feed(stages, 0, 10, pause_s=0.1)
    until(lambda: last_versions(stages, "sessionise-state") == {0: 9, 1: 9}, "the state is there")
    until(lambda: committed(stages, "sessionise") == {0: 10, 1: 10}, "it has committed")
    kill(first)
    damaged = ends(stages, "sessionise-state")
    flip_a_bit(folder, stages.settings.topic("sessionise-state"), 0.5)
    value = codec.encode(StateRecord("change", "?", damaged[1], 10, 0, b"", [("v1", b"wrong")], []))
    stages.feed_raw("sessionise-state", 1, value, [("rows", b"1"), ("crc", b"00000000"), ("begin", b"0:0")])
    feed(stages, 10, 10)
    assert stages.start("sessionise", instance="0").wait(90) == 70
    assert "put back, as told above; a restart reads from there" in stages.log_of("sessionise", 2)
    stages.start("sessionise", instance="0")
    damaged[1] += 1

    def is_mended() -> bool:
        found = begins(stages, "sessionise-state", damaged)
        return found.keys() == {0, 1} and all(found[p] > damaged[p] for p in found)

    until(is_mended, "no reader meets the damage any more")
    start = begins(stages, "sessionise-state", damaged)
    until(
        lambda: {p: v.version for p, v in restored(stages, "sessionise-state", start).items()} == {0: 19, 1: 19}, "done"
    )
    expected = straight(stages, "events")
    for partition, view in restored(stages, "sessionise-state", start).items():
        assert view.is_whole
        assert (view.entries, view.fixed) == (expected[partition].entries, expected[partition].fixed)
    told = stages.log_of("sessionise", 2)
    assert told.count("is damaged") >= 2
    assert "reading again from offset" in told
    sessions = live_sessions(stages.blocks("sessions", SessionBlock))
    assert sum(session.events for session in sessions.values()) == 2 * 20 * EVENTS


def test_a_damaged_state_whose_input_is_gone_stops_the_stage_with_what_can_be_done(stages: Stages) -> None:
    """And it still does so after a restart: nothing was made of it."""
    stages.start("clean", instance="0")
    first = stages.start("sessionise", instance="0")
    feed(stages, 0, 10)
    until(lambda: last_versions(stages, "sessionise-state") == {0: 9, 1: 9}, "the state is there")
    until(lambda: committed(stages, "sessionise") == {0: 10, 1: 10}, "it has committed")
    kill(first)
    (*_, last) = stages.records("sessionise-state", {0: 0, 1: ends(stages, "sessionise-state")[1] + 1})
    client = kafka.admin(stages.settings)
    try:
        client.delete_records(
            {
                TopicPartition(stages.settings.topic("sessionise-state"), 0): last.offset + 1,
                TopicPartition(stages.settings.topic("events"), 0): 5,
            }
        )
    finally:
        client.close()
    stages.feed_raw("sessionise-state", 0, b"torn", [("crc", b"00000000")])
    for number in (2, 3):
        worker = stages.start("sessionise", instance="0")
        assert worker.wait(90) == 70
        assert "block 0, from which it could be computed again, is no longer in events[0]" in (
            stages.log_of("sessionise", number)
        )

"""The shell around the folds, on a real broker: whatever happens to workers, each block counts exactly once."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.embedded.kafka import EmbeddedKafka
from schemas import block as codec
from schemas.block import EventBlock, SessionBlock
from schemas.state import StateRecord
from tests.agents.rig import Stages, broker, events_of, kill, live_sessions, page_views, until

BLOCKS = 40
EVENTS = 25


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with broker(tmp_path_factory.mktemp("broker")) as found:
        yield found


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

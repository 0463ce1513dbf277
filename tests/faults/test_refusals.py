"""What must end in a loud stop: topics with another number of partitions, and a log that begins behind our place."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import TopicPartition

from pipeline import tables
from pipeline.edge import kafka
from pipeline.edge.clickhouse import Warehouse
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.embedded.warehouse import EmbeddedWarehouse, WarehouseConfig
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import EventBlock, Origin, OutcomeBlock, SessionBlock, Totals
from tests.agents.rig import BASE_MS, Stages, page_views, until
from tests.journeys.rig import free_ports

KEPT_DAYS = 20_000
PATIENCE_S = 180  # a loaded machine needs it; a quiet one ends in seconds


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    port, controller = free_ports(2)
    found = EmbeddedKafka(KafkaConfig(tmp_path_factory.mktemp("broker"), port, controller, heap_mb=256))
    found.start()
    try:
        found.wait_ready(PATIENCE_S)
        yield found
    finally:
        found.stop()


@pytest.fixture
def stages(running: EmbeddedKafka, tmp_path: Path) -> Iterator[Stages]:
    collector, delivery = free_ports(2)
    found = Stages.on(
        running, tmp_path, f"t{uuid4().hex[:8]}-", partitions=2, collector_port=collector, delivery_port=delivery
    )
    try:
        yield found
    finally:
        found.stop()


@contextmanager
def started(settings: Settings, folder: Path, *parts: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start parts (with their argument after a space); kill what still runs at the end. Their words go to files."""
    processes = {}
    for part in parts:
        with (folder / f"{part}.words").open("wb") as words:
            processes[part] = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", *part.split()],
                stdout=words,
                stderr=words,
                env=settings.as_environment(),
            )
    try:
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def forget_before(settings: Settings, topic: str, offset: int) -> None:
    """Delete the first records of partition 0, as retention does."""
    client = kafka.admin(settings)
    try:
        client.delete_records({TopicPartition(settings.topic(topic), 0): offset})
    finally:
        client.close()


@pytest.mark.parametrize("asked_of", ["the broker", "the settings"])
def test_another_number_of_partitions_is_refused_by_every_part(stages: Stages, tmp_path: Path, asked_of: str) -> None:
    """Whoever changed it: visitors would be looked for where their state is not."""
    settings, found, expected = stages.settings, 3, 2
    if asked_of == "the broker":
        client = kafka.admin(settings)
        client.create_partitions({settings.topic("collected"): 3})
        client.close()
    else:
        settings, found, expected = settings.model_copy(update={"partitions": 3}), 2, 3
    name = settings.topic("collected")
    with started(settings, tmp_path, "collector", "worker clean", "worker aggregate", "delivery") as parts:
        for part, process in parts.items():
            code = process.wait(PATIENCE_S)
            words = " ".join((tmp_path / f"{part}.words").read_text().split())  # the terminal's line breaks taken out
            assert f"{name}: {found} partitions, expected {expected} (HERALD_PARTITIONS)" in words, part
            assert "set HERALD_PARTITIONS to what the topics have" in words, part
            assert code == 2, part


def test_a_stage_whose_next_block_was_deleted_stops_and_stays_there(stages: Stages) -> None:
    """Retention passed its place while it was away: no jump, neither now nor at the next start."""
    first = stages.start("clean")
    for number in range(3):
        stages.feed(0, page_views(number, 10 * number, 10))
    until(lambda: len(stages.records("events")) == 3, "three blocks are clean", PATIENCE_S)
    first.terminate()
    first.wait(PATIENCE_S)
    for number in range(3, 8):
        stages.feed(0, page_views(number, 10 * number, 10))
    forget_before(stages.settings, "collected", 6)
    for attempt in (1, 2):
        worker = stages.start("clean")
        assert worker.wait(PATIENCE_S) == 70
        assert "block 6 after 2, expected 3: blocks or state were lost to retention" in stages.log_of("clean", attempt)
    assert len(stages.records("events")) == 3


def put(stages: Stages, topic: str, offset: int) -> None:
    """Write a block of the origin into partition 0 of a topic that aggregate reads."""
    if topic == "events":
        block: object = EventBlock(BASE_MS, Totals(), [], [])
    else:
        block = OutcomeBlock(BASE_MS, []) if topic == "outcomes" else SessionBlock(BASE_MS, [])
    value = codec.encode(block)
    stages.feed_raw(topic, 0, value, codec.headers(value, 0, Origin(0, offset)))


def ledger(warehouse: Warehouse) -> list[tuple[object, ...]]:
    return warehouse.execute("SELECT topic, max(o) FROM blocks GROUP BY topic ORDER BY topic")


def test_aggregate_notices_lost_blocks_also_where_not_every_block_has_one(stages: Stages, tmp_path: Path) -> None:
    """`sessions` is sparse: a hole in the numbers is no sign there, so it looks where the log begins."""
    with EmbeddedWarehouse(WarehouseConfig(tmp_path / "warehouse", free_ports(1)[0])) as embedded:
        url = embedded.config.url()
        with Warehouse.from_url(url) as warehouse:
            tables.apply(warehouse, KEPT_DAYS)
            for offset in range(3):
                put(stages, "events", offset)
                put(stages, "outcomes", offset)
            put(stages, "sessions", 1)
            worker = stages.start("aggregate", clickhouse_url=url)
            until(
                lambda: ledger(warehouse) == [("events", 2), ("outcomes", 2), ("sessions", 1)],
                "all is stored",
                PATIENCE_S,
            )
            worker.terminate()
            assert worker.wait(PATIENCE_S) == 0
            put(stages, "sessions", 3)
            put(stages, "sessions", 5)
            forget_before(stages.settings, "sessions", 2)
            assert stages.start("aggregate", clickhouse_url=url).wait(PATIENCE_S) == 70
            assert "sessions[0]: the log begins at 2, expected 1 or before" in stages.log_of("aggregate", 1)
            stages.start("aggregate", clickhouse_url=url, accept_gap=True)
            until(lambda: ("sessions", 5) in ledger(warehouse), "it goes on where that is accepted", PATIENCE_S)

"""The clean run: the same log, folded by the same pure functions in one process without a broker, Faust or any end.

Each fold is a pure function of the blocks of `collected`, so nothing at all may differ from it: not a row, not a byte
of a state. Its rows go into a database of their own beside the real one, by the writer that the aggregate stage uses.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from kafka import TopicPartition

from agents import clean, profile, sessionise
from pipeline import money, tables
from pipeline.core.clean_stage import Clean
from pipeline.core.learn import Learn
from pipeline.core.profile_stage import Profiles
from pipeline.core.sessionise import Sessionise
from pipeline.core.spend import Spend
from pipeline.core.stage import Fold, Output
from pipeline.core.state import StateView
from pipeline.edge import kafka
from pipeline.edge.clickhouse import Warehouse
from pipeline.settings import Settings
from pipeline.warehouse_writer import PendingBlock, WarehouseWriter
from schemas import block as codec
from schemas.block import CollectedBlock, Origin
from schemas.topics import COLLECTED, EVENTS, OUTCOMES, Topic

DATABASE = "clean"
CHUNK_ROWS = 50_000

States = dict[tuple[str, int], StateView]
"""(stage, partition) -> its state."""


@dataclass
class Kept:
    """One partition of one stage."""

    fold: Fold
    view: StateView


class Reference:
    """All five folds of some partitions."""

    def __init__(self, settings: Settings, partitions: Iterable[int]) -> None:
        """Start at the beginning of the log."""
        made, sessions, profiles = clean.rules(settings), sessionise.rules(settings), profile.rules(settings)
        spending = money.rules(settings)
        makers = (
            lambda view: Clean(view, made),
            lambda view: Sessionise(view, sessions),
            lambda view: Profiles(view, profiles),
            lambda view: Learn(view),
            lambda view: Spend(view, spending),
        )
        self.kept: dict[tuple[str, int], Kept] = {}
        for partition in partitions:
            for make in makers:
                view = StateView()
                fold: Fold = make(view)
                self.kept[fold.name, partition] = Kept(fold, view)

    def take(self, origin: Origin, block: CollectedBlock) -> Iterator[PendingBlock]:
        """Apply a block; yield what is for the warehouse."""
        for output in self._step("clean", origin, block):
            yield _pending(output, origin)
            if output.topic is EVENTS:
                for stage in ("sessionise", "profile"):
                    for further in self._step(stage, origin, output.block):
                        yield _pending(further, origin)
                        if further.topic is OUTCOMES:
                            self._step("learn", origin, further.block)
                            self._step("spend", origin, further.block)

    def _step(self, stage: str, origin: Origin, block: object) -> list[Output]:
        kept = self.kept[stage, origin.partition]
        applied = kept.fold.apply(origin, block)  # type: ignore[arg-type]
        puts, deletes = kept.fold.take_changes()
        for key in deletes:
            kept.view.entries.pop(key, None)
        kept.view.entries.update(puts)
        kept.view.version, kept.view.fixed = origin.offset, kept.fold.fixed()
        return applied.outputs


def _pending(output: Output, origin: Origin) -> PendingBlock:
    value = codec.encode(output.block)
    crc = int(dict(codec.headers(value, output.rows, origin))["crc"], 16)
    return PendingBlock(output.topic.name, origin, codec.decode(value, type(output.block)), crc)


def replay(settings: Settings, processes: int) -> States:
    """Fold all that stands in `collected` and store the rows; return the states after the last block.

    processes: each takes its share of the partitions, for those know nothing of each other; 1 is this one.
    """
    with Warehouse.from_url(settings.warehouse_url) as warehouse:
        warehouse.execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
    with _clean_warehouse(settings) as warehouse:
        tables.apply(warehouse, settings.retention_days)
    shares = [range(settings.partitions)[start::processes] for start in range(processes)]
    if processes == 1:
        return _replay(settings, shares[0])
    spawning = get_context("spawn")  # a fork would carry the threads' locks along
    found: States = {}
    with ProcessPoolExecutor(processes, mp_context=spawning) as pool:
        for states in pool.map(_replay, [settings] * processes, shares):
            found |= states
    return found


def _replay(settings: Settings, partitions: Iterable[int]) -> States:
    reference = Reference(settings, partitions)
    with _clean_warehouse(settings) as warehouse:
        writer, chunk, rows = WarehouseWriter(warehouse, settings), list[PendingBlock](), 0
        for record in log_records(settings, COLLECTED, partitions):
            codec.check(record.value, record.headers)
            block = codec.decode(record.value, CollectedBlock)
            rows += len(block.events)
            chunk += reference.take(Origin(record.partition, record.offset), block)
            if rows >= CHUNK_ROWS:
                writer.write(chunk)
                chunk, rows = [], 0
        writer.write(chunk)
    return {name: kept.view for name, kept in reference.kept.items()}


def _clean_warehouse(settings: Settings) -> Warehouse:
    return Warehouse.from_url(settings.warehouse_url.rpartition("/")[0] + f"/{DATABASE}", send_receive_timeout_s=120)


def log_records(settings: Settings, topic: Topic, partitions: Iterable[int]) -> Iterator[Any]:
    """Yield every record that these partitions hold now, one partition after the other."""
    reader = kafka.consumer(settings)
    try:
        for partition in partitions:
            tp = TopicPartition(settings.topic(topic.name), partition)
            reader.assign([tp])
            end = reader.end_offsets([tp])[tp]
            reader.seek_to_beginning(tp)
            while reader.position(tp) < end:
                for batch in reader.poll(500).values():
                    yield from batch
    finally:
        reader.close()

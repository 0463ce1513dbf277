"""Time is in the log: what comes out of the whole chain depends on the order of a partition's events, and no more.

What may change, and changes nothing: where the events of a block are cut into blocks; at which blocks a stage is
killed, restored from its state log and does the block again; how partitions interleave; which blocks go into one
insert.

What stays as it is, because it is the input: the order of the events in a partition; each event's block time (the
pieces of a cut block are closed when the block was) and so block times in the same order, however much two writers'
clocks differ; and ticks, which carry the time that passes while nothing comes. Settling at most so many visitors a
block (`settle_max`, `expired_entries_max`) puts work off to later blocks, so each log ends in ticks, until nothing is
due.

What names a block is different by nature and left out: `o` and `n` of the rows, the ledger, the keys of dedupe's
entries, and the ids that clean makes for events without one (partition-offset-row): here every event has its own.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.stage import Fold
from pipeline.core.state import StateView, StateWriter
from pipeline.settings import load
from pipeline.warehouse_writer import PendingBlock, WarehouseWriter
from schemas import block as codec
from schemas.block import CollectedBlock, Origin
from schemas.model import PlacementModel
from schemas.state import StateRecord
from schemas.topics import BAD, COLLECTED, EVENTS, OUTCOMES, SESSIONS
from tests.simulation import story
from tests.simulation.life import Stage
from tests.simulation.warehouse import READS, Store
from tests.simulation.world import STAGES

PARTITIONS = 2
TICKS = 8
HOPS = (EVENTS.name, BAD.name, SESSIONS.name, OUTCOMES.name)
NAMES_OF_BLOCKS = {"o", "n", "applied_time"}
TOPICS = {topic.name: topic for topic in READS}

law = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Stand:
    """One stage's fold of one partition, with its state log."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._log: list[bytes] = [codec.encode(StateWriter.fence("0"))]
        self._begin()

    def _begin(self) -> None:
        self.view = StateView()
        for offset, value in enumerate(self._log):
            self.view.apply(codec.decode(value, StateRecord), offset)
        self._fold: Fold = self._stage.make(self.view)
        self._writer = StateWriter(self.view, "0")

    def take(self, origin: Origin, value: bytes, *, is_killed: bool) -> list[tuple[str, bytes]]:
        """Apply a block; with a kill between its outputs and its state, and then again. Return (topic, value)s."""
        outputs = self._apply(origin, value)
        if is_killed:
            self._log.append(codec.encode(StateWriter.fence("0")))
            self._begin()
            again = self._apply(origin, value)
            assert again == outputs, f"{self._stage.kind.name}: {origin} came out differently the second time"
        first = len(self._log)
        records = self._writer.records(origin.offset, self._fold.fixed(), self._fold.take_changes(), 2**20)
        self._log += [codec.encode(record) for record in records]
        self._writer.written(first)
        self.view.version, self.view.begin, self.view.fixed = origin.offset, records[-1].begin, records[-1].fixed
        return outputs

    def _apply(self, origin: Origin, value: bytes) -> list[tuple[str, bytes]]:
        applied = self._fold.apply(origin, codec.decode(value, self._stage.kind.reads))
        return [(output.topic.name, codec.encode(output.block)) for output in applied.outputs]


class World(NamedTuple):
    """What is known at the end. tables: rows without the names of blocks."""

    profiles: dict[str, bytes]
    sessions: dict[str, bytes]
    models: dict[tuple[int, str, str], tuple[int, int, int]]
    tables: dict[str, list[tuple[object, ...]]]


def tell(logs: Sequence[Sequence[CollectedBlock]], rng: random.Random, kill: float, chunk_max: int) -> World:
    """Run the chain over each partition's log. rng: interleaves, kills and chunks."""
    stands = {(name, p): Stand(stage) for name, stage in STAGES.items() for p in range(len(logs))}
    store = Store()
    writer = WarehouseWriter(store, load(), lambda _: None)
    chunk: list[PendingBlock] = []
    left = [list(enumerate(log)) for log in logs]
    while any(left):
        partition = rng.choice([p for p, blocks in enumerate(left) if blocks])
        offset, block = left[partition].pop(0)
        for topic, value in _through(stands, Origin(partition, offset), codec.encode(block), rng, kill):
            chunk.append(PendingBlock(topic, Origin(partition, offset), codec.decode(value, READS[TOPICS[topic]]), 0))
        if len(chunk) >= rng.randint(1, chunk_max):
            writer.write(chunk)
            chunk = []
    writer.write(chunk)
    return _world(stands, store)


def _through(
    stands: dict[tuple[str, int], Stand], origin: Origin, value: bytes, rng: random.Random, kill: float
) -> Iterator[tuple[str, bytes]]:
    made = {COLLECTED.name: value}
    for name, stage in STAGES.items():
        source = made.get(stage.kind.source.name)
        assert source is not None
        for topic, output in stands[name, origin.partition].take(origin, source, is_killed=rng.random() < kill):
            made[topic] = output
            yield topic, output


def _world(stands: dict[tuple[str, int], Stand], store: Store) -> World:
    profiles: dict[str, bytes] = {}
    sessions: dict[str, bytes] = {}
    models: dict[tuple[int, str, str], tuple[int, int, int]] = {}
    for (name, partition), stand in stands.items():
        if name == "profile":
            profiles |= stand.view.entries | {f"fixed {partition}": stand.view.fixed}
        elif name == "sessionise":
            sessions |= stand.view.entries | {f"fixed {partition}": stand.view.fixed}
        elif name == "learn":
            for placement, raw in stand.view.entries.items():
                for action, arm in msgspec.msgpack.decode(raw, type=PlacementModel).arms.items():
                    sums = (arm.trials, arm.reward_micros, arm.reward_squares_micros)
                    if any(sums):  # an arm of which all was taken back within one block was never there
                        models[partition, placement, action] = sums
    tables = {}
    for table, columns in store.column_names().items():
        names = [column for column in columns if column not in NAMES_OF_BLOCKS]
        if table != "blocks":
            where = {"is_deleted": 0} if "is_deleted" in columns else {}  # a name that was void before its block ended
            tables[table] = sorted(store.columns(table, names, **where), key=repr)
    return World(profiles, sessions, models, tables)


def straight(seed: int) -> list[list[CollectedBlock]]:
    """Return each partition's log: a story, then ticks until all that is due has been done."""
    rng = random.Random(seed)
    logs = []
    for partition in range(PARTITIONS):
        visitors = story.Visitors(rng, partition)
        log = [_named(visitors.block(), f"{partition}-{at}") for at in range(rng.choice((3, 10, 20)))]
        end_ms = max(block.block_time_ms for block in log)
        logs.append(log + [CollectedBlock(end_ms + number, "tick", [], []) for number in range(1, TICKS)])
    return logs


def _named(block: CollectedBlock, name: str) -> CollectedBlock:
    events = [
        event if event.event_id else msgspec.structs.replace(event, event_id=f"given-{name}-{row}")
        for row, event in enumerate(block.events)
    ]
    return msgspec.structs.replace(block, events=events)


def cut(log: Sequence[CollectedBlock], rng: random.Random) -> list[CollectedBlock]:
    """Cut blocks with events into any pieces; each is closed when the whole was."""
    pieces: list[CollectedBlock] = []
    for block in log:
        events: list[Any] = list(block.events)
        while len(events) > 1:
            size = rng.randint(1, len(events))
            pieces.append(msgspec.structs.replace(block, events=events[:size]))
            events = events[size:]
            if not events:
                break
        if events or not block.events:
            pieces.append(msgspec.structs.replace(block, events=events))
    return pieces


@law
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_any_cut_any_replay_and_any_interleaving_give_the_same_to_the_bit(seed: int, chance: int) -> None:
    """Profiles and sessions by their packed bytes, models by their sums, every table by its rows."""
    logs, rng = straight(seed), random.Random(chance)
    clean = tell(logs, random.Random(0), kill=0.0, chunk_max=1)
    pieces = [cut(log, rng) for log in logs]
    shaken = tell(pieces, rng, kill=rng.choice((0.0, 0.1, 0.5)), chunk_max=rng.choice((1, 8, 40)))
    assert shaken.profiles == clean.profiles
    assert shaken.sessions == clean.sessions
    assert shaken.models == clean.models
    for table, rows in clean.tables.items():
        assert shaken.tables[table] == rows, table


@law
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_without_cuts_even_the_names_are_the_same(seed: int, chance: int) -> None:
    """Only killed, replayed and interleaved: the stages' whole state, of the same bytes, under the same offsets."""
    logs, rng = straight(seed), random.Random(chance)
    clean = tell(logs, random.Random(0), kill=0.0, chunk_max=1)
    shaken = tell(logs, rng, kill=0.4, chunk_max=20)
    assert shaken == clean


def test_another_order_of_events_is_another_world() -> None:
    """The law above can fail: events of one visitor that change places are seen."""
    changed = 0
    for seed in range(5):
        logs = straight(seed)
        turned = [[msgspec.structs.replace(block, events=block.events[::-1]) for block in log[::-1]] for log in logs]
        changed += tell(logs, random.Random(0), 0.0, 1) != tell(turned, random.Random(0), 0.0, 1)
    assert changed == 5

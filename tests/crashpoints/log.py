"""What stands in the log of a stage, and what should: the same fold without Kafka, over the same blocks."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kafka import TopicPartition
from msgspec import Struct

from pipeline.core.stage import Fold
from pipeline.core.state import StateView
from pipeline.edge import kafka
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import Origin
from schemas.state import StateRecord
from schemas.topics import Topic

Place = tuple[str, int]  # topic without prefix, partition


class Log:
    """Some topics, read on from where the last look ended."""

    def __init__(self, settings: Settings, topics: Iterable[Topic]) -> None:
        self._consumer = kafka.consumer(settings)
        self._places = {
            TopicPartition(settings.topic(topic.name), partition): (topic.name, partition)
            for topic in topics
            for partition in range(settings.partitions)
        }
        self._consumer.assign(list(self._places))
        self._consumer.seek_to_beginning()

    def read(self) -> Iterator[tuple[Place, Any]]:
        """Yield every new record."""
        ends = self._consumer.end_offsets(list(self._places))
        while any(self._consumer.position(tp) < ends[tp] for tp in self._places):
            for tp, records in self._consumer.poll(timeout_ms=100).items():
                yield from ((self._places[tp], record) for record in records)

    def close(self) -> None:
        self._consumer.close(autocommit=False)


@dataclass
class Reference:
    """One partition of a stage as it should be. outputs: (topic, origin) -> value."""

    fold: Fold
    view: StateView
    outputs: dict[tuple[str, Origin], bytes] = field(default_factory=dict)

    def apply(self, origin: Origin, block: Struct) -> list[tuple[str, Struct, int]]:
        """Take a block in; return what comes out as (topic, block, rows)."""
        applied = self.fold.apply(origin, block)
        for output in applied.outputs:
            self.outputs[output.topic.name, origin] = codec.encode(output.block)
        self.fold.take_changes()
        self.view.version = origin.offset
        return [(output.topic.name, output.block, output.rows) for output in applied.outputs]


class Written:
    """What a stage wrote: outputs by origin, state by partition."""

    def __init__(self, settings: Settings, stage: type[Fold], outputs: Iterable[Topic]) -> None:
        self.state = stage.state.name
        self._log = Log(settings, [stage.state, *outputs])
        self.outputs: dict[tuple[str, Origin], bytes] = {}
        self.records: dict[int, list[tuple[int, StateRecord]]] = {p: [] for p in range(settings.partitions)}
        self.views = {p: StateView() for p in range(settings.partitions)}
        self.repeats = 0
        self.altered: list[str] = []

    def read(self) -> None:
        """Take in what is new; a repeat must be the same to the letter."""
        for (topic, partition), record in self._log.read():
            codec.check(record.value, record.headers)
            if topic == self.state:
                state = codec.decode(record.value, StateRecord)
                self.records[partition].append((record.offset, state))
                self.views[partition].apply(state, record.offset)
                continue
            origin = codec.origin_of(record.headers)
            first = self.outputs.setdefault((topic, origin), record.value)
            self.repeats += first is not record.value
            if first != record.value:
                self.altered.append(f"{topic}: block {origin} came out differently the second time")

    def reaches(self, version: int, is_over: Any, timeout_s: float) -> bool:
        """Wait until all partitions' state is of this version; False where it is over before, or takes too long."""
        end_s = time.monotonic() + timeout_s
        while True:
            self.read()
            if all(view.version >= version for view in self.views.values()):
                return True
            if is_over() or time.monotonic() > end_s:
                return False
            time.sleep(0.02)

    def unlike(self, references: dict[int, Reference]) -> Iterator[str]:
        """Say where outputs or state differ from these references'."""
        yield from self.altered
        expected = {key: value for one in references.values() for key, value in one.outputs.items()}
        for key in sorted(expected.keys() | self.outputs.keys()):
            if expected.get(key) != self.outputs.get(key):
                where = f"is there: {key in self.outputs}, expected: {key in expected}"
                yield f"{key[0]}: block {tuple(key[1])} differs; {where}"
        for partition, one in references.items():
            for what, view in (("read on", self.views[partition]), ("restored", self._restored(partition))):
                found = (view.version, view.fixed, view.entries)
                if found != (one.view.version, one.fold.fixed(), one.view.entries):
                    yield f"{self.state}[{partition}] {what}: differs at version {view.version}/{one.view.version}"

    def _restored(self, partition: int) -> StateView:
        """Return the state as a new owner would read it: from where the last record says."""
        begin = self.views[partition].begin
        view = StateView()
        for offset, record in self.records[partition]:
            if offset >= begin:
                view.apply(record, offset)
        return view

    def close(self) -> None:
        self._log.close()

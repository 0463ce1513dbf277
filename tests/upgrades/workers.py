"""The four folds on one partition with their state logs, as one worker has them; today's, or of a later version."""

import random
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from agents.restore import state_headers
from pipeline.core.stage import Fold
from pipeline.core.state import StateView, StateWriter
from schemas import block as codec
from schemas.block import Origin
from schemas.state import StateRecord
from schemas.topics import COLLECTED
from tests.simulation import story, world
from tests.simulation.life import Stage
from tests.upgrades.wire import ENTRIES, FIXED, STATE_TOPICS, Line, as_later

STAGES = {name: stage for name, stage in world.STAGES.items() if stage.kind.state.name in STATE_TOPICS}
"""Those that the first version had."""


@dataclass
class Stand:
    """One stage. log: its state topic."""

    stage: Stage
    log: list[bytes]
    is_later: bool
    view: StateView = field(default_factory=StateView)

    def __post_init__(self) -> None:
        """Fence and restore."""
        self.topic = self.stage.kind.state.name
        self.log.append(codec.encode(StateWriter.fence("new")))
        for offset, value in enumerate(self.log):
            self.view.apply(codec.decode(value, StateRecord), offset)
        self._fold: Fold = self.stage.make(self.view)
        self._writer = StateWriter(self.view, "new")

    def take(self, origin: Origin, value: bytes) -> dict[str, bytes]:
        """Apply a block; return the outputs by topic."""
        applied = self._fold.apply(origin, codec.decode(value, self.stage.kind.reads))
        made = {output.topic.name: codec.encode(self._shape(output.block)) for output in applied.outputs}
        puts, deletes = self._fold.take_changes()
        fixed = self._fold.fixed()
        if self.is_later:
            fixed = _later(FIXED[self.topic][0], fixed)
            if self.topic in ENTRIES:
                puts = [(key, _later(ENTRIES[self.topic][0], raw)) for key, raw in puts]
        first = len(self.log)
        records = self._writer.records(origin.offset, fixed, (puts, deletes), 2**20)
        self.log += [codec.encode(self._shape(record)) for record in records]
        self._writer.written(first)
        self.view.version, self.view.begin, self.view.fixed = origin.offset, records[-1].begin, fixed
        return made

    def _shape(self, value: Struct) -> Struct:
        return as_later(value) if self.is_later else value


@dataclass
class Chain:
    """All four stages of one partition."""

    stands: dict[str, Stand]
    was_later: bool = False
    was_ours: bool = False

    @staticmethod
    def fresh() -> "Chain":
        """Begin with nothing."""
        return Chain({name: Stand(stage, [], is_later=False) for name, stage in STAGES.items()})

    @staticmethod
    def restored(logs: dict[str, list[Line]]) -> "Chain":
        """Take over what stands in these state topics."""
        return Chain({
            name: Stand(stage, [line.value for line in logs[stage.kind.state.name]], is_later=False)
            for name, stage in STAGES.items()
        })  # fmt: skip

    def handed_over(self, *, is_later: bool) -> "Chain":
        """Return the next owner, who has only the logs."""
        stands = {name: Stand(stand.stage, stand.log, is_later) for name, stand in self.stands.items()}
        return Chain(stands, self.was_later or is_later, self.was_ours or not is_later)

    def take(self, offset: int, value: bytes) -> dict[str, bytes]:
        """Pass a collected block through; return all outputs by topic."""
        made = {COLLECTED.name: value}
        for stand in self.stands.values():
            made |= stand.take(Origin(0, offset), made[stand.stage.kind.source.name])
        del made[COLLECTED.name]
        return made

    def entries(self) -> dict[str, dict[str, bytes]]:
        """Return the states as they are packed."""
        return {name: dict(stand.view.entries) for name, stand in self.stands.items()}

    def values(self) -> dict[str, dict[str, object]]:
        """Return the states as this version reads them from the logs."""
        found: dict[str, dict[str, object]] = {}
        for name, stand in self.stands.items():
            view = StateView()
            for offset, value in enumerate(stand.log):
                view.apply(codec.decode(value, StateRecord), offset)
            kind = ENTRIES.get(stand.topic)
            read = {
                key: msgspec.msgpack.decode(raw, type=kind[0]) if kind else raw for key, raw in view.entries.items()
            }
            found[name] = {**read, "fixed": msgspec.msgpack.decode(view.fixed, type=FIXED[stand.topic][0])}
        return found


def _later(kind: type[Struct], raw: bytes) -> bytes:
    return msgspec.msgpack.encode(as_later(msgspec.msgpack.decode(raw, type=kind)))


def told(rng: random.Random, blocks: int) -> list[Line]:
    """Return what today's code writes into every topic."""
    visitors, chain = story.Visitors(rng, 0), Chain.fresh()
    lines: list[Line] = []
    for offset in range(blocks):
        value = codec.encode(visitors.block())
        lines.append(Line(COLLECTED.name, value, codec.headers(value, 0)))
        made = chain.take(offset, value)
        lines += [Line(topic, raw, codec.headers(raw, 0, Origin(0, offset))) for topic, raw in made.items()]
    for stand in chain.stands.values():
        for value in stand.log:
            record = codec.decode(value, StateRecord)
            lines.append(Line(stand.topic, value, state_headers(value, record, len(record.puts))))
    return lines

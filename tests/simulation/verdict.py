"""What must be true when a seed is over: the log, the states and the warehouse are those of one straight clean run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from pipeline.core.stage import Fold
from pipeline.core.state import StateView
from pipeline.warehouse_writer import PendingBlock, WarehouseWriter
from schemas import block as codec
from schemas.block import Origin
from schemas.state import StateRecord
from schemas.tables import BAD as BAD_TABLE
from schemas.topics import BAD, COLLECTED, EVENTS, OUTCOMES, SESSIONS, Topic
from tests.simulation.broker import Broker
from tests.simulation.warehouse import READS, Store

if TYPE_CHECKING:
    from tests.simulation.world import World

HOPS = (EVENTS, BAD, SESSIONS, OUTCOMES)


class Straight(NamedTuple):
    """A clean run over the same log. outputs: by topic and origin. states: by stage and partition."""

    outputs: dict[str, dict[Origin, bytes]]
    states: dict[tuple[str, int], StateView]
    store: Store


def judge(world: "World") -> list[str]:
    """Return all that is wrong."""
    straight = _straight(world)
    wrong: list[str] = []
    for topic in HOPS:
        wrong += _hop(world, topic, straight.outputs[topic.name])
    for (name, partition), view in straight.states.items():
        wrong += _state(world, name, partition, view)
    wrong += _stores(world.store, straight.store)
    wrong += _books(world.store)
    return wrong


def _straight(world: "World") -> Straight:
    outputs: dict[str, dict[Origin, bytes]] = {topic.name: {} for topic in HOPS}
    states: dict[tuple[str, int], StateView] = {}
    for partition in range(world.partitions):
        log = world.broker.read((world.settings.topic(COLLECTED.name), partition), 0, 10**9)
        outputs_of = {COLLECTED.name: {Origin(partition, one.offset): one.value for one in log}, **outputs}
        for name, stage in world.parts.stages.items():
            view = states[name, partition] = StateView()
            fold = stage.make(view)
            source = sorted((origin, value) for origin, value in outputs_of[stage.kind.source.name].items()
                            if origin.partition == partition)  # fmt: skip
            for origin, value in source:
                for topic, made in _apply(fold, view, origin, value):
                    outputs[topic][origin] = made
    return Straight(outputs, states, _stored(world, outputs))


def _apply(fold: Fold, view: StateView, origin: Origin, value: bytes) -> Iterator[tuple[str, bytes]]:
    applied = fold.apply(origin, codec.decode(value, fold.reads))
    for output in applied.outputs:
        yield output.topic.name, codec.encode(output.block)
    fold.take_changes()
    view.fixed, view.version = fold.fixed(), origin.offset


def _stored(world: "World", outputs: dict[str, dict[Origin, bytes]]) -> Store:
    store = Store()
    writer = WarehouseWriter(store, world.settings, lambda _: None)
    for topic in HOPS:
        for origin, value in sorted(outputs[topic.name].items()):
            block: Struct = codec.decode(value, READS[topic])
            crc = int(dict(codec.headers(value, 0))["crc"], 16)
            writer.write([PendingBlock(topic.name, origin, block, crc)])
    return store


def _hop(world: "World", topic: Topic, expected: dict[Origin, bytes]) -> list[str]:
    """First copies come in order and are what they must be; later copies are the same to the letter."""
    wrong: list[str] = []
    for partition in range(world.partitions):
        first: dict[Origin, bytes] = {}
        last = -1
        for record in world.broker.read((world.settings.topic(topic.name), partition), 0, 10**9):
            origin = codec.origin_of(record.headers)
            codec.check(record.value, record.headers)
            if origin in first:
                if first[origin] != record.value:
                    wrong.append(f"{topic.name}: a copy of {origin} differs")
                continue
            if origin.offset <= last:
                wrong.append(f"{topic.name}[{partition}]: {origin.offset} comes first after {last}")
            first[origin], last = record.value, origin.offset
        mine = {origin: value for origin, value in expected.items() if origin.partition == partition}
        if first != mine:
            differ = sorted(set(first) ^ set(mine)) or sorted(at for at in mine if first[at] != mine[at])
            wrong.append(f"{topic.name}[{partition}]: not as in a clean run, first at {differ[:3]}")
    return wrong


def _state(world: "World", name: str, partition: int, expected: StateView) -> list[str]:
    """Whoever reads the state topic, from its first record or from where its last one says, knows the same."""
    stage = world.parts.stages[name]
    place = (world.settings.topic(stage.kind.state.name), partition)
    damaged = max(world.broker.damaged.get(place, {-1}))
    first, begin = world.broker.logs[place].first, begin_of(world.broker, place)
    wrong = []
    for what, start in (("first record", first), ("begin", begin)):
        if start <= damaged:
            if start == begin:
                wrong.append(f"{name}[{partition}]: to be read from {begin}, but record {damaged} is damaged")
            continue
        view = _read(world.broker, place, start)
        if not view.is_whole:
            wrong.append(f"{name}[{partition}] from its {what}: an older version was left half written")
        elif (view.version, view.fixed) != (expected.version, expected.fixed):
            wrong.append(f"{name}[{partition}] from its {what}: version {view.version}, expected {expected.version}, "
                         f"or another fixed part")  # fmt: skip
        elif view.entries != expected.entries:
            differ = [key for key in {**view.entries, **expected.entries}
                      if view.entries.get(key) != expected.entries.get(key)]  # fmt: skip
            wrong.append(f"{name}[{partition}] from its {what}: entries {sorted(differ)[:3]} are not as in a clean run")
    return wrong


def begin_of(broker: Broker, place: tuple[str, int]) -> int:
    """Where the newest record says that reading begins."""
    sound = (one for one in broker.read(place, 0, 10**9) if one.offset not in broker.damaged.get(place, ()))
    states = (codec.decode(one.value, StateRecord) for one in sound)
    return max(((state.epoch, state.begin) for state in states if state.kind == "change"), default=(0, 0))[1]


def _read(broker: Broker, place: tuple[str, int], start: int) -> StateView:
    view = StateView()
    for record in broker.read(place, start, 10**9):
        view.apply(codec.decode(record.value, StateRecord), record.offset)
    return view


def _stores(found: Store, expected: Store) -> list[str]:
    is_, must_be = found.content(), expected.content()
    return [
        f"table {name}: {len(is_[name])} rows, expected {len(must_be[name])}; "
        f"first difference {sorted(set(map(repr, is_[name])) ^ set(map(repr, must_be[name])))[:2]}"
        for name in must_be
        if is_[name] != must_be[name]
    ]


def _books(store: Store) -> list[str]:
    """Received = stored + refused + duplicate, by partition, as the ledger and the tables say."""
    wrong = []
    last: dict[object, tuple[object, ...]] = {}
    for row in sorted(store.columns("blocks", ("p", "o", "received", "clean", "refused", "duplicate"), topic="events")):  # type: ignore[type-var]
        last[row[0]] = row
    for partition, (_, _, received, clean, refused, duplicate) in last.items():
        stored = len(store.columns("events", ("o",), p=partition))
        bad = len(store.columns(BAD_TABLE.name, ("o",), p=partition))
        if not (stored == clean and bad == refused and received == stored + bad + duplicate):  # type: ignore[operator]
            wrong.append(f"books of {partition}: {received} in; {stored} stored, {bad} refused, {duplicate} twice")
    return wrong

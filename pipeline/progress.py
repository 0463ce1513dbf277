"""How far each stage has come in the log: by its newest change record, and by the ledger of the warehouse."""

from collections.abc import Iterator, Mapping
from typing import Any

from kafka import TopicPartition

from pipeline.core.state import StateView
from pipeline.errors import Retryable
from pipeline.settings import Settings
from pipeline.warehouse_writer import DENSE
from schemas import block as codec
from schemas.state import StateRecord
from schemas.topics import BAD, CLEAN_STATE, MODELS, PROFILES, SESSIONISE_STATE, SESSIONS, SPEND

STATES = {
    "clean": CLEAN_STATE,
    "sessionise": SESSIONISE_STATE,
    "profile": PROFILES,
    "learn": MODELS,
    "spend": SPEND,
}
SPARSE = (BAD.name, SESSIONS.name)  # only the blocks that led to something: their ledger ends before the log does
LOOK_BACK_RECORDS = 4
BACK_FACTOR = 8

Ledger = Mapping[tuple[str, int], int]
"""(topic, partition) -> origin of the last block that the warehouse applied."""


def ends(reader: Any, settings: Settings, topic: str) -> dict[int, int]:
    """Return each partition's next offset, in order of partitions."""
    tps = [TopicPartition(settings.topic(topic), p) for p in range(settings.partitions)]
    found = reader.end_offsets(tps)
    return {tp.partition: found[tp] for tp in tps}


def last_states(reader: Any, settings: Settings, topic: str) -> dict[int, StateRecord]:
    """Return each partition's newest change record (fences, parts and what a fenced owner wrote stand between)."""
    found: dict[int, StateRecord] = {}
    for partition, end in ends(reader, settings, topic).items():
        for window in _windows_back(reader, TopicPartition(settings.topic(topic), partition), end):
            for record in window:
                state = codec.decode(record.value, StateRecord)
                newest = found[partition].epoch if partition in found else -1
                if state.kind == "change" and not state.more and state.epoch >= newest:
                    found[partition] = state
            if partition in found:
                break
    return found


def state_views(reader: Any, settings: Settings, topic: str) -> Iterator[StateView]:
    """Yield each partition's whole state, as of its newest record; nothing for one that has none."""
    found = ends(reader, settings, topic)
    for partition, last in last_states(reader, settings, topic).items():
        view = StateView()
        for record in records(reader, TopicPartition(settings.topic(topic), partition), last.begin, found[partition]):
            view.apply(codec.decode(record.value, StateRecord), record.offset)
        yield view


def next_origins(reader: Any, settings: Settings, ledger: Ledger) -> dict[int, int]:
    """Return by partition the first block of `collected` from which the warehouse lacks something, as far as is known.

    A dense topic has a record of every block, so its ledger says it. A sparse one is read back to its ledger; where
    nothing stands after that, it holds nothing up. `ledger` must be read after the states of the stages that write, and
    this called after both: then all blocks that those states have applied are in the topics.
    """
    found = {p: min(ledger.get((topic, p), -1) for topic in DENSE) + 1 for p in range(settings.partitions)}
    for topic in SPARSE:
        for partition, end in ends(reader, settings, topic).items():
            tp = TopicPartition(settings.topic(topic), partition)
            unapplied = _first_unapplied(reader, tp, end, ledger.get((topic, partition), -1))
            found[partition] = found[partition] if unapplied is None else min(found[partition], unapplied)
    return found


def records(reader: Any, tp: TopicPartition, start: int, end: int) -> Iterator[Any]:
    """Yield the records of [start, end), a few at a time. Raises Retryable where the broker stops answering."""
    reader.assign([tp])
    start = max(start, reader.beginning_offsets([tp])[tp])
    reader.seek(tp, start)
    misses = 0
    while reader.position(tp) < end:
        batch = reader.poll(timeout_ms=1_000).get(tp, [])
        misses = 0 if batch else misses + 1
        if misses > 10:
            raise Retryable(f"{tp.topic}[{tp.partition}]: no record from {reader.position(tp)}, expected up to {end}")
        yield from (record for record in batch if record.offset < end)


def _first_unapplied(reader: Any, tp: TopicPartition, end: int, last: int) -> int | None:
    """Return the first origin after `last`. Read backwards: mostly the newest record is the last that was applied."""
    first: int | None = None
    for window in _windows_back(reader, tp, end):
        origins = {codec.origin_of(record.headers).offset for record in window}
        first = min((origin for origin in origins if origin > last), default=first)
        if any(origin <= last for origin in origins):
            break
    return first


def _windows_back(reader: Any, tp: TopicPartition, end: int) -> Iterator[Iterator[Any]]:
    """Yield records from the end to the beginning, in ever longer windows, each in order; a record once.

    Each window is to be read before the next is asked for, and none is held: a backlog may be larger than memory.
    """
    back = LOOK_BACK_RECORDS
    until = end
    while until > 0:
        start = max(0, end - back)
        yield records(reader, tp, start, until)
        until, back = start, back * BACK_FACTOR

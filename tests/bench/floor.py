"""a. The pure functions in a bare loop: CPU per event by step, without Kafka, HTTP or a warehouse.

What no shell can get under. Rounds go through the whole chain one after the other, each on fresh state, so that a busy
moment of the machine touches all steps alike; the median round counts. CPU time, not wall time.
"""

import gc
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from msgspec import Struct

from agents import clean as clean_shell
from agents import profile as profile_shell
from agents import sessionise as sessionise_shell
from agents.restore import packed
from pipeline.core import rows
from pipeline.core.clean import STEPS, Work
from pipeline.core.clean_stage import Clean
from pipeline.core.dedupe import SeenIds, hash_id
from pipeline.core.learn import Learn
from pipeline.core.profile_stage import Profiles
from pipeline.core.rollup import Chunk, Rollup
from pipeline.core.sessionise import Sessionise
from pipeline.core.stage import Fold
from pipeline.core.state import StateView, StateWriter
from pipeline.settings import load
from schemas import block as codec
from schemas.block import CollectedBlock, EventBlock, Origin, OutcomeBlock, SessionBlock
from schemas.outcome import Outcome
from schemas.topics import EVENTS, SESSIONS
from tests.bench.workload import BLOCK_EVENTS, PARTITIONS, Door, Placed, bodies, messages

DAY_MS = 86_400_000
ARMS = 50
STATE_BYTES_MAX = 1_048_576

K = TypeVar("K", bound=Struct)
Records = list[tuple[Origin, bytes]]


@dataclass(frozen=True)
class Step:
    """One line: CPU per event, and whether it is a part of the line `of` (then it is not counted again)."""

    name: str
    us: float
    of: str = ""


@dataclass(frozen=True)
class Floor:
    """What was found. counts: events by step's end, for checking that nothing fell out."""

    events: int
    rounds: int
    steps: list[Step]
    counts: dict[str, int]

    def us(self, *names: str) -> float:
        """Return the CPU per event of these steps together."""
        return sum(step.us for step in self.steps if step.name in names)


class Meter:
    """Adds up CPU time by step."""

    def __init__(self) -> None:
        """Nothing spent."""
        self.ns: defaultdict[str, int] = defaultdict(int)

    def of_stage(self, name: str) -> int:
        """Return what all steps of a stage took together, ns."""
        return sum(ns for step, ns in self.ns.items() if step.partition(":")[0] == name)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what is done inside to this step."""
        started = time.process_time_ns()
        yield
        self.ns[name] += time.process_time_ns() - started


class Lane:
    """One stage's fold over all partitions, with its state and its codec, as agents/runtime.py does it for a block."""

    def __init__(self, name: str, folds: Sequence[tuple[StateView, Fold]], meter: Meter) -> None:
        """folds: one for each partition, with the view that it was made from."""
        self._name, self.meter = name, meter
        self._folds = [(fold, StateWriter(view, "bench")) for view, fold in folds]
        self._written = 0

    def apply(self, origin: Origin, value: bytes, kind: type[Struct]) -> list[tuple[str, bytes]]:
        """Take one block in; return what would be written: (topic, value)."""
        step, name = self.meter.step, self._name
        fold, writer = self._folds[origin.partition]
        with step(f"{name}: decode"):
            block = codec.decode(value, kind)
        with step(f"{name}: fold"):
            applied = fold.apply(origin, block)
        outputs = []
        with step(f"{name}: encode"):
            for output in applied.outputs:
                made = codec.encode(output.block)
                codec.headers(made, output.rows, origin)
                outputs.append((output.topic.name, made))
        with step(f"{name}: state"):
            records = writer.records(origin.offset, fold.fixed(), fold.take_changes(), STATE_BYTES_MAX, 0)
            for record in records:
                packed(record)
            writer.written(self._written)
        self._written += 1
        return outputs


class Chain:
    """clean, sessionise and profile one after the other, with their state."""

    def __init__(self, meter: Meter) -> None:
        """Nothing seen yet."""
        folds = _folds()
        self._lanes = {name: Lane(name, folds[name], meter) for name in ("clean", "sessionise", "profile")}
        self._offsets: defaultdict[int, int] = defaultdict(int)

    @property
    def meter(self) -> Meter:
        """Where time is counted from now on."""
        return self._lanes["clean"].meter

    @meter.setter
    def meter(self, meter: Meter) -> None:
        for lane in self._lanes.values():
            lane.meter = meter

    def take(self, placed: Placed) -> None:
        """Take one block through the three."""
        origin = Origin(placed.partition, self._offsets[placed.partition])
        self._offsets[placed.partition] += 1
        for topic, written in self._lanes["clean"].apply(origin, codec.encode(placed.block), CollectedBlock):
            if topic == EVENTS.name:
                self._lanes["sessionise"].apply(origin, written, EventBlock)
                self._lanes["profile"].apply(origin, written, EventBlock)


def run(events: int, rounds: int) -> Floor:
    """Measure so many events, so many times."""
    made = bodies(messages(events))
    spent: defaultdict[str, list[int]] = defaultdict(list)
    counts: dict[str, int] = {}
    for _ in range(rounds):
        meter = Meter()
        gc.collect()
        gc.freeze()  # else one full collection of what the benchmark itself holds falls into one step, always the same
        counts = _round(made, meter)
        gc.unfreeze()
        for name, ns in meter.ns.items():
            spent[name].append(ns)
    us = {name: median(values) / events / 1_000 for name, values in spent.items()}
    return Floor(events, rounds, [Step(name, us[name], _whole(name)) for name in us], counts)


def _whole(name: str) -> str:
    return "clean: fold" if name.startswith("  ") else ""


def _round(made: list[bytes], meter: Meter) -> dict[str, int]:
    blocks, collected = _door(made, meter)
    _clean_by_step(blocks, meter)
    folds = _folds()
    clean = Lane("clean", folds["clean"], meter)
    events = [
        (origin, written)
        for origin, value in collected
        for topic, written in clean.apply(origin, value, CollectedBlock)
        if topic == EVENTS.name
    ]
    sessionise, profile = Lane("sessionise", folds["sessionise"], meter), Lane("profile", folds["profile"], meter)
    sessions: Records = []
    for origin, value in events:
        found = sessionise.apply(origin, value, EventBlock)
        sessions += [(origin, written) for topic, written in found if topic == SESSIONS.name]
    for origin, value in events:
        profile.apply(origin, value, EventBlock)
    counts = _rows(events, sessions, meter)
    _learn(Lane("learn", folds["learn"], meter), sum(len(placed.block.events) for placed in blocks))
    return counts


def _door(made: list[bytes], meter: Meter) -> tuple[list[Placed], Records]:
    door, held = Door(), []
    for body in made:
        with meter.step("collector: decode, mask"):
            intake = door.read(body)
        with meter.step("collector: route, gather"):
            door.place(intake)
        held.append(intake)
    blocks = door.leave()
    offsets = [0] * PARTITIONS
    records: Records = []
    for partition, block in blocks:
        with meter.step("collector: encode"):
            value = codec.encode(block)
            codec.headers(value, len(block.events))
        records.append((Origin(partition, offsets[partition]), value))
        offsets[partition] += 1
    return blocks, records


def _clean_by_step(blocks: list[Placed], meter: Meter) -> None:
    """Each step of cleaning over a block at a time: what the fold's cost is made of."""
    rules = clean_shell.rules(load())
    seen = [SeenIds({}, rules.dedupe_window_ms) for _ in range(PARTITIONS)]
    for offset, (partition, block) in enumerate(blocks):
        with meter.step("  work"):
            works = [Work(event, block.contexts[event.context], rules) for event in block.events]
        for step in STEPS:
            with meter.step(f"  {step.__name__}"):
                dropped = [step(work) for work in works]
            assert not any(dropped), f"{step.__name__}: {next(filter(None, dropped))}"
        with meter.step("  dedupe"):
            hashes = [hash_id(f"{work.event.site}\n{work.event.event_id}") for work in works]
            fresh = seen[partition].new_ones(hashes)
            new = [found for found, is_new in zip(hashes, fresh, strict=True) if is_new]
            seen[partition].add(new, offset, block.block_time_ms)


def _folds() -> dict[str, list[tuple[StateView, Fold]]]:
    settings = load()
    cleaning, sessions, profiles = (
        clean_shell.rules(settings),
        sessionise_shell.rules(settings),
        profile_shell.rules(settings),
    )

    def views() -> list[StateView]:
        return [StateView() for _ in range(PARTITIONS)]

    return {
        "clean": [(view, Clean(view, cleaning)) for view in views()],
        "sessionise": [(view, Sessionise(view, sessions)) for view in views()],
        "profile": [(view, Profiles(view, profiles)) for view in views()],
        "learn": [(view, Learn(view)) for view in views()],
    }


def _rows(events: Records, sessions: Records, meter: Meter) -> dict[str, int]:
    """The warehouse's columns, ten blocks to an insert; the driver's own cost shows only in the whole (d)."""
    rollup = Rollup(200_000, lambda partition, minutes, below: ())
    for partition in range(PARTITIONS):
        rollup.assign(partition, -1)
    counts = {"events": 0, "sessions": 0, "cells": 0}
    for start in range(0, len(events), 10):
        with meter.step("rows: decode"):
            found = _decoded(events[start : start + 10], EventBlock)
            changed = _decoded(sessions[start : start + 10], SessionBlock)
        with meter.step("rows: events"):
            counts["events"] += rows.event_columns(found).rows
            rows.decision_columns(found)
        with meter.step("rows: sessions"):
            counts["sessions"] += rows.session_columns(changed).rows
        with meter.step("rows: rollups"):
            counts["cells"] += rollup.apply(_chunks(found)).rows
    return counts


def _decoded(records: Records, kind: type[K]) -> list[tuple[Origin, K]]:
    return [(origin, codec.decode(value, kind)) for origin, value in records]


def _chunks(found: list[tuple[Origin, EventBlock]]) -> list[Chunk]:
    by_partition: defaultdict[int, list[tuple[Origin, EventBlock]]] = defaultdict(list)
    for origin, block in found:
        by_partition[origin.partition].append((origin, block))
    return [
        Chunk(partition, held[0][0].offset, held[-1][0].offset, [event for _, block in held for event in block.events])
        for partition, held in by_partition.items()
    ]


def _learn(lane: Lane, events: int) -> None:
    """The clickstream holds no decisions: one outcome for each of its events instead, over ARMS actions."""
    for offset in range(max(1, events // BLOCK_EVENTS)):
        found = [_outcome(offset * BLOCK_EVENTS + number) for number in range(BLOCK_EVENTS)]
        lane.apply(Origin(0, offset), codec.encode(OutcomeBlock(0, found)), OutcomeBlock)


def _outcome(number: int) -> Outcome:
    clicked = number % 20 == 0
    return Outcome(
        decision_id=f"{number:028x}",
        action_id=f"action-{number % ARMS}",
        placement_id="home",
        visitor=f"visitor-{number}",
        decided_ms=DAY_MS,
        impressed_ms=DAY_MS,
        clicked_ms=DAY_MS if clicked else 0,
        conversions=0,
        revenue_micros=0,
        reward_micros=1_000_000 if clicked else 0,
        propensity=1 / ARMS,
        trials_delta=1,
        reward_delta_micros=1_000_000 if clicked else 0,
    )

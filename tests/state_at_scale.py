"""A state of many visitors: how long its restore takes, what a store on disk costs (`python -m tests.state_at_scale`).

The real profile stage makes the states of real visitors, which are repeated under other names; the real writer puts
them into a real broker, sweep and all. Then a new process without anything on its disk takes the partitions over, once
with its state in memory and once on disk; both must end with the same entries, by hash. At the end the stage folds the
same blocks over entries in memory and on disk. Ends 1 where a restore took longer than LIMIT_S or is not equal.
"""

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agents import clean as clean_shell
from agents import profile as profile_shell
from agents.broker import ConsumerReader
from agents.ports import Record
from agents.restore import Restored, packed, state_headers, take_over
from pipeline import topics
from pipeline.core.clean_stage import Clean
from pipeline.core.decide import make_id
from pipeline.core.profile_stage import Profiles
from pipeline.core.state import Packed, StateView, StateWriter
from pipeline.edge.kafka import async_producer
from pipeline.edge.local_store import LocalStore, stores
from pipeline.settings import Settings, load
from schemas.block import EventBlock, Origin, Totals, partition_of
from schemas.event import Event, EventType
from schemas.outcome import Choice, DecisionLog
from schemas.topics import PROFILES
from tests.agents.rig import broker
from tests.bench.workload import collected, messages

LIMIT_S = 60.0
BASE_EVENTS = 17_434
DECIDED_EVERY = 12  # so many events lead to a decision
ROUND_VISITORS = 1_000  # new ones in one state record, with as many bytes of swept ones
RECORD_BYTES_MAX = 1_048_576
BLOCK_EVENTS = 500


def visitor(number: int) -> str:
    """As long as the ids that browsers get."""
    return f"{number * 2_654_435_761 % 2**32:08x}-5f4c-4c1e-9b0a-{number:012x}"


def real_blocks() -> list[tuple[Origin, EventBlock]]:
    """The clean events of a real shop, with decisions among them."""
    rules = clean_shell.rules(load())
    folds = [Clean(StateView(), rules) for _ in range(4)]
    found: list[tuple[Origin, EventBlock]] = []
    for number, (partition, block) in enumerate(collected(messages(BASE_EVENTS), block_events=BLOCK_EVENTS)):
        events = folds[partition].apply(Origin(partition, number), block).outputs[0].block
        assert isinstance(events, EventBlock)
        decided = [_decision(one) for place, one in enumerate(events.events) if place % DECIDED_EVERY == 0]
        found.append(
            (Origin(partition, number), EventBlock(events.block_time_ms, Totals(), [], events.events + decided))
        )
    return found


def _decision(one: Event) -> Event:
    decision_id = make_id(one.event_time_ms, one.visitor, one.event_time_ms % 10**9)
    actions = [f"offer-{number}" for number in range(8)]
    log = DecisionLog(
        decision_id, "home-hero", "greedy", "0:1", "s", [Choice("offer-1", 0, 0.5, "spring")], actions, []
    )
    return Event(
        decision_id, EventType.DECISION, one.event_time_ms, one.received_time_ms, "demo", one.visitor,
        decision_id=decision_id, properties=msgspec.json.encode(log).decode(),
    )  # fmt: skip


def real_states() -> list[bytes]:
    """The packed states of the real visitors."""
    rules = profile_shell.rules(load())
    views = [StateView() for _ in range(4)]
    folds = [Profiles(view, rules) for view in views]
    for origin, block in real_blocks():
        folds[origin.partition].apply(origin, block)
        folds[origin.partition].take_changes()
    return [raw for view in views for _, raw in sorted(view.entries.items())]


class Grown(NamedTuple):
    """What was written of a partition."""

    visitors: int
    state_bytes: int
    digest: int


async def grow(settings: Settings, visitors: int) -> list[Grown]:
    """Write the state of so many visitors, a partition after the other."""
    states = real_states()
    print(f"{len(states):,} real visitors, {sum(map(len, states)) / len(states):.0f} bytes of state each", flush=True)
    producer = async_producer(settings)
    await producer.start()
    try:
        return [await _grow(settings, producer, p, states, visitors) for p in range(settings.partitions)]
    finally:
        await producer.stop()


async def _grow(settings: Settings, producer: Any, partition: int, states: list[bytes], visitors: int) -> Grown:
    topic = settings.topic(PROFILES.name)
    known = {partition: Restored()}
    writer = (await take_over(known, topic, "grower", producer, ConsumerReader(settings)))[partition]
    view = known[partition].view
    fixed = Profiles(view, profile_shell.rules(settings)).fixed()
    names = [name for name in map(visitor, range(visitors)) if partition_of(name, settings.partitions) == partition]
    rng = random.Random(partition)
    changed = [rng.choice(names) for _ in range(len(names) // 2)]  # and then half of them change
    both = names + changed
    for version, start in enumerate(range(0, len(both), ROUND_VISITORS)):
        puts = {name: states[rng.randrange(len(states))] for name in both[start : start + ROUND_VISITORS]}
        view.entries.update(puts)
        records = writer.records(version, fixed, (list(puts.items()), []), RECORD_BYTES_MAX, 1)
        sent = []
        for record in records:
            value = packed(record)
            headers = state_headers(value, record, len(record.puts))
            sent.append(await producer.send(topic, value, partition=partition, headers=headers))
        offsets = [(await one).offset for one in sent]
        writer.written(offsets[0])
    return Grown(len(view.entries), sum(len(k) + len(raw) for k, raw in view.entries.items()), digest(view.entries))


def digest(entries: Packed) -> int:
    """A hash that does not depend on the order."""
    total = 0
    for key, raw in entries.items():
        total += int.from_bytes(blake2b(key.encode() + raw, digest_size=16).digest(), "little")
    return total % 2**128


class Counting(ConsumerReader):
    """Counts what is read."""

    bytes = 0

    async def fetch(self, wait_ms: int) -> Sequence[Record]:
        """Return the next records."""
        found = await super().fetch(wait_ms)
        self.bytes += sum(len(one.value) for one in found)
        return found


async def restore(settings: Settings) -> dict[str, float]:
    """Take all partitions over as a worker of the profile stage does; return what it took."""
    producer, reader = async_producer(settings), Counting(settings)
    await producer.start()
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    store = stores(settings)
    known = {partition: Restored(StateView(store())) for partition in range(settings.partitions)}
    await take_over(known, settings.topic(PROFILES.name), "heir", producer, reader, store)
    read_s = time.monotonic() - began_s
    rules = profile_shell.rules(settings)
    folds = [Profiles(one.view, rules) for one in known.values()]
    took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    await producer.stop()
    assert len(folds) == settings.partitions
    return {
        "took_s": took_s, "read_s": read_s, "cpu_s": cpu_s, "bytes": reader.bytes,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "digests": [str(digest(one.view.entries)) for one in known.values()],
    }  # type: ignore[dict-item]  # fmt: skip


def restored_elsewhere(settings: Settings, store: str, folder: Path) -> dict[str, Any]:
    """Restore in a new process that has nothing."""
    chosen = settings.model_copy(update={"state_store": store, "data_dir": folder / store})
    command = [sys.executable, "-m", "tests.state_at_scale", "--restore"]
    done = subprocess.run(command, env=chosen.as_environment(), stdout=subprocess.PIPE, check=True, timeout=1_800)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(store: str, found: dict[str, Any], grown: list[Grown]) -> bool:
    """Print a restore; say whether it was equal, and in time."""
    visitors, state = sum(one.visitors for one in grown), sum(one.state_bytes for one in grown)
    is_equal = found["digests"] == [str(one.digest) for one in grown]
    print(
        f"restore into {store:<7}{found['took_s']:7.1f} s (reading {found['read_s']:.1f} s, CPU {found['cpu_s']:.1f} s)"
        f"{found['bytes'] / 1e6:8.0f} MB read, {found['bytes'] / state:.1f} times the state, "
        f"{found['bytes'] / found['read_s'] / 1e6:.0f} MB/s, {visitors / found['took_s']:,.0f} visitors/s, "
        f"peak {found['rss'] / 1e6:,.0f} MB  {'equal' if is_equal else 'NOT EQUAL'}",
        flush=True,
    )
    return is_equal and bool(found["took_s"] <= LIMIT_S)


def blocks_of(visitors: int, count: int) -> Iterator[EventBlock]:
    """Blocks of real events by visitors at random."""
    events = [one for _, block in real_blocks() for one in block.events if one.event_type is not EventType.DECISION]
    rng = random.Random(7)
    for number in range(count):
        chosen = [events[rng.randrange(len(events))] for _ in range(BLOCK_EVENTS)]
        made = [
            Event(one.event_id, one.event_type, one.event_time_ms, one.received_time_ms, one.site,
                  visitor(rng.randrange(visitors)), category=one.category, device=one.device, channel=one.channel)
            for one in chosen
        ]  # fmt: skip
        yield EventBlock(events[-1].event_time_ms + number, Totals(), [], made)


def cost(visitors: int, blocks: int, folder: Path) -> None:
    """Print CPU per event of the profile fold, its state's records and all, in memory and on disk, hot and cold."""
    states = real_states()
    entry_bytes = sum(map(len, states)) // len(states) + 36 + 200
    whole = visitors * entry_bytes
    kinds = {
        "memory": dict,
        "disk, all hot": lambda: LocalStore(folder, 4 * whole),
        "disk, cache a quarter": lambda: LocalStore(folder, whole // 4),
        "disk, cache a twentieth": lambda: LocalStore(folder, whole // 20),
    }
    made = list(blocks_of(visitors, blocks))
    base_us = 0.0
    print(f"the profile stage over {visitors:,} visitors, each event's visitor at random:", flush=True)
    for name, store in kinds.items():
        cpu_us, wall_us = _fold_cost(store(), made, states, visitors)
        base_us = base_us or cpu_us
        print(
            f"  {name:<24}{cpu_us:7.1f} us CPU an event ({wall_us:.1f} us passed), {cpu_us / base_us:.2f} times memory"
        )


def _fold_cost(entries: Packed, blocks: list[EventBlock], states: list[bytes], visitors: int) -> tuple[float, float]:
    entries.update((visitor(number), states[number % len(states)]) for number in range(visitors))
    view = StateView(entries)
    view.epoch = 0
    fold, writer = Profiles(view, profile_shell.rules(load())), StateWriter(view, "bench")
    began_ns, began_cpu_ns, events, written = 0, 0, 0, 1
    for version, block in enumerate(blocks):
        if version == len(blocks) // 2:  # the first half only warms up
            began_ns, began_cpu_ns, events = time.monotonic_ns(), time.process_time_ns(), 0
        fold.apply(Origin(0, version), block)
        for record in writer.records(version, fold.fixed(), fold.take_changes(), RECORD_BYTES_MAX):
            packed(record)
        writer.written(written)
        written += 1
        events += len(block.events)
    took_cpu_ns, took_ns = time.process_time_ns() - began_cpu_ns, time.monotonic_ns() - began_ns
    return took_cpu_ns / events / 1e3, took_ns / events / 1e3


def run(visitors: int, wanted: Sequence[str], blocks: int) -> int:
    """Grow, restore, compare."""
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with broker(folder / "broker") as running:
            settings = load(kafka_bootstrap_servers=running.bootstrap_servers, data_dir=folder)
            topics.apply(settings)
            began_s = time.monotonic()
            grown = asyncio.run(grow(settings, visitors))
            print(f"{visitors:,} visitors written in {time.monotonic() - began_s:.0f} s", flush=True)
            for store in wanted:
                failures += not show(store, restored_elsewhere(settings, store, folder), grown)
        if blocks:
            cost(visitors // settings.partitions, blocks, folder)
    return 1 if failures else 0


def main(arguments: list[str]) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=1_000_000)
    parser.add_argument("--store", choices=["memory", "disk", "both"], default="both")
    parser.add_argument("--blocks", type=int, default=400, help="of the comparison of stores; 0: none")
    parser.add_argument("--restore", action="store_true", help=argparse.SUPPRESS)
    wish = parser.parse_args(arguments)
    if wish.restore:
        print(json.dumps(asyncio.run(restore(load()))))
        return 0
    return run(wish.visitors, ["memory", "disk"] if wish.store == "both" else [wish.store], wish.blocks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

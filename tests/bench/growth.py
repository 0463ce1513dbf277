"""i. How the cost of an event grows: with visitors already known, with events already seen, with partitions.

Visitors and history in the bare loop, so that only the functions count: a state of that size is built, then the next
events are measured. Partitions through Kafka, each stage alone: the same events spread over more partitions come in
smaller blocks, since all partitions' blocks of a moment are closed together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tests.bench import floor, kafka
from tests.bench.stand import broker
from tests.bench.workload import BLOCK_EVENTS, PARTITIONS, collected, messages, newcomers

STAGES = ("clean", "sessionise", "profile")


@dataclass(frozen=True)
class Grown:
    """One size. cpu_us: CPU per event of the measured events, by stage."""

    what: str
    size: int
    cpu_us: dict[str, float]

    @property
    def all_us(self) -> float:
        """CPU per event of the three stages together."""
        return sum(self.cpu_us.values())


def run(visitors: Sequence[int], history: Sequence[int], partitions: Sequence[int], measured: int) -> list[Grown]:
    """Measure each size, `measured` events each."""
    found = [Grown("visitors known", size, _after(_visitors(size, measured), size, measured)) for size in visitors]
    found += [Grown("events seen", size, _after(messages(size + measured), size, measured)) for size in history]
    return found + [_partitioned(size, measured) for size in partitions]


def _visitors(known: int, measured: int) -> Iterator[dict[str, Any]]:
    """One event each of so many visitors, then more events of some of them, all over."""
    source = newcomers(known + measured, events=1)
    for message in islice(source, known):
        yield message
    step = 7_919  # a prime: the same visitor comes again as late as can be
    for number, message in enumerate(islice(source, measured)):
        yield message | {"anonymousId": f"newcomer-{number * step % max(1, known):08d}"}


def _after(source: Iterator[dict[str, Any]], before: int, measured: int) -> dict[str, float]:
    chain = floor.Chain(floor.Meter())
    for placed in collected(islice(source, before)):
        chain.take(placed)
    chain.meter = floor.Meter()
    rest = collected(islice(source, measured))
    for placed in rest:
        chain.take(placed)
    events = sum(len(placed.block.events) for placed in rest)
    return {stage: chain.meter.of_stage(stage) / max(1, events) / 1_000 for stage in STAGES}


def _partitioned(partitions: int, measured: int) -> Grown:
    block_events = max(1, BLOCK_EVENTS * PARTITIONS // partitions)
    with broker(partitions=partitions) as stand:
        kafka.fill(stand.settings, collected(messages(measured), partitions, block_events))
        found = kafka.one_by_one(stand, measured, measured)
    return Grown("partitions", partitions, {stage: one.cpu_us for stage, one in found.items()})

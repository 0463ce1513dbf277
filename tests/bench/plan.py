"""What is measured, by letter, and in which sizes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.demo.probe import Latencies
    from tests.bench.decisions import Decisions
    from tests.bench.end_to_end import EndToEnd
    from tests.bench.floor import Floor
    from tests.bench.kafka import ThroughKafka
    from tests.bench.memory import Memory
    from tests.bench.record_per_event import Compared


@dataclass(frozen=True)
class Sizes:
    """How much of each. Full runs stay under eight minutes on two cores, quick ones under two."""

    floor_events: int = 17_434
    floor_rounds: int = 5
    kafka_events: int = 200_000
    record_events: int = 20_000
    block_events: int = 200_000
    whole_events: int = 150_000
    decision_s: float = 20.0
    decisions_per_s: float = 100.0
    ingest_per_s: float = 2_000.0
    probe_s: float = 20.0
    visitors: int = 100_000


FULL = Sizes()
QUICK = Sizes(
    floor_events=4_000,
    floor_rounds=3,
    kafka_events=30_000,
    record_events=3_000,
    block_events=40_000,
    whole_events=20_000,
    decision_s=5.0,
    probe_s=5.0,
    visitors=5_000,
)


@dataclass
class Found:
    """What was measured; None where it was not asked for."""

    floor: "Floor | None" = None
    kafka: "ThroughKafka | None" = None
    record: "Compared | None" = None
    whole: "EndToEnd | None" = None
    decisions: "Decisions | None" = None
    latency: "Latencies | None" = None
    memory: "Memory | None" = None
    took_s: dict[str, float] = field(default_factory=dict)


def _floor(sizes: Sizes, found: Found) -> None:
    from tests.bench import floor

    found.floor = floor.run(sizes.floor_events, sizes.floor_rounds)


def _kafka(sizes: Sizes, found: Found) -> None:
    from tests.bench import kafka

    found.kafka = kafka.run(sizes.kafka_events)


def _record(sizes: Sizes, found: Found) -> None:
    from tests.bench import record_per_event

    found.record = record_per_event.run(sizes.record_events, sizes.block_events)


def _whole(sizes: Sizes, found: Found) -> None:
    from tests.bench import end_to_end

    found.whole = end_to_end.run(sizes.whole_events)


def _decisions(sizes: Sizes, found: Found) -> None:
    from tests.bench import decisions

    found.decisions = decisions.run(sizes.decision_s, sizes.decisions_per_s, sizes.ingest_per_s)


def _latency(sizes: Sizes, found: Found) -> None:
    from tests.bench import end_to_end

    found.latency = end_to_end.probe(sizes.probe_s, sizes.ingest_per_s)


def _memory(sizes: Sizes, found: Found) -> None:
    from tests.bench import memory

    found.memory = memory.run(sizes.visitors)


PARTS: dict[str, tuple[str, Callable[[Sizes, Found], None]]] = {
    "a": ("the pure functions in a bare loop", _floor),
    "b": ("the same through Kafka and the agents", _kafka),
    "c": ("Faust with one event a record", _record),
    "d": ("the whole, HTTP to queryable row", _whole),
    "e": ("decisions under load", _decisions),
    "f": ("latency of an event under load", _latency),
    "g": ("memory", _memory),
}

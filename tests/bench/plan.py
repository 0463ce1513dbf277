"""What is measured, by letter, and in which sizes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.demo.probe import Latencies
    from tests.bench.collector import Collector
    from tests.bench.decisions import Decisions
    from tests.bench.end_to_end import EndToEnd
    from tests.bench.engines import Compared
    from tests.bench.floor import Floor
    from tests.bench.growth import Grown
    from tests.bench.idle import Idle
    from tests.bench.kafka import ThroughKafka
    from tests.bench.memory import Memory


@dataclass(frozen=True)
class Sizes:
    """How much of each. The usual sizes take about a quarter of an hour on two idle cores, quick ones four minutes."""

    events: int = 200_000  # a and b: the same events, or their ratio means nothing
    floor_rounds: int = 3
    engine_events: int = 40_000
    single_events: int = 30_000
    batched_events: int = 200_000
    paced_s: float = 5.0
    whole_events: int = 200_000
    decision_s: float = 20.0
    decisions_per_s: float = 1_000.0
    decision_ingest_per_s: float = 5_000.0
    probe_s: float = 20.0
    probe_ingest_per_s: float = 2_000.0
    memory_visitors: tuple[int, ...] = (100_000,)
    growth_visitors: tuple[int, ...] = (1_000, 10_000, 100_000)
    growth_history: tuple[int, ...] = (0, 20_000, 100_000, 400_000)
    growth_partitions: tuple[int, ...] = (1, 4, 16)
    growth_events: int = 20_000
    idle_s: float = 30.0


USUAL = Sizes()
FULL = replace(USUAL, memory_visitors=(100_000, 1_000_000), engine_events=100_000, whole_events=1_000_000)
QUICK = Sizes(
    events=30_000,
    floor_rounds=1,
    engine_events=5_000,
    single_events=5_000,
    batched_events=30_000,
    paced_s=2.0,
    whole_events=20_000,
    decision_s=5.0,
    probe_s=5.0,
    memory_visitors=(5_000,),
    growth_visitors=(1_000, 10_000),
    growth_history=(0, 20_000),
    growth_partitions=(4,),
    growth_events=10_000,
    idle_s=10.0,
)


@dataclass
class Found:
    """What was measured; None or nothing where it was not asked for."""

    floor: "Floor | None" = None
    kafka: "ThroughKafka | None" = None
    engines: "Compared | None" = None
    collector: "Collector | None" = None
    whole: "EndToEnd | None" = None
    decisions: "Decisions | None" = None
    latency: "Latencies | None" = None
    memory: "list[Memory]" = field(default_factory=list)
    growth: "list[Grown]" = field(default_factory=list)
    idle: "Idle | None" = None
    took_s: dict[str, float] = field(default_factory=dict)
    yardstick_us: dict[str, tuple[float, float]] = field(default_factory=dict)  # before and after
    failed: dict[str, str] = field(default_factory=dict)


def _floor(sizes: Sizes, found: Found) -> None:
    from tests.bench import floor

    found.floor = floor.run(sizes.events, sizes.floor_rounds)


def _kafka(sizes: Sizes, found: Found) -> None:
    from tests.bench import kafka

    found.kafka = kafka.run(sizes.events)


def _engines(sizes: Sizes, found: Found) -> None:
    from tests.bench import engines

    found.engines = engines.run(sizes.engine_events)


def _collector(sizes: Sizes, found: Found) -> None:
    from tests.bench import collector

    found.collector = collector.run(sizes.single_events, sizes.batched_events, sizes.paced_s)


def _whole(sizes: Sizes, found: Found) -> None:
    from tests.bench import end_to_end

    found.whole = end_to_end.run(sizes.whole_events)


def _decisions(sizes: Sizes, found: Found) -> None:
    from tests.bench import decisions

    found.decisions = decisions.run(sizes.decision_s, sizes.decisions_per_s, sizes.decision_ingest_per_s)


def _latency(sizes: Sizes, found: Found) -> None:
    from tests.bench import end_to_end

    found.latency = end_to_end.probe(sizes.probe_s, sizes.probe_ingest_per_s)


def _memory(sizes: Sizes, found: Found) -> None:
    from tests.bench import memory

    for visitors in sizes.memory_visitors:
        found.memory.append(memory.run(visitors))


def _growth(sizes: Sizes, found: Found) -> None:
    from tests.bench import growth

    found.growth = growth.run(sizes.growth_visitors, sizes.growth_history, sizes.growth_partitions, sizes.growth_events)


def _idle(sizes: Sizes, found: Found) -> None:
    from tests.bench import idle

    found.idle = idle.run(sizes.idle_s)


PARTS: dict[str, tuple[str, Callable[[Sizes, Found], None]]] = {
    "a": ("the pure functions in a bare loop", _floor),
    "b": ("the same through Kafka and the agents", _kafka),
    "c": ("the same functions on other engines, an event a record", _engines),
    "d": ("the collector alone", _collector),
    "e": ("the whole, HTTP to queryable row", _whole),
    "f": ("decisions under load", _decisions),
    "g": ("latency of an event under load", _latency),
    "h": ("memory", _memory),
    "i": ("how the cost of an event grows", _growth),
    "j": ("idle", _idle),
}

"""b. The same work through Kafka and the agents: `collected` is filled, then clean, sessionise and profile empty it.

Twice: one stage after the other, each alone with the broker, as the functions of a. are alone in their loop (so the
ratio to them says what the shell costs); then all three at once, as they run in life. Each stage is its own process, as
`herald worker` runs it. Its CPU counts from its first progress to its end: imports, joining the group and restoring
are left out.
"""

import time
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.edge.clock import monotonic_s
from pipeline.parts import metrics_port
from pipeline.settings import Settings
from schemas import block as codec
from schemas.topics import COLLECTED
from tests.bench.processes import cpu_s, memory
from tests.bench.stand import Stand, broker, client
from tests.bench.workload import Placed, collected, messages

STAGES = ("clean", "sessionise", "profile")
FIRST_LOOK_S = 0.05
LOOK_EVERY_S = 0.3  # asking for the metrics costs the stage 3 ms each time
GIVE_UP_S = 240.0


@dataclass(frozen=True)
class Measured:
    """One stage. cpu_us: CPU per event; broker_us: the broker's meanwhile. rows: events that it says it took."""

    cpu_us: float
    broker_us: float
    events_per_s: float
    peak_mib: float
    rows: int


@dataclass(frozen=True)
class ThroughKafka:
    """alone: by stage, one after the other. together: by stage, at once. together_per_s: events/s through all three."""

    events: int
    alone: dict[str, Measured]
    together: dict[str, Measured]
    together_per_s: float

    @property
    def cpu_us(self) -> float:
        """CPU per event of the three, each alone."""
        return sum(one.cpu_us for one in self.alone.values())


@dataclass
class _Span:
    """A stage between its first progress and its end."""

    began_s: float
    began_cpu_s: float
    began_rows: int
    broker_began_s: float
    ended_s: float = 0.0
    ended_cpu_s: float = 0.0
    broker_ended_s: float = 0.0
    rows: int = 0
    peak_mib: float = 0.0


def run(events: int) -> ThroughKafka:
    """Measure so many events, twice."""
    placed = collected(messages(events))
    with broker() as stand:
        fill(stand.settings, placed)
        alone = one_by_one(stand, events, events)
    with broker() as stand:
        fill(stand.settings, placed)
        together, rate = at_once(stand, events, events)
    return ThroughKafka(events, alone, together, rate)


def one_by_one(stand: Stand, events: int, unique: int) -> dict[str, Measured]:
    """Have each stage take all events, the others idle or not yet started. unique: how many clean lets through."""
    found = {}
    for stage in STAGES:
        stand.start([stage])
        found[stage] = _measured(_watch(stand, {stage: events if stage == "clean" else unique})[stage])
    return found


def at_once(stand: Stand, events: int, unique: int) -> tuple[dict[str, Measured], float]:
    """Have all stages run; return what each cost, and the events/s from the first's beginning to the last's end."""
    stand.start(STAGES)
    spans = _watch(stand, {stage: events if stage == "clean" else unique for stage in STAGES})
    wall_s = max(span.ended_s for span in spans.values()) - spans["clean"].began_s
    rate = (events - spans["clean"].began_rows) / max(LOOK_EVERY_S, wall_s)
    return {stage: _measured(span) for stage, span in spans.items()}, rate


def fill(settings: Settings, placed: Iterable[Placed]) -> None:
    """Write blocks into `collected`, as a collector would."""
    producer = client(settings)
    try:
        for partition, block in placed:
            value = codec.encode(block)
            found = codec.headers(value, len(block.events))
            producer.send(settings.topic(COLLECTED.name), value=value, partition=partition, headers=found)
        producer.flush()
    finally:
        producer.close()


def _watch(stand: Stand, expected: Mapping[str, int]) -> dict[str, _Span]:
    """Follow stages until each has taken as many events as it is to."""
    spans: dict[str, _Span] = {}
    until = monotonic_s() + GIVE_UP_S
    while len(spans) < len(expected) or not all(span.ended_s for span in spans.values()):
        restarts = sum(stand.supervisor.parts[stage].restarts for stage in expected)
        if restarts or monotonic_s() > until:
            words = "\n".join(stand.supervisor.last_words(stage) for stage in expected)
            raise RuntimeError(f"{spans}, {restarts} restarts: expected {dict(expected)}\n{words}")
        for stage, events in expected.items():
            _look(stand, stage, events, spans)
        time.sleep(LOOK_EVERY_S if len(spans) == len(expected) else FIRST_LOOK_S)
    return spans


def _look(stand: Stand, stage: str, events: int, spans: dict[str, _Span]) -> None:
    if stage in spans and spans[stage].ended_s:
        return
    rows = _rows(stand.settings, stage)
    if not rows:
        return
    pid = stand.supervisor.pid(stage) or 0
    now_s, spent_s, broker_s = monotonic_s(), cpu_s(pid), cpu_s(stand.supervisor.pid("broker") or 0)
    span = spans.setdefault(stage, _Span(now_s, spent_s, rows, broker_s))
    span.rows = rows
    if rows >= events:
        span.ended_s, span.ended_cpu_s, span.broker_ended_s = now_s, spent_s, broker_s
        span.peak_mib = memory(pid).peak_mib


def _measured(span: _Span) -> Measured:
    """NaN where the first look came when all was done already."""
    rows = span.rows - span.began_rows
    return Measured(
        cpu_us=_each_us(span.ended_cpu_s - span.began_cpu_s, rows),
        broker_us=_each_us(span.broker_ended_s - span.broker_began_s, rows),
        events_per_s=rows / max(1e-3, span.ended_s - span.began_s),
        peak_mib=span.peak_mib,
        rows=span.rows,
    )


def _each_us(spent_s: float, rows: int) -> float:
    return spent_s / rows * 1e6 if rows else float("nan")


def _rows(settings: Settings, stage: str) -> int:
    address = f"http://127.0.0.1:{metrics_port(settings, stage)}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    name = f'herald_stage_rows_total{{stage="{stage}"}} '
    found = [line for line in text.splitlines() if line.startswith(name)]
    return int(float(found[0].removeprefix(name))) if found else 0

"""b. The same work through Kafka and the agents: `collected` is filled, then clean, sessionise and profile empty it.

Each stage is its own process, as `herald worker` runs it. Its CPU counts from its first progress to its end, so that
imports, joining the group and restoring are left out.
"""

import time
import urllib.request
from dataclasses import dataclass

from pipeline.edge.clock import monotonic_s
from pipeline.parts import metrics_port
from pipeline.settings import Settings
from schemas import block as codec
from schemas.topics import COLLECTED
from tests.bench.processes import cpu_s
from tests.bench.stand import Stand, broker, client
from tests.bench.workload import collected, messages

STAGES = ("clean", "sessionise", "profile")
LOOK_EVERY_S = 0.15
GIVE_UP_S = 180.0


@dataclass(frozen=True)
class ThroughKafka:
    """cpu_us: CPU per event by process, the broker's too. counts: events that each stage says it took."""

    events: int
    events_per_s: float
    cpu_us: dict[str, float]
    counts: dict[str, int]


@dataclass
class _Span:
    """A stage between its first progress and its end."""

    began_s: float
    began_cpu_s: float
    began_rows: int
    ended_s: float = 0.0
    ended_cpu_s: float = 0.0
    rows: int = 0


def run(events: int) -> ThroughKafka:
    """Measure so many events."""
    with broker() as stand:
        _fill(stand.settings, events)
        stand.start(STAGES)
        broker_pid = stand.supervisor.pid("broker") or 0
        spans, broker_us = _watch(stand, events, broker_pid)
        wall_s = max(LOOK_EVERY_S, max(span.ended_s for span in spans.values()) - spans["clean"].began_s)
        cpu_us = {
            stage: _each_us(span.ended_cpu_s - span.began_cpu_s, events - span.began_rows)
            for stage, span in spans.items()
        }
        counts = {stage: span.rows for stage, span in spans.items()}
        rate = (events - spans["clean"].began_rows) / wall_s
        return ThroughKafka(events, rate, cpu_us | {"broker": broker_us}, counts)


def _fill(settings: Settings, events: int) -> None:
    producer = client(settings)
    try:
        for partition, block in collected(messages(events)):
            value = codec.encode(block)
            found = codec.headers(value, len(block.events))
            producer.send(settings.topic(COLLECTED.name), value=value, partition=partition, headers=found)
        producer.flush()
    finally:
        producer.close()


def _watch(stand: Stand, events: int, broker_pid: int) -> tuple[dict[str, _Span], float]:
    spans: dict[str, _Span] = {}
    until = monotonic_s() + GIVE_UP_S
    broker_began_s = 0.0
    while len(spans) < len(STAGES) or not all(span.ended_s for span in spans.values()):
        restarts = sum(stand.supervisor.parts[stage].restarts for stage in STAGES)
        if restarts or monotonic_s() > until:
            words = "\n".join(stand.supervisor.last_words(stage) for stage in STAGES)
            raise RuntimeError(f"{spans}, {restarts} restarts: expected {events} events of each stage\n{words}")
        for stage in STAGES:
            _look(stand, stage, events, spans)
        if spans and not broker_began_s:
            broker_began_s = cpu_s(broker_pid)
        time.sleep(LOOK_EVERY_S)
    begun = min(span.began_rows for span in spans.values())
    return spans, _each_us(cpu_s(broker_pid) - broker_began_s, events - begun)


def _each_us(spent_s: float, events: int) -> float:
    """CPU per event; NaN where the first look came when all was done already."""
    return spent_s / events * 1e6 if events else float("nan")


def _look(stand: Stand, stage: str, events: int, spans: dict[str, _Span]) -> None:
    if stage in spans and spans[stage].ended_s:
        return
    rows = _rows(stand.settings, stage)
    if not rows:
        return
    now_s, spent_s = monotonic_s(), cpu_s(stand.supervisor.pid(stage) or 0)
    span = spans.setdefault(stage, _Span(now_s, spent_s, rows))
    span.rows = rows
    if rows >= events:
        span.ended_s, span.ended_cpu_s = now_s, spent_s


def _rows(settings: Settings, stage: str) -> int:
    address = f"http://127.0.0.1:{metrics_port(settings, stage)}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    name = f'herald_stage_rows_total{{stage="{stage}"}} '
    found = [line for line in text.splitlines() if line.startswith(name)]
    return int(float(found[0].removeprefix(name))) if found else 0

"""d. The collector alone with its broker: the pixel, single calls, and batches of 100; each of them twice.

Flat out, for CPU and events/s: every event answered with yes is then counted in Kafka itself. And at an even, bearable
rate, for latency: from the time a request was due until its answer, which comes after the broker's.
"""

from dataclasses import dataclass
from typing import get_args

from kafka import KafkaConsumer, TopicPartition

from pipeline.demo.probe import quantile
from pipeline.settings import Settings
from schemas.block import rows_of
from schemas.topics import COLLECTED
from tests.bench.clients import Clients, Firing
from tests.bench.processes import Watch, memory
from tests.bench.raw import Fired
from tests.bench.requests import Way
from tests.bench.stand import Stand, broker
from tests.bench.workload import BATCH_EVENTS

CONNECTIONS = {"pixel": 256, "single": 256, "batch": 32}
REQUESTS_PER_S = {"pixel": 1_000.0, "single": 1_000.0, "batch": 50.0}
READ_WAIT_MS = 5_000


@dataclass(frozen=True)
class Taken:
    """One way in. cpu_ms: per 1,000 durable events, the collector's; broker_ms: the broker's. Latencies in ms."""

    events: int
    accepted: int
    durable: int
    events_per_s: float
    cpu_ms: float
    broker_ms: float
    full_p50_ms: float
    full_p99_ms: float
    p50_ms: float
    p99_ms: float
    late_p99_ms: float

    @property
    def per_cpu_s(self) -> float:
        """Durable events for each second of the collector's CPU."""
        return 1e6 / self.cpu_ms

    @property
    def per_cpu_s_with_broker(self) -> float:
        """Durable events for each second of the collector's and the broker's CPU."""
        return 1e6 / (self.cpu_ms + self.broker_ms)


@dataclass(frozen=True)
class Collector:
    """What was found, by way in."""

    ways: dict[str, Taken]
    peak_mib: float


def run(singles: int, batched: int, seconds: float) -> Collector:
    """Send so many single events, so many in batches, flat out; and each way for so long at an even rate."""
    with broker() as stand:
        stand.start(["collector"])
        ways = {way: _measure(stand, way, batched if way == "batch" else singles, seconds) for way in get_args(Way)}
        return Collector(ways, memory(stand.supervisor.pid("collector") or 0).peak_mib)


def _measure(stand: Stand, way: Way, events: int, seconds: float) -> Taken:
    port, each = stand.settings.collector_port, BATCH_EVENTS if way == "batch" else 1
    before = _durable(stand.settings)
    with Clients(1) as clients:
        told = clients.fire(Firing(port, way, events, CONNECTIONS[way]))
        began_s = clients.begin()
        watch = Watch(lambda: {name: stand.supervisor.pid(name) for name in ("collector", "broker")})
        full = told.result()
        _, spent_s = watch.read()
    durable = _durable(stand.settings) - before
    paced = _paced(port, way, seconds)
    return Taken(
        events=events,
        accepted=full.statuses[200] * each,
        durable=durable,
        events_per_s=durable / (full.ended_s - began_s),
        cpu_ms=spent_s["collector"] / max(1, durable) * 1e6,
        broker_ms=spent_s["broker"] / max(1, durable) * 1e6,
        full_p50_ms=quantile(full.latencies_ms, 0.5),
        full_p99_ms=quantile(full.latencies_ms, 0.99),
        p50_ms=quantile(paced.latencies_ms, 0.5),
        p99_ms=quantile(paced.latencies_ms, 0.99),
        late_p99_ms=quantile(paced.late_ms, 0.99),
    )


def _paced(port: int, way: Way, seconds: float) -> Fired:
    per_s, each = REQUESTS_PER_S[way], BATCH_EVENTS if way == "batch" else 1
    with Clients(1) as clients:
        told = clients.fire(Firing(port, way, int(per_s * seconds) * each, 64, per_s))
        clients.begin()
        return told.result()


def _durable(settings: Settings) -> int:
    """Return how many events the broker holds: each block's own word for it."""
    topic, events = settings.topic(COLLECTED.name), 0
    reader = KafkaConsumer(bootstrap_servers=settings.bootstrap_servers, fetch_max_bytes=2**26)
    try:
        found = [TopicPartition(topic, partition) for partition in range(settings.partitions)]
        reader.assign(found)
        reader.seek_to_beginning(*found)
        ends = reader.end_offsets(found)
        while any(reader.position(tp) < ends[tp] for tp in found):
            for records in reader.poll(timeout_ms=READ_WAIT_MS).values():
                events += sum(rows_of(record.headers) for record in records)
    finally:
        reader.close()
    return events

"""f. Live decisions among many candidate actions while events come in.

An open loop: questions are due at an even rate, and each one's time runs from when it was due. Beside it stands what
delivery's own histogram says of the same questions, from request read to answer made: the difference is HTTP, waiting
for a turn on the cores, and the client.
"""

import math
import time
import urllib.request
from dataclasses import dataclass

import msgspec

from pipeline.demo.probe import quantile
from tests.bench.clients import Clients, Errand, Firing
from tests.bench.processes import Watch
from tests.bench.stand import everything, pids

ACTIONS = 100
CONNECTIONS = 64
WARM_S = 3.0
HISTOGRAM = "herald_decision_seconds_bucket{le="


@dataclass(frozen=True)
class Decisions:
    """Latencies in ms. cpu_us: delivery's CPU per decision, its following of the log included.

    own: (p50, p99, p99.9) by delivery's histogram, between its bounds. late: how late the client itself was, p99.
    """

    asked: int
    answered: int
    degraded_share: float
    per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    own_p50_ms: float
    own_p99_ms: float
    own_p999_ms: float
    late_p99_ms: float
    ingest_per_s: float
    cpu_us: float
    client_cpu_us: float


def run(seconds: float, per_s: float, ingest_per_s: float) -> Decisions:
    """Ask per_s times a second for so long, while ingest_per_s events come in."""
    with everything() as running, Clients(2) as clients:
        events = int(ingest_per_s * (seconds + 2 * WARM_S))
        told = clients.send(Errand(running.collector_url, "messages", events, 0, 1, pace=ingest_per_s))
        asked = int(per_s * seconds)
        port = running.settings.delivery_port
        answers = clients.fire(Firing(port, "decisions", asked, CONNECTIONS, per_s, WARM_S, ACTIONS))
        began_s = clients.begin()
        time.sleep(WARM_S)
        watch, before = Watch(lambda: pids(running.supervisor.parts)), _histogram(running.delivery_url)
        answered = answers.result()
        _, spent_s = watch.read()
        own = _between(before, _histogram(running.delivery_url))
        sent = told.result()
        found, samples = answered.latencies_ms, [msgspec.json.decode(body) for body in answered.bodies]
        return Decisions(
            asked=asked,
            answered=answered.statuses[200],
            degraded_share=sum(bool(one.get("degraded")) for one in samples) / max(1, len(samples)),
            per_s=per_s,
            p50_ms=quantile(found, 0.5),
            p99_ms=quantile(found, 0.99),
            p999_ms=quantile(found, 0.999),
            own_p50_ms=_quantile_ms(own, 0.5),
            own_p99_ms=_quantile_ms(own, 0.99),
            own_p999_ms=_quantile_ms(own, 0.999),
            late_p99_ms=quantile(answered.late_ms, 0.99),
            ingest_per_s=sent.accepted / (sent.ended_s - began_s),
            cpu_us=spent_s["delivery"] / max(1, len(found)) * 1e6,
            client_cpu_us=answered.cpu_s / max(1, len(found)) * 1e6,
        )


Buckets = list[tuple[float, float]]
"""(upper bound in s, how many up to it), sorted."""


def _histogram(url: str) -> Buckets:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [line.removeprefix(HISTOGRAM).partition("} ") for line in lines if line.startswith(HISTOGRAM)]
    assert found, f"{url}/metrics: no {HISTOGRAM}"
    return [(float(bound.strip('"')), float(count.split()[0])) for bound, _, count in found]


def _between(before: Buckets, after: Buckets) -> Buckets:
    return [(bound, count - earlier) for (bound, count), (_, earlier) in zip(after, before, strict=True)]


def _quantile_ms(buckets: Buckets, q: float) -> float:
    """Return the quantile, evenly spread inside its bucket; infinite beyond the last bound."""
    total = buckets[-1][1]
    low_s = below = 0.0
    for bound_s, count in buckets:
        if count >= q * total and count > below:
            return (low_s + (bound_s - low_s) * (q * total - below) / (count - below)) * 1_000
        low_s, below = bound_s, count
    return math.nan

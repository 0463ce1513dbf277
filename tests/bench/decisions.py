"""e. Live decisions among many candidate actions while events come in, timed by a real HTTP client.

The client asks at an even rate and does not wait for the last answer, so a slow one does not hide those behind it.
"""

import time
from dataclasses import dataclass

from pipeline.demo.probe import quantile
from tests.bench.clients import Asking, Clients, Errand
from tests.bench.processes import Watch
from tests.bench.stand import everything, pids

ACTIONS = 100
WARM_S = 2.0


@dataclass(frozen=True)
class Decisions:
    """Latencies in ms. cpu_us: delivery's CPU per decision, its following of the log included."""

    asked: int
    answered: int
    degraded: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    ingest_per_s: float
    cpu_us: float


def run(seconds: float, per_s: float, ingest_per_s: float) -> Decisions:
    """Ask per_s times a second for so long, while ingest_per_s events come in."""
    with everything() as running, Clients(2) as clients:
        events = int(ingest_per_s * (seconds + 2 * WARM_S))
        told = clients.send(Errand(running.collector_url, "messages", events, 0, 1, pace=ingest_per_s))
        answers = clients.ask(Asking(running.delivery_url, ACTIONS, per_s, seconds, wait_s=WARM_S))
        began_s = clients.begin()
        time.sleep(WARM_S)
        watch = Watch(lambda: pids(running.supervisor.parts))
        answered = answers.result()
        _, spent_s = watch.read()
        sent = told.result()
        found = answered.latencies_ms
        return Decisions(
            asked=int(per_s * seconds),
            answered=len(found) - answered.failed,
            degraded=answered.degraded,
            p50_ms=quantile(found, 0.5),
            p99_ms=quantile(found, 0.99),
            p999_ms=quantile(found, 0.999),
            ingest_per_s=sent.accepted / (sent.ended_s - began_s),
            cpu_us=spent_s["delivery"] / max(1, len(found)) * 1e6,
        )

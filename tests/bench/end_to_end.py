"""e. The whole: batches over HTTP by several clients, until each event's row can be queried in the warehouse.

Every part runs on this machine, the clients too; so the share of each in the CPU says what held it back.
g. Latency under an even load: an event's way to a usable profile and to its row, by probes.
"""

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass

from pipeline.demo.probe import Latencies, Prober
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import monotonic_s
from tests.bench.clients import Clients, Errand
from tests.bench.processes import Watch, cores, machine_cpu_s, memory
from tests.bench.stand import everything, pids
from tests.bench.workload import KEY
from tests.journeys.rig import Whole

CLIENTS = 2
WARM_S = 1.0
PROBERS = 4
LOOK_EVERY_S = 0.5  # each look costs the warehouse a query
GIVE_UP_S = 300.0


@dataclass(frozen=True)
class EndToEnd:
    """stored: different rows found. cpu_us: CPU per event by part, `clients` among them. busy: of all cores, 0..1.

    peak_mib: the most that each part ever held. block_events: events in a block of `collected`, on average.
    others_busy: what processes that are none of ours took of all cores meanwhile, 0..1.
    """

    events: int
    accepted: int
    stored: int
    events_per_s: float
    accepted_per_s: float
    cpu_us: dict[str, float]
    busy: float
    peak_mib: dict[str, float]
    block_events: float
    others_busy: float

    @property
    def held_back_by(self) -> str:
        """Say in words what there was too little of."""
        wall_us = 1e6 / self.events_per_s
        name, most = max(self.cpu_us.items(), key=lambda item: item[1])
        shares = f"{name} took {most / wall_us:.0%} of one core"
        if self.others_busy > 0.1:
            return f"others on this machine, who took {self.others_busy:.0%} of its cores; {shares}, the most of ours"
        if self.busy > 0.85:
            return f"the machine: its {cores()} cores were {self.busy:.0%} busy; {shares}, the most"
        return f"{shares}, the most; the cores were {self.busy:.0%} busy: waiting, not computing, was the rest"


def run(events: int) -> EndToEnd:
    """Send so many events as fast as they are taken."""
    with everything() as running, Clients(CLIENTS) as clients:
        told = [
            clients.send(Errand(running.collector_url, "messages", events, part, CLIENTS)) for part in range(CLIENTS)
        ]
        began_s = clients.begin()
        watch, machine_s = Watch(lambda: pids(running.supervisor.parts)), machine_cpu_s()
        ended_s = _queryable(running, events)
        _, spent_s = watch.read()
        machine_s = machine_cpu_s() - machine_s
        said = [one.result() for one in told]
        spent_s["clients"] = sum(one.cpu_s for one in said)
        stored = int(str(running.ask("SELECT count() FROM events FINAL")[0][0]))
        blocks = int(str(running.ask("SELECT count() FROM blocks WHERE topic = 'events'")[0][0]))
        wall_s = ended_s - began_s
        sending_s = max(one.ended_s for one in said) - began_s
        return EndToEnd(
            events=events,
            accepted=sum(one.accepted for one in said),
            stored=stored,
            events_per_s=events / wall_s,
            accepted_per_s=events / sending_s,
            cpu_us={name: spent / events * 1e6 for name, spent in spent_s.items()},
            busy=sum(spent_s.values()) / wall_s / cores(),
            peak_mib={name: memory(pid).peak_mib for name, pid in pids(running.supervisor.parts).items() if pid},
            block_events=events / max(1, blocks),
            others_busy=max(0.0, machine_s - sum(spent_s.values())) / wall_s / cores(),
        )


def _queryable(running: Whole, events: int) -> float:
    """Return when the last event's row was found, on the clock that does not go back."""
    until = monotonic_s() + GIVE_UP_S
    with _warehouse(running) as warehouse:
        while monotonic_s() < until:
            found = int(str(warehouse.execute("SELECT count() FROM events")[0][0]))
            if found >= events:
                return monotonic_s()
            time.sleep(LOOK_EVERY_S)
    raise RuntimeError(f"{found} rows after {GIVE_UP_S:.0f} s, expected {events}")


def probe(seconds: float, per_s: float) -> Latencies:
    """g. Send probes for so long while per_s events/s come in."""
    with everything() as running, Clients(1) as clients:
        events = int(per_s * (seconds + 2 * WARM_S))
        told = clients.send(Errand(running.collector_url, "messages", events, 0, 1, pace=per_s))
        clients.begin()
        time.sleep(WARM_S)
        found = asyncio.run(_probe(running, seconds))
        told.result()
        return found


async def _probe(running: Whole, seconds: float) -> Latencies:
    """Some probes at a time, each with a connection of its own: one alone spends its time waiting for its row."""
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    with ExitStack() as opened:
        probers = [
            Prober(running.collector_url, running.delivery_url, opened.enter_context(_warehouse(running)), KEY)
            for _ in range(PROBERS)
        ]
        found = await asyncio.gather(*(prober.run(stop) for prober in probers))
    return Latencies(
        [value for one in found for value in one.usable_ms],
        [value for one in found for value in one.queryable_ms],
        sum(one.sent for one in found),
    )


def _warehouse(running: Whole) -> Warehouse:
    return Warehouse.from_url(running.settings.warehouse_url)

"""h. Memory: what each process holds after so many visitors whom nobody had seen before, and the most it ever held."""

import time
from dataclasses import dataclass

from tests.bench.clients import Clients, Errand
from tests.bench.processes import Usage, memory
from tests.bench.stand import everything, pids

EVENTS_EACH = 2
CLIENTS = 2


@dataclass(frozen=True)
class Memory:
    """By part. before: right after the start. stored: rows in the warehouse at the end."""

    visitors: int
    stored_visitors: int
    before: dict[str, Usage]
    after: dict[str, Usage]


def run(visitors: int) -> Memory:
    """Send EVENTS_EACH events of each of so many visitors over HTTP, then wait until all are stored."""
    events = visitors * EVENTS_EACH
    with everything() as running, Clients(CLIENTS) as clients:
        before = _read(pids(running.supervisor.parts))
        told = [
            clients.send(Errand(running.collector_url, "newcomers", events, part, CLIENTS)) for part in range(CLIENTS)
        ]
        clients.begin()
        accepted = sum(one.result().accepted for one in told)
        assert accepted == events, f"{accepted} events accepted, expected {events}"
        running.drained(timeout_s=120 + events / 1_000)
        time.sleep(1)
        after = _read(pids(running.supervisor.parts))
        found = running.ask("SELECT uniqExact(visitor) FROM events")
        return Memory(visitors, int(str(found[0][0])), before, after)


def _read(found: dict[str, int | None]) -> dict[str, Usage]:
    return {name: memory(pid) for name, pid in found.items() if pid is not None}

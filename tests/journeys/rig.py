"""The whole of Herald on this machine, as `herald up` runs it, on ports and a folder of its own."""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline import status, up
from pipeline.edge.clickhouse import Warehouse
from pipeline.replay.formats import Recorded
from pipeline.replay.sender import Sender, Sent, Target, paced
from pipeline.settings import Settings, load
from pipeline.supervisor import Supervisor
from tests.waits import free_ports

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def free_run(length: int) -> int:
    """Return the first of so many neighbouring free ports: anywhere, since other tests look for theirs beside us."""
    for _ in range(1_000):
        first = random.randrange(15_000, 32_000 - length)  # below those that the system gives to connections
        held = [socket.socket() for _ in range(length)]
        try:
            for step, one in enumerate(held):
                one.bind(("127.0.0.1", first + step))
            return first
        except OSError:
            continue
        finally:
            for one in held:
                one.close()
    raise AssertionError("no free ports")


@dataclass
class Running:
    """Everything running somewhere. Its books and tables are read as a user reads them."""

    settings: Settings

    @property
    def collector_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.collector_port}"

    @property
    def delivery_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.delivery_port}"

    def send(
        self,
        rows: list[Recorded],
        shift_ms: int,
        pace: float = 0,
        repeat_share: float = 0.0,
        key: str = "demo",
        lanes: int = 4,
    ) -> Sent:
        """Replay rows to the collector under a write key; resend what fails for the moment.

        lanes: visitors side by side. Four are the partitions, each in its order; more are faster and mix the order.
        """

        async def run() -> Sent:
            sender = Sender(Target(self.collector_url, key, lanes=lanes, repeat_share=repeat_share))
            return await sender.send(paced(rows, pace, asyncio.get_running_loop().time()), shift_ms)

        return asyncio.run(run())

    def drained(self, timeout_s: float = 120) -> status.Status:
        """Wait until everything is stored."""
        return status.drained(self.settings, timeout_s)

    def ask(self, sql: str, params: Mapping[str, object] | None = None) -> list[tuple[object, ...]]:
        """Query the warehouse. params: for %(name)s in the text."""
        with Warehouse.from_url(self.settings.warehouse_url) as warehouse:
            return warehouse.execute(sql, params)

    def sessions(self, shift_ms: int = 0) -> Counter[tuple[object, ...]]:
        """Return the sessions as they are in the warehouse, times moved back by shift_ms."""
        sql = (
            "SELECT visitor, toUnixTimestamp64Milli(start), toUnixTimestamp64Milli(end), events, pages, purchases, "
            "revenue_micros FROM sessions FINAL"
        )
        return Counter(
            (visitor, int(str(start)) - shift_ms, int(str(end)) - shift_ms, *rest)
            for visitor, start, end, *rest in self.ask(sql)
        )


@dataclass
class Whole(Running):
    """Everything running, under a supervisor in this process."""

    supervisor: Supervisor


def settings_on_free_ports(folder: Path, **settings: object) -> Settings:
    """Return settings with which everything can run in this folder, beside others."""
    kafka, controller, clickhouse, collector, delivery, campaigns = free_ports(6)
    return load(
        data_dir=folder,
        kafka_port=kafka,
        kafka_controller_port=controller,
        kafka_heap_mb=256,
        clickhouse_port=clickhouse,
        collector_port=collector,
        delivery_port=delivery,
        campaigns_port=campaigns,
        metrics_port=free_run(7),
        **settings,
    )


@contextmanager
def whole(folder: Path, **settings: object) -> Iterator[Whole]:
    """Start everything in this folder; stop it at the end."""
    chosen = settings_on_free_ports(folder, **settings)
    supervisor = up.start(chosen, Console(quiet=True))
    try:
        yield Whole(chosen, supervisor)
    finally:
        supervisor.stop()

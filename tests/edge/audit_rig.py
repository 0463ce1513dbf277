"""A warehouse with blocks of all four topics in it, and the log that they came from, in memory."""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from pipeline import tables
from pipeline.audit.log import LogBlock
from pipeline.audit.service import Auditor
from pipeline.core.audit import Fault, Span
from pipeline.edge.clickhouse import Warehouse
from pipeline.embedded.warehouse import EmbeddedWarehouse, WarehouseConfig
from pipeline.settings import load
from pipeline.warehouse_writer import PendingBlock, WarehouseWriter
from schemas import block as codec
from schemas.block import EventBlock, Origin, OutcomeBlock, RefusedBlock, SessionBlock, Totals
from schemas.event import Event, EventType, Refused
from schemas.outcome import Outcome
from schemas.session import Session, SessionRow
from tests.waits import free_port

BASE_MS = 1_790_000_040_000  # the start of a minute
KEPT_DAYS = 20_000  # nothing of BASE_MS expires while this suite is in use
Log = dict[tuple[str, Origin], PendingBlock]


class MemoryLog:
    """Blocks by topic and origin. `begins`: from where on the log still has a topic, by (topic, partition)."""

    def __init__(self, pending: Iterable[PendingBlock] = ()) -> None:
        self.blocks: dict[tuple[str, int], dict[int, LogBlock]] = {}
        self.begins: dict[tuple[str, int], int] = {}
        self.reads = 0
        self.add(pending)

    def add(self, pending: Iterable[PendingBlock]) -> None:
        """Write blocks."""
        for one in pending:
            value = codec.encode(one.block)
            rows = codec.rows_of(codec.headers(value, rows_in(one)))
            place = self.blocks.setdefault((one.topic, one.origin.partition), {})
            place[one.origin.offset] = LogBlock(one.origin, rows, one.crc, value)

    def first(self, topic: str, partition: int) -> int:
        """As the audit asks."""
        return self.begins.get((topic, partition), 0)

    def read(self, topic: str, span: Span) -> list[LogBlock]:
        """As the audit asks."""
        self.reads += 1
        found = self.blocks.get((topic, span.partition), {})
        begin = max(span.first, self.first(topic, span.partition))
        return [found[offset] for offset in sorted(found) if begin <= offset < span.end]

    def close(self) -> None:
        """As the audit asks."""


def rows_in(one: PendingBlock) -> int:
    """How many rows a block has."""
    for name in ("events", "sessions", "outcomes"):
        if hasattr(one.block, name):
            return len(getattr(one.block, name))
    raise TypeError(f"{type(one.block)}: expected a block of a topic that the warehouse stores")


def pending(
    topic: str, partition: int, offset: int, block: EventBlock | RefusedBlock | SessionBlock | OutcomeBlock
) -> PendingBlock:
    """A block with the checksum that its record has."""
    return PendingBlock(topic, Origin(partition, offset), block, zlib.crc32(codec.encode(block)))


def event(partition: int, offset: int, n: int, time_ms: int) -> Event:
    """A small real event, the same for the same place."""
    visitor = f"v{partition}-{(offset * 7 + n) % 97}"
    return Event(
        f"{partition}-{offset}-{n}",
        EventType.CLICK if n % 5 == 0 else EventType.PAGE,
        time_ms,
        time_ms,
        "shop",
        visitor=visitor,
        url=f"https://example.com/p/{(offset + n) % 500}",
        host="example.com",
        path=f"/p/{(offset + n) % 500}",
    )


def blocks_of(partition: int, offset: int, rows: int) -> Iterator[PendingBlock]:
    """The blocks of all four topics that came of one collected block."""
    time_ms = BASE_MS + offset * 1_000
    events = [event(partition, offset, n, time_ms + n) for n in range(rows)]
    received = (offset + 1) * (rows + 1)
    totals = Totals(received, (offset + 1) * rows, offset + 1, 0, {"bad_json": offset + 1})
    yield pending("events", partition, offset, EventBlock(time_ms, totals, list(range(rows)), events))
    refused = Refused(rows, "bad_json", "", "", "ann", time_ms, "shop", "segment", "track", b"\xff{")
    yield pending("bad", partition, offset, RefusedBlock(time_ms, [refused]))
    session = Session(BASE_MS + partition, time_ms, site="shop", events=offset + 1)
    rows_of_sessions = [SessionRow(f"v{partition}-{offset % 7}", session)]
    yield pending("sessions", partition, offset, SessionBlock(time_ms, rows_of_sessions))
    outcome = Outcome(
        f"d{partition}-{offset % 5}", "a1", "top", "ann", BASE_MS, 0, offset, 0, offset * 10, 7, 0.5, 1, 7, site="shop"
    )
    yield pending("outcomes", partition, offset, OutcomeBlock(time_ms, [outcome]))


def log_of(partitions: Sequence[int], offsets: range, rows: int = 4) -> list[PendingBlock]:
    """The blocks of all topics, in order."""
    return [one for offset in offsets for p in partitions for one in blocks_of(p, offset, rows)]


@contextmanager
def warehouse_server(folder: Path) -> Iterator[str]:
    """Address of a warehouse."""
    given = os.environ.get("HERALD_TEST_CLICKHOUSE_URL")
    if given:
        yield given
        return
    with EmbeddedWarehouse(WarehouseConfig(folder, free_port())) as embedded:
        yield embedded.config.url("default")


@contextmanager
def database(server_url: str) -> Iterator[Warehouse]:
    """A warehouse with tables of one's own."""
    name = f"audit_{uuid4().hex}"
    with Warehouse.from_url(server_url) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        with Warehouse.from_url(server_url.rpartition("/")[0] + f"/{name}", 300) as opened:
            tables.apply(opened, KEPT_DAYS)
            yield opened
        admin.execute(f"DROP DATABASE {name} SYNC")


def writer(warehouse: Warehouse) -> WarehouseWriter:
    """The writer, as in production."""
    return WarehouseWriter(warehouse, load(), sleep=lambda _: None)


@contextmanager
def auditor(warehouse: Warehouse, log: MemoryLog, heals: bool = True, partitions: int = 2) -> Iterator[Auditor]:
    """An auditor as after a start."""
    one = Auditor(warehouse, log, partitions, KEPT_DAYS, heals)
    try:
        yield one
    finally:
        one.close()


def named(faults: Iterable[Fault]) -> set[tuple[str, int, int, str, int]]:
    """What a person reads of faults."""
    return {(fault.table, fault.partition, fault.offset, fault.kind, fault.rows) for fault in faults}

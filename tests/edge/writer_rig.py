"""A random log of all four topics, warehouses that fail on purpose, and what the tables hold in the end."""

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import msgspec

from pipeline.edge.clickhouse import Unavailable, Warehouse
from pipeline.settings import load
from pipeline.warehouse_writer import RETRY_DELAYS_S, PendingBlock, WarehouseWriter
from schemas.block import EventBlock, Origin, OutcomeBlock, RefusedBlock, SessionBlock, Totals
from schemas.event import Event, EventFlag, EventType, Refused
from schemas.outcome import Choice, DecisionLog, Outcome
from schemas.session import Session, SessionRow
from schemas.tables import TABLES

BASE_MS = 1_790_000_040_000  # the start of a minute
Rows = dict[str, list[tuple[object, ...]]]


class Killed(BaseException):
    """The process is gone at this point."""


class Faulty:
    """A warehouse whose insert number `at` (from 1) ends in a fault, before or after its rows are stored."""

    def __init__(self, warehouse: Warehouse, at: int, fault: BaseException, is_stored: bool, times: int = 1) -> None:
        self._warehouse = warehouse
        self._fault = fault
        self._is_stored = is_stored
        self._failing = range(at, at + times)
        self.inserts = 0

    def execute(self, sql: str, params: Mapping[str, object] | None = None) -> list[tuple[object, ...]]:
        """Run a statement."""
        return self._warehouse.execute(sql, params)

    def insert(
        self,
        table: str,
        column_names: Sequence[str],
        columns: Sequence[Sequence[object]],
        query_id: str | None = None,
        partitions_max: int = 1,
    ) -> int:
        """Insert, or fail where it was told to."""
        if not columns[0]:
            return 0
        self.inserts += 1
        fails = self.inserts in self._failing
        stored = 0
        if self._is_stored or not fails:
            stored = self._warehouse.insert(table, column_names, columns, query_id, partitions_max)
        if fails:
            raise self._fault
        return stored


class Refusing(Faulty):
    """A warehouse that takes one insert into a table and fails at the next, however often it is tried; then no more."""

    def __init__(self, warehouse: Warehouse, table: str) -> None:
        super().__init__(warehouse, 2, Unavailable("away", 210), is_stored=False, times=len(RETRY_DELAYS_S) + 1)
        self._table = table

    def insert(self, table: str, *arguments: Any, **named: Any) -> int:
        """Insert; only those into the table are counted, which come one after the other."""
        if table == self._table:
            return super().insert(table, *arguments, **named)
        return self._warehouse.insert(table, *arguments, **named)


def random_event(draw: random.Random, block: int) -> Event:
    """An event near the minute `block`; one of eight is up to ten minutes late."""
    minute = block // 3 - (draw.randrange(10) if draw.randrange(8) == 0 else 0)
    event_type = draw.choice(list(EventType))
    event_time_ms = BASE_MS + minute * 60_000 + draw.randrange(60_000)
    found = Event(
        f"{draw.getrandbits(64):x}",
        event_type,
        event_time_ms,
        event_time_ms + draw.randrange(1_000),
        draw.choice(["shop", "blog"]),
        visitor=draw.choice(["", "ann", "ben", "cem", "døra ☃", "a'b\\c\x00d"]),
        flags=draw.choice([0, 0, 0, int(EventFlag.BOT)]),
        host=draw.choice(["", "example.com"]),
        path=draw.choice(["", "/a", "/b"]),
        utm_source=draw.choice(["", "news"]),
        utm_campaign=draw.choice(["", "spring"]),
        channel=draw.choice(["", "email"]),
        campaign_id=draw.choice(["", "c1"]),
        placement_id=draw.choice(["", "top"]),
        action_id=draw.choice(["", "a1", "a2"]),
        revenue_micros=draw.choice([0, 0, 12_990_000]),
        cost_micros=draw.choice([0, 0, 150]),
        currency=draw.choice(["", "EUR", "USD"]),
        score=draw.random(),
    )
    if event_type is EventType.DECISION:
        found.decision_id = f"d{draw.getrandbits(32):x}"
        log = DecisionLog(found.decision_id, "top", "p", "m", "5", [Choice("a1", 0, 0.5)], ["a1", "a2"], [0.5, 0.5])
        found.properties = msgspec.json.encode(log).decode()
    return found


def outcome(draw: random.Random, offset: int) -> Outcome:
    """What is known after block `offset` of one of a few decisions; decided and propensity are the decision's own."""
    number = draw.randrange(3)
    decided_ms = BASE_MS + number
    return Outcome(f"d{number}", "a1", "top", "ann", decided_ms, 0, offset, 0, offset * 10, 7, 0.5, 1, 7, site="shop")


def random_log(seed: int, blocks: int = 10, partitions: Sequence[int] = (0, 2)) -> list[PendingBlock]:
    """The blocks of all four topics, in an order in which a worker may see them."""
    draw = random.Random(seed)
    log: list[PendingBlock] = []
    crc = count(1)
    for offset in range(blocks):
        time_ms = BASE_MS + offset * 20_000
        for p in partitions:
            origin = Origin(p, offset)
            places = [place for place in range(8) if draw.randrange(3)] if draw.randrange(5) else []
            events = [random_event(draw, offset) for _ in places]
            block = EventBlock(time_ms, Totals(offset * 8, offset * 5, offset * 3), places, events)
            log.append(PendingBlock("events", origin, block, next(crc)))
            bad = [
                Refused(n, "bad_json", "", "", "ann", time_ms, "shop", "segment", "track", b"\xff{") for n in range(2)
            ]
            if draw.randrange(2):
                log.append(PendingBlock("bad", origin, RefusedBlock(time_ms, bad), next(crc)))
            if draw.randrange(2):
                session = Session(BASE_MS + draw.randrange(2), time_ms, site="shop", events=100 - offset)
                row = SessionRow(f"v{p}{draw.randrange(2)}", session, deleted=draw.randrange(4) == 0)
                log.append(PendingBlock("sessions", origin, SessionBlock(time_ms, [row]), next(crc)))
            outcomes = [outcome(draw, offset)] if p == 0 and draw.randrange(3) else []
            log.append(PendingBlock("outcomes", origin, OutcomeBlock(time_ms, outcomes), next(crc)))
    return log


def stored(warehouse: Warehouse) -> Rows:
    """All rows as a reader with FINAL sees them, without what may differ: a rollup's version, the time of applying."""
    found: Rows = {}
    for table in TABLES:
        free = {"rollup_minute": "o", "blocks": "applied_time"}.get(table.name, "")
        names = ", ".join(name for name in table.column_names if name != free)
        found[table.name] = warehouse.execute(f"SELECT {names} FROM {table.name} FINAL ORDER BY ALL")  # noqa: S608
    return found


def writer(warehouse: Warehouse | Faulty, cells_max: int = 50) -> WarehouseWriter:
    """A writer as after a start; with room for few cells, so that minutes are evicted and read again."""
    return WarehouseWriter(warehouse, load(rollup_buckets_max=cells_max), sleep=lambda _: None)


def write_in_chunks(one: WarehouseWriter, log: Sequence[PendingBlock], sizes: Iterator[int]) -> None:
    """Write a log in chunks of these sizes."""
    start = 0
    while start < len(log):
        size = next(sizes)
        one.write(log[start : start + size])
        start += size

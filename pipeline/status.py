"""`herald status`: the books, the lag of every stage, and which parts answer."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from kafka import TopicPartition
from kafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from pipeline.core.books import PartitionBooks, balanced, total
from pipeline.edge import kafka
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import monotonic_s
from pipeline.errors import Retryable
from pipeline.parts import services
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import Totals
from schemas.state import StateRecord
from schemas.topics import CLEAN_STATE, COLLECTED, EVENTS, MODELS, PROFILES, SESSIONISE_STATE

STATES = {"clean": CLEAN_STATE, "sessionise": SESSIONISE_STATE, "profile": PROFILES, "learn": MODELS}
LOOK_BACK_RECORDS = 4
TICKS_BEHIND_MAX = 8  # a quiet log grows by a tick a second; nobody is ever quite at its end


@dataclass(frozen=True)
class Status:
    """What `herald status` shows. lag: blocks of `collected` that a stage has still to apply, by partition."""

    books: list[PartitionBooks]
    refused_by_reason: dict[str, int]
    lag: dict[str, list[int]]
    alive: dict[str, bool]

    @property
    def is_balanced(self) -> bool:
        """True where every partition's books balance."""
        return balanced(self.books)


def read(settings: Settings, ask_parts: bool = True) -> Status:
    """Read the books from the log and the warehouse.

    ask_parts: also ask each part whether it is ready. Raises Retryable where Kafka or the warehouse is away.
    """
    try:
        reader = kafka.consumer(settings, bootstrap_timeout_ms=kafka.BOOTSTRAP_MS)
    except KafkaError as error:
        raise Retryable(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    try:
        before = _ends(reader, settings, COLLECTED.name)
        states = {stage: _last_states(reader, settings, topic.name) for stage, topic in STATES.items()}
        with Warehouse.from_url(settings.warehouse_url) as warehouse:
            ledger = _ledger(warehouse)
            # A stage that was killed between its outputs and its state has the warehouse ahead of it for a moment.
            bounds = {p: min(o, _version(states["clean"].get(p))) for p, o in ledger.items()}
            stored = _stored(warehouse, bounds)
        ends = _ends(reader, settings, COLLECTED.name)
        totals = {p: _totals(record) for p, record in states["clean"].items()}
        books = [
            _partition_books(reader, settings, p, bounds.get(p, -1), stored.get(p, 0), states["clean"].get(p), ends[p])
            for p in range(settings.partitions)
        ]
    except KafkaError as error:
        raise Retryable(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    finally:
        reader.close()
    reasons: dict[str, int] = {}
    for one in totals.values():
        for reason, count in one.refused_by_reason.items():
            reasons[reason] = reasons.get(reason, 0) + count
    lag = {stage: [max(0, before[p] - 1 - _version(found.get(p))) for p in ends] for stage, found in states.items()}
    lag["aggregate"] = [max(0, before[p] - 1 - ledger.get(p, -1)) for p in ends]
    return Status(books, reasons, lag, {part.name: part.is_ready() for part in services(settings) if ask_parts})


def _ledger(warehouse: Warehouse) -> dict[int, int]:
    found = warehouse.execute("SELECT p, max(o) FROM blocks WHERE topic = 'events' GROUP BY p")
    return {int(str(p)): int(str(o)) for p, o in found}


def _stored(warehouse: Warehouse, bounds: dict[int, int]) -> dict[int, int]:
    """Count different rows up to a block of each partition: rows of a chunk in the making do not count yet."""
    stored = {}
    for partition, offset in bounds.items():
        sql = "SELECT count() FROM events FINAL WHERE p = %(p)s AND o <= %(o)s"
        stored[partition] = int(str(warehouse.execute(sql, {"p": partition, "o": offset})[0][0]))
    return stored


def _ends(reader: Any, settings: Settings, topic: str) -> dict[int, int]:
    tps = [TopicPartition(settings.topic(topic), p) for p in range(settings.partitions)]
    return {tp.partition: end for tp, end in reader.end_offsets(tps).items()}


def _last_states(reader: Any, settings: Settings, topic: str) -> dict[int, StateRecord]:
    """Return each partition's newest change record (fences, parts and what a fenced owner wrote stand between)."""
    found: dict[int, StateRecord] = {}
    for partition, end in _ends(reader, settings, topic).items():
        tp = TopicPartition(settings.topic(topic), partition)
        back = LOOK_BACK_RECORDS
        while partition not in found and end > 0:
            start = max(0, end - back)
            for record in _records(reader, tp, start, end):
                state = codec.decode(record.value, StateRecord)
                newest = found[partition].epoch if partition in found else -1
                if state.kind == "change" and not state.more and state.epoch >= newest:
                    found[partition] = state
            if start == 0:
                break
            back *= 8
    return found


def _records(reader: Any, tp: TopicPartition, start: int, end: int) -> Iterator[Any]:
    """Yield the records of [start, end), a few at a time. Raises Retryable where the broker stops answering."""
    reader.assign([tp])
    start = max(start, reader.beginning_offsets([tp])[tp])
    reader.seek(tp, start)
    misses = 0
    while reader.position(tp) < end:
        batch = reader.poll(timeout_ms=1_000).get(tp, [])
        misses = 0 if batch else misses + 1
        if misses > 10:
            raise Retryable(f"{tp.topic}[{tp.partition}]: no record from {reader.position(tp)}, expected up to {end}")
        yield from (record for record in batch if record.offset < end)


def _version(record: StateRecord | None) -> int:
    return -1 if record is None else record.version


def _totals(record: StateRecord) -> Totals:
    return msgspec.msgpack.decode(record.fixed, type=Totals)


def _partition_books(
    reader: Any, settings: Settings, partition: int, ledger: int, stored: int, state: StateRecord | None, end: int
) -> PartitionBooks:
    version, totals = _version(state), _totals(state) if state else Totals()
    tp = TopicPartition(settings.topic(COLLECTED.name), partition)
    unclean = sum(codec.rows_of(record.headers) for record in _records(reader, tp, version + 1, end))
    unstored = _unstored(reader, settings, partition, ledger, version)
    received = totals.received + unclean
    return PartitionBooks(partition, received, stored, totals.refused, totals.duplicate, unclean + unstored)


def _unstored(reader: Any, settings: Settings, partition: int, ledger: int, version: int) -> int:
    """Count rows of `events` after the ledger's last block and up to the clean stage's version, each block once."""
    if ledger >= version:
        return 0
    tp = TopicPartition(settings.topic(EVENTS.name), partition)
    end = reader.end_offsets([tp])[tp]
    rows: dict[int, int] = {}
    # A record's offset in `events` is at least its origin's: repeats only push it further back.
    for record in _records(reader, tp, ledger + 1, end):
        origin = codec.origin_of(record.headers)
        if ledger < origin.offset <= version:
            rows[origin.offset] = codec.rows_of(record.headers)
    return sum(rows.values())


def drained(settings: Settings, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> Status:
    """Wait until nothing is in flight and every stage is but a few ticks behind the log's end; return the status then.

    stopped: asked now and then; true gives up. Raises Retryable after timeout_s.
    """
    until = monotonic_s() + timeout_s
    while monotonic_s() < until and not stopped():
        status = read(settings)
        in_flight = sum(row.in_flight for row in status.books)
        if in_flight == 0 and max(sum(lag) for lag in status.lag.values()) <= TICKS_BEHIND_MAX * settings.partitions:
            return status
        time.sleep(0.5)
    raise Retryable(f"events were still in flight after {timeout_s:.0f} s; see {settings.data_dir / 'logs'}")


def show(status: Status, console: Console) -> None:
    """Print it for people."""
    table = Table("partition", "received", "stored", "refused", "duplicate", "in flight", "missing", title="books")
    for row in [*status.books, total(status.books)]:
        name = "all" if row.partition < 0 else str(row.partition)
        figures = [f"{value:,}" for value in row[1:]]
        table.add_row(name, *figures, f"{row.missing:,}", style="red" if row.missing else "")
    console.print(table)
    for reason, count in sorted(status.refused_by_reason.items()):
        console.print(f"refused as {reason}: {count:,}", highlight=False)
    for stage, lag in status.lag.items():
        console.print(f"{stage:<12}{sum(lag):>8,} blocks behind", highlight=False)
    down = [name for name, alive in status.alive.items() if not alive]
    console.print("parts: all alive" if not down else f"parts down: {', '.join(down)}", highlight=False)
    console.print("the books balance" if status.is_balanced else "the books do NOT balance", highlight=False)


def run(settings: Settings, console: Console, as_json: bool) -> int:
    """Print the status; 0 only where the books balance."""
    status = read(settings)
    if as_json:
        console.print_json(json.dumps(asdict(status) | {"balanced": status.is_balanced}))
    else:
        show(status, console)
    return 0 if status.is_balanced else 1

"""`herald status`: the books, the lag of every stage, and which parts answer."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from kafka import TopicPartition
from kafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from pipeline.audit import counts, seals
from pipeline.audit.counts import Kept
from pipeline.audit.log import KafkaSource
from pipeline.core.audit import Span
from pipeline.core.books import PartitionBooks, RefusedBooks, as_object, balanced, total, total_refused
from pipeline.edge import kafka
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import monotonic_s
from pipeline.errors import Retryable
from pipeline.parts import services
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import Totals
from schemas.state import StateRecord
from schemas.topics import BAD, CLEAN_STATE, COLLECTED, EVENTS, MODELS, PROFILES, SESSIONISE_STATE

STATES = {"clean": CLEAN_STATE, "sessionise": SESSIONISE_STATE, "profile": PROFILES, "learn": MODELS}
LOOK_BACK_RECORDS = 4
TICKS_BEHIND_MAX = 8  # a quiet log grows by a tick a second; nobody is ever quite at its end


@dataclass(frozen=True)
class Status:
    """What `herald status` shows. lag: blocks of `collected` that a stage has still to apply, by partition."""

    books: list[PartitionBooks]
    refused_books: list[RefusedBooks]
    refused_by_reason: dict[str, int]
    lag: dict[str, list[int]]
    alive: dict[str, bool]

    @property
    def is_balanced(self) -> bool:
        """True where every partition's books balance."""
        return balanced(self.books) and balanced(self.refused_books)

    @property
    def in_flight(self) -> int:
        """Events and refused events on their way."""
        return sum(row.in_flight for row in self.books) + sum(row.in_flight for row in self.refused_books)

    def as_object(self) -> dict[str, Any]:
        """Return all of it by name, for machines."""
        return {
            "books": [as_object(row) for row in self.books],
            "refused_books": [as_object(row) for row in self.refused_books],
            "refused_by_reason": self.refused_by_reason,
            "lag": self.lag,
            "alive": self.alive,
            "balanced": self.is_balanced,
        }


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
            right = _right_side(warehouse, settings, {p: _version(found) for p, found in states["clean"].items()})
            clean_at = _clean_at(warehouse, right.bounds[EVENTS.name])
        ends = _ends(reader, settings, COLLECTED.name)
        totals = {p: _totals(record) for p, record in states["clean"].items()}
        books = [
            _partition_books(reader, settings, p, right, states["clean"].get(p), ends[p], clean_at.get(p, 0))
            for p in range(settings.partitions)
        ]
        refused = _refused_books(settings, right, states["clean"], {row.partition: row.lost_blocks for row in books})
    except KafkaError as error:
        raise Retryable(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    finally:
        reader.close()
    reasons: dict[str, int] = {}
    for one in totals.values():
        for reason, count in one.refused_by_reason.items():
            reasons[reason] = reasons.get(reason, 0) + count
    lag = {stage: [max(0, before[p] - 1 - _version(found.get(p))) for p in ends] for stage, found in states.items()}
    lag["aggregate"] = [max(0, before[p] - 1 - right.ledger.get(p, -1)) for p in ends]
    return Status(
        books, refused, reasons, lag, {part.name: part.is_ready() for part in services(settings) if ask_parts}
    )


class RightSide(NamedTuple):
    """What the warehouse has. ledger: last applied block of `events`. bounds, kept: by topic, then by partition."""

    ledger: dict[int, int]
    bounds: dict[str, dict[int, int]]
    kept: dict[str, dict[int, Kept]]


def _right_side(warehouse: Warehouse, settings: Settings, versions: dict[int, int]) -> RightSide:
    """Count rows up to a block of each partition: rows of a chunk in the making do not count yet.

    versions: of the clean stage; nothing beyond counts. The warehouse is ahead of it for a moment when the stage was
    killed between its outputs and its state.
    """
    found = warehouse.execute("SELECT topic, p, max(o) FROM blocks GROUP BY topic, p")
    ledger = {(str(topic), int(str(p))): int(str(o)) for topic, p, o in found}
    sealed = seals.read(warehouse)
    first_day = counts.first_kept_day(warehouse, settings.retention_days)
    bounds = {
        topic: {p: min(ledger.get((topic, p), -1), version) for p, version in versions.items()}
        for topic in counts.AUDITED
    }
    kept = {topic: counts.kept(warehouse, sealed, topic, bounds[topic], first_day) for topic in bounds}
    return RightSide({p: o for (topic, p), o in ledger.items() if topic == EVENTS.name}, bounds, kept)


def _clean_at(warehouse: Warehouse, bounds: dict[int, int]) -> dict[int, int]:
    """Return how many clean events there were up to each bound, as the clean stage counted them."""
    sql = "SELECT argMax(clean, o) FROM blocks WHERE topic = 'events' AND p = %(p)s AND o <= toInt64(%(o)s)"
    return {p: int(str(warehouse.execute(sql, {"p": p, "o": o})[0][0])) for p, o in bounds.items()}


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


NOTHING = Kept(0, 0, 0, 0)


def _partition_books(
    reader: Any,
    settings: Settings,
    partition: int,
    right: RightSide,
    state: StateRecord | None,
    end: int,
    clean_at: int,
) -> PartitionBooks:
    """clean_at: clean events up to the last block that counts. What the ledger lacks of them was let go."""
    version, totals = _version(state), _totals(state) if state else Totals()
    tp = TopicPartition(settings.topic(COLLECTED.name), partition)
    unclean = sum(codec.rows_of(record.headers) for record in _records(reader, tp, version + 1, end))
    bound = right.bounds[EVENTS.name].get(partition, -1)
    unstored = _unstored(reader, settings, partition, bound, version)
    kept = right.kept[EVENTS.name].get(partition, NOTHING)
    lost_blocks = bound + 1 - kept.blocks
    return PartitionBooks(
        partition,
        totals.received + unclean,
        kept.stored,
        totals.refused,
        totals.duplicate,
        unclean + unstored,
        kept.expired,
        clean_at - kept.applied if lost_blocks else 0,
        lost_blocks,
    )


def _refused_books(
    settings: Settings, right: RightSide, states: dict[int, StateRecord], lost_blocks: dict[int, int]
) -> list[RefusedBooks]:
    source = KafkaSource(settings)
    try:
        return [_refused(source, p, right, states.get(p), lost_blocks[p]) for p in range(settings.partitions)]
    finally:
        source.close()


def _refused(
    source: KafkaSource, partition: int, right: RightSide, state: StateRecord | None, lost_blocks: int
) -> RefusedBooks:
    if state is None:
        return RefusedBooks(partition, 0, 0, 0)
    refused, kept = _totals(state).refused, right.kept[BAD.name][partition]
    in_flight = 0
    if refused != kept.applied:
        span = Span(partition, right.bounds[BAD.name][partition] + 1, state.version + 1)
        in_flight = sum(block.rows for block in source.read(BAD.name, span))
    lost = max(0, refused - kept.applied - in_flight) if lost_blocks else 0
    return RefusedBooks(partition, refused, kept.stored, in_flight, kept.expired, lost)


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
        if (
            status.in_flight == 0
            and max(sum(lag) for lag in status.lag.values()) <= TICKS_BEHIND_MAX * settings.partitions
        ):
            return status
        time.sleep(0.5)
    raise Retryable(f"events were still in flight after {timeout_s:.0f} s; see {settings.data_dir / 'logs'}")


def show(status: Status, console: Console) -> None:
    """Print it for people."""
    _show_books("books", [*status.books, total(status.books)], console)
    if any(row.refused or row.missing for row in status.refused_books):
        _show_books(
            "refused events in the table bad", [*status.refused_books, total_refused(status.refused_books)], console
        )
    for reason, count in sorted(status.refused_by_reason.items()):
        console.print(f"refused as {reason}: {count:,}", highlight=False)
    for stage, lag in status.lag.items():
        console.print(f"{stage:<12}{sum(lag):>8,} blocks behind", highlight=False)
    down = [name for name, alive in status.alive.items() if not alive]
    console.print("parts: all alive" if not down else f"parts down: {', '.join(down)}", highlight=False)
    console.print("the books balance" if status.is_balanced else "the books do NOT balance", highlight=False)


USUALLY_NONE = frozenset({"expired", "lost", "lost_blocks"})


def _show_books(title: str, rows: Sequence[PartitionBooks | RefusedBooks], console: Console) -> None:
    """Print a table of books; columns that are seldom anything else than 0 only where they are."""
    found = [as_object(row) for row in rows]
    names = [name for name in found[0] if name not in USUALLY_NONE or any(row[name] for row in found)]
    table = Table(*(name.replace("_", " ") for name in names), title=title)
    for row in found:
        first = "all" if row["partition"] < 0 else str(row["partition"])
        figures = [f"{row[name]:,}" for name in names[1:]]
        table.add_row(first, *figures, style="red" if row["missing"] else "")
    console.print(table)


def run(settings: Settings, console: Console, as_json: bool) -> int:
    """Print the status; 0 only where the books balance."""
    status = read(settings)
    if as_json:
        console.print_json(json.dumps(status.as_object()))
    else:
        show(status, console)
    return 0 if status.is_balanced else 1

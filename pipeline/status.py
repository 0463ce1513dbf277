"""`herald status`: the books, the lag of every stage, and which parts answer."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from kafka import TopicPartition
from kafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from pipeline import money, pieces, progress
from pipeline.audit import counts, seals
from pipeline.audit.counts import Kept
from pipeline.audit.log import KafkaSource
from pipeline.core.audit import Span
from pipeline.core.books import PartitionBooks, RefusedBooks, as_object, balanced, total, total_refused
from pipeline.edge import kafka
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import monotonic_s
from pipeline.errors import Retryable
from pipeline.money import LineMoney
from pipeline.parts import services
from pipeline.pieces import SkuPieces
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import Totals
from schemas.state import StateRecord
from schemas.topics import BAD, COLLECTED, EVENTS, SPEND

LOGGED_WITHIN_S = 0.5  # delivery writes down what it answered within this, where Kafka answers


@dataclass(frozen=True)
class Status:
    """What `herald status` shows.

    ends: next offset of `collected` by partition, as the reading began. next_origins: by stage, then by partition, the
    first of those blocks that it has still to apply; none where only the books were read.
    """

    books: list[PartitionBooks]
    refused_books: list[RefusedBooks]
    refused_by_reason: dict[str, int]
    ends: list[int]
    next_origins: dict[str, list[int]]
    alive: dict[str, bool]
    money: Sequence[LineMoney] = ()
    stock: Sequence[SkuPieces] = ()

    @property
    def lag(self) -> dict[str, list[int]]:
        """Blocks of `collected` that each stage has still to apply, by partition."""
        return {
            stage: [max(0, end - at) for end, at in zip(self.ends, places, strict=True)]
            for stage, places in self.next_origins.items()
        }

    def has_reached(self, ends: Sequence[int]) -> bool:
        """True where every stage has applied all blocks before `ends`, by partition."""
        return all(at >= end for places in self.next_origins.values() for at, end in zip(places, ends, strict=True))

    @property
    def is_balanced(self) -> bool:
        """True where every partition's books balance, those of money line by line, and those of pieces sku by sku."""
        is_money_balanced = all(row.is_balanced for row in self.money)
        is_stock_balanced = all(row.is_balanced for row in self.stock)
        return is_money_balanced and is_stock_balanced and balanced(self.books) and balanced(self.refused_books)

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
            "money": [row.as_object() for row in self.money],
            "stock": [row.as_object() for row in self.stock],
            "balanced": self.is_balanced,
        }


def read(settings: Settings, ask_parts: bool = True, books_only: bool = False) -> Status:
    """Read the books from the log and the warehouse, and how far each stage is.

    ask_parts: also ask each part whether it is ready. Raises Retryable where Kafka or the warehouse is away.
    """
    try:
        reader = kafka.consumer(settings, bootstrap_timeout_ms=kafka.BOOTSTRAP_MS)
    except KafkaError as error:
        raise Retryable(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    try:
        before = progress.ends(reader, settings, COLLECTED.name)
        read_of = {"clean": progress.STATES["clean"]} if books_only else progress.STATES
        states = {stage: progress.last_states(reader, settings, topic.name) for stage, topic in read_of.items()}
        with Warehouse.from_url(settings.warehouse_url) as warehouse:
            right = _right_side(warehouse, settings, {p: _version(found) for p, found in states["clean"].items()})
            clean_at = _clean_at(warehouse, right.bounds[EVENTS.name])
        ends = progress.ends(reader, settings, COLLECTED.name)
        totals = {p: _totals(record) for p, record in states["clean"].items()}
        books = [
            _partition_books(reader, settings, p, right, states["clean"].get(p), ends[p], clean_at.get(p, 0))
            for p in range(settings.partitions)
        ]
        refused = _refused_books(settings, right, states["clean"], {row.partition: row.lost_blocks for row in books})
        origins = {stage: [_version(found.get(p)) + 1 for p in ends] for stage, found in states.items()}
        if not books_only:
            origins["aggregate"] = list(progress.next_origins(reader, settings, right.ledger).values())
        views = [] if books_only else list(progress.state_views(reader, settings, SPEND.name))
        spent = money.read(views, settings) if views else []
    except KafkaError as error:
        raise Retryable(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    finally:
        reader.close()
    reasons: dict[str, int] = {}
    for one in totals.values():
        for reason, count in one.refused_by_reason.items():
            reasons[reason] = reasons.get(reason, 0) + count
    alive = {part.name: part.is_ready() for part in services(settings) if ask_parts}
    at = {} if books_only else origins
    return Status(books, refused, reasons, list(before.values()), at, alive, spent, pieces.books_of(views))


class RightSide(NamedTuple):
    """What the warehouse has. ledger: last applied block of a topic's partition. bounds, kept: by topic, partition."""

    ledger: dict[tuple[str, int], int]
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
    return RightSide(ledger, bounds, kept)


def _clean_at(warehouse: Warehouse, bounds: dict[int, int]) -> dict[int, int]:
    """Return how many clean events there were up to each bound, as the clean stage counted them."""
    sql = "SELECT argMax(clean, o) FROM blocks WHERE topic = 'events' AND p = %(p)s AND o <= toInt64(%(o)s)"
    return {p: int(str(warehouse.execute(sql, {"p": p, "o": o})[0][0])) for p, o in bounds.items()}


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
    unclean = sum(codec.rows_of(record.headers) for record in progress.records(reader, tp, version + 1, end))
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
    for record in progress.records(reader, tp, ledger + 1, end):
        origin = codec.origin_of(record.headers)
        if ledger < origin.offset <= version:
            rows[origin.offset] = codec.rows_of(record.headers)
    return sum(rows.values())


def drained(settings: Settings, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> Status:
    """Wait until every stage has applied all that is in the log now; return the status then.

    "In the log" includes what delivery still logs behind its answers. That the stages are near the end would not do:
    the few blocks between may hold all that was sent. stopped: asked now and then; true gives up. Raises Retryable
    after timeout_s.
    """
    began_s = monotonic_s()
    ends: list[int] | None = None
    while monotonic_s() < began_s + timeout_s and not stopped():
        is_logged = monotonic_s() >= began_s + LOGGED_WITHIN_S
        status = read(settings)
        if ends is None and is_logged:
            ends = status.ends
        if ends is not None and status.in_flight == 0 and status.has_reached(ends):
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
    if status.money:
        money.show(status.money, console)
    if status.stock:
        pieces.show(status.stock, console)
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

"""The writer on a real warehouse: whatever is repeated, cut otherwise or killed, the tables end up the same."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import count
from uuid import uuid4

import pytest

from pipeline import tables
from pipeline.core.rollup import KINDS
from pipeline.edge.clickhouse import Refused as WarehouseRefused
from pipeline.edge.clickhouse import Unavailable, Warehouse
from pipeline.errors import Gap, Retryable
from pipeline.settings import load
from pipeline.warehouse_writer import RETRY_DELAYS_S, PendingBlock, WarehouseWriter, stored_rows
from schemas import ddl
from schemas.block import EventBlock, Origin, OutcomeBlock, RefusedBlock, SessionBlock, Totals
from schemas.event import Event, EventType
from schemas.outcome import Outcome
from schemas.session import Session, SessionRow
from schemas.tables import TABLES
from tests.edge.audit_rig import warehouse_server
from tests.edge.writer_rig import (
    BASE_MS,
    Faulty,
    Killed,
    Refusing,
    Rows,
    random_log,
    stored,
    write_in_chunks,
    writer,
)

KEPT_DAYS = 20_000  # nothing of BASE_MS expires while this suite is in use


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the server under test."""
    with warehouse_server(tmp_path_factory.mktemp("warehouse")) as url:
        yield url


@pytest.fixture
def empty(server_url: str) -> Iterator[Warehouse]:
    """A warehouse of this test's own, without tables."""
    name = f"writer_{uuid4().hex}"
    with Warehouse.from_url(server_url) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        with Warehouse.from_url(server_url.rpartition("/")[0] + f"/{name}") as opened:
            yield opened
        admin.execute(f"DROP DATABASE {name} SYNC")


@pytest.fixture
def warehouse(empty: Warehouse) -> Warehouse:
    """A warehouse of this test's own, with tables."""
    tables.apply(empty, KEPT_DAYS)
    return empty


@pytest.fixture(scope="module")
def expected(server_url: str) -> Rows:
    """The tables after random_log(1), written block by block with everything in memory."""
    name = f"expected_{uuid4().hex}"
    with Warehouse.from_url(server_url) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        with Warehouse.from_url(server_url.rpartition("/")[0] + f"/{name}") as opened:
            tables.apply(opened, KEPT_DAYS)
            write_in_chunks(writer(opened, 100_000), random_log(1), iter(lambda: 9, 0))
            found = stored(opened)
        admin.execute(f"DROP DATABASE {name} SYNC")
    return found


def test_every_row_of_the_log_is_stored(expected: Rows) -> None:
    """The reference of the tests below is right in itself."""
    log = random_log(1)
    events = [event for pending in log if isinstance(pending.block, EventBlock) for event in pending.block.events]
    decisions = [event for event in events if event.event_type is EventType.DECISION]
    assert len(expected["events"]) == len(events) > 50
    assert len(expected["decisions"]) == len(decisions) > 0
    assert len(expected["blocks"]) == len(log)
    assert len(expected["bad"]) == sum(len(p.block.events) for p in log if isinstance(p.block, RefusedBlock)) > 0
    outcomes = [one for pending in log if isinstance(pending.block, OutcomeBlock) for one in pending.block.outcomes]
    assert len(outcomes) > len(expected["outcomes"]) == len({one.decision_id for one in outcomes}) > 1


def test_the_newest_state_of_a_session_and_of_an_outcome_stays(expected: Rows) -> None:
    """Told from the log alone; a session that was merged into another is not there."""
    sessions: dict[tuple[str, int], SessionRow] = {}
    outcomes: dict[str, Outcome] = {}
    for pending in random_log(1):
        if isinstance(pending.block, SessionBlock):
            sessions |= {(row.visitor, row.session.start_ms): row for row in pending.block.sessions}
        if isinstance(pending.block, OutcomeBlock):
            outcomes |= {one.decision_id: one for one in pending.block.outcomes}
    left = [(row.visitor, row.session.events) for row in sessions.values() if not row.deleted]
    names = {table.name: table.column_names for table in TABLES}
    events_at = names["sessions"].index("events")
    assert sorted((str(row[0]), row[events_at]) for row in expected["sessions"]) == sorted(left)
    assert 0 < len(left) < len(sessions)
    revenue_at = names["outcomes"].index("revenue_micros")
    assert {row[0]: row[revenue_at] for row in expected["outcomes"]} == {
        one.decision_id: one.revenue_micros for one in outcomes.values()
    }


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_any_chunks_end_at_the_same_tables(warehouse: Warehouse, expected: Rows, size: int) -> None:
    """How the log is cut is an accident of timing: nothing may depend on it."""
    write_in_chunks(writer(warehouse), random_log(1), iter(lambda: size, 0))
    assert stored(warehouse) == expected


def write_overlapping(one: WarehouseWriter, log: Sequence[PendingBlock], size: int) -> list["Future[None]"]:
    """Begin every chunk before the one before has ended, as the aggregate stage does."""
    begun = [one.begin(log[start : start + size]) for start in range(0, len(log), size)]
    wait(begun)
    return begun


@pytest.mark.parametrize("size", [3, 11])
def test_chunks_that_overlap_end_at_the_same_tables(warehouse: Warehouse, expected: Rows, size: int) -> None:
    """Also where a minute's cells are read again, from rows of a chunk whose inserts may still be under way."""
    with ThreadPoolExecutor(3) as inserts:
        one = WarehouseWriter(warehouse, load(rollup_buckets_max=5), sleep=lambda _: None, inserts=inserts)
        for done in write_overlapping(one, random_log(1), size):
            done.result()
    assert stored(warehouse) == expected


@pytest.mark.parametrize("table", ["events", "rollup_minute", "blocks"])
def test_a_chunk_whose_forerunner_failed_is_not_in_the_ledger(warehouse: Warehouse, expected: Rows, table: str) -> None:
    """Its rows are in, perhaps, but nobody may take it for applied; a new writer does both again."""
    log = random_log(1)
    with ThreadPoolExecutor(3) as inserts:
        one = WarehouseWriter(Refusing(warehouse, table), load(), sleep=lambda _: None, inserts=inserts)
        begun = write_overlapping(one, log[:60], 20)
    assert [type(done.exception()) for done in begun] == [type(None), Unavailable, Unavailable]
    assert warehouse.execute("SELECT count() FROM blocks FINAL") == [(20,)]
    writer(warehouse).write(log)
    assert stored(warehouse) == expected


def test_a_replayed_log_changes_nothing(warehouse: Warehouse, expected: Rows) -> None:
    """A writer that starts again skips what the ledger has, whatever the offsets that Kafka remembers."""
    log = random_log(1)
    write_in_chunks(writer(warehouse), log, iter(lambda: 10, 0))
    again = writer(warehouse)
    assert again.assigned("events", 0) == 9
    write_in_chunks(again, log, iter(lambda: 3, 0))
    again.write(log)
    assert stored(warehouse) == expected


def test_a_log_applied_again_without_its_ledger_changes_nothing(warehouse: Warehouse, expected: Rows) -> None:
    """Skipping is an optimisation: the keys alone make a repeat harmless, here of everything and otherwise cut."""
    write_in_chunks(writer(warehouse), random_log(1), iter(lambda: 11, 0))
    warehouse.execute("TRUNCATE TABLE blocks")
    write_in_chunks(writer(warehouse), random_log(1), iter(lambda: 6, 0))
    assert stored(warehouse) == expected


@pytest.mark.parametrize("is_stored", [False, True], ids=["before the insert", "after the insert"])
def test_a_kill_at_any_insert_of_any_chunk_changes_nothing(
    warehouse: Warehouse, expected: Rows, is_stored: bool
) -> None:
    """The process dies before or after the k-th insert; a new one goes on from the ledger, with other chunks."""
    log = random_log(1)
    kills = 0
    for start in range(0, len(log), 20):
        chunk = log[start : start + 20]
        for at in count(1):
            faulty = Faulty(warehouse, at, Killed(), is_stored)
            try:
                writer(faulty).write(chunk[: len(chunk) - at])
                writer(faulty).write(chunk)
            except Killed:
                kills += 1
            else:
                break
    assert kills > 15
    assert stored(warehouse) == expected


def test_an_insert_whose_answer_was_lost_is_repeated(warehouse: Warehouse, expected: Rows) -> None:
    """Rows that were stored and are sent again stay one row each."""
    for start, at in zip(range(0, 1_000, 12), count(1), strict=False):
        faulty = Faulty(warehouse, at % 7 + 1, Unavailable("the answer was lost", None), is_stored=True, times=2)
        writer(faulty).write(random_log(1)[start : start + 12])
    assert stored(warehouse) == expected


def test_a_warehouse_that_stays_away_stops_the_writer_after_bounded_retries(warehouse: Warehouse) -> None:
    """The process must end with its chunk unacknowledged, not hang for ever; the same writer may also try again."""
    pauses: list[float] = []
    log = random_log(1)
    faulty = Faulty(warehouse, 1, Unavailable("away", 210), is_stored=False, times=len(RETRY_DELAYS_S) + 1)
    one = WarehouseWriter(faulty, load(), sleep=pauses.append)
    with pytest.raises(Retryable):
        one.write(log)
    assert tuple(pauses) == RETRY_DELAYS_S
    one.write(log)
    assert one.assigned("events", 2) == 9


def test_a_chunk_that_failed_in_its_rollups_is_not_counted_twice(warehouse: Warehouse, expected: Rows) -> None:
    """The hot cells had the chunk already when it failed; written again by the same writer it counts once."""
    log = random_log(1)
    tries = len(RETRY_DELAYS_S) + 1
    one = writer(Faulty(warehouse, 6, Unavailable("away", 210), is_stored=True, times=tries), 100_000)
    with pytest.raises(Retryable):
        one.write(log[:60])
    one.write(log[:60])
    one.write(log[60:])
    assert stored(warehouse) == expected


def test_a_stalled_former_owner_changes_nothing(warehouse: Warehouse, expected: Rows) -> None:
    """It wakes up after the new owner has gone on, and writes what it held: same keys, same rows, older versions."""
    log = random_log(1)
    former = writer(warehouse, 100_000)
    former.write(log[:12])
    write_in_chunks(writer(warehouse), log[12:], iter(lambda: 9, 0))
    former.write(log[12:36])
    assert stored(warehouse) == expected


def test_the_rollups_are_what_a_query_over_the_events_finds(warehouse: Warehouse) -> None:
    """Counted by ClickHouse itself from the events: events, different visitors, money, for every kind and partition."""
    write_in_chunks(writer(warehouse), random_log(5), iter(lambda: 13, 0))
    dimensions = {
        "event_type": ("event_type", "''"),
        "placement_action": ("placement_id", "action_id"),
        "campaign_channel": ("if(campaign_id = '', utm_campaign, campaign_id)", "channel"),
        "source": ("utm_source", "referrer_class"),
        "page": ("host", "path"),
    }
    assert set(dimensions) == {kind.name for kind in KINDS}
    for kind, (first, second) in dimensions.items():
        found = warehouse.execute(
            "SELECT site, minute, first, second, is_bot, p, sum(events), sum(visitors), sum(clicks), sum(impressions), "
            "sum(purchases), sum(conversions), sum(decisions), sum(pages), sum(revenue_micros), sum(cost_micros) "
            "FROM rollup_minute FINAL WHERE kind = %(kind)s GROUP BY ALL ORDER BY ALL",
            {"kind": kind},
        )
        counted = warehouse.execute(
            f"SELECT site, toStartOfMinute(event_time), {first} AS a, {second} AS b, bitAnd(flags, 32) > 0, p, "  # noqa: S608
            "count(), uniqExactIf(visitor, visitor != ''), countIf(event_type = 'click'), "
            "countIf(event_type = 'impression'), countIf(event_type = 'purchase'), countIf(event_type = 'conversion'), "
            "countIf(event_type = 'decision'), countIf(event_type IN ('page', 'screen')), sum(revenue_micros), "
            "sum(cost_micros) FROM events FINAL WHERE a != '' OR b != '' GROUP BY ALL ORDER BY ALL"
        )
        assert found == counted


def late_event(minute: int, visitor: str) -> EventBlock:
    """A block with one page view in a minute."""
    at_ms = BASE_MS + minute * 60_000
    return EventBlock(at_ms, Totals(), [0], [Event("e", EventType.PAGE, at_ms, at_ms, "shop", visitor=visitor)])


def test_a_late_event_in_an_evicted_minute_is_added_to_what_was_there(warehouse: Warehouse) -> None:
    """The minute is read again with its visitors, so the one who returns is known."""
    one = writer(warehouse, 1)
    for offset, (minute, visitor) in enumerate([(0, "ann"), (1, "ann"), (2, "ben"), (0, "ann"), (0, "cem")]):
        one.write([PendingBlock("events", Origin(0, offset), late_event(minute, visitor), 1)])
    rows = warehouse.execute(
        "SELECT events, visitors FROM rollup_minute FINAL WHERE kind = 'event_type' ORDER BY minute"
    )
    assert rows == [(3, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("topic", ["events", "outcomes"])
def test_a_missing_block_stops_the_writer(warehouse: Warehouse, topic: str) -> None:
    """These topics have every block of `collected`: what is missing was lost, and going on would hide it."""
    kind = EventBlock(0, Totals(), [], []) if topic == "events" else OutcomeBlock(0, [])
    one = writer(warehouse)
    one.write([PendingBlock(topic, Origin(0, 0), kind, 1)])
    with pytest.raises(Gap, match=f"{topic}.0.: block 2 after 0 in the warehouse, expected 1"):
        one.write([PendingBlock(topic, Origin(0, 2), kind, 1)])
    assert writer(warehouse).assigned(topic, 0) == 0


def test_a_writer_that_was_halted_asks_the_ledger_again_before_it_speaks_of_a_gap(warehouse: Warehouse) -> None:
    """It learnt how far the ledger was, stood still while another went on, and now gets what comes after that."""
    halted, other = writer(warehouse), writer(warehouse)
    halted.write([PendingBlock("events", Origin(0, 0), late_event(0, "ann"), 1)])
    other.write([PendingBlock("events", Origin(0, 1), late_event(0, "bob"), 1)])
    halted.write([PendingBlock("events", Origin(0, 2), late_event(0, "cy"), 1)])
    assert writer(warehouse).assigned("events", 0) == 2
    rows = warehouse.execute("SELECT events, visitors FROM rollup_minute FINAL WHERE kind = 'event_type'")
    assert rows == [(3, 3)]


def test_a_person_can_accept_that_blocks_are_gone(warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    """A new warehouse on a log whose beginning has expired: it goes on, and says what it went on without."""
    pending = PendingBlock("events", Origin(1, 500), late_event(0, "ann"), 1)
    with pytest.raises(Gap, match="expected 0"):
        writer(warehouse).write([pending])
    WarehouseWriter(warehouse, load(accept_gap=True)).write([pending])
    assert stored_rows(warehouse).events == {1: 1}
    assert "block 500 after -1" in caplog.text


def test_two_sessions_that_began_at_once_have_a_row_each(warehouse: Warehouse) -> None:
    """A stray event begins a session of its own, which must not replace the one that had begun there."""
    sessions = [Session(BASE_MS, BASE_MS, events=1), Session(BASE_MS, BASE_MS, events=2, stray_id="e9")]
    block = SessionBlock(BASE_MS, [SessionRow("ann", session) for session in sessions])
    writer(warehouse).write([PendingBlock("sessions", Origin(0, 0), block, 1)])
    assert stored_rows(warehouse).sessions == {0: 2}


def test_sparse_topics_may_leave_offsets_out(warehouse: Warehouse) -> None:
    """Most blocks refuse nothing and change no session."""
    one = writer(warehouse)
    one.write([PendingBlock("bad", Origin(0, 5), RefusedBlock(0, []), 1)])
    one.write([PendingBlock("bad", Origin(0, 90), RefusedBlock(0, []), 1)])
    assert one.assigned("bad", 0) == 90


def test_a_partition_that_was_away_goes_on_from_the_ledger(warehouse: Warehouse) -> None:
    """It was another process's in between; what is remembered here is stale."""
    here, there = writer(warehouse), writer(warehouse)
    assert here.assigned("events", 0) == -1
    here.write([PendingBlock("events", Origin(0, 0), late_event(0, "ann"), 1)])
    here.revoked("events", 0)
    there.write([PendingBlock("events", Origin(0, 1), late_event(0, "ben"), 1)])
    assert here.assigned("events", 0) == 1
    here.write([PendingBlock("events", Origin(0, 2), late_event(0, "ann"), 1)])
    rows = warehouse.execute("SELECT events, visitors FROM rollup_minute FINAL WHERE kind = 'event_type'")
    assert rows == [(3, 2)]


def test_rows_are_counted_exactly_by_partition(warehouse: Warehouse) -> None:
    """Copies that no merge has met yet count once; sessions merged into others do not count."""
    log = random_log(3)
    writer(warehouse).write(log)
    warehouse.execute("TRUNCATE TABLE blocks")
    writer(warehouse).write(log)
    events: Counter[int] = Counter()
    for pending in log:
        if isinstance(pending.block, EventBlock):
            events[pending.origin.partition] += len(pending.block.events)
    counts = stored_rows(warehouse)
    assert counts.events == events
    assert sum(counts.bad.values()) == warehouse.execute("SELECT uniqExact(p, o, n) FROM bad")[0][0]
    assert sum(counts.outcomes.values()) == warehouse.execute("SELECT uniqExact(decision_id) FROM outcomes")[0][0]
    newest = warehouse.execute("SELECT argMax(is_deleted, o) FROM sessions GROUP BY visitor, start, stray_id")
    assert sum(counts.sessions.values()) == sum(deleted == 0 for (deleted,) in newest)


def test_tables_are_made_where_they_are_missing_and_mended_where_they_differ(empty: Warehouse) -> None:
    """`herald tables` shows, `herald tables --apply` mends; what is somebody else's stays."""
    assert [difference.what for difference in tables.differences(empty, 400)] == ["missing table"] * len(TABLES)
    tables.apply(empty, 400)
    assert tables.differences(empty, 400) == []
    empty.execute("ALTER TABLE events DROP COLUMN brand")
    empty.execute("ALTER TABLE events ADD COLUMN my_score Float64")
    empty.execute("ALTER TABLE sessions MODIFY COLUMN clicks Int32")
    empty.execute("CREATE TABLE mine (a Int8) ENGINE = MergeTree ORDER BY a")
    shown = [str(difference) for difference in tables.apply(empty, 90)]
    assert "events: missing column brand LowCardinality(String)" in shown
    assert "events: rows are kept 400 days, expected 90 days" in shown
    (left,) = tables.differences(empty, 90)
    assert str(left).startswith("sessions: column clicks is Int32, expected Int64")
    empty.execute(left.statements[0])
    assert tables.differences(empty, 90) == []
    assert empty.execute("SELECT sum(my_score) FROM events") == [(0,)]
    assert empty.execute("SELECT count() FROM mine") == [(0,)]


def test_what_we_ask_of_a_cluster_is_valid_sql(empty: Warehouse) -> None:
    """There is no cluster here; the engine at least parses every statement."""
    for table in TABLES:
        statements = [*ddl.create(table, 400, "main"), *ddl.add_column(table, table.columns[0], "main")]
        statements += [ddl.modify_ttl(table, 90, "main"), ddl.modify_column(table, table.columns[0], "main")]
        for statement in statements:
            assert empty.execute("SELECT formatQuerySingleLine(%(sql)s)", {"sql": statement})


def test_without_tables_the_writer_says_so_at_once(empty: Warehouse) -> None:
    """A retry would not make them."""
    with pytest.raises(WarehouseRefused, match="blocks"):
        writer(empty).assigned("events", 0)

"""The audit on a real warehouse: what was removed, added or changed is named by block and put right from the log."""

from collections.abc import Iterator

import pytest

from pipeline.audit import counts, seals
from pipeline.edge.clickhouse import Warehouse
from pipeline.settings import load
from pipeline.warehouse_writer import WarehouseWriter
from schemas.tables import TABLES
from tests.edge.audit_rig import BASE_MS, MemoryLog, auditor, database, log_of, named, warehouse_server, writer

BLOCKS = 300  # a sealed slice and an open one
Rows = dict[str, list[tuple[object, ...]]]


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the server under test."""
    with warehouse_server(tmp_path_factory.mktemp("warehouse")) as url:
        yield url


@pytest.fixture
def warehouse(server_url: str) -> Iterator[Warehouse]:
    """Tables of this test's own."""
    with database(server_url) as opened:
        yield opened


@pytest.fixture
def log(warehouse: Warehouse) -> MemoryLog:
    """A log, all of it applied."""
    pending = log_of((0, 1), range(BLOCKS))
    writer(warehouse).write(pending)
    return MemoryLog(pending)


def stored(warehouse: Warehouse, final: str = "FINAL") -> Rows:
    """All rows but the seals."""
    found: Rows = {}
    for table in TABLES:
        free = {"rollup_minute": ("o",), "blocks": ("applied_time", "gen")}.get(table.name, ())
        names = ", ".join(name for name in table.column_names if name not in free)
        if table.name != "seals":
            found[table.name] = warehouse.execute(f"SELECT {names} FROM {table.name} {final} ORDER BY ALL")  # noqa: S608
    return found


def test_what_is_right_is_left_alone_and_sealed(warehouse: Warehouse, log: MemoryLog) -> None:
    before = stored(warehouse)
    with auditor(warehouse, log) as one:
        first = one.look(600)
        reads = log.reads
        second = one.look(0)
    assert (first.faults, first.behind, second.faults) == ([], 0, [])
    assert first.blocks == 2 * 4 * BLOCKS + 2 * 2 * 256, "each block once, and a slice of sessions and outcomes in turn"
    assert second.sealed == 2 * 7  # events, decisions, bad and four ledgers
    assert log.reads == reads, "sums are enough for what was compared before"
    assert stored(warehouse) == before


def test_a_look_is_quiet_once_nothing_is_new_and_every_slice_has_had_its_turn(
    warehouse: Warehouse, log: MemoryLog
) -> None:
    """Then the next one may come later: what it could find is found all the same within a minute."""
    with auditor(warehouse, log) as one:
        assert [one.look(600).is_quiet for _ in range(2)] == [False, True]
        warehouse.execute("DELETE FROM events WHERE p = 1 AND o = 17 AND n = 2")
        assert not one.look(600).is_quiet


FAULTS: tuple[tuple[str, str, set[tuple[str, int, int, str, int]]], ...] = (
    ("a row deleted", "DELETE FROM events WHERE p = 1 AND o = 17 AND n = 2", {("events", 1, 17, "missing", 1)}),
    (
        "a row doubled to the letter",
        "INSERT INTO events SELECT * FROM events WHERE p = 1 AND o = 18 AND n = 2",
        {("events", 1, 18, "copied", 1)},
    ),
    (
        "a row doubled under another key",
        "INSERT INTO events SELECT * REPLACE (event_time + 61 AS event_time) FROM events "
        "WHERE p = 0 AND o = 9 AND n = 2",
        {("events", 0, 9, "extra", 1)},
    ),
    (
        "a row of no block, in the open slice",
        "INSERT INTO events SELECT * REPLACE (toUInt32(99) AS n) FROM (SELECT * FROM events WHERE p = 0 AND o = 299) "
        "LIMIT 1",
        {("events", 0, 299, "extra", 1)},
    ),
    (
        "a row altered in place",
        "ALTER TABLE events UPDATE title = 'x' WHERE p = 0 AND o = 40 AND n = 1 SETTINGS mutations_sync = 2",
        {("events", 0, 40, "altered", 1)},
    ),
    (
        "a row altered by an insert",
        "INSERT INTO events SELECT * REPLACE ('x' AS title) FROM events WHERE p = 0 AND o = 41 AND n = 1",
        {("events", 0, 41, "extra", 1)},
    ),
    (
        "refusals deleted",
        "DELETE FROM bad WHERE p = 1 AND o IN (3, 290)",
        {("bad", 1, 3, "missing", 1), ("bad", 1, 290, "missing", 1)},
    ),
    (
        "a ledger row deleted",
        "DELETE FROM blocks WHERE topic = 'events' AND p = 0 AND o = 40",
        {("blocks", 0, 40, "missing", 1)},
    ),
    (
        "a ledger row altered",
        "INSERT INTO blocks SELECT * REPLACE (toUInt32(5) AS checksum, toUInt32(1) AS gen) FROM blocks "
        "WHERE topic = 'bad' AND p = 0 AND o = 42",
        {("blocks", 0, 42, "altered", 1)},
    ),
    ("a session deleted", "DELETE FROM sessions WHERE p = 0 AND o = 299", {("sessions", 0, 299, "missing", 1)}),
    ("a session replaced since, deleted", "DELETE FROM sessions WHERE p = 0 AND o = 100", set()),
    (
        "a session altered",
        "ALTER TABLE sessions UPDATE events = 7 WHERE p = 0 AND o = 298 SETTINGS mutations_sync = 2",
        {("sessions", 0, 298, "altered", 1)},
    ),
    (
        "a session of nobody",
        "INSERT INTO sessions SELECT * REPLACE ('x' AS visitor) FROM sessions WHERE p = 0 AND o = 297",
        {("sessions", 0, 297, "extra", 1)},
    ),
    ("an outcome deleted", "DELETE FROM outcomes WHERE p = 1 AND o = 298", {("outcomes", 1, 298, "missing", 1)}),
    (
        "an outcome that pays more",
        "INSERT INTO outcomes SELECT * REPLACE (toInt64(9) AS reward_micros) FROM outcomes WHERE p = 1 AND o = 297",
        {("outcomes", 1, 297, "altered", 1)},
    ),
)


def plant(warehouse: Warehouse) -> set[tuple[str, int, int, str, int]]:
    """Damage the tables in every way; return what an audit must say."""
    said = set()
    for _, statement, expected in FAULTS:
        warehouse.execute(statement)
        said |= expected
    return said


def surely(found: set[tuple[str, int, int, str, int]]) -> set[tuple[str, int, int]]:
    """The places, but for what depends on when ClickHouse merges: it may drop a copy, or the older of two on a key."""
    return {fault[:3] for fault in without_rollups(found) if fault[3] != "copied"}


def without_rollups(found: set[tuple[str, int, int, str, int]]) -> set[tuple[str, int, int, str, int]]:
    """What is said of rows and blocks."""
    return {fault for fault in found if fault[0] != "rollup_minute"}


def test_a_running_auditor_names_and_heals_what_it_had_seen_right(warehouse: Warehouse, log: MemoryLog) -> None:
    """Nothing else is touched, and the tables are as they were, also for a reader without FINAL."""
    before, bare = stored(warehouse), stored(warehouse, "")
    with auditor(warehouse, log) as one:
        assert one.look(600).faults == []
        expected = plant(warehouse)
        found = [fault for _ in range(2) for fault in one.look(600).faults]
        assert one.look(600).faults == []
    assert surely(named(found)) == surely(expected)
    assert without_rollups(named(found)) & expected >= {fault for fault in expected if fault[3] == "missing"}
    assert [fault for fault in found if not fault.healed] == []
    assert stored(warehouse) == before
    assert stored(warehouse, "")["events"] == bare["events"]


def test_the_command_names_what_is_older_than_itself_and_heals_when_told_to(
    warehouse: Warehouse, log: MemoryLog
) -> None:
    """An auditor that has seen nothing before has only the log to go by, and that is enough."""
    before = stored(warehouse)
    expected = plant(warehouse)
    wrong = stored(warehouse)
    with auditor(warehouse, log, heals=False) as one:
        named_only = one.everything(deep=False)
    assert surely(named(named_only.left)) >= surely(expected)
    assert {fault for fault in surely(named(named_only.left)) if fault[0] in ("events", "bad", "blocks")} == {
        fault for fault in surely(expected) if fault[0] in ("events", "bad", "blocks")
    }
    assert stored(warehouse) == wrong
    with auditor(warehouse, log) as one:
        assert one.everything(deep=True).left == []
        assert one.everything(deep=False).faults == []
    assert stored(warehouse) == before


def test_rollups_that_were_counted_from_damaged_rows_are_counted_again(warehouse: Warehouse, log: MemoryLog) -> None:
    """A late event lets the writer read a minute again while a row of it is missing."""
    before = stored(warehouse)["rollup_minute"]
    with auditor(warehouse, log) as one:
        assert one.look(600).faults == []
        warehouse.execute("DELETE FROM events WHERE p = 1 AND o = 17 AND n = 2")
        warehouse.execute(
            "INSERT INTO rollup_minute SELECT * REPLACE (events + 1 AS events) FROM rollup_minute WHERE p = 1"
        )
        warehouse.execute(
            "INSERT INTO rollup_minute SELECT * REPLACE ('/no' AS second) FROM rollup_minute WHERE kind = 'page'"
        )
        found = one.look(600)
    assert {fault.table for fault in found.faults} == {"events", "rollup_minute"}
    minute = "SELECT * FROM rollup_minute FINAL WHERE p = 1 AND minute = %(at)s ORDER BY ALL"
    (at,) = warehouse.execute("SELECT toStartOfMinute(event_time) FROM events WHERE p = 1 AND o = 17 LIMIT 1")
    healed = warehouse.execute(minute.replace("*", "* EXCEPT o"), {"at": at[0]})
    assert healed == [row for row in before if row[7] == 1 and row[2] == at[0]]


def test_what_the_log_has_forgotten_is_sealed_as_it_stands(warehouse: Warehouse, log: MemoryLog) -> None:
    """From then on its changes are seen, though nothing can put them right."""
    log.begins = {(topic, p): 280 for topic in ("events", "bad", "sessions", "outcomes") for p in (0, 1)}
    with auditor(warehouse, log) as one:
        first = one.look(600)
        warehouse.execute("DELETE FROM events WHERE p = 1 AND o = 17 AND n = 2")
        second = one.look(600)
    assert first.faults == []
    assert first.forgotten == dict.fromkeys(("events", "bad", "sessions", "outcomes"), 560)
    assert named(second.left) == {("events", 1, -1, "missing", 1)}


def test_seals_survive_the_auditor(warehouse: Warehouse, log: MemoryLog) -> None:
    """A new one reads the log of the open slice only, and sees what was done meanwhile."""
    with auditor(warehouse, log) as one:
        one.look(600)
    warehouse.execute("DELETE FROM events WHERE p = 1 AND o = 17 AND n = 2")
    with auditor(warehouse, log) as other:
        found = other.look(600)
    assert found.blocks == 2 * 4 * (BLOCKS - 256) + 256 + 2 * 2 * 256
    assert named(found.faults) == {("events", 1, 17, "missing", 1)}


def test_an_audit_beside_the_writer_finds_nothing(warehouse: Warehouse) -> None:
    """Blocks come while it looks; what is not in the ledger yet is not looked at."""
    pending = log_of((0, 1), range(40))
    log = MemoryLog(pending)
    one_writer = writer(warehouse)
    with auditor(warehouse, log) as one:
        for start in range(0, len(pending), 120):
            one_writer.write(pending[start : start + 120])
            warehouse.execute(
                "INSERT INTO events SELECT * REPLACE (toUInt64(1000) AS o) "
                "FROM (SELECT * FROM events WHERE p = 0 LIMIT 1)"
            )  # the first row of a chunk in the making
            assert one.look(600).faults == []


def test_rows_that_expire_are_counted_as_expired_whether_they_are_gone_yet_or_not(
    warehouse: Warehouse, log: MemoryLog
) -> None:
    """A seal says how many rows of a day there were. What no seal speaks for yet is counted as it stands."""
    with auditor(warehouse, log) as one:
        one.look(600)
    next_day = BASE_MS // 86_400_000 + 1
    sealed = seals.read(warehouse)
    kept = counts.kept(warehouse, sealed, "events", {0: BLOCKS - 1}, next_day - 1)[0]
    assert kept == counts.Kept(applied=BLOCKS * 4, blocks=BLOCKS, expired=0, stored=BLOCKS * 4)
    expired = counts.Kept(applied=BLOCKS * 4, blocks=BLOCKS, expired=256 * 4, stored=(BLOCKS - 256) * 4)
    assert counts.kept(warehouse, sealed, "events", {0: BLOCKS - 1}, next_day)[0] == expired
    warehouse.execute("DELETE FROM events WHERE o < 256")
    assert counts.kept(warehouse, sealed, "events", {0: BLOCKS - 1}, next_day)[0] == expired


def test_blocks_that_were_let_go_are_not_among_those_applied(warehouse: Warehouse) -> None:
    """The books tell them from the rest by this, and say how many rows they had by the clean stage's own count."""
    one_writer = WarehouseWriter(warehouse, load(accept_gap=True))
    one_writer.write(log_of((0,), range(10)))
    one_writer.write(log_of((0,), range(20, 30)))
    kept = counts.kept(warehouse, {}, "events", {0: 29}, 0)[0]
    assert kept == counts.Kept(applied=20 * 4, blocks=20, expired=0, stored=20 * 4)

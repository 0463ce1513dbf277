"""What we ask of a warehouse, on a real ClickHouse server (HERALD_TEST_CLICKHOUSE_URL) or on the embedded one."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import NetworkError, ServerException

from pipeline.edge.clickhouse import BLOCK_ROWS_MAX, Refused, Unavailable, Warehouse, is_retryable
from pipeline.embedded.warehouse import EmbeddedWarehouse, WarehouseConfig
from pipeline.errors import Retryable, SettingsError
from tests.waits import free_port


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the server under test, without a database."""
    given = os.environ.get("HERALD_TEST_CLICKHOUSE_URL")
    if given:
        yield given
        return
    folder: Path = tmp_path_factory.mktemp("warehouse")
    with EmbeddedWarehouse(WarehouseConfig(folder, free_port())) as embedded:
        yield embedded.config.url("default")


@pytest.fixture
def url(server_url: str) -> Iterator[str]:
    """Address of an empty database of this test's own."""
    name = f"contract_{uuid4().hex}"
    with Warehouse.from_url(server_url) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield server_url.rpartition("/")[0] + f"/{name}"
        admin.execute(f"DROP DATABASE {name} SYNC")


@pytest.fixture
def warehouse(url: str) -> Iterator[Warehouse]:
    """A warehouse with an empty database."""
    with Warehouse.from_url(url) as opened:
        yield opened


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait until something holds; False when it does not in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


ROUND_TRIPS: list[tuple[str, list[object]]] = [
    ("String", ["", "naïve ☃", "a\x00b", "x" * 300]),
    ("FixedString(3)", ["abc", "xyz"]),
    ("LowCardinality(String)", ["a", "b", "a", ""]),
    ("LowCardinality(Nullable(String))", ["a", None, "a"]),
    ("UInt8", [0, 255]),
    ("UInt16", [0, 65_535]),
    ("UInt32", [0, 2**32 - 1]),
    ("UInt64", [0, 2**64 - 1]),
    ("Int8", [-128, 127]),
    ("Int16", [-(2**15), 2**15 - 1]),
    ("Int32", [-(2**31), 2**31 - 1]),
    ("Int64", [-(2**63), 2**63 - 1]),
    ("UInt256", [0, 2**256 - 1]),
    ("Float64", [0.1, -1e300]),
    ("Decimal(18, 6)", [Decimal("0.000001"), Decimal("-123456789012.999999")]),
    ("Decimal(38, 2)", [Decimal("99999999999999999999.99")]),
    ("DateTime64(3, 'UTC')", [datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)]),
    ("DateTime", [datetime(2026, 1, 2, 3, 4, 5)]),
    ("Date", [date(1970, 1, 1), date(2026, 11, 22)]),
    ("UUID", [UUID("12345678-1234-5678-9abc-def012345678")]),
    ("Nullable(Int64)", [None, -1]),
    ("Array(String)", [[], ["a", "b" * 200], ["c"]]),
    ("Array(LowCardinality(String))", [[], ["a", "a"], ["b"]]),
    ("Array(Array(Nullable(UInt8)))", [[], [[1, None], []], [[]]]),
    ("Map(String, UInt64)", [{}, {"a": 1, "b": 2}]),
    ("Map(LowCardinality(String), Array(String))", [{"k": ["x", "y"]}, {}]),
    ("Tuple(String, UInt8)", [("a", 1), ("", 0)]),
    ("Enum8('red' = 1, 'blue, (dark)' = 2)", ["red", "blue, (dark)"]),
    ("IPv4", [IPv4Address("10.0.0.1")]),
    ("IPv6", [IPv6Address("2001:db8::1")]),
    ("Bool", [True, False]),
]


@pytest.mark.parametrize(("type_name", "values"), ROUND_TRIPS, ids=[name for name, _ in ROUND_TRIPS])
@pytest.mark.parametrize("compression", ["", "?compression=lz4"], ids=["plain", "lz4"])
def test_what_is_inserted_comes_back_the_same(url: str, type_name: str, values: list[object], compression: str) -> None:
    """Every type that our tables use, plain and compressed; `n` behind it shows that the column's end was found."""
    with Warehouse.from_url(url + compression) as warehouse:
        warehouse.execute(f"CREATE TABLE t (v {type_name}, n UInt32) ENGINE = MergeTree ORDER BY n")
        assert warehouse.insert("t", ["v", "n"], [values, list(range(len(values)))]) == len(values)
        assert warehouse.execute("SELECT v, n FROM t ORDER BY n") == list(zip(values, range(len(values)), strict=True))


def test_a_replacing_table_keeps_the_row_of_the_highest_version(warehouse: Warehouse) -> None:
    """FINAL shows one row for each key, and the same insert twice changes nothing."""
    warehouse.execute("CREATE TABLE t (k String, v UInt64, ver UInt64) ENGINE = ReplacingMergeTree(ver) ORDER BY k")
    for _ in range(2):
        warehouse.insert("t", ["k", "v", "ver"], [["a", "b"], [1, 1], [1, 1]])
        warehouse.insert("t", ["k", "v", "ver"], [["a"], [2], [2]])
    assert warehouse.execute("SELECT k, v FROM t FINAL ORDER BY k") == [("a", 2), ("b", 1)]


def test_the_same_insert_twice_keeps_both_copies_where_a_table_has_no_window(warehouse: Warehouse) -> None:
    """No retry is dropped by a token: rows are made one by their keys only."""
    warehouse.execute("CREATE TABLE t (k UInt64) ENGINE = ReplacingMergeTree ORDER BY k")
    warehouse.execute("SYSTEM STOP MERGES t")
    for _ in range(2):
        warehouse.insert("t", ["k"], [[1, 2, 3]], query_id="topic:0:17")
    assert warehouse.execute("SELECT count() FROM t") == [(6,)]
    assert warehouse.execute("SELECT count() FROM t FINAL") == [(3,)]


def test_a_table_with_a_window_drops_the_repetition_of_a_token(warehouse: Warehouse) -> None:
    """An insert goes in as one insert, under its own token."""
    warehouse.execute(
        "CREATE TABLE t (k UInt64) ENGINE = MergeTree ORDER BY k SETTINGS non_replicated_deduplication_window = 10"
    )
    for token in ("topic:0:17", "topic:0:17", "topic:0:18"):
        warehouse.insert("t", ["k"], [[1, 2, 3]], query_id=token)
    assert warehouse.execute("SELECT count() FROM t") == [(6,)]


def test_rows_past_their_ttl_are_gone_after_a_merge(warehouse: Warehouse) -> None:
    """Retention is the table's own affair."""
    warehouse.execute("CREATE TABLE t (d DateTime, v UInt8) ENGINE = MergeTree ORDER BY v TTL d + INTERVAL 1 DAY")
    now = datetime.now(UTC).replace(microsecond=0)
    warehouse.insert("t", ["d", "v"], [[datetime(2020, 1, 1, tzinfo=UTC), now], [1, 2]])
    warehouse.execute("OPTIMIZE TABLE t FINAL")
    assert warehouse.execute("SELECT v FROM t") == [(2,)]


def test_an_insert_into_two_partitions_is_refused_unless_allowed(warehouse: Warehouse) -> None:
    """One insert is one part, so it is all there or not at all; waiting would not help, so it is no Unavailable."""
    warehouse.execute("CREATE TABLE t (p UInt8, v UInt8) ENGINE = MergeTree PARTITION BY p ORDER BY v")
    with pytest.raises(Refused) as caught:
        warehouse.insert("t", ["p", "v"], [[1, 2], [1, 1]])
    assert caught.value.code == 252
    assert warehouse.execute("SELECT count() FROM t") == [(0,)]
    warehouse.insert("t", ["p", "v"], [[1, 2], [1, 1]], partitions_max=2)
    assert warehouse.execute("SELECT count() FROM t") == [(2,)]


def test_a_million_rows_become_one_part(warehouse: Warehouse) -> None:
    """The largest block goes in whole."""
    warehouse.execute("CREATE TABLE t (n UInt64, s String) ENGINE = MergeTree ORDER BY n")
    rows = BLOCK_ROWS_MAX
    warehouse.insert("t", ["n", "s"], [list(range(rows)), ["visitor"] * rows])
    assert warehouse.execute("SELECT count(), sum(n), uniqExact(_part) FROM t") == [(rows, rows * (rows - 1) // 2, 1)]


def test_a_large_result_comes_in_blocks(url: str) -> None:
    """Reading may stop after the first block, and the connection goes on."""
    client = Client.from_url(url)
    rows = client.execute_iter("SELECT number, toString(number) FROM system.numbers LIMIT 3000000")
    assert next(rows) == (0, "0")
    assert sum(1 for _ in rows) == 2_999_999
    assert client.last_query.profile_info.rows == 3_000_000
    assert client.last_query.progress.rows >= 3_000_000
    client.disconnect()


def test_an_empty_result_still_has_names_and_types(url: str) -> None:
    """A reader of no rows knows what they would have been."""
    client = Client.from_url(url)
    sql = "SELECT number AS n, 'x' AS s FROM numbers(5) WHERE number > 9 -- none\n"
    assert client.execute(sql, with_column_types=True) == ([], [("n", "UInt64"), ("s", "String")])
    client.disconnect()


@pytest.mark.parametrize(
    ("sql", "code", "words"),
    [
        ("SELEC 1", 62, "Syntax error"),
        ("SELECT * FROM no_such_table", 60, "no_such_table"),
        ("INSERT INTO no_such_table VALUES", 60, "no_such_table"),
        ("SELECT no_such_column FROM numbers(1)", 47, "no_such_column"),
        ("SELECT throwIf(number = 150000) FROM numbers(200000)", 395, "throwIf"),
        ("SELECT 1; SELECT 2", 62, "Multi-statements are not allowed"),
        ("DROP DATABASE no_such_database", 81, "no_such_database"),
        ("SELECT 1 SETTINGS no_such_setting = 1", 115, "no_such_setting"),
    ],
)
def test_a_refusal_carries_clickhouse_code_and_text(url: str, sql: str, code: int, words: str) -> None:
    """And the connection can be used for the next statement."""
    client = Client.from_url(url)
    data: list[tuple[object]] | None = [] if sql.startswith("INSERT") else None
    with pytest.raises(ServerException) as caught:
        client.execute(sql, data)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert client.execute("SELECT 1") == [(1,)]
    client.disconnect()


def test_refused_and_unavailable_are_told_apart(warehouse: Warehouse) -> None:
    """Bad SQL is a bug; a query over its time limit may be tried again."""
    with pytest.raises(Refused, match="no_such_table") as refused:
        warehouse.execute("SELECT * FROM no_such_table")
    assert refused.value.code == 60
    with pytest.raises(Unavailable) as unavailable:
        warehouse.execute(
            "SELECT count() FROM system.numbers WHERE sipHash64(number) = 1", settings={"max_execution_time": 1}
        )
    assert unavailable.value.code == 159


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (ServerException("DB::Exception: Too many parts (300)", 252), True),
        (ServerException("DB::Exception: Too many partitions for single INSERT block", 252), False),
        (ServerException("DB::ErrnoException: Cannot write to file, errno: 28, strerror: No space left", 75), True),
        (ServerException("DB::ErrnoException: Cannot write to file, errno: 22, strerror: Invalid argument", 75), False),
        (ServerException("DB::Exception: Query with id = x is already running", 216), True),
        (ServerException("DB::Exception: Type mismatch", 53), False),
        (EOFError(), True),
        (ConnectionResetError(), True),
        (NetworkError("host:9000"), True),
        (Retryable("elsewhere"), True),
        (ValueError("ours"), False),
    ],
)
def test_what_passes_by_itself_is_told_from_what_does_not(error: Exception, retryable: bool) -> None:
    """The writer retries the first kind for ever and splits or stops at the other."""
    assert is_retryable(error) is retryable


def test_nobody_listening_is_unavailable() -> None:
    """No code: the connection itself failed."""
    url = f"clickhouse://127.0.0.1:{free_port()}/default"
    with Warehouse.from_url(url) as nobody, pytest.raises(Unavailable) as caught:
        nobody.ping()
    assert caught.value.code in (None, 209, 210)


@pytest.mark.parametrize("bad", ["http://127.0.0.1:8123", "127.0.0.1:9000", "clickhouse://", "clickhouse://h:x/d"])
def test_an_address_that_is_none_is_refused_at_once(bad: str) -> None:
    """With the name of the setting."""
    with pytest.raises(SettingsError, match="HERALD_CLICKHOUSE_URL"):
        Warehouse.from_url(bad)


def test_an_unknown_setting_is_refused_only_when_it_matters(url: str) -> None:
    """The driver's settings_is_important decides, as on a server."""
    settings = {"no_such_setting": "1", "max_threads": "1"}
    lenient = Client.from_url(url)
    assert lenient.execute("SELECT getSetting('max_threads')", settings=settings) == [(1,)]
    strict = Client.from_url(url + "?settings_is_important=1")
    strict.connection.settings_is_important = True
    with pytest.raises(ServerException) as caught:
        strict.execute("SELECT 1", settings=settings)
    assert caught.value.code == 115
    for client in (lenient, strict):
        client.disconnect()


def test_settings_of_one_query_do_not_reach_the_next(url: str) -> None:
    """And what a session SET stays."""
    client = Client.from_url(url)
    client.execute("SET max_block_size = 1000, max_result_rows = 77")
    ask = "SELECT getSetting('max_block_size'), getSetting('max_result_rows')"
    assert client.execute(ask, settings={"max_block_size": 2000}) == [(2000, 77)]
    assert client.execute(ask) == [(1000, 77)]
    client.disconnect()


def test_readonly_refuses_writes_for_that_query_only(url: str) -> None:
    """Code 164, in the middle of a session that writes."""
    client = Client.from_url(url)
    client.execute("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
    with pytest.raises(ServerException) as caught:
        client.execute("INSERT INTO t VALUES", [(1,)], settings={"readonly": 1})
    assert caught.value.code == 164
    assert client.execute("SELECT count() FROM t", settings={"readonly": 1}) == [(0,)]
    assert client.execute("INSERT INTO t VALUES", [(1,)]) == 1
    client.disconnect()


def test_an_insert_of_no_rows_changes_nothing(url: str) -> None:
    """The driver asks for the sample block and ends at once."""
    client = Client.from_url(url)
    client.execute("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
    assert client.execute("INSERT INTO t (n) VALUES", []) == 0
    assert client.execute("SELECT count() FROM t") == [(0,)]
    client.disconnect()


def test_rows_written_in_the_statement_and_rows_from_a_select_go_in(url: str) -> None:
    """INSERT without rows from the client is a statement like any other."""
    client = Client.from_url(url)
    client.execute("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
    client.execute("INSERT INTO t SELECT number FROM numbers(3)")
    assert client.execute("SELECT groupArray(n) FROM (SELECT n FROM t ORDER BY n)") == [([0, 1, 2],)]
    client.disconnect()


def test_a_bad_block_is_refused_whole_and_the_next_is_taken(url: str) -> None:
    """A constraint breaks at the second of three rows: none is stored."""
    client = Client.from_url(url)
    client.execute("CREATE TABLE t (n UInt8, CONSTRAINT small CHECK n < 100) ENGINE = MergeTree ORDER BY n")
    with pytest.raises(ServerException) as caught:
        client.execute("INSERT INTO t VALUES", [(1,), (200,), (3,)])
    assert caught.value.code == 469
    assert client.execute("INSERT INTO t VALUES", [(4,)]) == 1
    assert client.execute("SELECT n FROM t") == [(4,)]
    client.disconnect()


def test_columns_that_the_table_fills_itself_are_left_out(url: str) -> None:
    """DEFAULT may be left out by name; MATERIALIZED and ALIAS are no columns of an insert."""
    client = Client.from_url(url)
    client.execute(
        "CREATE TABLE t (n UInt8, d UInt8 DEFAULT n + 1, m UInt8 MATERIALIZED n + 2, a UInt8 ALIAS n + 3) "
        "ENGINE = MergeTree ORDER BY n"
    )
    client.execute("INSERT INTO t VALUES", [(1, 9)])
    client.execute("INSERT INTO t (n) VALUES", [(2,)])
    assert client.execute("SELECT n, d, m, a FROM t ORDER BY n") == [(1, 9, 3, 4), (2, 3, 4, 5)]
    with pytest.raises(ServerException) as caught:
        client.execute("INSERT INTO t (nope) VALUES", [(1,)])
    assert caught.value.code == 16
    client.disconnect()


def test_a_format_clause_is_left_to_the_client(url: str) -> None:
    """Over the native protocol rows come as blocks whatever the statement says."""
    client = Client.from_url(url)
    assert client.execute("SELECT 1 AS format FORMAT JSON") == [(1,)]
    assert client.execute("SELECT 2 AS n FORMAT CSV SETTINGS max_threads = 1") == [(2,)]
    client.disconnect()


def test_parameters_are_escaped(warehouse: Warehouse) -> None:
    """Quotes, backslashes and snow come through."""
    value = 'it\'s \\ a "☃" -- /* ; */'
    assert warehouse.execute("SELECT %(v)s, %(n)s", {"v": value, "n": 3}) == [(value, 3)]


def test_system_tables_tell_of_tables_and_parts(warehouse: Warehouse) -> None:
    """Operators and our own checks read them."""
    warehouse.execute("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
    warehouse.insert("t", ["n"], [[1, 2]])
    assert warehouse.execute("SELECT name FROM system.tables WHERE database = currentDatabase()") == [("t",)]
    parts = "SELECT sum(rows) FROM system.parts WHERE database = currentDatabase() AND active"
    assert warehouse.execute(parts) == [(2,)]


LONG = "SELECT count() FROM system.numbers WHERE sipHash64(number) = 1"


def test_a_cancelled_query_leaves_a_usable_warehouse(url: str) -> None:
    """Cancel ends the query at once; the same client goes on."""
    client = Client.from_url(url)
    stopped = threading.Timer(0.5, lambda: client.connection.send_cancel())
    started = time.monotonic()
    stopped.start()
    with contextlib.suppress(ServerException):  # servers differ in whether a cancelled query ends or fails
        client.execute(LONG)
    assert time.monotonic() - started < 20
    assert client.execute("SELECT 1") == [(1,)]
    client.disconnect()


def test_kill_query_ends_a_query_by_its_id(url: str) -> None:
    """From another connection, by the id that its client chose; the victim hears code 394."""
    query_id = f"long-{uuid4()}"
    heard: list[int | None] = []

    def suffer() -> None:
        with Warehouse.from_url(url) as victim:
            try:
                victim.execute(LONG, query_id=query_id)
            except Unavailable as error:
                heard.append(error.code)

    thread = threading.Thread(target=suffer)
    thread.start()
    with Warehouse.from_url(url) as other:
        ask = "SELECT count() FROM system.processes WHERE query_id = %(id)s"
        assert eventually(lambda: other.execute(ask, {"id": query_id}) == [(1,)])
        with pytest.raises(Unavailable) as same_id:
            other.execute("SELECT 1", query_id=query_id)
        other.settle(query_id)
        assert other.execute(ask, {"id": query_id}) == [(0,)]
    thread.join(20)
    assert same_id.value.code == 216
    assert heard == [394]


def test_settling_an_id_that_does_not_run_is_no_error(warehouse: Warehouse) -> None:
    """After an uncertain answer nobody knows whether it still runs."""
    warehouse.settle("nobody:0:0")


def test_many_clients_write_and_read_at_once(warehouse: Warehouse) -> None:
    """One Warehouse shared by threads: each has its own connection, and no row is lost or doubled."""
    warehouse.execute("CREATE TABLE t (w UInt8, n UInt64) ENGINE = MergeTree ORDER BY (w, n)")
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for start in range(0, 2000, 200):
                warehouse.insert("t", ["w", "n"], [[worker] * 200, list(range(start, start + 200))])
                mine = warehouse.execute("SELECT count() FROM t WHERE w = %(w)s", {"w": worker})
                assert mine == [(start + 200,)]
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert warehouse.execute("SELECT count(), uniqExact(w, n) FROM t") == [(16_000, 16_000)]


def test_readers_do_not_wait_for_a_large_insert(url: str) -> None:
    """While one client is in the middle of its blocks, another reads and writes the same table."""
    with Warehouse.from_url(url) as other:
        other.execute("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
        seen: list[list[tuple[object, ...]]] = []

        def blocks() -> Iterator[tuple[int]]:
            for n in range(3):
                yield (n,)
                if n == 1:
                    other.insert("t", ["n"], [[1000]])
                    seen.append(other.execute("SELECT n FROM t"))

        client = Client.from_url(url + "?insert_block_size=1")
        client.execute("INSERT INTO t VALUES", blocks())
        client.disconnect()
        assert seen == [[(1000,)]]
        assert other.execute("SELECT count() FROM t") == [(4,)]


def test_wrong_shapes_are_refused_before_anything_is_sent(warehouse: Warehouse) -> None:
    """The caller's bug, so ValueError."""
    with pytest.raises(ValueError, match="2 names for 1 columns"):
        warehouse.insert("t", ["a", "b"], [[1]])
    with pytest.raises(ValueError, match="a=1, b=2"):
        warehouse.insert("t", ["a", "b"], [[1], [1, 2]])
    with pytest.raises(ValueError, match="1048576 at most"):
        warehouse.insert("t", ["a"], [range(BLOCK_ROWS_MAX + 1)])
    assert warehouse.insert("t", ["a"], [[]]) == 0

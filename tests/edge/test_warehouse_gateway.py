"""What only the embedded warehouse has to withstand: its own death, and strangers on its port."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from clickhouse_driver import Client
from clickhouse_driver.block import ColumnOrientedBlock
from clickhouse_driver.errors import ServerException

from pipeline.edge.clickhouse import Refused, Unavailable, Warehouse
from pipeline.embedded.native.packets import FromClient
from pipeline.embedded.native.wire import text, varint
from pipeline.embedded.warehouse import EmbeddedWarehouse, WarehouseConfig, run
from pipeline.errors import EmbeddedError
from tests.waits import free_port, until

HELLO = b"\x00" + text("test") + varint(20) + varint(10) + varint(54440) + text("") + text("default") + text("")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedWarehouse]:
    """One warehouse for all tests here that do not kill it."""
    folder = tmp_path_factory.mktemp("warehouse")
    with EmbeddedWarehouse(WarehouseConfig(folder, free_port(), user="herald", password="it's secret")) as started:
        yield started


@pytest.fixture
def url(embedded: EmbeddedWarehouse) -> Iterator[str]:
    """Address of an empty database of this test's own."""
    name = f"gateway_{uuid4().hex}"
    admin_url = f"clickhouse://herald:it's%20secret@127.0.0.1:{embedded.config.port}"
    with Warehouse.from_url(f"{admin_url}/default") as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield f"{admin_url}/{name}"
        admin.execute(f"DROP DATABASE {name} SYNC")


def say(embedded: EmbeddedWarehouse, sent: bytes) -> bytes:
    """Send raw bytes and return all that comes back until the port closes."""
    with socket.create_connection(("127.0.0.1", embedded.config.port), timeout=20) as client:
        client.sendall(sent)
        received = b""
        while piece := client.recv(65536):
            received += piece
        return received


def test_http_on_the_port_is_told_what_the_port_speaks(embedded: EmbeddedWarehouse) -> None:
    """A browser or a health check that got the wrong port reads why."""
    answer = say(embedded, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert b"native protocol" in answer


def test_bytes_that_are_no_protocol_are_refused_with_an_exception_packet(embedded: EmbeddedWarehouse) -> None:
    """Type 2, code 101; then the connection ends."""
    answer = say(embedded, b"\x16\x03\x01 a TLS greeting, perhaps")
    assert answer[:5] == b"\x02" + (101).to_bytes(4, "little")
    assert b"expected Hello" in answer


@pytest.mark.parametrize("packet", [FromClient.DATA, 5, 77])
def test_a_packet_that_makes_no_sense_ends_the_conversation_with_a_reason(
    url: str, embedded: EmbeddedWarehouse, packet: int
) -> None:
    """Rows without an INSERT, a distributed server's question, an unknown number."""
    hello = HELLO[:-9] + text("herald") + text("it's secret")
    answer = say(embedded, hello + bytes([packet]))
    assert (99).to_bytes(4, "little") in answer
    assert f"packet {int(packet)}".encode() in answer


def test_an_old_client_and_a_huge_length_are_refused(embedded: EmbeddedWarehouse) -> None:
    """Before they cost memory."""
    old = b"\x00" + text("old") + varint(1) + varint(1) + varint(54000) + text("") + text("herald") + text("")
    assert b"speaks revision 54000; expected 54429 or later" in say(embedded, old)
    assert b"a string of 1099511627776 bytes was sent" in say(embedded, b"\x00" + varint(1 << 40))


@pytest.mark.parametrize("account", ["", "herald:wrong@", "other:it's%20secret@"])
def test_a_wrong_account_is_refused_with_code_516(embedded: EmbeddedWarehouse, account: str) -> None:
    """Whatever is wrong with it, the answer is the same."""
    url = f"clickhouse://{account}127.0.0.1:{embedded.config.port}/default"
    with Warehouse.from_url(url) as stranger, pytest.raises(Refused, match="Authentication failed") as caught:
        stranger.ping()
    assert caught.value.code == 516


def test_an_unknown_database_is_refused_at_the_greeting(url: str) -> None:
    """Code 81 with its name."""
    url = url.rpartition("/")[0] + "/nowhere"
    with Warehouse.from_url(url) as stranger, pytest.raises(Refused, match="nowhere") as caught:
        stranger.ping()
    assert caught.value.code == 81


def test_external_tables_are_refused_and_the_connection_goes_on(url: str) -> None:
    """Their rows are passed by."""
    client = Client.from_url(url)
    table = {"name": "ext", "structure": [("s", "String")], "data": [{"s": "a"}, {"s": "b"}]}
    with pytest.raises(ServerException, match=r"external tables \(ext\) are not supported"):
        client.execute("SELECT * FROM ext", external_tables=[table])
    client.disconnect()


def test_a_client_that_dies_within_a_block_leaves_nothing(url: str) -> None:
    """Whole blocks before it neither: the INSERT was never ended."""
    client = Client.from_url(url)
    client.execute("CREATE TABLE t (n UInt64, s String) ENGINE = MergeTree ORDER BY n")
    connection = client.connection
    connection.send_query("INSERT INTO t VALUES", query_id="dying")
    connection.send_external_tables(None)
    sample = client.receive_sample_block()
    connection.send_data(ColumnOrientedBlock(sample.columns_with_types, [[1, 2], ["a", "b"]]))
    connection.socket.sendall(b"\x02\x00\x01\x00\x02\xff\xff\xff\xff\x00" + varint(2) + varint(5) + text("n"))
    connection.socket.close()
    with Warehouse.from_url(url) as other:
        other.settle("dying")
        assert other.execute("SELECT count() FROM t") == [(0,)]


def test_an_insert_that_awaits_rows_can_be_seen_and_killed(url: str) -> None:
    """Its client hears 394 as soon as it listens, nothing is stored, and the same client can insert again."""
    client = Client.from_url(url)
    client.execute("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    with Warehouse.from_url(url) as other:
        client.connection.send_query("INSERT INTO t VALUES", query_id="it's slow")
        client.connection.send_external_tables(None)
        sample = client.receive_sample_block()
        client.connection.send_data(ColumnOrientedBlock(sample.columns_with_types, [[1, 2]]))
        ask = "SELECT query, query_kind FROM system.processes WHERE query_id = %(id)s"
        assert other.execute(ask, {"id": "it's slow"}) == [("INSERT INTO t VALUES", "Insert")]
        other.settle("it's slow")
        assert other.execute(ask, {"id": "it's slow"}) == []
        client.connection.send_data(ColumnOrientedBlock())
        with pytest.raises(ServerException) as caught:
            client.receive_end_of_insert_query()
        assert caught.value.code == 394
        client.connection.is_query_executing = False
        assert client.execute("INSERT INTO t VALUES", [(3,)]) == 1
        assert other.execute("SELECT n FROM t") == [(3,)]
    client.disconnect()


def test_millions_of_rows_in_many_blocks_stay_within_memory(url: str, embedded: EmbeddedWarehouse) -> None:
    """2 million rows of 100 bytes in small blocks: gathered into few parts, 1 GB resident at most."""
    client = Client.from_url(url + "?insert_block_size=50000")
    client.execute("CREATE TABLE t (n UInt64, s String) ENGINE = MergeTree ORDER BY n")
    rows = 2_000_000
    assert client.execute("INSERT INTO t VALUES", [list(range(rows)), ["x" * 92] * rows], columnar=True) == rows
    assert client.execute("SELECT count(), uniqExact(n) FROM t") == [(rows, rows)]
    (parts,) = client.execute("SELECT max(max_block_number) FROM system.parts WHERE table = 't'")[0]
    client.disconnect()
    assert parts <= 4
    assert embedded.pid is not None
    assert psutil.Process(embedded.pid).memory_info().rss < 1 << 30


def test_every_acknowledged_insert_survives_kill_9(tmp_path: Path) -> None:
    """Killed while it writes, three times: after a restart all that was acknowledged is there, and nothing by half.

    The client is the same all the time: it connects again by itself.
    """
    warehouse = EmbeddedWarehouse(WarehouseConfig(tmp_path, free_port()))
    numbers = itertools.count()
    acknowledged: set[object] = set()
    try:
        with Warehouse.from_url(warehouse.config.url()) as client:
            for acks in (3, 17, 40, 0):
                warehouse.start()
                warehouse.wait_ready()
                client.execute(
                    "CREATE TABLE IF NOT EXISTS t (b UInt64, n UInt64) ENGINE = ReplacingMergeTree ORDER BY (b, n)"
                )
                stored = {row[0]: row[1] for row in client.execute("SELECT b, count() FROM t FINAL GROUP BY b")}
                assert acknowledged <= set(stored)
                assert set(stored.values()) <= {1000}
                if acks:
                    insert_until_killed(warehouse, client, numbers, acknowledged, acks)
    finally:
        warehouse.kill()
    assert len(acknowledged) >= 60


def insert_until_killed(
    warehouse: EmbeddedWarehouse, client: Warehouse, numbers: Iterator[int], acknowledged: set[object], acks: int
) -> None:
    """Insert batches of 1,000 rows; another thread kills the warehouse soon after so many acknowledgements."""
    enough = threading.Event()

    def kill() -> None:
        enough.wait(60)
        time.sleep(0.003)
        warehouse.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    for count in itertools.count(1):
        batch = next(numbers)
        try:
            client.insert("t", ["b", "n"], [[batch] * 1000, list(range(1000))])
        except Unavailable:
            break
        acknowledged.add(batch)
        if count >= acks:
            enough.set()
    killer.join()


def test_a_client_that_leaves_stops_its_query(url: str) -> None:
    """Nobody waits for the rows, so nobody computes them."""
    client = Client.from_url(url)
    client.connection.force_connect()
    client.connection.send_query("SELECT count() FROM system.numbers WHERE sipHash64(number) = 1", query_id="left")
    client.connection.send_external_tables(None)
    ask = "SELECT count() FROM system.processes WHERE query_id = 'left'"
    with Warehouse.from_url(url) as other:
        until(lambda: other.execute(ask) == [(1,)], "the query runs")
        client.disconnect()
        until(lambda: other.execute(ask) == [(0,)], "the query has ended")


def test_one_folder_has_one_warehouse(embedded: EmbeddedWarehouse) -> None:
    """The second says who has it and what to do."""
    second = EmbeddedWarehouse(WarehouseConfig(embedded.config.data_dir, free_port()))
    second.start()
    with pytest.raises(EmbeddedError, match=rf"in use by process {embedded.pid}; .*HERALD_DATA_DIR"):
        second.wait_ready()
    assert second.returncode == 1


def test_a_taken_port_is_named_with_its_setting(tmp_path: Path) -> None:
    """Without a stack trace, exit code 1."""
    said: list[str] = []
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        assert run(WarehouseConfig(tmp_path, holder.getsockname()[1]), said.append) == 1
    assert "Address already in use" in said[-1]
    assert "HERALD_CLICKHOUSE_PORT" in said[-1]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    said: list[str] = []
    assert run(WarehouseConfig(tmp_path / "file", free_port()), said.append) == 1
    assert str(tmp_path / "file") in said[-1]


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """kill -9 leaves the parent no time to say so."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from pipeline.embedded.warehouse import EmbeddedWarehouse, WarehouseConfig\n"
        "w = EmbeddedWarehouse(WarehouseConfig(Path(sys.argv[1]), int(sys.argv[2]))); w.start(); w.wait_ready()\n"
        "print(w.pid, flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path), str(free_port())]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_peace_while_a_query_runs(tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 0; the query's client hears that its query was killed or that the connection ended."""
    warehouse = EmbeddedWarehouse(WarehouseConfig(tmp_path, free_port()))
    warehouse.start()
    warehouse.wait_ready()
    heard: list[Unavailable] = []

    def suffer() -> None:
        with Warehouse.from_url(warehouse.config.url()) as client:
            try:
                client.execute("SELECT count() FROM system.numbers WHERE sipHash64(number) = 1")
            except Unavailable as error:
                heard.append(error)

    thread = threading.Thread(target=suffer)
    thread.start()
    with Warehouse.from_url(warehouse.config.url()) as other:
        while other.execute("SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%'")[0] < (2,):
            time.sleep(0.02)
    assert warehouse.pid is not None
    os.kill(warehouse.pid, number)
    thread.join(20)
    warehouse.stop()
    assert warehouse.returncode == 0
    assert len(heard) == 1

"""The `herald` command as a user types it: texts, exit codes, and that nothing is left running."""

import csv
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.cli import main
from pipeline.edge.clickhouse import Warehouse
from pipeline.settings import Settings
from schemas.tables import TABLES
from schemas.topics import TOPICS
from tests.journeys.rig import free_ports, free_run

pytestmark = pytest.mark.journey

HERALD = str(Path(sys.executable).with_name("herald"))
COMMANDS = tuple(main.commands)
PARTS = 9  # broker, warehouse, collector, five stages, delivery
START_S, STOP_S = 120.0, 60.0


def environment(data_dir: Path, **changes: object) -> dict[str, str]:
    """Return the environment of a user without any Herald settings but a folder and free ports."""
    kafka, controller, clickhouse, collector, delivery = free_ports(5)
    ours: dict[str, object] = {
        "HERALD_DATA_DIR": data_dir,
        "HERALD_KAFKA_PORT": kafka,
        "HERALD_KAFKA_CONTROLLER_PORT": controller,
        "HERALD_KAFKA_HEAP_MB": 256,
        "HERALD_CLICKHOUSE_PORT": clickhouse,
        "HERALD_COLLECTOR_PORT": collector,
        "HERALD_DELIVERY_PORT": delivery,
        "HERALD_METRICS_PORT": free_run(6),
        "COLUMNS": 200,
        **changes,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HERALD_")}
    return kept | {name: str(value) for name, value in ours.items()}


def herald(*arguments: str, env: dict[str, str], timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run([HERALD, *arguments], env=env, capture_output=True, text=True, timeout=timeout_s, check=False)


class Up:
    """`herald up` in a terminal of its own."""

    def __init__(self, env: dict[str, str], said: Path) -> None:
        self.env, self.said = env, said
        with said.open("wb") as output:
            self.process = subprocess.Popen([HERALD, "up"], env=env, stdout=output, stderr=subprocess.STDOUT)
        self.family: list[psutil.Process] = []

    def wait_until_it_runs(self) -> None:
        """Wait for the last line that it prints, and remember all its processes."""
        deadline = time.monotonic() + START_S
        while "logs  " not in self.said.read_text("utf-8"):
            assert self.process.poll() is None, self.said.read_text("utf-8")
            assert time.monotonic() < deadline, self.said.read_text("utf-8")
            time.sleep(0.1)
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def left(self) -> list[str]:
        """Return which of its processes still run."""
        return [" ".join(one.cmdline()) for one in self.family if one.is_running() and one.status() != "zombie"]

    def wait_until_nothing_is_left(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.left():
            assert time.monotonic() < deadline, self.left()
            time.sleep(0.1)

    def clear(self) -> None:
        """Whatever a failed test left: our own processes only."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for one in self.family:
            if one.is_running():
                one.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `herald up` for all tests that only look at it."""
    folder = tmp_path_factory.mktemp("up")
    up = Up(environment(folder / "data"), folder / "said")
    try:
        up.wait_until_it_runs()
        yield up
    finally:
        up.clear()


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """The environment of a Herald that does not run."""
    return environment(tmp_path / "data")


def drained(env: dict[str, str]) -> dict[str, object]:
    """Return what `herald status --json` says once nothing is in flight."""
    deadline = time.monotonic() + 90
    while True:
        answer = herald("status", "--json", env=env)
        found = dict(json.loads(answer.stdout))
        if answer.returncode == 0 and not any(row["in_flight"] for row in rows_of(found)):
            return found
        assert time.monotonic() < deadline, answer.stdout
        time.sleep(0.3)


def rows_of(status: dict[str, object]) -> list[dict[str, int]]:
    """The books of a status as JSON, by partition."""
    names = ("partition", "received", "stored", "refused", "duplicate", "in_flight")
    books = status["books"]
    assert isinstance(books, list)
    return [row if isinstance(row, dict) else dict(zip(names, row, strict=True)) for row in books]


# --- help and settings ------------------------------------------------------------------------------------------------


def test_every_command_has_help_with_an_example(nowhere: dict[str, str]) -> None:
    overview = herald("--help", env=nowhere)
    assert overview.returncode == 0
    listed = {line.split()[0] for line in overview.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed == set(COMMANDS)
    assert "Example: herald " in overview.stdout
    for command in COMMANDS:
        answer = herald(command, "--help", env=nowhere)
        assert answer.returncode == 0
        example = answer.stdout.partition("Example: ")[2].splitlines()[0]
        assert f"herald {command}" in example, f"herald {command} --help has no example of itself"


def test_every_setting_is_shown_with_its_value_and_secrets_are_stars(nowhere: dict[str, str]) -> None:
    env = nowhere | {"HERALD_PARTITIONS": "8", "HERALD_SIGNING_SECRET": "not-to-be-shown"}
    answer = herald("settings", env=env)
    assert answer.returncode == 0
    for name in Settings.model_fields:
        assert f"HERALD_{name.upper()}" in answer.stdout
    shown = {line.split()[0]: line.split()[1] for line in answer.stdout.splitlines() if line.startswith("HERALD_")}
    assert (shown["HERALD_PARTITIONS"], shown["HERALD_SIGNING_SECRET"]) == ("8", "***")
    table = herald("settings", "--markdown", env=env)
    assert table.stdout.count("\n| `HERALD_") == len(Settings.model_fields)
    assert "not-to-be-shown" not in answer.stdout + table.stdout


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HERALD_PARTITIONS", "many", "HERALD_PARTITIONS = 'many': Input should be a valid integer"),
        ("HERALD_COLLECTOR_PORT", "70000", "HERALD_COLLECTOR_PORT = '70000': Input should be less than"),
        ("HERALD_WRITE_KEYS", "demo", "HERALD_WRITE_KEYS = 'demo': expected name=value"),
        ("HERALD_PARTITONS", "4", "HERALD_PARTITONS: unknown setting"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_was_expected(
    nowhere: dict[str, str], name: str, value: str, expected: str
) -> None:
    answer = herald("up", env=nowhere | {name: value})
    assert answer.returncode == 2
    assert expected in answer.stderr
    assert "Traceback" not in answer.stderr


def test_two_wrong_settings_are_both_named(nowhere: dict[str, str]) -> None:
    answer = herald("status", env=nowhere | {"HERALD_PARTITIONS": "0", "HERALD_FLUSH_MS": "soon"})
    assert answer.returncode == 2
    assert "HERALD_PARTITIONS" in answer.stderr
    assert "HERALD_FLUSH_MS" in answer.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["worker", "nonsense"], ["replay"], ["up", "--fast"]])
def test_wrong_use_is_exit_2_with_the_usage(nowhere: dict[str, str], arguments: list[str]) -> None:
    answer = herald(*arguments, env=nowhere)
    assert answer.returncode == 2
    assert "Usage: herald" in answer.stderr


@pytest.mark.parametrize("arguments", [["status", "--json"], ["tables"], ["topics", "--apply"]])
def test_without_a_running_herald_the_text_says_what_is_away(nowhere: dict[str, str], arguments: list[str]) -> None:
    answer = herald(*arguments, env=nowhere)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    ports = (nowhere["HERALD_KAFKA_PORT"], nowhere["HERALD_CLICKHOUSE_PORT"])
    assert any(f"127.0.0.1:{port}" in answer.stderr for port in ports), answer.stderr


# --- a running herald -------------------------------------------------------------------------------------------------


def test_up_says_where_everything_is(running: Up) -> None:
    said = running.said.read_text("utf-8")
    for name in ("COLLECTOR", "DELIVERY", "KAFKA", "CLICKHOUSE", "METRICS"):
        assert running.env[f"HERALD_{name}_PORT"] in said
    assert len(running.family) >= PARTS
    assert httpx.get(f"http://127.0.0.1:{running.env['HERALD_COLLECTOR_PORT']}/readyz").status_code == 200


def test_status_shows_books_lag_and_parts(running: Up) -> None:
    drained(running.env)
    shown = herald("status", env=running.env)
    assert shown.returncode == 0
    for text in ("received", "in flight", "blocks behind", "parts: all alive", "the books balance"):
        assert text in shown.stdout
    found = json.loads(herald("status", "--json", env=running.env).stdout)
    assert found["balanced"] is True
    assert set(found["lag"]) == {"clean", "sessionise", "profile", "learn", "aggregate"}
    assert found["alive"] == dict.fromkeys(found["alive"], True)
    assert [row["partition"] for row in rows_of(found)] == [0, 1, 2, 3]


def test_topics_are_compared_and_created(running: Up) -> None:
    """As they are; under another prefix, where all are missing; with another number of partitions, which cannot be."""
    same = herald("topics", env=running.env)
    assert (same.returncode, "differs" in same.stdout) == (0, False)
    assert all(topic.name in same.stdout for topic in TOPICS)
    other = running.env | {"HERALD_TOPIC_PREFIX": "second-"}
    missing = herald("topics", env=other)
    assert (missing.returncode, missing.stdout.count("differs: second-")) == (1, len(TOPICS))
    made = herald("topics", "--apply", env=other)
    assert (made.returncode, made.stdout.count("done: second-")) == (0, len(TOPICS))
    again = herald("topics", "--apply", env=other)
    assert (again.returncode, "done:" in again.stdout) == (0, False)
    assert herald("topics", env=other).returncode == 0
    wider = running.env | {"HERALD_PARTITIONS": "8"}
    differs = herald("topics", env=wider)
    assert differs.returncode == 1
    assert "collected: 4 partitions, expected 8 (HERALD_PARTITIONS)" in differs.stdout
    refused = herald("topics", "--apply", env=wider)
    assert refused.returncode == 2
    assert "cannot change" in refused.stderr


def test_tables_are_compared_and_mended(running: Up) -> None:
    """As they are; with another retention, which can be applied; with a column taken away."""
    same = herald("tables", env=running.env)
    assert (same.returncode, "differs" in same.stdout) == (0, False)
    assert all(table.name in same.stdout for table in TABLES)
    longer = running.env | {"HERALD_RETENTION_DAYS": "500"}
    differs = herald("tables", env=longer)
    assert differs.returncode == 1
    kept = re.search(r"events: rows are kept (\d+) days, expected (\d+) days", differs.stdout)
    assert kept
    assert (int(kept[1]), int(kept[2])) == (Settings.model_fields["retention_days"].default, 500)
    assert herald("tables", "--apply", env=longer).returncode == 0
    assert herald("tables", env=longer).returncode == 0
    assert herald("tables", "--apply", env=running.env).returncode == 0
    port = running.env["HERALD_CLICKHOUSE_PORT"]
    with Warehouse.from_url(f"clickhouse://default@127.0.0.1:{port}/default") as warehouse:
        warehouse.execute("ALTER TABLE decisions DROP COLUMN seed")
    missing = herald("tables", env=running.env)
    assert (missing.returncode, "decisions: missing column seed String" in missing.stdout) == (1, True)
    mended = herald("tables", "--apply", env=running.env)
    assert (mended.returncode, "done: decisions: missing column seed String" in mended.stdout) == (0, True)
    assert herald("tables", env=running.env).returncode == 0


def stored(env: dict[str, str], condition: str) -> int:
    """Count events in the warehouse."""
    with Warehouse.from_url(f"clickhouse://default@127.0.0.1:{env['HERALD_CLICKHOUSE_PORT']}/default") as warehouse:
        return int(str(warehouse.execute(f"SELECT count() FROM events FINAL WHERE {condition}")[0][0]))  # noqa: S608


def test_a_csv_is_replayed_from_end_to_end(running: Up, tmp_path: Path) -> None:
    """300 rows, unpacked; then the same file again: its ids are its own, so nothing is stored twice."""
    file = tmp_path / "clicks.csv"
    with (
        as_file(files("pipeline") / "data" / "demo" / "rees46-2019-Oct-first-17434.csv.gz") as path,
        gzip.open(path, "rt", encoding="utf-8", newline="") as packed,
        file.open("w", newline="") as plain,
    ):
        csv.writer(plain).writerows(islice(csv.reader(packed), 301))
    for _ in range(2):
        answer = herald("replay", str(file), env=running.env)
        assert answer.returncode == 0
        assert "sent 300  accepted 300" in answer.stdout
    drained(running.env)
    assert stored(running.env, "startsWith(event_id, 'rees46-')") == 300


def test_an_access_log_is_replayed_from_end_to_end(running: Up, published: Callable[[str], Path]) -> None:
    log = published("access_logs/apache_combined_2015.log.gz")
    answer = herald("replay", str(log), "--limit", "200", env=running.env)
    assert answer.returncode == 0
    assert "sent 200  accepted 200" in answer.stdout
    assert "skipped" not in answer.stdout
    drained(running.env)
    assert stored(running.env, "startsWith(event_id, 'log-') AND event_type = 'page'") == 200


@pytest.mark.parametrize("content", ["when,what\n1,2\n", "", "\x00\xff\x00", "one line of prose\n"])
def test_a_file_of_no_known_format_is_wrong_use(running: Up, tmp_path: Path, content: str) -> None:
    file = tmp_path / "unknown.csv"
    file.write_text(content, "latin-1")
    answer = herald("replay", str(file), env=running.env)
    assert answer.returncode == 2
    assert str(file) in answer.stderr.replace("\n", "")
    assert "expected REES46 or trivago CSV" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_wrong_pace_and_a_wrong_key_are_told(running: Up, published: Callable[[str], Path]) -> None:
    log = str(published("access_logs/apache_combined_2015.log.gz"))
    slow = herald("replay", log, "--pace", "0.5", env=running.env)
    assert (slow.returncode, "--pace = 0.5" in slow.stderr) == (2, True)
    refused = herald("replay", log, "--limit", "5", "--key", "nobodys", env=running.env)
    assert (refused.returncode, "401" in refused.stderr, "--key = 'nobodys'" in refused.stderr) == (2, True, True)
    assert "Traceback" not in refused.stderr


def test_a_replay_without_a_collector_says_so_at_once(nowhere: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text('10.0.0.1 - - [01/Jul/2025:00:00:01 +0000] "GET / HTTP/1.1" 200 5 "-" "Mozilla/5.0"\n')
    answer = herald("replay", str(log), env=nowhere, timeout_s=30)
    assert answer.returncode == 1
    assert f"127.0.0.1:{nowhere['HERALD_COLLECTOR_PORT']}" in answer.stderr
    assert "herald up" in answer.stderr
    assert "Traceback" not in answer.stderr


# --- starting and stopping --------------------------------------------------------------------------------------------


def processes_with(data_dir: Path) -> list[str]:
    """Return command lines of all processes that work in this data folder."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.environ().get("HERALD_DATA_DIR") == str(data_dir) and one.status() != "zombie":
                found.append(" ".join(one.cmdline()))
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("name", ["COLLECTOR", "DELIVERY", "KAFKA", "CLICKHOUSE", "METRICS"])
def test_a_taken_port_is_named_and_nothing_is_left_running(tmp_path: Path, name: str) -> None:
    env = environment(tmp_path / "data")
    port = int(env[f"HERALD_{name}_PORT"])
    with socket.create_server(("127.0.0.1", port)):
        answer = herald("up", env=env, timeout_s=START_S)
    assert answer.returncode == 1
    assert f"HERALD_{name}_PORT" in answer.stderr
    assert str(port) in answer.stderr
    assert "Traceback" not in answer.stderr
    assert processes_with(tmp_path / "data") == []


def test_a_second_herald_on_the_same_ports_does_not_take_the_first_one_for_its_own(running: Up, tmp_path: Path) -> None:
    """The first one answers on all ports; the second must say that they are taken, and leave the first alone."""
    env = running.env | {"HERALD_DATA_DIR": str(tmp_path / "data")}
    answer = herald("up", env=env, timeout_s=START_S)
    assert answer.returncode == 1
    for name in ("COLLECTOR", "DELIVERY", "KAFKA", "CLICKHOUSE", "METRICS"):
        assert f"HERALD_{name}_PORT" in answer.stderr
    assert processes_with(tmp_path / "data") == []
    assert running.process.poll() is None
    assert herald("status", env=running.env).returncode == 0


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for command in ("up", "demo"):
        answer = herald(command, "--data", str(tmp_path / "file"), env=environment(tmp_path / "data"))
        assert (answer.returncode, "HERALD_DATA_DIR" in answer.stderr) == (1, True)
        assert "Traceback" not in answer.stderr


def test_a_second_demo_leaves_the_folder_of_the_first_one_alone(tmp_path: Path) -> None:
    """A demo begins by emptying its folder; not before it knows that no other one is running there."""
    env = environment(tmp_path / "data")
    folder = tmp_path / "data" / "demo"
    folder.mkdir(parents=True)
    for name in (".herald-demo", "kept"):
        (folder / name).touch()
    with socket.create_server(("127.0.0.1", int(env["HERALD_COLLECTOR_PORT"]))):
        answer = herald("demo", "--exit", env=env, timeout_s=START_S)
    assert (answer.returncode, "HERALD_COLLECTOR_PORT" in answer.stderr) == (1, True)
    assert (folder / "kept").exists()


def test_ctrl_c_stops_everything(running: Up) -> None:
    """SIGINT: `stopping`, exit code 0, no process left. The last test that needs the running one."""
    assert len(running.left()) >= PARTS
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(STOP_S) == 0
    assert running.said.read_text("utf-8").rstrip().endswith("stopping")
    assert running.left() == []


def test_killing_up_leaves_nothing_behind_and_the_next_one_goes_on(running: Up, tmp_path: Path) -> None:
    """kill -9 of `herald up`, on the folder of the test before: what was stored is there, and the books balance."""
    if running.process.poll() is None:
        pytest.skip("the running Herald was not stopped: this test goes on with its folder")
    before = Up(running.env, tmp_path / "said")
    try:
        before.wait_until_it_runs()
        assert len(before.left()) >= PARTS
        found = drained(running.env)
        assert sum(row["stored"] for row in rows_of(found)) == stored(running.env, "1 = 1")
        os.kill(before.process.pid, signal.SIGKILL)
        before.process.wait()
        before.wait_until_nothing_is_left(30)
    finally:
        before.clear()


def test_ctrl_c_while_it_starts_stops_what_has_started(tmp_path: Path) -> None:
    """SIGINT as soon as the first part runs."""
    env = environment(tmp_path / "data")
    up = Up(env, tmp_path / "said")
    try:
        deadline = time.monotonic() + START_S
        while not processes_with(tmp_path / "data")[1:]:
            assert up.process.poll() is None, up.said.read_text("utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.05)
        up.family = psutil.Process(up.process.pid).children(recursive=True)
        up.process.send_signal(signal.SIGINT)
        up.process.wait(STOP_S)
        up.wait_until_nothing_is_left(5)
        assert "Traceback" not in up.said.read_text("utf-8")
        assert "collector  " not in up.said.read_text("utf-8"), "it went on to the end of its start"
    finally:
        up.clear()

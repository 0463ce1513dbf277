"""The `herald` command as a user types it, where nothing runs: texts, exit codes, and that nothing is left running."""

import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from pipeline.cli import main
from pipeline.settings import Settings
from tests.journeys.up_rig import START_S, STOP_S, Up, environment, herald, processes_with

pytestmark = pytest.mark.journey

COMMANDS = tuple(main.commands)


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """The environment of a Herald that does not run."""
    return environment(tmp_path / "data")


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


def test_a_replay_without_a_collector_says_so_at_once(nowhere: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text('10.0.0.1 - - [01/Jul/2025:00:00:01 +0000] "GET / HTTP/1.1" 200 5 "-" "Mozilla/5.0"\n')
    answer = herald("replay", str(log), env=nowhere, timeout_s=30)
    assert answer.returncode == 1
    assert f"127.0.0.1:{nowhere['HERALD_COLLECTOR_PORT']}" in answer.stderr
    assert "herald up" in answer.stderr
    assert "Traceback" not in answer.stderr


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

"""The supervisor on tiny processes of its own: which failures it bears, and when it gives up."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.settings import load
from pipeline.supervisor import FAILURES_MAX, Part, PartFailed, Supervisor

PYTHON = (sys.executable, "-S", "-E", "-c")
PATIENCE_S = 60.0
STORE = "import sys; sys.stdin.read()"
SERVICE = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
with (folder / "begun").open("a") as file:
    print("begun", file=file)
if not (folder / "store_is_there").exists():
    sys.exit("no store to be had")
if (folder / "is_broken").exists():
    sys.exit("broken for good")
(folder / "is_ready").touch()
sys.stdin.read()
"""


class Machine:
    """A store, which is there while a file says so, and a service that needs it, each a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.supervisor = Supervisor(load(data_dir=folder), PYTHON)
        self.has("store_is_there").touch()
        self.store = Part("store", [STORE], self.has("store_is_there").exists, stop_order=1)
        ready = self.has("is_ready").exists
        self.service = Part("service", [SERVICE, str(folder)], ready, backoff_s=0.05)

    def has(self, name: str) -> Path:
        return self.folder / name

    def begun(self) -> int:
        """How often the service was started."""
        file = self.has("begun")
        return len(file.read_text("utf-8").splitlines()) if file.exists() else 0

    def service_that(self, is_ready: Callable[[], bool]) -> Part:
        """The service, with something that happens while the supervisor waits for it."""
        self.service.is_ready = is_ready
        return self.service


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    try:
        made.supervisor.start([made.store])
        yield made
    finally:
        made.supervisor.stop()


def test_a_part_that_fails_by_itself_is_given_up_after_three_times(machine: Machine) -> None:
    machine.has("is_broken").touch()
    with pytest.raises(PartFailed, match=r"service did not become ready.*\n(.*\n)*broken for good"):
        machine.supervisor.start([machine.service], PATIENCE_S)
    assert machine.service.restarts >= FAILURES_MAX
    assert machine.begun() >= FAILURES_MAX


def test_a_part_that_ends_while_the_store_is_away_is_started_until_the_store_is_back(machine: Machine) -> None:
    """One failure more than it may have by itself."""
    machine.has("store_is_there").unlink()

    def look() -> bool:
        if machine.begun() > FAILURES_MAX:
            machine.has("store_is_there").touch()
        return machine.has("is_ready").exists()

    machine.supervisor.start([machine.service_that(look)], PATIENCE_S)
    assert machine.begun() > FAILURES_MAX + 1
    assert machine.supervisor.pid("service") is not None


def test_what_was_forgiven_does_not_excuse_what_comes_after(machine: Machine) -> None:
    """The store comes back, and the service goes on failing: from then on its failures are its own."""
    machine.has("store_is_there").unlink()
    machine.has("is_broken").touch()
    away = FAILURES_MAX

    def look() -> bool:
        if machine.begun() >= away:
            machine.has("store_is_there").touch()
        return False

    with pytest.raises(PartFailed, match="broken for good"):
        machine.supervisor.start([machine.service_that(look)], PATIENCE_S)
    assert machine.begun() >= away + FAILURES_MAX - 1, "the one that met the store's return may count as its own"


def test_a_part_that_never_is_ready_is_not_waited_for_without_end(machine: Machine) -> None:
    with pytest.raises(PartFailed, match="service did not become ready"):
        machine.supervisor.start([machine.service_that(lambda: False)], timeout_s=0.5)
    assert machine.service.restarts == 0


def test_a_part_that_dies_later_is_started_again_and_another_process(machine: Machine) -> None:
    machine.supervisor.start([machine.service], PATIENCE_S)
    first = machine.service.process
    assert first is not None
    first.kill()
    deadline = time.monotonic() + PATIENCE_S
    while machine.begun() < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert machine.service.restarts == 1
    assert machine.supervisor.pid("service") not in (None, first.pid)


def test_all_are_told_to_stop_by_the_end_of_their_input_or_by_a_signal(machine: Machine) -> None:
    machine.supervisor.start([machine.service], PATIENCE_S)
    processes = [part.process for part in machine.supervisor.parts.values()]
    machine.supervisor.stop()
    assert all(process is not None and process.returncode is not None for process in processes)


def test_a_nice_part_gives_way_to_others_that_lead_sessions_of_their_own(machine: Machine) -> None:
    """Where Linux shares the cores out between sessions, the niceness of a process says nothing outside of its own."""
    machine.supervisor.start([Part("nice", [STORE], lambda: True, niceness=7)])
    pid = machine.supervisor.pid("nice")
    assert pid is not None
    assert os.getpriority(os.PRIO_PROCESS, pid) == 7
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists():
        assert group.read_text("utf-8").split()[-1] == "7"

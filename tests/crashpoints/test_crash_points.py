"""A handful of crash points of each kind; `python -m tests.crashpoints` runs them all."""

import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.edge.secret import key_of
from tests.crashpoints import ptrace
from tests.crashpoints.killer import Killer
from tests.crashpoints.life import Life
from tests.crashpoints.plan import CONTROL, Stand
from tests.crashpoints.points import Found, Point, enumerated, sampled

WRITES = """
import os, sys, threading
sys.stdin.readline()
def write(name):
    for number in range(3):
        with open(name, "ab", buffering=0) as file:
            file.write(b"x")
for place in range(2):
    thread = threading.Thread(target=write, args=(f"{sys.argv[1]}/{place}",))
    thread.start()
    thread.join()
"""


@pytest.fixture(scope="module", autouse=True)
def _traceable() -> Iterator[None]:
    forbidden = ptrace.why_not()
    if forbidden is not None:
        pytest.skip(f"processes cannot be traced here: {forbidden}")
    logging.disable(logging.CRITICAL)  # clients that lose their servers say so
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("stand")) as found:
        yield found


def say(point: Point) -> None:
    print(f"killed at {point.at}, before {point.struck}: {point.wrong or 'right'}")


def some(stand: Stand, name: str, many: int) -> Found:
    """Run a few points of a scenario; the seed is printed, so that a failure can be run again."""
    seed = random.randrange(2**32)
    print(f"{name}: seed {seed}")
    with stand.scenario(name) as scenario:
        return sampled(scenario, many, random.Random(seed), say)


@pytest.mark.parametrize("at", [1, 2, 3, 8, 9, 10, 17, 18])
def test_a_process_is_killed_right_before_the_call_and_in_any_thread(tmp_path: Path, at: int) -> None:
    """Six times open, write, close, in two threads: what stands there tells exactly where it died."""
    child = subprocess.Popen([sys.executable, "-S", "-c", WRITES, str(tmp_path)], stdin=subprocess.PIPE)
    assert child.stdin is not None
    with Killer(child.pid, at) as killer:
        child.stdin.close()
        Life(child.pid).wait()
    assert child.wait() == -9
    assert len(killer.hits) == at
    assert killer.struck == f"{('openat', 'write', 'close')[(at - 1) % 3]} {tmp_path.name}/{(at - 1) // 9}"
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert written == at // 3


def test_what_a_killed_process_of_the_same_id_left_of_a_key_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container the id is the same at each start: a name of it alone would keep the next one from starting."""
    (tmp_path / "secrets").mkdir()
    left = tmp_path / "secrets" / f"mask.key.{os.getpid()}"
    left.write_bytes(b"half a k")
    assert len(key_of(SecretStr(""), tmp_path, "mask.key")) == 64


def test_the_token_only_control_loses_rows_where_a_part_is_renamed(stand: Stand) -> None:
    """ClickHouse notes the token before it renames the part: the harness finds a hole of a tenth of a millisecond."""
    with stand.scenario(CONTROL) as scenario:
        found = enumerated(scenario, say, only="rename")
    assert found.killed >= 2
    assert any("expected 90" in text for point in found.wrong for text in point.wrong)


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("insert", 2),
        ("sessionise", 1),
        ("spend", 1),
        ("restore", 1),
        ("collector", 2),
        ("answers", 2),
        ("campaigns", 1),
        ("leases", 1),
        ("backup", 2),
    ],
)
def test_nothing_is_lost_or_doubled_wherever_a_process_is_killed(stand: Stand, name: str, points: int) -> None:
    """Random points of each scenario; killed there, retried, compared with a run that nobody killed."""
    found = some(stand, name, points)
    assert found.killed == points
    assert [(point.at, point.struck, point.wrong) for point in found.wrong] == []

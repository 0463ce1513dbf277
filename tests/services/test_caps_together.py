"""Caps that hold across delivery processes: real broker, real processes, real kills; nobody sees one more than allowed.

What is counted is what was answered with a capped creative in it, whichever process answered.
"""

import concurrent.futures
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from delivery_rig import Service
from published_rig import FALLBACK, Desk, desks
from sqlalchemy import select

from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.slot_tables import PROCESSES, SLOT_ROWS
from pipeline.core.slots import SLOTS, slot_of
from tests.waits import free_port, until

CAPS = [{"count": 3, "per": "day"}]
LEASE_MS = 3_000
PEER_MS = 2_000  # generous: the machine may be busy, and a late answer shows nothing


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desks(tmp_path_factory.mktemp("caps"), 2, cap_lease_ms=LEASE_MS, peer_timeout_ms=PEER_MS) as made:
        shared(made)
        yield made


def slots(desk: Desk) -> list[int]:
    """How many slots each process counts for."""
    return [int(metric(service, "herald_cap_slots")) for service in desk.services]


def shared(desk: Desk) -> None:
    """Wait until each process has its share."""
    try:
        until(lambda: slots(desk) == [SLOTS // 2] * 2, "slots are shared out", 30)
    except AssertionError as error:
        database = Database(url_of(desk.settings))
        with database.reading() as connection:
            rows = [*connection.execute(select(PROCESSES)), *connection.execute(select(SLOT_ROWS))]
        database.close()
        raise AssertionError(f"{error}: {slots(desk)}, {rows}") from error


def metric(service: Service, name: str) -> float:
    lines = service.http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def visitor_of(desk: Desk, at: int, name: str) -> str:
    """Return a visitor whose caps a process counts."""
    database = Database(url_of(desk.settings))
    with database.reading() as connection:
        holders = {row.slot: row.holder for row in connection.execute(select(SLOT_ROWS))}
        addresses = {row.holder: row.address for row in connection.execute(select(PROCESSES))}
    database.close()
    address = f"http://127.0.0.1:{desk.services[at].settings.delivery_port}"
    return next(
        found for number in range(10_000)
        if addresses.get(holders[slot_of(found := f"{name}{number}")]) == address
    )  # fmt: skip


def at_once(desk: Desk, placement: str, visitor: str, many: int = 200, **more: Any) -> int:
    """Ask so often at once, both processes in turn; return how often something was shown."""

    def ask(number: int) -> int:
        try:
            return len(desk.ask(placement, visitor, number % 2, **more).json()["actions"])
        except httpx.TransportError:
            return 0  # it was killed, or its answer was: nobody has seen anything

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return sum(pool.map(ask, range(many)))


def test_a_cap_of_three_is_never_passed_by_two_processes_at_once(desk: Desk) -> None:
    desk.campaign("three", caps=CAPS)
    assert at_once(desk, "three", "ann") == 3
    assert [desk.why("three", "ann", at=at) for at in (0, 1)] == [{"three-1": "cap:line:day"}] * 2


def test_without_consent_the_cap_holds_on_the_day_hash(desk: Desk) -> None:
    desk.campaign("hash", caps=CAPS)
    assert at_once(desk, "hash", "", consent=False, cap_hint="203.0.113.0 Firefox") == 3
    assert at_once(desk, "hash", "", 8, consent=False, cap_hint="203.0.113.0 Chrome") == 3


def test_what_a_killed_process_has_shown_is_known_to_the_other_at_once(desk: Desk) -> None:
    """Killed right after its answer: no record of it has reached the broker, and no stage of it would count it."""
    desk.campaign("killed", caps=CAPS)
    hints = {"consent": False, "cap_hint": "198.51.100.0 Safari"}
    ann = visitor_of(desk, 0, "ann")
    others = [visitor_of(desk, 0, f"many{number}-") for number in range(8)]
    for at in (0, 1):
        assert desk.shown("killed", ann, at=at) == ["killed-1"]
    assert desk.shown("killed", "", at=1, **hints) == ["killed-1"]
    before = [len(desk.shown("killed", other, at=1)) for other in others]

    killed_s = time.monotonic()
    with Killing(desk, 0):
        assert at_once(desk, "killed", ann, 20) <= 1
    until(lambda: int(metric(desk.services[1], "herald_cap_slots")) == SLOTS, "all are counted by the other")
    print(f"a killed process's slots were taken over after {time.monotonic() - killed_s:.2f} s")
    seen = [len(desk.shown("killed", ann, at=1)) for _ in range(4)]
    assert sum(seen) <= 1
    after = [sum(len(desk.shown("killed", other, at=1)) for _ in range(5)) for other in others]
    assert [one + two for one, two in zip(before, after, strict=True)] == [3] * 8
    assert [len(desk.shown("killed", "", at=1, **hints)) for _ in range(4)] == [1, 1, 0, 0]
    again(desk, 0)
    assert [len(desk.shown("killed", ann, at=at)) for at in (0, 1)] == [0, 0]
    assert [len(desk.shown("killed", "", at=at, **hints)) for at in (0, 1)] == [0, 0]


def test_a_process_that_was_stopped_past_its_lease_shows_no_more_than_it_may(desk: Desk) -> None:
    desk.campaign("stopped", caps=CAPS)
    bob = visitor_of(desk, 0, "bob")
    assert desk.shown("stopped", bob, at=1) == ["stopped-1"]
    stopped = desk.services[0].process
    stopped.send_signal(signal.SIGSTOP)
    try:
        answer = desk.ask("stopped", bob, 1).json()
        assert (answer["actions"], answer["fallback"]) == ([], FALLBACK)
        assert desk.why("stopped", bob, at=1) == {"stopped-1": "cap:elsewhere"}
        until(lambda: desk.shown("stopped", bob, at=1), "the other one counts now")
    finally:
        stopped.send_signal(signal.SIGCONT)
    shown = at_once(desk, "stopped", bob, 40)
    assert shown == 1
    shared(desk)
    assert at_once(desk, "stopped", bob, 10) == 0


def test_an_orderly_restart_forgets_nobody(desk: Desk) -> None:
    desk.campaign("restart", caps=CAPS)
    asked = [{"consent": False, "cap_hint": f"192.0.2.0 {number}"} for number in range(6)]
    first = [len(desk.shown("restart", "", at=1, **one)) for one in asked]
    assert desk.services[0].stop() == 0
    until(lambda: int(metric(desk.services[1], "herald_cap_slots")) == SLOTS, "handed over")
    second = [len(desk.shown("restart", "", at=1, **one)) for one in asked]
    again(desk, 0)
    third = [sum(len(desk.shown("restart", "", at=at, **one)) for at in (0, 1, 0)) for one in asked]
    assert (first, second, third) == ([1] * 6, [1] * 6, [1] * 6)


def test_kevels_face_keeps_the_same_caps(desk: Desk) -> None:
    desk.campaign("kevel", caps=CAPS)
    carl = visitor_of(desk, 0, "carl")
    page = {"placements": [{"divName": "kevel"}], "user": {"key": carl}}
    shown = [service.http.post("/api/v2", json=page).json()["decisions"]["kevel"] for service in desk.services * 3]
    assert [one is not None for one in shown] == [True] * 3 + [False] * 3


def test_a_page_goes_whole_to_who_counts_and_what_has_no_cap_stays_here(desk: Desk) -> None:
    desk.campaign("capped", caps=CAPS)
    desk.campaign("free")
    dora = visitor_of(desk, 0, "dora")
    before = forwarded(desk.services[1])
    assert desk.shown("free", dora, at=1) == ["free-1"]
    assert forwarded(desk.services[1]) == before
    page = {"placements": [{"placement": "free"}, {"placement": "capped"}], "visitor": dora}
    found = desk.services[1].http.post("/v1/decisions", json=page).json()["decisions"]
    assert [[one["id"] for one in each["actions"]] for each in found] == [["free-1"], ["capped-1"]]
    assert forwarded(desk.services[1]) == before + 1
    for each, service in zip(found, desk.services, strict=True):  # either knows what it can be rewarded by
        assert service.http.get(f"/v1/decisions/{each['decision_id']}").status_code == 200


def test_nobody_else_can_say_that_a_request_was_sent_on(desk: Desk) -> None:
    body = {"placement": "three", "visitor": "ann"}
    for seal in ("", "1.00", f"{int(time.time() * 1_000)}.{'0' * 64}", "é"):
        answer = desk.http.post("/v1/decisions", json=body, headers={"x-herald-forwarded": seal.encode()})
        assert (answer.status_code, answer.json()["code"]) == (403, "forwarded")


def forwarded(service: Service) -> int:
    return int(metric(service, 'herald_decisions_forwarded_total{result="answered"}'))


class Killing:
    """Kill a process while what stands in the block goes on."""

    def __init__(self, desk: Desk, at: int) -> None:
        self._process = desk.services[at].process
        self._timer = threading.Timer(0.02, self._process.kill)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.join()
        assert self._process.wait(10) == -signal.SIGKILL


def again(desk: Desk, at: int) -> None:
    """Start a process anew in the place of one that has ended, and wait until it has its share."""
    old = desk.services[at]
    old.http.close()
    settings = old.settings.model_copy(update={"delivery_port": free_port()})
    desk.services[at] = Service(settings, old.log_path.with_suffix(f".{time.monotonic_ns()}"))
    desk.services[at].wait_for("/readyz")
    desk.http = desk.services[0].http
    shared(desk)

"""Pacing as delivery does it, on a scripted clock: two processes, books that come late, a day cut short."""

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from pipeline.core.catalogue import Catalogue, LiveLine
from pipeline.core.lease import Account
from pipeline.delivery.pace import Paces
from schemas.campaign import Status, Stored

SEED = 20261122
BEGIN_MS = 1_795_046_400_000  # midnight UTC
HOUR_MS = 3_600_000
PRICE = 1_000


@dataclass
class LateBooks:
    """The spend state as a process reads it: what was reserved some seconds ago."""

    late_ms: int
    spent: int = 0
    by_lease: dict[str, int] = field(default_factory=dict)
    coming: deque[tuple[int, str]] = field(default_factory=deque)

    def reserve(self, time_ms: int, lease_id: str) -> None:
        self.coming.append((time_ms + self.late_ms, lease_id))

    def turn(self, time_ms: int) -> None:
        while self.coming and self.coming[0][0] <= time_ms:
            _, lease_id = self.coming.popleft()
            self.spent += PRICE
            self.by_lease[lease_id] = self.by_lease.get(lease_id, 0) + PRICE

    def spent_micros(self, account: Account) -> int:
        return self.spent

    def seen_micros(self, lease_id: str) -> int:
        return self.by_lease.get(lease_id, 0)


def line(**more: object) -> LiveLine:
    """A published line that pays by impression, in a campaign of its own."""
    bodies = {
        "advertisers": {"id": "a", "name": "A"},
        "campaigns": {"id": "c", "advertiser": "a", "name": "C"},
        "lines": {"id": "l", "campaign": "c", "name": "L", "placements": ["p"],
                  "price": {"per": "impression", "micros": PRICE * 1_000}, **more},
    }  # fmt: skip
    objects = {
        (kind, str(body["id"])): Stored(
            kind=kind, id=str(body["id"]), version=1, status=Status.PUBLISHED, changed_ms=BEGIN_MS, changed_by="t",
            body=body,
        )
        for kind, body in bodies.items()
    }  # fmt: skip
    return Catalogue(objects).lines["l"]


def play(found: LiveLine, hours: float, per_s: float, late_ms: int, processes: int) -> list[float]:
    """Let visitors come to several processes; returns what was spent after each tenth of the time, as a share."""
    print(f"seed {SEED}")
    draw, books = random.Random(SEED), LateBooks(late_ms)
    paces = [Paces(books) for _ in range(processes)]
    for one in paces:
        one.publish([found])
    assert found.budget is not None
    limit = found.budget.total_micros or found.budget.daily_micros or 0
    reserved, tenths = 0, []
    steps = int(hours * 3_600 * per_s)
    for step in range(steps):
        time_ms = BEGIN_MS + round(step / per_s * 1_000)
        books.turn(time_ms)
        at = draw.randrange(processes)
        if reserved < limit and draw.random() < paces[at].chance(found, time_ms):
            lease_id = f"{at}-{step // 5_000}"
            paces[at].reserved("l", lease_id, PRICE)
            books.reserve(time_ms, lease_id)
            reserved += PRICE
        if (step + 1) % (steps // 10) == 0:
            tenths.append(reserved / limit)
    return tenths


@pytest.mark.parametrize("processes", [1, 2])
def test_a_flight_is_spent_evenly_although_the_books_are_late(processes: int) -> None:
    ends = {"ends_at": "2026-11-20T03:00:00Z"}
    found = line(budget={"total_micros": 3_000 * PRICE}, schedule=ends)
    hours = (found.timetable.ends_ms - BEGIN_MS) / HOUR_MS
    tenths = play(found, hours, 3.0, 3_000, processes)
    assert tenths == pytest.approx([(at + 1) / 10 for at in range(10)], abs=0.02)


def test_as_soon_as_possible_is_not_held_back() -> None:
    assert Paces(LateBooks(0)).chance(line(pacing="asap", budget={"daily_micros": PRICE}), BEGIN_MS) == 1.0


def test_a_total_without_an_end_cannot_be_paced() -> None:
    paces, found = Paces(LateBooks(0)), line(budget={"total_micros": 100 * PRICE})
    paces.publish([found])
    assert paces.chance(found, BEGIN_MS) == 1.0


def test_a_change_of_another_field_keeps_what_was_learnt() -> None:
    found = line(budget={"total_micros": 1_000 * PRICE}, schedule={"ends_at": "2026-11-20T03:00:00Z"})
    paces = Paces(LateBooks(0))
    paces.publish([found])
    for second in range(20):
        paces.chance(found, BEGIN_MS + second * 1_000)
    before = paces.chance(found, BEGIN_MS + 20_100)
    paces.publish([found])
    assert paces.chance(found, BEGIN_MS + 20_150) == pytest.approx(before, rel=0.1)
    assert before > 0.0

"""One run: shots from a seed, answers scored, memory watched, and the books compared with what was promised."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.gun import fire_all
from tests.fuzz.plan import Plan
from tests.fuzz.shots import COLLECTOR, DELIVERY, Shot
from tests.fuzz.stand import Books, Stand, complaints
from tests.fuzz.tally import LOST_SHARE_MAX, Tally

WARM_SHARE = 0.3  # of the shots, before memory is measured: caches fill, heaps grow to their working size
GROWTH_MB_MAX = 50.0
GROWN_AFTER = 20_000  # shots; in a shorter run the heaps have not come to rest
DOORS = (COLLECTOR, DELIVERY)


@dataclass
class Report:
    """What a run found."""

    seed: int
    shots: int
    took_s: float
    tally: Tally
    warm_mb: dict[str, float]
    end_mb: dict[str, float]

    def lines(self) -> list[str]:
        """The figures, for people."""
        counts = sorted(self.tally.answers.items())
        found = [f"{self.shots:,} requests in {self.took_s:.1f} s ({self.shots / self.took_s:,.0f} a second)"]
        for side in DOORS:
            found.append(
                f"{side:<10}" + "  ".join(f"{status}: {count:,}" for (of, status), count in counts if of == side)
            )
        found.append(f"sent again, since the connection ended without an answer: {self.tally.lost}")
        for name, end in self.end_mb.items():
            found.append(f"memory of {name}: {self.warm_mb[name]:.1f} MB warm, {end:.1f} MB at the end")
        return found


def fire(stand: Stand, seed: int, shots: int, tell: Callable[[int], None] = lambda done: None) -> Report:
    """Fire so many shots. tell: called now and then with how many have been answered."""
    plan = Plan(seed, int(time.time() * 1_000))
    tally = Tally(plan, stand.is_whole)
    left = shots
    warm: dict[str, float] = {}

    def draw() -> Shot | None:
        nonlocal left
        if left == 0:
            return None
        left -= 1
        if not warm and shots - left >= WARM_SHARE * shots:
            warm.update(stand.memory_mb())
        if left % 1_000 == 0:
            tell(shots - left)
        return plan.draw()

    started_s = time.monotonic()
    asyncio.run(fire_all(draw, stand.ports, tally.score))
    return Report(seed, shots, time.monotonic() - started_s, tally, warm, stand.memory_mb())


def faults_of(report: Report, stand: Stand, books: Books, folder: Path) -> list[str]:
    """Return what is wrong after a run; empty where every promise was kept."""
    tally, found = report.tally, list(report.tally.faults)
    found += [f"{name} has ended" for name in stand.dead()]
    found += complaints(folder)
    if not books.is_balanced:
        found.append(f"the books do not balance: {books.totals} of {dict(books.collected)} collected")
    for side, spare in ((COLLECTOR, tally.may_be_kept), (DELIVERY, 0)):
        more = books.collected[side] - tally.promised[side]
        if not 0 <= more <= spare + tally.may_be_stored:
            found.append(
                f"{side}: {books.collected[side]} events in the log, promised {tally.promised[side]} (+{spare})"
            )
    if tally.lost > LOST_SHARE_MAX * report.shots:
        found.append(f"{tally.lost} of {report.shots} shots had to be sent again")
    if report.shots >= GROWN_AFTER:
        grown = {name: report.end_mb[name] - report.warm_mb[name] for name in DOORS}
        found += [f"{name} grew by {by:.1f} MB" for name, by in grown.items() if by > GROWTH_MB_MAX]
    return found

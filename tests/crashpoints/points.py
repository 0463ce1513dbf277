"""What a scenario is, and how its points are run: kill, retry, compare; the next point."""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import NamedTuple, Protocol

from tests.crashpoints.killer import Killer

POINTS_MAX = 2_000  # a unit of work with more calls than this does not end by itself


class Scenario(Protocol):
    """One unit of one process's work, again and again, each time on the stores as the last time left them."""

    name: str
    calls: int
    """How many calls a unit makes, more or less: threads and timers add some."""

    def warm(self) -> int:
        """Have a process ready for one more unit of work and return its id."""

    def work(self) -> None:
        """Have it do the unit. Returns when it is done, or when the process is dead."""

    def wrong(self) -> list[str]:
        """Retry in a new process as the product does, and return what is not as it should be; [] where all is well."""


class Point(NamedTuple):
    """One run of a unit. struck: the call before which it was killed, None where it came to its end and died there."""

    at: int | None
    struck: str | None
    calls: list[str]
    wrong: list[str]


class Found(NamedTuple):
    """What came of a scenario's points."""

    name: str
    points: list[Point]
    took_s: float

    @property
    def killed(self) -> int:
        """How many points there were."""
        return sum(point.struck is not None for point in self.points)

    @property
    def wrong(self) -> list[Point]:
        """The points after which something was not as it should be."""
        return [point for point in self.points if point.wrong]


def strike(scenario: Scenario, at: int | None, only: str = "") -> Point:
    """Kill a unit of work before its call number `at` (None: at its end), retry and compare. only: as Killer has it."""
    with Killer(scenario.warm(), at, only) as killer:
        scenario.work()
    return Point(at, killer.struck, killer.hits, scenario.wrong())


def enumerated(scenario: Scenario, tell: Callable[[Point], None], step: int = 1, only: str = "") -> Found:
    """Run every step-th point until the unit survives."""

    def points() -> Iterator[Point]:
        for at in count(1, step):
            point = strike(scenario, at, only)
            yield point
            if point.struck is None:
                break

    return _found(scenario, points(), tell)


def sampled(scenario: Scenario, many: int, rng: random.Random, tell: Callable[[Point], None]) -> Found:
    """Run so many of a unit's points: which, rng says."""

    def points() -> Iterator[Point]:
        calls, left = scenario.calls, many
        while left:
            point = strike(scenario, rng.randint(1, calls))
            if point.struck is None:  # it had fewer calls this time: one of those, then
                calls = max(1, len(point.calls))
            else:
                left -= 1
            yield point

    return _found(scenario, points(), tell)


def _found(scenario: Scenario, points: Iterable[Point], tell: Callable[[Point], None]) -> Found:
    began_s = time.monotonic()
    found: list[Point] = []
    for point in points:
        found.append(point)
        tell(point)
        if len(found) > POINTS_MAX:
            break
    return Found(scenario.name, found, time.monotonic() - began_s)

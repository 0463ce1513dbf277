"""Pacing as delivery does it: each line with an end and a budget takes part in as many decisions as its plan wants.

Every process steers by what all of them have spent (the spend state) and by the decisions that itself has seen: what
the others win shows as a larger share won of its own offers, so that together they follow the plan.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from pipeline.core import pacing_plan
from pipeline.core.catalogue import LiveLine
from pipeline.core.lease import Account
from pipeline.core.pacing import DEFAULT, Now, control, probability
from pipeline.core.pacing_plan import EVERY_HOUR, Plan, day_plan, flight_plan, learn_requests
from schemas.campaign import Pacing, Schedule
from schemas.pacing import HourCurve, Pace

LOOK_MS: Final = 200
LEARN_MS: Final = 60_000
_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Books(Protocol):
    """What the spend state says, as far as it is read: `Purse`."""

    def spent_micros(self, account: Account) -> int:
        """Micros reserved of an account and not released, by all processes."""

    def seen_micros(self, lease_id: str) -> int:
        """Micros of these that were reserved under a lease."""


@dataclass(slots=True)
class _Paced:
    """One budget of a line: its total, or that of a day."""

    limit_micros: int
    is_daily: bool
    plan: Plan | None = None
    until_ms: int = 0  # the plan holds so long
    offered_micros: int = 0
    pace: Pace = field(default_factory=Pace)


@dataclass(slots=True)
class _Line:
    line: LiveLine
    schedule: pacing_plan.Schedule
    budgets: list[_Paced]
    curve: HourCurve = field(default_factory=HourCurve)
    requests: int = 0
    since_ms: int = 0
    own: dict[str, int] = field(default_factory=dict)  # lease -> reserved here; until the books know all of it

    def unseen_micros(self, books: Books) -> int:
        """What this process has reserved and the books do not know yet: without it, pacing would run ahead of them."""
        unseen = {lease_id: micros - books.seen_micros(lease_id) for lease_id, micros in self.own.items()}
        for lease_id in [lease_id for lease_id, micros in unseen.items() if micros <= 0]:
            if lease_id != self.newest:
                del self.own[lease_id]
        return sum(max(0, micros) for micros in unseen.values())

    @property
    def newest(self) -> str:
        """The lease in use."""
        return next(reversed(self.own), "")


class Paces:
    """The lines that are paced. Belongs to the event loop's thread; `publish`, of another, puts a new list in place."""

    def __init__(self, books: Books) -> None:
        """books: asked at most five times a second for each budget."""
        self._books = books
        self._lines: dict[str, _Line] = {}

    def publish(self, lines: Iterable[LiveLine]) -> None:
        """Say which lines are published; what was learnt of those that stay is kept."""
        known = self._lines
        made: dict[str, _Line] = {}
        for line in lines:
            budgets = list(_budgets(line))
            if not budgets:
                continue
            one = made[line.id] = _Line(line, _schedule(line), budgets)
            before = known.get(line.id)
            if before is not None:
                one.curve, one.requests, one.since_ms = before.curve, before.requests, before.since_ms
                one.own = before.own
                for now, then in zip(one.budgets, before.budgets, strict=False):
                    now.pace, now.offered_micros = then.pace, then.offered_micros
        self._lines = made

    def chance(self, line: LiveLine, time_ms: int) -> float:
        """Return the probability with which a line that is eligible takes part in a decision now; counts the offer."""
        paced = self._lines.get(line.id)
        if paced is None:
            return 1.0
        self._learn(paced, time_ms)
        return min(self._of_budget(paced, one, time_ms) for one in paced.budgets)

    def reserved(self, line_id: str, lease_id: str, micros: int) -> None:
        """Note what was just reserved here (less than 0: given back)."""
        paced = self._lines.get(line_id)
        if paced is not None:
            paced.own[lease_id] = paced.own.get(lease_id, 0) + micros

    def _of_budget(self, paced: _Line, one: _Paced, time_ms: int) -> float:
        line, cost = paced.line, paced.line.each_micros
        if one.plan is None or time_ms >= one.until_ms:
            one.plan, one.until_ms = self._plan(paced, one, time_ms)
        one.offered_micros += cost
        day = line.timetable.budget_day(time_ms) if one.is_daily else ""
        if time_ms - one.pace.time_ms >= LOOK_MS:
            spent = self._books.spent_micros(Account("line", line.id, day)) + paced.unseen_micros(self._books)
            now = Now(time_ms, spent, one.offered_micros, cost)
            found = control(one.plan, one.limit_micros, now, one.pace)
            one.pace = found.pace
            return found.probability
        now = Now(time_ms, one.pace.spent_micros, one.offered_micros, cost)
        return probability(one.plan, one.limit_micros, now, one.pace, DEFAULT)

    def _plan(self, paced: _Line, one: _Paced, time_ms: int) -> tuple[Plan, int]:
        """Return the plan, and until when it holds: a day's until midnight, a learnt one's for an hour."""
        pacing, curve = pacing_plan.Pacing(paced.line.pacing.value), paced.curve
        if one.is_daily:
            midnight_ms = pacing_plan.day_of(time_ms, paced.schedule.zone)[1]
            return day_plan(paced.schedule, pacing, time_ms, curve), midnight_ms
        until_ms = time_ms + pacing_plan.HOUR_MS if pacing is pacing_plan.Pacing.LEARNT else paced.schedule.end_ms
        return flight_plan(paced.schedule, pacing, curve), until_ms

    def _learn(self, paced: _Line, time_ms: int) -> None:
        paced.requests += 1
        if not paced.since_ms:
            paced.since_ms = time_ms
        elif time_ms - paced.since_ms >= LEARN_MS:
            learn_requests(paced.curve, paced.requests, paced.since_ms, time_ms, paced.schedule.zone)
            paced.requests, paced.since_ms = 0, time_ms


def _budgets(line: LiveLine) -> Iterator[_Paced]:
    """A total can be paced only where it has an end; a day has one always."""
    if line.budget is None or line.pacing is Pacing.ASAP or line.price is None:
        return
    if line.budget.total_micros is not None and _end(line) < _start(line) + pacing_plan.FLIGHT_MS_MAX:
        yield _Paced(line.budget.total_micros, is_daily=False)
    if line.budget.daily_micros is not None:
        yield _Paced(line.budget.daily_micros, is_daily=True)


def _start(line: LiveLine) -> int:
    return max(line.timetable.starts_ms, line.campaign.timetable.starts_ms, line.published_ms)


def _end(line: LiveLine) -> int:
    return min(line.timetable.ends_ms, line.campaign.timetable.ends_ms)


def _schedule(line: LiveLine) -> pacing_plan.Schedule:
    found: Schedule = line.schedule
    hours = EVERY_HOUR if not found.hours else frozenset(
        _WEEKDAYS.index(day) * 24 + hour
        for span in found.hours
        for day in span.days or _WEEKDAYS
        for hour in range(span.from_hour, span.to_hour)
    )  # fmt: skip
    zone = UTC if found.zone == "UTC" else ZoneInfo(found.zone)
    return pacing_plan.Schedule(_start(line), _end(line), hours, zone)

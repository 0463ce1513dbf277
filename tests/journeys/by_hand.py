"""What a data set must come to, worked out from its rows alone, in as few words as possible."""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

GAP_MS = 1_800_000


class Seen(NamedTuple):
    """One event of a visitor. given: the data set's own session id, where it has one."""

    visitor: str
    time_ms: int
    given: str = ""


class Run(NamedTuple):
    """One session: a visitor's events with no more than the gap between two of them."""

    visitor: str
    start_ms: int
    end_ms: int
    events: int


def by_visitor(events: Iterable[Seen]) -> dict[str, list[Seen]]:
    """Each visitor's events in order of time; those of one moment in the order given."""
    found: dict[str, list[Seen]] = {}
    for event in events:
        found.setdefault(event.visitor, []).append(event)
    return {visitor: sorted(seen, key=lambda one: one.time_ms) for visitor, seen in found.items()}


def sessions(events: Iterable[Seen], gap_ms: int = GAP_MS) -> list[Run]:
    """Sort each visitor's events, cut where more than the gap lies between two; sorted."""
    found: list[Run] = []
    for visitor, seen in by_visitor(events).items():
        start = 0
        for end in range(1, len(seen) + 1):
            if end == len(seen) or seen[end].time_ms - seen[end - 1].time_ms > gap_ms:
                found.append(Run(visitor, seen[start].time_ms, seen[end - 1].time_ms, end - start))
                start = end
    return sorted(found)


def disagreements(events: Iterable[Seen], gap_ms: int = GAP_MS) -> tuple[int, int]:
    """Return (a new id of the data set after no more than the gap, the same id after more than the gap)."""
    early = late = 0
    for seen in by_visitor(events).values():
        for before, after in pairwise(seen):
            is_long = after.time_ms - before.time_ms > gap_ms
            early += after.given != before.given and not is_long
            late += after.given == before.given and is_long
    return early, late

"""What must be so after every fault: accepted = stored, each once, balanced books, the sessions of a brute force."""

from collections import Counter
from collections.abc import Iterable

from pipeline.core.books import total
from tests.faults.load import Load
from tests.faults.plant import GAP_MS, Plant
from tests.journeys.by_hand import Run, Seen, sessions


def check(plant: Plant, loads: Iterable[Load], timeout_s: float = 120) -> dict[str, object]:
    """Wait until all is stored, then compare everything since the plant's start; return figures for the report."""
    every = list(loads)
    for load in every:
        assert load.problems == []
        assert set(load.answers) <= {0, 200, 503}
    accepted: dict[str, Seen] = {}
    for load in every:
        accepted |= load.accepted
    status = plant.drained(timeout_s)
    stored = Counter(
        {
            str(name): int(str(many))
            for name, many in plant.ask(
                "SELECT event_id, count() FROM events FINAL WHERE startsWith(visitor, 'v') GROUP BY event_id"
            )
        }
    )
    assert set(stored) == set(accepted), _difference(set(stored), set(accepted))
    assert max(stored.values(), default=1) == 1, "an event is stored twice"
    books = total(status.books)
    assert status.is_balanced, books
    expected = sessions(accepted.values(), GAP_MS)
    found = stored_sessions(plant)
    assert found == expected, _difference(set(found), set(expected))
    return {"events": len(accepted), "sessions": len(expected), "duplicates refused": books.duplicate}


def stored_sessions(plant: Plant) -> list[Run]:
    """Return the visitors' sessions as the warehouse has them, sorted."""
    rows = plant.ask(
        "SELECT visitor, toUnixTimestamp64Milli(start), toUnixTimestamp64Milli(end), events FROM sessions FINAL "
        "WHERE startsWith(visitor, 'v')"
    )
    return sorted(Run(str(row[0]), *(int(str(value)) for value in row[1:])) for row in rows)


def _difference(found: set[object] | set[str] | set[Run], expected: set[object] | set[str] | set[Run]) -> str:
    missing, extra = expected - found, found - expected  # type: ignore[operator]
    return f"{len(missing)} missing, {len(extra)} too many; for example {list(missing)[:3]}, {list(extra)[:3]}"

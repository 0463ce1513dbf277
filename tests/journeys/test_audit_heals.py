"""Everything running: the books hold while events come, and what is done to the warehouse is found and undone."""

from pathlib import Path

import pytest
from rich.console import Console

from pipeline import auditor, status
from pipeline.audit.command import Wish, opened, run
from pipeline.core.books import total, total_refused
from pipeline.edge.clock import now_ms
from pipeline.replay.formats import Recorded
from tests.journeys.rig import Whole, whole

pytestmark = pytest.mark.journey

QUIET = Console(quiet=True)
EVENTS = 1_000


def visits(count: int) -> list[Recorded]:
    """Page views of some hundred visitors; every tenth is of an unknown type and will be refused."""
    began_ms = now_ms() - count
    return [
        Recorded(
            began_ms + n,
            f"visitor-{n % 300}",
            {
                "type": "page" if n % 10 else "nonsense",
                "messageId": f"m{n}",
                "anonymousId": f"visitor-{n % 300}",
                "properties": {"url": f"https://example.com/{n % 50}"},
            },
        )
        for n in range(count)
    ]


def damage(running: Whole) -> None:
    """Delete one row, alter another, add a third."""
    place = "(SELECT (p, o, n) FROM events ORDER BY event_id LIMIT 1 OFFSET {})"
    running.ask(f"DELETE FROM events WHERE (p, o, n) IN {place.format(10)}")  # noqa: S608
    running.ask("INSERT INTO events SELECT * REPLACE (event_time + 1 AS event_time) FROM events LIMIT 1")
    running.ask("INSERT INTO sessions SELECT * REPLACE (toInt64(99) AS events) FROM sessions LIMIT 1")
    running.ask("DELETE FROM bad WHERE n >= 0 AND p = (SELECT p FROM bad LIMIT 1)")


def test_the_books_hold_and_damage_is_named_and_healed(tmp_path: Path) -> None:
    with whole(tmp_path) as running:
        running.send(visits(EVENTS), 0)
        for _ in range(5):
            assert status.read(running.settings, ask_parts=False).is_balanced, "while events are on their way, too"
        found = running.drained()
        books, refused = total(found.books), total_refused(found.refused_books)
        assert (books.received, books.stored + books.refused) == (EVENTS, EVENTS)
        assert (books.lost, books.lost_blocks, books.expired) == (0, 0, 0)
        assert refused.stored == refused.refused == books.refused
        before = running.ask("SELECT * FROM events FINAL ORDER BY p, o, n")
        assert run(running.settings, QUIET, Wish(heals=False, deep=False, as_json=False)) == 0
        damage(running)
        assert not status.read(running.settings, ask_parts=False).is_balanced
        assert run(running.settings, QUIET, Wish(heals=False, deep=True, as_json=True)) == 1
        with opened(running.settings, heals=True) as one:
            report = one.look(600)
            auditor.tell(report)
            assert {fault.table for fault in report.faults} >= {"events", "sessions"}
            assert report.left == []
        auditor.look(running.settings)
        assert status.read(running.settings, ask_parts=False).is_balanced
        assert running.ask("SELECT * FROM events FINAL ORDER BY p, o, n") == before
        assert run(running.settings, QUIET, Wish(heals=False, deep=True, as_json=False)) == 0

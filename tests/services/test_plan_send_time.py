"""`herald plan send-time`: from a file of visits and sends to an hour for each visitor. Runs in this process."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.services.test_plan import herald


def visits(visitor: str, segment: str, hour: int, days: int) -> list[str]:
    """A visit a day, of two pages."""
    first = datetime(2026, 1, 5, hour)
    return [
        f"{visitor},{(first + timedelta(days=day, minutes=minute)).isoformat()},{segment},,"
        for day in range(days)
        for minute in (5, 7)
    ]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Twenty people of the evening, one of them at six in the morning, and a segment of which one visit is known."""
    path = tmp_path / "visits.csv"
    rows = [row for number in range(20) for row in visits(f"v{number}", "evening", 20, 30)]
    rows += visits("early", "evening", 6, 60) + visits("new", "noon", 12, 1)
    path.write_text("\n".join(["visitor,time,segment,sent,answered", *rows]) + "\n")
    return path


def test_each_visitor_gets_an_hour_and_the_new_one_that_of_the_others(log: Path) -> None:
    found = herald("send-time", "--data", log, "--json")
    assert found.exit_code == 0, found.output
    content = json.loads(found.output)
    assert content["segments"]["evening"]["hour"] == 20
    assert content["visitors"]["v3"]["hour"] == 20
    assert content["visitors"]["early"]["hour"] == 6
    assert content["visitors"]["early"]["known"] == "visitor"
    assert content["visitors"]["early"]["sure"] > 0.95
    assert content["visitors"]["new"]["usual_hour"] == 20  # one visit makes no segment


def test_people_read_whose_hour_is_their_own(log: Path) -> None:
    found = herald("send-time", "--data", log)
    assert "early" in found.output
    assert "of 22 visitors have an hour of their own" in found.output
    assert "no sends in the file" in found.output


def test_answers_outweigh_visits(log: Path) -> None:
    """Mails at nine are answered by half, at all other hours by none."""
    first = datetime(2026, 1, 5)
    sends = [
        f"v1,{(first + timedelta(hours=hour)).isoformat()},evening,1,{int(hour % 24 == 9 and hour % 48 > 24)}"
        for hour in range(24 * 200)
    ]
    log.write_text(log.read_text() + "\n".join(sends) + "\n")
    content = json.loads(herald("send-time", "--data", log, "--json").output)
    assert content["segments"]["evening"]["hour"] == 9
    assert "no sends" not in herald("send-time", "--data", log).output


def test_only_hours_that_are_allowed_are_advised_in_the_zone_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    rows = [f"a,2026-01-{day:02}T19:30:00Z" for day in range(1, 29)]
    path.write_text("\n".join(["visitor,time", *rows, "a,2026-01-29 19:30:00 UTC"]) + "\n")
    berlin = json.loads(herald("send-time", "--data", path, "--zone", "Europe/Berlin", "--json").output)
    assert berlin["visitors"]["a"]["hour"] == 20
    for span, allowed in (("8-18", range(8, 18)), ("22-6", (22, 23, 0, 1, 2, 3, 4, 5)), ("21-24", (21, 22, 23))):
        told = json.loads(herald("send-time", "--data", path, "--hours", span, "--json").output)
        assert told["visitors"]["a"]["hour"] in allowed


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("visitor,time\n", (), "no visits, expected a row at least"),
        ("visitor\na\n", (), "no column time"),
        ("visitor,time\na,soon\n", (), "2: time: found 'soon', expected a moment such as"),
        ("visitor,time\n,2026-01-05\n", (), "2: visitor: found ''"),
        ("visitor,time,sent\na,2026-01-05,maybe\n", (), "2: sent: found 'maybe', expected 1 or 0"),
        ("visitor,time\na,2026-01-05\n", ("--hours", "9"), "--hours: found '9', expected a span such as 8-20"),
        ("visitor,time\na,2026-01-05\n", ("--hours", "9-25"), "--hours: found '9-25'"),
        ("visitor,time\na,2026-01-05\n", ("--zone", "Mars"), "--zone: found 'Mars', expected a time zone"),
        ("visitor,time\na,2026-01-05\n", ("--zone", "../x"), "--zone: found '../x', expected a time zone"),
    ],
)
def test_wrong_visits_are_told_by_their_place(text: str, options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text(text)
    found = herald("send-time", "--data", path, *options)
    assert found.exit_code == 2
    assert said in found.output.replace("\n", "")

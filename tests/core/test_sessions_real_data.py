"""Sessions of published clickstreams, against the counts known for them and against their own session ids.

The folder is named by HERALD_TEST_DATA (default: ../shared/data beside the project); what is absent is skipped.
"""

import csv
import gzip
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from pipeline.core.sessionise import Sessionise
from pipeline.core.sessions import SessionRules
from pipeline.core.state import StateView
from schemas.block import EventBlock, Origin, SessionBlock, Totals, partition_of
from schemas.event import Event, EventType
from schemas.session import Session

DATA = Path(os.environ.get("HERALD_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
GAP_MS = 1_800_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
RULES = SessionRules(gap_ms=GAP_MS, retain_ms=HOUR_MS)
PARTITIONS = 4
BLOCK_EVENTS = 500

Name = tuple[str, int, str]
Given = dict[str, str]
"""event id -> the data set's own session id"""

NGINX_LINE = re.compile(r'(\S+) \S+ \S+ \[([^\]]+)\] "(?:\S+ (\S+)[^"]*)?" \d+ \d+ "[^"]*" "(.*)"\n?')


def lines_of(path: str) -> Iterator[str]:
    if not (DATA / path).exists():
        pytest.skip(f"{path} is not in {DATA} (HERALD_TEST_DATA)")
    with gzip.open(DATA / path, "rt", encoding="utf-8", newline="") as file:
        yield from file


def ms_of(text: str, form: str) -> int:
    time = datetime.strptime(text, form)
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()) * 1_000


def event_of(event_id: str, kind: EventType, time_ms: int, visitor: str, path: str, revenue_micros: int = 0) -> Event:
    return Event(event_id, kind, time_ms, time_ms, "site", visitor=visitor, path=path, revenue_micros=revenue_micros)


def sessions_of(events: Iterable[Event], rules: SessionRules = RULES) -> tuple[dict[Name, Session], Counter[str]]:
    """Fold the events in the order given, by partition, in blocks, and return the sessions in the world and counts."""
    by_partition = defaultdict(list)
    for event in events:
        by_partition[partition_of(event.visitor, PARTITIONS)].append(event)
    world: dict[Name, Session] = {}
    counts: Counter[str] = Counter()
    for partition, mine in by_partition.items():
        stage = Sessionise(StateView(), rules)
        for begin in range(0, len(mine), BLOCK_EVENTS):
            block = EventBlock(0, Totals(), [], mine[begin : begin + BLOCK_EVENTS])
            applied = stage.apply(Origin(partition, begin), block)
            counts.update({" ".join(what): times for what, times in applied.counts.items()})
            for output in applied.outputs:
                assert isinstance(output.block, SessionBlock)
                for row in output.block.sessions:
                    name = (row.visitor, row.session.start_ms, row.session.stray_id)
                    if row.deleted:
                        del world[name]
                    else:
                        world[name] = msgspec.structs.replace(row.session)
            stage.take_changes()
    return world, counts


def in_time_order(events: Iterable[Event]) -> list[Event]:
    """Sorted by time; events of one second stay in the order of the file."""
    return sorted(events, key=lambda event: event.event_time_ms)


def differences(events: Iterable[Event], given: Given, world: dict[Name, Session]) -> Counter[str]:
    """Look at each pair of one visitor's neighbouring events: do we and the data set see one session or two?"""
    ends = {(visitor, session.end_ms) for (visitor, _, _), session in world.items()}
    last: dict[str, Event] = {}
    found: Counter[str] = Counter()
    for event in in_time_order(events):
        before = last.get(event.visitor)
        last[event.visitor] = event
        if before is None:
            continue
        # sessions do not overlap: the pair is apart exactly where the first of the two ends a session before the second
        is_apart = (event.visitor, before.event_time_ms) in ends and event.event_time_ms > before.event_time_ms
        is_given_apart = given[event.event_id] != given[before.event_id]
        found[f"{'two' if is_apart else 'one'}, given {'two' if is_given_apart else 'one'}"] += 1
    return found


def identical(events: Iterable[Event], given: Given, world: dict[Name, Session]) -> int:
    """Return how many given sessions (of one visitor) are one of ours, event by event."""
    spans = defaultdict(list)
    for (visitor, _, _), session in world.items():
        spans[visitor].append(session)
    ours, theirs = defaultdict(set), defaultdict(set)
    for event in events:
        (mine,) = (one for one in spans[event.visitor] if one.start_ms <= event.event_time_ms <= one.end_ms)
        ours[event.visitor, mine.start_ms].add(event.event_id)
        theirs[event.visitor, given[event.event_id]].add(event.event_id)
    return len(set(map(frozenset, ours.values())) & set(map(frozenset, theirs.values())))


@pytest.fixture(scope="module")
def rees46() -> tuple[list[Event], Given]:
    kinds = {"view": EventType.PRODUCT_VIEW, "cart": EventType.ADD_TO_CART, "purchase": EventType.PURCHASE}
    events, given = [], {}
    for number, row in enumerate(csv.DictReader(lines_of("rees46/2019-Oct-first-17434.csv.gz"))):
        event_id, kind = f"r{number:05}", kinds[row["event_type"]]
        whole, _, cents = row["price"].partition(".")
        micros = int(whole) * 1_000_000 + int(cents.ljust(6, "0")) if kind is EventType.PURCHASE else 0
        time_ms = ms_of(row["event_time"], "%Y-%m-%d %H:%M:%S UTC")
        events.append(event_of(event_id, kind, time_ms, row["user_id"], f"/product/{row['product_id']}", micros))
        given[event_id] = row["user_session"]
    return events, given


@pytest.fixture(scope="module")
def trivago() -> tuple[list[Event], Given]:
    """In the order of the file: by user and session, not by time."""
    events, given = [], {}
    for number, row in enumerate(csv.DictReader(lines_of("trivago/trivago_sessions.csv.gz"))):
        kind = EventType.CLICK if row["action_type"] == "clickout item" else EventType.CUSTOM
        events.append(event_of(f"t{number:05}", kind, int(row["timestamp"]) * 1_000, row["user_id"], ""))
        given[f"t{number:05}"] = row["session_id"]
    return events, given


@pytest.fixture(scope="module")
def nginx() -> list[Event]:
    """A visitor is an address with a user agent."""
    events = []
    for number, line in enumerate(lines_of("access_logs/nginx_combined_2025.log.gz")):
        found = NGINX_LINE.fullmatch(line)
        assert found, line
        time_ms = ms_of(found[2], "%d/%b/%Y:%H:%M:%S %z")
        events.append(event_of(f"n{number:04}", EventType.PAGE, time_ms, f"{found[1]} {found[4]}", found[3] or ""))
    return events


def test_rees46_has_4518_sessions_by_the_30_minute_rule(rees46: tuple[list[Event], Given]) -> None:
    world, counts = sessions_of(rees46[0])
    assert len(world) == 4_518
    assert sum(session.events for session in world.values()) == 17_434
    assert sum(session.purchases for session in world.values()) == 214
    assert sum(session.revenue_micros for session in world.values()) == 59_442_630_000
    assert not any(what.startswith("late") for what in counts), "the file is in time order"


def test_rees46_differs_from_its_own_session_ids_in_known_ways(rees46: tuple[list[Event], Given]) -> None:
    """Its ids change 553 times after a pause of 30 minutes or less, where we see one session, and live through a
    longer one once. Three times a visitor comes back to an older id, and one id is shared by two visitors."""
    events, given = rees46
    world, _ = sessions_of(events)
    found = differences(events, given, world)
    assert found == {"one, given one": 12_363, "one, given two": 553, "two, given two": 13, "two, given one": 1}
    visitors, ids = {event.visitor for event in events}, set(given.values())
    owned = {(event.visitor, given[event.event_id]) for event in events}
    runs = len(visitors) + found["one, given two"] + found["two, given two"]
    assert (len(visitors), len(ids), len(owned), runs) == (4_504, 5_066, 5_067, 5_070)
    assert runs - found["one, given two"] + found["two, given one"] == len(world)
    assert identical(events, given, world) == 4_098


def test_trivago_has_3845_sessions_by_the_30_minute_rule(trivago: tuple[list[Event], Given]) -> None:
    world, counts = sessions_of(in_time_order(trivago[0]))
    assert len(world) == 3_845
    assert sum(session.events for session in world.values()) == 47_938
    assert sum(session.clicks for session in world.values()) == 6_722
    assert not any(what.startswith("late") for what in counts)


def test_trivago_differs_from_its_own_session_ids_in_known_ways(trivago: tuple[list[Event], Given]) -> None:
    """108 given sessions hold 111 longer pauses, and 56 times a new id begins after 30 minutes or less."""
    events, given = trivago
    world, _ = sessions_of(in_time_order(events))
    found = differences(events, given, world)
    assert found == {"one, given one": 44_037, "one, given two": 56, "two, given two": 445, "two, given one": 111}
    assert len(set(given.values())) - found["one, given two"] + found["two, given one"] == len(world)
    assert identical(events, given, world) == 3_579


def test_trivago_in_the_order_of_its_file_gives_the_same_sessions(trivago: tuple[list[Event], Given]) -> None:
    """By user, not by time: nearly everything is late, by up to two days, and nothing is lost while it is retained."""
    in_order, _ = sessions_of(in_time_order(trivago[0]))
    as_filed, counts = sessions_of(trivago[0], SessionRules(GAP_MS, 2 * DAY_MS))

    def timeless(world: dict[Name, Session]) -> dict[Name, Session]:
        return {
            name: msgspec.structs.replace(one, late_events=0, touched_ms=0, closed=False) for name, one in world.items()
        }

    assert timeless(as_filed) == timeless(in_order)
    assert counts["late merged"] > 10_000
    assert counts["late alone"] == 0


def test_trivago_in_the_order_of_its_file_loses_no_event_beyond_retention(trivago: tuple[list[Event], Given]) -> None:
    world, counts = sessions_of(trivago[0])
    assert sum(session.events for session in world.values()) == 47_938
    assert counts["late alone"] > 1_000


def test_the_nginx_log_has_1074_sessions_by_address_and_user_agent(nginx: list[Event]) -> None:
    """A site's log over a week: most of it crawlers, 786 visitors."""
    world, _ = sessions_of(nginx)
    assert (len(world), len({visitor for visitor, _, _ in world})) == (1_074, 786)
    assert sum(session.pages for session in world.values()) == len(nginx) == 5_749

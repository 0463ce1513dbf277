"""Who counts caps, on the real stores: turns on SQLite and PostgreSQL, what is handed over, and what is not known."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from campaigns_rig import new_database, of_url, postgres
from memory_rig import change, read
from pydantic import SecretStr

from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.slots import SlotStore
from pipeline.core.caps import CapRule, OwnShow
from pipeline.core.decide import make_id
from pipeline.core.slots import LAG_MS, SLOTS, Asker, Process, SlotRules, Turn
from pipeline.delivery.counted import Counted
from pipeline.delivery.memory import Memory
from pipeline.delivery.offer import NOBODY, Whom
from pipeline.delivery.shows import GROUP_SLOTS, Entry, Floor, Shows
from pipeline.delivery.slots import NOTES_BYTES_MAX, Need, Slots, doubts
from pipeline.edge.clock import boot_s, now_ms
from pipeline.settings import Settings
from schemas.campaign import DAY_MS
from schemas.outcome import Choice, DecisionLog
from schemas.profile import Profile, Shown, VisitorState
from schemas.topics import MODELS, PROFILES
from tests.waits import until

RULES = SlotRules(lease_ms=200, alone_ms=200, margin_ms=100)
ONCE = (CapRule("creative", "red", "day", 1, ("creative", "red"), 1),)
SALT = b"0" * 16
ALL = range(SLOTS)
RED = OwnShow(1 << 20, "red", "all", "spring")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/campaigns.db"
    if request.param == "postgresql":
        url = new_database(request.getfixturevalue("server"), f"slots{abs(hash(str(tmp_path)))}")
    made = Database(url_of(of_url(url, tmp_path)))
    made.migrate()
    yield made
    made.close()


def nothing(turn: Turn) -> dict[int, str]:
    return {}


def test_turns_are_stored_and_notes_reach_the_next_holder_once(database: Database) -> None:
    store = SlotStore(database, SlotRules())
    one, other = Process("one", "here", "http://one"), Process("other", "there", "http://other")
    assert len(store.turn(Asker(one, {}), nothing).turn.taken) == SLOTS
    known = dict.fromkeys(range(SLOTS), 1)
    assert store.look(Asker(one, known)).turn.is_quiet
    assert store.turn(Asker(other, {}), nothing).turn.mine == []
    given = store.turn(Asker(one, known, noted=known), lambda turn: dict.fromkeys(turn.given, "note")).turn.given
    found = store.turn(Asker(other, {}), nothing)
    assert (len(given), found.turn.taken) == (SLOTS // 2, sorted(given))
    notes = store.notes(found.noted)
    assert [(note.slot, note.body) for note in notes] == [(slot, "note") for slot in given]
    assert {each.address for each in found.processes} >= {"http://one", "http://other"}
    store.forget(notes[:-1])
    assert store.look(Asker(other, {})).noted == {notes[-1].slot}
    store.forget(notes[-1:])
    assert not store.look(Asker(other, {})).noted
    store.give_back(one, dict.fromkeys(range(SLOTS), "[]"))
    assert len(store.notes(range(SLOTS))) == SLOTS // 2, "it had no more to give back"
    assert store.end(one) == []
    assert len(store.turn(Asker(other, {}), nothing).turn.mine) == SLOTS


def test_what_a_process_was_given_while_it_ended_is_given_back_too(database: Database) -> None:
    """It has not noticed yet: else nobody would count there until its time is over, and then wait for its home."""
    store = SlotStore(database, SlotRules())
    one, other = Process("one", "here", "http://one"), Process("other", "there", "http://other")
    known = {row.slot: row.term for row in store.turn(Asker(one, {}), nothing).rows}
    store.turn(Asker(other, {}), nothing)
    given = store.turn(Asker(one, known), nothing).turn.given
    assert sorted(store.end(other)) == sorted(given)
    store.give_back(other, dict.fromkeys(given, "note"))
    found = store.turn(Asker(one, known), nothing)
    assert (found.turn.taken, found.noted) == (sorted(given), set(given))


def test_a_home_that_was_away_is_waited_for_until_it_brings_what_it_knows(database: Database) -> None:
    store = SlotStore(database, RULES)
    one, other = Process("one", "here", ""), Process("other", "there", "")
    store.turn(Asker(one, {}), nothing)
    until(lambda: store.look(Asker(other, {})).turn.mine, "it is over")
    rows = store.turn(Asker(other, {}), nothing).rows
    assert [[wait.home for wait in row.waits] for row in rows] == [["here"]] * SLOTS
    asker = Asker(Process("again", "here", ""), {}, noted={row.slot: row.term for row in rows})
    back = store.turn(asker, lambda turn: dict.fromkeys(turn.brought, "[]"))
    assert back.turn.brought == list(range(SLOTS))
    seen = store.look(Asker(other, {}))
    assert ([row.waits for row in seen.rows], len(seen.noted)) == ([()] * SLOTS, SLOTS)


def test_a_second_database_object_of_a_process_leaves_the_locks_of_the_first(tmp_path: Path) -> None:
    """SQLite's locks belong to the process: closing the file anywhere in it would drop them, and let another process,
    when it closes, delete the log of changes that is in use."""
    one, other = (Database(url_of(Settings(data_dir=tmp_path))) for _ in range(2))
    one.migrate()
    with one.reading():
        other.migrate()
        wal = tmp_path / "campaigns.db-wal"
        before = wal.stat().st_ino
        code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM meta'); c.close()"
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "campaigns.db")], check=True, timeout=60)
        assert wal.exists()
        assert wal.stat().st_ino == before
    one.close()
    other.close()


class Part:
    """What a delivery process has of it, on a data folder and a store; its event loop in a thread."""

    def __init__(self, store: Path, folder: Path) -> None:
        url = SecretStr(f"sqlite:///{store}/campaigns.db")
        self.settings = Settings(data_dir=folder, campaigns_url=url, cap_lease_ms=3_000, lease_ms=3_000, partitions=1)
        self.memory = Memory(self.settings)
        self.shows = Shows(folder)
        self.slots = Slots(self.settings, self.shows, self.memory, f"http://{folder.name}")
        self.counted = Counted(self.memory, SALT, self.slots)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.version = 0

    def start(self) -> None:
        self.slots.start(self.counted, self._loop)

    def profiles(self, at_ms: int, **states: VisitorState) -> None:
        """Have the profiles read up to a time."""
        self.version += 1
        read(self.memory, PROFILES, 0, change(self.version, dict(states), block_time_ms=at_ms))
        read(self.memory, MODELS, 0)

    def show(self, visitor: str, hint: str = "", at_ms: int | None = None) -> str:
        """Show the red one, once a day at most; return why not."""
        return self._in_loop(lambda: self._show(visitor, hint, now_ms() if at_ms is None else at_ms))

    def _show(self, visitor: str, hint: str, time_ms: int) -> str:
        whom = Whom(visitor, self.memory.visitor(visitor) if visitor else NOBODY, {}, "demo", not visitor, hint)
        view = self.counted.view(whom, time_ms, True)
        assert view is not None
        full = view.full(ONCE)
        if full is not None:
            return full.detail
        choice = Choice("red", 0, 1.0, "spring", "red", line_id="all")
        made = DecisionLog(make_id(time_ms, visitor, 7), "home", "", "", "", [choice], ["red"], [1.0])
        return "" if self.counted.note(made, whom, time_ms, [choice]) else "lost"

    def _in_loop(self, work: Callable[[], str]) -> str:
        async def do() -> str:
            return work()

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(60)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.slots.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Callable[[str], Part]]:
    made: list[Part] = []

    def make(name: str) -> Part:
        (tmp_path / name).mkdir(exist_ok=True)
        made.append(Part(tmp_path, tmp_path / name))
        made[-1].profiles(now_ms())
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_what_was_shown_goes_over_with_an_orderly_end_to_another_machine(part: Callable[[str], Part]) -> None:
    one = part("one")
    one.start()
    until(lambda: one.slots.holds_all, "all slots are held")
    assert [one.show("ann"), one.show("", "Firefox"), one.show("ann")] == ["", "", "creative:day"]
    one.close()
    other = part("other")
    other.start()
    until(lambda: other.slots.holds_all, "all slots are taken over")
    shown = [other.show("ann"), other.show("", "Firefox"), other.show("bob"), other.show("", "Chrome")]
    assert shown == ["creative:day", "creative:day", "", ""]


def test_what_a_machine_took_along_when_it_died_is_unknown_until_it_is_back(part: Callable[[str], Part]) -> None:
    """Whom nobody knows by an id sees nothing with a cap; the others do once the profiles have passed its end."""
    gone = part("gone")
    store = SlotStore(Database(url_of(gone.settings)), RULES)
    store._database.migrate()
    store.turn(Asker(Process(gone.shows.holder, gone.shows.home, ""), {}), nothing)
    today = str(now_ms() // DAY_MS)
    key = gone.counted._key("", "Firefox", now_ms())
    mark = int(make_id(now_ms(), "", 7)[:12], 16) << 20
    gone.shows.keep(Entry(key, today, [OwnShow(mark, "red", "all", "spring")]))
    gone.shows.keep(Entry("ann", "", [OwnShow(mark, "red", "all", "spring")]))
    other = part("other")
    other.start()
    until(lambda: other.slots.holds_all, "its lease is over")
    assert [other.show("ann"), other.show("", "Firefox")] == ["unknown", "unknown"]
    ended_ms = now_ms()
    other.profiles(ended_ms + LAG_MS + 1, ann=VisitorState(Profile(), shown={"red": Shown("all", "spring", 1, [mark])}))
    assert [other.show("ann"), other.show("bob"), other.show("", "Firefox")] == ["creative:day", "", "unknown"]

    back = Part(gone.settings.data_dir.parent, gone.settings.data_dir)
    try:
        back.start()
        until(lambda: other.slots.look_soon() or not any(other.slots.needs), "all was brought")
    finally:
        back.close()
    until(lambda: other.slots.holds_all, "all slots are back")
    assert [other.show("", "Firefox"), other.show("", "Chrome")] == ["creative:day", ""]
    store._database.close()


def test_nothing_that_has_a_cap_is_shown_unwritten(part: Callable[[str], Part]) -> None:
    """The disk refuses: the folder of the files is gone."""
    one = part("one")
    one.start()
    until(lambda: one.slots.holds_all, "all slots are held")
    (one.settings.data_dir / "caps").rename(one.settings.data_dir / "elsewhere")
    assert [one.show("ann"), one.show("ann")] == ["lost", "unknown"]
    (one.settings.data_dir / "elsewhere").rename(one.settings.data_dir / "caps")
    until(lambda: one.show("ann") == "", "the disk is back")


def test_what_is_handed_over_is_read_before_the_store_is_held(part: Callable[[str], Part], tmp_path: Path) -> None:
    """However long that takes, leases of money are had meanwhile. A pipe stands for a file that takes long."""
    one = part("one")
    one.start()
    until(lambda: one.slots.holds_all, "all slots are held")
    assert one.show("ann") == ""
    neighbour = Shows(one.settings.data_dir)
    pipe = one.settings.data_dir / "caps" / f"{neighbour.holder}-id-{SLOTS // GROUP_SLOTS - 1}.1.shows"
    os.mkfifo(pipe)
    other = part("other")
    other.start()
    until(lambda: other.slots.has_looked, "it asks for its share")
    one.slots.look_soon()
    end = until(lambda: being_read(pipe), "the pipe is read")
    try:
        money = Database(url_of(one.settings))
        with money.writing():
            assert not one.slots.tenure.is_held(SLOTS - 1, boot_s())
        money.close()
    finally:
        pipe.unlink()
        os.close(end)
        neighbour.close()
    until(lambda: len(other.slots._known) == SLOTS // 2, "half of it is handed over")
    assert one.slots.needs == [None] * SLOTS


def being_read(pipe: Path) -> int:
    """Return the other end of a pipe that somebody reads, 0 while nobody does."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def test_of_much_that_is_to_be_learnt_some_is_left_to_the_next_turn(part: Callable[[str], Part]) -> None:
    """Else what is held already would lapse meanwhile; whose counts are not learnt is shown nothing with a cap."""
    one = part("one")
    one.start()
    until(lambda: one.slots.holds_all, "all slots are held")
    assert one.slots._learn_of(ALL, (), 0.0) == set(range(GROUP_SLOTS))
    assert one.slots._learn_of(ALL, (), boot_s() + 60) == set(ALL)


def test_notes_of_much_go_a_group_of_slots_at_a_time(part: Callable[[str], Part]) -> None:
    one = part("one")
    many = RED._replace(creative_id="r" * NOTES_BYTES_MAX)
    one.shows.keep(Entry("bob", "", [many]))
    one.shows.keep(Entry("ann", "", [many]))
    one.shows.keep(Entry("carl", "", [RED]))
    found = [sorted(notes) for notes in one.slots._notes(ALL)]
    assert [notes[-1] // GROUP_SLOTS for notes in found] == [0, 6, 7]
    assert sorted(slot for notes in found for slot in notes) == list(ALL)


def test_what_is_merged_is_merged_at_the_loops_time_and_a_day_never_turns_back(part: Callable[[str], Part]) -> None:
    """Else what was merged just before midnight would have the counts of the new day forgotten."""
    one = part("one")
    one.start()
    until(lambda: one.slots.holds_all, "all slots are held")
    ended: list[int] = []
    merged: list[int] = []

    def busy() -> None:
        time.sleep(0.05)
        ended.append(now_ms())

    class Merged:
        def merge(self, entries: Iterable[Entry], time_ms: int) -> None:
            merged.append(time_ms)

    one._loop.call_soon_threadsafe(busy)
    one.slots._counts = Merged()
    one.slots._merge(iter([Entry("ann", "", [RED])]))
    assert merged[0] >= ended[0]

    midnight_ms = (now_ms() // DAY_MS + 1) * DAY_MS
    assert one.show("", "Firefox", midnight_ms) == ""
    assert one._in_loop(lambda: str(one.counted.merge([], midnight_ms - 1))) == "None"
    assert one.show("", "Firefox", midnight_ms) == "creative:day"
    assert one.show("", "Chrome", midnight_ms - 1) == "unknown", "the clock was set back: that day's counts are gone"
    assert [one.show("", hint, midnight_ms) for hint in ("Firefox", "Chrome")] == ["creative:day", ""]


def test_looks_that_find_nothing_new_are_no_more_often_than_without_being_wanted(part: Callable[[str], Part]) -> None:
    """As when another process does not answer, and each decision for its visitors asks to look."""
    slots = part("one").slots
    pauses = []
    for _ in range(4):
        slots.look_soon()
        slots._wait()
        pauses.append(slots._gather_s)
    assert pauses == [0.2, 0.4, 0.8, 1.0]
    slots._standing = "another"
    slots.look_soon()
    slots._wait()
    assert slots._gather_s == 0.2


def test_who_answers_at_our_own_address_is_not_asked_and_told_of(part: Callable[[str], Part]) -> None:
    """Two machines, each of which takes 127.0.1.1 for its address: they would ask themselves for ever."""
    one, other = part("one"), part("other")
    other.slots._me = other.slots._me._replace(address=one.slots._me.address)
    for each in (one, other):
        each.start()
        until(lambda each=each: each.slots.has_looked, "it has looked")
    one.slots.look_soon()
    until(lambda: [len(each.slots._known) for each in (one, other)] == [SLOTS // 2] * 2, "slots are shared out")
    until(lambda: one.slots._doubt and other.slots._doubt, "it is told of")
    assert {each.slots.address(slot) for each in (one, other) for slot in ALL} == {""}
    shown = [one.show(name) for name in "abcdefgh"]
    assert set(shown) == {"", "unknown"}


@pytest.mark.parametrize(("home", "address", "expected"), [
    ("a", "http://10.0.0.2:1", ""), ("b", "http://10.0.0.2:1", ""), ("a", "http://127.0.0.1:2", ""),
    ("b", "http://127.0.0.1:2", "one of them at http://127.0.0.1:2"), ("b", "http://[::1]:2", "data folders"),
    ("a", "http://10.0.0.1:1", "at our own address, http://10.0.0.1:1"), ("b", "http://10.0.0.1:1", "our own address"),
])  # fmt: skip
def test_addresses_that_cannot_be_reached_from_everywhere_are_told_of(home: str, address: str, expected: str) -> None:
    found = doubts(Process("me", "a", "http://10.0.0.1:1"), [Process("other", home, address)])
    assert expected in found
    assert bool(found) == bool(expected)


@pytest.mark.parametrize(("version", "read_ms", "is_known"), [
    (4, 1_000, False), (5, 1_000, True), (0, 1_000 + LAG_MS, False), (0, 1_001 + LAG_MS, True),
])  # fmt: skip
def test_who_has_read_the_profiles_less_far_than_their_files_were_deleted_by_does_not_know(
    tmp_path: Path, version: int, read_ms: int, is_known: bool
) -> None:
    """By version; in a log that was put back from a copy, whose versions begin anew, by time."""
    memory = Memory(Settings(data_dir=tmp_path, partitions=1))
    read(memory, PROFILES, 0, change(version, {}, block_time_ms=read_ms))
    need = Need(Floor(1, (5,), 1_000), (), 1, 1)
    assert (need.is_met("ann", version, memory, 2_000), need.is_over(memory)) == (is_known, is_known)

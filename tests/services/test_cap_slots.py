"""Who counts caps, on the real stores: turns on SQLite and PostgreSQL, what is handed over, and what is not known."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from campaigns_rig import new_database, of_url, postgres
from delivery_rig import until
from memory_rig import change, read
from pydantic import SecretStr

from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.slots import SlotStore
from pipeline.core.caps import CapRule, OwnShow
from pipeline.core.decide import make_id
from pipeline.core.slots import LAG_MS, SLOTS, Process, SlotRules, Turn
from pipeline.delivery.counted import Counted
from pipeline.delivery.memory import Memory
from pipeline.delivery.offer import NOBODY, Whom
from pipeline.delivery.shows import Entry, Floor, Shows
from pipeline.delivery.slots import Need, Slots
from pipeline.edge.clock import now_ms
from pipeline.settings import Settings
from schemas.campaign import DAY_MS
from schemas.outcome import Choice, DecisionLog
from schemas.profile import Profile, Shown, VisitorState
from schemas.topics import MODELS, PROFILES

RULES = SlotRules(lease_ms=200, alone_ms=200, margin_ms=100)
ONCE = (CapRule("creative", "red", "day", 1, ("creative", "red"), 1),)
SALT = b"0" * 16


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
    assert len(store.turn(one, {}, (), nothing).turn.taken) == SLOTS
    known = dict.fromkeys(range(SLOTS), 1)
    assert store.look(one, known, ()).turn.is_quiet
    assert store.turn(other, {}, (), nothing).turn.mine == []
    given = store.turn(one, known, (), lambda turn: dict.fromkeys(turn.given, '{"floor":null,"entries":[]}')).turn.given
    found = store.turn(other, {}, (), nothing)
    assert (len(given), found.turn.taken) == (SLOTS // 2, sorted(given))
    assert sorted(note.slot for note in found.notes) == sorted(given)
    assert {each.address for each in found.processes} >= {"http://one", "http://other"}
    store.forget(found.notes)
    assert list(store.look(other, {}, ()).notes) == []
    store.end(one, lambda slots: dict.fromkeys(slots, "[]"))
    assert len(store.turn(other, {}, (), nothing).turn.mine) == SLOTS


def test_a_home_that_was_away_is_waited_for_until_it_brings_what_it_knows(database: Database) -> None:
    store = SlotStore(database, RULES)
    one, other = Process("one", "here", ""), Process("other", "there", "")
    store.turn(one, {}, (), nothing)
    until(lambda: store.look(other, {}, ()).turn.mine, "it is over")
    rows = store.turn(other, {}, (), nothing).rows
    assert [[wait.home for wait in row.waits] for row in rows] == [["here"]] * SLOTS
    back = store.turn(Process("again", "here", ""), {}, (), lambda turn: dict.fromkeys(turn.brought, "[]"))
    assert back.turn.brought == list(range(SLOTS))
    seen = store.look(other, {}, ())
    assert ([row.waits for row in seen.rows], len(seen.notes)) == ([()] * SLOTS, SLOTS)


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
    store.turn(Process(gone.shows.holder, gone.shows.home, ""), {}, (), nothing)
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
        until(lambda: not any(other.slots.needs), "all was brought")
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


def test_files_go_once_the_profiles_have_all_and_who_comes_next_must_know_as_much(tmp_path: Path) -> None:
    one, other = Shows(tmp_path), Shows(tmp_path)
    show = OwnShow(1 << 20, "red", "all", "spring")
    assert one.keep(Entry("ann", "", [show]))
    assert one.keep(Entry("-key", "20000", [show]))
    assert [entry.key for entry in other.read()] == ["-key", "ann"]
    assert (one.home, one.is_dead(other.holder), one.is_dead("nobody")) == (other.home, False, True)
    holder = one.holder
    one.close()
    assert other.is_dead(holder)
    other.sweep("20000", lambda entry: False, lambda: Floor(1, (5,), 9))
    assert [entry.key for entry in other.read()] == ["-key", "ann"]
    other.sweep("20000", lambda entry: True, lambda: Floor(1, (5,), 9))
    assert ([entry.key for entry in other.read()], other.floor()) == (["-key"], Floor(1, (5,), 9))
    other.sweep("20001", lambda entry: True, lambda: Floor(1, (5,), 9))
    assert list(other.read()) == []
    assert sorted(path.suffix for path in (tmp_path / "caps").iterdir()) == [".lock"]
    other.close()


def test_what_a_dead_process_had_not_written_whole_was_never_answered(tmp_path: Path) -> None:
    one = Shows(tmp_path)
    for key in ("ann", "bob"):
        one.keep(Entry(key, "", [OwnShow(1 << 20, "red", "all", "spring")]))
    (path,) = (tmp_path / "caps").glob("*.shows")
    path.write_bytes(path.read_bytes()[:-1])
    assert [entry.key for entry in one.read()] == ["ann"]
    one.close()


def test_floors_of_one_generation_are_reached_together_and_of_two_the_newer_counts() -> None:
    assert Floor(1, (5, 2), 7).with_those_of(Floor(1, (3, 4), 8)) == Floor(1, (5, 4), 8)
    assert Floor(1, (9, 9), 9).with_those_of(Floor(2, (1, 1), 1)) == Floor(2, (1, 1), 1)


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

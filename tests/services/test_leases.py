"""The lease store on SQLite and PostgreSQL, and purses on it: processes race for the last units, and never pass."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from campaigns_rig import new_database, of_url, postgres
from leases_child import LINE, Nothing
from memory_rig import change

from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.leases import Leases, _open_of
from pipeline.core.lease import Account, Ask, Lease, Terms, of_sku
from pipeline.core.spend import SpendRules
from pipeline.core.state import StateWriter
from pipeline.delivery.purse import TURN_S, Purse, Wish
from pipeline.delivery.spend_view import SpendView
from pipeline.edge.clock import now_ms
from pipeline.edge.follow import Reader
from pipeline.errors import Retryable
from pipeline.settings import load
from schemas.spend import StockLevel
from schemas.topics import SPEND
from tests.core.lease_rig import Lagging, Shard
from tests.waits import until

CHILD = Path(__file__).with_name("leases_child.py")
RULES = SpendRules()
UNITS, PRICE = 10, 7


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/campaigns.db"
    return new_database(request.getfixturevalue("server"), f"leases{abs(hash(str(tmp_path)))}")


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Leases]:
    database = Database(url_of(of_url(url, tmp_path)))
    database.migrate()
    yield Leases(database, RULES)
    database.close()


class Child:
    """A process with a purse. made: what it has said so far."""

    def __init__(self, url: str, folder: Path, decisions: int) -> None:
        words = [sys.executable, str(CHILD), url, str(folder), str(decisions)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.made = 0
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for _ in self.process.stdout:
            self.made += 1

    def end(self) -> None:
        """Have it end, in an orderly way."""
        assert self.process.stdin is not None
        self.process.stdin.write("end\n")
        self.process.stdin.close()
        self.process.wait(60)
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_two_hundred_decisions_at_once_in_two_processes_find_money_for_ten(url: str, tmp_path: Path) -> None:
    """All ten, since what is idle in one process is given back to the other; and never one more."""
    children = [Child(url, tmp_path, 100) for _ in range(2)]
    try:
        until(lambda: sum(child.made for child in children) >= UNITS, "ten of two hundred have money")
        time.sleep(2.0)  # for an eleventh
    finally:
        for child in children:
            child.end()
    print(" + ".join(str(child.made) for child in children))
    assert sum(child.made for child in children) == UNITS
    assert [child.process.returncode for child in children] == [0, 0]
    database = Database(url_of(of_url(url, tmp_path)))
    assert sum(each.granted_micros for each in Leases(database, RULES).open_leases()) == UNITS * PRICE
    database.close()


def lease(lease_id: str, micros: int = 0, line_id: str = "l1", expires_ms: int = 5_000) -> Lease:
    return Lease(lease_id, line_id, "2026-09-21", "c1", "2026-09-21", "impression", micros, 0, expires_ms)


def ask(lease_id: str, units: int, held: int = 0, line_id: str = "l1") -> Ask:
    return Ask(lease(lease_id, held, line_id), 1, units)


TERMS = {
    "l1": Terms("l1", "c1", "impression", 1, total_micros=800, campaign_total_micros=1_000),
    "l2": Terms("l2", "c1", "impression", 1, total_micros=800, campaign_total_micros=1_000),
}


def test_a_grant_is_stored_and_more_of_it_is_added_to_the_same_lease(store: Leases) -> None:
    view = Lagging([Shard()])
    first = store.talk([ask("a", 30)], TERMS, {}, view, 1)
    assert [one.granted_micros for one in first.granted] == [30]
    more = store.talk([ask("a", 20, held=30)], TERMS, {}, view, 2)
    assert list(more.granted) == store.open_leases() == [lease("a", 50)]


def test_lines_of_a_campaign_share_its_limit(store: Leases) -> None:
    view = Lagging([Shard()])
    granted = 0
    for number in range(200):
        talk = store.talk([ask(f"a{number}", 800), ask(f"b{number}", 800, line_id="l2")], TERMS, {}, view, number)
        granted += sum(one.granted_micros for one in talk.granted)
    assert granted == 1_000
    assert store.short({("line", "l1"), ("line", "l2"), ("campaign", "c1")}, 0) == {("campaign", "c1")}
    assert store.short({("campaign", "c1")}, 199) == set()


def test_what_was_declared_and_seen_is_closed_and_the_rest_can_be_had_again(store: Leases) -> None:
    shard = Shard()
    view = Lagging([shard])
    store.talk([ask("a", 100)], TERMS, {}, view, 1)
    store.talk([], {}, {"a": 0}, view, 2)
    assert store.open_leases() == [lease("a", 0)._replace(is_final=True)]
    store.talk([ask("b", 1)], TERMS, {}, view, 3)
    assert [one.lease_id for one in store.open_leases()] == ["b"]


def test_a_view_older_than_what_was_closed_by_gets_nothing_and_is_told_so(store: Leases) -> None:
    shard = Shard()
    old, new = Lagging([shard]), Lagging([shard])
    shard.write(10**13, [])
    shard.step()
    new.look(0, 1)
    store.talk([ask("a", 1)], TERMS, {}, new, 1)
    store.talk([ask("b", 1)], TERMS, {}, new, 2)  # closes a, whose time is over
    assert [one.lease_id for one in store.open_leases()] == ["b"]
    talk = store.talk([ask("c", 1)], TERMS, {}, old, 3)
    assert (list(talk.granted), set(talk.behind)) == ([], {"l1"})
    assert store.talk([ask("c", 1)], TERMS, {}, new, 4).granted


def test_the_newest_version_of_the_limits_counts_whoever_knows_it(store: Leases) -> None:
    view = Lagging([Shard()])
    newer = {"l1": Terms("l1", "c1", "impression", 1, total_micros=80, campaign_total_micros=1_000, version=2)}
    assert store.talk([ask("a", 100)], newer, {}, view, 1).granted == [lease("a", 10)]
    assert store.talk([ask("b", 100)], TERMS, {}, view, 1).granted == [lease("b", 8)]
    assert store.limits()["line", "l1"].total_micros == 80


def test_a_store_that_is_away_is_retryable_and_the_purse_goes_on_from_what_it_has(tmp_path: Path) -> None:
    purse = Purse(load(data_dir=tmp_path), Nothing)
    purse.publish([LINE])
    purse.start()
    try:
        until_room(purse)
        (tmp_path / "campaigns.db").rename(tmp_path / "gone.db")
        for name in ("campaigns.db-wal", "campaigns.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "campaigns.db").mkdir()
        assert purse.reserve("l1", now_ms()) is not None
    finally:
        purse.stop()
    away = Database(url_of(of_url("postgresql://nobody@127.0.0.1:9/none", tmp_path)))
    with pytest.raises(Retryable):
        Leases(away, RULES).talk([], {}, {}, SpendView(1), 0)
    away.close()


def until_room(purse: Purse) -> None:
    until(lambda: purse.has_room("l1", now_ms()), "the purse has money")


def test_a_million_decisions_at_an_exhausted_budget_are_granted_nothing_and_cost_nothing(tmp_path: Path) -> None:
    """The store is not asked for each of them, but every few seconds."""
    purse = Purse(load(data_dir=tmp_path), Nothing)
    purse.publish([LINE])
    purse.start()
    try:
        until_room(purse)
        spent = 0
        while spent < UNITS:
            until_room(purse)
            spent += purse.reserve("l1", now_ms()) is not None
        time_ms = now_ms() + 30_000
        began_s = time.process_time()
        assert not any(purse.has_room("l1", time_ms) for _ in range(1_000_000))
        print(f"{(time.process_time() - began_s) * 1_000:.0f} ns each")
        assert purse.reserve("l1", time_ms) is None
        assert purse.spent_micros(Account("line", "l1")) == 0  # nothing of it was ever logged
    finally:
        purse.stop()


class Slow(Nothing):
    """Reads a spend topic of which nothing has come yet; `reader` is told by hand."""

    reader: Reader

    def start(self) -> None:
        """Nothing comes."""
        Slow.reader = self._reader


def test_no_piece_is_held_before_levels_are_known_and_then_no_more_than_there_are(tmp_path: Path) -> None:
    """A delivery that has just started does not know that few are left: it must not take that for plenty."""
    purse, wish = Purse(load(data_dir=tmp_path, partitions=1), Slow), Wish("shop", "boat/1", 60_000)
    purse.publish([], [wish])
    purse.start()
    try:
        reader = Slow.reader
        reader.begin(SPEND, 0)
        reader.take(SPEND, 0, StateWriter.fence("o"), 0)
        assert not purse.has_piece(wish, now_ms())
        assert purse.reserve_piece(wish, now_ms()) is None
        reader.loaded(SPEND, 0)
        until(lambda: purse.has_piece(wish, now_ms()), "nobody has told a level: there is plenty")
        found = purse.reserve_piece(wish, now_ms())
        assert found is not None
        assert found.lease_id == ""
        reader.take(SPEND, 0, change(0, {"s:shop/boat/1": StockLevel("shop", "boat/1", 3, now_ms())}), 1)
        held = []
        until(lambda: held.append(purse.reserve_piece(wish, now_ms())) or sum(map(bool, held)) == 3, "three are held")
        time.sleep(2 * TURN_S)
        assert not purse.has_piece(wish, now_ms())
        assert all(one.lease_id for one in held if one is not None)
    finally:
        purse.stop()


class Counting(SpendView):
    """Counts how often it was asked for a level."""

    asked = 0

    def level(self, name: str) -> StockLevel | None:
        self.asked += 1
        return super().level(name)

    def tell(self, sku: str, pieces: int) -> None:
        """As the follower's thread tells a level."""
        self._merge_stock([msgspec.msgpack.encode(StockLevel("shop", sku, pieces, now_ms()))])


def test_a_changed_level_is_looked_at_alone_and_decisions_do_not_wait_for_the_reader(tmp_path: Path) -> None:
    """Nor for the purse: neither however many skus there are, nor while the reader brings its sums up to date."""
    purse, many = Purse(load(data_dir=tmp_path, partitions=1), Nothing), [Wish("shop", f"b{at}", 1) for at in range(50)]
    view = purse.view = Counting(1)
    view.begin(SPEND, 0)
    view.take(SPEND, 0, StateWriter.fence("o"), 0)
    view.loaded(SPEND, 0)
    purse.publish([], many)
    purse.start()
    try:
        until(lambda: purse.has_piece(many[7], now_ms()), "there is plenty")
        before = view.asked
        with view.still():  # as the reader does while it is busy
            view.tell("b7", 3)
            time.sleep(2 * TURN_S)
            asking = threading.Thread(target=lambda: [purse.has_room(wish.name, 0) for wish in many], daemon=True)
            asking.start()
            asking.join(10)
            assert not asking.is_alive()
        found = until(lambda: purse.reserve_piece(many[7], now_ms()), "a piece of the three is held")
        assert found.lease_id
        assert view.asked - before <= 3  # for the purse's terms, and for each talk with the store
    finally:
        purse.stop()


def test_a_level_told_while_a_line_is_published_is_not_missed(tmp_path: Path) -> None:
    """The terms are made of the old level, the new one is told, and only then are the terms in use."""
    purse, wish = Purse(load(data_dir=tmp_path, partitions=1), Nothing), Wish("shop", "boat/1", 60_000)

    class Told(Counting):
        def level(self, name: str) -> StockLevel | None:
            found = super().level(name)
            if self.asked == 1:
                self.tell("boat/1", 3)
                purse._relevel()  # as the purse's thread does at this moment
            return found

    view = purse.view = Told(1)
    view.begin(SPEND, 0)
    view.take(SPEND, 0, StateWriter.fence("o"), 0)
    view.loaded(SPEND, 0)
    purse.publish([], [wish])
    assert not purse.has_piece(wish, now_ms())
    purse._relevel()
    assert purse._pieces[wish].total_micros == 3


def test_any_number_of_lines_may_ask_for_money_at_once(store: Leases) -> None:
    """PostgreSQL takes 65,535 parameters in one statement, SQLite 32,766 or 250,000; each ask has two names."""
    asks = [Ask(lease(f"a{number}", line_id=f"l{number}")._replace(campaign_id=f"c{number}"), 1, 1)
            for number in range(33_000)]  # fmt: skip
    store.talk([ask("mine", 5, line_id="l77"), ask("other", 5, line_id="none")._replace(
        lease=lease("other", line_id="none")._replace(campaign_id="c99"))],
        {"l77": replace(TERMS["l1"], line_id="l77"), "none": replace(TERMS["l1"], line_id="none", campaign_id="c99")},
        {}, Lagging([Shard()]), 1)  # fmt: skip
    with store.database.reading() as connection:
        assert sorted(found.lease_id for found in _open_of(connection, asks)) == ["mine", "other"]


def test_pieces_of_a_sku_are_leased_up_to_its_newest_level_which_has_a_time_for_a_version(store: Leases) -> None:
    def granted(number: int, told: StockLevel) -> int:
        terms = of_sku("shop", "boat/1", 1_000, told)
        day = "2026-09-21"
        wanted = Lease(f"p{number}", terms.line_id, day, terms.campaign_id, day, terms.pays_for, 0, 0, 5)
        talk = store.talk([Ask(wanted, 1, 9)], {terms.line_id: terms}, {}, Lagging([Shard()]), number)
        return sum(one.granted_micros for one in talk.granted)

    first = StockLevel("shop", "boat/1", 3, now_ms())
    assert [granted(number, first) for number in range(5)] == [1, 1, 1, 0, 0]
    newer = StockLevel("shop", "boat/1", 4, first.event_time_ms + 1)
    assert [granted(number, newer) for number in (5, 6)] == [1, 0]
    assert granted(7, first) == 0, "who knows only the older level goes by the newer one"
    assert store.limits()["sku", "shop/boat/1"].total_micros == 4

"""The store of campaigns, on SQLite and on PostgreSQL: what may change, what is refused, and who wins a race."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from campaigns_rig import ANN, BODIES, body, check_replay, fill, new_database, of_url, opened, postgres, put, step
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.metadata import METADATA
from pipeline.campaigns.refusals import Reason, Refused
from pipeline.campaigns.store import NEW, Changes, Filter, Store
from pipeline.campaigns.tables import STEPS
from pipeline.core.json_diff import diff
from pipeline.errors import Retryable, SettingsError
from pipeline.settings import Settings
from schemas.campaign import KINDS, Status

COUNTER = itertools.count()
LIVE = (Status.REVIEW, Status.PUBLISHED)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Settings]:
    """Makes the settings of a store that nobody has used."""

    def make() -> Settings:
        folder = tmp_path_factory.mktemp("store")
        if request.param == "sqlite":
            return of_url("", folder)
        return of_url(new_database(request.getfixturevalue("server"), f"d{next(COUNTER)}"), folder)

    return make


@pytest.fixture(scope="module")
def store(fresh: Callable[[], Settings]) -> Iterator[Store]:
    with opened(fresh()) as found:
        fill(found)
        yield found


def everything(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all our tables."""
    with store.database.reading() as connection:
        return {
            table.name: sorted(tuple(row) for row in connection.execute(table.select()))
            for table in METADATA.sorted_tables
        }


def refused(store: Store, ask: Callable[[Changes], object]) -> Refused:
    """Ask for a change that is refused; nothing of it is stored."""
    before = everything(store)
    with pytest.raises(Refused) as failure, store.changing(ANN, 3_000) as changes:
        ask(changes)
    assert everything(store) == before
    return failure.value


def name(kind: str) -> str:
    """Return an id that nobody has used."""
    return f"{kind}-{next(COUNTER)}"


# --- what changes -----------------------------------------------------------------------------------------------------


def test_a_change_is_a_version_with_its_author_its_time_and_a_line_in_the_audit(store: Store) -> None:
    key = name("a")
    first = put(store, "advertisers", id=key)
    second = put(store, "advertisers", 1, id=key, name="Other")
    live = step(store, "advertisers", key, *LIVE)
    assert (first.version, first.status, first.changed_ms, first.changed_by) == (1, Status.DRAFT, 1_000, "ann")
    assert (second.version, second.body["name"]) == (2, "Other")
    assert (live.version, live.status, live.changed_ms) == (4, Status.PUBLISHED, 2_000)
    assert store.get("advertisers", key) == live
    assert [one.version for one in store.versions("advertisers", key)] == [1, 2, 3, 4]
    assert [(one.what, one.version, one.who, one.whence) for one in store.audit("advertisers", key, 0, 10)] == [
        ("create", 1, "ann", "a test"), ("change", 2, "ann", "a test"),
        ("status review", 3, "ann", "a test"), ("status published", 4, "ann", "a test"),
    ]  # fmt: skip


def test_the_same_body_again_changes_nothing(store: Store) -> None:
    before = everything(store)
    assert put(store, "advertisers", 1) == store.get("advertisers", "acme")
    assert everything(store) == before


def test_a_rollback_makes_a_new_version_and_the_status_stays(store: Store) -> None:
    key = name("p")
    put(store, "placements", id=key, name="one")
    put(store, "placements", 1, id=key, name="two", count_max=3)
    step(store, "placements", key, *LIVE)
    with store.changing(ANN, 3_000) as changes:
        back = changes.rollback("placements", key, 1, 4)
    assert (back.version, back.status, back.body["name"]) == (5, Status.PUBLISHED, "one")
    first = store.version("placements", key, 1)
    assert first is not None
    assert diff(first.body, back.body) == []
    assert store.audit("placements", key, 0, 10)[-1].what == "rollback 1"


def test_objects_are_found_by_status_parent_and_labels_a_page_at_a_time(store: Store) -> None:
    parent = name("c")
    put(store, "campaigns", id=parent)
    keys = [f"{parent}-{number}" for number in range(5)]
    for number, key in enumerate(keys):
        labels = {"team": "red" if number % 2 else "blue", "n": str(number)}
        put(store, "lines", id=key, campaign=parent, labels=labels)
    step(store, "lines", keys[3], *LIVE)

    def ids(limit: int = 10, **which: Any) -> list[str]:
        return [one.id for one in store.page("lines", Filter(parent=parent, **which), limit)]

    assert ids() == keys
    assert ids(2) == keys[:2]
    assert ids(after=keys[1]) == keys[2:]
    assert ids(status=Status.PUBLISHED) == [keys[3]]
    assert ids(labels=(("team", "red"),)) == [keys[1], keys[3]]
    assert ids(labels=(("team", "red"), ("n", "3"))) == [keys[3]]
    assert ids(labels=(("n", None),)) == keys
    assert ids(labels=(("m", None),)) == []
    put(store, "lines", 1, id=keys[1], campaign=parent)  # its labels are gone, also from those that it is found by
    assert ids(labels=(("team", "red"),)) == [keys[3]]
    assert store.page("lines", Filter(parent="nobody"), 10) == []


def test_ids_are_sorted_as_bytes_on_both(store: Store) -> None:
    prefix = name("s")
    keys = [f"{prefix}{tail}" for tail in ("-a", ".a", "0", "_a", "a", "a-b", "a.b", "aa")]
    for key in reversed(keys):
        put(store, "advertisers", id=key)
    assert [one.id for one in store.page("advertisers", Filter(after=prefix), 8)] == keys


def test_what_the_topic_is_to_be_told_is_kept_until_it_has_been_told(store: Store) -> None:
    store.told(store.due(1_000))
    key = name("a")
    put(store, "advertisers", id=key)
    put(store, "advertisers", 1, id=key, name="Other")
    due = store.due(10)
    assert [(one.stored.id, one.stored.version) for one in due] == [(key, 1), (key, 2)]
    store.told(due[:1])
    assert store.due(10) == due[1:]


# --- what is refused --------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any], Reason, str]] = [
    ("campaigns", {"id": "c", "advertiser": "nobody"}, Reason.UNKNOWN_PARENT, "advertiser"),
    ("lines", {"id": "l", "campaign": "none"}, Reason.UNKNOWN_PARENT, "campaign"),
    ("creatives", {"id": "c", "line": "spring"}, Reason.UNKNOWN_PARENT, "line"),
    ("lines", {"id": "l", "placements": ["home", "attic"]}, Reason.UNKNOWN_PLACEMENT, "placements.1"),
    ("experiments", {"id": "e", "placements": ["attic"]}, Reason.UNKNOWN_PLACEMENT, "placements.0"),
    ("experiments", {"id": "Button:2"}, Reason.INVALID, "id"),
    ("lines", {"id": "l", "audience": "profile.visits >"}, Reason.AUDIENCE, "audience"),
    ("placements", {"id": "p", "policy": "best"}, Reason.UNKNOWN_POLICY, "policy"),
    ("creatives", {"id": "c", "content": {"text": "x" * 1_100_000}}, Reason.TOO_LARGE, ""),
]


@pytest.mark.parametrize(("kind", "changes", "reason", "where"), WRONG, ids=[row[2].value for row in WRONG])
def test_what_names_nothing_or_does_not_parse_is_refused(
    store: Store, kind: str, changes: dict[str, Any], reason: Reason, where: str
) -> None:
    found = refused(store, lambda changing: changing.put(kind, body(kind, **changes), NEW))
    assert found.reason is reason
    assert [place for place, _ in found.errors] == ([where] if where else [])
    assert changes["id"] in found.detail


def test_a_version_that_is_not_the_present_one_is_refused(store: Store) -> None:
    for expected in (2, 7):
        found = refused(store, lambda changes, n=expected: changes.put("campaigns", body("campaigns", name="X"), n))  # type: ignore[misc]
        assert (found.reason, "read it again" in found.detail) == (Reason.STALE, True)
    assert refused(store, lambda c: c.step("campaigns", "spring", Status.REVIEW, 2)).reason is Reason.STALE
    assert refused(store, lambda c: c.rollback("campaigns", "spring", 1, 2)).reason is Reason.STALE
    assert refused(store, lambda c: c.put("advertisers", body("advertisers"), NEW)).reason is Reason.EXISTS
    nobody = body("advertisers", id="nobody")
    assert refused(store, lambda c: c.put("advertisers", nobody, 1)).reason is Reason.STALE
    assert refused(store, lambda c: c.step("advertisers", "nobody", Status.REVIEW, 1)).reason is Reason.UNKNOWN
    assert refused(store, lambda c: c.rollback("campaigns", "spring", 2, 1)).reason is Reason.UNKNOWN_VERSION


def test_a_status_goes_its_steps_and_no_others(store: Store) -> None:
    from schemas.campaign import STEPS as STATUS_STEPS

    ways = {
        Status.DRAFT: (), Status.REVIEW: (Status.REVIEW,), Status.PUBLISHED: LIVE,
        Status.PAUSED: (*LIVE, Status.PAUSED), Status.ENDED: (Status.ENDED,),
    }  # fmt: skip
    for start, to in itertools.product(Status, Status):
        key = name("a")
        version = put(store, "advertisers", id=key).version
        if ways[start]:
            version = step(store, "advertisers", key, *ways[start]).version
        if to in STATUS_STEPS[start]:
            assert step(store, "advertisers", key, to).status is to
        else:
            found = refused(store, lambda c, k=key, v=version, s=to: c.step("advertisers", k, s, v))  # type: ignore[misc]
            assert found.reason is Reason.STEP


def test_what_has_ended_is_changed_no_more_and_gets_no_children(store: Store) -> None:
    key = name("c")
    put(store, "campaigns", id=key)
    child = put(store, "lines", id=f"{key}-l", campaign=key)
    step(store, "campaigns", key, Status.ENDED)
    again = body("campaigns", id=key, name="Again")
    assert refused(store, lambda c: c.put("campaigns", again, 2)).reason is Reason.ENDED
    more = body("lines", id=f"{key}-m", campaign=key)
    assert refused(store, lambda c: c.put("lines", more, NEW)).reason is Reason.ENDED
    assert put(store, "lines", 1, id=child.id, campaign=key, name="Still there").version == 2


def test_a_parent_and_a_currency_are_fixed_once_published(store: Store) -> None:
    key, other = name("c"), name("a")
    put(store, "advertisers", id=other)
    put(store, "campaigns", id=key)
    assert put(store, "campaigns", 1, id=key, advertiser=other, currency="JPY").version == 2
    live = step(store, "campaigns", key, *LIVE)
    for changes, field_ in (({"advertiser": "acme", "currency": "JPY"}, "advertiser"), ({}, "currency")):
        wanted = body("campaigns", **{"id": key, "advertiser": other, "currency": "EUR", **changes})
        found = refused(store, lambda c, w=wanted: c.put("campaigns", w, live.version))  # type: ignore[misc]
        assert (found.reason, found.errors[0][0]) == (Reason.FIXED, field_)


def test_of_several_changes_one_that_is_refused_takes_all_of_them_back(store: Store) -> None:
    def several(changes: Changes) -> None:
        changes.put("advertisers", body("advertisers", id="never"), NEW)
        changes.step("advertisers", "never", Status.REVIEW, 1)
        changes.put("campaigns", body("campaigns", id="never", advertiser="nobody"), NEW)

    assert refused(store, several).reason is Reason.UNKNOWN_PARENT


def test_a_bug_in_the_middle_of_a_change_leaves_nothing(store: Store) -> None:
    before = everything(store)

    def bug(changes: Changes) -> float:
        changes.put("advertisers", body("advertisers", id="never"), NEW)
        return 1 / (changes.made == [])

    with pytest.raises(ZeroDivisionError), store.changing(ANN, 1) as changes:
        bug(changes)
    assert everything(store) == before


# --- races ------------------------------------------------------------------------------------------------------------


def test_of_twenty_writers_of_one_version_exactly_one_wins(store: Store) -> None:
    key = name("c")
    put(store, "campaigns", id=key)
    gate = threading.Barrier(20)

    def write(number: int) -> str:
        gate.wait()
        try:
            return put(store, "campaigns", 1, id=key, name=f"writer {number}").body["name"]  # type: ignore[return-value]
        except Refused as error:
            return error.reason.value

    with ThreadPoolExecutor(20) as writers:
        found = list(writers.map(write, range(20)))
    (winner,) = [one for one in found if one != "stale"]
    stands = store.get("campaigns", key)
    assert stands is not None
    assert (stands.version, stands.body["name"]) == (2, winner)
    assert len(store.versions("campaigns", key)) == len(store.audit("campaigns", key, 0, 50)) == 2


def test_writers_of_many_objects_wait_for_each_other_and_none_is_lost(store: Store) -> None:
    """Each reads and counts up; parents and children at once, which would deadlock without an order."""
    parent = name("c")
    put(store, "campaigns", id=parent, labels={"n": "0"})

    def count_up(number: int) -> None:
        for _ in range(5):
            with store.changing(ANN, 1) as changes:
                was = changes.get("campaigns", parent)
                assert was is not None
                n = int(was.body["labels"]["n"]) + 1  # type: ignore[index]
                changes.put("campaigns", body("campaigns", id=parent, labels={"n": str(n)}), was.version)
                changes.put("lines", body("lines", id=f"{parent}-{n}", campaign=parent), NEW)

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(count_up, range(4)))
    stands = store.get("campaigns", parent)
    assert stands is not None
    assert (stands.version, stands.body["labels"]) == (21, {"n": "20"})
    assert len(store.page("lines", Filter(parent=parent), 50)) == 20


def test_one_at_a_time_holds_the_lock(store: Store, fresh: Callable[[], Settings]) -> None:
    """Within a process and, by flock and by the server's own lock, among several; another store's is another lock."""
    with store.database.alone("publisher") as held:
        assert held is not None
        held.check()
        with store.database.alone("publisher") as second:
            assert second is None
        with opened(fresh()) as other, other.database.alone("publisher") as third:
            assert third is not None
    with store.database.alone("publisher") as again:
        assert again is not None


# --- history ----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["one", "two", "three"])


@dataclass
class Model:
    """What should be there: versions of each object, as (status, body)."""

    versions: dict[tuple[str, str], list[tuple[Status, dict[str, Any]]]] = field(default_factory=dict)


@st.composite
def asks(draw: st.DrawFn) -> tuple[str, str, Any, int]:
    """One request: (what, kind, its argument, how far its version is off)."""
    kind = draw(st.sampled_from(["advertisers", "campaigns", "lines"]))
    what = draw(st.sampled_from(["put", "put", "step", "step", "rollback"]))
    argument: Any = {
        "put": st.fixed_dictionaries({"name": NAMES, "labels": st.dictionaries(NAMES, NAMES, max_size=2)}),
        "step": st.sampled_from(Status),
        "rollback": st.integers(1, 4),
    }[what]
    return what, kind, draw(argument), draw(st.sampled_from([0, 0, 0, 0, 1, -1]))


@given(st.lists(asks(), max_size=12))
@settings(max_examples=12)
def test_whatever_is_asked_the_history_replays_to_what_stands(
    store: Store, requests: list[tuple[str, str, Any, int]]
) -> None:
    """Versions are 1, 2, …; each follows from the one before by its line in the audit; refusals leave no trace."""
    prefix = name("h")
    for what, kind, argument, off in requests:
        key = f"{prefix}-{kind}"
        was = store.get(kind, key)
        expected = max(0, (was.version if was else 0) + off)
        try:
            with store.changing(ANN, 1) as changes:
                _ask(changes, what, kind, argument, prefix, expected)
        except Refused:
            assert store.get(kind, key) == was
    for kind in ("advertisers", "campaigns", "lines"):
        check_replay(store, kind, f"{prefix}-{kind}")


def _ask(changes: Changes, what: str, kind: str, argument: Any, prefix: str, expected: int) -> None:
    key = f"{prefix}-{kind}"
    parents = {"campaigns": {"advertiser": f"{prefix}-advertisers"}, "lines": {"campaign": f"{prefix}-campaigns"}}
    if what == "put":
        changes.put(kind, body(kind, id=key, **parents.get(kind, {}), **argument), expected)
    elif what == "step":
        changes.step(kind, key, argument, expected)
    else:
        changes.rollback(kind, key, argument, expected)


# --- the tables -------------------------------------------------------------------------------------------------------

LATER = (*STEPS, ("ALTER TABLE objects ADD COLUMN colour TEXT", "UPDATE objects SET colour = 'red'"))


def columns(database: Database) -> dict[str, set[str]]:
    from sqlalchemy import inspect

    with database.reading() as connection:
        looked = inspect(connection)
        return {name: {one["name"] for one in looked.get_columns(name)} for name in looked.get_table_names()}


def test_the_tables_are_those_that_are_asked(store: Store) -> None:
    """Of campaigns, of leases and of who counts caps: their names and columns, and none is made that nobody asks."""
    asked = {table.name: {column.name for column in table.columns} for table in METADATA.sorted_tables}
    assert asked == columns(store.database)
    assert {"objects", "leases", "lease_accounts", "cap_slots"} <= set(asked)


def test_a_store_of_an_older_herald_is_taken_along_and_one_of_a_newer_refused(fresh: Callable[[], Settings]) -> None:
    chosen = fresh()
    with opened(chosen) as old:
        fill(old)
        before = old.get("lines", "all")
        assert old.database.migrate() == 0
    later = Database(url_of(chosen), LATER)
    try:
        assert (later.migrate(), later.migrate()) == (1, 0)
        assert Store(later).get("lines", "all") == before
        with later.reading() as connection:
            assert connection.execute(text("SELECT DISTINCT colour FROM objects")).scalars().all() == ["red"]
    finally:
        later.close()
    with pytest.raises(SettingsError, match="a newer Herald has used them"), opened(chosen):
        pass


def test_a_step_that_fails_leaves_the_tables_as_they_were(fresh: Callable[[], Settings]) -> None:
    chosen = fresh()
    with opened(chosen) as store:
        before = columns(store.database)
    broken = Database(url_of(chosen), (*LATER[:-1], (*LATER[-1], "UPDATE nowhere SET colour = 'red'")))
    with pytest.raises((Retryable, Exception), match="nowhere"):
        broken.migrate()
    broken.close()
    with opened(chosen) as store:
        assert columns(store.database) == before


def test_many_processes_that_start_at_once_make_the_tables_once(fresh: Callable[[], Settings]) -> None:
    chosen = fresh()
    databases = [Database(url_of(chosen)) for _ in range(6)]
    with ThreadPoolExecutor(6) as starters:
        steps = list(starters.map(lambda one: one.migrate(), databases))
    for one in databases:
        one.close()
    assert sorted(steps) == [0] * 5 + [len(STEPS)]


WRITER = """
import sys
sys.path[:0] = [{services!r}]
from campaigns_rig import of_url, opened, put
from pathlib import Path
with opened(of_url({url!r}, Path({folder!r}))) as store:
    print("go", flush=True)
    for version in range(1, 100_000):
        put(store, "campaigns", version, name=f"n{{version}}")
"""


def test_a_writer_that_is_killed_leaves_whole_versions_only(fresh: Callable[[], Settings]) -> None:
    """kill -9 in the middle of a run of changes: object, version, audit and outbox agree; the next writer goes on."""
    chosen = fresh()
    with opened(chosen) as store:
        fill(store)
        given_ = {"services": str(Path(__file__).parent), "folder": str(chosen.data_dir)}
        program = WRITER.format(url=chosen.campaigns_url.get_secret_value(), **given_)
        writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        with writer.stdout as said:
            assert said.readline() == b"go\n"
            while (stands := store.get("campaigns", "spring")) is None or stands.version < 20:
                assert writer.poll() is None
            writer.kill()
        writer.wait()
        rows = everything(store)
        stands = store.get("campaigns", "spring")
        assert stands is not None
        for table in ("versions", "audit", "outbox"):
            assert sum("spring" in row for row in rows[table]) == stands.version, table
        assert put(store, "campaigns", stands.version, name="after").version == stands.version + 1


# --- where it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["mysql://a:secret@h/d", "nonsense", "postgresql://", "sqlite://", "sqlite:///:memory:"]
)
def test_an_address_that_is_no_store_of_ours_is_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="HERALD_CAMPAIGNS_URL = ") as failure:
        url_of(of_url(url, tmp_path))
    assert "secret" not in str(failure.value)


def test_a_store_that_is_away_is_retryable_and_keeps_its_password(tmp_path: Path) -> None:
    database = Database(url_of(of_url("postgresql://ann:secret@127.0.0.1:1/herald", tmp_path)))
    with pytest.raises(Retryable) as failure:
        database.migrate()
    assert "secret" not in str(failure.value)
    assert "127.0.0.1" in str(failure.value)


def test_every_kind_has_an_example_here_to_be_tested_with() -> None:
    assert set(BODIES) == set(KINDS)

"""The state log: whoever reads it, from wherever it says, at whatever moment, knows what its owner knows."""

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from pipeline.core.state import NO_VERSION, SLICES, Entries, StateView, StateWriter
from pipeline.errors import StateError
from schemas.state import HERE, StateRecord

Changes = tuple[list[tuple[str, bytes]], list[str]]

keys = st.sampled_from([f"visitor {number}" for number in range(12)])
values = st.binary(max_size=60)
batches = st.lists(st.tuples(keys, st.none() | values), max_size=6)
part_bytes = st.sampled_from([1, 40, 100, 10_000])


def changes_of(entries: dict[str, bytes], batch: list[tuple[str, bytes | None]]) -> Changes:
    """Change the entries as a fold does, and say so as a fold does."""
    last = dict(batch)
    deletes = [key for key, value in last.items() if value is None and entries.pop(key, None) is not None]
    puts = [(key, value) for key, value in last.items() if value is not None]
    entries.update(puts)
    return puts, deletes


def read(log: list[StateRecord], begin: int = 0) -> StateView:
    """What a reader knows who starts at an offset of the log and reads to its end."""
    view = StateView()
    for offset in range(begin, len(log)):
        view.apply(log[offset], offset)
    return view


def known(view: StateView) -> tuple[dict[str, bytes], bytes, int]:
    return view.entries, view.fixed, view.version


@dataclass
class Owner:
    """A worker that owns a partition, or thinks so. doing: parts of a version that it has not written yet."""

    name: str
    view: StateView
    writer: StateWriter
    doing: list[StateRecord] = field(default_factory=list)
    first_offset: int = -1
    next_offset: int = 0

    def begin_block(self, batch: list[tuple[str, bytes | None]], bytes_max: int) -> None:
        version = self.view.version + 1
        fixed = f"{self.name} {version}".encode()
        self.doing = self.writer.records(version, fixed, changes_of(self.view.entries, batch), bytes_max, version)
        self.first_offset = -1

    def write_part(self, log: list[StateRecord]) -> None:
        record = self.doing.pop(0)
        log.append(record)
        self.first_offset = len(log) - 1 if self.first_offset < 0 else self.first_offset
        if not self.doing:
            self.writer.written(self.first_offset)
            self.view.version, self.view.begin, self.view.fixed = record.version, record.begin, record.fixed
            self.next_offset = len(log)


def take_over(log: list[StateRecord], name: str, parked: Owner | None = None) -> Owner:
    """Fence, then read up to the fence: from `begin` of the last record, or from where a parked view stopped."""
    log.append(StateWriter.fence(name))
    view = parked.view if parked else read(log, begin_of_last(log))
    if parked:
        for offset in range(parked.next_offset, len(log)):
            view.apply(log[offset], offset)
    if not view.is_whole:
        mended = go_back(log, name, view.emptied_at)
        assert mended
        return mended
    return Owner(name, view, StateWriter(view, name), next_offset=len(log))


def go_back(log: list[StateRecord], name: str, before: int, records_max: int = 1_000) -> Owner | None:
    """Take over with what the log knew before an offset (as where a record is damaged), and write all of it again.

    records_max: killed after so many; None where that was too early.
    """
    view = read(log[:before])
    log.append(StateWriter.fence(name))
    view.apply(log[-1], len(log) - 1)
    writer = StateWriter(view, name)
    records = writer.anew()
    for _ in range(records_max):
        log += records
        writer.written(len(log) - len(records))
        if records[-1].begin > writer.epoch:
            view.begin = writer.begin
            return Owner(name, view, writer, next_offset=len(log))
        records = writer.swept_on(100)
    return None


def begin_of_last(log: list[StateRecord]) -> int:
    """As restoring finds it: `begin` of the newest record of the highest epoch."""
    begins = [(record.epoch, offset, record.begin) for offset, record in enumerate(log) if record.kind == "change"]
    return max(begins)[2] if begins else 0


class StateLog(RuleBasedStateMachine):
    """Owners take over from each other at any moment; those they took over from go on writing without knowing."""

    @initialize()
    def start(self) -> None:
        self.log: list[StateRecord] = []
        self.owner = take_over(self.log, "0")
        self.zombies: list[Owner] = []
        self.parked: list[Owner] = []
        self.names = 0

    def name(self) -> str:
        self.names += 1
        return str(self.names)

    @precondition(lambda self: not self.owner.doing)
    @rule(batch=batches, bytes_max=part_bytes)
    def block(self, batch: list[tuple[str, bytes | None]], bytes_max: int) -> None:
        self.owner.begin_block(batch, bytes_max)

    @precondition(lambda self: self.owner.doing)
    @rule()
    def part(self) -> None:
        self.owner.write_part(self.log)

    @precondition(lambda self: self.owner.doing)
    @rule()
    def all_parts(self) -> None:
        while self.owner.doing:
            self.part()

    @rule(stays=st.booleans())
    def owner_changes(self, stays: bool) -> None:
        """The old owner is killed in the middle of whatever it does, or goes on as a zombie."""
        if stays:
            self.zombies.append(self.owner)
        self.owner = take_over(self.log, self.name())

    @precondition(lambda self: not self.owner.doing)
    @rule()
    def owner_parks(self) -> None:
        """A rebalance takes the partition away in good order; the worker keeps its view."""
        self.parked.append(self.owner)
        self.owner = take_over(self.log, self.name())

    @precondition(lambda self: self.parked)
    @rule(which=st.integers(0, 100))
    def parked_comes_back(self, which: int) -> None:
        parked = self.parked.pop(which % len(self.parked))
        self.owner = take_over(self.log, self.name(), parked)

    @precondition(lambda self: self.zombies)
    @rule(which=st.integers(0, 100), batch=batches, bytes_max=part_bytes)
    def zombie_writes(self, which: int, batch: list[tuple[str, bytes | None]], bytes_max: int) -> None:
        zombie = self.zombies[which % len(self.zombies)]
        if not zombie.doing:
            zombie.begin_block(batch, bytes_max)
        zombie.write_part(self.log)

    @rule(cut=st.integers(0, 10_000), records_max=st.integers(0, 12), stays=st.booleans())
    def somebody_goes_back(self, cut: int, records_max: int, stays: bool) -> None:
        """A record is damaged: a new owner takes the state from before it; or is killed while it writes that again."""
        before = 1 + cut % len(self.log)
        if not read(self.log[:before]).is_whole:
            return
        if stays:
            self.zombies.append(self.owner)
        self.owner = go_back(self.log, self.name(), before, records_max) or take_over(self.log, self.name())

    @invariant()
    def every_reader_agrees(self) -> None:
        if not self.log:
            return
        whole, short = read(self.log), read(self.log, begin_of_last(self.log))
        assert whole.is_whole
        assert short.is_whole
        assert known(whole) == known(short)
        if not self.owner.doing:
            assert known(whole) == known(self.owner.view)


StateLog.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
test_whoever_reads_from_wherever_knows_what_the_owner_knows = StateLog.TestCase


def run(log: list[StateRecord], owner: Owner, batches: list[list[tuple[str, bytes | None]]]) -> None:
    for batch in batches:
        owner.begin_block(batch, 10_000)
        while owner.doing:
            owner.write_part(log)


def log_bytes(log: list[StateRecord], begin: int) -> int:
    return sum(len(msgspec.msgpack.encode(record)) for record in log[begin:])


def state_bytes(view: StateView) -> int:
    return sum(len(key) + len(value) + 8 for key, value in view.entries.items())


@pytest.mark.parametrize("blocks_of_an_owner", [10_000, 37, 9])
@pytest.mark.parametrize("changed", [0, 1, 7])
def test_what_must_be_read_stays_within_six_times_the_state(blocks_of_an_owner: int, changed: int) -> None:
    """However long it runs, and also where no owner lasts for a whole sweep (about 100 blocks here)."""
    log: list[StateRecord] = []
    owner = take_over(log, "0")
    run(log, owner, [[(f"visitor {number}", b"x" * 100) for number in range(500)]])
    worst = 0.0
    for block in range(900):
        if block % blocks_of_an_owner == blocks_of_an_owner - 1:
            owner = take_over(log, str(block))
        run(log, owner, [[(f"visitor {(block * 7 + n) % 500}", b"%d" % block * 25) for n in range(changed)]])
        if block > 400:
            worst = max(worst, log_bytes(log, begin_of_last(log)) / state_bytes(owner.view))
    assert worst <= 6
    assert begin_of_last(log) > len(log) / 2


def test_a_state_that_shrinks_takes_its_log_with_it() -> None:
    log: list[StateRecord] = []
    owner = take_over(log, "0")
    run(log, owner, [[(f"visitor {number}", b"x" * 100) for number in range(500)]])
    run(log, owner, [[(f"visitor {number}", None) for number in range(495)]])
    run(log, owner, [[] for _ in range(200)])
    assert log_bytes(log, begin_of_last(log)) <= 6 * state_bytes(owner.view)
    assert known(read(log, begin_of_last(log))) == known(owner.view)


def test_a_zombie_that_goes_on_for_many_versions_misleads_nobody() -> None:
    """Its sweeps come round and round; but it says of none that reading may begin there, behind the fence."""
    log: list[StateRecord] = []
    old = take_over(log, "old")
    run(log, old, [[("a", b"1")]] * 3)
    new = take_over(log, "new")
    run(log, old, [[("a", b"void")]] * 20)
    assert old.writer.interrupted
    assert begin_of_last(log) < new.writer.epoch
    assert known(read(log, begin_of_last(log))) == known(new.view)
    assert new.view.entries == {"a": b"1"}


def test_an_owner_that_heard_a_zombie_goes_on_and_its_heir_reads_little() -> None:
    log: list[StateRecord] = []
    old = take_over(log, "old")
    run(log, old, [[("a", b"1")]])
    new = take_over(log, "new")
    run(log, old, [[("a", b"void")]])
    run(log, new, [[("a", b"2")]] * 50)
    assert new.writer.interrupted
    assert begin_of_last(log) == 1
    heir = take_over(log, "heir")
    assert known(heir.view) == known(new.view)
    run(log, heir, [[("a", b"3")]])
    assert begin_of_last(log) > 50


def change(epoch: int, version: int, more: bool = False, puts: list[tuple[str, bytes]] | None = None) -> StateRecord:
    return StateRecord("change", "me", epoch, version, 0, b"", puts or [], [], more)


def test_a_version_that_goes_back_in_one_epoch_stops_the_reader() -> None:
    view = read([StateWriter.fence("me"), change(0, 5)])
    with pytest.raises(StateError, match="version 4 after 5"):
        view.apply(change(0, 4), 2)


def test_a_record_without_a_version_makes_all_void_that_was_known() -> None:
    """Its owner computes it again from an older state, and first writes all of that."""
    view = read([StateWriter.fence("a"), change(0, 5, puts=[("a", b"1"), ("b", b"1")]), StateWriter.fence("b")])
    assert view.goes_back(change(2, NO_VERSION))
    view.apply(change(2, NO_VERSION), 3)
    assert known(view) == ({}, b"", NO_VERSION)
    view.apply(change(2, 4, puts=[("a", b"0")]), 4)
    assert known(view) == ({"a": b"0"}, b"", 4)
    assert not view.is_whole
    record = change(2, 5, puts=[("b", b"2")])
    record.begin = 3
    view.apply(record, 5)
    assert known(view) == ({"a": b"0", "b": b"2"}, b"", 5)
    assert view.is_whole


def test_the_log_keeps_the_sweep_before_the_last_one() -> None:
    """Where one record is damaged, the state before it can still be read in full."""
    log: list[StateRecord] = []
    owner = take_over(log, "me")
    for number in range(60):
        run(log, owner, [[(f"visitor {number % 12}", b"%d" % number * 30)]])
        for damaged in range(owner.writer.begin, len(log)):
            start = max(owner.writer.kept_from, begin_of_last(log[:damaged]))
            before = read(log[:damaged], start)
            assert before.is_all_from(start)
            assert known(before) == known(read(log[:damaged]))
    assert owner.writer.kept_from > 10


@settings(max_examples=60)
@given(st.lists(batches, min_size=1, max_size=30), st.integers(0, 40), part_bytes)
def test_who_knows_all_from_where_he_began_knows_what_stood_before_it(
    blocks: list[list[tuple[str, bytes | None]]], start: int, bytes_max: int
) -> None:
    log: list[StateRecord] = []
    owner = take_over(log, "me")
    starts = [0]
    for batch in blocks:
        starts.append(len(log))
        owner.begin_block(batch, bytes_max)
        while owner.doing:
            owner.write_part(log)
    start = starts[start % len(starts)]
    late = read(log, start)
    if late.is_all_from(start):
        assert known(late) == known(read(log))


def test_a_version_that_begins_before_the_one_before_it_is_whole_stops_the_reader() -> None:
    view = read([StateWriter.fence("me"), change(0, 5, more=True)])
    with pytest.raises(StateError, match="version 6 before 5 is whole"):
        view.apply(change(0, 6), 2)


def test_nothing_counts_until_the_last_part_is_there() -> None:
    view = read([StateWriter.fence("me"), change(0, 5, more=True, puts=[("a", b"1")])])
    assert known(view) == ({}, b"", NO_VERSION)
    view.apply(change(0, 5, puts=[("b", b"2")]), 2)
    assert known(view) == ({"a": b"1", "b": b"2"}, b"", 5)


def test_a_half_written_version_of_a_fenced_owner_never_happened() -> None:
    view = read([StateWriter.fence("a"), change(0, 5, more=True, puts=[("a", b"1")]), StateWriter.fence("b")])
    assert not view.apply(change(0, 5), 3)
    assert known(view) == ({}, b"", NO_VERSION)


def test_parts_stay_within_the_limit_and_lose_nothing() -> None:
    writer = StateWriter(StateView(), "me")
    puts = [(f"key {number}", b"x" * 30) for number in range(10)]
    parts = writer.records(0, b"", (puts, ["gone"]), 100)
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert [put for part in parts for put in part.puts] == puts
    assert [part.deletes for part in parts] == [["gone"]] + [[]] * (len(parts) - 1)
    assert all(sum(len(key) + len(raw) + 8 for key, raw in part.puts) <= 100 for part in parts)


def test_an_entry_larger_than_the_limit_goes_alone() -> None:
    parts = StateWriter(StateView(), "me").records(0, b"", ([("a", b"1"), ("b", b"x" * 500), ("c", b"2")], []), 100)
    assert [[key for key, _ in part.puts] for part in parts] == [["a"], ["b"], ["c"]]


def test_a_record_of_before_the_sweep_was_written_down_can_still_be_read() -> None:
    """The last two fields were appended: what was written without them has their defaults."""
    old = msgspec.msgpack.encode(["change", "me", 0, 3, 0, b"", [["a", b"1"]], [], False, 7])
    record = msgspec.msgpack.decode(old, type=StateRecord)
    assert (record.sweep_began, record.swept) == (HERE, 0)
    view = read([StateWriter.fence("me"), record])
    writer = StateWriter(view, "heir")
    assert writer.records(4, b"", ([], []), 10_000)[0].swept == SLICES


class Value(Struct):
    """Something to keep."""

    number: int


moves = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, st.integers()),
        st.tuples(st.just("change"), keys, st.integers()),
        st.tuples(st.just("delete"), keys, st.just(0)),
        st.tuples(st.just("take"), keys, st.just(0)),
    ),
    max_size=60,
)


@given(moves.map(lambda made: [(what, key, number % 1_000) for what, key, number in made]))
def test_entries_behave_like_a_dict_whose_changes_are_told(moves: list[tuple[str, str, int]]) -> None:
    """And whoever applies the changes that are told has the same entries."""
    entries, plain = Entries({}, Value), dict[str, int]()
    told: dict[str, bytes] = {}
    for what, key, number in [*moves, ("take", "", 0)]:
        if what == "put":
            entries.put(key, Value(number))
            plain[key] = number
        elif what == "change" and (found := entries.get(key)) is not None:
            found.number = number
            entries.put(key, found)
            plain[key] = number
        elif what == "delete":
            entries.delete(key)
            plain.pop(key, None)
        elif what == "take":
            puts, deletes = entries.take_changes()
            assert set(deletes) <= set(told), "only what was told can be taken back"
            assert not set(deletes) & {name for name, _ in puts}
            for name in deletes:
                del told[name]
            told.update(puts)
            assert told == entries.packed
            assert {name: value.number for name, value in entries.items()} == plain
            assert len(entries) == len(plain)
        assert {name: value.number for name in plain if (value := entries.get(name))} == plain
        assert key in plain or entries.get(key) is None


def test_a_value_is_the_same_object_until_the_end_of_the_block() -> None:
    entries = Entries({"a": msgspec.msgpack.encode(Value(1))}, Value)
    assert entries.get("a") is entries.get("a")
    entries.take_changes()
    assert entries.get("a") == Value(1)

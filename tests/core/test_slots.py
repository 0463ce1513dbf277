"""Who counts caps: one process for each slot at every moment, whatever stops, starts or is told late."""

from collections import Counter
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.core.slots import DRIFT, SLOTS, Asker, Process, Row, SlotRules, Tenure, Turn, Wait, slot_of, take_turn
from schemas.campaign import DAY_MS

RULES = SlotRules(lease_ms=10_000, alone_ms=30_000, margin_ms=2_000)
NOON_MS = 20_000 * DAY_MS + DAY_MS // 2


class Store:
    """What the relational store holds, and its clock."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.processes: dict[str, Process] = {}
        self.now_ms = NOON_MS

    def turn(self, me: Process, known: dict[int, int] | None = None, dead: tuple[str, ...] = ()) -> Turn:
        return self.take(Asker(me, known or {}, dead))

    def take(self, asker: Asker) -> Turn:
        me = asker.me
        found = take_turn(asker, self.rows.values(), self.processes.values(), self.now_ms, RULES)
        self.rows.update({row.slot: row for row in found.rows})
        self.processes[me.holder] = found.me
        for name in found.gone:
            self.processes.pop(name)
        return found

    def holders(self) -> Counter[str]:
        return Counter(row.holder for row in self.rows.values())

    def terms(self, holder: str) -> dict[int, int]:
        return {row.slot: row.term for row in self.rows.values() if row.holder == holder}


A, B, C = (Process(name, "home", f"http://{name}") for name in "abc")
FAR = Process("far", "elsewhere", "http://far")


def test_who_is_alone_holds_every_slot_at_once_and_for_long() -> None:
    found = Store().turn(A)
    assert (found.mine, found.taken, found.lease_ms) == (list(range(SLOTS)), list(range(SLOTS)), RULES.alone_ms)


def test_renewing_is_all_that_a_second_turn_does() -> None:
    store = Store()
    store.turn(A)
    again = store.turn(A, store.terms("a"))
    assert (again.taken, again.is_quiet, len(again.mine)) == ([], True, SLOTS)


def test_a_newcomer_is_given_its_share_and_finds_it_at_its_next_turn() -> None:
    store = Store()
    store.turn(A)
    assert store.turn(B).mine == []
    given = store.turn(A, store.terms("a")).given
    assert (len(given), set(given.values())) == (SLOTS // 2, {store.processes["b"]})
    assert store.turn(B).taken == sorted(given)
    assert store.holders() == {"a": 32, "b": 32}


def test_of_three_each_has_a_third_after_two_turns_of_everybody() -> None:
    store = Store()
    for _ in range(3):
        for each in (A, B, C):
            store.turn(each, store.terms(each.holder))
    assert sorted(store.holders().values()) == [21, 21, 22]


def test_a_slot_is_nobody_elses_until_the_margin_after_its_end_is_over() -> None:
    store = Store()
    store.turn(A)
    store.now_ms += RULES.alone_ms + RULES.margin_ms - 1
    assert store.turn(B).mine == []
    store.now_ms += 1
    assert store.turn(B).mine == list(range(SLOTS))
    assert "a" not in store.processes


def test_the_slots_of_a_dead_process_of_the_same_home_are_taken_at_once() -> None:
    store = Store()
    store.turn(A)
    found = store.turn(B, dead=("a",))
    assert (found.mine, found.gone, store.rows[0].waits) == (list(range(SLOTS)), ["a"], ())


def test_what_a_process_of_another_home_took_over_waits_for_the_files_of_the_first() -> None:
    store = Store()
    store.turn(A)
    ended_ms = store.rows[0].expires_ms
    store.now_ms = ended_ms + RULES.margin_ms
    store.turn(FAR)
    assert store.rows[7].waits == (Wait("home", ended_ms),)
    brought = store.turn(B)
    assert brought.brought == list(range(SLOTS))
    assert store.rows[7].waits == ()


def test_only_what_was_noted_in_time_goes_to_another_home_and_the_rest_later() -> None:
    """Noted means: read from the files of the home since nobody there holds it any more, so of that very term."""
    store = Store()
    store.turn(A)
    store.turn(FAR)
    known = store.terms("a")
    none = store.take(Asker(A, known, noted={}))
    assert (none.given, none.is_quiet) == ({}, True)
    some = store.take(Asker(A, known, noted={60: known[60], 61: known[61] + 1, 62: known[62]}))
    assert sorted(some.given) == [60, 62]
    assert len(store.take(Asker(A, store.terms("a"))).given) == SLOTS // 2 - 2


def test_a_neighbour_of_the_same_home_needs_no_notes() -> None:
    store = Store()
    store.turn(A)
    store.turn(B)
    store.turn(FAR)
    given = store.take(Asker(A, store.terms("a"), noted={})).given
    assert {each.holder for each in given.values()} == {"b"}
    assert len(given) == SLOTS // 3


def test_what_another_home_waits_for_is_brought_once_it_is_noted() -> None:
    store = Store()
    store.turn(A)
    store.now_ms = store.rows[0].expires_ms + RULES.margin_ms
    store.turn(FAR)
    terms = store.terms("far")
    brought = store.take(Asker(B, {}, noted={7: terms[7], 8: terms[8] - 1})).brought
    assert (brought, store.rows[7].waits, len(store.rows[8].waits)) == ([7], (), 1)


def test_who_takes_a_slot_back_into_its_home_waits_for_nobody_there() -> None:
    store = Store()
    store.turn(A)
    store.now_ms += RULES.alone_ms + RULES.margin_ms
    store.turn(FAR)
    store.now_ms += RULES.alone_ms + RULES.margin_ms
    store.turn(B)
    assert {wait.home for wait in store.rows[7].waits} == {"elsewhere"}


def test_a_wait_is_over_with_the_day() -> None:
    store = Store()
    store.turn(A)
    store.now_ms += RULES.alone_ms + RULES.margin_ms
    store.turn(FAR)
    store.now_ms = store.rows[7].waits[0].over_ms
    assert store.now_ms == NOON_MS + DAY_MS // 2
    store.turn(FAR, store.terms("far"))
    assert store.rows[7].waits == ()


def test_a_slot_that_was_somebody_elses_meanwhile_has_to_be_learnt_anew() -> None:
    """A held it, B took it over and died, and A has it again: another term, so what A knew is not all."""
    store = Store()
    store.turn(A)
    known = store.terms("a")
    store.turn(B, dead=("a",))
    assert store.turn(A, known, dead=("b",)).taken == list(range(SLOTS))


def test_a_slot_is_the_same_on_every_machine() -> None:
    assert [slot_of(key) for key in ("ann", "bob", "", "é", "\ud800")] == [51, 0, 0, 62, 40]


def test_a_lease_that_gets_shorter_is_shorter_here_before_the_store_says_so() -> None:
    """Else one who was alone, and is stopped just when the store has heard of a second one, would hold on for long."""
    tenure = Tenure()
    tenure.grant([0, 1], 100.0, RULES.alone_ms)
    tenure.shorten([0], 105.0, RULES.lease_ms)
    assert [tenure.is_held(slot, 116.0) for slot in (0, 1)] == [False, True]
    tenure.shorten([0], 200.0, RULES.alone_ms)
    assert not tenure.is_held(0, 116.0)


@given(st.sets(st.sampled_from("abcdefghij"), min_size=1), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_shares_are_even_whoever_came_and_went(names: set[str], gone: int) -> None:
    store, order = Store(), sorted(names)
    for _ in range(4):
        for name in order:
            store.turn(Process(name, "home", ""), store.terms(name))
    left = order[min(gone, len(order) - 1) :]
    dead = tuple(set(order) - set(left))
    for _ in range(4):
        for name in left:
            store.turn(Process(name, "home", ""), store.terms(name), dead)
    counts = store.holders()
    assert set(counts) == set(left)
    assert max(counts.values()) - min(counts.values()) <= 1


class Asked(NamedTuple):
    """A process is between asking the store and hearing its answer."""

    asked_s: float
    turn: Turn | None


class Alone(RuleBasedStateMachine):
    """Processes with clocks that differ and drift, stopped at every place for any time: no slot has two holders."""

    @initialize(
        offsets=st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
        rates=st.lists(st.floats(1 - DRIFT / 2, 1 + DRIFT / 2), min_size=3, max_size=3),
    )
    def begin(self, offsets: list[float], rates: list[float]) -> None:
        self.store, self.real_s = Store(), 0.0
        self.processes = [A, B, FAR]
        self.offsets, self.rates = offsets, rates
        self.tenures = [Tenure() for _ in self.processes]
        self.known: list[dict[int, int]] = [{} for _ in self.processes]
        self.asked: list[Asked | None] = [None] * 3

    def clock_s(self, at: int) -> float:
        return self.offsets[at] + 1e7 + self.real_s * self.rates[at]

    @rule(seconds=st.one_of(st.floats(0, 3), st.floats(0, 40)))
    def time_passes(self, seconds: float) -> None:
        self.real_s += seconds

    @rule(at=st.integers(0, 2))
    def a_process_goes_on(self, at: int) -> None:
        """It asks; or the store answers; or it hears the answer."""
        asked = self.asked[at]
        if asked is None:
            self.asked[at] = Asked(self.clock_s(at), None)
        elif asked.turn is None:
            self.store.now_ms = NOON_MS + int(self.real_s * 1_000)
            turn = self.store.turn(self.processes[at], self.known[at])
            self.tenures[at].give_up(turn.given)
            self.tenures[at].shorten(turn.mine, asked.asked_s, turn.lease_ms)
            self.asked[at] = asked._replace(turn=turn)
        else:
            self.tenures[at].grant(asked.turn.mine, asked.asked_s, asked.turn.lease_ms)
            self.known[at] = self.store.terms(self.processes[at].holder)
            self.asked[at] = None

    @rule(at=st.integers(0, 2))
    def a_process_takes_a_whole_turn(self, at: int) -> None:
        self.asked[at] = None
        for _ in range(3):
            self.a_process_goes_on(at)

    @rule(at=st.integers(0, 2))
    def an_answer_is_lost(self, at: int) -> None:
        self.asked[at] = None

    @invariant()
    def nobody_shares_a_slot(self) -> None:
        for slot in (0, 31, 63):
            assert sum(tenure.is_held(slot, self.clock_s(at)) for at, tenure in enumerate(self.tenures)) <= 1


Alone.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
test_no_slot_has_two_holders = Alone.TestCase

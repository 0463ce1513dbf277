"""Leases: no budget is ever overspent, whatever happens to processes, records, answers, clocks and readers."""

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.core.lease import (
    SHARE,
    Account,
    Ask,
    Days,
    Lease,
    Limits,
    Place,
    Terms,
    ahead_of_both,
    day_of,
    is_behind,
    settle,
)
from tests.core.lease_rig import LEASE_MS, RULES, START_MS, Lagging, Market, MemoryStore, Shard, storm
from tests.core.wrong_stores import WRONG_STORES, is_found, met_in

HOUR_MS = 3_600_000
PRICE = 5
SKEWS = st.sampled_from([0, 0, -400, 700, -5_000, 60_000])


class Budgets(RuleBasedStateMachine):
    """Several processes, two lines of one campaign, limits of every kind."""

    @initialize(
        limits=st.lists(st.none() | st.integers(0, 12 * PRICE), min_size=4, max_size=4),
        pays_for=st.sampled_from(["impression", "click", "action"]),
    )
    def begin(self, limits: list[int | None], pays_for: str) -> None:
        total, daily, campaign_total, campaign_daily = limits
        total = 7 * PRICE if total is None and daily is None and campaign_total is None else total
        words = {
            "campaign_zone": "Asia/Tokyo",
            "campaign_total_micros": campaign_total,
            "campaign_daily_micros": campaign_daily,
        }
        first = Terms("l1", "c1", pays_for, PRICE, "UTC", total_micros=total, daily_micros=daily, **words)  # type: ignore[arg-type]
        second = Terms("l2", "c1", "impression", 3, "Europe/Berlin", total_micros=9 * 3, **words)  # type: ignore[arg-type]
        self.market = Market([first, second])
        self.market.start()
        self.market.start()

    @precondition(lambda self: len(self.market.processes) < 4)
    @rule(skew_ms=SKEWS)
    def a_process_starts(self, skew_ms: int) -> None:
        self.market.start(skew_ms)

    @precondition(lambda self: self.market.processes)
    @rule(data=st.data(), is_killed=st.booleans())
    def a_process_ends(self, data: st.DataObject, is_killed: bool) -> None:
        process = data.draw(st.sampled_from(self.market.processes))
        (self.market.kill if is_killed else self.market.stop)(process)

    @precondition(lambda self: self.market.processes)
    @rule(
        data=st.data(),
        line_id=st.sampled_from(["l1", "l1", "l2"]),
        times=st.integers(1, 6),
        asks_for_more=st.booleans(),
    )
    def decisions_are_made(self, data: st.DataObject, line_id: str, times: int, asks_for_more: bool) -> None:
        process = data.draw(st.sampled_from(self.market.processes))
        for _ in range(times):
            if asks_for_more and not self.market.decide(process, line_id):
                self.market.pass_time(1_000)
                self.market.talk(process)
            self.market.decide(process, line_id)

    @precondition(lambda self: self.market.processes)
    @rule(data=st.data(), is_answered=st.sampled_from([True, True, True, False]))
    def a_process_talks(self, data: st.DataObject, is_answered: bool) -> None:
        self.market.talk(data.draw(st.sampled_from(self.market.processes)), is_answered)

    @precondition(lambda self: any(process.unsent for process in self.market.processes))
    @rule(data=st.data(), partition=st.integers(0, 1), many=st.integers(1, 6), skew_ms=SKEWS, is_lost=st.booleans())
    def records_land_or_are_lost(
        self, data: st.DataObject, partition: int, many: int, skew_ms: int, is_lost: bool
    ) -> None:
        process = data.draw(st.sampled_from([each for each in self.market.processes if each.unsent]))
        gone, process.unsent = process.unsent[:many], process.unsent[many:]
        if is_lost:
            gone = gone[1:]
        for one in gone:
            self.market.write(partition, one, skew_ms)

    @precondition(lambda self: self.market.spools)
    @rule(partition=st.integers(0, 1))
    def a_spool_is_sent(self, partition: int) -> None:
        self.market.write(partition, self.market.spools.pop())

    @precondition(lambda self: self.market.opened)
    @rule(data=st.data(), is_bot=st.booleans())
    def what_is_paid_for_comes(self, data: st.DataObject, is_bot: bool) -> None:
        self.market.pay(data.draw(st.integers(0, len(self.market.opened) - 1)), is_bot)

    @rule(ms=st.sampled_from([1, 200, 1_000, 3_000, 7_000, 20_000, 12 * HOUR_MS]))
    def time_passes(self, ms: int) -> None:
        self.market.pass_time(ms)

    @rule(partition=st.integers(0, 1), skew_ms=st.sampled_from([0, 0, 0, -300, 300]))
    def a_tick_is_written(self, partition: int, skew_ms: int) -> None:
        self.market.shards[partition].write(self.market.now_ms + skew_ms, [])

    @rule(partition=st.integers(0, 1), blocks=st.integers(1, 20))
    def the_stage_folds(self, partition: int, blocks: int) -> None:
        for _ in range(blocks):
            self.market.shards[partition].step()

    @precondition(lambda self: self.market.processes)
    @rule(data=st.data(), partition=st.integers(0, 1), steps=st.integers(1, 20))
    def a_process_reads(self, data: st.DataObject, partition: int, steps: int) -> None:
        data.draw(st.sampled_from(self.market.processes)).view.look(partition, steps)

    @invariant()
    def no_limit_is_passed(self) -> None:
        if hasattr(self, "market"):
            self.market.check()

    def teardown(self) -> None:
        """In the end, with everything sent and read, no limit is passed; and nothing is lost for ever."""
        if not hasattr(self, "market"):
            return
        market = self.market
        for process in market.processes:
            market.spools += process.unsent
            process.unsent = []
        for one in market.spools:
            market.write(0, one)
        market.spools = []
        market.settle_all()
        market.check()
        for process in list(market.processes):
            market.kill(process)
        market.pass_time(LEASE_MS + 10 * 24 * HOUR_MS)
        for shard in market.shards:
            shard.write(market.now_ms, [])
        last = market.start()
        market.settle_all()
        last.view.look(0, 10**9)
        last.view.look(1, 10**9)
        self._all_that_is_left_can_be_spent(last)

    def _all_that_is_left_can_be_spent(self, last: object) -> None:
        market = self.market
        process = market.processes[-1]
        assert process is last
        expected = {}
        for kind, key in (("line", "l1"), ("campaign", "c1")):
            terms = market.terms["l1"]
            limit = terms.total_micros if kind == "line" else terms.campaign_total_micros
            daily = terms.daily_micros if kind == "line" else terms.campaign_daily_micros
            if limit is not None:
                expected[kind] = limit - market.spent_micros(Account(kind, key))
            if daily is not None:
                expected[f"{kind} day"] = daily
        units = min(expected.values()) // PRICE
        made = 0
        for _ in range(40):
            while market.decide(process, "l1"):
                made += 1
            process.wallet.has_room("l1", market.now_ms)
            market.talk(process)
            market.pass_time(50)
        held = sum(lease.granted_micros for lease in market.store.leases.values() if lease.line_id == "l2")
        assert units - -(-held // PRICE) <= made <= units


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def stormed(seed: int, store: MemoryStore) -> Market:
    """A thousand steps, close to the limits: denser than chance finds above."""
    rng = Random(seed)
    pays_for = rng.choice(("impression", "click", "action"))
    units = rng.choice((2, 4, 20))  # few: it is at the last ones that rules are broken
    daily, campaign_total = rng.choice(((None, None), (6, None), (None, 20), (5, 18)))
    words = {"campaign_zone": "Asia/Tokyo", "campaign_total_micros": campaign_total and campaign_total * PRICE}
    first = Terms(
        "l1", "c1", pays_for, PRICE, total_micros=units * PRICE, daily_micros=daily and daily * PRICE, **words
    )  # type: ignore[arg-type]
    second = Terms("l2", "c1", "impression", 3, "Europe/Berlin", total_micros=(units - units // 4) * 3, **words)  # type: ignore[arg-type]
    market = Market([first, second], rng.choice((1, 2)), store)
    storm(market, rng, 1_000)
    return market


def test_no_limit_is_passed_in_any_storm() -> None:
    """And the storms are some: money is spent to the last unit, billed, and left behind by the dead."""
    runs = met_in(stormed, 40)
    assert runs["decided"] > runs["all"] // 2
    assert min(runs["all reserved"], runs["paid"], runs["killed with records"]) > runs["all"] // 8, runs


@pytest.mark.parametrize("wrong", WRONG_STORES)
def test_a_wrong_rule_is_found(wrong: type[MemoryStore]) -> None:
    assert is_found(stormed, wrong)


def lease(lease_id: str = "g1", micros: int = 0, is_final: bool = False, expires_ms: int = START_MS) -> Lease:
    return Lease(lease_id, "l1", "2026-09-21", "c1", "2026-09-21", "impression", micros, 0, expires_ms, is_final)


def granted(limit: int, wanted: int, held: list[Lease], price: int = 1) -> int:
    limits = {("line", "l1"): Limits(1, limit, None), ("campaign", "c1"): Limits(1, None, None)}
    found = settle([Ask(lease("new"), price, wanted)], limits, {}, held, Lagging([Shard()]), RULES)
    return sum(one.granted_micros for one in found.granted)


def test_a_big_budget_is_granted_as_wanted_and_the_last_units_one_by_one() -> None:
    assert granted(1_000_000, 500, []) == 500
    assert granted(1_000, 500, []) == 1_000 // SHARE
    assert granted(SHARE - 1, 500, []) == 1
    assert granted(10, 500, [lease(micros=9)]) == 1
    assert granted(10, 500, [lease(micros=10)]) == 0


def test_a_grant_is_in_whole_units_and_what_is_less_than_one_stays() -> None:
    assert granted(99, 1_000, [], price=10) == 10
    assert granted(9, 1_000, [], price=10) == 0


def test_what_the_holder_says_of_its_lease_counts_and_not_what_the_store_has_of_a_lost_answer() -> None:
    limits = {("line", "l1"): Limits(1, 10, None), ("campaign", "c1"): Limits(1, None, None)}
    view = Lagging([Shard()])
    ask = Ask(lease(micros=2), 1, 1)
    found = settle([ask], limits, {}, [lease(micros=10)], view, RULES)
    assert [one.granted_micros for one in found.granted] == [3]


def test_a_lease_is_closed_by_its_holders_word_or_when_nothing_of_it_can_count_any_more() -> None:
    shard = Shard()
    view = Lagging([shard])

    def closed(one: Lease) -> bool:
        return settle([], {}, {}, [one], view, RULES).closed == [one.lease_id]

    assert closed(lease(micros=0, is_final=True))
    assert not closed(lease(micros=1, is_final=True))
    for step, expected in ((0, False), (RULES.impression_ms, False), (RULES.impression_ms + 1, True)):
        shard.write(START_MS + step, [])
        shard.step()
        view.look(0, 1)
        assert closed(lease(micros=5)) is expected


def test_a_dead_process_keeps_its_money_until_no_record_of_it_can_count_any_more() -> None:
    """It reserves at the last moment of its lease and is killed; the record is a window late, and still counts."""
    market = Market([Terms("l1", "c1", "impression", PRICE, total_micros=PRICE)], partitions=1)
    dead, other = market.start(), market.start()
    market.talk(dead)
    market.pass_time(LEASE_MS)
    assert market.decide(dead, "l1")
    market.kill(dead)
    market.pass_time(RULES.impression_ms)
    assert not _gets_money(market)
    market.write(0, market.spools.pop())
    assert not _gets_money(market)
    market.pay(0, is_bot=False)
    market.settle_all()
    assert market.spent_micros(Account("line", "l1")) == PRICE
    market.pass_time(10 * HOUR_MS)
    assert not _gets_money(market)
    assert other in market.processes


def test_what_a_dead_process_did_not_reserve_is_had_again() -> None:
    market = Market([Terms("l1", "c1", "impression", PRICE, total_micros=PRICE)], partitions=1)
    dead = market.start()
    market.talk(dead)
    market.kill(dead)
    market.start()
    market.pass_time(LEASE_MS + RULES.impression_ms)
    assert not _gets_money(market)
    market.pass_time(1)
    assert _gets_money(market)


def _gets_money(market: Market) -> bool:
    """Whether the last process that was started gets some, once everybody has read everything of now."""
    for shard in market.shards:
        shard.write(market.now_ms, [])
    market.settle_all()
    process = market.processes[-1]
    process.wallet.publish(())
    process.wallet.publish(market.terms.values())
    market.talk(process)
    return process.wallet.has_room("l1", market.now_ms)


def test_who_knows_less_than_what_was_closed_by_is_granted_nothing() -> None:
    limits = {("line", "l1"): Limits(1, 10, None), ("campaign", "c1"): Limits(1, None, None)}
    shard = Shard()
    view = Lagging([shard])
    positions = {("campaign", "c1"): (Place(0, START_MS),)}
    found = settle([Ask(lease("new"), 1, 1)], limits, positions, [], view, RULES)
    assert (found.granted, found.behind) == ([], {"l1"})
    shard.write(START_MS, [])
    shard.step()
    view.look(0, 1)
    assert settle([Ask(lease("new"), 1, 1)], limits, positions, [], view, RULES).behind == set()


def test_by_a_view_that_is_not_whole_nothing_is_granted_or_closed() -> None:
    limits = {("line", "l1"): Limits(1, 10, None), ("campaign", "c1"): Limits(1, None, None)}
    view = Lagging([Shard()])
    view.is_whole = False
    found = settle([Ask(lease("new"), 1, 1)], limits, {}, [lease(is_final=True)], view, RULES)
    assert (found.granted, found.closed, found.behind) == ([], [], {"l1"})


def test_a_limit_that_was_lowered_below_what_is_granted_grants_nothing_more() -> None:
    assert granted(3, 1, [lease(micros=8)]) == 0


@pytest.mark.parametrize(
    ("zone", "time_ms", "hours"),
    [
        ("UTC", 1_790_000_000_000, 24),
        ("Europe/Berlin", 1_774_742_400_000, 23),  # 29 March 2026: clocks go forward
        ("Europe/Berlin", 1_792_886_400_000, 25),  # 25 October 2026: and back
        ("Asia/Tokyo", 1_790_000_000_000, 24),
    ],
)
def test_a_day_begins_and_ends_at_midnight_of_its_zone(zone: str, time_ms: int, hours: int) -> None:
    day = day_of(zone, time_ms)
    assert day.from_ms <= time_ms < day.to_ms
    assert day.to_ms - day.from_ms == hours * HOUR_MS
    assert day_of(zone, day.from_ms) == day_of(zone, day.to_ms - 1) == day
    assert day_of(zone, day.to_ms).from_ms == day.to_ms
    days = Days()
    assert [days.day(zone, at) for at in (time_ms, day.to_ms, time_ms)] == [day, day_of(zone, day.to_ms), day]


def test_positions_are_compared_partition_by_partition() -> None:
    ahead, behind = Place(3, 50), Place(2, 50)
    assert is_behind((ahead, behind), (behind, ahead))
    assert not is_behind((ahead, ahead), (ahead, behind))
    assert not is_behind((behind,), ())
    assert ahead_of_both((ahead, behind), (behind, ahead)) == (ahead, ahead)
    assert ahead_of_both((), (ahead, behind)) == (ahead, behind)


def test_where_the_log_was_made_anew_times_say_who_is_behind() -> None:
    """Another generation, another number of partitions, or a broker that was filled again from a backup."""
    known = (Place(900, 50), Place(700, 40))
    assert is_behind((Place(900, 50, 2), Place(700, 40, 2)), known)
    assert not is_behind((Place(3, 51, 2), Place(5, 41, 2)), known)
    assert not is_behind((Place(3, 51), Place(5, 41)), known)
    assert is_behind((Place(3, 51), Place(5, 40)), known)
    assert is_behind((Place(3, 50, 2),) * 3, known)
    assert not is_behind((Place(3, 51, 2),) * 3, known)
    assert ahead_of_both(known, (Place(3, 51, 2),) * 3) == (Place(3, 51, 2),) * 3
    assert ahead_of_both(known, (Place(3, 51), Place(5, 41))) == (Place(3, 51), Place(5, 41))

"""A process's leases: reserved without waiting, asked for ahead of need, given back when nobody uses them."""

from collections.abc import Callable
from itertools import count

from pipeline.core.lease import Ask, Terms, day_of
from pipeline.core.wallet import AHEAD_MS, FIRST_UNITS, IDLE_MS, RETRY_MS, Wallet

NOW_MS = 1_790_000_000_000  # 21 September 2026, 14:13 UTC
LEASE_MS = 60_000
PRICE = 5
LINE = Terms("l1", "c1", "impression", PRICE, total_micros=1_000_000)
FREE = Terms("free", "c1", "click", PRICE, "Asia/Tokyo")


def wallet(*terms: Terms) -> Wallet:
    names = count(1)
    made = Wallet(LEASE_MS, lambda: f"g{next(names)}")
    made.publish(terms or (LINE,))
    return made


def talk(made: Wallet, now_ms: int, grant: Callable[[Ask], int] = lambda ask: ask.wanted_micros) -> list[Ask]:
    """Ask a store that gives what `grant` says; return the asks."""
    made.look_ahead(now_ms)
    asks = made.asks(now_ms)
    leases = []
    for ask in asks:
        micros = grant(ask)
        if micros:
            leases.append(ask.lease._replace(granted_micros=ask.lease.granted_micros + micros))
    made.granted(asks, leases, (), now_ms)
    return asks


def test_a_published_line_asks_for_a_first_lease_before_anybody_decides() -> None:
    made = wallet()
    (ask,) = talk(made, NOW_MS)
    assert ask.wanted_micros == FIRST_UNITS * PRICE
    assert made.has_room("l1", NOW_MS)
    assert [made.reserve("l1", NOW_MS) is not None for _ in range(FIRST_UNITS + 1)] == [True] * FIRST_UNITS + [False]
    assert not made.has_room("l1", NOW_MS)


def test_a_line_in_use_asks_for_what_lasts_some_seconds_under_the_same_lease() -> None:
    made = wallet()
    talk(made, NOW_MS)
    for _ in range(FIRST_UNITS):
        made.reserve("l1", NOW_MS + 100)
    assert made.is_wanting
    (ask,) = talk(made, NOW_MS + 1_000)
    assert (ask.lease.lease_id, ask.lease.granted_micros) == ("g1", FIRST_UNITS * PRICE)
    assert ask.wanted_micros == 5 * FIRST_UNITS * PRICE  # four a second, for five seconds
    assert not talk(made, NOW_MS + 1_001)


def test_who_gets_nothing_asks_again_only_after_a_pause_that_grows() -> None:
    made = wallet()
    talk(made, NOW_MS, lambda _: 0)
    times = []
    for step in range(0, 20_000, 100):
        made.has_room("l1", NOW_MS + step)
        if talk(made, NOW_MS + step, lambda _: 0):
            times.append(step)
    assert times == [RETRY_MS, 3 * RETRY_MS, 7 * RETRY_MS, 11 * RETRY_MS, 15 * RETRY_MS, 19 * RETRY_MS]


def test_a_line_without_limits_needs_no_lease_and_knows_its_days() -> None:
    made = wallet(FREE)
    assert not talk(made, NOW_MS)
    assert made.has_room("free", NOW_MS)
    reserved = made.reserve("free", NOW_MS + 3_600_000)
    assert reserved == ("", "2026-09-22", "2026-09-21")


def test_a_line_that_is_not_published_has_no_money() -> None:
    made = wallet()
    assert not made.has_room("l9", NOW_MS)
    assert made.reserve("l9", NOW_MS) is None


def test_a_lease_ends_with_its_day_and_the_next_one_begins_with_the_next_day() -> None:
    made = wallet()
    midnight_ms = day_of("UTC", NOW_MS).to_ms
    (first,) = talk(made, midnight_ms - 10_000)
    assert first.lease.expires_ms == midnight_ms - 1
    (second,) = talk(made, midnight_ms - AHEAD_MS + 1)
    assert (second.lease.starts_ms, second.lease.line_day) == (midnight_ms, "2026-09-22")
    before, after = made.reserve("l1", midnight_ms - 1), made.reserve("l1", midnight_ms)
    assert before is not None
    assert after is not None
    assert (before.budget_day, after.budget_day) == ("2026-09-21", "2026-09-22")


def test_a_lease_that_is_over_is_declared_once_with_what_was_reserved() -> None:
    made = wallet()
    talk(made, NOW_MS)
    made.reserve("l1", NOW_MS)
    assert made.take_declared(NOW_MS + LEASE_MS) == {}
    assert made.take_declared(NOW_MS + LEASE_MS + 1) == {"g1": PRICE}
    assert made.take_declared(NOW_MS + LEASE_MS + 2) == {}
    assert made.reserve("l1", NOW_MS) is None


def test_what_is_given_back_can_be_reserved_again() -> None:
    made = wallet()
    talk(made, NOW_MS, lambda _: PRICE)
    reserved = made.reserve("l1", NOW_MS)
    assert reserved is not None
    assert made.reserve("l1", NOW_MS) is None
    made.give_back("l1", reserved)
    assert made.reserve("l1", NOW_MS) is not None


def test_a_choice_of_another_price_takes_that_price() -> None:
    """Published anew between the choice and its money: what is logged is what is taken."""
    made = wallet()
    talk(made, NOW_MS, lambda _: 10)
    reserved = made.reserve("l1", NOW_MS, 8)
    assert reserved is not None
    assert (made.left_micros, made.reserve("l1", NOW_MS)) == (2, None)
    made.give_back("l1", reserved, 8)
    assert made.left_micros == 10


def test_other_terms_give_the_old_lease_back_and_ask_anew() -> None:
    made = wallet()
    talk(made, NOW_MS)
    made.reserve("l1", NOW_MS)
    made.publish([Terms("l1", "c1", "impression", PRICE, total_micros=20, version=2)])
    assert made.take_declared(NOW_MS) == {"g1": PRICE}
    (ask,) = talk(made, NOW_MS)
    assert ask.lease.lease_id == "g2"


def test_an_answer_for_a_line_that_changed_meanwhile_is_declared_unused() -> None:
    made = wallet()
    asks = made.asks(NOW_MS)
    made.publish([Terms("l1", "c1", "impression", 9, total_micros=20, version=2)])
    made.granted(asks, [asks[0].lease._replace(granted_micros=20)], (), NOW_MS)
    assert made.take_declared(NOW_MS) == {"g1": 0}
    assert not made.has_room("l1", NOW_MS)


def test_when_the_store_is_away_what_is_leased_stays_and_a_new_lease_is_not_used() -> None:
    made = wallet()
    talk(made, NOW_MS)
    for _ in range(3):
        made.reserve("l1", NOW_MS)
    asks = made.asks(NOW_MS)
    assert [ask.lease.lease_id for ask in asks] == ["g1"]
    made.failed(asks, {}, NOW_MS)
    assert made.reserve("l1", NOW_MS) is not None
    assert made.take_declared(NOW_MS) == {}  # g1 goes on, whatever was granted
    other = wallet()
    asks = other.asks(NOW_MS)
    other.failed(asks, {"old": 7}, NOW_MS)
    assert other.take_declared(NOW_MS) == {"old": 7, "g1": 0}
    assert [ask.lease.lease_id for ask in other.asks(NOW_MS + RETRY_MS)] == ["g2"]


def test_what_is_idle_is_given_back_where_others_get_nothing() -> None:
    made = wallet()
    talk(made, NOW_MS)
    made.reserve("l1", NOW_MS)
    assert made.idle(NOW_MS + IDLE_MS) == set()
    assert made.idle(NOW_MS + IDLE_MS + 1) == {("line", "l1"), ("campaign", "c1")}
    made.give_up({("line", "other")}, NOW_MS + IDLE_MS + 1)
    assert made.has_room("l1", NOW_MS)
    made.give_up({("campaign", "c1")}, NOW_MS + IDLE_MS + 1)
    assert made.take_declared(NOW_MS) == {"g1": PRICE}
    assert made.left_micros == 0

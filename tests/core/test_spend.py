"""The spend stage's fold: money reserved at a decision, settled by what is paid for, or released; never two of them."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.spend import DAY_MS, LEASE_KEPT_MS, STOCK, SpendRules, day_name, days_of
from pipeline.core.state import StateView
from schemas.outcome import Outcome
from schemas.spend import StockLevel, Sum
from tests.core.spend_rig import (
    PRICE,
    RULES,
    START_MS,
    added,
    check_books,
    choice,
    lines_of,
    news,
    open_of,
    restored,
    tell,
)

ONE = Sum(1, PRICE)
NONE = Sum()


@pytest.mark.parametrize("pays_for", ["impression", "click", "action"])
def test_a_decision_reserves_and_what_it_pays_for_settles(pays_for: str) -> None:
    opened = tell((0, [choice(1, pays_for=pays_for)]))
    assert opened.books().reserved == opened.books().open == ONE
    settled = tell((0, [choice(1, pays_for=pays_for)]), (900, [news(1, pays_for=pays_for, is_paid=True)]))
    assert settled.books().settled == settled.books().reserved == ONE
    assert settled.books().open == settled.books().released == NONE
    assert not open_of(settled.view)


def test_a_choice_that_pays_for_nothing_is_in_no_books() -> None:
    told = tell((0, [choice(1, pays_for="", lease_id=""), choice(2, line_id="")]))
    assert not told.view.entries


def test_at_exactly_the_window_it_is_still_settled_and_a_millisecond_later_released() -> None:
    paid = [news(1, is_paid=True)]
    assert tell((0, [choice(1)]), (RULES.impression_ms, paid)).books().settled == ONE
    told = tell((0, [choice(1)]), (RULES.impression_ms + 1, paid))
    assert told.books().released == told.books().late == ONE
    assert told.books().settled == NONE


def test_a_tick_releases_what_nobody_came_back_to() -> None:
    told = tell((0, [choice(1)]), (RULES.impression_ms + 1, []))
    assert told.books().released == ONE
    assert not open_of(told.view)


def test_an_actions_money_waits_for_a_click_and_then_for_the_action() -> None:
    clicked = news(1, pays_for="action", clicked_ms=START_MS + 2_000)
    paid = news(1, pays_for="action", clicked_ms=START_MS + 2_000, is_paid=True)
    opened = (0, [choice(1, pays_for="action")])
    assert tell(opened, (RULES.click_ms + 1, [])).books().released == ONE
    assert tell(opened, (2_000, [clicked]), (RULES.action_ms, [paid])).books().settled == ONE
    assert tell(opened, (2_000, [clicked]), (RULES.action_ms + 1, [paid])).books().late == ONE


def test_a_click_after_the_release_does_not_hold_the_money_again() -> None:
    clicked = news(1, pays_for="action", clicked_ms=START_MS + 2_000)
    told = tell((0, [choice(1, pays_for="action")]), (RULES.click_ms + 1, [clicked]))
    assert told.books().released == ONE
    assert not open_of(told.view)


def test_a_bot_is_never_billed() -> None:
    """Neither where it was known before the decision, nor where what it does tells it, paid for or not."""
    before = tell((0, [choice(1, is_bot=True)]))
    after = tell((0, [choice(1)]), (500, [news(1, is_bot=True)]))
    for told in (before, after):
        assert told.books().released == told.books().bots == ONE
        assert told.books().settled == told.books().open == NONE


def test_what_a_person_has_paid_for_stays_settled_when_a_bot_follows() -> None:
    """The same whether both come in one block or in two."""
    two = tell((0, [choice(1)]), (1, [news(1, is_paid=True)]), (1, [news(1, is_bot=True)]))
    one = tell((0, [choice(1)]), (1, [news(1, is_paid=True, is_bot=True)]))
    assert two.books() == one.books()
    assert one.books().settled == ONE


def test_a_decision_whose_record_comes_after_its_window_is_reserved_and_released_at_once() -> None:
    """So that a lease can be closed when its time is over: nothing of it can be billed any more."""
    told = tell((RULES.impression_ms + 1, [choice(1)]), (RULES.impression_ms + 2, [news(1, is_paid=True)]))
    books = told.books()
    assert books.reserved == books.released == books.stale == books.late == ONE
    assert books.settled == NONE


def test_the_clock_does_not_go_back_with_a_writer_whose_clock_is_behind() -> None:
    told = tell((5_000, []), (0, [choice(1)]))
    assert told.books().stale == ONE
    assert told.fixed.block_time_ms == START_MS + 5_000


def test_a_decision_that_is_opened_again_while_open_is_reserved_once() -> None:
    told = tell((0, [choice(1)]), (1, [choice(1)]))
    assert told.books().reserved == ONE
    assert told.counts["repeated", "impression"] == 1


def test_days_are_kept_apart_by_the_lines_zone_and_the_campaigns() -> None:
    told = tell((0, [choice(1), choice(2, budget_day="2026-09-22", campaign_day="2026-09-21")]))
    days = told.lines()["c1", "l1"].days
    assert {days_of(day): money.reserved for day, money in days.items()} == {
        ("2026-09-21", "2026-09-21"): ONE,
        ("2026-09-22", "2026-09-21"): ONE,
    }
    assert day_name("2026-09-22", "2026-09-22") == day_name("2026-09-22", "") == "2026-09-22"


def test_old_days_go_and_the_total_stays() -> None:
    later = 50 * DAY_MS
    told = tell((0, [choice(1)]), (later, [choice(2, later, budget_day="2026-11-10")]))
    books = told.lines()["c1", "l1"]
    assert list(books.days) == ["2026-11-10"]
    assert books.total.reserved == Sum(2, 2 * PRICE)


def test_what_was_reserved_under_a_lease_is_known_for_its_time() -> None:
    told = tell((0, [choice(1), choice(2, lease_id="g2"), choice(3, lease_id="")]))
    assert {"g:g1", "g:g2"} <= told.view.entries.keys()
    gone = tell((0, [choice(1)]), (LEASE_KEPT_MS + 1, []))
    assert "g:g1" not in gone.view.entries


def test_the_newest_stock_by_its_own_time_is_kept_and_of_two_the_lower() -> None:
    levels = [StockLevel("shop", "s", level, at) for level, at in ((5, 10), (9, 30), (0, 20), (7, 30))]
    for order in (levels, levels[::-1]):
        told = tell((0, []), stock=order)
        (raw,) = (raw for key, raw in told.view.entries.items() if key.startswith(STOCK))
        assert raw == tell((0, []), stock=[levels[3]]).view.entries["s:shop/s"]


LINES = st.sampled_from([("l1", "c1"), ("l2", "c1"), ("l3", "c2")])
KINDS = ("new", "paid", "bot", "click")


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[int, Outcome]]:
    """Outcomes of one partition with their block times: in an order that Kafka allows, but for nothing else."""
    found: list[tuple[int, Outcome]] = []
    made: list[tuple[int, Outcome]] = []
    paid: set[int] = set()
    bots: set[int] = set()
    now_ms = 0
    for number in range(draw(st.integers(0, 25))):
        now_ms += draw(st.sampled_from([0, 0, 1, 300, 1_000, 3_000]))
        kind = draw(st.sampled_from(KINDS)) if made else "new"
        if kind == "new":
            line_id, campaign_id = draw(LINES)
            at_ms = now_ms - draw(st.sampled_from([0, 0, 0, 500, 2_000]))
            pays_for = draw(st.sampled_from(["impression", "click", "action"]))
            lease = draw(st.sampled_from(["g1", "g2", ""]))
            one = choice(
                number, at_ms, pays_for, line_id, campaign_id, draw(st.integers(1, 9)), lease,
                is_bot=draw(st.booleans()) and draw(st.booleans()), is_paid=False,
            )  # fmt: skip
            made.append((number, one))
            if one.is_bot:
                bots.add(number)
        else:
            number, before = draw(st.sampled_from(made))
            is_paid = kind == "paid" and number not in paid and number not in bots
            if is_paid:
                paid.add(number)
            if kind == "bot":
                bots.add(number)
            one = news(
                number, before.decided_ms - START_MS, pays_for=before.pays_for, line_id=before.line_id,
                campaign_id=before.campaign_id, price_micros=before.price_micros, lease_id=before.lease_id,
                is_bot=number in bots, is_paid=is_paid, clicked_ms=START_MS + now_ms if kind == "click" else 0,
            )  # fmt: skip
        found.append((now_ms, one))
    return found


@given(streams(), st.sets(st.integers(0, 25)))
def test_the_state_is_the_same_bits_however_the_stream_is_cut_and_wherever_it_is_restored(
    stream: list[tuple[int, Outcome]], restarts: set[int]
) -> None:
    """One block for all of one time, or one for each outcome, the fold made anew from its log at any of them."""
    by_time: dict[int, list[Outcome]] = {}
    for at_ms, one in stream:
        by_time.setdefault(at_ms, []).append(one)
    whole = tell(*by_time.items())
    view = StateView()
    for number, (at_ms, one) in enumerate(stream):
        told = tell((at_ms, [one]), view=view, first=number)
        view = restored(told, number) if number in restarts else told.view
        view.fixed = told.fold.fixed()
    assert dict(view.entries) == dict(whole.view.entries)
    assert view.fixed == (whole.fold.fixed() if stream else b"")


@given(streams())
def test_at_every_moment_reserved_is_settled_and_released_and_open(stream: list[tuple[int, Outcome]]) -> None:
    view = StateView()
    for number, (at_ms, one) in enumerate(stream):
        tell((at_ms, [one]), view=view, first=number)
        check_books(view)
    if stream:
        tell((stream[-1][0] + RULES.action_ms + 3_001, []), view=view)
        check_books(view)
        assert not open_of(view)


@given(streams(), st.integers(1, 4))
def test_partitions_add_up_in_any_order(stream: list[tuple[int, Outcome]], partitions: int) -> None:
    """A decision's news are all in its own partition, and each has the same ticks."""
    shards: list[list[tuple[int, Sequence[Outcome]]]] = [[] for _ in range(partitions)]
    for at_ms, one in stream:
        mine = int(one.decision_id[1:]) % partitions
        for number, shard in enumerate(shards):
            shard.append((at_ms, [one] if number == mine else []))
    whole = lines_of(tell(*((at_ms, [one]) for at_ms, one in stream)).view)
    told = [lines_of(tell(*shard).view) for shard in shards]
    for several in (told, told[::-1]):
        for key, books in whole.items():
            assert added(found[key].total for found in several if key in found) == books.total
    assert set().union(*told) == set(whole)


@given(streams())
def test_nothing_is_billed_twice_nor_for_a_bot_nor_more_than_was_reserved(stream: list[tuple[int, Outcome]]) -> None:
    """Settled decisions are among those that a person paid for; each decision is in one column."""
    told = tell(*((at_ms, [one]) for at_ms, one in stream))
    paid = [one for _, one in stream if one.is_paid]
    total = told.fixed.total
    assert total.settled.count + total.late.count == len(paid)
    assert total.settled.micros + total.late.micros == sum(one.price_micros for one in paid)
    assert total.reserved.count == sum(one.is_new for _, one in stream)


@given(streams())
def test_the_leases_reservations_are_the_lines_reservations(stream: list[tuple[int, Outcome]]) -> None:
    told = tell(*((at_ms, [one]) for at_ms, one in stream))
    expected = sum(one.price_micros for _, one in stream if one.is_new and one.lease_id)
    view = told.view
    assert sum(_leased(view).values()) == expected


def _leased(view: StateView) -> dict[str, int]:
    from msgspec.msgpack import decode

    from schemas.spend import Leased

    return {key: decode(raw, type=Leased).reserved.micros for key, raw in view.entries.items() if key.startswith("g:")}


def test_many_that_end_at_once_are_released_over_several_blocks_and_none_of_them_is_billed_meanwhile() -> None:
    """One block's record stays small; who comes for one that is due finds it released."""
    many = [choice(number, pays_for="click") for number in range(60_000)]
    last = news(59_999, pays_for="click", is_paid=True)
    told = tell((0, many), (RULES.click_ms + 1, []), (RULES.click_ms + 2, [last]))
    assert told.books().late == ONE
    assert 0 < told.books().open.count < 60_000
    check_books(told.view)
    for step in range(3, 8):
        tell((RULES.click_ms + step, []), view=told.view)
    assert lines_of(told.view)["c1", "l1"].total.open == NONE


def test_the_windows_of_the_rules_are_what_they_say() -> None:
    rules = SpendRules(1, 2, 3)
    assert [rules.window_ms(kind) for kind in ("impression", "click", "action")] == [1, 2, 2]
    assert rules.window_ms("action", is_clicked=True) == 3

"""What an outcome says of its decision besides the reward: its place, whether it has paid, and when that was known."""

import pytest

from pipeline.core.outcome import OutcomeBook, OutcomeRules, read_response
from pipeline.core.rows import outcome_columns
from schemas.block import Origin, OutcomeBlock
from schemas.event import Event, EventType
from schemas.outcome import Choice, GoalTerms, OpenDecision, Outcome

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000
EURO = 1_000_000
SUBSCRIBES = GoalTerms("subscribe", EURO, 2 * DAY_MS)
BUYS = GoalTerms("purchase", window_ms=7 * DAY_MS)


def opened(*goals: GoalTerms, worth_micros: int = 0, pays_for: str = "action") -> OpenDecision:
    choice = Choice("a", 2, 0.5, pays_for=pays_for, goals=goals, worth_micros=worth_micros)
    return OpenDecision("d", NOW_MS, "home", choice)


def became(decision: OpenDecision, *news: tuple[EventType, int], revenue: int = 0) -> Outcome:
    """What a decision is after news of these kinds and times after it, each in a block of its own."""
    book = OutcomeBook(OutcomeRules())
    for kind, after_ms in news:
        at_ms = NOW_MS + after_ms
        event = Event("e", kind, at_ms, at_ms, "shop", "ann", decision_id="d", revenue_micros=revenue)
        book.respond(decision, read_response(event), "ann", False)
        [found] = book.take()
    return found


def test_a_reward_is_known_when_the_latest_event_that_changed_it_came() -> None:
    """The click earns nothing here; a purchase six days after it does, and says so itself."""
    click, bought = (EventType.CLICK, 1_000), (EventType.PURCHASE, 6 * DAY_MS)
    assert became(opened(BUYS, worth_micros=20 * EURO), click).rewarded_ms == 0
    found = became(opened(BUYS, worth_micros=20 * EURO), click, bought, revenue=5 * EURO)
    assert (found.reward_micros, found.rewarded_ms) == (EURO // 4, NOW_MS + 6 * DAY_MS)


def test_what_changes_no_reward_does_not_delay_what_was_known() -> None:
    """By the settings a click is all of the reward, and a purchase a week later teaches nothing."""
    for after_ms in (500, 6 * DAY_MS):
        found = became(opened(), (EventType.CLICK, 1_000), (EventType.PURCHASE, after_ms))
        assert (found.reward_micros, found.rewarded_ms) == (EURO, NOW_MS + 1_000)


def test_an_action_is_paid_by_the_first_goal_alone_and_within_its_window() -> None:
    decisions = [
        (opened(SUBSCRIBES, BUYS), [(EventType.SUBSCRIBE, DAY_MS)], True),
        (opened(SUBSCRIBES, BUYS), [(EventType.PURCHASE, DAY_MS)], False),
        (opened(BUYS, SUBSCRIBES), [(EventType.SUBSCRIBE, DAY_MS)], False),
        (opened(GoalTerms("purchase", window_ms=DAY_MS)), [(EventType.PURCHASE, 2 * DAY_MS)], False),
        (opened(), [(EventType.PURCHASE, 2 * DAY_MS)], True),
    ]
    for decision, news, has_paid in decisions:
        assert became(decision, *news).has_paid == has_paid, news


@pytest.mark.parametrize(
    ("pays_for", "has_paid", "row"), [("click", True, "yes"), ("click", False, "no"), ("", False, "")]
)
def test_a_row_says_its_rank_and_whether_it_has_paid(pays_for: str, has_paid: bool, row: str) -> None:
    """An empty word is of rows that are older, and of choices that cost nothing."""
    named = ("d", "a", "home", "ann", NOW_MS, 0, 0, 0, 0, 0, 0.5, 1, 0)
    found = Outcome(*named, pays_for=pays_for, has_paid=has_paid, rank=2**70, rewarded_ms=NOW_MS)
    columns = outcome_columns([(Origin(0, 1), OutcomeBlock(NOW_MS, [found]))])
    values = dict(zip(columns.table.column_names, columns.columns, strict=True))
    assert (values["paid"][0], values["rank"][0], values["rewarded"][0]) == (row, 2**63 - 1, NOW_MS)

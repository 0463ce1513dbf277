"""The books of money as `herald status` shows them."""

from io import StringIO

from rich.console import Console

from pipeline.money import LineMoney, books_of, show
from schemas.spend import Sum
from tests.core.spend_rig import PRICE, choice, news, tell


def test_partitions_are_added_up_by_line_and_what_is_open_is_counted_anew() -> None:
    one = tell((0, [choice(1), choice(2)]), (1, [news(1, is_paid=True)]))
    two = tell((0, [choice(3), choice(4, line_id="l2"), choice(5, is_bot=True)]))
    first, second = books_of([one.view, two.view])
    assert first == LineMoney("c1", "l1", Sum(4, 4 * PRICE), Sum(1, PRICE), Sum(1, PRICE), Sum(2, 2 * PRICE), Sum())
    assert (second.line_id, second.open) == ("l2", Sum(1, PRICE))
    assert first.is_balanced
    assert second.is_balanced


def test_a_reservation_that_is_gone_is_missing_in_the_books() -> None:
    """The check can fail: it does not take the books' own word for what is open."""
    told = tell((0, [choice(1), choice(2)]))
    told.view.entries.pop("r:d1/a")
    (row,) = books_of([told.view])
    assert not row.is_balanced
    assert row.missing_micros == PRICE
    assert row.as_object()["missing_micros"] == PRICE


def test_amounts_are_shown_to_the_last_micro_that_they_have() -> None:
    row = LineMoney("c", "l", Sum(2, 1_234_500_550), Sum(1, 550), Sum(), Sum(1, 1_234_500_000), Sum(), None, 2_000_000)
    told = StringIO()
    show([row], Console(file=told, width=200))
    for text in ("1,234.50055", "0.00055", "1,234.50", "2.00", "c/l"):
        assert text in told.getvalue()

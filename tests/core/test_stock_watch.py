"""Which skus are told of: once, until there is enough again, and not because nobody looked or nothing is left."""

from pipeline.core.stock_watch import Outlook, Sku, crossed, most_urgent, outlook, shown

LEAD_DAYS = 7


def seen(sku: str, left: int) -> Outlook:
    """A sku of which ten are sold a day."""
    return outlook(Sku("dock", sku, left, dict.fromkeys(range(60), 10.0)), LEAD_DAYS)


def test_a_sku_is_over_only_where_it_was_looked_at_and_does_not_warn() -> None:
    known = {("dock", "plenty"), ("dock", "gone"), ("dock", "unseen"), ("dock", "few")}
    changed = crossed([seen("plenty", 5_000), seen("gone", 0), seen("few", 20), seen("new", 20)], known)
    assert changed.over == [("dock", "plenty")]
    assert [one.sku for one in changed.warned] == ["new"]


def test_what_has_run_out_comes_first_and_hides_nothing_that_will() -> None:
    found = most_urgent([seen("few", 20), seen("gone", 0), seen("less than gone", -3), seen("plenty", 5_000)])
    assert [one.sku for one in found] == ["gone", "less than gone", "few", "plenty"]
    assert [one.sku for one in shown(found, 1)] == ["few", "gone"]


def test_people_are_told_what_is_left_or_that_nothing_is() -> None:
    assert seen("few", 20).words(LEAD_DAYS).startswith("may run out: 20 left, gone in ")
    assert [seen("gone", left).words(LEAD_DAYS) for left in (0, -3)] == ["has run out"] * 2

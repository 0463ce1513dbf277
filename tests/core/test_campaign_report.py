"""What the campaigns' report says of each line: whether it is shown, and if not, the reason why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from catalogue_rig import NOW_MS, Objects, shop, stored

from pipeline.core.catalogue import Catalogue
from pipeline.core.lease import Account
from pipeline.delivery.campaign_report import CampaignsReport, Counts, Known, report

HOUR_MS = 3_600_000
PRICED: dict[str, Any] = {"price": {"per": "click", "micros": 10}, "budget": {"total_micros": 100}}


@dataclass
class Told:
    """Money and stock, as the test says."""

    spent: dict[Account, int] = field(default_factory=dict)
    levels: dict[tuple[str, str], int] = field(default_factory=dict)

    def spent_micros(self, account: Account) -> int:
        return self.spent.get(account, 0)

    def stock_level(self, site: str, sku: str) -> int | None:
        return self.levels.get((site, sku))


EMPTY = Told(levels={(site, sku): 0 for site in ("shop", "blog") for sku in "ab"})


def said(objects: Objects, told: Told | None = None, counts: Mapping[tuple[str, str], Counts] | None = None,
         sites: tuple[str, ...] = ("shop", "blog")) -> CampaignsReport:  # fmt: skip
    known = Known(objects, Catalogue(objects), told or Told(), {("home", "red"): 0.75}, sites, counts)
    return report(known, NOW_MS - HOUR_MS, NOW_MS)


def shoes(**body: Any) -> Objects:
    return shop(stored("lines", "shoes", campaign="spring", placements=["home"], **body))


@pytest.mark.parametrize(("objects", "told", "state", "detail"), [
    (shop(), Told(), "shown", ""),
    (shop(stored("lines", "shoes", "paused", campaign="spring", placements=["home"])), Told(), "paused", "line"),
    (shop(stored("campaigns", "spring", "ended", advertiser="adv")), Told(), "ended", "campaign"),
    (shop(stored("advertisers", "adv", "paused")), Told(), "not_published", "advertiser"),
    (shop(stored("creatives", "red", "ended", line="shoes"), without=("creatives", "blue")), Told(),
     "not_published", "creatives"),
    (shoes(schedule={"starts_at": "2099-01-01T00:00:00Z"}), Told(), "schedule", "line"),
    (shoes(skus=["a", "b"]), EMPTY, "stock", "a, b"),
    (shoes(skus=["a", "b"]), Told(levels={("shop", "a"): 0, ("blog", "a"): 0, ("shop", "b"): 0}), "shown", ""),
    (shoes(**PRICED), Told({Account("line", "shoes", ""): 90}), "shown", ""),
    (shoes(**PRICED), Told({Account("line", "shoes", ""): 91}), "budget", "line's total"),
    (shoes(audience="visits >"), Told(), "unreadable", None),
])  # fmt: skip
def test_a_line_is_shown_or_says_why_not(objects: Objects, told: Told, state: str, detail: str | None) -> None:
    [campaign] = said(objects, told).campaigns
    [line] = campaign.lines
    assert line.state == state
    assert line.detail == detail if detail is not None else "audience" in line.detail


def test_a_closed_line_says_when_it_opens() -> None:
    opens_ms = NOW_MS + 2 * HOUR_MS
    [campaign] = said(shoes(schedule={"starts_at": opens_ms / 1_000})).campaigns
    assert campaign.lines[0].opens_ms == opens_ms
    assert said(shop()).campaigns[0].lines[0].opens_ms is None


def test_counts_are_said_by_creative_and_add_up_to_the_lines() -> None:
    counts = {
        ("shoes", "red"): Counts(decisions=5, impressions=4, clicks=2, revenue_micros=7),
        ("shoes", "blue"): Counts(decisions=1, impressions=1),
        ("hats", "red"): Counts(decisions=100),
    }
    found = said(shop(), counts=counts)
    [line] = found.campaigns[0].lines
    assert line.counts == Counts(decisions=6, impressions=5, clicks=2, revenue_micros=7)
    assert {one.id: (one.counts, one.shares) for one in line.creatives} == {
        "blue": (Counts(decisions=1, impressions=1), {}),
        "red": (counts["shoes", "red"], {"home": 0.75}),
    }
    assert found.degraded == []


def test_without_the_warehouse_counts_are_null_and_it_is_said() -> None:
    found = said(shop())
    assert found.campaigns[0].lines[0].counts is None
    assert found.degraded == ["counts: the warehouse does not answer"]


def test_lines_beyond_the_limit_are_left_out_and_it_is_said() -> None:
    many = shop(*(stored("lines", f"l{at}", campaign="spring", placements=["home"]) for at in range(1_200)))
    found = said(many)
    assert (len(found.campaigns[0].lines), found.truncated) == (1_000, True)
    assert not said(shop()).truncated

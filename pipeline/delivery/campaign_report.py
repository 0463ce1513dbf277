"""`GET /v1/reports/campaigns`: every campaign that was published, how it is doing, and why a line is not shown.

Put together from what delivery holds anyway (what is published, money, stock, what was learnt) and one query to the
warehouse. Without the warehouse it still says what is shown and what was spent; the counts are null.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from pydantic import BaseModel

from pipeline.core.catalogue import Catalogue, LiveLine
from pipeline.core.eligibility import Reason
from pipeline.core.lease import Account
from pipeline.core.schedule import NEVER
from pipeline.delivery.reports import Source
from schemas.campaign import Budget, Status, Stored

LINES_MAX: Final = 1_000
SHOWN: Final = "shown"
_COUNTS: Final = """
SELECT line_id, creative_id, count(), countIf(toUnixTimestamp(impressed) > 0), countIf(toUnixTimestamp(clicked) > 0),
  sum(conversions), sum(revenue_micros)
FROM outcomes FINAL
WHERE decision_id >= %(from_id)s AND is_bot = 0 AND line_id != ''
GROUP BY line_id, creative_id
"""


class Counts(BaseModel):
    """What came of a line or creative since from_ms, of people. revenue_micros: of what was bought after a click."""

    decisions: int = 0
    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    revenue_micros: int = 0


class BudgetState(BaseModel):
    """What a budget has left. spent_micros: billed or reserved and not released. day: "" = all of its time."""

    limit_micros: int
    spent_micros: int
    day: str = ""


class CreativeState(BaseModel):
    """A creative. shares: placement -> the share of its decisions that it gets now, were nothing excluded.

    Of a visitor of whom nothing is known, where the placement's policy goes by the visitor and the request as well.
    """

    id: str
    name: str
    status: Status
    shares: dict[str, float]
    counts: Counts | None


class LineState(BaseModel):
    """A line. state: "shown", or the first reason why not: its or a parent's status, or one of a decision's exclusions.

    detail: what the reason is about. opens_ms: when its schedule opens next; null where it is open, or never will be.
    """

    id: str
    name: str
    state: str
    detail: str = ""
    opens_ms: int | None = None
    placements: list[str]
    priority: int
    pacing: str
    pays_for: str
    each_micros: int
    budgets: list[BudgetState]
    counts: Counts | None
    creatives: list[CreativeState]


class CampaignState(BaseModel):
    """A campaign with its lines. Money is in its currency."""

    id: str
    name: str
    advertiser: str
    status: Status
    currency: str
    budgets: list[BudgetState]
    lines: list[LineState]


class CampaignsReport(BaseModel):
    """All campaigns that were published once, by id. from_ms, at_ms: counts are of decisions between them.

    degraded: what is missing. truncated: there are more lines than are said.
    """

    from_ms: int
    at_ms: int
    campaigns: list[CampaignState]
    degraded: list[str]
    truncated: bool


class Books(Protocol):
    """What delivery knows of money and stock: `Till`."""

    def spent_micros(self, account: Account) -> int:
        """Micros reserved of an account and not released, by all processes."""

    def stock_level(self, site: str, sku: str) -> int | None:
        """Newest known stock; None where nothing was said."""


class Known(NamedTuple):
    """What the report is made of, at one moment. objects: all, by kind and id. shares: (placement, creative) -> share.

    sites: of the write keys. counts: (line, creative) -> counts, None while the warehouse is away.
    """

    objects: Mapping[tuple[str, str], Stored]
    catalogue: Catalogue
    books: Books
    shares: Mapping[tuple[str, str], float]
    sites: Sequence[str]
    counts: Mapping[tuple[str, str], Counts] | None


def read_counts(warehouse: Source, from_ms: int) -> dict[tuple[str, str], Counts]:
    """Return (line, creative) -> counts of decisions since then. Raises what the warehouse raises."""
    rows: Iterable[Any] = warehouse.execute(_COUNTS, {"from_id": f"{max(0, from_ms):012x}"})
    names = tuple(Counts.model_fields)
    return {(line, creative): Counts(**dict(zip(names, row, strict=True))) for line, creative, *row in rows}


def report(known: Known, from_ms: int, at_ms: int) -> CampaignsReport:
    """Return how everything is doing. Raises nothing."""
    return _Report(known, at_ms).all(from_ms)


@dataclass
class _Report:
    known: Known
    at_ms: int
    lines_left: int = LINES_MAX

    def all(self, from_ms: int) -> CampaignsReport:
        lines = _by_parent(self.known.objects, "lines", "campaign")
        creatives = _by_parent(self.known.objects, "creatives", "line")
        campaigns = [
            self._campaign(stored, lines.get(stored.id, ()), creatives)
            for (kind, _), stored in sorted(self.known.objects.items())
            if kind == "campaigns"
        ]
        missing = [] if self.known.counts is not None else ["counts: the warehouse does not answer"]
        return CampaignsReport(
            from_ms=from_ms, at_ms=self.at_ms, campaigns=campaigns, degraded=missing, truncated=self.lines_left < 0
        )

    def _campaign(
        self, stored: Stored, lines: Sequence[Stored], creatives: Mapping[str, Sequence[Stored]]
    ) -> CampaignState:
        said = []
        for line in lines:
            self.lines_left -= 1
            if self.lines_left >= 0:
                said.append(self._line(line, stored, creatives.get(line.id, ())))
        live = self.known.catalogue.campaigns.get(stored.id)
        return CampaignState(
            id=stored.id,
            name=str(stored.body.get("name", "")),
            advertiser=str(stored.body.get("advertiser", "")),
            status=stored.status,
            currency=str(stored.body.get("currency", "EUR")),
            budgets=[] if live is None else list(self._budgets("campaign", live.id, live.budget, live.timetable)),
            lines=said,
        )

    def _line(self, stored: Stored, campaign: Stored, creatives: Sequence[Stored]) -> LineState:
        live = self.known.catalogue.lines.get(stored.id)
        said = [self._creative(one) for one in creatives]
        state, detail = self._state(stored, campaign, live)
        opens_ms = None
        if live is not None and state == Reason.SCHEDULE:
            opens = max(each.next_opening_ms(self.at_ms) for each in (live.timetable, live.campaign.timetable))
            opens_ms = None if opens >= NEVER else opens
        return LineState(
            id=stored.id,
            name=str(stored.body.get("name", "")),
            state=state,
            detail=detail,
            opens_ms=opens_ms,
            placements=[] if live is None else list(live.placements),
            priority=0 if live is None else live.priority,
            pacing="" if live is None else live.pacing.value,
            pays_for="" if live is None else live.pays_for,
            each_micros=0 if live is None else live.each_micros,
            budgets=[] if live is None else list(self._budgets("line", live.id, live.budget, live.timetable)),
            counts=None if self.known.counts is None else _sum(said),
            creatives=said,
        )

    def _state(self, stored: Stored, campaign: Stored, live: LiveLine | None) -> tuple[str, str]:
        """Return why a line is not shown, as a decision would find it, and about what; SHOWN where it is."""
        if f"lines/{stored.id}" in self.known.catalogue.unreadable:
            return "unreadable", self.known.catalogue.unreadable[f"lines/{stored.id}"]
        for each, what in ((stored, "line"), (campaign, "campaign")):
            if each.status is not Status.PUBLISHED:
                return each.status.value, what
        if live is None:
            return "not_published", "advertiser"
        if not live.creatives:
            return "not_published", "creatives"
        for timetable, what in ((live.timetable, "line"), (live.campaign.timetable, "campaign")):
            if not timetable.is_open(self.at_ms):
                return Reason.SCHEDULE.value, what
        if live.skus and not any(self._has_stock(sku) for sku in live.skus):
            return Reason.STOCK.value, ", ".join(live.skus[:3])
        for kind, name, budget, timetable in (
            ("line", live.id, live.budget, live.timetable),
            ("campaign", live.campaign_id, live.campaign.budget, live.campaign.timetable),
        ):
            for one in self._budgets(kind, name, budget, timetable):
                if one.spent_micros + live.each_micros > one.limit_micros:
                    return Reason.BUDGET.value, f"{kind}'s {'day' if one.day else 'total'}"
        return SHOWN, ""

    def _has_stock(self, sku: str) -> bool:
        levels = [self.known.books.stock_level(site, sku) for site in self.known.sites]
        return any(level is None or level > 0 for level in levels)

    def _budgets(self, kind: str, name: str, budget: Budget | None, timetable: Any) -> Iterator[BudgetState]:
        if budget is None:
            return
        for limit, day in ((budget.total_micros, ""), (budget.daily_micros, timetable.budget_day(self.at_ms))):
            if limit is not None:
                spent = self.known.books.spent_micros(Account(kind, name, day))
                yield BudgetState(limit_micros=limit, spent_micros=spent, day=day)

    def _creative(self, stored: Stored) -> CreativeState:
        counts = self.known.counts
        line_id = str(stored.body.get("line", ""))
        return CreativeState(
            id=stored.id,
            name=str(stored.body.get("name", "")),
            status=stored.status,
            shares={place: share for (place, arm), share in self.known.shares.items() if arm == stored.id},
            counts=None if counts is None else counts.get((line_id, stored.id), Counts()),
        )


def _sum(creatives: Sequence[CreativeState]) -> Counts:
    counts = [one.counts for one in creatives if one.counts is not None]
    return Counts(**{name: sum(getattr(one, name) for one in counts) for name in Counts.model_fields})


def _by_parent(objects: Mapping[tuple[str, str], Stored], kind: str, parent: str) -> dict[str, list[Stored]]:
    found: dict[str, list[Stored]] = {}
    for (its_kind, _), stored in sorted(objects.items()):
        if its_kind == kind:
            found.setdefault(str(stored.body.get(parent, "")), []).append(stored)
    return found

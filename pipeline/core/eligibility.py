"""What of a placement's creatives may be shown now, to this visitor; and of each other one the first reason why not.

The order is: what is paused, what the request leaves out, audience, schedule, consent, caps, stock, budget and pacing,
what is on the page already; and of the lines that are left, only those of the highest priority. What may be shown goes
to the policy; the reasons go into the decision's log. What falls out between two ranks of a decision (`taken`) is told
by who reserves (pipeline/delivery/sale.py).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from pipeline.core.audience import Facts
from pipeline.core.caps import CapRule, Full
from pipeline.core.catalogue import LiveCreative, LiveLine, LivePlacement
from pipeline.core.decide import Excluded


class Reason(StrEnum):
    """Why a creative could not be chosen: a closed list, in the order in which they are looked at."""

    HOLDOUT = "holdout"
    PAUSED = "paused"
    UNWANTED = "unwanted"
    AUDIENCE = "audience"
    SCHEDULE = "schedule"
    CONSENT = "consent"
    CAP = "cap"
    STOCK = "stock"
    BUDGET = "budget"
    PACING = "pacing"
    ON_PAGE = "on_page"
    PRIORITY = "priority"
    TAKEN = Excluded.TAKEN.value


MEANINGS: Final = {
    Reason.HOLDOUT: "the visitor is held out: nothing of any campaign is shown, so that its effect can be measured",
    Reason.PAUSED: "it, its line, campaign or advertiser is paused; detail: which",
    Reason.UNWANTED: "the request leaves it out, its line or its campaign",
    Reason.AUDIENCE: "the visitor is not in the line's audience",
    Reason.SCHEDULE: "the line or the campaign is not open now; detail: which",
    Reason.CONSENT: "without consent, it would be shown by what is known of the visitor (`audience`), or could not be "
    "counted (`cap`)",
    Reason.CAP: "a frequency cap is full; detail: of which object and time, `cap:line:day`; or `unknown`, as long as "
    "profiles, or what a process that is gone has shown, are being read; or `elsewhere`: the delivery process that "
    "counts for this visitor did not answer",
    Reason.STOCK: "none of its goods is in stock; detail: the line's, the creative's, or `held`: the rest is held for "
    "others",
    Reason.BUDGET: "no room in the line's or campaign's budget",
    Reason.PACING: "there is money, but it is to last: the line waits its turn",
    Reason.ON_PAGE: "already chosen for another placement of the page; detail: the creative",
    Reason.PRIORITY: "another line that may be shown has a higher priority; detail: which priority",
    Reason.TAKEN: "it could be shown, but not beside what the same decision had chosen before: that was the last that "
    "a cap, the money or the pieces left room for; detail: behind which rank, and why, `taken:0:cap:line:day`",
}
"""What each reason means. An exclusion is `reason` or `reason:detail`."""


class CapsView(Protocol):
    """What was shown to the visitor: `caps.CapCounts`."""

    def full(self, rules: Sequence[CapRule]) -> Full | None:
        """Return the first of these caps without room for one more, or None."""

    def add(self, creative: LiveCreative) -> None:
        """Count one more: the decision that this is asked for has just chosen it."""


class StockView(Protocol):
    """What is in stock."""

    def has_stock(self, sku: str) -> bool:
        """Say whether any of it can be sold."""

    def has_free(self, creative: LiveCreative) -> bool:
        """Say whether a piece of any of a creative's held skus can be held, or is held by this visitor."""


class BudgetView(Protocol):
    """What may still be spent."""

    def lacks(self, line: LiveLine) -> str:
        """Return "" where one more event of the line can be paid for, from its own budget and its campaign's.

        Else the reason: BUDGET or PACING.
        """


class Plenty:
    """A stock and a budget without end: where nothing is limited."""

    def has_stock(self, sku: str) -> bool:
        """Say yes."""
        return True

    def has_free(self, creative: LiveCreative) -> bool:
        """Say yes."""
        return True

    def lacks(self, line: LiveLine) -> str:
        """Say nothing."""
        return ""


PLENTY: Final = Plenty()


@dataclass(frozen=True, slots=True)
class Visit:
    """For whom, when, and what is known.

    facts: facts.now_ms is the moment; facts.profile must be None without consent. has_consent: to be recognised.
    caps: None where nothing can be counted (profiles not read yet; no consent, and no key for the day): then nothing is
    shown that has a cap.
    on_page: creatives already chosen for other placements of the same request.
    exclude, only: ids of creatives, lines and campaigns that the request leaves out, or wants one of (empty = any).
    """

    facts: Facts
    has_consent: bool
    caps: CapsView | None
    stock: StockView = PLENTY
    budget: BudgetView = PLENTY
    on_page: Collection[str] = frozenset()
    exclude: Collection[str] = ()
    only: Collection[str] = ()


class Eligible(NamedTuple):
    """candidates: of the highest priority, by line and id. excluded: creative id -> `reason` or `reason:detail`."""

    candidates: list[LiveCreative]
    excluded: dict[str, str]


def eligible(placement: LivePlacement, visit: Visit) -> Eligible:
    """Return which of a placement's creatives may be shown, and why each other one may not. Raises nothing."""
    excluded = {held.creative_id: f"{_PAUSED}:{held.level}" for held in placement.held}
    left: list[LiveCreative] = []
    highest = 0
    has_wish = bool(visit.exclude or visit.only)
    for line in placement.lines:  # those of the highest priority first
        creatives = _wanted(line, visit, excluded) if has_wish else line.creatives
        reason = _before_stock(line, visit) if creatives else ""
        if reason:
            for creative in creatives:
                excluded[creative.id] = reason
            continue
        of_line: _OfLine | None = None
        for creative in creatives:
            reason = _cap(creative.caps, visit) if creative.caps else ""
            if not reason:
                if of_line is None:
                    of_line = _of_line(line, visit)
                reason = _after_caps(creative, of_line, visit)
            if not reason and line.priority < highest:
                reason = f"{_PRIORITY}:{highest}"
            if reason:
                excluded[creative.id] = reason
            else:
                highest = line.priority
                left.append(creative)
    return Eligible(left, excluded)


# a member of an enum in an f-string costs half a microsecond, a text nothing
_PAUSED, _SCHEDULE, _CONSENT = Reason.PAUSED.value, Reason.SCHEDULE.value, Reason.CONSENT.value
_CAP, _STOCK, _AUDIENCE = Reason.CAP.value, Reason.STOCK.value, Reason.AUDIENCE.value
_ON_PAGE, _PRIORITY = Reason.ON_PAGE.value, Reason.PRIORITY.value


def _wanted(line: LiveLine, visit: Visit, excluded: dict[str, str]) -> Sequence[LiveCreative]:
    """Return a line's creatives that the request does not leave out; note the others, which are no rivals to them."""
    wanted = []
    for creative in line.creatives:
        names = (creative.id, line.id, line.campaign_id)
        is_left_out = any(name in visit.exclude for name in names)
        if is_left_out or (visit.only and not any(name in visit.only for name in names)):
            excluded[creative.id] = Reason.UNWANTED.value
        else:
            wanted.append(creative)
    return wanted


def _before_stock(line: LiveLine, visit: Visit) -> str:
    """Audience, schedule, consent and the caps of line and campaign: "" where all let it pass."""
    if line.audience is not None and not line.audience.holds(visit.facts):
        return _AUDIENCE
    now_ms = visit.facts.now_ms
    if not line.timetable.is_open(now_ms):
        return f"{_SCHEDULE}:line"
    if not line.campaign.timetable.is_open(now_ms):
        return f"{_SCHEDULE}:campaign"
    if not visit.has_consent and line.audience is not None and line.audience.is_personal:
        return f"{_CONSENT}:audience"  # "not seen before" would hold for everybody of whom nothing is known
    return _cap(line.caps, visit) if line.caps else ""


def _cap(rules: Sequence[CapRule], visit: Visit) -> str:
    if visit.caps is None:
        return f"{_CAP}:unknown" if visit.has_consent else f"{_CONSENT}:cap"
    full = visit.caps.full(rules)
    return "" if full is None else f"{_CAP}:{full.detail}"


class _OfLine(NamedTuple):
    """What a line's creatives have in common, worked out once."""

    has_stock: bool
    lacks: str


def _of_line(line: LiveLine, visit: Visit) -> _OfLine:
    has_stock = not line.skus or any(map(visit.stock.has_stock, line.skus))
    return _OfLine(has_stock, visit.budget.lacks(line) if has_stock else "")


def _after_caps(creative: LiveCreative, of_line: _OfLine, visit: Visit) -> str:
    if not of_line.has_stock:
        return f"{_STOCK}:line"
    if creative.skus and not any(map(visit.stock.has_stock, creative.skus)):
        return f"{_STOCK}:creative"
    if creative.held_skus and not visit.stock.has_free(creative):
        return f"{_STOCK}:held"
    if of_line.lacks:
        return of_line.lacks
    return f"{_ON_PAGE}:creative" if creative.id in visit.on_page else ""

"""What a decision may spend: budgets, pacing and stock of the published lines, in front of this process's purse."""

from typing import Final

from pipeline.core.catalogue import Catalogue, LiveLine, LivePlacement
from pipeline.core.decide import uniform
from pipeline.core.eligibility import Reason
from pipeline.core.lease import Terms
from pipeline.core.wallet import Reserved
from pipeline.delivery.pace import Paces
from pipeline.delivery.purse import Purse
from schemas.outcome import Choice

BUDGET: Final = Reason.BUDGET.value
PACING: Final = Reason.PACING.value


class Till:
    """Belongs to the event loop's thread, but for `publish`."""

    def __init__(self, purse: Purse) -> None:
        """purse: what this process has leased."""
        self._purse = purse
        self._paces = Paces(purse)

    def publish(self, catalogue: Catalogue) -> None:
        """Say what is published: leases and paces are kept for these lines, and for no others."""
        self._purse.publish([terms for line in catalogue.lines.values() if (terms := _terms(line)) is not None])
        self._paces.publish(catalogue.lines.values())

    def view(self, place: LivePlacement, site: str, decision_id: str, time_ms: int) -> "View":
        """Return what eligibility asks, for one decision."""
        return View(self._purse, self._paces, place.body.site or site, decision_id, time_ms)

    def reserve(self, line: LiveLine, choice: Choice, time_ms: int) -> bool:
        """Reserve what a choice costs, and write it into the choice. False where there is no money (any more)."""
        if line.price is None:
            return True
        reserved = self._purse.reserve(line.id, time_ms, line.each_micros)
        if reserved is None:
            return False
        choice.pays_for, choice.price_micros = line.pays_for, line.each_micros
        choice.lease_id, choice.budget_day, choice.campaign_day = reserved
        self._paces.reserved(line.id, reserved.lease_id, line.each_micros)
        return True

    def give_back(self, choice: Choice) -> None:
        """Undo what was reserved for a choice of which nothing was logged."""
        if choice.pays_for:
            reserved = Reserved(choice.lease_id, choice.budget_day, choice.campaign_day)
            self._purse.give_back(choice.line_id, reserved, choice.price_micros)
            self._paces.reserved(choice.line_id, choice.lease_id, -choice.price_micros)


class View:
    """Budgets and stock as one decision sees them: `eligibility.BudgetView` and `StockView`."""

    __slots__ = ("_decision_id", "_paces", "_purse", "_site", "_time_ms")

    def __init__(self, purse: Purse, paces: Paces, site: str, decision_id: str, time_ms: int) -> None:
        """site: whose stock. decision_id: of it the coin is made that pacing throws, so that it can be thrown again."""
        self._purse, self._paces = purse, paces
        self._site, self._decision_id, self._time_ms = site, decision_id, time_ms

    def has_stock(self, sku: str) -> bool:
        """Say whether any of it can be sold; of what nobody has told a level, there is some."""
        level = self._purse.stock_level(self._site, sku)
        return level is None or level > 0

    def lacks(self, line: LiveLine) -> str:
        """Return "" where a line takes part, "budget" where it cannot be paid for, "pacing" where it waits its turn."""
        if line.price is None:
            return ""
        if not self._purse.has_room(line.id, self._time_ms):
            return BUDGET
        chance = self._paces.chance(line, self._time_ms)
        if chance >= 1.0 or uniform(self._decision_id, f"{PACING}|{line.id}", 0) < chance:
            return ""
        return PACING


def _terms(line: LiveLine) -> Terms | None:
    if line.price is None:
        return None
    own, campaign = line.budget, line.campaign
    theirs = campaign.budget
    return Terms(
        line_id=line.id,
        campaign_id=campaign.id,
        pays_for=line.pays_for,
        price_micros=line.each_micros,
        zone=line.timetable.zone,
        campaign_zone=campaign.timetable.zone,
        total_micros=own.total_micros if own else None,
        daily_micros=own.daily_micros if own else None,
        campaign_total_micros=theirs.total_micros if theirs else None,
        campaign_daily_micros=theirs.daily_micros if theirs else None,
        version=line.version,
        campaign_version=campaign.version,
    )

"""What a decision may spend: budgets, pacing and stock of the published lines, in front of this process's purse."""

from collections.abc import Sequence
from typing import Final

from pipeline.core.catalogue import Catalogue, LiveCreative, LiveLine, LivePlacement
from pipeline.core.decide import uniform
from pipeline.core.eligibility import Reason
from pipeline.core.lease import Account, Terms
from pipeline.core.wallet import Reserved
from pipeline.delivery.offer import Whom
from pipeline.delivery.pace import Paces
from pipeline.delivery.purse import Purse, Wish
from pipeline.delivery.stockroom import Stockroom, wishes
from schemas.outcome import Choice

BUDGET: Final = Reason.BUDGET.value
PACING: Final = Reason.PACING.value
STOCK_HELD: Final = f"{Reason.STOCK.value}:held"


class Till:
    """Belongs to the event loop's thread, but for `publish`."""

    def __init__(self, purse: Purse, sites: Sequence[str] = ()) -> None:
        """purse: what this process has leased. sites: all that may ask, for stock is a site's."""
        self._purse = purse
        self._paces = Paces(purse)
        self._stockroom = Stockroom(purse)
        self._sites = tuple(dict.fromkeys(sites))

    def publish(self, catalogue: Catalogue) -> None:
        """Say what is published: leases and paces are kept for these lines, and for no others."""
        terms = [terms for line in catalogue.lines.values() if (terms := _terms(line)) is not None]
        self._purse.publish(terms, wishes(catalogue, self._sites))
        self._paces.publish(catalogue.lines.values())

    def view(self, place: LivePlacement, whom: Whom, decision_id: str, time_ms: int) -> "View":
        """Return what eligibility asks, for one decision."""
        return View(self._purse, self._paces, self._stockroom, whom, place.body.site or whom.site, decision_id, time_ms)

    def hold(self, creative: LiveCreative, choice: Choice, view: "View", decision_id: str) -> str:
        """Hold the pieces that showing a creative holds, and write them into the choice; return "", or why not."""
        held = self._stockroom.hold(choice, view.wishes(creative), view.whom, decision_id, view.time_ms)
        return "" if held else STOCK_HELD

    def reserve(self, line: LiveLine, choice: Choice, time_ms: int) -> str:
        """Reserve what a choice costs, and write it into the choice; return "", or why not: no money (any more)."""
        if line.price is None:
            return ""
        reserved = self._purse.reserve(line.id, time_ms, line.each_micros)
        if reserved is None:
            return BUDGET
        choice.pays_for, choice.price_micros = line.pays_for, line.each_micros
        choice.lease_id, choice.budget_day, choice.campaign_day = reserved
        self._paces.reserved(line.id, reserved.lease_id, line.each_micros)
        return ""

    def has_room(self, line: LiveLine, time_ms: int) -> bool:
        """Say whether one more of a line can be paid for now."""
        return line.price is None or self._purse.has_room(line.id, time_ms)

    def spent_micros(self, account: Account) -> int:
        """Return what all processes have reserved of an account and not released, as far as that is known here."""
        return self._purse.spent_micros(account)

    def stock_level(self, site: str, sku: str) -> int | None:
        """Return the newest known stock of a sku, None where nothing was said of it."""
        return self._purse.stock_level(site, sku)

    def give_back(self, choice: Choice, visitor: str = "") -> None:
        """Undo what was reserved and held for a choice of which nothing was logged."""
        if choice.holds:
            self._stockroom.give_back(choice, visitor)
        if choice.pays_for:
            reserved = Reserved(choice.lease_id, choice.budget_day, choice.campaign_day)
            self._purse.give_back(choice.line_id, reserved, choice.price_micros)
            self._paces.reserved(choice.line_id, choice.lease_id, -choice.price_micros)


class View:
    """Budgets and stock as one decision sees them: `eligibility.BudgetView` and `StockView`."""

    __slots__ = ("_decision_id", "_paces", "_purse", "_site", "_stockroom", "time_ms", "whom")

    def __init__(
        self,
        purse: Purse,
        paces: Paces,
        stockroom: Stockroom,
        whom: Whom,
        site: str,
        decision_id: str,
        time_ms: int,
    ) -> None:
        """site: whose stock. decision_id: of it the coin is made that pacing throws, so that it can be thrown again."""
        self._purse, self._paces, self._stockroom = purse, paces, stockroom
        self._site, self._decision_id, self.time_ms, self.whom = site, decision_id, time_ms, whom

    def has_stock(self, sku: str) -> bool:
        """Say whether any of it can be sold; of what nobody has told a level, there is some."""
        level = self._purse.stock_level(self._site, sku)
        return level is None or level > 0

    def has_free(self, creative: LiveCreative) -> bool:
        """Say whether one more visitor can have a piece of any sku that the creative holds, or this one has one."""
        return any(self._stockroom.has_free(wish, self.whom, self.time_ms) for wish in self.wishes(creative))

    def wishes(self, creative: LiveCreative) -> list[Wish]:
        """Return what showing a creative holds, of what is in stock."""
        skus = [sku for sku in creative.held_skus if self.has_stock(sku)]
        return [Wish(self._site, sku, creative.line.hold_ms) for sku in skus]

    def lacks(self, line: LiveLine) -> str:
        """Return "" where a line takes part, "budget" where it cannot be paid for, "pacing" where it waits its turn."""
        if line.price is None:
            return ""
        if not self._purse.has_room(line.id, self.time_ms):
            return BUDGET
        chance = self._paces.chance(line, self.time_ms)
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

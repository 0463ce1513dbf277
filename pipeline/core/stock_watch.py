"""Which skus run out next: each one's demand is forecast from what was sold, a day being the 24 hours before now.

Days are counted back from now, not from midnight, so that the newest one is a whole one and a sale of this morning
counts this morning.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from pipeline.core.forecast import forecast, hours_until, runs_out

EARLY: Final = 0.05


class Sku(NamedTuple):
    """What is known of a sku. left: pieces by the newest level, 0 or less = none.

    units: sold by day, 0 = the last 24 hours.
    """

    site: str
    sku: str
    left: int
    units: Mapping[int, float]


class Outlook(NamedTuple):
    """When a sku runs out. hours: as likely earlier as later; early_hours: earlier in one case of 20; None = not soon.

    risk: the probability that it ends within the lead time. warns: more cannot be had in time, should it.
    """

    site: str
    sku: str
    left: int
    hours: float | None
    early_hours: float | None
    risk: float
    warns: bool

    @property
    def name(self) -> tuple[str, str]:
        """Which sku of which site."""
        return self.site, self.sku

    def words(self, lead_days: int) -> str:
        """Say it to people."""
        if self.left <= 0:
            return "has run out"
        when = "not in half a year" if self.hours is None else f"in {self.hours / 24:.1f} days"
        chance = f"{when} as likely as not, and with {self.risk:.1%} within {lead_days} days"
        return f"may run out: {self.left:,} left, gone {chance}"


class Crossed(NamedTuple):
    """What has changed since the last look. warned: to be told now; over: more has come, or less is asked for."""

    warned: list[Outlook]
    over: list[tuple[str, str]]


def outlook(one: Sku, lead_days: int) -> Outlook:
    """Return when a sku runs out. A sku's days begin with its first sale: before, it may not have been there."""
    days = [one.units.get(ago, 0.0) for ago in range(max(one.units, default=0), -1, -1)]
    expected = forecast(days)
    ends = runs_out(expected, one.left, lead_days)
    hours = hours_until(expected, one.left, 0.5)
    return Outlook(one.site, one.sku, one.left, hours, hours_until(expected, one.left, EARLY), ends.risk, ends.warns)


def most_urgent(found: Iterable[Outlook]) -> list[Outlook]:
    """Return them with those first that are most likely gone within the lead time, then those that run out first."""
    return sorted(found, key=lambda one: (-one.risk, one.hours is None, one.hours or 0.0, one.name))


def crossed(found: Collection[Outlook], known: Collection[tuple[str, str]]) -> Crossed:
    """Return what to tell. known: skus that were warned of before: each is told once until it is over.

    A sku that was not looked at is not over; nor is one that has run out, which is what it was warned of.
    """
    over = sorted(one.name for one in found if not one.warns and one.name in known)
    return Crossed([one for one in found if one.warns and one.name not in known], over)


def shown(found: Sequence[Outlook], most: int) -> list[Outlook]:
    """Return the first so many of which some is left, and as many that have run out: neither hides the other."""
    left = [one for one in found if one.left > 0]
    return left[:most] + [one for one in found if one.left <= 0][:most]

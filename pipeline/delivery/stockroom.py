"""Pieces that decisions hold for visitors, in front of this process's purse, which has leased them.

Who already holds a piece of a sku is shown it again, and holds no second one: what a visitor holds is in the profile as
far as it is read, and in memory here for the seconds until then.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from pipeline.core.catalogue import Catalogue
from pipeline.core.wallet import Reserved
from pipeline.delivery.offer import Whom
from pipeline.delivery.purse import Purse, Wish
from schemas.outcome import Choice
from schemas.spend import Hold

OWN_MAX: Final = 100_000
"""Holds of this process in memory; of more, the oldest are forgotten, and such a visitor may hold a second piece."""


class _Own(NamedTuple):
    decision_id: str
    ends_ms: int


class Stockroom:
    """Belongs to the event loop's thread."""

    def __init__(self, purse: Purse) -> None:
        """purse: what this process has leased."""
        self._purse = purse
        self._own: dict[tuple[str, str, str], _Own] = {}  # (visitor, site, sku), in the order of their beginning

    def has_free(self, wish: Wish, whom: Whom, time_ms: int) -> bool:
        """Say whether one more visitor can have a piece, or this one has it already."""
        return self._purse.has_piece(wish, time_ms) or self._holds(wish, whom, time_ms)

    def hold(self, choice: Choice, wishes: Iterable[Wish], whom: Whom, decision_id: str, time_ms: int) -> bool:
        """Hold a piece of each sku that has one left, and write it into the choice. False where none has."""
        holds: list[Hold] = []
        is_held = False
        for wish in wishes:
            if self._holds(wish, whom, time_ms):
                is_held = True
                continue
            reserved = self._purse.reserve_piece(wish, time_ms)
            if reserved is not None:
                choice.hold_ms = wish.hold_ms
                holds.append(Hold(wish.site, wish.sku, reserved.lease_id))
                if whom.visitor:
                    self._note(wish, whom.visitor, decision_id, time_ms)
        choice.holds = tuple(holds)
        return is_held or bool(holds)

    def give_back(self, choice: Choice, visitor: str) -> None:
        """Undo the holds of a choice of which nothing was logged."""
        for hold in choice.holds:
            wish = Wish(hold.site, hold.sku, choice.hold_ms)
            self._purse.give_back(wish.name, Reserved(hold.lease_id, "", ""), 1)
            self._own.pop((visitor, hold.site, hold.sku), None)
        choice.holds, choice.hold_ms = (), 0

    def _holds(self, wish: Wish, whom: Whom, time_ms: int) -> bool:
        """Say whether a visitor holds a piece of a sku. What the profile says of a decision is the last word on it."""
        if not whom.visitor:
            return False
        decisions = whom.found.state.decisions if whom.found.state is not None else ()
        for decision in decisions:
            choice = decision.choice
            is_open = bool(choice.holds) and time_ms <= decision.decided_ms + choice.hold_ms
            if is_open and any(hold.sku == wish.sku and hold.site == wish.site for hold in choice.holds):
                return True
        own = self._own.get((whom.visitor, wish.site, wish.sku))
        if own is None or time_ms > own.ends_ms:
            return False
        return all(decision.decision_id != own.decision_id for decision in decisions)

    def _note(self, wish: Wish, visitor: str, decision_id: str, time_ms: int) -> None:
        key = (visitor, wish.site, wish.sku)
        self._own.pop(key, None)
        self._own[key] = _Own(decision_id, time_ms + wish.hold_ms)
        for oldest in list(_over(self._own, time_ms)):
            del self._own[oldest]


def _over(own: dict[tuple[str, str, str], _Own], time_ms: int) -> Iterator[tuple[str, str, str]]:
    """Yield the oldest ones whose time is over, a few at a time, and one where there are too many."""
    for number, (key, one) in enumerate(own.items()):
        if number == 3 or (one.ends_ms >= time_ms and (number or len(own) <= OWN_MAX)):
            return
        yield key


def wishes(catalogue: Catalogue, sites: Sequence[str]) -> list[Wish]:
    """Return all that published lines hold pieces of. sites: of those placements that name none."""
    found: dict[Wish, None] = {}
    for place in catalogue.placements.values():
        for line in place.lines:
            for creative in line.creatives:
                for sku in creative.held_skus:
                    for site in (place.body.site,) if place.body.site else sites:
                        found[Wish(site, sku, line.hold_ms)] = None
    return list(found)

"""A decision for a group: which of its placements, each of another channel, and what is shown there.

The group's policy chooses among the members that have something to show, the member's policy among what they have. A
member without anything is excluded with the reasons of its creatives; caps, budgets and stock are asked for each.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Final

from pipeline.core.decide import Ask, Known, decide
from pipeline.core.group import choose_member, members, note_group
from pipeline.delivery.memory import Memory
from pipeline.delivery.offer import Offer, Place, Whom
from pipeline.delivery.published import Published
from schemas.outcome import DecisionLog

UNPUBLISHED: Final = "unpublished"
"""Why a member falls out that is not published, or whose lines and creatives are not."""
NOTHING: Final = "nothing"
"""Why a member falls out of which nothing may be shown; detail: the reasons of its creatives."""


class Groups:
    """Belongs to the event loop's thread; waits for nothing."""

    def __init__(self, memory: Memory, published: Published, seed: str) -> None:
        """seed: of this delivery process."""
        self._memory, self._published, self._seed = memory, published, seed

    def drawn(
        self, place: Place, whom: Whom, known: Known, page: Set[str], decision_id: str
    ) -> tuple[DecisionLog, Offer]:
        """Draw a member, then what it shows; where somebody else just had the last of that, draw both again without it.

        known: of the group. Returns the member's log, with the group's in it; the group's own where no member has
        anything to show.
        """
        gone: dict[str, str] = {}
        while True:
            log, offer, lacking = self._once(place, whom, known, page, gone, decision_id)
            if not lacking:
                return log, offer
            gone |= lacking

    def _once(
        self, place: Place, whom: Whom, known: Known, page: Set[str], gone: Mapping[str, str], decision_id: str
    ) -> tuple[DecisionLog, Offer, dict[str, str]]:
        """As `drawn`; and what just fell out, as `Sale.close` has it."""
        group_id, published = place.placement, self._published
        whole = published.offer(place, whom, page, gone, decision_id)
        names = [name for name in published.members(group_id) if name not in whole.excluded]
        offers = {name: published.offer(place, whom, page, gone, decision_id, name) for name in names}
        excluded = dict(whole.excluded)
        for name, offer in offers.items():
            if not offer.candidates:
                excluded |= _why(name, offer)
        context = _context(whom.context, whole)
        if whole.policy:
            known = known._replace(policy=self._memory.policy(group_id, whole.policy).policy)
        left = members([name for name in names if offers[name].candidates])
        top = choose_member(Ask(group_id, whom.visitor, left, 1, context, excluded), known, decision_id, self._seed)
        if not top.choices:
            return top, replace(whole, group=group_id), {}
        chosen = top.choices[0].action_id
        offer = offers[chosen]
        policy = self._memory.policy(chosen, offer.policy)
        ask = Ask(chosen, whom.visitor, offer.candidates, place.count, _context(context, offer), offer.excluded)
        sale = published.sale(offer, whom, decision_id, place.count)
        known = Known(policy.policy, policy.model_version, known.degraded)
        log = decide(ask, known, decision_id, self._seed, sale.take)
        note_group(log, top)
        offer = replace(offer, fallback=whole.fallback or offer.fallback, group=group_id)
        return log, offer, sale.close(log)


def _why(name: str, offer: Offer) -> dict[str, str]:
    """Why a member has nothing to show, and why each of its creatives is not."""
    if not offer.excluded:
        return {name: UNPUBLISHED}
    reasons: Sequence[str] = sorted({reason.partition(":")[0] for reason in offer.excluded.values()})
    return {name: f"{NOTHING}:{','.join(reasons)}"} | {
        f"{name}/{creative}": reason for creative, reason in offer.excluded.items()
    }


def _context(context: Mapping[str, object], offer: Offer) -> Mapping[str, object]:
    """What a decision is logged with: what is known, and the experiments of the group and of the member."""
    if not offer.context:
        return context
    before, more = context.get("experiments"), offer.context.get("experiments")
    both = {**before, **more} if isinstance(before, dict) and isinstance(more, dict) else more
    return {**context, **offer.context, "experiments": both}

"""What a decision costs, had rank by rank: each choice is paid for and held before the next one is drawn.

So nothing is chosen of which the ranks before took the last, of a cap, of money, of pieces: the next rank is drawn
among what can still be had, and its logged probability is that of this very draw. Where a choice cannot be had although
it could a moment ago, somebody else was faster: a first rank is drawn again without it, behind a later one the decision
ends, and what stands before it stays true.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from pipeline.core.catalogue import LiveCreative, LiveLine
from pipeline.core.decide import Candidate, time_of
from pipeline.core.eligibility import Reason, Visit
from pipeline.delivery.counted import Counted
from pipeline.delivery.offer import Offer, Whom
from pipeline.delivery.till import BUDGET, STOCK_HELD, Till, View
from schemas.outcome import Choice, DecisionLog

CAP: Final = Reason.CAP.value
CAP_UNKNOWN: Final = f"{CAP}:unknown"


class Sale:
    """Of one draw of one decision. Belongs to the event loop's thread."""

    __slots__ = (
        "_capped",
        "_counted",
        "_done",
        "_gone",
        "_id",
        "_last",
        "_left",
        "_offer",
        "_till",
        "_time_ms",
        "_whom",
    )

    def __init__(self, till: Till, counted: Counted, offer: Offer, whom: Whom, asked: tuple[str, int]) -> None:
        """offer: what the decision chooses among. asked: its id, and how many choices it may have."""
        self._till, self._counted, self._offer, self._whom = till, counted, offer, whom
        self._id, self._time_ms, self._last = asked[0], time_of(asked[0]), asked[1] - 1
        self._done: list[Choice] = []
        self._capped: list[Choice] = []
        self._gone: dict[str, str] = {}
        self._left: dict[str, list[LiveCreative]] | None = None  # by line; None until something is limited

    def take(self, choice: Choice, candidate: Candidate) -> Mapping[str, str] | None:
        """Have a choice, and write what that takes into it; as decide.Take wants it."""
        assert isinstance(candidate, LiveCreative)
        line = candidate.line
        choice.line_id, choice.goals = line.id, line.goals
        if line.price is not None and (why := self._till.reserve(line, choice, self._time_ms)):
            self._fail(choice, why, lambda one: one.line is line)
            return None
        if candidate.held_skus and (why := self._till.hold(candidate, choice, self._view, self._id)):
            self._till.give_back(choice, self._whom.visitor)
            self._fail(choice, why, lambda one: one.held_skus == candidate.held_skus)
            return None
        self._done.append(choice)
        is_capped = bool(candidate.caps or line.caps)
        if is_capped:
            self._capped.append(choice)
        if choice.rank < self._last and (line.caps or choice.pays_for or choice.holds):
            return self._beside(choice, candidate)
        return {}

    def close(self, made: DecisionLog) -> dict[str, str]:
        """Count what was chosen for caps, before it is answered.

        Returns the creatives that just fell out, with the reason: then nothing is reserved. Nothing = done.
        """
        if self._gone or self._counted.note(made, self._whom, self._time_ms, self._capped):
            return self._gone
        for one in self._done:
            self._till.give_back(one, self._whom.visitor)
        return {one.id: CAP_UNKNOWN for one in self._creatives() if one.caps or one.line.caps}

    def _fail(self, choice: Choice, why: str, is_alike: Callable[[LiveCreative], bool]) -> None:
        """Note why a first choice cannot be had, for all that want the same: each would cost a draw of its own."""
        if choice.rank == 0:
            self._gone = {one.id: why for one in self._creatives() if is_alike(one)}

    def _beside(self, choice: Choice, chosen: LiveCreative) -> dict[str, str]:
        """Return what cannot be had any more once this was chosen."""
        if self._left is None:
            self._left = {}
            for one in self._creatives():
                self._left.setdefault(one.line_id, []).append(one)
        left, own, out = self._left, chosen.line, dict[str, str]()
        left[own.id].remove(chosen)
        if own.caps and self._visit.caps is not None:
            self._visit.caps.add(chosen)
        for line_id in list(left) if own.caps else (own.id,):
            if left[line_id] and (why := self._lacks(left[line_id][0].line, own)):
                out.update((one.id, why) for one in left.pop(line_id))
        if choice.holds:
            self._drop_held(left, out)
        return out

    def _lacks(self, line: LiveLine, chosen: LiveLine) -> str:
        """Return why nothing of a line can be had beside what was just chosen; "" where it can."""
        caps = self._visit.caps
        if chosen.caps and line.caps and line.campaign_id == chosen.campaign_id and caps is not None:
            full = caps.full(line.caps)
            if full is not None:
                return f"{CAP}:{full.detail}"
        return "" if line is not chosen or self._till.has_room(line, self._time_ms) else BUDGET

    def _drop_held(self, left: dict[str, list[LiveCreative]], out: dict[str, str]) -> None:
        """Let what holds pieces fall out where there are none left."""
        view, is_free = self._view, dict[tuple[tuple[str, ...], int], bool]()
        for line_id, creatives in left.items():
            for one in creatives:
                wish = one.held_skus, one.line.hold_ms
                if one.held_skus and wish not in is_free:
                    is_free[wish] = view.has_free(one)
            gone = {one.id: STOCK_HELD for one in creatives if not is_free.get((one.held_skus, one.line.hold_ms), True)}
            if gone:
                left[line_id] = [one for one in creatives if one.id not in gone]
                out |= gone

    def _creatives(self) -> Iterator[LiveCreative]:
        return (one for one in self._offer.candidates if isinstance(one, LiveCreative))

    @property
    def _visit(self) -> Visit:
        assert self._offer.visit is not None  # there is one of all that is published
        return self._offer.visit

    @property
    def _view(self) -> View:
        view = self._visit.stock
        assert isinstance(view, View)
        return view

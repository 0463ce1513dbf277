"""What the profile stage keeps of what was shown to a visitor, so that frequency caps can be counted.

Counted is every choice of a decision for a visitor, made from a campaign (it has a line): the answer, not the
impression. An impression may come a day late, or never be told; a cap that waited for it could be exceeded by then.

Kept is, for each creative, its total and the stamps of the last 25 hours; counts of lines and campaigns are sums over
their creatives. What is kept depends on the set of decisions alone, not on their order, within these bounds:

- STAMPS_MAX stamps of a visitor. It is also the highest cap there is, so that a cap can be told to be full from them;
  where more would be needed, the oldest go, and `shown_lost_ms` says up to when: caps of an hour or a day that reach
  back so far count as full.
- CREATIVES_MAX creatives of a visitor. The one that was last shown longest ago is forgotten, with its total: a lifetime
  cap holds as long as not so many others were shown since.
- A decision that reaches the log after it has expired (OutcomeRules) is not counted.

At most about 9 kB of stamps and 200 creatives' ids for a visitor; nothing where no campaign is shown.
"""

import zlib
from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Final, NamedTuple

from schemas.outcome import OpenDecision
from schemas.profile import Shown, VisitorState

STAMPS_MAX: Final = 1_000
CREATIVES_MAX: Final = 200
KEPT_MS: Final = 25 * 3_600_000
"""A day, and an hour for clocks that differ."""

STAMP_BITS: Final = 20
_LOW: Final = (1 << STAMP_BITS) - 1


def stamp(decision_id: str, decided_ms: int) -> int:
    """Return a decision's place in time, told apart from others of its millisecond: `decided_ms << 20 | hash`.

    decided_ms: ms since 1970 UTC; of one of our own ids its own time is taken (see decide.make_id).
    """
    try:
        if len(decision_id) == 32:
            return int(decision_id[:12], 16) << STAMP_BITS | int(decision_id[-12:], 16) & _LOW
    except ValueError:
        pass  # somebody else's id, of the same length
    return decided_ms << STAMP_BITS | zlib.crc32(decision_id.encode("utf-8", "surrogatepass")) & _LOW


def stamp_ms(mark: int) -> int:
    """Return a stamp's time."""
    return mark >> STAMP_BITS


def first_after(time_ms: int) -> int:
    """Return the least stamp of all that are later than this millisecond."""
    return (time_ms + 1) << STAMP_BITS


class ShownRules(NamedTuple):
    """How much is kept of one visitor."""

    stamps_max: int = STAMPS_MAX
    creatives_max: int = CREATIVES_MAX


RULES: Final = ShownRules()


def note_shown(state: VisitorState, opened: Sequence[OpenDecision], rules: ShownRules = RULES) -> None:
    """Count a decision's choices, changing the state. A decision that is still known by its stamp counts once."""
    shown = state.shown
    for decision in opened:
        choice = decision.choice
        if not choice.line_id:
            continue
        mark = stamp(decision.decision_id, decision.decided_ms)
        name = choice.creative_id or choice.action_id
        found = shown.get(name)
        if found is None:
            shown[name] = Shown(choice.line_id, choice.campaign_id, 1, [mark])
        elif not has_stamp(found.stamps, mark):
            found.total += 1
            if mark > found.stamps[-1]:
                found.line_id, found.campaign_id = choice.line_id, choice.campaign_id
            insort(found.stamps, mark)
    if shown:
        _keep_bounds(state, rules)


def has_stamp(stamps: Sequence[int], mark: int) -> bool:
    """Say whether a stamp is among these sorted ones."""
    at = bisect_left(stamps, mark)
    return at < len(stamps) and stamps[at] == mark


def _keep_bounds(state: VisitorState, rules: ShownRules) -> None:
    shown = state.shown
    while len(shown) > rules.creatives_max:
        oldest = min(shown, key=lambda name: (shown[name].stamps[-1], name))
        state.shown_lost_ms = max(state.shown_lost_ms, stamp_ms(shown.pop(oldest).stamps[-1]))
    kept_from = first_after(stamp_ms(max(each.stamps[-1] for each in shown.values())) - KEPT_MS)
    room = rules.stamps_max
    for each in shown.values():
        if each.stamps[0] < kept_from and len(each.stamps) > 1:
            del each.stamps[: min(bisect_left(each.stamps, kept_from), len(each.stamps) - 1)]
        room -= len(each.stamps)
    if room < 0:
        _drop_oldest(state, -room)
    if first_after(state.shown_lost_ms) <= kept_from:
        state.shown_lost_ms = 0


def _drop_oldest(state: VisitorState, many: int) -> None:
    """Drop the oldest stamps, but of no creative its newest one."""
    droppable = sorted((mark, name) for name, each in state.shown.items() for mark in each.stamps[:-1])
    for mark, name in droppable[:many]:
        del state.shown[name].stamps[0]
        state.shown_lost_ms = max(state.shown_lost_ms, stamp_ms(mark))

"""Frequency caps: how often a visitor was shown a creative, its line and its campaign, and which cap is full.

An hour is the last 60 minutes, a day the last 24 hours, to the millisecond. Counted is what was answered, not what was
seen (shown.py says why): what the profile stage has counted, and what it has not counted yet.

Several processes never exceed a cap together: each visitor has one process that counts (slots.py), the others ask it,
or show nothing that has a cap. What it showed stands in a file before the answer leaves (pipeline/delivery/shows.py),
and whoever counts next reads it: a neighbour on the same data folder knows at once what a killed or stopped process has
shown, to the last decision. What a process shows less for it, and for how long:
- as long as the visitor's process does not answer, nothing that has a cap is shown (`cap:elsewhere`); after a kill on
  the same machine that is until a neighbour or the restarted process has looked (about a second), else until its lease
  is over (SlotRules: 10 s and the margin; 5 min where it was the only one).
- where a process of another machine was killed, the next one cannot read its files: to visitors without consent it
  shows nothing that has a cap until that machine's next process has brought them, or their day ends; to the others
  until the profiles have passed the end of the lease by LAG_MS (`cap:unknown`). A process that ends in an orderly way
  hands over all it knows.
So a cap is passed by 0, for any number of processes, kills, stops and restarts; but for
- what a process of another machine had answered and not sent to the broker when it was killed or stopped (some 20 ms of
  decisions), where its record comes later than LAG_MS after its lease ended, or never: to visitors with an id;
- the last seconds of a machine that loses its power: the files stand in its page cache;
- what was shown before every process had heard of a new cap: about a second; and of what was shown while nothing of it
  had a cap, all but the newest 100 choices that the profiles had not counted (without consent: of the day);
- visitors with an id, while the profiles are behind by more than 100,000 of them.

Without consent nobody is known, and a cap is held by a key made of the day and what every request shows, salted with a
secret: in memory and in those files, forgotten when the day ends. Processes on several machines need the same secret
(HERALD_MASK_SECRET), or they count apart.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from pipeline.core.shown import KEPT_MS, STAMPS_MAX, first_after, has_stamp, stamp, stamp_ms
from schemas.campaign import DAY_MS, HOUR_MS, Cap
from schemas.outcome import Choice
from schemas.profile import Shown, VisitorState

LEVELS: Final = ("campaign", "line", "creative")
PERS: Final = ("hour", "day", "lifetime")
LOST_MAX: Final = 1_000_000
"""So many keys of a day are remembered that had to go; were there more, nothing is known of any."""
OTHERS_MAX: Final = 100
MANY: Final = 2**31
"""A count that fills every cap: where what was counted had to be dropped."""


class Full(Protocol):
    """A cap without room. detail: for the reason of an exclusion."""

    @property
    def detail(self) -> str:
        """Which cap, or why it counts as full."""


class CapRule(NamedTuple):
    """One cap of one object. level: one of LEVELS. per: hour, day or lifetime. most: so often and no more."""

    level: str
    id: str
    per: str
    most: int
    key: tuple[str, str]  # level and id
    at: int  # the place of `per` in PERS

    @property
    def detail(self) -> str:
        """`level:per`, for the reason of an exclusion."""
        return f"{self.level}:{self.per}"


def cap_rules(level: str, object_id: str, caps: Sequence[Cap]) -> tuple[CapRule, ...]:
    """Return an object's caps as rules."""
    key = (level, object_id)
    return tuple(CapRule(level, object_id, cap.per, cap.count, key, PERS.index(cap.per)) for cap in caps)


class Closed(NamedTuple):
    """What counts as full whatever the cap: where it is not known, or not ours to know, how often it was shown."""

    detail: str

    def full(self, rules: Sequence[CapRule]) -> Full | None:
        """Return itself: there is no room in any cap."""
        return self

    def add(self, creative: object) -> None:
        """Nothing is fuller than full."""


ELSEWHERE: Final = Closed("elsewhere")
"""Another process counts for this visitor, and it was not asked, or did not answer."""
UNKNOWN: Final = Closed("unknown")
"""It is not known yet what another process has shown."""


class Capped(Protocol):
    """What was chosen, with the names that caps go by."""

    @property
    def id(self) -> str:
        """The creative's."""

    @property
    def line_id(self) -> str:
        """Its line's."""

    @property
    def campaign_id(self) -> str:
        """Its campaign's."""


class OwnShow(NamedTuple):
    """One choice, as it was answered. mark: see shown.stamp."""

    mark: int
    creative_id: str
    line_id: str
    campaign_id: str


def own_shows(decision_id: str, decided_ms: int, choices: Iterable[Choice]) -> list[OwnShow]:
    """Return what a decision has shown. Choices without a line are not counted."""
    mark = stamp(decision_id, decided_ms)
    return [
        OwnShow(mark, each.creative_id or each.action_id, each.line_id, each.campaign_id)
        for each in choices
        if each.line_id
    ]


class _Known:
    """Of one visitor. lost: the newest mark of what had a cap and had to go; 0 = nothing had to."""

    __slots__ = ("capped", "lost", "others")

    def __init__(self) -> None:
        self.capped: list[OwnShow] = []
        self.others: list[OwnShow] = []
        self.lost = 0


class OwnShows:
    """Decisions that the profile stage may not have counted yet, by visitor (or by cap_key): this process's own, and
    those of others whose visitors it has taken over.

    Bounded: of keys_max visitors those asked for last, of each the newest 1,000 choices that have a cap and the newest
    100 that have none (one may be given a cap later), for 25 hours. Where a capped one had to go, `lost` says up to
    when: what was shown then is not known, and every cap that reaches back so far counts as full.
    `evicted` counts the visitors that had to go. For keys of a day, call `turn` before each use.
    """

    def __init__(self, keys_max: int = 100_000, *, keeps_lost: bool = False) -> None:
        """Start with nothing. keeps_lost: remember who had to go, until the day turns (see `is_lost`)."""
        self._keys_max = keys_max
        self._keeps_lost = keeps_lost
        self._lost: set[int] = set()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._day = ""
        self._is_past = False
        self.evicted = 0

    def __len__(self) -> int:
        """How many visitors."""
        return len(self._known)

    def turn(self, day: str) -> None:
        """Say which day it is, by names in the order of days; on a later one than before, everything is forgotten.

        On an earlier one, as after a clock was set back over midnight, what was shown is not known: see `is_lost`.
        """
        self._is_past = day < self._day
        if day > self._day:
            self._day = day
            self._known.clear()
            self._lost.clear()

    def is_lost(self, key: str) -> bool:
        """Say whether something of a key had to go, or may have: then how often it was shown is not known."""
        return self._is_past or (bool(self._lost) and (hash(key) in self._lost or len(self._lost) >= LOST_MAX))

    def lost(self, key: str) -> int:
        """Return the mark (see shown.stamp) up to which something of a visitor may have had to go; 0 = nothing had."""
        known = self._known.get(key)
        return 0 if known is None else known.lost

    def note(
        self, key: str, decision_id: str, decided_ms: int, choices: Sequence[Choice], others: Sequence[Choice] = ()
    ) -> None:
        """Note what was answered: choices that have a cap, and others. Those without a line are not counted."""
        self._add(key, own_shows(decision_id, decided_ms, choices), own_shows(decision_id, decided_ms, others))

    def merge(self, key: str, shows: Iterable[OwnShow]) -> None:
        """Note what another process has answered that has a cap; what is known already counts once."""
        known = self._known.get(key)
        there = set() if known is None else {*known.capped, *known.others}
        self._add(key, [each for each in shows if each not in there], [])

    def _add(self, key: str, capped: list[OwnShow], others: list[OwnShow]) -> None:
        if not capped and not others:
            return
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known()
        if capped:
            known.capped = known.capped + capped  # another list: somebody may still count by the one that was
            if len(known.capped) > STAMPS_MAX:
                known.capped.sort()  # what was merged may be older than what was there
                known.lost = max(known.lost, known.capped[-STAMPS_MAX - 1].mark)
                del known.capped[:-STAMPS_MAX]
        if others:
            known.others = (known.others + others)[-OTHERS_MAX:]
        self._known.move_to_end(key)
        while len(self._known) > self._keys_max:
            gone, _ = self._known.popitem(last=False)
            self.evicted += 1
            if self._keeps_lost and len(self._lost) < LOST_MAX:
                self._lost.add(hash(gone))

    def of(self, key: str, state: VisitorState | None, time_ms: int) -> Sequence[OwnShow]:
        """Return what this process knows of a visitor beyond the state, and forget what the state has counted.

        The states of one visitor may only grow from call to call, as those of delivery's memory do.
        """
        known = self._known.get(key)
        if known is None:
            return ()
        self._known.move_to_end(key)
        kept_from = first_after(time_ms - KEPT_MS)
        shown: Mapping[str, Shown] = {} if state is None else state.shown
        lost = 0 if state is None else first_after(state.shown_lost_ms)
        since = max(kept_from, lost)
        known.capped = [each for each in known.capped if each.mark >= since and not _is_in(shown, each)]
        if known.others:
            known.others = [each for each in known.others if each.mark >= since and not _is_in(shown, each)]
        if known.lost < kept_from:
            known.lost = 0
        if not known.capped and not known.others and not known.lost:
            del self._known[key]
        return [*known.capped, *known.others] if known.others else known.capped


def _is_in(shown: Mapping[str, Shown], show: OwnShow) -> bool:
    found = shown.get(show.creative_id)
    return found is not None and has_stamp(found.stamps, show.mark)


class CapCounts:
    """How often one visitor was shown what, at one moment. Worked out when it is first asked for."""

    __slots__ = ("_counts", "_lost", "_now_ms", "_own", "_state")

    def __init__(self, state: VisitorState | None, own: Sequence[OwnShow], time_ms: int, lost: int = 0) -> None:
        """state: as the profile stage has it. own, lost: `OwnShows.of` the visitor, and `OwnShows.lost`.

        time_ms: now, ms since 1970 UTC.
        """
        self._state = state
        self._own = own
        self._now_ms = time_ms
        lost_ms = max(0 if state is None else state.shown_lost_ms, stamp_ms(lost))
        self._lost = (lost_ms > time_ms - HOUR_MS, lost_ms > time_ms - DAY_MS, lost > 0)
        self._counts: dict[tuple[str, str], list[int]] | None = None

    def count(self, level: str, object_id: str, per: str) -> int:
        """Return how often. level: campaign, line, creative. per: hour, day, lifetime. MANY where it is not known."""
        at = PERS.index(per)
        return MANY if self._lost[at] else self._found().get((level, object_id), [0, 0, 0])[at]

    def full(self, rules: Sequence[CapRule]) -> Full | None:
        """Return the first of these caps that leaves no room for one more; None where there is room in all."""
        counts = self._found()
        if not counts and not self._lost[2]:
            return None  # a cap is at least 1; where the state has lost something, something is left
        for rule in rules:
            found = counts.get(rule.key)
            if (found is not None and found[rule.at] >= rule.most) or self._lost[rule.at]:
                return rule
        return None

    def add(self, creative: Capped) -> None:
        """Count one more, chosen at this very moment: the other ranks of its decision are asked about after it."""
        _add(self._found(), (creative.campaign_id, creative.line_id, creative.id), True, True, 1)

    def _found(self) -> dict[tuple[str, str], list[int]]:
        if self._counts is None:
            self._counts = self._counted()
        return self._counts

    def _counted(self) -> dict[tuple[str, str], list[int]]:
        """(level, id) -> how often by hour, day and lifetime."""
        counts: dict[tuple[str, str], list[int]] = {}
        hour, day = first_after(self._now_ms - HOUR_MS), first_after(self._now_ms - DAY_MS)
        for name, each in {} if self._state is None else self._state.shown.items():
            of_hour = len(each.stamps) - bisect_left(each.stamps, hour)
            of_day = len(each.stamps) - bisect_left(each.stamps, day)
            _add(counts, (each.campaign_id, each.line_id, name), of_hour, of_day, each.total)
        for show in self._own:
            _add(counts, (show.campaign_id, show.line_id, show.creative_id), show.mark >= hour, show.mark >= day, 1)
        return counts


def _add(
    counts: dict[tuple[str, str], list[int]], names: tuple[str, str, str], of_hour: int, of_day: int, total: int
) -> None:
    for key in zip(LEVELS, names, strict=True):
        found = counts.get(key)
        if found is None:
            counts[key] = [int(of_hour), int(of_day), total]
        else:
            found[0] += of_hour
            found[1] += of_day
            found[2] += total


def cap_key(salt: bytes, day: str, hint: str) -> str:
    """Return by what a visitor without consent is known for one day, and for caps only.

    salt: secret, 16 bytes or more. day: `YYYY-MM-DD`. hint: what every request shows, such as the shortened address and
    the browser. Nobody without the salt can tell the hint from it, or one day's key from another's.
    """
    key = salt if len(salt) <= blake2b.MAX_KEY_SIZE else blake2b(salt).digest()
    return "-" + blake2b(f"{day}\n{hint}".encode("utf-8", "surrogatepass"), key=key, digest_size=16).hexdigest()

"""The learn stage's part for linear models: outcomes are written down, and added to the sums so many at a time.

The sums of one action take 4 kB, those that all actions share 263 kB: written with every outcome they would be most of
what the broker has to carry. So an outcome goes into its placement's journal, and each LINES_MAX of them go into the
sums together. When that is depends on their number alone, so a log cut into other blocks gives the same state; and
sums plus lines are the same to the last bit in whatever order the outcomes came, unless a watch has raised an alarm.

Bounds: outcomes come from a log that others can write. A vector's columns are bounded by `read_lesson`; a placement's
actions by ARMS_MAX and its bytes by SUMS_BYTES_MAX; placements by PLACEMENTS_MAX. What is beyond is counted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Final, NamedTuple

from pipeline.core.features import DIMENSION_MAX
from pipeline.core.linear import SHARED, Lesson, LinearDelta, learn, read_lesson, vectors_of, weight_of
from pipeline.core.linear_drift import DriftWatch, learn_watching
from pipeline.core.linear_model import RidgeRules
from pipeline.core.state import Entries, Packed
from schemas.linear import (
    LinearArm,
    LinearJournal,
    LinearKey,
    LinearLine,
    LinearStatistics,
    LinearWatch,
    arm_bytes,
    is_linear_key,
    key_of,
    read_key,
)
from schemas.outcome import Outcome

LINES_MAX: Final = 128
ARMS_MAX: Final = 1_000
SUMS_BYTES_MAX: Final = 6_291_456
"""Of one placement in one partition: a thousand actions of 32 columns, and the shared sums of 256, take 4.6 MB."""
PLACEMENTS_MAX: Final = 1_000
LESSONS_CACHED_MAX: Final = 1_024
STRANGERS_MAX: Final = 64
"""After so many trials of another feature space, and none of its own, a placement is learnt anew in that space."""
WATCHED_TRIALS: Final = 100
"""A watch for drift begins once an action has so many: those before change its errors because it learns."""
LANDMARK_MS: Final = 1_767_225_600_000  # 2026-01-01: the day on which a trial weighs 1
DAILY_FACTOR: Final = 0.999
_RIVER: Final = version("river")


class LearnRules(NamedTuple):
    """prior_mean: as delivery's models have it. is_watching: whether an action that changes is started anew."""

    prior_mean: float = 0.02
    is_watching: bool = True


class Told(NamedTuple):
    """What lines tell: to the actions' own ridges, and to the one of all."""

    own: list[LinearDelta]
    shared: list[LinearDelta]


@lru_cache(LESSONS_CACHED_MAX)
def _lesson(raw: bytes) -> Lesson:
    """As `read_lesson`: a lesson is read when its outcome comes, and again when the lines are added up."""
    return read_lesson(raw)


def told_by(lines: Sequence[LinearLine]) -> Told:
    """Return what lines tell both kinds of ridges. Raises ValueError for a line that `LinearBooks` never wrote."""
    told = Told([], [])
    owns, shareds = vectors_of([_lesson(line.lesson) for line in lines])
    for line, own, shared in zip(lines, owns, shareds, strict=True):
        news = (line.trials, line.reward_micros, today(line.decided_ms), line.decided_ms)
        if own is not None:
            told.own.append(LinearDelta(line.action_id, own, *news))
        if shared is not None:
            told.shared.append(LinearDelta(SHARED, shared, *news))
    return told


def today(decided_ms: int) -> int:
    """Return what a decision of this time weighs (see RidgeRules.today)."""
    return weight_of(decided_ms, LANDMARK_MS, DAILY_FACTOR)


class LinearBooks:
    """The linear models of one partition, inside the learn stage's state."""

    def __init__(self, packed: Packed, rules: LearnRules) -> None:
        """packed: the stage's entries, those of its plain sums among them."""
        self._rules = rules
        self._journals = Entries(packed, LinearJournal)
        self._arms = Entries(packed, LinearArm)
        self._watches = Entries(packed, LinearWatch)
        self._known: dict[str, dict[str, None]] = {}  # placement id -> its actions with sums of their own
        for key in filter(is_linear_key, packed):
            kind, placement_id, action_id = read_key(key)
            known = self._known.setdefault(placement_id, {})
            if kind == "arm":
                known[action_id] = None

    def add(self, outcome: Outcome) -> Mapping[str, int]:
        """Write an outcome down, and add the placement's lines up where it is time; return what to count.

        "line": it is written down. "bad": nobody here has made its lesson. "other_space": it was made in another
        feature space. "placements_full": there is no room for another placement. "arms_full": there was none for sums
        of the action's own; all else is learnt from it. "restarted": an action has changed and was started anew.
        """
        try:
            lesson = _lesson(outcome.lesson)
        except ValueError:
            return {"bad": 1}
        placement_id = outcome.placement_id
        journal = self._journals.get(key_of(LinearKey("journal", placement_id)))
        if journal is None:
            if len(self._known) >= PLACEMENTS_MAX:
                return {"placements_full": 1}
            journal = self._begun(placement_id, lesson, 0)
        elif (journal.space, journal.own, journal.shared) != (lesson.space, *lesson.columns):
            journal.strangers += outcome.trials_delta
            if journal.strangers < STRANGERS_MAX:
                self._journals.put(key_of(LinearKey("journal", placement_id)), journal)
                return {"other_space": 1}
            journal = self._begun(placement_id, lesson, journal.folds + 1)
        return self._written(placement_id, journal, outcome)

    def take_changes(self) -> tuple[list[tuple[str, bytes]], list[str]]:
        """Return (puts, deletes) since the last call, packed."""
        parts = [entries.take_changes() for entries in (self._journals, self._arms, self._watches)]
        return [put for puts, _ in parts for put in puts], [key for _, deletes in parts for key in deletes]

    def _begun(self, placement_id: str, lesson: Lesson, folds: int) -> LinearJournal:
        """A placement's model that knows nothing, in the lesson's space. folds: as its readers have never seen it."""
        for action_id in self._known.get(placement_id, ()):
            self._arms.delete(key_of(LinearKey("arm", placement_id, action_id)))
            self._watches.delete(key_of(LinearKey("watch", placement_id, action_id)))
        self._arms.delete(key_of(LinearKey("shared", placement_id)))
        self._known[placement_id] = {}
        return LinearJournal(lesson.space, *lesson.columns, folds, lines=[])

    def _written(self, placement_id: str, journal: LinearJournal, outcome: Outcome) -> Mapping[str, int]:
        counts = {"line": 1}
        journal.lines.append(
            LinearLine(
                outcome.action_id,
                outcome.lesson,
                outcome.trials_delta,
                outcome.reward_delta_micros,
                outcome.decided_ms,
            )
        )
        journal.decided_ms = max(journal.decided_ms, outcome.decided_ms)
        journal.strangers = 0 if outcome.trials_delta else journal.strangers
        if len(journal.lines) >= LINES_MAX:
            counts |= self._fold(placement_id, journal)
            journal.lines, journal.folds = [], journal.folds + 1
        self._journals.put(key_of(LinearKey("journal", placement_id)), journal)
        return counts

    def _fold(self, placement_id: str, journal: LinearJournal) -> dict[str, int]:
        """Add the lines to the sums; return the counts "arms_full" and "restarted"."""
        told = told_by(journal.lines)
        if told.shared:
            key = key_of(LinearKey("shared", placement_id))
            shared = LinearStatistics(journal.space, journal.shared, {})
            shared.arms[SHARED] = self._arms.get(key) or LinearArm()
            learn(shared, told.shared)
            self._arms.put(key, shared.arms[SHARED])
        full = self._full(placement_id, journal, told.own)
        deltas = [delta for delta in told.own if delta.action_id not in full]
        own = LinearStatistics(journal.space, journal.own, {})
        keys = {delta.action_id: key_of(LinearKey("arm", placement_id, delta.action_id)) for delta in deltas}
        for action_id, key in keys.items():
            arm = self._arms.get(key)
            if arm is not None:
                own.arms[action_id] = arm
        restarted = self._learn(placement_id, own, deltas, today(journal.decided_ms))
        for action_id, key in keys.items():
            self._known[placement_id][action_id] = None
            self._arms.put(key, own.arms[action_id])
        return {"arms_full": len(told.own) - len(deltas), "restarted": restarted}

    def _full(self, placement_id: str, journal: LinearJournal, deltas: Iterable[LinearDelta]) -> set[str]:
        """The actions of these for which there is no room: the first ones to come have it."""
        known = self._known[placement_id]
        most = min(ARMS_MAX, (SUMS_BYTES_MAX - arm_bytes(journal.shared)) // max(1, arm_bytes(journal.own)))
        new = dict.fromkeys(delta.action_id for delta in deltas if delta.action_id not in known)
        return set(list(new)[max(0, most - len(known)) :])

    def _learn(self, placement_id: str, own: LinearStatistics, deltas: list[LinearDelta], weight: int) -> int:
        """Add to the actions' own sums; return how many of them were started anew."""
        if not self._rules.is_watching:
            learn(own, deltas)
            return 0
        keys = {delta.action_id: key_of(LinearKey("watch", placement_id, delta.action_id)) for delta in deltas}
        kept = {action_id: watch.kept for action_id, watch in self._watches_of(keys)}
        watch = DriftWatch(kept)
        rules = RidgeRules(prior_mean=self._rules.prior_mean, today=weight)
        restarted = learn_watching(own, deltas, watch, rules, WATCHED_TRIALS)
        now = watch.keep()
        for action_id, key in keys.items():
            if action_id in now:
                self._watches.put(key, LinearWatch(_RIVER, now[action_id]))
            else:
                self._watches.delete(key)
        return len(restarted)

    def _watches_of(self, keys: dict[str, str]) -> Iterator[tuple[str, LinearWatch]]:
        """Give the watches that are kept; of another River version they begin anew."""
        for action_id, key in keys.items():
            watch = self._watches.get(key)
            if watch is not None and watch.river == _RIVER:
                yield action_id, watch


assert DIMENSION_MAX * (DIMENSION_MAX + 3) // 2 * 8 < SUMS_BYTES_MAX

"""What a visitor was shown, as far as this process may say it: the profiles, its own decisions, and those it took over.

Who counts for which visitor is in slots.py; this is what decisions ask and tell.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from pipeline.core.caps import ELSEWHERE, UNKNOWN, CapCounts, Closed, OwnShows, cap_key, own_shows
from pipeline.core.eligibility import CapsView
from pipeline.core.slots import slot_of
from pipeline.delivery.memory import PROFILES_LOADING, Memory
from pipeline.delivery.offer import Whom
from pipeline.delivery.shows import Entry
from pipeline.delivery.slots import Slots
from pipeline.edge.clock import boot_s
from schemas.campaign import DAY_MS
from schemas.outcome import Choice, DecisionLog

AGAIN_S: Final = 1.0
"""Where the disk refused, nothing that has a cap is shown for so long; then it is tried again."""


class Counted:
    """Belongs to the event loop's thread."""

    def __init__(self, memory: Memory, salt: bytes, slots: Slots | None) -> None:
        """memory: the profiles. salt: secret of keys of the day, 16 bytes or more.

        slots: whose caps this process counts; None = everybody's, and nothing of it in files.
        """
        self._memory = memory
        self._salt = salt
        self._slots = slots
        self._own, self._own_today = OwnShows(), OwnShows(keeps_lost=True)
        self._closed_until_s = 0.0

    def start(self) -> None:
        """Begin to count for a share of the visitors. Asked of the event loop's thread."""
        if self._slots is not None:
            self._slots.start(self, asyncio.get_running_loop())

    def stop(self) -> None:
        """Hand that over. Asked of another thread, once the last decision was answered."""
        if self._slots is not None:
            self._slots.stop()

    def elsewhere(self, visitor: str, cap_hint: str, time_ms: int) -> str:
        """Return the address of the process that counts for a visitor, "" where that is this one, or not known."""
        if self._slots is None or self._slots.holds_all:
            return ""
        key = self._key(visitor, cap_hint, time_ms)
        return self._slots.address(slot_of(key)) if key else ""

    def is_here(self, visitor: str, cap_hint: str, time_ms: int) -> bool:
        """Say whether this process counts for a visitor now; of one who is known by nothing, nobody does."""
        key = self._key(visitor, cap_hint, time_ms)
        return self._slots is None or not key or self._slots.tenure.is_held(slot_of(key), boot_s())

    def look_soon(self) -> None:
        """Say that who counts for whom is not as it was thought to be."""
        if self._slots is not None:
            self._slots.look_soon()

    @property
    def has_looked(self) -> bool:
        """Say whether it was asked for whom this process counts."""
        return self._slots is None or self._slots.has_looked

    def view(self, whom: Whom, time_ms: int, is_capped: bool) -> CapsView | None:
        """Return how often the visitor was shown what; None where nobody can know.

        is_capped: something has a cap there; else nothing is asked of who counts.
        """
        key = self._key(whom.visitor, whom.cap_hint, time_ms)
        if not key or PROFILES_LOADING in whom.missing or whom.found.is_unreadable:
            return None
        if is_capped and self._slots is not None:
            closed = self._closed(self._slots, key, whom, time_ms)
            if closed is not None:
                return closed
        if whom.visitor:
            own = self._own.of(key, whom.found.state, time_ms)
            return CapCounts(whom.found.state, own, time_ms, self._own.lost(key))
        self._own_today.turn(_day(time_ms))
        if self._own_today.is_lost(key):
            return UNKNOWN
        return CapCounts(None, self._own_today.of(key, None, time_ms), time_ms, self._own_today.lost(key))

    def _closed(self, slots: Slots, key: str, whom: Whom, time_ms: int) -> Closed | None:
        slot, clock_s = slot_of(key), boot_s()
        if not slots.tenure.is_held(slot, clock_s):
            return ELSEWHERE if slots.address(slot) else UNKNOWN
        need = slots.needs[slot]
        if need is not None and not need.is_met(whom.visitor, whom.found.version, self._memory, time_ms):
            return UNKNOWN
        return UNKNOWN if clock_s < self._closed_until_s else None

    def note(self, made: DecisionLog, whom: Whom, time_ms: int, capped: Sequence[Choice]) -> bool:
        """Count what was chosen; False where it may not be shown: it is not ours to count any more, or not written.

        capped: those of its choices that have a cap. To be called before the answer: what is said to be counted is.
        """
        key = self._key(whom.visitor, whom.cap_hint, time_ms)
        if not key:
            return True
        if capped and self._slots is not None and not self._keep(self._slots, key, made, whom, time_ms, capped):
            return False
        shows = self._own if whom.visitor else self._own_today
        names = {choice.action_id for choice in capped}
        others = [choice for choice in made.choices if choice.action_id not in names] if names else made.choices
        shows.note(key, made.decision_id, time_ms, capped, others)
        return True

    def _keep(
        self, slots: Slots, key: str, made: DecisionLog, whom: Whom, time_ms: int, capped: Sequence[Choice]
    ) -> bool:
        day = "" if whom.visitor else _day(time_ms)
        if not slots.shows.keep(Entry(key, day, own_shows(made.decision_id, time_ms, capped))):
            self._closed_until_s = boot_s() + AGAIN_S
            return False
        # after it was written: whoever holds the slot next has read it, if this process was stopped in between
        return slots.tenure.is_held(slot_of(key), boot_s())

    def merge(self, entries: Iterable[Entry], time_ms: int) -> None:
        """Count what other processes have shown to visitors that are ours now."""
        today = _day(time_ms)
        self._own_today.turn(today)
        for entry in entries:
            if not entry.day:
                self._own.merge(entry.key, entry.shows)
            elif entry.day == today:
                self._own_today.merge(entry.key, entry.shows)

    def _key(self, visitor: str, cap_hint: str, time_ms: int) -> str:
        """By what a visitor is counted; "" where by nothing."""
        if visitor or not cap_hint:
            return visitor
        return cap_key(self._salt, _day(time_ms), cap_hint)


def _day(time_ms: int) -> str:
    return str(time_ms // DAY_MS)

"""For which visitors this process counts frequency caps: a thread that takes, keeps and gives back slots.

What may be held is decided in pipeline/core/slots.py and stored beside the campaigns (pipeline/campaigns/slots.py).
Before a slot is used that somebody else may have held, all that one has shown is learnt: from the files of this data
folder (shows.py), and from what it left in the store. While the store is away, slots are held to the end of their
lease: so long decisions go on as before.
"""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol

import msgspec
from msgspec import Struct

from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.slots import Note, Seen, SlotStore
from pipeline.core.shown import KEPT_MS, has_stamp, stamp_ms
from pipeline.core.slots import LAG_MS, SLOTS, Process, SlotRules, Tenure, Turn, Wait, slot_of
from pipeline.delivery.memory import Memory
from pipeline.delivery.shows import Entry, Floor, Shows
from pipeline.edge import metrics
from pipeline.edge.clock import boot_s, now_ms
from pipeline.errors import HeraldError, Retryable, SettingsError
from pipeline.settings import Settings
from schemas.block import partition_of
from schemas.campaign import DAY_MS

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
LOOK_ALONE_S: Final = 5.0
"""While there is no other process: so long one that comes may wait for its share, and sends on until then."""
GATHER_S: Final = 0.1
"""However often somebody wants a look, there is one in so long."""
SWEEP_S: Final = 10.0
STOP_S: Final = 10.0
RENEW_PART: Final = 0.3
"""A lease is renewed once so much of it is gone, of one that is alone a third of that: the store may be away for all
the rest."""
MERGED_AT_ONCE: Final = 500
"""Entries that the event loop takes over before decisions get their turn."""
MERGE_WAIT_S: Final = 60.0


class Left(Struct):
    """What a slot's holder leaves for the next one. floor: what is not among the entries is in the profiles by then."""

    floor: Floor | None
    entries: list[Entry]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Left).decode


class Counts(Protocol):
    """What this process has counted: `counted.Counted`."""

    def merge(self, entries: Iterable[Entry], time_ms: int) -> None:
        """Count what others have shown. Asked of the event loop's thread."""


class Need(NamedTuple):
    """What has to be known before a slot's counts are whole. floor: of the profiles. waits: see core/slots.py."""

    floor: Floor | None
    waits: tuple[Wait, ...]
    generation: int
    partitions: int

    def is_met(self, visitor: str, version: int, memory: Memory, time_ms: int) -> bool:
        """Say whether all is known of a visitor: "" for a key of the day. version: of the visitor's profile."""
        if not visitor:
            return all(time_ms >= wait.over_ms for wait in self.waits)
        at = partition_of(visitor, self.partitions)
        return self._has_read(at, version, memory) and all(
            memory.profiles_ms(at) > wait.ended_ms + LAG_MS for wait in self.waits
        )

    def is_over(self, memory: Memory) -> bool:
        """Say whether all is known of everybody."""
        return not self.waits and all(
            self._has_read(at, memory.profiles_version(at), memory) for at in range(self.partitions)
        )

    def _has_read(self, partition: int, version: int, memory: Memory) -> bool:
        floor = self.floor
        if floor is None or floor.generation != self.generation or len(floor.versions) != self.partitions:
            return True
        return version >= floor.versions[partition] or memory.profiles_ms(partition) > floor.at_ms + LAG_MS


class Slots:
    """`tenure`, `needs`, `address` and `holds_all` may be asked by any thread.

    What is no trouble with the store or the disk ends the thread: a bug, for threading.excepthook to tell.
    """

    def __init__(self, settings: Settings, shows: Shows, memory: Memory, address: str) -> None:
        """shows: the files. address: where other processes reach this one. Nothing is opened yet.

        Raises SettingsError for an address that names no store.
        """
        self.shows = shows
        self.tenure = Tenure()
        self.needs: list[Need | None] = [None] * SLOTS
        self.holds_all = False
        self.has_looked = False
        """Whether the store was asked, with or without an answer."""
        self._settings, self._memory = settings, memory
        self._rules = SlotRules(settings.cap_lease_ms, max(settings.lease_ms, settings.cap_lease_ms))
        self._database = Database(url_of(settings))
        self._store = SlotStore(self._database, self._rules)
        self._me = Process(shows.holder, shows.home, address)
        self._known: dict[int, int] = {}
        self._addresses = [""] * SLOTS
        self._counts: Counts | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="slots", daemon=True)
        self._swept_s = boot_s()
        self._trouble = ""
        self._is_alone = False

    def start(self, counts: Counts, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; returns at once. counts: belongs to the loop's thread."""
        self._counts, self._loop = counts, loop
        self._thread.start()

    def stop(self) -> None:
        """Hand over all that is held, with what is known; waits for the store a few seconds at most.

        Not to be called by the event loop's thread, which has answered its last decision.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        self._database.close()
        self.shows.close()

    def address(self, slot: int) -> str:
        """Return where the process answers that holds a slot; "" where this one does, or nobody."""
        return self._addresses[slot]

    def look_soon(self) -> None:
        """Say that somebody does not hold any more what it held, or that this process was taken for a holder."""
        self._wake.set()

    def _run(self) -> None:
        is_ready = False
        while not self._stopping.is_set():
            try:
                if not is_ready:
                    self._database.migrate()
                    is_ready = True
                self._turn()
                self._sweep()
                self._trouble = ""
            except (Retryable, SettingsError, OSError) as error:  # decisions go on with what is held
                self._in_trouble(error)
            self.has_looked = True
            self._stopping.wait(GATHER_S)
            self._wake.wait(LOOK_ALONE_S if self._is_alone else LOOK_S)
            self._wake.clear()
        if is_ready:
            self._end()

    def _turn(self) -> None:
        asked_s = boot_s()
        seen = self._store.look(self._me, self._known, ())
        neighbours = [each.holder for each in seen.processes if each.home == self._me.home]
        neighbours += [row.holder for row in seen.rows if row.home == self._me.home]
        dead = {holder for holder in neighbours if self.shows.is_dead(holder)}
        whole_s = seen.turn.lease_ms / 1_000
        due_s = whole_s * (1 - (RENEW_PART if seen.turn.lease_ms == self._rules.lease_ms else RENEW_PART / 3))
        is_fresh = self.tenure.left_s(seen.turn.mine, asked_s) >= due_s
        if dead or seen.notes or not (seen.turn.is_quiet and is_fresh):
            asked_s = boot_s()
            seen = self._store.turn(self._me, self._known, dead, lambda turn: self._leave(turn, asked_s))
            self._learn(seen, asked_s)
        self._show(seen)

    def _leave(self, turn: Turn, asked_s: float) -> Mapping[int, str]:
        """Hold what is given away no more, the rest no longer than the new lease; return what has to be handed over."""
        self.tenure.give_up(turn.given)
        self.tenure.shorten(turn.mine, asked_s, turn.lease_ms)
        for slot in turn.given:
            self._known.pop(slot, None)
            self.needs[slot] = None
        away = {slot for slot, other in turn.given.items() if other.home != self._me.home}
        return self._left({*away, *turn.brought})

    def _left(self, slots: Collection[int]) -> dict[int, str]:
        """What stands in the files of our home of these slots, as notes: all that the profiles may not have."""
        if not slots:
            return {}
        found: dict[int, list[Entry]] = {slot: [] for slot in slots}
        for entry in self.shows.read():
            if slot_of(entry.key) in found:
                found[slot_of(entry.key)].append(entry)
        floor = self.shows.floor()
        return {slot: _encode(Left(floor, entries)).decode() for slot, entries in found.items()}

    def _learn(self, seen: Seen, asked_s: float) -> None:
        """Learn what others have shown to whom we count for from now on; then begin to count."""
        turn, taken = seen.turn, set(seen.turn.taken)
        self.tenure.give_up(taken)
        self.tenure.grant(set(turn.mine) - taken, asked_s, turn.lease_ms)
        if taken:
            self._merge(entry for entry in self.shows.read() if slot_of(entry.key) in taken)
        self._take_over(seen.notes)
        told = {*taken, *(note.slot for note in seen.notes)}
        floor = self.shows.floor() if told else None
        rows = {row.slot: row for row in seen.rows}
        for slot in turn.mine:
            before = self.needs[slot]
            if slot in told or before is not None:
                known_from = floor if slot in told or before is None else before.floor
                need = Need(known_from, rows[slot].waits, self._settings.generation, self._settings.partitions)
                self.needs[slot] = None if need.is_over(self._memory) else need
        self._known = {slot: rows[slot].term for slot in turn.mine}
        self.tenure.grant(taken, asked_s, turn.lease_ms)
        if taken or turn.given:
            log.info("caps are counted here in %d of %d slots", len(turn.mine), SLOTS)

    def _take_over(self, notes: Sequence[Note]) -> None:
        """Take over what others left in the store: into our own files first, for then it goes from there."""
        for note in notes:
            left = _decode(note.body)
            self.shows.take_over(left.entries, left.floor)
            self._merge(iter(left.entries))
        if notes:
            self._store.forget(notes)

    def _merge(self, entries: Iterator[Entry]) -> None:
        counts, loop = self._counts, self._loop
        assert counts is not None, "started"
        assert loop is not None, "started"
        while part := list(islice(entries, MERGED_AT_ONCE)):
            if self._stopping.is_set():
                raise Retryable("stopping: what others have shown is not taken over")
            _on(loop, functools.partial(counts.merge, part, now_ms()))

    def _show(self, seen: Seen) -> None:
        places = {each.holder: each.address for each in seen.processes}
        mine = set(seen.turn.mine)
        for row in seen.rows:
            self._addresses[row.slot] = "" if row.slot in mine else places.get(row.holder, "")
        self.holds_all = len(mine) == SLOTS
        self._is_alone = self.holds_all and all(each.holder == self._me.holder for each in seen.processes)
        for slot in mine:
            need = self.needs[slot]
            if need is not None and need.is_over(self._memory):
                self.needs[slot] = None
        metrics.CAP_SLOTS.set(len(mine))

    def _sweep(self) -> None:
        if boot_s() - self._swept_s < SWEEP_S:
            return
        self._swept_s = boot_s()
        self.shows.sweep(str(now_ms() // DAY_MS), self._is_counted, self._floor)

    def _is_counted(self, entry: Entry) -> bool:
        return is_counted(entry, self._memory, now_ms())

    def _floor(self) -> Floor:
        partitions = range(self._settings.partitions)
        return Floor(self._settings.generation, tuple(map(self._memory.profiles_version, partitions)), now_ms())

    def _end(self) -> None:
        self.tenure.give_up(range(SLOTS))
        self._addresses = [""] * SLOTS
        try:
            self._store.end(self._me, self._left)
        except (Retryable, OSError) as error:
            log.warning("slots are not handed over, their time will do it: %s", error)

    def _in_trouble(self, error: HeraldError | OSError) -> None:
        if str(error) != self._trouble:
            log.warning("who counts caps is not settled: %s", error)
        self._trouble = str(error)


def is_counted(entry: Entry, memory: Memory, time_ms: int) -> bool:
    """Say whether the profiles have all of an entry of a visitor with an id; what is too old for them counts as had."""
    state = memory.visitor(entry.key).state
    lost_ms = max(time_ms - KEPT_MS, 0 if state is None else state.shown_lost_ms)
    for show in entry.shows:
        found = None if state is None else state.shown.get(show.creative_id)
        if stamp_ms(show.mark) > lost_ms and (found is None or not has_stamp(found.stamps, show.mark)):
            return False
    return True


def _on(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """Have the event loop's thread do something, and wait for it. Raises Retryable where it does not get to it."""
    is_done = threading.Event()

    def do() -> None:
        work()
        is_done.set()

    try:
        loop.call_soon_threadsafe(do)
    except RuntimeError as error:
        raise Retryable(f"the event loop has ended: {error}") from error
    if not is_done.wait(MERGE_WAIT_S):
        raise Retryable("the event loop did not take over in time what others have shown")

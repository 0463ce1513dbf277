"""For which visitors this process counts frequency caps: a thread that takes, keeps and gives back slots.

What may be held is decided in pipeline/core/slots.py and stored beside the campaigns (pipeline/campaigns/slots.py).
Before a slot is used that somebody else may have held, all that one has shown is learnt: from the files of this data
folder (shows.py), and from what it left in the store. While the store is away, slots are held to the end of their
lease: so long decisions go on as before.

However much that is, no lease ends over it: it is learnt and told a few slots at a time, what is held is renewed in
between, and files are read before the store's transaction, never in it.
"""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.slots import Seen, SlotStore
from pipeline.core.shown import KEPT_MS, has_stamp, stamp_ms
from pipeline.core.slots import LAG_MS, SLOTS, Asker, Process, SlotRules, Tenure, Turn, Wait, slot_of
from pipeline.delivery.memory import Memory
from pipeline.delivery.shows import GROUP_SLOTS, Entry, Floor, Shows
from pipeline.edge import metrics
from pipeline.edge.clock import boot_s, now_ms
from pipeline.errors import HeraldError, Retryable, SettingsError
from pipeline.rest.keys import is_loopback
from pipeline.settings import Settings
from schemas.block import partition_of
from schemas.campaign import DAY_MS

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
LOOK_ALONE_S: Final = 5.0
"""While there is no other process: so long one that comes may wait for its share, and sends on until then."""
GATHER_S: Final = 0.1
"""However often somebody wants a look, there is one in so long; after looks that found nothing new, one in LOOK_S."""
SWEEP_S: Final = 10.0
STOP_S: Final = 10.0
HAND_OVER_S: Final = 6.0
"""At its end a process begins to hand over more for so long; a neighbour takes the rest at once, from the files."""
NOTES_BYTES_MAX: Final = 8_388_608
"""So much is told to another home in one transaction, or what is known of one group of slots: others wait for it."""
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
        self._standing: object = None  # who holds what, and how much of it is known here
        self._stood: object = None
        self._gather_s = GATHER_S
        self._addresses = [""] * SLOTS
        self._counts: Counts | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="slots", daemon=True)
        self._swept_s = boot_s()
        self._trouble, self._doubt = "", ""
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
            self._wait()
        if is_ready:
            self._end()

    def _wait(self) -> None:
        """Wait for the next look; where looks that somebody wanted find nothing new, no shorter than without them."""
        if self._standing != self._stood:
            self._stood, self._gather_s = self._standing, GATHER_S
        self._stopping.wait(self._gather_s)
        is_wanted = self._wake.wait(max(0.0, (LOOK_ALONE_S if self._is_alone else LOOK_S) - self._gather_s))
        self._wake.clear()
        self._gather_s = min(2 * self._gather_s, LOOK_S) if is_wanted else GATHER_S

    def _turn(self) -> None:
        asked_s = boot_s()
        asker = Asker(self._me, self._known)
        seen = self._store.look(asker)
        neighbours = [each.holder for each in seen.processes if each.home == self._me.home]
        neighbours += [row.holder for row in seen.rows if row.home == self._me.home]
        dead = {holder for holder in neighbours if self.shows.is_dead(holder)}
        whole_s = seen.turn.lease_ms / 1_000
        due_s = whole_s * (1 - (RENEW_PART if seen.turn.lease_ms == self._rules.lease_ms else RENEW_PART / 3))
        is_fresh = self.tenure.left_s(seen.turn.mine, asked_s) >= due_s
        if dead or seen.noted or not (seen.turn.is_quiet and is_fresh):
            notes = self._notes_for(seen.turn)
            terms = {row.slot: row.term for row in seen.rows}  # as they will be: of what is given, the next holder's
            terms |= {slot: self._known[slot] for slot in seen.turn.given}
            asked_s = boot_s()
            asker = asker._replace(dead=dead, noted={slot: terms[slot] for slot in notes})
            seen = self._store.turn(asker, lambda turn: self._leave(turn, asked_s, notes))
            self._learn(seen, asked_s)
        self._show(seen)

    def _notes_for(self, turn: Turn) -> Mapping[int, str]:
        """Return notes of what is to go to another home, or of the first of it: the rest goes at a later turn."""
        away = [slot for slot, other in turn.given.items() if other.home != self._me.home]
        return next(self._notes({*away, *turn.brought}), {})

    def _leave(self, turn: Turn, asked_s: float, notes: Mapping[int, str]) -> Mapping[int, str]:
        """Hold what is given away no more, the rest no longer than the new lease; return what has to be handed over."""
        self.tenure.give_up(turn.given)
        self.tenure.shorten(turn.mine, asked_s, turn.lease_ms)
        for slot in turn.given:
            self._known.pop(slot, None)
            self.needs[slot] = None
        away = {slot for slot, other in turn.given.items() if other.home != self._me.home}
        return {slot: notes[slot] for slot in (*away, *turn.brought)}

    def _notes(self, slots: Collection[int]) -> Iterator[Mapping[int, str]]:
        """Yield what stands in the files of our home of these slots, some of them at a time, which we hold no more."""
        found: dict[int, str] = {}
        for group in _groups(slots):
            self.tenure.give_up(group)  # first: what is written after it was read is not shown
            found |= self._left(group)
            if sum(map(len, found.values())) >= NOTES_BYTES_MAX:
                yield found
                found = {}
        if found:
            yield found

    def _left(self, slots: Collection[int]) -> dict[int, str]:
        """What stands in the files of our home of these slots, as notes: all that the profiles may not have."""
        found: dict[int, list[Entry]] = {slot: [] for slot in slots}
        for entry in self.shows.read(slots):
            found[slot_of(entry.key)].append(entry)
        floor = self.shows.floor()
        return {slot: _encode(Left(floor, entries)).decode() for slot, entries in found.items()}

    def _learn(self, seen: Seen, asked_s: float) -> None:
        """Learn what others have shown to whom we count for from now on; then begin to count."""
        turn, taken = seen.turn, set(seen.turn.taken)
        self.tenure.give_up(taken)
        self.tenure.grant(set(turn.mine) - taken, asked_s, turn.lease_ms)
        told = self._learn_of(taken, seen.noted, asked_s + RENEW_PART * turn.lease_ms / 1_000)
        later = {*taken, *seen.noted} - told
        floor = self.shows.floor() if told else None
        rows = {row.slot: row for row in seen.rows}
        for slot in turn.mine:
            before = self.needs[slot]
            if slot not in later and (slot in told or before is not None):
                known_from = floor if slot in told or before is None else before.floor
                need = Need(known_from, rows[slot].waits, self._settings.generation, self._settings.partitions)
                self.needs[slot] = None if need.is_over(self._memory) else need
        self._known = {slot: rows[slot].term for slot in turn.mine if slot not in taken or slot in told}
        self.tenure.grant(taken & told, asked_s, turn.lease_ms)
        if taken or turn.given:
            log.info("caps are counted here in %d of %d slots", len(self._known), SLOTS)

    def _learn_of(self, taken: Collection[int], noted: Collection[int], until_s: float) -> set[int]:
        """Learn what stands in files and notes, a group of slots after the other; return of which all of it is learnt.

        until_s: no group is begun after that, but for the first: what is held has to be renewed.
        """
        told: set[int] = set()
        for group in _groups({*taken, *noted}):
            if told and boot_s() >= until_s:
                self._wake.set()
                break
            self._merge(self.shows.read([slot for slot in group if slot in taken]))
            self._take_over([slot for slot in group if slot in noted])
            told.update(group)
        return told

    def _take_over(self, slots: Collection[int]) -> None:
        """Take over what others left in the store: into our own files first, for then it goes from there."""
        notes = self._store.notes(slots) if slots else ()
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
            _on(loop, functools.partial(_merge_now, counts, part))

    def _show(self, seen: Seen) -> None:
        others = [each for each in seen.processes if each.holder not in (self._me.holder, *seen.turn.gone)]
        places = {each.holder: each.address for each in others if each.address != self._me.address}
        for row in seen.rows:
            self._addresses[row.slot] = places.get(row.holder, "")
        self._doubt_of(others)
        mine = [slot for slot in seen.turn.mine if slot in self._known]
        self.holds_all = len(mine) == SLOTS
        self._is_alone = self.holds_all and not others
        self._standing = sorted((row.slot, row.holder, row.term) for row in seen.rows), mine
        for slot in mine:
            need = self.needs[slot]
            if need is not None and need.is_over(self._memory):
                self.needs[slot] = None
        metrics.CAP_SLOTS.set(len(mine))

    def _doubt_of(self, others: Collection[Process]) -> None:
        found = doubts(self._me, others)
        if found and found != self._doubt:
            log.warning("%s", found)
        self._doubt = found

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
        until_s = boot_s() + HAND_OVER_S
        try:
            for notes in self._notes(self._store.end(self._me)):
                self._store.give_back(self._me, notes)
                if boot_s() >= until_s:
                    break
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


def doubts(me: Process, others: Iterable[Process]) -> str:
    """Return what is wrong with the addresses that delivery processes have registered, "" where nothing seems to be.

    others: those that live.
    """
    others = list(others)
    if any(each.address == me.address for each in others):
        return (
            f"another delivery process is registered at our own address, {me.address}: unless it has just ended there, "
            "each needs a HERALD_DELIVERY_PEER_URL of its own; until then nothing that has a cap is shown here to its "
            "visitors"
        )
    away = [each for each in others if each.home != me.home]
    alone = next((each.address for each in (me, *away) if is_loopback(urlsplit(each.address).hostname or "")), "")
    if away and alone:
        return (
            f"delivery processes of several data folders count caps together, one of them at {alone}: unless all run "
            "on this machine, set HERALD_HOST or HERALD_DELIVERY_PEER_URL to an address that the others reach"
        )
    return ""


def _groups(slots: Collection[int]) -> list[list[int]]:
    """Slots in an order in which those that share files stand together."""
    found: dict[int, list[int]] = {}
    for slot in sorted(slots):
        found.setdefault(slot // GROUP_SLOTS, []).append(slot)
    return list(found.values())


def _merge_now(counts: Counts, entries: Iterable[Entry]) -> None:
    """The time is asked for where it is used: one of before, and midnight between, and the day would turn back."""
    counts.merge(entries, now_ms())


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

"""Who counts a visitor's frequency caps, of several delivery processes: exactly one at every moment. Pure.

Visitors fall into SLOTS slots by the hash of what they are counted by (visitor id, or the key of the day). A slot is
held by one process at a time, until a moment, by a row in the relational store; only its holder shows that visitor
anything that has a cap. Every process takes a turn now and then, in one transaction of the store: it renews what it
holds, takes what is free up to its share, and gives away what is above its share to processes that have less.

The bound. At no moment do two processes hold a slot, as long as
- no clock runs faster or slower than another by more than DRIFT, and
- the store's clock is not put forward by more than `margin_ms` at once.
By how much clocks differ does not matter: a holder counts a lease from the moment before it asked, by its own clock;
the others go by the store's clock alone, and wait for the margin on top. A process that was stopped (SIGSTOP, a machine
put to sleep) finds its leases over by its own clock before it can use them.

What a new holder has to know is what the one before it decided: `Wait` says of whom that is not known yet.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from zlib import crc32

from schemas.campaign import DAY_MS

SLOTS: Final = 64
DRIFT: Final = 0.01
"""By so much a clock may run too fast or too slow."""
LAG_MS: Final = 5_000
"""So long after its last decision a process's records may still be on their way into the log; see `Wait`."""


def slot_of(key: str) -> int:
    """Return the slot of a visitor id, or of a key of the day (caps.cap_key)."""
    return crc32(key.encode("utf-8", "surrogatepass")) % SLOTS


class SlotRules(NamedTuple):
    """lease_ms: of a slot among several processes. alone_ms: while there is one. margin_ms: see above."""

    lease_ms: int = 10_000
    alone_ms: int = 300_000
    margin_ms: int = 2_000


class Wait(NamedTuple):
    """A process ended without a word, at `ended_ms` at the latest; what it decided stands in the files of its `home`.

    Until a process of that home has brought it: of visitors with an id all is known once the profiles have passed the
    end by LAG_MS; of those without consent nothing is, until their day is over.
    """

    home: str
    ended_ms: int

    @property
    def over_ms(self) -> int:
        """From when on it does not matter any more: the next UTC day."""
        return ((self.ended_ms + LAG_MS) // DAY_MS + 1) * DAY_MS


class Row(NamedTuple):
    """One slot as it stands in the store. holder: "" = nobody. term: counts its holders. expires_ms: the store's time.

    home: whose files the holder writes.
    """

    slot: int
    holder: str = ""
    home: str = ""
    term: int = 0
    expires_ms: int = 0
    waits: tuple[Wait, ...] = ()


class Process(NamedTuple):
    """A delivery process. holder: an id of its own, never used twice. address: where others forward to."""

    holder: str
    home: str
    address: str
    expires_ms: int = 0


class Turn(NamedTuple):
    """What comes of a process's turn; to be stored as a whole, or not at all.

    me: as it stands now. rows: all that have changed, renewed ones too. mine: slots held from now on, for `lease_ms`.
    taken: those of them whose counts have to be learnt first. given: slot -> to whom; they are ours no more before this
    is stored. gone: processes that are no more. brought: slots whose holder waits for our home. is_quiet: nothing but
    times of ours has changed.
    """

    me: Process
    rows: list[Row]
    mine: list[int]
    taken: list[int]
    given: dict[int, Process]
    gone: list[str]
    brought: list[int]
    lease_ms: int
    is_quiet: bool


def take_turn(
    rows: Iterable[Row],
    processes: Iterable[Process],
    me: Process,
    now_ms: int,
    known: Mapping[int, int],
    dead: Collection[str] = (),
    rules: SlotRules = SlotRules(),  # noqa: B008 - a constant
) -> Turn:
    """Return what a process may hold now.

    rows: those that there are. now_ms: by the store's clock. known: slot -> term, of those whose counts are known to
    this process. dead: processes that are known to live no more, of our home.
    """
    found = {row.slot: row for row in rows}
    before = [found.get(slot, Row(slot)) for slot in range(SLOTS)]
    others = [each for each in processes if each.holder != me.holder]
    alive = [each for each in others if each.holder not in dead and each.expires_ms + rules.margin_ms > now_ms]
    lease_ms = rules.lease_ms if alive else rules.alone_ms
    me = me._replace(expires_ms=now_ms + lease_ms)
    after = [_lasting(row, me, now_ms) for row in before]
    shares = _shares([me, *alive])
    held = _held(after)
    is_last_at_home = all(each.home != me.home for each in alive)
    for at, row in enumerate(after):
        is_wanted = held.get(me.holder, 0) < shares[me.holder] or (row.holder in dead and is_last_at_home)
        if is_wanted and _is_free(row, me, now_ms, dead, rules):
            after[at] = _taken(row, me, dead)
            held[me.holder] = held.get(me.holder, 0) + 1
    given = _given([row for row in after if known.get(row.slot) == row.term], me, alive, shares, held)
    for slot, other in given.items():
        # a short while: the other one finds it at its next look, or has died meanwhile
        after[slot] = after[slot]._replace(
            holder=other.holder, home=other.home, term=after[slot].term + 1, expires_ms=now_ms + rules.lease_ms
        )
    brought = [row.slot for row in after if row.holder != me.holder and any(wait.home == me.home for wait in row.waits)]
    for slot in brought:
        after[slot] = after[slot]._replace(waits=_without(after[slot].waits, me.home))
    mine = [row.slot for row in after if row.holder == me.holder]
    for slot in mine:
        after[slot] = after[slot]._replace(expires_ms=now_ms + lease_ms)
    alive_ids = {each.holder for each in alive}
    gone = [each.holder for each in others if each.holder not in alive_ids]
    taken = [slot for slot in mine if known.get(slot) != after[slot].term]
    changed = [row for row, old in zip(after, before, strict=True) if row != old]
    is_quiet = not (gone or given or brought or taken) and all(
        row.holder == before[row.slot].holder == me.holder and row.waits == before[row.slot].waits for row in changed
    )
    return Turn(me, changed, mine, taken, given, gone, brought, lease_ms, is_quiet)


def _lasting(row: Row, me: Process, now_ms: int) -> Row:
    """Drop waits that matter no more: their day is over, or the files are in our own home and we hold the slot."""
    if not row.waits:
        return row
    kept = tuple(wait for wait in row.waits if wait.over_ms > now_ms)
    return row._replace(waits=_without(kept, me.home) if row.holder == me.holder else kept)


def _without(waits: Sequence[Wait], home: str) -> tuple[Wait, ...]:
    return tuple(wait for wait in waits if wait.home != home)


def _shares(alive: Sequence[Process]) -> dict[str, int]:
    """Holder -> how many slots it is to have: as even as it can be, in an order that all agree on."""
    most, more = divmod(SLOTS, len(alive))
    names = sorted(each.holder for each in alive)
    return {name: most + (at < more) for at, name in enumerate(names)}


def _held(rows: Sequence[Row]) -> dict[str, int]:
    held: dict[str, int] = {}
    for row in rows:
        held[row.holder] = held.get(row.holder, 0) + 1
    return held


def _is_free(row: Row, me: Process, now_ms: int, dead: Collection[str], rules: SlotRules) -> bool:
    if row.holder == me.holder:
        return False
    return not row.holder or row.holder in dead or row.expires_ms + rules.margin_ms <= now_ms


def _taken(row: Row, me: Process, dead: Collection[str]) -> Row:
    """A row that nobody holds, as ours. Its last holder's decisions are in files here, or have to be waited for."""
    waits = row.waits
    if row.holder and row.home != me.home:
        assert row.holder not in dead, "only those of our own home are known to be dead"
        waits = (*_without(waits, row.home), Wait(row.home, row.expires_ms))
    return row._replace(holder=me.holder, home=me.home, term=row.term + 1, waits=_without(waits, me.home))


def _given(
    rows: Sequence[Row], me: Process, alive: Sequence[Process], shares: Mapping[str, int], held: Mapping[str, int]
) -> dict[int, Process]:
    """Slot -> to whom, of those that we hold above our share: to the ones that lack most.

    rows: those whose counts we know, else there is nothing to hand over yet.
    """
    lacking = {each.holder: shares[each.holder] - held.get(each.holder, 0) for each in alive}
    by_name = {each.holder: each for each in alive}
    mine = [row.slot for row in rows if row.holder == me.holder]
    given: dict[int, Process] = {}
    while len(given) < len(mine) and held[me.holder] - len(given) > shares[me.holder]:
        name = max(lacking, key=lambda each: (lacking[each], each))
        if lacking[name] <= 0:
            break  # somebody else is above its share, and will give
        given[mine[-1 - len(given)]] = by_name[name]
        lacking[name] -= 1
    return given


class Tenure:
    """Until when this process holds which slots, by its own clock: s, of one that goes on while a machine sleeps."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._until_s = [0.0] * SLOTS

    def grant(self, slots: Iterable[int], asked_s: float, lease_ms: int) -> None:
        """Hold these for a lease. asked_s: this process's clock before the store was asked."""
        until_s = asked_s + lease_ms / 1_000 * (1 - 2 * DRIFT)
        for slot in slots:
            self._until_s[slot] = until_s

    def shorten(self, slots: Iterable[int], asked_s: float, lease_ms: int) -> None:
        """Hold these no longer than for this lease; to be said before the store is told of one that may be shorter."""
        until_s = asked_s + lease_ms / 1_000 * (1 - 2 * DRIFT)
        for slot in slots:
            self._until_s[slot] = min(self._until_s[slot], until_s)

    def give_up(self, slots: Iterable[int]) -> None:
        """Hold these no more."""
        for slot in slots:
            self._until_s[slot] = 0.0

    def is_held(self, slot: int, clock_s: float) -> bool:
        """Say whether a slot is held now."""
        return clock_s < self._until_s[slot]

    def left_s(self, slots: Iterable[int], clock_s: float) -> float:
        """Return for how long all of these are held; 0 where some are not."""
        return max(0.0, min((self._until_s[slot] for slot in slots), default=0.0) - clock_s)

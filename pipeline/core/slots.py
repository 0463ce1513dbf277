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

from collections import Counter
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


class Asker(NamedTuple):
    """Who takes a turn, and what it knows.

    known: slot -> term, of those whose counts it knows. dead: processes of its home that are known to live no more.
    noted: slot -> term, of those for which it has noted what the files of its home hold: only these go to another home,
    by being given or brought; None = any.
    """

    me: Process
    known: Mapping[int, int]
    dead: Collection[str] = ()
    noted: Mapping[int, int] | None = None

    def has_noted(self, row: Row) -> bool:
        """Say whether a slot may go to another home."""
        return self.noted is None or self.noted.get(row.slot) == row.term


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


class _Scene(NamedTuple):
    """What a turn goes by. alive: the other processes. shares: holder -> how many slots it is to have."""

    asker: Asker
    alive: Sequence[Process]
    shares: Mapping[str, int]
    now_ms: int
    rules: SlotRules


def take_turn(
    asker: Asker,
    rows: Iterable[Row],
    processes: Iterable[Process],
    now_ms: int,
    rules: SlotRules = SlotRules(),  # noqa: B008 - a constant
) -> Turn:
    """Return what a process may hold now.

    rows: those that there are. now_ms: by the store's clock.
    """
    found = {row.slot: row for row in rows}
    before = [found.get(slot, Row(slot)) for slot in range(SLOTS)]
    others = [each for each in processes if each.holder != asker.me.holder]
    alive = [each for each in others if _is_alive(each, asker, now_ms, rules)]
    lease_ms = rules.lease_ms if alive else rules.alone_ms
    me = asker.me._replace(expires_ms=now_ms + lease_ms)
    scene = _Scene(asker, alive, _shares([me, *alive]), now_ms, rules)

    after = _take([_lasting(row, me, now_ms) for row in before], scene)
    given = _given(after, scene)
    after = _hand_over(after, given, now_ms + rules.lease_ms)
    brought = [row.slot for row in after if _is_awaited(row, asker)]
    after = [row._replace(waits=_without(row.waits, me.home)) if row.slot in brought else row for row in after]
    after = [row._replace(expires_ms=me.expires_ms) if row.holder == me.holder else row for row in after]

    mine = [row.slot for row in after if row.holder == me.holder]
    return Turn(
        me=me,
        rows=[row for row, old in zip(after, before, strict=True) if row != old],
        mine=mine,
        taken=[slot for slot in mine if asker.known.get(slot) != after[slot].term],
        given=given,
        gone=[each.holder for each in others if each not in alive],
        brought=brought,
        lease_ms=lease_ms,
        is_quiet=len(alive) == len(others) and _are_quiet(before, after, asker),
    )


def _is_alive(process: Process, asker: Asker, now_ms: int, rules: SlotRules) -> bool:
    return process.holder not in asker.dead and process.expires_ms + rules.margin_ms > now_ms


def _are_quiet(before: Sequence[Row], after: Sequence[Row], asker: Asker) -> bool:
    """Say whether nothing but the times of rows of ours has changed, and all of them are known already."""
    return all(
        old._replace(expires_ms=new.expires_ms) == new
        and (new.holder != asker.me.holder or asker.known.get(new.slot) == new.term)
        for old, new in zip(before, after, strict=True)
    )


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


def _take(rows: Sequence[Row], scene: _Scene) -> list[Row]:
    """Take what is free, up to our share; of the dead of a home whose last process we are, all."""
    me, dead = scene.asker.me, scene.asker.dead
    is_last_at_home = all(each.home != me.home for each in scene.alive)
    held = sum(row.holder == me.holder for row in rows)
    after = []
    for row in rows:
        is_wanted = held < scene.shares[me.holder] or (row.holder in dead and is_last_at_home)
        if is_wanted and _is_free(row, scene):
            row = _taken(row, scene.asker)
            held += 1
        after.append(row)
    return after


def _is_free(row: Row, scene: _Scene) -> bool:
    if row.holder == scene.asker.me.holder:
        return False
    return not row.holder or row.holder in scene.asker.dead or row.expires_ms + scene.rules.margin_ms <= scene.now_ms


def _taken(row: Row, asker: Asker) -> Row:
    """A row that nobody holds, as ours. Its last holder's decisions are in files here, or have to be waited for."""
    me, waits = asker.me, row.waits
    if row.holder and row.home != me.home:
        assert row.holder not in asker.dead, "only those of our own home are known to be dead"
        waits = (*_without(waits, row.home), Wait(row.home, row.expires_ms))
    return row._replace(holder=me.holder, home=me.home, term=row.term + 1, waits=_without(waits, me.home))


def _given(rows: Sequence[Row], scene: _Scene) -> dict[int, Process]:
    """Slot -> to whom, of those that we hold above our share: to the ones that lack most, the last slots first.

    Only of those whose counts we know, else there is nothing to hand over yet.
    """
    asker, shares = scene.asker, scene.shares
    held = Counter(row.holder for row in rows)
    lacking = {each: shares[each.holder] - held[each.holder] for each in scene.alive}
    mine = [row for row in reversed(rows) if row.holder == asker.me.holder and asker.known.get(row.slot) == row.term]
    given: dict[int, Process] = {}
    while held[asker.me.holder] - len(given) > shares[asker.me.holder] and any(more > 0 for more in lacking.values()):
        other = max(lacking, key=lambda each: (lacking[each], each.holder))
        row = next((row for row in mine if other.home == asker.me.home or asker.has_noted(row)), None)
        if row is None:
            del lacking[other]  # its slots come later
            continue
        mine.remove(row)
        given[row.slot] = other
        lacking[other] -= 1
    return given


def _hand_over(rows: Sequence[Row], given: Mapping[int, Process], until_ms: int) -> list[Row]:
    """until_ms: a short while, for the other one finds it at its next look, or has died meanwhile."""
    return [
        row._replace(holder=other.holder, home=other.home, term=row.term + 1, expires_ms=until_ms)
        if (other := given.get(row.slot)) is not None
        else row
        for row in rows
    ]


def _is_awaited(row: Row, asker: Asker) -> bool:
    """Say whether a slot's holder waits for what stands in the files of our home, and it is noted now."""
    is_elsewhere = row.holder != asker.me.holder
    return is_elsewhere and asker.has_noted(row) and any(wait.home == asker.me.home for wait in row.waits)


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

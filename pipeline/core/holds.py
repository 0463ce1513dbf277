"""Held pieces: what a decision keeps of a sku for whom it was shown to. A part of the spend stage's fold.

A hold is open until its time is over, measured as that of money is (block time), or until the decision turns out to be
a bot's. One whose visitor buys the piece is bought. The shop's own level counts that piece out, but only once the shop
tells it: until then the piece is in the level and on its way out of the door, and must not be given to anybody else. So
a bought piece is still counted against a level that was told before the purchase, and against none that was told at its
moment or after it (`counts_against`). Where the shop tells nothing more, it counts until the hold's own end, and then
only the next level says what is left: a level that never follows its sales is no level. Pieces that are sold without a
hold are known with the next level, too.

    free pieces = level - open holds - pieces bought after the level was told - leased and not used

The promise, in `pipeline/core/lease.py`'s terms: an account of kind "sku", whose unit is a piece and whose limit is the
newest level. Never are more pieces held than the level says, for any number of processes and kills. What lifts it:
- a level that falls by more than our own sales, by what was leased before; each process gives a lease back as soon as
  it reads of such a level, where little is left, see `pipeline/delivery/pieces.py`;
- a level that is told for the first time, by what was shown before it.

Entries of the state, by key:
  h:<decision>/<action>/<sku>  Held, while it is open
  b:<decision>/<action>/<sku>  Sold, until the hold would have ended, and SOLD_KEPT_MS for readers of other partitions
  k:<site>/<sku>               Pieces
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final, Protocol

import msgspec

from pipeline.core.state import Entries, Packed
from schemas.outcome import Outcome
from schemas.spend import Held, Pieces, Sale, Sold, StockLevel

HELD, SOLD, PIECES = "h:", "b:", "k:"
PIECE: Final = "piece_"
"""Before a column of Pieces: how many came into it with a block, for the metrics."""
SOLD_KEPT_MS: Final = 3_600_000
_HOLD: Final = "hold:"


def hold_terms(hold_ms: int) -> str:
    """Return what a lease of pieces "pays for": `hold:` and for how long it holds them."""
    return f"{_HOLD}{hold_ms}"


def hold_of(pays_for: str) -> int | None:
    """Return for how long a lease holds pieces, in ms; None where it is one of money."""
    return int(pays_for.removeprefix(_HOLD)) if pays_for.startswith(_HOLD) else None


def counts_against(sold: Sold, level: StockLevel | None, clock_ms: int) -> bool:
    """Say whether a bought piece is still part of a level. clock_ms: the earliest of all partitions' clocks.

    Levels and purchases lie in different partitions, of which one may be read further than another: only what all of
    them have passed is over.
    """
    return (level is None or sold.event_time_ms > level.event_time_ms) and clock_ms <= sold.ends_ms


class Due(Protocol):
    """When entries end, see `pipeline.core.spend`."""

    def set(self, key: str, ends_ms: int) -> None:
        """Say when an entry ends: after this moment."""

    def forget(self, key: str) -> None:
        """It has ended."""


class Holds:
    """The held pieces of one partition. Told of what has ended, then block by block of new decisions, of sales, and of
    bots: a bot's purchase is no sale, so one that is told came before the verdict, whatever block each was in.
    """

    def __init__(self, packed: Packed, due: Due) -> None:
        """packed: the stage's entries. due: is told when entries end, and calls `end` then."""
        self._held = Entries(packed, Held)
        self._sold = Entries(packed, Sold)
        self._pieces = Entries(packed, Pieces)
        self._due = due
        self.counts: Counter[tuple[str, str]] = Counter()

    def take(self, outcome: Outcome, now_ms: int) -> None:
        """Hold the pieces of a new decision."""
        ends_ms = outcome.decided_ms + outcome.hold_ms
        for hold in outcome.holds:
            key = _key(outcome.decision_id, outcome.action_id, hold.sku)
            if self._held.get(key) is None:
                self._book(hold.site, hold.sku, "held")
                if ends_ms >= now_ms:
                    self._held.put(key, Held(hold.site, hold.sku, ends_ms))
                    self._due.set(key, ends_ms)
                else:
                    self._book(hold.site, hold.sku, "ended")

    def let_go(self, outcome: Outcome) -> None:
        """End what a bot's decision still holds."""
        for hold in outcome.holds:
            key = _key(outcome.decision_id, outcome.action_id, hold.sku)
            held = self._held.get(key)
            if held is not None:
                self._end(key, held, "bots")

    def sell(self, sale: Sale, now_ms: int) -> None:
        """A held piece was bought. One that is not held any more is known with the next level alone."""
        key = _key(sale.decision_id, sale.action_id, sale.sku)
        held = self._held.get(key)
        if held is None or held.ends_ms < now_ms:
            return
        self._end(key, held, "bought")
        sold_key = SOLD + key.removeprefix(HELD)
        self._sold.put(sold_key, Sold(held.site, held.sku, held.ends_ms, sale.event_time_ms))
        self._due.set(sold_key, held.ends_ms + SOLD_KEPT_MS)

    def end(self, key: str) -> None:
        """The time of an entry is over."""
        if key.startswith(SOLD):
            self._sold.delete(key)
            return
        held = self._held.get(key)
        assert held is not None, f"{key}: due, but not held"
        self._end(key, held, "ended")

    def changes(self) -> Iterator[tuple[list[tuple[str, bytes]], list[str]]]:
        """Yield (puts, deletes) since the last call, packed."""
        for entries in (self._held, self._sold, self._pieces):
            yield entries.take_changes()

    def _end(self, key: str, held: Held, column: str) -> None:
        self._book(held.site, held.sku, column)
        self._held.delete(key)
        self._due.forget(key)

    def _book(self, site: str, sku: str, column: str) -> None:
        key = f"{PIECES}{site}/{sku}"
        pieces = self._pieces.get(key) or Pieces(site, sku)
        setattr(pieces, column, getattr(pieces, column) + 1)
        pieces.open += 1 if column == "held" else -1
        self._pieces.put(key, pieces)
        self.counts[PIECE + column, ""] += 1


def _key(decision_id: str, action_id: str, sku: str) -> str:
    return f"{HELD}{decision_id}/{action_id}/{sku}"


def ends(packed: Packed) -> Iterator[tuple[str, int]]:
    """Yield which of a state's entries of ours end when."""
    read_held, read_sold = msgspec.msgpack.Decoder(Held).decode, msgspec.msgpack.Decoder(Sold).decode
    for key, raw in packed.items():
        if key.startswith(HELD):
            yield key, read_held(raw).ends_ms
        elif key.startswith(SOLD):
            yield key, read_sold(raw).ends_ms + SOLD_KEPT_MS

"""The spend stage's fold: outcomes -> books of money: reserved at a decision, settled by what is paid for, or released.

Time is block time, the latest at which a writer closed a block of the partition: ticks move it on, and no visitor's
clock can. A reservation is open until its window (`SpendRules`) is over; it is settled by the first event of the kind
that it pays for, if that comes while it is open, and at once released where the decision turns out to be a bot's. What
comes later is not billed, only counted (`late`). Settled is final. A decision whose record comes only after its window
is reserved and released in one step (`stale`): leases are closed on that promise (see pipeline/core/lease.py).

Entries of the state, by key:
  l:<campaign>/<line>       Money, of all days
  d:<campaign>/<line>/<day> Money, of one day, for DAYS_KEPT: an entry each, so that a change writes no other day's
  r:<decision>/<action>     Reservation, while it is open: one entry each, so that a change writes no others
  g:<lease>                 Leased, for LEASE_KEPT_MS after its last decision
  s:<site>/<sku>            StockLevel, the newest by event time
  h: b: k:                  pieces that are held, see `pipeline/core/holds.py`

Bounded: reservations, holds, leases and days by time, lines and skus by what was ever published, stock by STOCK_MAX.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heappop, heappush
from typing import ClassVar, Final, cast

import msgspec
from msgspec import Struct

from pipeline.core.holds import HELD, SOLD, Holds, ends, hold_of
from pipeline.core.stage import Applied
from pipeline.core.state import Entries, Packed, StateView
from schemas.block import Origin, OutcomeBlock
from schemas.outcome import Outcome
from schemas.spend import Leased, Money, Reservation, SpendFixed, StockLevel, Sum
from schemas.topics import OUTCOMES, SPEND, Topic

DAY_MS: Final = 86_400_000
LINE, DAY, RESERVATION, LEASE, STOCK = "l:", "d:", "r:", "g:", "s:"
BOOKS: Final = "books_"
"""Before a column: how the partition's books stand after a block, for the metrics; the label is the partition."""
LEASE_KEPT_MS: Final = DAY_MS // 12
"""After its last decision a lease is over within the hour that it may last, and closed a window or a hold later."""
DAYS_KEPT: Final = 40
_NEVER: Final = 2**62
STOCK_MAX: Final = 200_000
DUE_BYTES_MAX: Final = 262_144
"""Keys released in one block, in bytes, so that no state record grows without bound; the rest waits for the next."""


@dataclass(frozen=True, slots=True)
class SpendRules:
    """How long a reservation stays open after its decision, its last millisecond included.

    click_ms: also how long an action's waits for its click. action_ms: an action's that was clicked.
    """

    impression_ms: int = 600_000
    click_ms: int = 1_800_000
    action_ms: int = DAY_MS

    def window_ms(self, pays_for: str, is_clicked: bool = False) -> int:
        """Return the window. Without a click it is also how late a decision's record may be and still count.

        Of pieces (`hold:<ms>`) it is how long they are held.
        """
        hold_ms = hold_of(pays_for)
        if hold_ms is not None:
            return hold_ms
        if pays_for == "impression":
            return self.impression_ms
        return max(self.click_ms, self.action_ms) if pays_for == "action" and is_clicked else self.click_ms


def line_key(campaign_id: str, line_id: str) -> str:
    """Return the key of a line's books."""
    return f"{LINE}{campaign_id}/{line_id}"


def line_of(key: str) -> tuple[str, str]:
    """Return (campaign, line) of a line's key. Ids hold no `/`."""
    campaign_id, _, line_id = key.removeprefix(LINE).partition("/")
    return campaign_id, line_id


def day_name(budget_day: str, campaign_day: str) -> str:
    """Return what a day of a line and of its campaign is called together."""
    return budget_day if campaign_day in ("", budget_day) else f"{budget_day}/{campaign_day}"


def days_of(name: str) -> tuple[str, str]:
    """Return (line's day, campaign's day) of such a name."""
    budget_day, _, campaign_day = name.partition("/")
    return budget_day, campaign_day or budget_day


def day_of(key: str) -> tuple[str, str, str]:
    """Return (campaign, line, name of the day) of a day's key."""
    campaign_id, line_id, name = key.removeprefix(DAY).split("/", 2)
    return campaign_id, line_id, name


class Spend:
    """Fold of `outcomes` into `spend`, for one partition of the log. It writes nothing but its state."""

    name: ClassVar[str] = "spend"
    source: ClassVar[Topic] = OUTCOMES
    reads: ClassVar[type[Struct]] = OutcomeBlock
    state: ClassVar[Topic] = SPEND

    def __init__(self, view: StateView, rules: SpendRules) -> None:
        """view: the restored partition; its entries are owned by this object from now on."""
        self._rules = rules
        self._books = Entries(view.entries, Money)
        self._open = Entries(view.entries, Reservation)
        self._leases = Entries(view.entries, Leased)
        self._levels = Entries(view.entries, StockLevel)
        self._fixed = msgspec.msgpack.decode(view.fixed, type=SpendFixed) if view.fixed else SpendFixed()
        self._due = _Due(view.entries, rules)
        self._holds = Holds(view.entries, self._due)
        self._counts: Counter[tuple[str, str]] = Counter()

    def apply(self, origin: Origin, block: Struct) -> Applied:
        """Take a block's outcomes in, after what its time has ended."""
        outcomes = cast(OutcomeBlock, block)
        now_ms = self._fixed.block_time_ms = max(self._fixed.block_time_ms, outcomes.block_time_ms)
        self._end_due(now_ms)
        for level in outcomes.stock:
            self._take_stock(level)
        for outcome in outcomes.outcomes:
            if outcome.pays_for and outcome.line_id:
                self._take(outcome, now_ms)
            if outcome.holds and outcome.is_new:
                self._take_holds(outcome, now_ms)
        for sale in outcomes.sales:
            self._holds.sell(sale, now_ms)
        for outcome in outcomes.outcomes:
            if outcome.holds and outcome.is_bot:
                self._holds.let_go(outcome)
        counts, self._counts = self._counts + self._holds.counts, Counter()
        self._holds.counts.clear()
        for column in Money.__struct_fields__:
            counts[BOOKS + column, str(origin.partition)] = getattr(self._fixed.total, column).micros
        return Applied([], counts)

    def take_changes(self) -> tuple[list[tuple[str, bytes]], list[str]]:
        """Return (puts, deletes) since the last call, packed."""
        puts: list[tuple[str, bytes]] = []
        deletes: list[str] = []
        own = (entries.take_changes() for entries in (self._books, self._open, self._leases, self._levels))
        for more, gone in (*own, *self._holds.changes()):
            puts += more
            deletes += gone
        return puts, deletes

    def fixed(self) -> bytes:
        """Return the partition's clock and totals, packed."""
        return msgspec.msgpack.encode(self._fixed)

    def _take(self, outcome: Outcome, now_ms: int) -> None:
        key = f"{RESERVATION}{outcome.decision_id}/{outcome.action_id}"
        held = self._reserve(key, outcome, now_ms) if outcome.is_new else self._open.get(key)
        if held is not None and self._ends_ms(held) < now_ms:  # due, but more were due than one block releases
            self._release(key, held)
            held = None
        if outcome.is_paid:
            if held is not None:
                self._settle(key, held)
            else:
                self._book_late(outcome)
        elif held is not None and outcome.is_bot:
            self._release(key, held, "bots")
        elif held is not None and held.pays_for == "action" and outcome.clicked_ms and not held.is_clicked:
            held.is_clicked = True
            self._hold(key, held)

    def _reserve(self, key: str, outcome: Outcome, now_ms: int) -> Reservation | None:
        """Reserve a new decision's price; return the reservation, None where it came too late to be held."""
        known = self._open.get(key)
        if known is not None:
            self._counts["repeated", outcome.pays_for] += 1
            return known
        day = day_name(outcome.budget_day, outcome.campaign_day)
        held = Reservation(
            outcome.line_id, outcome.campaign_id, day, outcome.pays_for, outcome.price_micros, outcome.decided_ms
        )
        self._book(held, "reserved", "open")
        if outcome.lease_id:
            self._see(outcome.lease_id, outcome.decided_ms, held.price_micros)
        if self._ends_ms(held) < now_ms:
            self._release(key, held, "stale")
            return None
        self._hold(key, held)
        return held

    def _see(self, lease_id: str, decided_ms: int, micros: int) -> None:
        """Note what was reserved under a lease: micros, or pieces."""
        leased = self._leases.get(LEASE + lease_id) or Leased()
        leased.decided_ms = max(leased.decided_ms, decided_ms)
        _add(leased.reserved, micros)
        self._leases.put(LEASE + lease_id, leased)
        self._due.set(LEASE + lease_id, leased.decided_ms + LEASE_KEPT_MS)

    def _take_holds(self, outcome: Outcome, now_ms: int) -> None:
        for hold in outcome.holds:
            if hold.lease_id:
                self._see(hold.lease_id, outcome.decided_ms, 1)
        self._holds.take(outcome, now_ms)

    def _hold(self, key: str, held: Reservation) -> None:
        self._open.put(key, held)
        self._due.set(key, self._ends_ms(held))

    def _ends_ms(self, held: Reservation) -> int:
        return held.decided_ms + self._rules.window_ms(held.pays_for, held.is_clicked)

    def _settle(self, key: str, held: Reservation) -> None:
        self._book(held, "settled", minus="open")
        self._drop(key)

    def _release(self, key: str, held: Reservation, why: str = "") -> None:
        """why: "bots" or "stale", counted beside; "" = its time was over."""
        self._book(held, "released", *((why,) if why else ()), minus="open")
        self._drop(key)

    def _drop(self, key: str) -> None:
        self._open.delete(key)
        self._due.forget(key)

    def _book_late(self, outcome: Outcome) -> None:
        day = day_name(outcome.budget_day, outcome.campaign_day)
        gone = Reservation(outcome.line_id, outcome.campaign_id, day, outcome.pays_for, outcome.price_micros, 0)
        self._book(gone, "late")

    def _book(self, held: Reservation, *columns: str, minus: str = "") -> None:
        """Add a reservation to columns of the books, and take it out of another one."""
        key = line_key(held.campaign_id, held.line_id)
        day_key = f"{DAY}{key.removeprefix(LINE)}/{held.day}"
        line = self._books.get(key) or Money()
        day = self._books.get(day_key)
        if day is None:
            day = Money()
            self._due.set(day_key, _day_ends_ms(held.day))
        for money in (line, day, self._fixed.total):
            for column in columns:
                _add(getattr(money, column), held.price_micros)
            if minus:
                _add(getattr(money, minus), held.price_micros, -1)
        self._books.put(key, line)
        self._books.put(day_key, day)
        for column in columns:
            self._counts[column, held.pays_for] += 1

    def _end_due(self, now_ms: int) -> None:
        """Release and forget what is over, earliest first."""
        size = 0
        while size < DUE_BYTES_MAX and (key := self._due.pop(now_ms)) is not None:
            size += len(key)
            if key.startswith(LEASE):
                self._leases.delete(key)
            elif key.startswith(DAY):
                self._books.delete(key)
            elif key.startswith((HELD, SOLD)):
                self._holds.end(key)
            else:
                held = self._open.get(key)
                assert held is not None, f"{key}: due, but not open"
                self._release(key, held)

    def _take_stock(self, level: StockLevel) -> None:
        """Keep the newest level; of two of one moment the lower one, so that the order of the news does not matter."""
        key = f"{STOCK}{level.site}/{level.sku}"
        known = self._levels.get(key)
        if known is None and self._due.stock >= STOCK_MAX:
            self._counts["stock_full", ""] += 1
        elif known is None or is_newer(level, known):
            self._due.stock += known is None
            self._levels.put(key, level)


def is_newer(level: StockLevel, known: StockLevel) -> bool:
    """Say whether a level is to take the place of the known one of its sku."""
    return (level.event_time_ms, -level.level) > (known.event_time_ms, -known.level)


class _Due:
    """When entries end: rebuilt from the entries, so that a restored partition goes on as if it had never stopped.

    stock: how many levels there are.
    """

    def __init__(self, packed: Packed, rules: SpendRules) -> None:
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []  # also holds ends that have moved since: told by _due
        self.stock = 0
        read_held = msgspec.msgpack.Decoder(Reservation).decode
        read_leased = msgspec.msgpack.Decoder(Leased).decode
        for key, raw in packed.items():
            if key.startswith(RESERVATION):
                held = read_held(raw)
                self.set(key, held.decided_ms + rules.window_ms(held.pays_for, held.is_clicked))
            elif key.startswith(LEASE):
                self.set(key, read_leased(raw).decided_ms + LEASE_KEPT_MS)
            elif key.startswith(DAY):
                self.set(key, _day_ends_ms(day_of(key)[2]))
            elif key.startswith(STOCK):
                self.stock += 1
        for key, ends_ms in ends(packed):
            self.set(key, ends_ms)

    def set(self, key: str, ends_ms: int) -> None:
        """Say when an entry ends: after this moment."""
        if self._due.get(key) != ends_ms:
            self._due[key] = ends_ms
            heappush(self._heap, (ends_ms, key))

    def forget(self, key: str) -> None:
        """It has ended."""
        self._due.pop(key, None)

    def pop(self, now_ms: int) -> str | None:
        """Return and forget the next key that has ended; None where there is none."""
        while self._heap and self._heap[0][0] < now_ms:
            ends_ms, key = heappop(self._heap)
            if self._due.get(key) == ends_ms:
                del self._due[key]
                return key
        return None


def _add(total: Sum, micros: int, sign: int = 1) -> None:
    total.count += sign
    total.micros += sign * micros


def _day_ends_ms(name: str) -> int:
    """Return until when a day is kept; what is no date, for ever."""
    try:
        begin = datetime.fromisoformat(days_of(name)[0]).replace(tzinfo=UTC)
    except ValueError:
        return _NEVER
    return int(begin.timestamp()) * 1_000 + DAYS_KEPT * DAY_MS

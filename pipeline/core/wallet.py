"""What one delivery process has leased: where a decision's money is reserved, and what to ask for next. Pure.

Time is told. Who uses it asks for leases ahead of need (`asks`), says what came of it (`granted`, `failed`), and takes
what is to be declared (`take_declared`): a lease that is used no more is named once, with what was reserved under it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.core.lease import SHARE, Ask, Days, Lease, Terms

FIRST_UNITS: Final = 4
HORIZON_MS: Final = 5_000
"""A lease is asked for that would last so long at the rate of late; the next one when half of it is used."""
AHEAD_MS: Final = 2_000
"""So long before its end a lease is followed by another one, also over midnight; of a short one a quarter of it."""
BACK_MS: Final = 1_000
"""A lease is good for decisions so long before it was asked for: clocks are set back a little now and then."""
RATE_MS_MIN: Final = 100
RETRY_MS, RETRY_MS_MAX, BEHIND_MS = 1_000, 4_000, 100
IDLE_MS: Final = 1_000
"""What a line did not use for so long is given back where somebody else gets nothing."""


class Reserved(NamedTuple):
    """What a choice is to carry: Choice.lease_id ("" where nothing limits the line), budget_day and campaign_day."""

    lease_id: str
    budget_day: str
    campaign_day: str


@dataclass(slots=True)
class _Held:
    lease: Lease
    left_micros: int

    def is_good(self, time_ms: int, price_micros: int) -> bool:
        return self.left_micros >= price_micros and self.lease.starts_ms <= time_ms <= self.lease.expires_ms


@dataclass(slots=True)
class _Line:
    """low_micros: with less left in the lease in use, more is asked for. used_micros: since asked_ms."""

    terms: Terms
    asked: Terms | None = None  # as they were when it last asked
    held: list[_Held] = field(default_factory=list)  # replaced as a whole: read without a lock
    low_micros: int = 0
    used_micros: int = 0
    used_ms: int = 0  # when last
    asked_ms: int = 0
    retry_ms: int = 0
    pause_ms: int = RETRY_MS


class Wallet:
    """The leases of one process, by line. Of one thread at a time, but for what only reads.

    `has_room`, `idle` and `left_micros` may be called by any, meanwhile.
    """

    def __init__(self, lease_ms: int, make_id: Callable[[], str]) -> None:
        """lease_ms: how long a lease is asked for. make_id: gives ids that nobody else gives."""
        self._lease_ms, self._make_id = lease_ms, make_id
        self._ahead_ms = min(AHEAD_MS, lease_ms // 4)
        self._lines: dict[str, _Line] = {}
        self._days = Days()
        self._declared: dict[str, int] = {}
        self._wanting: dict[str, None] = {}  # lines that want more, as far as they have noticed
        self.is_wanting = False
        """True since somebody found too little, until `asks`."""

    # Asked by decisions

    def has_room(self, line_id: str, time_ms: int) -> bool:
        """Say whether the price of one more may be reserved now. False for a line that is not published."""
        line = self._lines.get(line_id)
        if line is None:
            return False
        if not line.terms.is_limited:
            return True
        price_micros = line.terms.price_micros
        for held in line.held:
            if held.is_good(time_ms, price_micros):
                return True
        if time_ms >= line.retry_ms:
            self._want(line)
        return False

    def reserve(self, line_id: str, time_ms: int, price_micros: int | None = None) -> Reserved | None:
        """Reserve the price of one; None where there is no money (now), or the line is not published.

        price_micros: what is logged with the choice, which may be of another version than the terms; None = theirs.
        """
        line = self._lines.get(line_id)
        if line is None:
            return None
        terms = line.terms
        price_micros = terms.price_micros if price_micros is None else price_micros
        if not terms.is_limited:
            zones = (terms.zone, terms.campaign_zone)
            return Reserved("", *(self._days.day(zone, time_ms).name for zone in zones))
        for held in line.held:
            if held.is_good(time_ms, price_micros):
                held.left_micros -= price_micros
                line.used_micros += price_micros
                line.used_ms = time_ms
                if held.left_micros < line.low_micros or held.left_micros < price_micros:
                    self._want(line)
                return Reserved(held.lease.lease_id, held.lease.line_day, held.lease.campaign_day)
        if time_ms >= line.retry_ms:
            self._want(line)
        return None

    def give_back(self, line_id: str, reserved: Reserved, price_micros: int | None = None) -> None:
        """Undo a reservation of which nothing was logged. A lease that was declared since is closed by its time."""
        line = self._lines.get(line_id)
        if line is None:
            return
        price_micros = line.terms.price_micros if price_micros is None else price_micros
        for held in line.held:
            if held.lease.lease_id == reserved.lease_id:
                held.left_micros += price_micros
                line.used_micros -= price_micros

    # Told by the keeper

    def publish(self, terms: Iterable[Terms]) -> None:
        """Say which lines there are; what is held of others is declared. New ones want a first lease at once."""
        lines: dict[str, _Line] = {}
        for one in terms:
            known = self._lines.get(one.line_id)
            if known is None:
                lines[one.line_id] = _Line(one)
            else:
                lines[one.line_id] = known
                if known.terms != one:
                    self._renew(known, one)
        for line_id, line in self._lines.items():
            if line_id not in lines:
                self._declare(line, line.held)
        before, self._lines = self._lines, lines
        for line_id, line in lines.items():
            if line_id not in before:
                self._want(line)

    def relevel(self, terms: Terms, free: int) -> None:
        """Say that there is another level of a sku. free: pieces that are neither held nor sold, as far as is known.

        Where little is free beside what is leased here, the lease is given back first: a level may have fallen by sales
        that are none of ours, and what was leased of the old one would be shown beyond the new one.
        """
        line = self._lines.get(terms.line_id)
        if line is None or line.terms == terms:
            return
        left = sum(held.left_micros for held in line.held)
        if not line.terms.is_limited or left * SHARE > free:
            self._renew(line, terms)
            return
        if line.asked == line.terms:
            line.asked = terms
        line.terms = terms
        if not line.held:
            line.retry_ms, line.pause_ms = 0, RETRY_MS
            self._want(line)

    def _renew(self, line: _Line, terms: Terms) -> None:
        """What was leased under other terms is given back: another price or campaign, a limit that was lowered."""
        self._declare(line, line.held)
        line.terms, line.retry_ms, line.pause_ms = terms, 0, RETRY_MS
        self._want(line)

    def asks(self, now_ms: int) -> list[Ask]:
        """Return what to ask for now. Each is to be answered by `granted` or `failed` before the next call."""
        self.is_wanting = False
        wanting, self._wanting = self._wanting, {}
        asks = []
        for line_id in wanting:
            line = self._lines.get(line_id)
            if line is None or not line.terms.is_limited:
                continue
            if now_ms < line.retry_ms:
                self._wanting[line_id] = None  # later
            elif (ask := self._ask(line, now_ms)) is not None:
                asks.append(ask)
        return asks

    def look_ahead(self, now_ms: int) -> None:
        """Have lines whose lease ends soon want the next one; now and then, for it looks at every line."""
        for line in self._lines.values():
            if line.held and line.held[-1].lease.expires_ms - now_ms < self._ahead_ms:
                self._want(line)

    def _ask(self, line: _Line, now_ms: int) -> Ask | None:
        price_micros = line.terms.price_micros
        used_micros = line.used_micros * HORIZON_MS // max(RATE_MS_MIN, now_ms - line.asked_ms)
        wanted_micros = max(used_micros, price_micros * (1 if line.asked_ms else FIRST_UNITS))
        held = next((held for held in reversed(line.held) if held.lease.starts_ms <= now_ms), None)
        if held is None:
            lease = self._lease_from(line.terms, now_ms, now_ms)
        elif held.left_micros < max(price_micros, wanted_micros // 2):
            lease = held.lease
        elif held is line.held[-1] and held.lease.expires_ms - now_ms < self._ahead_ms:
            lease = self._lease_from(line.terms, held.lease.expires_ms + 1, now_ms)
        else:
            return None  # enough: somebody looked before the last answer was here
        line.asked, line.asked_ms, line.used_micros = line.terms, now_ms, 0
        return Ask(lease, price_micros, wanted_micros)

    def _lease_from(self, terms: Terms, from_ms: int, now_ms: int) -> Lease:
        day = self._days.day(terms.zone, from_ms)
        campaign_day = self._days.day(terms.campaign_zone, from_ms)
        starts_ms = from_ms if from_ms > now_ms else max(from_ms - BACK_MS, day.from_ms, campaign_day.from_ms)
        expires_ms = min(from_ms + self._lease_ms, day.to_ms - 1, campaign_day.to_ms - 1)
        return Lease(
            self._make_id(), terms.line_id, day.name, terms.campaign_id, campaign_day.name, terms.pays_for, 0,
            starts_ms, expires_ms,
        )  # fmt: skip

    def granted(self, asks: Sequence[Ask], leases: Sequence[Lease], behind: Collection[str], now_ms: int) -> None:
        """Take what was granted of asks. behind: lines that are to ask again soon, since news is still to be read."""
        found = {lease.lease_id: lease for lease in leases}
        for ask in asks:
            line, lease = self._lines.get(ask.lease.line_id), found.get(ask.lease.lease_id)
            if line is None or line.terms != line.asked:  # published anew meanwhile
                self._declared.setdefault(ask.lease.lease_id, 0)
            elif lease is None:
                self._refuse(line, BEHIND_MS if ask.lease.line_id in behind else 0, now_ms)
            else:
                self._take(line, lease, lease.granted_micros - ask.lease.granted_micros)

    def _take(self, line: _Line, lease: Lease, more_micros: int) -> None:
        held = next((each for each in line.held if each.lease.lease_id == lease.lease_id), None)
        if held is None:
            line.held = [*line.held, _Held(lease, more_micros)]
        else:
            held.lease = lease
            held.left_micros += more_micros
        line.low_micros = more_micros // 2
        line.retry_ms, line.pause_ms = 0, RETRY_MS

    def failed(self, asks: Sequence[Ask], declared: Mapping[str, int], now_ms: int) -> None:
        """The store did not answer: a new lease may have been granted all the same, and is given back by name."""
        for ask in asks:
            if not ask.lease.granted_micros:
                self._declared[ask.lease.lease_id] = 0
            line = self._lines.get(ask.lease.line_id)
            if line is not None:
                self._refuse(line, RETRY_MS, now_ms)
        self._declared = {**declared, **self._declared}

    def _refuse(self, line: _Line, pause_ms: int, now_ms: int) -> None:
        if not pause_ms:
            pause_ms, line.pause_ms = line.pause_ms, min(2 * line.pause_ms, RETRY_MS_MAX)
        else:
            self._wanting[line.terms.line_id] = None  # nobody said that there is nothing
        line.retry_ms = now_ms + pause_ms

    def take_declared(self, now_ms: int) -> dict[str, int]:
        """Return, once, the leases that are used no more, with what was reserved under each."""
        for line in self._lines.values():
            over = [held for held in line.held if held.lease.expires_ms < now_ms]
            if over:
                self._declare(line, over)
        declared, self._declared = self._declared, {}
        return declared

    def give_up(self, short: Collection[tuple[str, str]], now_ms: int) -> None:
        """Declare what is idle of lines, campaigns and skus, (kind, id), of which others get nothing."""
        for line in self._lines.values():
            if line.held and now_ms - line.used_ms > IDLE_MS and any(name in short for name in line.terms.limits):
                self._declare(line, line.held)

    def idle(self, now_ms: int) -> set[tuple[str, str]]:
        """Return the lines, campaigns and skus, (kind, id), of which something is held and not used."""
        lines = [line.terms for line in self._lines.values() if line.held and now_ms - line.used_ms > IDLE_MS]
        return {name for one in lines for name in one.limits}

    @property
    def left_micros(self) -> int:
        """What money is leased and not reserved."""
        lines = [line for line in self._lines.values() if line.held and not line.terms.is_of_sku]
        return sum(held.left_micros for line in lines for held in line.held)

    def terms_of(self, asks: Iterable[Ask]) -> dict[str, Terms]:
        """Return the terms of the lines asked for."""
        return {ask.lease.line_id: self._lines[ask.lease.line_id].terms for ask in asks}

    def _declare(self, line: _Line, over: Sequence[_Held]) -> None:
        names = {held.lease.lease_id for held in over}
        for held in over:
            self._declared[held.lease.lease_id] = held.lease.granted_micros - held.left_micros
        line.held = [held for held in line.held if held.lease.lease_id not in names]

    def _want(self, line: _Line) -> None:
        self._wanting[line.terms.line_id] = None
        self.is_wanting = True

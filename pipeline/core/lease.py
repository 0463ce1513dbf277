"""Leases: how delivery processes spend one budget together without asking for each decision. Pure.

A process may reserve money for a decision only from a lease that it holds: an amount for one line, within one day of
the line and one of its campaign, until a moment. A lease is granted against four accounts at once (line, line's day,
campaign, campaign's day), each with its limit or none; all leases that are not closed, and what the spend stage knows
(schemas/spend.py), say what an account has left:

    available = limit - spent - sum over leases not closed of (granted - seen)

spent = reserved - released, seen = what was reserved under the lease, both as far as the spend state has read the log.
A reservation is counted once: in `granted` until the state has it, in `spent` from then on, and no more once released.

A lease is closed (and no longer counted) when the log can hold nothing more of it that counts:
- its holder has declared how much it reserved (which is then what is granted), and the state has seen as much; or
- its holder is dead or silent, and the spend state's clock, in every partition, has passed the lease's end by the time
  that a decision's record may be late (`SpendRules.window_ms`). What comes after that is reserved and released in one
  step by the spend stage: it can no longer be billed. So a dead process's spool needs no other grace.

The bound. At every moment, for every account: settled + open <= limit, whether a reservation's record has reached the
state or is still on its way. The overspend is 0, for any number of processes, kills, restarts, late or lost records,
clocks that differ, and a spend stage any time behind. What lifts it, each by what it says:
- a limit that is lowered: what was granted before may still be spent;
- the lease store put back to an older copy: what was granted since may be granted once more;
- reservation windows lengthened between a lease's closing and the arrival of a record of it: that record.

Pieces of a sku that are held (pipeline/core/holds.py) are leased the same way: one account, of kind "sku", whose unit
is a piece, whose limit is the newest level that was told, and whose version is that one's time.

A reader of the spend state may be behind. It must not be behind the state by which a lease was closed: `Position` says
how far that was, stands with the accounts, and whoever knows less grants nothing (`is_behind`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Final, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from pipeline.core.holds import hold_of, hold_terms
from pipeline.core.spend import SpendRules
from schemas.spend import StockLevel

SKU: Final = "sku"
SHARE: Final = 8
"""A grant is at most this part of what is available: what is left is spread over all who ask, down to single units."""

Name = tuple[str, str]
"""(kind, id) of what has accounts: "line", "campaign" or "sku"."""


class Place(NamedTuple):
    """How far a partition of the spend state was read. version: up to which offset of `collected`; clock_ms: its time.

    generation: of the log. A version is one of a generation; the clock goes on from one to the next.
    """

    version: int
    clock_ms: int
    generation: int = 1


Position = tuple[Place, ...]
"""How far the spend state was read, by partition."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a published line may spend, and for what. Limits in micros, None = no limit.

    pays_for: "impression", "click" or "action". price_micros: of one. zone, campaign_zone: IANA names, whose days the
    daily limits mean. version, campaign_version: of the objects; of two processes that know different ones, the newer
    counts.

    Of a sku's pieces (`of_sku`) campaign_id is the account's, and total_micros the level.
    """

    line_id: str
    campaign_id: str
    pays_for: str
    price_micros: int
    zone: str = "UTC"
    campaign_zone: str = "UTC"
    total_micros: int | None = None
    daily_micros: int | None = None
    campaign_total_micros: int | None = None
    campaign_daily_micros: int | None = None
    version: int = 1
    campaign_version: int = 1

    @property
    def is_limited(self) -> bool:
        """False where nothing limits it: then no lease is needed."""
        limits = (self.total_micros, self.daily_micros, self.campaign_total_micros, self.campaign_daily_micros)
        return any(limit is not None for limit in limits)

    @property
    def is_of_sku(self) -> bool:
        """True for pieces, False for money."""
        return hold_of(self.pays_for) is not None

    @property
    def limits(self) -> "dict[Name, Limits]":
        """What has limits, and which."""
        own = Limits(self.version, self.total_micros, self.daily_micros)
        if self.is_of_sku:
            return {(SKU, self.campaign_id): own}
        campaign = Limits(self.campaign_version, self.campaign_total_micros, self.campaign_daily_micros)
        return {("line", self.line_id): own, ("campaign", self.campaign_id): campaign}


def sku_name(site: str, sku: str) -> str:
    """Return the id of a sku's account. No site's name holds a `/`, and no other account's id."""
    return f"{site}/{sku}"


def of_sku(site: str, sku: str, hold_ms: int, level: StockLevel | None) -> Terms:
    """Return the terms of holding pieces of a sku. level: the newest one; None = nobody has told one: no limit."""
    version, pieces = (0, None) if level is None else (level.event_time_ms, level.level)
    name = sku_name(site, sku)
    return Terms(f"{hold_ms}/{name}", name, hold_terms(hold_ms), 1, total_micros=pieces, version=version)


class Account(NamedTuple):
    """What has a limit. kind: "line", "campaign" or "sku". day: `YYYY-MM-DD` in its own zone; "" = for ever."""

    kind: str
    id: str
    day: str = ""


class Limits(NamedTuple):
    """An object's limits in micros, as of its version."""

    version: int
    total_micros: int | None
    daily_micros: int | None

    def is_newer(self, other: "Limits") -> bool:
        """Say whether they take the place of others; of two levels of one moment the lower one counts."""
        return (self.version, -(self.total_micros or 0)) > (other.version, -(other.total_micros or 0))

    def of(self, account: Account) -> int | None:
        """The limit of the object's account; None = none."""
        return self.daily_micros if account.day else self.total_micros


class Lease(NamedTuple):
    """Money that one process may reserve for one line. It is good from starts_ms to expires_ms, both included.

    line_day, campaign_day: both times lie in them. granted_micros: once `is_final`, what its holder says to have
    reserved under it; until then, the most it may reserve.
    """

    lease_id: str
    line_id: str
    line_day: str
    campaign_id: str
    campaign_day: str
    pays_for: str
    granted_micros: int
    starts_ms: int
    expires_ms: int
    is_final: bool = False

    @property
    def is_of_sku(self) -> bool:
        """True for pieces, False for money."""
        return hold_of(self.pays_for) is not None

    @property
    def names(self) -> tuple[Name, ...]:
        """Whose money it is, or which pieces."""
        if self.is_of_sku:
            return ((SKU, self.campaign_id),)
        return ("line", self.line_id), ("campaign", self.campaign_id)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """What it is taken from."""
        if self.is_of_sku:
            return (Account(SKU, self.campaign_id),)
        return (
            Account("line", self.line_id),
            Account("line", self.line_id, self.line_day),
            Account("campaign", self.campaign_id),
            Account("campaign", self.campaign_id, self.campaign_day),
        )


class Ask(NamedTuple):
    """A process asks for a lease, or for more under one that it holds.

    lease: granted_micros says what it holds under it; 0 for a new one, whose id nobody has given before. unit_micros:
    the price of one. wanted_micros: how much more it would like to have.
    """

    lease: Lease
    unit_micros: int
    wanted_micros: int


class View(Protocol):
    """The spend state of all partitions, as far as somebody has read it. Any partition may be behind the others.

    Nothing of it changes between questions that belong together (`settle` asks many): whoever calls sees to that.
    """

    @property
    def is_whole(self) -> bool:
        """False while some partition is not known as of any one version: then nothing is granted or closed by it."""

    @property
    def position(self) -> Position:
        """How far it was read."""

    @property
    def clock_ms(self) -> int:
        """The earliest of the partitions' clocks."""

    def spent_micros(self, account: Account) -> int:
        """Return reserved - released; of a sku the pieces that are held or were bought, as `level` may not know yet."""

    def seen_micros(self, lease_id: str) -> int:
        """Return what was reserved under a lease."""

    def level(self, name: str) -> StockLevel | None:
        """Return the newest level of a sku's account, None where none was told."""


def of_newest_level(terms: Terms, view: View) -> Terms:
    """Return terms of pieces with the level of a view, where that is newer.

    What was bought and what was told belong together: to be asked under the same lock as `settle` asks the view, or
    pieces that a level knows of would be left out, and the level that knew nothing of them be the limit.
    """
    level = view.level(terms.campaign_id) if terms.is_of_sku else None
    if level is None:
        return terms
    return replace(terms, version=level.event_time_ms, total_micros=level.level)


def is_behind(view: Position, known: Position) -> bool:
    """Say whether some partition of a view may have been read less far than is known to be needed. () needs nothing.

    Where the log was made anew (another generation, a restore), offsets say nothing: then times do, which are kept.
    """
    if not known:
        return False
    if len(view) != len(known):
        return min(place.clock_ms for place in view) <= max(place.clock_ms for place in known)
    return any(
        (mine.generation != needed.generation or mine.version < needed.version) and mine.clock_ms <= needed.clock_ms
        for mine, needed in zip(view, known, strict=True)
    )


def ahead_of_both(one: Position, other: Position) -> Position:
    """Return the position by which both are reached, of one log or of a log and the one made of it."""
    if len(one) != len(other):
        return max(one, other, key=lambda position: max((place.clock_ms for place in position), default=-1))
    return tuple(max(pair, key=lambda place: (place.clock_ms, place.version)) for pair in zip(one, other, strict=True))


def can_close(lease: Lease, view: View, rules: SpendRules) -> bool:
    """Say whether the log holds nothing more of a lease that could count."""
    if lease.is_final and view.seen_micros(lease.lease_id) >= lease.granted_micros:
        return True
    return view.clock_ms > lease.expires_ms + rules.window_ms(lease.pays_for)


def available_micros(account: Account, limit: int | None, open_leases: Iterable[Lease], view: View) -> int | None:
    """Return what may still be granted of an account (below 0 where a limit was lowered); None = without limit.

    open_leases: all that are not closed, of this account or not.
    """
    if limit is None:
        return None
    held = sum(
        max(0, lease.granted_micros - view.seen_micros(lease.lease_id))
        for lease in open_leases
        if account in lease.accounts
    )
    return limit - view.spent_micros(account) - held


class Settled(NamedTuple):
    """What comes of some asks.

    closed: ids of leases that count no more, once it is stored that whoever grants to one of `names` from now on has to
    know the state up to `position`. granted: as they stand now, one at most for each ask. behind: lines for which the
    view is behind. short: accounts that had nothing left.
    """

    closed: list[str]
    names: set[Name]
    position: Position
    granted: list[Lease]
    behind: set[str]
    short: set[Account]


def settle(
    asks: Sequence[Ask],
    limits: Mapping[Name, Limits],
    positions: Mapping[Name, Position],
    open_leases: Iterable[Lease],
    view: View,
    rules: SpendRules,
) -> Settled:
    """Close what can be closed, then grant what can be granted, in the order of the asks.

    limits: of every line and campaign asked for. positions: of these, and of those of the open leases; none where
    nothing was closed yet. open_leases: all that are not closed, of the lines and campaigns asked for at least.
    """

    def knows(lease: Lease) -> bool:
        return view.is_whole and not any(is_behind(view.position, positions.get(name, ())) for name in lease.names)

    known = [ask for ask in asks if knows(ask.lease)]
    held: _Held = defaultdict(dict)
    closed: list[Lease] = []
    for lease in open_leases:
        if knows(lease) and can_close(lease, view, rules):
            closed.append(lease)
        else:
            _hold(held, lease)
    granted: list[Lease] = []
    short: set[Account] = set()
    for ask in known:
        found = _grant(ask, limits, held, view)
        if isinstance(found, Lease):
            _hold(held, found)
            granted.append(found)
        else:
            short.add(found)
    return Settled(
        [lease.lease_id for lease in closed],
        {name for lease in closed for name in lease.names},
        view.position,
        granted,
        {ask.lease.line_id for ask in asks if ask not in known},
        short,
    )


_Held = defaultdict[Account, dict[str, Lease]]
"""Leases that are not closed, by what they are taken from, so that many asks look at few leases each."""


def _hold(held: _Held, lease: Lease) -> None:
    for account in lease.accounts:
        held[account][lease.lease_id] = lease


def _grant(ask: Ask, limits: Mapping[Name, Limits], held: _Held, view: View) -> Lease | Account:
    """Return the lease with what is granted of an ask, or the account that has nothing left.

    What the store says of the lease itself does not count, but what its holder says: an answer may have been lost.
    """
    found = []
    for account in ask.lease.accounts:
        open_leases = held[account] | {ask.lease.lease_id: ask.lease}
        left = available_micros(account, limits[account.kind, account.id].of(account), open_leases.values(), view)
        if left is not None:
            found.append((left, account))
    unit = max(1, ask.unit_micros)
    units = max(1, ask.wanted_micros // unit)
    if found:
        left, account = min(found)
        if left < unit:
            return account
        units = min(units, max(1, left // unit // SHARE))
    return ask.lease._replace(granted_micros=ask.lease.granted_micros + units * unit)


class Day(NamedTuple):
    """A day in a zone: `YYYY-MM-DD`, its first millisecond, and the first one after it."""

    name: str
    from_ms: int
    to_ms: int


class Days:
    """Which day it is, zone by zone. Remembers the last one, for decisions come in the order of time."""

    def __init__(self) -> None:
        """Start without any."""
        self._last: dict[str, Day] = {}

    def day(self, zone: str, time_ms: int) -> Day:
        """Return the day of a moment. zone: an IANA name that exists."""
        last = self._last.get(zone)
        if last is None or not last.from_ms <= time_ms < last.to_ms:
            last = self._last[zone] = day_of(zone, time_ms)
        return last


def day_of(zone: str, time_ms: int) -> Day:
    """Return the day of a moment. zone: an IANA name that exists. A day has 23 hours or 25 where clocks are changed."""
    place = ZoneInfo(zone)
    date = datetime.fromtimestamp(time_ms // 1_000, UTC).astimezone(place).date()
    begin, end = (datetime.combine(each, time(), place) for each in (date, date + timedelta(days=1)))
    return Day(date.isoformat(), int(begin.timestamp()) * 1_000, int(end.timestamp()) * 1_000)

"""Minute rollups: absolute counts of every cell that a chunk of events touches, by partition.

A cell is (minute, kind, dimensions). Its counts are what all events of the partition up to some offset add up to, so
the row that carries them can be written any number of times, and a later row heals an earlier one that was lost.
Hot minutes are in memory. A minute that is touched and is not in memory (late events, a restart, more cells than
memory may hold) is read again from the stored events below the chunk; the result is the same as if it had stayed.
Everything here is derived from events alone: rewards, which change afterwards, are summed from `outcomes` when asked.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pipeline.core.rows import Columns
from pipeline.core.whole import bounded, fitting
from schemas.event import Event, EventFlag, EventType
from schemas.tables import ROLLUP_MINUTE

MINUTE_MS = 60_000
MINUTES_READ_MAX = 32
"""Minutes of one re-read: a chunk of old events may touch thousands, and their cells are in memory together."""


class StoredEvent(NamedTuple):
    """What a rollup needs of an event, as it is read again from the warehouse. Names and units as in `Event`."""

    event_type: str
    event_time_ms: int
    site: str
    visitor: str
    flags: int
    host: str
    path: str
    referrer_class: str
    utm_source: str
    utm_campaign: str
    channel: str
    campaign_id: str
    placement_id: str
    action_id: str
    revenue_micros: int
    cost_micros: int
    currency: str


Counted = Event | StoredEvent


class Kind(NamedTuple):
    """One rollup. dimensions: an event -> (first, second); ("", "") takes no part."""

    name: str
    first: str
    second: str
    dimensions: Callable[[Counted], tuple[str, str]]


KINDS: tuple[Kind, ...] = (
    Kind("event_type", "event type", "", lambda event: (event.event_type, "")),
    Kind("placement_action", "placement", "action", lambda event: (event.placement_id, event.action_id)),
    Kind("campaign_channel", "campaign id, else utm_campaign", "channel",
         lambda event: (event.campaign_id or event.utm_campaign, event.channel)),
    Kind("source", "utm_source", "class of the referrer", lambda event: (event.utm_source, event.referrer_class)),
    Kind("page", "host", "path", lambda event: (event.host, event.path)),
)  # fmt: skip

# Which count an event of a type adds to, besides `events`.
COUNT_OF: dict[str, str] = {
    EventType.PAGE: "pages",
    EventType.SCREEN: "pages",
    EventType.DECISION: "decisions",
    EventType.IMPRESSION: "impressions",
    EventType.CLICK: "clicks",
    EventType.CONVERSION: "conversions",
    EventType.PURCHASE: "purchases",
}
_COUNTS = ("pages", "decisions", "impressions", "clicks", "conversions", "purchases")
_COUNT_INDEX = {event_type: _COUNTS.index(count) for event_type, count in COUNT_OF.items()}
_BOT = int(EventFlag.BOT)

Key = tuple[str, str, str, str, int, str]  # site, kind, first, second, is_bot, currency
Minute = tuple[int, int]  # partition, start of the minute in ms


class Cell:
    """The counts of one cell, and its visitors by name, so that a visitor who returns within the minute is known."""

    __slots__ = ("cost_micros", "counts", "events", "revenue_micros", "stamp", "visitors")

    def __init__(self) -> None:
        """Start at nothing."""
        self.events = 0
        self.visitors: set[str] = set()
        self.counts = [0] * len(_COUNTS)
        self.revenue_micros = 0
        self.cost_micros = 0
        self.stamp = -1


Cells = dict[Key, Cell]
Reread = Callable[[int, Sequence[int], int], Iterable[Counted]]
"""(partition, minutes in ms, below) -> the stored events of these minutes with offset < below, each once."""


class Chunk(NamedTuple):
    """New events of one partition. first, last: offsets of its blocks; all below `first` has been applied before."""

    partition: int
    first: int
    last: int
    events: Sequence[Counted]


class RollupRows:
    """Gathers the rows of touched cells, column by column."""

    def __init__(self) -> None:
        """Start without rows."""
        self._rows: list[tuple[object, ...]] = []

    def add(self, minute: Minute, version: int, touched: Iterable[tuple[Key, Cell]]) -> None:
        """Take in the touched cells of one minute as they are now."""
        partition, minute_ms = minute
        minute_s = minute_ms // 1_000
        for (site, kind, first, second, is_bot, currency), cell in touched:
            self._rows.append(
                (
                    site,
                    kind,
                    minute_s,
                    first,
                    second,
                    is_bot,
                    currency,
                    partition,
                    cell.events,
                    len(cell.visitors),
                    *cell.counts,
                    cell.revenue_micros,
                    cell.cost_micros,
                    version,
                )
            )

    def columns(self) -> Columns:
        """Return them. Sums of money beyond 64 bits become the nearest that fit."""
        if not self._rows:
            return Columns(ROLLUP_MINUTE, [[] for _ in ROLLUP_MINUTE.columns])
        turned: list[Sequence[object]] = list(zip(*self._rows, strict=True))
        for index, column in enumerate(ROLLUP_MINUTE.columns):
            if column.name in ("revenue_micros", "cost_micros"):
                turned[index] = bounded(list(turned[index]))  # type: ignore[arg-type]
        return Columns(ROLLUP_MINUTE, turned)


class Rollup:
    """The hot minutes of the partitions that this process has. Memory: cells_max cells and one chunk's, then by age."""

    def __init__(self, cells_max: int, reread: Reread) -> None:
        """cells_max: cells kept between chunks. reread: how a minute that is not in memory is read again."""
        self._cells_max = cells_max
        self._reread = reread
        self._hot: OrderedDict[Minute, Cells] = OrderedDict()  # oldest use first
        self._held = 0
        self._newest_ms: dict[int, int] = {}
        self._stamp = 0

    def assign(self, partition: int, newest_ms: int) -> None:
        """Take a partition whose stored events are none later than newest_ms (-1: there are none).

        A minute behind the newest event was never written, so it starts at nothing without being read.
        """
        self.revoke(partition)
        self._newest_ms[partition] = newest_ms

    def revoke(self, partition: int) -> None:
        """Forget a partition."""
        self._newest_ms.pop(partition, None)
        for minute in [minute for minute in self._hot if minute[0] == partition]:
            self._held -= len(self._hot.pop(minute))

    def is_assigned(self, partition: int) -> bool:
        """Say whether `assign` was called for it."""
        return partition in self._newest_ms

    def __len__(self) -> int:
        """How many cells are in memory."""
        return self._held

    def apply(self, chunks: Iterable[Chunk]) -> Columns:
        """Add chunks of different partitions and return the rows of every cell that they touch.

        Raises whatever `reread` raises. Then some partitions have the chunk and some have not: `revoke` them all.
        """
        rows = RollupRows()
        for chunk in chunks:
            self._apply(chunk, rows)
        return rows.columns()

    def _apply(self, chunk: Chunk, rows: RollupRows) -> None:
        by_minute: defaultdict[int, list[Counted]] = defaultdict(list)
        for event in chunk.events:
            by_minute[event.event_time_ms // MINUTE_MS * MINUTE_MS].append(event)
        newest_ms = self._newest_ms[chunk.partition]
        cold = [ms for ms in by_minute if ms <= newest_ms and (chunk.partition, ms) not in self._hot]
        warm = by_minute.keys() - set(cold)
        self._count(chunk, {ms: by_minute[ms] for ms in sorted(warm)}, rows)
        for group in _groups(sorted(cold), MINUTES_READ_MAX):
            self._warm(chunk, group)
            self._count(chunk, {ms: by_minute[ms] for ms in group}, rows)
        if by_minute:
            self._newest_ms[chunk.partition] = max(newest_ms, max(event.event_time_ms for event in chunk.events))

    def _warm(self, chunk: Chunk, minutes: Sequence[int]) -> None:
        for ms in minutes:
            self._hot[chunk.partition, ms] = {}
        for event in self._reread(chunk.partition, minutes, chunk.first):
            minute = (chunk.partition, event.event_time_ms // MINUTE_MS * MINUTE_MS)
            self._held += _count((event,), self._hot[minute], 0)[0]

    def _count(self, chunk: Chunk, by_minute: dict[int, list[Counted]], rows: RollupRows) -> None:
        """Add the events minute by minute, give the touched cells to rows, and then let go of what is too much."""
        for ms, events in by_minute.items():
            minute = (chunk.partition, ms)
            cells = self._hot.setdefault(minute, {})
            self._hot.move_to_end(minute)
            self._stamp += 1
            added, touched = _count(events, cells, self._stamp)
            self._held += added
            rows.add(minute, chunk.last, touched)
        while self._held > self._cells_max and self._hot:
            _, cells = self._hot.popitem(last=False)
            self._held -= len(cells)


def _count(events: Iterable[Counted], cells: Cells, stamp: int) -> tuple[int, list[tuple[Key, Cell]]]:
    """Add events of one minute to its cells; return how many cells are new, and each touched one."""
    before = len(cells)
    touched: list[tuple[Key, Cell]] = []
    for event in events:
        is_bot = 1 if event.flags & _BOT else 0
        count = _COUNT_INDEX.get(event.event_type, -1)
        visitor = event.visitor
        money = event.revenue_micros or event.cost_micros
        for name, _, _, dimensions in KINDS:
            first, second = dimensions(event)
            if not first and not second:
                continue
            cell = _cell(cells, touched, stamp, (event.site, name, first, second, is_bot, ""))
            cell.events += 1
            if visitor:
                cell.visitors.add(visitor)
            if count >= 0:
                cell.counts[count] += 1
            if money:
                # Money of two currencies never meets in a cell, and the counts, which have none, are never split by it.
                key = (event.site, name, first, second, is_bot, event.currency)
                cell = _cell(cells, touched, stamp, key) if event.currency else cell
                cell.revenue_micros += fitting(event.revenue_micros)  # as it is stored: a re-read must add up the same
                cell.cost_micros += fitting(event.cost_micros)
    return len(cells) - before, touched


def _cell(cells: Cells, touched: list[tuple[Key, Cell]], stamp: int, key: Key) -> Cell:
    cell = cells.get(key)
    if cell is None:
        cell = cells[key] = Cell()
    if cell.stamp != stamp:
        cell.stamp = stamp
        touched.append((key, cell))
    return cell


def _groups(minutes: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(minutes), size):
        yield minutes[start : start + size]

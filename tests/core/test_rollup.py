"""Rollups: whatever the chunks, evictions and restarts, every cell ends at what all its events add up to."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.rollup import COUNT_OF, KINDS, MINUTE_MS, Chunk, Rollup, StoredEvent
from pipeline.core.rows import Columns
from schemas.event import Event, EventFlag, EventType

BASE_MS = 1_790_000_040_000  # the start of a minute
Cell = tuple[object, ...]


def event(
    minute: int = 0,
    visitor: str = "ann",
    event_type: EventType = EventType.PAGE,
    currency: str = "",
    revenue_micros: int = 0,
    flags: int = 0,
    path: str = "/",
    placement_id: str = "",
) -> Event:
    """An event some minutes after BASE_MS."""
    return Event(
        "",
        event_type,
        BASE_MS + minute * MINUTE_MS + 7,
        BASE_MS,
        "shop",
        visitor=visitor,
        flags=flags,
        host="example.com",
        path=path,
        placement_id=placement_id,
        action_id="a" if placement_id else "",
        revenue_micros=revenue_micros,
        currency=currency,
    )


class Store:
    """The events and rollup tables of a scripted warehouse: a row on an existing key replaces it unless it is older."""

    def __init__(self) -> None:
        self.events: list[tuple[int, int, Event]] = []
        self.rows: dict[Cell, tuple[int, dict[str, object]]] = {}
        self.reads = 0

    def reread(self, partition: int, minutes: Sequence[int], below: int) -> Iterable[StoredEvent]:
        """Answer a re-read as the warehouse would."""
        self.reads += 1
        for p, offset, stored in self.events:
            if p == partition and offset < below and stored.event_time_ms // MINUTE_MS * MINUTE_MS in minutes:
                yield StoredEvent(*(getattr(stored, name) for name in StoredEvent._fields))

    def newest_ms(self, partition: int) -> int:
        """Time of the partition's last event, or -1."""
        return max((stored.event_time_ms for p, _, stored in self.events if p == partition), default=-1)

    def take(self, columns: Columns) -> None:
        """Insert rollup rows."""
        names = columns.table.column_names
        keys = columns.table.order_by
        for values in zip(*columns.columns, strict=True):
            row = dict(zip(names, values, strict=True))
            version = row.pop("o")
            assert isinstance(version, int)
            key = tuple(row[name] for name in keys)
            if key not in self.rows or self.rows[key][0] <= version:
                self.rows[key] = (version, row)

    def cells(self) -> list[dict[str, object]]:
        """All rows without their versions, sorted."""
        return sorted((row for _, row in self.rows.values()), key=str)


def brute_force(log: dict[int, list[list[Event]]]) -> list[dict[str, object]]:
    """All rollup rows of a log (partition -> blocks -> events), counted the slow way."""
    cells: defaultdict[Cell, list[Event]] = defaultdict(list)
    money: defaultdict[Cell, list[Event]] = defaultdict(list)
    for partition, blocks in log.items():
        for one in (one for block in blocks for one in block):
            for kind in KINDS:
                first, second = kind.dimensions(one)
                if (first, second) == ("", ""):
                    continue
                minute_s = one.event_time_ms // MINUTE_MS * 60
                cell = (one.site, kind.name, minute_s, first, second, int(one.is_bot))
                cells[(*cell, "", partition)].append(one)
                if one.revenue_micros or one.cost_micros:
                    money[(*cell, one.currency, partition)].append(one)
    rows: list[dict[str, object]] = []
    for key in cells | money:
        row: dict[str, object] = dict(
            zip(("site", "kind", "minute", "first", "second", "is_bot", "currency", "p"), key, strict=True)
        )
        row["events"] = len(cells.get(key, []))
        row["visitors"] = len({one.visitor for one in cells.get(key, []) if one.visitor})
        for count in ("pages", "decisions", "impressions", "clicks", "conversions", "purchases"):
            row[count] = sum(COUNT_OF.get(one.event_type) == count for one in cells.get(key, []))
        row["revenue_micros"] = sum(one.revenue_micros for one in money.get(key, []))
        row["cost_micros"] = sum(one.cost_micros for one in money.get(key, []))
        rows.append(row)
    return sorted(rows, key=str)


def run(log: dict[int, list[list[Event]]], cuts: Iterable[tuple[int, bool, bool]], cells_max: int) -> Store:
    """Feed a log chunk by chunk. cuts: (blocks in the chunk, killed before the ledger, restarted after it)."""
    store = Store()
    rollup = Rollup(cells_max, store.reread)
    done = dict.fromkeys(log, 0)
    plan = iter(cuts)
    while any(done[partition] < len(blocks) for partition, blocks in log.items()):
        length, is_killed, is_restarted = next(plan, (1, False, False))
        chunks: list[Chunk] = []
        for partition, blocks in log.items():
            if not rollup.is_assigned(partition):
                rollup.assign(partition, store.newest_ms(partition))
            first = done[partition]
            taken = blocks[first : first + length]
            if taken:
                last = first + len(taken) - 1
                chunks.append(Chunk(partition, first, last, [one for block in taken for one in block]))
        for chunk in chunks:
            for offset, block in enumerate(log[chunk.partition][chunk.first : chunk.last + 1], chunk.first):
                store.events = [kept for kept in store.events if kept[:2] != (chunk.partition, offset)]
                store.events += [(chunk.partition, offset, one) for one in block]
        store.take(rollup.apply(chunks))
        if is_killed or is_restarted:
            rollup = Rollup(cells_max, store.reread)
        if not is_killed:
            done.update((chunk.partition, chunk.last + 1) for chunk in chunks)
    return store


events = st.builds(
    event,
    minute=st.integers(0, 4),
    visitor=st.sampled_from(["", "ann", "ben", "cem"]),
    event_type=st.sampled_from(list(EventType)),
    currency=st.sampled_from(["", "EUR", "USD"]),
    revenue_micros=st.sampled_from([0, 0, 0, 1, -5, 10**7, 2**63 - 1]),
    flags=st.sampled_from([0, int(EventFlag.BOT), int(EventFlag.NO_CONSENT)]),
    path=st.sampled_from(["", "/", "/a"]),
    placement_id=st.sampled_from(["", "top"]),
)
blocks = st.lists(st.lists(events, max_size=4), max_size=8)
cut = st.tuples(st.integers(1, 4), st.booleans(), st.booleans())


@settings(max_examples=150, deadline=None)
@given(first=blocks, second=blocks, cuts=st.lists(cut, max_size=12), cells_max=st.sampled_from([1, 5, 40, 1_000]))
def test_any_cut_into_chunks_with_kills_restarts_and_evictions_ends_at_the_same_cells(
    first: list[list[Event]],
    second: list[list[Event]],
    cuts: list[tuple[int, bool, bool]],
    cells_max: int,
) -> None:
    """The law that lets the warehouse hold absolute counts: only the log decides what a cell ends at."""
    log = {0: first, 3: second}
    expected = brute_force(log)
    actual = run(log, cuts, cells_max).cells()
    for row in expected:  # sums beyond 64 bits are stored as the nearest that fit
        row["revenue_micros"] = min(int(str(row["revenue_micros"])), 2**63 - 1)
    assert actual == sorted(expected, key=str)


def test_a_returning_visitor_counts_once_in_the_minute_also_after_an_eviction() -> None:
    """Unique visitors are exact: names are read again with the minute, not only numbers."""
    store = run({0: [[event()], [event(minute=1)], [event(), event(visitor="ben")]]}, [], cells_max=1)
    visitors = {(row["kind"], row["minute"]): row["visitors"] for row in store.cells()}
    assert visitors["event_type", BASE_MS // 1_000] == 2
    assert store.reads == 1


def test_a_visitor_without_a_name_is_an_event_and_no_visitor() -> None:
    """Without consent or id there is nobody to count twice or once."""
    row = run({0: [[event(visitor=""), event(visitor="")]]}, [], cells_max=100).cells()[0]
    assert (row["events"], row["visitors"]) == (2, 0)


def test_minutes_in_order_are_never_read_again() -> None:
    """Live traffic costs no re-reads: a minute behind the newest event cannot have been written before."""
    log = {0: [[event(minute=minute)] for minute in range(20)]}
    assert run(log, [], cells_max=10_000).reads == 0


def test_a_restart_reads_the_touched_minute_once() -> None:
    """After a restart the current minute goes on from what is stored."""
    log = {0: [[event()], [event(visitor="ben")], [event()]]}
    store = run(log, [(1, False, True)], cells_max=10_000)
    assert store.reads == 1
    assert store.cells() == brute_force(log)


def test_money_of_two_currencies_never_meets_and_never_splits_the_counts() -> None:
    """Counts stand in the row without a currency, money in the row of its own."""
    log = {0: [[event(currency="EUR", revenue_micros=5), event(currency="USD", revenue_micros=7), event()]]}
    rows = [row for row in run(log, [], 100).cells() if row["kind"] == "event_type"]
    found = {row["currency"]: (row["events"], row["visitors"], row["revenue_micros"]) for row in rows}
    assert found == {"": (3, 1, 0), "EUR": (0, 0, 5), "USD": (0, 0, 7)}


def test_bots_have_cells_of_their_own() -> None:
    """A report leaves them out by one condition."""
    rows = run({0: [[event(), event(flags=int(EventFlag.BOT))]]}, [], 100).cells()
    assert {row["is_bot"]: row["events"] for row in rows if row["kind"] == "event_type"} == {0: 1, 1: 1}


def test_memory_is_bounded_between_chunks() -> None:
    """Old minutes go first; the newest stay hot."""
    rollup = Rollup(10, lambda partition, minutes, below: ())
    rollup.assign(0, -1)
    for offset in range(50):
        rollup.apply([Chunk(0, offset, offset, [event(minute=offset)])])
    assert len(rollup) <= 10


def test_a_revoked_partition_leaves_nothing_behind() -> None:
    """Its next owner is another process: hot cells would be stale when it comes back."""
    rollup = Rollup(1_000, lambda partition, minutes, below: ())
    rollup.assign(0, -1)
    rollup.apply([Chunk(0, 0, 0, [event()])])
    rollup.revoke(0)
    assert len(rollup) == 0
    assert not rollup.is_assigned(0)

"""What must have come of the input whatever the order of arrival, by brute force from the sender's own list.

Sessions: sort each visitor's events by time and cut where more than the gap lies between. Nothing here knows blocks,
partitions or the pipeline's code.
"""

from typing import NamedTuple

import msgspec
import numpy as np

from schemas.profile import VisitorState
from tests.chaos.plan import KINDS, NONSENSE, PAGE, PURCHASE, Input, Whole
from tests.chaos.reference import States
from tests.journeys.rig import Running

MICROS_A_CENT = 10_000
MINUTE_MS = 60_000
SHOWN = 5

_visitor_state = msgspec.msgpack.Decoder(VisitorState).decode


class Check(NamedTuple):
    """One comparison with the sender's list. wrong: "" where it holds."""

    name: str
    expected: int
    found: int
    wrong: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is as expected."""
        return not self.wrong and self.expected == self.found


class Expected:
    """The input without what must be refused."""

    def __init__(self, planned: Input, gap_ms: int) -> None:
        """gap_ms: of sessions."""
        good = planned.kind != NONSENSE
        self.planned, self.gap_ms = planned, gap_ms
        self.number = np.flatnonzero(good)
        self.bad = np.flatnonzero(~good)
        self.visitor, self.time_ms = planned.visitor[good], planned.time_ms[good]
        self.kind = planned.kind[good]
        self.micros = planned.cents[good] * MICROS_A_CENT

    def sessions(self) -> Whole:
        """Return (visitor, start, end, events, pages, purchases, revenue) by visitor and start."""
        order = np.lexsort((self.time_ms, self.visitor))
        visitor, time_ms, kind = self.visitor[order], self.time_ms[order], self.kind[order]
        starts = np.ones(len(order), bool)
        starts[1:] = (np.diff(visitor) != 0) | (np.diff(time_ms) > self.gap_ms)
        first = np.flatnonzero(starts)
        last = np.append(first[1:], len(order)) - 1
        return np.column_stack([
            visitor[first], time_ms[first], time_ms[last], last - first + 1,
            np.add.reduceat((kind == PAGE).astype(np.int64), first),
            np.add.reduceat((kind == PURCHASE).astype(np.int64), first),
            np.add.reduceat(self.micros[order], first),
        ])  # fmt: skip

    def profiles(self) -> Whole:
        """Return (visitor, first seen, last seen, events, pages, purchases, revenue) of each visitor."""
        count = int(self.visitor.max()) + 1
        first, last = np.full(count, 2**62), np.full(count, -1)
        np.minimum.at(first, self.visitor, self.time_ms)
        np.maximum.at(last, self.visitor, self.time_ms)
        revenue = np.zeros(count, np.int64)
        np.add.at(revenue, self.visitor, self.micros)
        found = [np.bincount(self.visitor[self.kind == kind], minlength=count) for kind in (PAGE, PURCHASE)]
        everybody = np.bincount(self.visitor, minlength=count)
        rows = np.column_stack([np.arange(count), first, last, everybody, *found, revenue])
        return rows[everybody > 0]

    def minutes(self) -> Whole:
        """Return (minute, kind, events, different visitors, revenue) of each minute and kind."""
        minute = self.time_ms // MINUTE_MS
        place, inverse = np.unique(np.column_stack([minute, self.kind]), axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        revenue = np.zeros(len(place), np.int64)
        np.add.at(revenue, inverse, self.micros)
        pairs = np.unique(np.column_stack([inverse, self.visitor]), axis=0)
        return np.column_stack([place, np.bincount(inverse), np.bincount(pairs[:, 0]), revenue])


def check(running: Running, states: States, planned: Input, gap_ms: int) -> list[Check]:
    """Compare what is stored, and the profiles, with the list."""
    expected = Expected(planned, gap_ms)
    return [
        *_ids(running, expected),
        _same("sessions of the list", expected.sessions(), _stored_sessions(running)),
        _same("profiles of the list", expected.profiles(), _held_profiles(states)),
        _same("minutes of the rollup", expected.minutes(), _stored_minutes(running)),
        Check("blocks that the auditor had to mend", 0, _mended(running)),
    ]


def _mended(running: Running) -> int:
    """It must have found nothing: what it mends was lost before."""
    return int(str(running.ask("SELECT count() FROM blocks FINAL WHERE gen > 0")[0][0]))


def _ids(running: Running, expected: Expected) -> list[Check]:
    prefix = expected.planned.prefix
    number = f"toInt64(substring(event_id, {len(prefix) + 1}))"
    of_load = f"startsWith(event_id, '{prefix}')"
    stored = np.concatenate([
        _array(running, f"SELECT {number} FROM events FINAL WHERE p = {p} AND {of_load}", 1)  # noqa: S608 - our own text
        for p in range(running.settings.partitions)
    ]).reshape(-1)  # fmt: skip
    times = np.bincount(stored, minlength=len(expected.planned))
    times[expected.bad] += 1  # these are looked for among the refused
    wrong = [f"{prefix}{at} stored {times[at]} times" for at in np.flatnonzero(times != 1)[:SHOWN]]
    refused = _array(running, f"SELECT DISTINCT {number} FROM bad FINAL WHERE {of_load}", 1)  # noqa: S608
    revenue = running.ask(f"SELECT sum(revenue_micros) FROM events FINAL WHERE {of_load}")  # noqa: S608
    return [
        Check("event ids, each once", len(expected.number), len(stored), "; ".join(wrong)),
        Check("refused ids", len(expected.bad), int(np.isin(expected.bad, refused).sum())),
        Check("revenue, micros", int(expected.micros.sum()), int(str(revenue[0][0]))),
    ]


def _same(name: str, expected: Whole, found: Whole) -> Check:
    """Compare two sets of rows."""
    expected, found = (rows[np.lexsort(rows.T[::-1])] for rows in (expected, found))
    if np.array_equal(expected, found):
        return Check(name, len(expected), len(found))
    wanted, got = ({tuple(row) for row in rows.tolist()} for rows in (expected, found))
    missing, extra = sorted(wanted - got), sorted(got - wanted)
    wrong = f"{len(missing)} missing: {missing[:SHOWN]}; {len(extra)} extra: {extra[:SHOWN]}"
    return Check(name, len(expected), len(found), wrong)


def _array(running: Running, sql: str, width: int) -> Whole:
    return np.array(running.ask(sql), np.int64).reshape(-1, width)


def _stored_sessions(running: Running) -> Whole:
    sql = (
        "SELECT toInt64(substring(visitor, 2)), toUnixTimestamp64Milli(start), toUnixTimestamp64Milli(end), "
        "events, pages, purchases, revenue_micros FROM sessions FINAL WHERE p = {} AND match(visitor, '^v[0-9]+$')"
    )
    return np.concatenate([_array(running, sql.format(p), 7) for p in range(running.settings.partitions)])


def _held_profiles(states: States) -> Whole:
    rows = []
    for (stage, _), view in states.items():
        for key, raw in view.entries.items() if stage == "profile" else ():
            if key.startswith("v"):
                one = _visitor_state(raw).profile
                rows.append(
                    (int(key[1:]), one.first_seen_ms, one.last_seen_ms, one.events, one.pages, one.purchases,
                     one.revenue_micros)
                )  # fmt: skip
    return np.array(rows, np.int64).reshape(-1, 7)


def _stored_minutes(running: Running) -> Whole:
    """The shop's events are of other types, so the minutes of these are the load's alone."""
    kinds = ", ".join(f"'{kind}'" for kind in KINDS)
    sql = (
        f"SELECT intDiv(toUnixTimestamp(minute), 60), indexOf([{kinds}], first) - 1, sum(events), sum(visitors), "  # noqa: S608
        "sum(revenue_micros) FROM rollup_minute FINAL WHERE kind = 'event_type' AND site = 'demo' "
        f"AND first IN ({kinds}) GROUP BY minute, first HAVING sum(events) > 0"
    )
    return _array(running, sql, 5)

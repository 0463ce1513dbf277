"""The log of one placement's decisions, read from the warehouse in order of time, a chunk at a time.

A decision's id begins with its time, so a range of ids is a range of time and of the tables' keys: each chunk reads its
own part of `decisions` and `outcomes` and no more. Memory holds one chunk, whatever the log's length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.core.decide import MADE_ELSEWHERE
from pipeline.core.evaluate.logged import Logged
from pipeline.edge.clickhouse import Source
from schemas.outcome import GroupLog

ROWS_MAX: Final = 10_000
CELLS_MAX: Final = 300_000
"""Candidates of all decisions of a chunk: with a thousand each, a chunk has three hundred decisions."""

_BUCKET_CHARS: Final = 8  # of the id's twelve of time: 65.5 s
_END_MS: Final = 2**48 - 1
_CLOCKS_DIFFER_MS: Final = 86_400_000
"""The id has delivery's clock, `decided` the corrected one."""

_PLAN: Final = """
SELECT substring(decision_id, 1, 8) AS bucket, count(), max(length(candidates))
FROM decisions
WHERE (placement_id = %(placement)s OR group_id = %(placement)s) AND decision_id >= %(low)s AND decision_id < %(high)s
GROUP BY bucket ORDER BY bucket
"""
_DECISIONS: Final = """
SELECT decision_id, toUnixTimestamp64Milli(decided), policy, choices, candidates, propensities,
       if(%(reads_context)s, context, ''), if(%(reads_context)s, features, ''),
       placement_id, if(group_id = %(placement)s, group_log, '')
FROM decisions FINAL
WHERE (placement_id = %(placement)s OR group_id = %(placement)s) AND decision_id > %(after)s AND decision_id < %(high)s
ORDER BY decision_id LIMIT 1 BY decision_id LIMIT %(rows)s
"""
_OUTCOMES: Final = """
SELECT decision_id, action_id, toUnixTimestamp64Milli(impressed),
       toUnixTimestamp64Milli(if(toUnixTimestamp(rewarded) > 0, rewarded, clicked)), reward_micros, is_bot
FROM outcomes FINAL
WHERE (placement_id = %(placement)s OR chosen_by = %(placement)s) AND decision_id >= %(low)s
  AND decision_id <= %(high)s
"""


class Span(NamedTuple):
    """Which decisions. from_ms, to_ms: decided from (included) and to (left out), ms since 1970 UTC; 0 = no limit."""

    placement_id: str
    from_ms: int = 0
    to_ms: int = 0


@dataclass
class Read:
    """What was read and left out. bots: made for machines. empty: no action could be shown."""

    chunks: int = 0
    bots: int = 0
    empty: int = 0


class _Choice(msgspec.Struct):
    action_id: str
    rank: int
    propensity: float


_read_group = msgspec.json.Decoder(GroupLog).decode
_read_choices = msgspec.json.Decoder(list[_Choice]).decode
_Outcomes = dict[tuple[str, str], tuple[int, int, int, bool]]  # shown, rewarded, reward, is bot


@dataclass(frozen=True)
class _Range:
    """Ids from `low` (included) to `high` (left out), to be read `rows` at a time."""

    low: str
    high: str
    rows: int


class DecisionLogReader:
    """Iterates over a span's decisions as `Logged`, bots left out. Raises what the warehouse raises."""

    def __init__(self, warehouse: Source, span: Span, reads_context: bool = False, rows_max: int = ROWS_MAX) -> None:
        """reads_context: also read what each decision was asked with. rows_max: of a chunk."""
        self._warehouse, self._span, self._reads_context = warehouse, span, reads_context
        self._rows_max = rows_max
        self.read = Read()
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __iter__(self) -> Iterator[Logged]:
        """Yield the decisions in order of time (to the millisecond of the id)."""
        for part in self._plan():
            after = part.low  # the beginning of an id: it sorts before all ids that begin so
            while True:
                rows = self._chunk(part, after)
                yield from self._logged(rows)
                if len(rows) < part.rows:
                    break
                after = str(rows[-1][0])

    def _plan(self) -> list[_Range]:
        """Return the ranges that together hold the span, each about a chunk."""
        low = _id_at(self._span.from_ms - _CLOCKS_DIFFER_MS if self._span.from_ms else 0)
        high = _id_at(self._span.to_ms + _CLOCKS_DIFFER_MS if self._span.to_ms else _END_MS)
        found: list[Any] = self._warehouse.execute(
            _PLAN, {"placement": self._span.placement_id, "low": low, "high": high}
        )
        parts: list[_Range] = []
        rows = widest = 0
        for bucket, count, candidates in found:
            fits = min(self._rows_max, max(1, CELLS_MAX // max(1, widest, candidates)))
            if parts and rows + count <= fits:
                parts[-1] = _Range(parts[-1].low, _after(bucket), fits)
                rows, widest = rows + count, max(widest, candidates)
            else:
                rows, widest = count, candidates
                fits = min(self._rows_max, max(1, CELLS_MAX // max(1, widest)))
                parts.append(_Range(bucket, _after(bucket), fits))
        return parts

    def _chunk(self, part: _Range, after: str) -> list[tuple[Any, ...]]:
        self.read.chunks += 1
        return self._warehouse.execute(
            _DECISIONS,
            {
                "placement": self._span.placement_id,
                "after": after,
                "high": part.high,
                "rows": part.rows,
                "reads_context": int(self._reads_context),
            },
        )

    def _outcomes(self, first: str, last: str) -> _Outcomes:
        found: list[Any] = self._warehouse.execute(
            _OUTCOMES, {"placement": self._span.placement_id, "low": first, "high": last}
        )
        return {(row[0], row[1]): (row[2], row[3], row[4], bool(row[5])) for row in found}

    def _logged(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[Logged]:
        outcomes = self._outcomes(rows[0][0], rows[-1][0]) if rows else {}
        for row in rows:
            decided_ms = row[1]
            if decided_ms < self._span.from_ms or (self._span.to_ms and decided_ms >= self._span.to_ms):
                continue
            choice = next((one for one in _read_choices(row[3]) if one.rank == 0), None)
            if choice is None:
                self.read.empty += 1
                continue
            shown_ms, rewarded_ms, reward, is_bot = outcomes.get((row[0], choice.action_id), (0, 0, 0, False))
            if is_bot:
                self.read.bots += 1
                continue
            found = Logged(
                decision_id=row[0],
                decided_ms=decided_ms,
                action_id=choice.action_id,
                propensity=choice.propensity,
                candidates=self._same(tuple(row[4])),
                # of another system's decision only the choice's is known: the others in the log are shares of the rest
                propensities=() if row[2] == MADE_ELSEWHERE else row[5],
                reward_micros=reward,
                shown_ms=shown_ms,
                rewarded_ms=rewarded_ms,
                context=msgspec.json.decode(row[6]) if row[6] else {},
                features=msgspec.json.decode(row[7]) if row[7] else {},
            )
            yield self._of_group(found, row[8], row[9]) if row[9] else found

    def _of_group(self, found: Logged, member: str, group_log: str) -> Logged:
        """Return the choice of the placement, one level above that of the action; its reward is the same."""
        group = _read_group(group_log)
        return found._replace(
            action_id=member,
            propensity=group.propensity,
            candidates=self._same(tuple(group.candidates)),
            propensities=group.propensities,
            features={},
        )

    def _same(self, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """Return one tuple for equal candidates, so that what waits for its reward does not hold them again."""
        if len(self._known) > 1_000:
            self._known.clear()
        return self._known.setdefault(candidates, candidates)


def _id_at(time_ms: int) -> str:
    """Return the smallest id of a time."""
    return f"{min(max(time_ms, 0), _END_MS):012x}"


def _after(bucket: str) -> str:
    """Return the smallest id after a bucket."""
    return f"{int(bucket, 16) + 1:0{_BUCKET_CHARS}x}"

"""What each arm was given and earned, by interval, from the warehouse's outcomes: what learning is judged by.

Of a decision's choices only the first counts. The others are drawn given those before them, and that is what their
propensity says: 1 / propensity would weigh them as if they had been drawn from all. Rows of before the column `rank`
say 0 and so count whatever their place: what spans that upgrade is as it was, until those days are past.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from pipeline.core.learning_curve import Cell
from pipeline.edge.clickhouse import Source
from pipeline.errors import HeraldError

BUCKETS: Final[Mapping[str, str]] = {
    "minute": "toStartOfMinute(decided)", "hour": "toStartOfHour(decided)", "day": "toStartOfDay(decided)",
}  # fmt: skip
CELLS_MAX: Final = 200_000
"""Of one answer, by arms and intervals: some 100 MB. A day by the hour has room for 8,000 arms."""
_IN_TIME: Final = """decided >= fromUnixTimestamp64Milli(%(from_ms)s, 'UTC')
  AND decided < fromUnixTimestamp64Milli(%(to_ms)s, 'UTC')"""
_SEEN: Final = f"rank = 0 AND is_bot = 0 AND toUnixTimestamp(impressed) > 0 AND propensity > 0 AND {_IN_TIME}"

# A group's arms are the placements that it chose, with its own probabilities.
_OUTCOMES: Final = f"""
SELECT bucket, arm, count(), sum(reward_micros) / 1e6, sum(1 / p), sum(reward_micros / p) / 1e6,
  sum(pow(reward_micros / p / 1e6, 2)), max(1 / p)
FROM (
  SELECT toUnixTimestamp({{bucket}}) AS bucket, reward_micros,
    if(chosen_by = %(placement)s, toString(placement_id), toString(action_id)) AS arm,
    if(chosen_by = %(placement)s, group_propensity, propensity) AS p
  FROM outcomes FINAL WHERE (placement_id = %(placement)s OR chosen_by = %(placement)s) AND {_SEEN}
)
GROUP BY bucket, arm ORDER BY bucket, arm LIMIT %(most)s
"""  # noqa: S608
_DECISIONS: Final = f"""
SELECT toUnixTimestamp({{bucket}}) AS bucket, arm, avg(share)
FROM decisions FINAL ARRAY JOIN
  if(group_id = %(placement)s, JSONExtract(group_log, 'candidates', 'Array(String)'),
     arrayMap(one -> toString(one), candidates)) AS arm,
  if(group_id = %(placement)s, JSONExtract(group_log, 'propensities', 'Array(Float64)'),
     arrayMap(one -> toFloat64(one), propensities)) AS share
WHERE (placement_id = %(placement)s OR group_id = %(placement)s) AND {_IN_TIME} AND has(%(arms)s, arm)
GROUP BY bucket, arm LIMIT %(most)s
"""  # noqa: S608
_BUSIEST: Final = f"""
SELECT arrayJoin([toString(placement_id), toString(chosen_by)]) AS placement, count() AS many
FROM outcomes FINAL WHERE {_SEEN}
GROUP BY placement HAVING placement != '' ORDER BY many DESC, placement LIMIT %(most)s
"""  # noqa: S608


class TooMany(HeraldError):
    """An answer would have more cells than fit; the text says what to ask for instead."""


class Span(Protocol):
    """A stretch of time, from_ms included, to_ms not; interval: one of BUCKETS."""

    @property
    def from_ms(self) -> int:
        """Its first millisecond."""

    @property
    def to_ms(self) -> int:
        """The first one after it."""

    @property
    def interval(self) -> str:
        """What it is cut into."""


def read_cells(warehouse: Source, placement: str, span: Span, arms_max: int = 0) -> list[Cell]:
    """Return what each arm was given and earned, by interval, oldest first.

    arms_max: of so many arms, the most tried ones, it also says with which probability, from the decisions.
    Raises TooMany where there are more than CELLS_MAX, and what the warehouse raises.
    """
    params = {"placement": placement, "from_ms": span.from_ms, "to_ms": span.to_ms, "most": CELLS_MAX + 1}
    bucket = BUCKETS[span.interval]
    rows: Sequence[Any] = _bounded(warehouse.execute(_OUTCOMES.format(bucket=bucket), params), span)
    shares: dict[tuple[Any, Any], Any] = {}
    if arms_max and rows:
        tried: Counter[Any] = Counter()
        for _, arm, trials, *_ in rows:
            tried[arm] += trials
        params |= {"arms": [arm for arm, _ in tried.most_common(arms_max)]}
        asked: Sequence[Any] = _bounded(warehouse.execute(_DECISIONS.format(bucket=bucket), params), span)
        shares = {(time_s, arm): share for time_s, arm, share in asked}
    return [
        Cell(time_s * 1_000, arm, trials, reward, weights, weighted, squares, most, shares.get((time_s, arm), math.nan))
        for time_s, arm, trials, reward, weights, weighted, squares, most in rows
    ]


def _bounded(rows: Sequence[Any], span: Span) -> Sequence[Any]:
    if len(rows) > CELLS_MAX:
        raise TooMany(f"interval {span.interval}: more than {CELLS_MAX:,} of them over all arms; expected a longer one")
    return rows


def busiest(warehouse: Source, span: Span, most: int) -> list[str]:
    """Return the placements where most was seen in a time, so many at most. Raises what the warehouse raises."""
    params = {"from_ms": span.from_ms, "to_ms": span.to_ms, "most": most}
    return [str(placement) for placement, _ in warehouse.execute(_BUSIEST, params)]

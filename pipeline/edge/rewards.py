"""What each arm was given and earned, by interval, from the warehouse's outcomes: what learning is judged by."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from pipeline.core.learning_curve import Cell

BUCKETS: Final[Mapping[str, str]] = {
    "minute": "toStartOfMinute(decided)", "hour": "toStartOfHour(decided)", "day": "toStartOfDay(decided)",
}  # fmt: skip
_IN_TIME: Final = """decided >= fromUnixTimestamp64Milli(%(from_ms)s, 'UTC')
  AND decided < fromUnixTimestamp64Milli(%(to_ms)s, 'UTC')"""
_SEEN: Final = f"is_bot = 0 AND toUnixTimestamp(impressed) > 0 AND propensity > 0 AND {_IN_TIME}"

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
GROUP BY bucket, arm ORDER BY bucket, arm
"""  # noqa: S608
_DECISIONS: Final = f"""
SELECT toUnixTimestamp({{bucket}}) AS bucket, arm, avg(share)
FROM decisions FINAL ARRAY JOIN
  if(group_id = %(placement)s, JSONExtract(group_log, 'candidates', 'Array(String)'),
     arrayMap(one -> toString(one), candidates)) AS arm,
  if(group_id = %(placement)s, JSONExtract(group_log, 'propensities', 'Array(Float64)'),
     arrayMap(one -> toFloat64(one), propensities)) AS share
WHERE (placement_id = %(placement)s OR group_id = %(placement)s) AND {_IN_TIME}
GROUP BY bucket, arm
"""  # noqa: S608
_BUSIEST: Final = f"""
SELECT arrayJoin([toString(placement_id), toString(chosen_by)]) AS placement, count() AS many
FROM outcomes FINAL WHERE {_SEEN}
GROUP BY placement HAVING placement != '' ORDER BY many DESC, placement LIMIT %(most)s
"""  # noqa: S608


class Source(Protocol):
    """The warehouse."""

    def execute(self, sql: str, params: Any = None) -> list[tuple[object, ...]]:
        """Return a query's rows."""


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


def read_cells(warehouse: Source, placement: str, span: Span, with_shares: bool = True) -> list[Cell]:
    """Return what each arm was given and earned, by interval, oldest first. Raises what the warehouse raises.

    with_shares: also with which probability, from the decisions.
    """
    params = {"placement": placement, "from_ms": span.from_ms, "to_ms": span.to_ms}
    bucket = BUCKETS[span.interval]
    asked: Sequence[Any] = warehouse.execute(_DECISIONS.format(bucket=bucket), params) if with_shares else ()
    shares: dict[tuple[Any, Any], Any] = {(time_s, arm): share for time_s, arm, share in asked}
    rows: Sequence[Any] = warehouse.execute(_OUTCOMES.format(bucket=bucket), params)
    return [
        Cell(time_s * 1_000, arm, trials, reward, weights, weighted, squares, most, shares.get((time_s, arm), math.nan))
        for time_s, arm, trials, reward, weights, weighted, squares, most in rows
    ]


def busiest(warehouse: Source, span: Span, most: int) -> list[str]:
    """Return the placements where most was seen in a time, so many at most. Raises what the warehouse raises."""
    params = {"from_ms": span.from_ms, "to_ms": span.to_ms, "most": most}
    return [str(placement) for placement, _ in warehouse.execute(_BUSIEST, params)]

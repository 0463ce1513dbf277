"""An experiment's visitors, read from the warehouse: who was shown which variant, and what he did from then on.

A decision says in its context, under `experiments`, which variant its visitor has; he counts as exposed from the first
such decision of which an impression came, by a person; in the hold-out, where some are shown nothing, from the
first decision on. What he did afterwards is taken from his events, whether or not
it followed a click: so the held-out can be compared, too. Visitors are read in parts; memory holds one part's rows and
the tally.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from pipeline.core.experiment.analysis.tally import Row, Tally
from pipeline.edge.clickhouse import Source
from pipeline.errors import HeraldError, SettingsError
from pipeline.experiment_csv import Read
from schemas.experiment import HOLDOUT_ID, Experiment, Kind

PART_VISITORS: Final = 100_000
BEFORE_DAYS: Final = 30
_END_MS: Final = 9_999_999_999_999  # in 2286: what ClickHouse's times reach
_CLOCKS_DIFFER_MS: Final = 86_400_000
_MICROS: Final = 1e6

GOALS: Final = (
    "shown", "clicks", "clicked", "reward", "conversions", "converted", "purchases", "purchased", "revenue",
)  # fmt: skip
"""Metrics of a visitor: decisions shown and clicked, reward (1 each at most), and from his events since he was exposed:
conversions (purchases among them), purchases, revenue in units of currency. -ed: 0 or 1."""
KINDS: Final[Mapping[str, Kind]] = {"clicked": "rate", "converted": "rate", "purchased": "rate", "revenue": "money"}
"""Of goals that are not plain numbers."""
PROFILE: Final = ("pre_visits", "pre_events", "pre_purchases", "pre_revenue")
"""Known before: the profile at the first exposure, and the revenue of 30 days before it."""

# An alias that is also a column's name would be taken for the column's, in WHERE and in other aggregates.
_EXPOSED: Final = """
SELECT d.who AS visitor, groupUniqArray(d.met) AS variants, min({exposed}) AS exposed,
       countIf(o.decision_id != '') AS shown, countIf(o.is_clicked) AS clicks, sum(o.earned) AS reward,
       argMin(d.profile, ({exposed}, d.decision_id)) AS profile,
       argMin(d.asked_with, ({exposed}, d.decision_id)) AS segments
FROM (
    SELECT decision_id, visitor AS who, decided AS asked, JSONExtractString(context, 'experiments', %(id)s) AS met,
           arrayMap(name -> JSONExtract(context, 'profile', name, 'Nullable(Float64)'),
                    ['visits', 'events', 'purchases']) AS profile,
           arrayMap(name -> trim(BOTH '"' FROM JSONExtractRaw(context, name)), CAST(%(segments)s, 'Array(String)'))
               AS asked_with
    FROM decisions FINAL
    WHERE decision_id >= %(low)s AND decision_id < %(high)s AND JSONHas(context, 'experiments', %(id)s)
      AND visitor != '' AND cityHash64(visitor) %% %(parts)s = %(part)s
      AND (empty(%(placements)s) OR hasAny(CAST(%(placements)s, 'Array(String)'), [placement_id, group_id]))
      AND NOT JSONExtractBool(context, 'profile', 'is_bot')
    LIMIT 1 BY decision_id
) AS d
{joined} JOIN (
    SELECT decision_id, min(impressed) AS seen_first, max(clicked > 0) AS is_clicked, sum(reward_micros) AS earned
    FROM outcomes FINAL
    WHERE decision_id >= %(low)s AND decision_id < %(high)s AND impressed > 0 AND NOT is_bot
    GROUP BY decision_id
) AS o ON o.decision_id = d.decision_id
WHERE {exposed} >= fromUnixTimestamp64Milli(toInt64(%(from_ms)s))
  AND {exposed} < fromUnixTimestamp64Milli(toInt64(%(to_ms)s))
GROUP BY visitor
"""
_VISITORS: Final = """
SELECT x.visitor, x.variants, toUnixTimestamp64Milli(x.exposed), x.shown, x.clicks, x.reward, x.profile, x.segments,
       countIf(e.event_time >= x.exposed AND e.event_type IN ('conversion', 'purchase')),
       countIf(e.event_time >= x.exposed AND e.event_type = 'purchase'),
       sumIf(e.revenue_micros, e.event_time >= x.exposed),
       sumIf(e.revenue_micros, e.event_time < x.exposed AND e.event_time >= x.exposed - toIntervalDay(%(days)s)),
       groupUniqArrayIf(e.currency, e.revenue_micros != 0)
FROM ({exposed}) AS x
LEFT JOIN (
    SELECT visitor, event_time, event_type, revenue_micros, currency FROM events FINAL
    WHERE event_type IN ('conversion', 'purchase') AND bot_reason = ''
      AND cityHash64(visitor) %% %(parts)s = %(part)s AND visitor != ''
      AND event_time < fromUnixTimestamp64Milli(toInt64(%(to_ms)s))
) AS e ON e.visitor = x.visitor
GROUP BY x.visitor, x.variants, x.exposed, x.shown, x.clicks, x.reward, x.profile, x.segments
"""
_COUNT: Final = """
SELECT uniqExactIf(visitor, visitor != ''), uniqExactIf(decision_id, visitor = '') FROM decisions
WHERE decision_id >= %(low)s AND decision_id < %(high)s AND JSONHas(context, 'experiments', %(id)s)
  AND (empty(%(placements)s) OR hasAny(CAST(%(placements)s, 'Array(String)'), [placement_id, group_id]))
"""


class _Visitor(NamedTuple):
    """A row of _VISITORS."""

    visitor: str
    variants: Sequence[str]
    exposed_ms: int
    shown: int
    clicks: int
    reward: int
    profile: Sequence[float | None]  # visits, events, purchases
    segments: Sequence[str]
    conversions: int
    purchases: int
    revenue: int
    revenue_before: int
    currencies: Sequence[str]


_GOALS: Final[Mapping[str, Callable[[_Visitor], float]]] = {
    "shown": lambda one: float(one.shown),
    "clicks": lambda one: float(one.clicks),
    "clicked": lambda one: float(one.clicks > 0),
    "reward": lambda one: one.reward / _MICROS,
    "conversions": lambda one: float(one.conversions),
    "converted": lambda one: float(one.conversions > 0),
    "purchases": lambda one: float(one.purchases),
    "purchased": lambda one: float(one.purchases > 0),
    "revenue": lambda one: one.revenue / _MICROS,
}
_COVARIATES: Final[Mapping[str, Callable[[_Visitor], float | None]]] = {
    "pre_visits": lambda one: one.profile[0],
    "pre_events": lambda one: one.profile[1],
    "pre_purchases": lambda one: one.profile[2],
    "pre_revenue": lambda one: one.revenue_before / _MICROS,
}


def read_exposures(warehouse: Source, experiment: Experiment) -> tuple[Experiment, Tally, Read]:
    """Return the experiment with the covariates that the warehouse has, its visitors, and what was left out.

    Segments are keys of what a decision was asked with. Raises SettingsError for a goal, covariate or variant that is
    not there, HeraldError where revenue is of several currencies, and what the warehouse raises.
    """
    check_names("goal", [goal.metric for goal in experiment.goals], GOALS)
    check_names("covariate", experiment.covariates, PROFILE)
    experiment = experiment.model_copy(update={"covariates": experiment.covariates or list(PROFILE)})
    params = _params(experiment)
    found: Any = warehouse.execute(_COUNT, params)
    visitors, unnamed = found[0]
    read, tally = Read(unnamed=unnamed), Tally(experiment)
    parts = 1 + visitors // PART_VISITORS
    currencies: set[str] = set()
    for part in range(parts):
        rows: Any = warehouse.execute(_statement(experiment), params | {"parts": parts, "part": part})
        for one in map(_Visitor._make, rows):
            read.rows += one.shown
            currencies.update(one.currencies)
            _add(tally, experiment, one)
    read.unshown = max(0, visitors - len(tally))
    if len(currencies) > 1 and any(goal.metric == "revenue" for goal in experiment.goals):
        raise HeraldError(f"revenue is in {' and '.join(sorted(currencies))}, expected one currency to add up")
    return experiment, tally, read


def _statement(experiment: Experiment) -> str:
    """Return the query of an experiment's visitors. The held-out are shown nothing: there, to have asked counts."""
    asks = experiment.id == HOLDOUT_ID
    exposed, joined = ("d.asked", "LEFT") if asks else ("o.seen_first", "INNER")
    return _VISITORS.format(exposed=_EXPOSED.format(exposed=exposed, joined=joined))


def check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise SettingsError for a name that is not known. what: the names are of."""
    for name in names:
        if name not in known:
            raise SettingsError(f"{what} {name!r} is not in the warehouse, expected one of {', '.join(known)}")


def _params(experiment: Experiment) -> dict[str, object]:
    from_ms = _within(experiment.starts, 0)
    to_ms = _within(experiment.ends, _END_MS)
    return {
        "id": experiment.id,
        "placements": experiment.placements,
        "segments": experiment.segments,
        "from_ms": from_ms,
        "to_ms": to_ms,
        "low": f"{max(0, from_ms - _CLOCKS_DIFFER_MS):012x}",
        "high": f"{to_ms + _CLOCKS_DIFFER_MS:012x}",
        "days": BEFORE_DAYS,
    }


def _within(moment: datetime | None, otherwise_ms: int) -> int:
    return min(max(0, round(moment.timestamp() * 1_000)), _END_MS) if moment else otherwise_ms


def _add(tally: Tally, experiment: Experiment, one: _Visitor) -> None:
    """Take a visitor in; one of several variants as often as he has variants, so that he is known as such."""
    names = [variant.name for variant in experiment.variants]
    for variant in one.variants:
        if variant not in names:
            raise SettingsError(
                f"the warehouse has variant {variant!r} of {experiment.id!r}, expected one of {', '.join(names)}"
            )
        covariates = [_COVARIATES[name](one) for name in experiment.covariates]
        row = Row(
            one.visitor,
            names.index(variant),
            [_GOALS[goal.metric](one) for goal in experiment.goals],
            [math.nan if value is None else value for value in covariates],
            one.segments,
            one.exposed_ms,
        )
        tally.add(row)

"""What was sold and what is left, from the warehouse: for who warns before a sku runs out.

Orders with a list of products count each of them, by every name that the list gives it (product_id, sku, id): stock is
told under one of them.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, Protocol

from pipeline.core.forecast import HISTORY_DAYS
from pipeline.core.stock_watch import Sku

SKUS_MAX: Final = 100
"""So many are forecast: those whose stock would end first at the pace of the last weeks."""
PACE_DAYS: Final = 28

_ITEMS: Final = """
  SELECT site, at, item.1 AS sku, item.2 AS units FROM (
    SELECT site, toUnixTimestamp(event_time) AS at, arrayJoin(if(empty(listed), [(toString(product_id), toFloat64(
      greatest(quantity, 1)))], listed)) AS item
    FROM (
      SELECT site, event_time, product_id, quantity,
        arrayFlatten(arrayMap(one -> arrayMap(name -> (name, greatest(JSONExtractFloat(one, 'quantity'), 1.)),
          arrayDistinct([JSONExtractString(one, 'product_id'), JSONExtractString(one, 'sku'),
          JSONExtractString(one, 'id')])), JSONExtractArrayRaw(properties, 'products'))) AS listed
      FROM events FINAL
      WHERE event_type = 'purchase' AND bot_reason = '' AND event_time > toDateTime(%(now)s - %(days)s * 86400, 'UTC')
        AND event_time <= toDateTime(%(now)s, 'UTC')
    )
  ) WHERE sku != ''
"""
_URGENT: Final = """
SELECT site, sku, level, sold FROM (
  SELECT site, toString(product_id) AS sku, argMax(stock_level, (event_time, -stock_level)) AS level
  FROM events FINAL WHERE event_type = 'stock' AND product_id != '' GROUP BY site, sku
) AS known JOIN (
  SELECT site, sku, sum(units) AS sold FROM ({items}) GROUP BY site, sku
) AS asked USING (site, sku)
WHERE level > 0 ORDER BY level / sold, site, sku LIMIT %(most)s
"""
_BY_DAY: Final = """
SELECT site, sku, intDiv(%(now)s - at, 86400) AS ago, sum(units) FROM ({items}) WHERE (site, sku) IN %(skus)s
GROUP BY site, sku, ago
"""


class Source(Protocol):
    """The warehouse."""

    def execute(self, sql: str, params: Any = None) -> list[tuple[object, ...]]:
        """Return a query's rows."""


def running_low(warehouse: Source, now_ms: int, most: int = SKUS_MAX) -> list[Sku]:
    """Return so many skus at most that may run out first, with all that was sold of them. Raises as the warehouse does.

    Those without a level, with none left, or of which nothing was sold lately are no part of it.
    """
    now = now_ms // 1_000
    params: dict[str, object] = {"now": now, "days": PACE_DAYS, "most": most}
    rows: Sequence[Any] = warehouse.execute(_URGENT.format(items=_ITEMS), params)
    if not rows:
        return []
    units: defaultdict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    names = [(site, sku) for site, sku, _, _ in rows]
    params = {"now": now, "days": HISTORY_DAYS, "skus": names}
    found: Sequence[Any] = warehouse.execute(_BY_DAY.format(items=_ITEMS), params)
    for site, sku, ago, sold in found:
        units[site, sku][int(ago)] = float(sold)
    return [Sku(site, sku, int(level), units[site, sku]) for site, sku, level, _ in rows]

"""What was sold and what is left, from the warehouse: for who warns before a sku runs out.

Orders with a list of products count each of them, by every name that the list gives it (product_id, sku, id): stock is
told under one of them. Quantities are bounded as `pipeline.core.bought` bounds them: clients write "inf" and 1e308, and
one such order would else be all that was ever sold.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from pipeline.core.bought import PIECES_MAX
from pipeline.core.forecast import HISTORY_DAYS
from pipeline.core.stock_watch import Sku
from pipeline.edge.clickhouse import Source

SKUS_MAX: Final = 100
"""So many are forecast: those whose stock would end first at the pace of the last weeks."""
PACE_DAYS: Final = 28
BATCH_SKUS, BATCH_BYTES = 2_000, 100_000
"""Of one query's text, which the server reads up to 256 KiB of."""

Name = tuple[str, str]
"""(site, sku)"""

_ITEMS: Final = f"""
  SELECT site, at, item.1 AS sku, item.2 AS units FROM (
    SELECT site, toUnixTimestamp(event_time) AS at, arrayJoin(if(empty(listed), [(toString(product_id), toFloat64(
      least(greatest(quantity, 1), {PIECES_MAX})))], listed)) AS item
    FROM (
      SELECT site, event_time, product_id, quantity,
        arrayFilter(named -> named.1 != '', arrayFlatten(arrayMap(one -> arrayMap(name -> (name,
          if(isFinite(JSONExtractFloat(one, 'quantity')), least(greatest(JSONExtractFloat(one, 'quantity'), 1.),
          {PIECES_MAX}.), 1.)), arrayDistinct([JSONExtractString(one, 'product_id'), JSONExtractString(one, 'sku'),
          JSONExtractString(one, 'id')])), JSONExtractArrayRaw(properties, 'products')))) AS listed
      FROM events FINAL
      WHERE event_type = 'purchase' AND bot_reason = '' AND event_time > toDateTime(%(now)s - %(days)s * 86400, 'UTC')
        AND event_time <= toDateTime(%(now)s, 'UTC')
    )
  ) WHERE sku != ''
"""  # noqa: S608
_LEVELS: Final = """
  SELECT site, toString(product_id) AS sku, argMax(stock_level, (event_time, -stock_level)) AS level
  FROM events FINAL WHERE event_type = 'stock' AND product_id != '' {which} GROUP BY site, sku
"""
_URGENT: Final = f"""
SELECT site, sku, level FROM ({_LEVELS.format(which="")}) AS known JOIN (
  SELECT site, sku, sum(units) AS sold FROM ({_ITEMS}) GROUP BY site, sku
) AS asked USING (site, sku)
ORDER BY greatest(level, 0) / sold, sold DESC, site, sku LIMIT %(most)s BY level > 0
"""  # noqa: S608
_NAMED: Final = _LEVELS.format(which="AND (site, toString(product_id)) IN %(skus)s")
_BY_DAY: Final = f"""
SELECT site, sku, intDiv(%(now)s - at, 86400) AS ago, sum(units) FROM ({_ITEMS}) WHERE (site, sku) IN %(skus)s
GROUP BY site, sku, ago
"""  # noqa: S608


def running_low(warehouse: Source, now_ms: int, most: int = SKUS_MAX, watched: Collection[Name] = ()) -> list[Sku]:
    """Return the skus that may run out first, with all that was sold of them. Raises as the warehouse does.

    most: so many at most of which some is left, and as many that are gone, those first that sold most. Of which nothing
    was sold in four weeks is no part of it. watched: these are, whatever they sold, while any is left; without a level,
    or four weeks after the last sale of what is gone, they are not.
    """
    now = now_ms // 1_000
    rows: list[Any] = list(warehouse.execute(_URGENT, {"now": now, "days": PACE_DAYS, "most": most}))
    found = {(site, sku) for site, sku, _ in rows}
    for names in batches(sorted(set(watched) - found)):
        rows += warehouse.execute(_NAMED, {"skus": names})
    units: defaultdict[Name, dict[int, float]] = defaultdict(dict)
    for names in batches([(site, sku) for site, sku, _ in rows]):
        sold: Sequence[Any] = warehouse.execute(_BY_DAY, {"now": now, "days": HISTORY_DAYS, "skus": names})
        for site, sku, ago, many in sold:
            units[site, sku][int(ago)] = float(many)
    skus = [Sku(site, sku, int(level), units[site, sku]) for site, sku, level in rows]
    return [one for one in skus if one.left > 0 or min(one.units, default=PACE_DAYS) < PACE_DAYS]


def batches(names: Sequence[Name]) -> Iterator[list[Name]]:
    """Yield them in lists that a query's text has room for, escaped: 2,000 names and 100,000 bytes at most."""
    batch: list[Name] = []
    size = 0
    for name in names:
        more = sum(2 * len(part.encode("utf-8", "surrogatepass")) for part in name) + len("('', ''), ")
        if batch and (len(batch) == BATCH_SKUS or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += more
    if batch:
        yield batch

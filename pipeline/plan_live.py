"""What plans are made from without a file: what the warehouse knows, for the campaigns of the store.

Spend here is what came to be paid of the decisions of each day; the books of money, which go by what came in time, are
in `herald status`. Hours are those that delivery sends by: it asks the same.
"""

from collections import defaultdict
from contextlib import closing
from datetime import timedelta
from typing import Any, Final

from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.store import Store
from pipeline.core.catalogue import Catalogue
from pipeline.core.response import MICROS, Line, Point
from pipeline.delivery.send import SendTimes
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import now_ms
from pipeline.errors import HeraldError
from pipeline.settings import Settings
from schemas.campaign import DAY_MS

ANSWER_S: Final = 600.0
_SPEND: Final = """
SELECT line_id, groupUniqArray(toString(placement_id)), toDate(decided, 'UTC') AS day,
  sumIf(price_micros, multiIf(pays_for = 'impression', toUnixTimestamp(impressed) > 0,
    pays_for = 'click', toUnixTimestamp(clicked) > 0, pays_for = 'action', conversions > 0, 0)),
  sum(value_micros)
FROM outcomes FINAL
WHERE line_id != '' AND is_bot = 0 AND decided >= fromUnixTimestamp64Milli(%(from_ms)s, 'UTC')
  AND decided < fromUnixTimestamp64Milli(%(to_ms)s, 'UTC')
GROUP BY line_id, day ORDER BY line_id, day
"""


def spent(settings: Settings, days: int) -> tuple[list[Line], dict[str, str]]:
    """Return (each line's whole days of spend and value, line -> its channels), of so many days before today, UTC.

    A day on which a line brought or cost something is a period. Raises HeraldError where the warehouse is away, or
    knows of no spend.
    """
    to_ms = now_ms() // DAY_MS * DAY_MS
    span = {"from_ms": to_ms - days * DAY_MS, "to_ms": to_ms}
    with Warehouse.from_url(settings.warehouse_url, ANSWER_S) as warehouse:
        rows: list[Any] = warehouse.execute(_SPEND, span)
    points: defaultdict[str, list[Point]] = defaultdict(list)
    placements: defaultdict[str, set[str]] = defaultdict(set)
    for line, places, _, spend, value in rows:
        points[line].append(Point(spend, max(0, value) / MICROS))
        placements[line].update(places)
    if not any(point.spend_micros for found in points.values() for point in found):
        last = timedelta(days=days)
        raise HeraldError(f"the warehouse knows of no spend in the {last.days} days before today; expected some")
    of = {name: place.body.channel.value for name, place in published(settings).placements.items()}
    channels = {
        line: " and ".join(sorted({of.get(one, "unknown") for one in found})) for line, found in placements.items()
    }
    return [Line(name, tuple(found)) for name, found in points.items()], channels


def published(settings: Settings) -> Catalogue:
    """Return what is published, from the store. Raises Retryable where it is away."""
    with closing(Database(url_of(settings))) as database:
        database.migrate()
        return Catalogue({(one.kind, one.id): one for one in Store(database).everything()})


def sending(settings: Settings) -> SendTimes:
    """Return what delivery would know of hours now. Raises HeraldError where the warehouse is away."""
    catalogue = published(settings)
    found = SendTimes(settings, lambda: catalogue)
    with Warehouse.from_url(settings.warehouse_url, ANSWER_S) as warehouse:
        if not found.refresh(warehouse, now_ms()):
            raise HeraldError("the warehouse does not answer; see the log, or give --data")
    return found

"""What plans are made from without a file: what the warehouse knows, for the campaigns of the store.

Spend here is what came to be paid of the decisions of each day; the books of money, which go by what came in time, are
in `herald status`, and are what `spent_so_far` gives. Hours are those that delivery sends by: it asks the same.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import closing
from typing import Any, Final, NamedTuple

from kafka.errors import KafkaError

from pipeline import money, progress
from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.store import Store
from pipeline.core.catalogue import Catalogue, LiveLine
from pipeline.core.response import MICROS, Line, Point
from pipeline.core.schedule import NEVER
from pipeline.delivery.send import SendTimes
from pipeline.edge import kafka
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import now_ms
from pipeline.errors import HeraldError, Retryable, SettingsError
from pipeline.settings import Settings
from schemas.campaign import DAY_MS
from schemas.topics import SPEND

ANSWER_S: Final = 600.0
# `paid` is empty in rows older than that column: of those it is guessed as it was before, any conversion is an action.
_SPEND: Final = """
SELECT line_id, groupUniqArray(toString(placement_id)), toDate(decided, 'UTC') AS day,
  sumIf(price_micros, multiIf(paid != '', paid = 'yes', pays_for = 'impression', toUnixTimestamp(impressed) > 0,
    pays_for = 'click', toUnixTimestamp(clicked) > 0, pays_for = 'action', conversions > 0, 0)),
  sum(value_micros)
FROM outcomes FINAL
WHERE line_id != '' AND is_bot = 0 AND decided >= fromUnixTimestamp64Milli(%(from_ms)s, 'UTC')
  AND decided < fromUnixTimestamp64Milli(%(to_ms)s, 'UTC')
GROUP BY line_id, day ORDER BY line_id, day
"""


class Scope(NamedTuple):
    """Which lines. days: of the warehouse, before today, UTC. currency: "" = what all have. campaigns: () = any."""

    days: int
    currency: str = ""
    campaigns: Collection[str] = ()


class Spent(NamedTuple):
    """What lines have spent, by whole days; all of them can be given a budget now, in one currency.

    channels: line -> its channels. left_out: line -> why it cannot; those of another currency or campaign than was
    asked for are in neither.
    """

    lines: list[Line]
    channels: dict[str, str]
    left_out: dict[str, str]
    currency: str


def spent(settings: Settings, scope: Scope) -> Spent:
    """Return what each published line with a price has spent and earned by the day.

    A day on which a line brought or cost something is a period. Raises SettingsError where the lines are of more than
    one currency, HeraldError where the warehouse is away or knows of no spend.
    """
    to_ms = now_ms() // DAY_MS * DAY_MS
    span = {"from_ms": to_ms - scope.days * DAY_MS, "to_ms": to_ms}
    with Warehouse.from_url(settings.warehouse_url, ANSWER_S) as warehouse:
        rows: list[Any] = warehouse.execute(_SPEND, span)
    points: defaultdict[str, list[Point]] = defaultdict(list)
    placements: defaultdict[str, set[str]] = defaultdict(set)
    for line, places, _, spend, value in rows:
        points[line].append(Point(spend, max(0, value) / MICROS))
        placements[line].update(places)
    catalogue = published(settings)
    left_out = {name: why for name, found in points.items() if (why := _why_not(catalogue.lines.get(name), found))}
    live = {
        name: line
        for name, line in catalogue.lines.items()
        if name in points and name not in left_out and _is_meant(line, scope)
    }
    if not live:
        what = "".join(f"; {name} {why}" for name, why in list(left_out.items())[:5])
        raise HeraldError(
            f"the warehouse knows of no spend in the {scope.days} days before today, of lines that are published and "
            f"have a price; expected some{what}"
        )
    of = {name: place.body.channel.value for name, place in catalogue.placements.items()}
    channels = {name: " and ".join(sorted({of.get(one, "unknown") for one in placements[name]})) for name in live}
    lines = [Line(name, tuple(points[name])) for name in sorted(live)]
    currency = one_currency({name: line.campaign.currency for name, line in live.items()})
    return Spent(lines, channels, left_out, currency)


def _is_meant(line: LiveLine, scope: Scope) -> bool:
    is_of_currency = not scope.currency or line.campaign.currency == scope.currency
    return is_of_currency and (not scope.campaigns or line.campaign_id in scope.campaigns)


def _why_not(line: LiveLine | None, points: Collection[Point]) -> str:
    """Return why a line cannot be given a budget, "" where it can."""
    if line is None:
        return "is not published, or no more"
    if line.price is None:
        return "has no price"
    if max(each.next_opening_ms(now_ms()) for each in (line.timetable, line.campaign.timetable)) >= NEVER:
        return "has a schedule that is over"
    return "" if any(point.spend_micros for point in points) else "has spent nothing in these days"


def one_currency(by_line: Mapping[str, str]) -> str:
    """Return the currency of all lines. Raises SettingsError where there is more than one: no total can hold both."""
    lines: defaultdict[str, list[str]] = defaultdict(list)
    for name, currency in sorted(by_line.items()):
        lines[currency].append(name)
    if len(lines) > 1:
        said = "; ".join(f"{one}: {', '.join(names[:3])}{' …' * (len(names) > 3)}" for one, names in lines.items())
        raise SettingsError(f"lines of {len(lines)} currencies ({said}): expected one, since their money is added up")
    return next(iter(lines), "")


def spent_so_far(settings: Settings) -> dict[str, int]:
    """Return what each line has spent since it began, micros, by the books of money: what is paid or still reserved.

    That is what its total limit is held against. A line that is missing has spent nothing. Raises Retryable where Kafka
    is away.
    """
    where = f"Kafka at {settings.bootstrap_servers}, which has the books of money"
    try:
        reader = kafka.consumer(settings, bootstrap_timeout_ms=kafka.BOOTSTRAP_MS)
    except KafkaError as error:
        raise Retryable(f"{where}: {error}") from error
    try:
        books = money.books_of(progress.state_views(reader, settings, SPEND.name))
    except KafkaError as error:
        raise Retryable(f"{where}: {error}") from error
    finally:
        reader.close()
    found: defaultdict[str, int] = defaultdict(int)
    for row in books:
        found[row.line_id] += row.reserved.micros - row.released.micros
    return dict(found)


def published(settings: Settings) -> Catalogue:
    """Return what is published, from the store. Raises Retryable where it is away."""
    with closing(Database(url_of(settings))) as database:
        database.migrate()
        return Catalogue({(one.kind, one.id): one for one in Store(database).everything()})


def sending(settings: Settings) -> SendTimes:
    """Return what delivery would know of hours now. Raises HeraldError where the warehouse is away."""
    catalogue = published(settings)
    found = SendTimes(lambda: catalogue)
    with Warehouse.from_url(settings.warehouse_url, ANSWER_S) as warehouse:
        if not found.refresh(warehouse, now_ms()):
            raise HeraldError("the warehouse does not answer; see the log, or give --data")
    return found

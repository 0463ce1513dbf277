"""What the auditor looks at besides its books, now and then: which skus run out, and what learning costs or has missed.

Nothing is asked while nothing new has come, and never more than every `outlook_every_ms`. What judges is loaded only
where there is something to judge: it takes more memory than all else in this process.
"""

import logging
from typing import Final, NamedTuple

from pipeline.edge import metrics
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import now_ms
from pipeline.errors import HeraldError
from pipeline.settings import Settings

log = logging.getLogger(__name__)

ANSWER_S: Final = 60.0
SHOWN_MAX: Final = 50
"""Skus that are shown as metrics: the most urgent ones, and as many that have run out."""
WATCHED_MAX: Final = 500
"""Skus that are remembered as warned of, and so looked at each time: a forecast costs some 30 ms."""
PLACEMENTS_MAX: Final = 20
"""Placements whose regret is: those where most was seen."""
DAY_MS: Final = 86_400_000


class _Span(NamedTuple):
    from_ms: int
    to_ms: int
    interval: str = "hour"


class Lookout:
    """Remembers which skus it has warned of. For one thread."""

    def __init__(self, settings: Settings) -> None:
        """settings: read once."""
        self._settings = settings
        self._next_ms = 0
        self._has_news = True
        self._warned: set[tuple[str, str]] = set()

    def note(self, is_quiet: bool) -> None:
        """Say whether something new has come to the warehouse."""
        self._has_news |= not is_quiet

    def is_due(self, time_ms: int) -> bool:
        """Say whether it is time to look, and there is anything new."""
        return self._settings.outlook_every_ms > 0 and self._has_news and time_ms >= self._next_ms

    def look(self, time_ms: int | None = None) -> bool:
        """Look, if it is time and something is new; return whether it did. time_ms: now.

        A warehouse that is away is a log line: the next look asks again.
        """
        time_ms = now_ms() if time_ms is None else time_ms
        if not self.is_due(time_ms):
            return False
        self._next_ms = time_ms + self._settings.outlook_every_ms
        try:
            with Warehouse.from_url(self._settings.warehouse_url, ANSWER_S) as warehouse:
                self.look_at(warehouse, time_ms)
        except HeraldError as error:
            log.warning("no outlook now: %s", error)
            return False
        self._has_news = False
        return True

    def look_at(self, warehouse: Warehouse, time_ms: int) -> None:
        """Look now. Raises as the warehouse does."""
        if warehouse.execute("SELECT 1 FROM events WHERE event_type = 'stock' LIMIT 1"):
            self._stock(warehouse, time_ms)
        if warehouse.execute("SELECT 1 FROM outcomes LIMIT 1"):
            _learning(warehouse, time_ms)

    def _stock(self, warehouse: Warehouse, time_ms: int) -> None:
        from pipeline.audit.stock import running_low
        from pipeline.core.stock_watch import crossed, most_urgent, outlook, shown

        lead_days = self._settings.stock_lead_days
        asked = running_low(warehouse, time_ms, watched=self._warned)
        found = most_urgent([outlook(one, lead_days) for one in asked])
        changed = crossed(found, self._warned)
        for one in changed.warned:
            log.warning("%s: %s %s", *one.name, one.words(lead_days))
        for site, sku in changed.over:
            log.info("%s: %s does not run out within %d days any more", site, sku, lead_days)
        self._warned = {one.name for one in [one for one in found if one.warns][:WATCHED_MAX]}
        for gauge in (metrics.STOCK_RUNS_OUT, metrics.STOCK_RISK):
            gauge.clear()
        metrics.STOCK_WARNED.set(len(self._warned))
        for one in shown(found, SHOWN_MAX):
            metrics.STOCK_RISK.labels(*one.name).set(one.risk)
            for bound, hours in (("even", one.hours), ("early", one.early_hours)):
                if hours is not None:
                    metrics.STOCK_RUNS_OUT.labels(*one.name, bound).set(hours)


def _learning(warehouse: Warehouse, time_ms: int) -> None:
    from pipeline.core.learning_curve import drifts, regret
    from pipeline.edge.rewards import TooMany, busiest, read_cells

    span = _Span(time_ms - DAY_MS, time_ms)
    names = busiest(warehouse, span, PLACEMENTS_MAX)
    found = {}
    for name in names:
        try:
            found[name] = read_cells(warehouse, name, span)
        except TooMany as error:
            log.warning("%s: what learning costs is not told: %s", name, error)
    for gauge in (metrics.LEARNING_REGRET, metrics.LEARNING_DRIFTS):
        gauge.clear()
    for placement, cells in found.items():
        metrics.LEARNING_DRIFTS.labels(placement).set(len(drifts(cells)))
        lost = regret(cells)
        if lost is not None:
            for bound, value in (("mean", lost.value), ("low", lost.interval.low), ("high", lost.interval.high)):
                metrics.LEARNING_REGRET.labels(placement, bound).set(value - lost.earned)

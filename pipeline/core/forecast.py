"""Demand by sku, and when its stock runs out: River's time series, chosen by backtest, with what may come.

Which of them, on a year of real sales: SNARIMAX diverges on some skus with every regressor that was tried, and is worse
than a level where it does not (two weeks' demand off by 37 % against 28 %); Holt-Winters as River starts it is off by
several times the demand, since its trend begins with the first days' differences. Started evenly, as here, it is as
good as a level alone, and better where the week has a shape. So each sku gets of these two what foretold its own past
better; one with few sales an exponentially weighted mean.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import NDArray
from river import stats, time_series

Floats = NDArray[np.float64]
WEEK: Final = 7
HORIZON_DAYS: Final = 180
HISTORY_DAYS: Final = 730
UNITS_MAX: Final = 1e12
ODD: Final = 100.0
"""A day that brought more than this times the usual day with sales is taken as this: one order that a client has
written a million into would else be the level, the noise and the doubt, and no warning would come for years."""


class Method(StrEnum):
    """How a sku is forecast."""

    HOLT_WINTERS = "holt_winters"  # a level and the week's shape
    LEVEL = "level"  # Holt-Winters without trend and season
    MEAN = "mean"  # of few sales, exponentially weighted


@dataclass(frozen=True)
class ForecastRules:
    """fading: weight of the newest day in a level. season_fading: in the week's shape. start_days: days from whose mean
    a forecast starts. sales_days_min: with fewer days of sales than this share a sku is sparse. better: a shape is used
    where it foretold better by so much. risk: probability of an end within the lead time at which it is warned of. It
    is low because a stock is looked at every day until then, and any look may be the last one in time: at 5 % a third
    of the warnings came too late for a week's lead, at 1 % hardly any.
    """

    fading: float = 0.03
    season_fading: float = 0.05
    start_days: int = 28
    sales_days_min: float = 0.4
    better: float = 0.02
    risk: float = 0.01


DEFAULT: Final = ForecastRules()
_ORIGINS_EVERY: Final = 7
_HORIZONS: Final = (5, 14)
_NOISE, _NOISE_DAYS = 1.5, 20.0
_DOUBT, _DOUBT_ORIGINS = 0.05, 6.0
"""Before any backtest: variance / mean of a day's demand, and squared relative error of the level; and their weight."""


class Forecast(NamedTuple):
    """What may be asked for. daily: expected units of each of the next 180 days.

    noise, doubt: the demand of h days has mean m = sum of daily[:h] and variance noise x m + doubt x m^2.
    errors: by method, sum of absolute errors / sum of demand over 5 and 14 days in the backtest; empty where the past
    was too short for one. days: how many were seen.
    """

    method: Method
    daily: tuple[float, ...]
    noise: float
    doubt: float
    errors: dict[Method, float]
    days: int


class RunsOut(NamedTuple):
    """When a stock ends: in the course of which day from now (1 = the first). None = later than 180 days from now.

    days: as likely earlier as later. early, late: with 90 % between them. risk: that it ends within the lead time.
    warns: the risk is not to be overlooked.
    """

    days: int | None
    early: int | None
    late: int | None
    risk: float
    warns: bool


def forecast(demand: Sequence[float | None], rules: ForecastRules = DEFAULT) -> Forecast:
    """Return what may be asked for after these days. demand: units by day, oldest first, without gaps: 0 where nothing
    was sold, None where nothing could be (closed, or no stock): such a day says nothing of the demand. Only the last
    730 days are read; of each 10^12 units at most, and a hundred times the median of the days with sales. No day is
    expected to bring more than the best one did.

    Raises ValueError for demand that is negative or no number, and for none at all.
    """
    seen = _checked(demand[-HISTORY_DAYS:])
    sold = sum(1 for units in seen if units)
    known = sum(1 for units in seen if units is not None)
    methods = [Method.MEAN]
    if known >= 2 * rules.start_days and sold >= rules.sales_days_min * known:
        methods = [Method.LEVEL, Method.HOLT_WINTERS]
    judged = {method: _Judged(method, rules) for method in methods}
    for one in judged.values():
        one.go(seen)
    method = methods[0]
    if len(methods) > 1 and judged[methods[1]].error < (1.0 - rules.better) * judged[method].error:
        method = methods[1]
    best = judged[method]
    errors = {name: one.error for name, one in judged.items() if math.isfinite(one.error)}
    daily = tuple(best.model.next(HORIZON_DAYS).tolist())
    return Forecast(method, daily, best.noise(), best.doubt(), errors, len(seen))


def _checked(demand: Iterable[float | None]) -> list[float | None]:
    seen = list(demand)
    for day, units in enumerate(seen):
        if units is not None and not 0.0 <= units < math.inf:
            raise ValueError(f"day {day}: found {units}, expected 0 or more units, or None")
    if all(units is None for units in seen):
        raise ValueError("no day of sales, expected one at least")
    usual = statistics.median_low([units for units in seen if units] or [0.0])
    most = min(ODD * usual, UNITS_MAX)
    return [units if units is None else min(units, most) for units in seen]


class _Model:
    """One of River's models, started evenly from the mean of the first days, never negative, never infinite."""

    def __init__(self, method: Method, rules: ForecastRules) -> None:
        self._make: Callable[[], Any] = _MAKERS[method](rules)
        self._start_days = rules.start_days
        self._mean = stats.Mean()
        self._started: Any = self._make() if method is Method.MEAN else None
        self._first: list[float] = []
        self._most = 0.0

    def learn(self, units: float) -> None:
        self._most = max(self._most, units)
        if self._started is None:
            self._first.append(units)
            self._mean.update(units)
            if len(self._first) < self._start_days:
                return
            self._started = self._make()
            level = self._mean.get() or 1.0 / (2.0 * self._start_days)
            for _ in range(WEEK):
                self._started.learn_one(level)
            for one in self._first:
                self._started.learn_one(one)
        else:
            self._started.learn_one(units)

    def next(self, days: int) -> Floats:
        """Return the expected units of the next days."""
        level = float(self._mean.get())
        if self._started is None:
            return np.full(days, level)
        found = np.array(self._started.forecast(days), dtype=np.float64)
        # a weekday without sales for years has next to no season, and its first sale would lift the level sky-high
        return np.clip(np.where(np.isfinite(found), found, level), 0.0, self._most)


class _FewSales:
    """River's exponentially weighted mean as a forecaster; a plain mean at first, or day one would rule."""

    def __init__(self, fading: float) -> None:
        self._fading = fading
        self._plain = stats.Mean()
        self._weighted: stats.EWMean | None = None

    def learn_one(self, units: float) -> None:
        if self._weighted is None:
            self._plain.update(units)
            if self._plain.n * self._fading >= 1.0:
                self._weighted = stats.EWMean(self._fading)
                self._weighted.update(self._plain.get())
        else:
            self._weighted.update(units)

    def forecast(self, days: int) -> list[float]:
        return [(self._weighted or self._plain).get()] * days


_MAKERS: Final[dict[Method, Callable[[ForecastRules], Callable[[], Any]]]] = {
    Method.MEAN: lambda rules: lambda: _FewSales(rules.fading),
    Method.LEVEL: lambda rules: lambda: _holt_winters(alpha=rules.fading),
    # a trend carried on for weeks is worth less than none; 0 is not taken beside a season
    Method.HOLT_WINTERS: lambda rules: (
        lambda: _holt_winters(
            alpha=rules.fading, beta=1e-4, gamma=rules.season_fading, seasonality=WEEK, multiplicative=True
        )
    ),
}


def _holt_winters(**options: float) -> Any:
    return time_series.HoltWinters(**options)  # type: ignore[no-untyped-call]


class _Judged:
    """A model taken through the past: at each origin it knows what was known then."""

    def __init__(self, method: Method, rules: ForecastRules) -> None:
        self.model = _Model(method, rules)
        self._start = 2 * rules.start_days
        self._absolute = self._sum = 0.0
        self._squares = self._expected = 0.0
        self._levels: list[tuple[float, float]] = []

    @property
    def error(self) -> float:
        return self._absolute / self._sum if self._sum else math.inf

    def go(self, seen: Sequence[float | None]) -> None:
        for day, units in enumerate(seen):
            if day >= self._start:
                self._look(seen, day)
            # a day that says nothing is taken as expected, so that the week goes on
            self.model.learn(float(self.model.next(1)[0]) if units is None else units)

    def _look(self, seen: Sequence[float | None], day: int) -> None:
        is_origin = not (day - self._start) % _ORIGINS_EVERY
        expected = self.model.next(_HORIZONS[-1] if is_origin else 1)
        units = seen[day]
        if units is not None:
            self._squares += (units - float(expected[0])) ** 2
            self._expected += float(expected[0])
        if not is_origin:
            return
        for horizon in _HORIZONS:
            came = seen[day : day + horizon]
            if len(came) == horizon and None not in came:
                total, mean = float(sum(filter(None, came))), float(expected[:horizon].sum())
                self._absolute += abs(total - mean)
                self._sum += total
                if horizon == _HORIZONS[-1]:
                    self._levels.append((total - mean, mean))

    def noise(self) -> float:
        """Variance / mean of a day's demand, drawn to what is usual."""
        usual = _NOISE_DAYS * max(self._expected, 1e-9) / max(1.0, self._expected)
        return (self._squares + _NOISE * usual) / (self._expected + usual) if self._expected else _NOISE

    def doubt(self) -> float:
        """Squared relative error of the level: what errors over two weeks have beyond a day's noise."""
        noise = self.noise()
        excess = sum(max(0.0, error**2 - noise * mean) / max(mean, 1.0) ** 2 for error, mean in self._levels)
        return (excess + _DOUBT * _DOUBT_ORIGINS) / (len(self._levels) + _DOUBT_ORIGINS)


def runs_out(expected: Forecast, stock: float, lead_days: int = 7, rules: ForecastRules = DEFAULT) -> RunsOut:
    """Return when a stock will end. stock: units left. lead_days: how long it takes to get more, 0 to 180."""
    if stock <= 0:
        return RunsOut(0, 0, 0, 1.0, True)
    gone = chance_gone(expected, stock)
    early, middle, late = (_first(gone, level) for level in (0.05, 0.5, 0.95))
    risk = float(gone[min(lead_days, len(gone)) - 1]) if lead_days > 0 else 0.0
    return RunsOut(middle, early, late, risk, risk >= rules.risk)


def chance_gone(expected: Forecast, stock: float) -> Floats:
    """Return, for each number of days from 1 on, the probability that the stock is gone by then (a Gamma's)."""
    mean = np.cumsum(expected.daily)
    variance = expected.noise * mean + expected.doubt * mean**2
    safe = np.maximum(mean, 1e-12)
    shape = safe**2 / np.maximum(variance, 1e-12)
    # whole units: what reaches half a unit below the stock rounds to it
    gone = scipy.special.gammaincc(shape, max(stock - 0.5, 1e-9) * safe / np.maximum(variance, 1e-12))
    return np.asarray(np.maximum.accumulate(np.where(mean > 0.0, gone, 0.0)))


def _first(gone: Floats, level: float) -> int | None:
    reached = np.flatnonzero(gone >= level)
    return int(reached[0]) + 1 if len(reached) else None


def hours_until(expected: Forecast, stock: float, chance: float) -> float | None:
    """Return in how many hours a stock is gone with this probability; None = later than 180 days from now."""
    if stock <= 0:
        return 0.0
    gone = chance_gone(expected, stock)
    day = _first(gone, chance)
    if day is None:
        return None
    before = float(gone[day - 2]) if day > 1 else 0.0
    part = (chance - before) / (float(gone[day - 1]) - before)
    return 24.0 * (day - 1 + part)

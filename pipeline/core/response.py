"""What spending brings: a concave curve for each line, fitted to points of spend and value, with its doubt.

    power       value = c (s / s0)^b, 0 < b < 1         falling returns, without an end
    saturating  value = c (s / (s + k)) ((s0 + k) / s0)  Hill's curve with exponent 1: at most a ceiling

s: spend of one period, s0: the line's mean one, c: its value there. The noise is taken as quasi-Poisson (variance =
dispersion x mean), which fits counts and sums of money. How bent the curves are is first fitted to all lines together,
then to each, drawn to that; given the bend, c is a Gamma variable in closed form. No randomness: the draws that stand
for the doubt lie on a lattice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import NDArray

DRAWS: Final = 128
MICROS: Final = 1_000_000
Floats = NDArray[np.float64]
_GRID: Final = np.linspace(-4.0, 4.0, 81)
_ATOMS: Final = (np.arange(16) + 0.5) / 16
_PRIME_ROOTS: Final = math.sqrt(5.0), math.sqrt(2.0)


class Shape(StrEnum):
    """Kind of curve."""

    POWER = "power"
    SATURATING = "saturating"


class Point(NamedTuple):
    """What one period (a day, a week, an ad) of a line cost and brought. value: in any unit, not negative."""

    spend_micros: int
    value: float


@dataclass(frozen=True)
class Line:
    """A line, or a channel: its past periods and the bounds of what it may get. maximum_micros: None = no bound."""

    name: str
    points: tuple[Point, ...]
    minimum_micros: int = 0
    maximum_micros: int | None = None

    @property
    def spent_micros(self) -> int:
        """What its points cost."""
        return sum(point.spend_micros for point in self.points)


_PRIOR: Final = {Shape.POWER: (0.85, 0.7), Shape.SATURATING: (0.0, 1.5)}
"""Mean and deviation of the bend before any data: b about 0.7 (0.37 to 0.9); k about the mean spend (1/20 to 20 x)."""


@dataclass(frozen=True)
class Curves:
    """The curves of all lines, each as many equally likely draws. Arrays: scale, bend (lines, draws); means, periods
    (lines); atoms (lines, few). means: mean spend of a period in micros. periods: how many make up the span that is
    planned. atoms: how unevenly they spend, relative to their mean; a new total scales every period alike, and ten even
    days bring more than nine empty ones and a full one. dispersion: variance / mean of the values around the curve.
    """

    shape: Shape
    scale: Floats
    bend: Floats
    means: Floats
    periods: Floats
    atoms: Floats
    dispersion: float

    def value(self, spend_micros: Floats) -> Floats:
        """Return (lines, draws): what the lines bring in the span for these total spends."""
        relative = (spend_micros / self.periods / self.means)[:, None]
        if self.shape is Shape.POWER:
            power = scipy.special.expit(self.bend)
            return np.asarray(self._uneven * relative**power)
        half = np.exp(self.bend)[:, :, None]
        spent = relative[:, :, None] * self.atoms[:, None, :]
        return np.asarray(self.periods[:, None] * self.scale * (spent * (1.0 + half) / (spent + half)).mean(axis=2))

    def marginal(self, spend_micros: Floats) -> Floats:
        """Return (lines, draws): what a micro more brings at these total spends."""
        relative = (spend_micros / self.periods / self.means)[:, None]
        if self.shape is Shape.POWER:
            power = scipy.special.expit(self.bend)
            slope = self._uneven * power * np.maximum(relative, 1e-12) ** (power - 1.0)
            return np.asarray(slope / (self.periods * self.means)[:, None])
        half, atoms = np.exp(self.bend)[:, :, None], self.atoms[:, None, :]
        slope = (atoms * half * (1.0 + half) / (relative[:, :, None] * atoms + half) ** 2).mean(axis=2)
        return np.asarray(self.scale * slope / self.means[:, None])

    @cached_property
    def _uneven(self) -> Floats:
        """What the span brings at its mean spend, by the power curve: a factor, whatever the total."""
        power = scipy.special.expit(self.bend)[:, :, None]
        return np.asarray(self.periods[:, None] * self.scale * (self.atoms[:, None, :] ** power).mean(axis=2))


def _curve(shape: Shape, relative: Floats, bend: Floats) -> Floats:
    """Return the curve without its scale: 1 at the mean spend. relative: spend / mean spend."""
    if shape is Shape.POWER:
        return np.asarray(relative ** scipy.special.expit(bend))
    half = np.exp(bend)
    return np.asarray(relative / (relative + half) * (1.0 + half))


class _Data(NamedTuple):
    """One line's points: spend / mean spend, values; the mean; and what a mean period is expected to bring."""

    relative: Floats
    values: Floats
    mean: float
    expected: float


def fit(lines: Sequence[Line], shape: Shape | None = None, draws: int = DRAWS) -> Curves:
    """Return the curves. shape: None = the one that fits better.

    Periods without spend are left out: what they brought came without us. A line without points is taken as the mean
    of the others. Raises ValueError where no line has a point with spend and value, or one is negative or no number.
    """
    data, counts = _data(lines)
    fits = [_pooled(data, one) for one in ((shape,) if shape else tuple(Shape))]
    best = min(fits, key=lambda one: one.dispersion)
    scale, bend = np.empty((len(lines), draws)), np.empty((len(lines), draws))
    for place, one in enumerate(data):
        bend[place], scale[place] = _draws(one, best, draws, place)
    means = np.array([one.mean for one in data])
    atoms = np.array([np.quantile(one.relative if len(one.relative) else [1.0], _ATOMS) for one in data])
    atoms /= atoms.mean(axis=1, keepdims=True)
    for place, one in enumerate(data):
        if len(one.relative):  # a few atoms stand for all periods: at the present spend they bring exactly as much
            brought = _curve(best.shape, one.relative[:, None], bend[place]).mean(axis=0)
            scale[place] *= brought / _curve(best.shape, atoms[place][:, None], bend[place]).mean(axis=0)
    return Curves(best.shape, scale, bend, means, np.array(counts), atoms, best.dispersion)


def _data(lines: Sequence[Line]) -> tuple[list[_Data], list[float]]:
    found = [[(spend, value) for spend, value in _checked(line) if spend > 0] for line in lines]
    every = [point for points in found for point in points]
    spent, brought = sum(spend for spend, _ in every), sum(value for _, value in every)
    if not every or brought <= 0.0:
        raise ValueError("no line has both spend and value: nothing to learn from")
    typical = float(np.median([len(points) for points in found if points]))
    data = []
    for points in found:
        mean = sum(spend for spend, _ in points or every) / len(points or every)
        relative = np.array([spend / mean for spend, _ in points])
        values = np.array([value for _, value in points], dtype=np.float64)
        data.append(_Data(relative, values, mean, brought / spent * mean))
    return data, [float(len(points) or typical) for points in found]


def _checked(line: Line) -> tuple[Point, ...]:
    for point in line.points:
        if point.spend_micros < 0 or not 0.0 <= point.value < math.inf:
            raise ValueError(f"line {line.name}: found {tuple(point)}, expected spend and value of 0 or more")
    return line.points


class _Fit(NamedTuple):
    """bend: that fits all lines best, drawn to the prior. deviation: of a line's own around it."""

    shape: Shape
    bend: float
    deviation: float
    dispersion: float


def _pooled(data: Sequence[_Data], shape: Shape) -> _Fit:
    mean, deviation = _PRIOR[shape]

    def loss(bend: float, dispersion: float) -> float:
        likelihood = sum(_evidence(one, shape, bend, dispersion) for one in data)
        return 0.5 * ((bend - mean) / deviation) ** 2 - likelihood

    bend, dispersion = mean, _dispersion(data, shape, mean)
    for _ in range(4):
        bounds = mean - 4.0 * deviation, mean + 4.0 * deviation
        found = scipy.optimize.minimize_scalar(loss, bounds=bounds, args=(dispersion,), method="bounded")
        bend = float(found.x)
        dispersion = _dispersion(data, shape, bend)
    return _Fit(shape, bend, deviation / 2.0, dispersion)


def _evidence(one: _Data, shape: Shape, bend: float, dispersion: float) -> float:
    """Return the log of the probability of a line's values given the bend, its scale integrated out."""
    curve = _curve(shape, one.relative, np.float64(bend))  # type: ignore[arg-type]
    weight, exposure = _gamma(one, curve, dispersion)
    logs = float(one.values @ np.log(curve)) / dispersion if len(curve) else 0.0
    return logs + float(scipy.special.gammaln(weight)) - weight * math.log(exposure)


def _gamma(one: _Data, curve: Floats, dispersion: float) -> tuple[float, float]:
    """Return the scale's Gamma: shape and rate. Before its data it is worth one period of the mean return of all."""
    weight = (float(one.values.sum()) + one.expected) / dispersion
    return weight, (float(curve.sum()) + 1.0) / dispersion


def _dispersion(data: Sequence[_Data], shape: Shape, bend: float) -> float:
    """Return Pearson's: squared errors / expected values, over the degrees of freedom."""
    squares, freedom = 0.0, -1
    for one in data:
        curve = _curve(shape, one.relative, np.float64(bend))  # type: ignore[arg-type]
        weight, exposure = _gamma(one, curve, 1.0)
        expected = weight / exposure * curve
        squares += float(((one.values - expected) ** 2 / np.maximum(expected, 1e-300)).sum())
        freedom += max(0, len(one.values) - 1)
    return max(squares / max(1, freedom), 1e-9)


def _draws(one: _Data, fitted: _Fit, draws: int, place: int) -> tuple[Floats, Floats]:
    """Return equally likely (bends, scales) of a line: a lattice of quantiles, turned by the line's place."""
    grid = fitted.bend + fitted.deviation * _GRID
    logs = np.array([_evidence(one, fitted.shape, bend, fitted.dispersion) for bend in grid]) - 0.5 * _GRID**2
    weights = np.exp(logs - logs.max())
    cumulative = (np.cumsum(weights) - 0.5 * weights) / weights.sum()
    number = np.arange(draws) + 0.5
    bends = np.interp((number / draws + place * _PRIME_ROOTS[1]) % 1.0, cumulative, grid)
    scales = np.empty(draws)
    for index, (bend, level) in enumerate(zip(bends, (number * _PRIME_ROOTS[0]) % 1.0, strict=True)):
        weight, exposure = _gamma(one, _curve(fitted.shape, one.relative, bend), fitted.dispersion)
        scales[index] = float(scipy.special.gammaincinv(weight, max(level, 1e-9))) / exposure
    return bends, scales

"""Allocation of a total over lines, or over channels: where a unit more brings most, with the doubt that there is.

At the optimum a micro more brings as much on every line that is not at a bound; what a line brings is concave, so that
there is one optimum. Nothing is applied here: the result says old, new, what to expect of it, and why.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from pipeline.core.response import MICROS, Curves, Floats, Line, Shape, fit

_STEPS: Final = 40
_TINY: Final = 1e-9
TRIED: Final = 0.9
"""Where the mean period would spend more than this share of the past ones did, the value is said to be a guess."""


class Estimate(NamedTuple):
    """Expected value and where it lies with 90 %."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class AllocateRules:
    """caution: 0 = expected value; towards 1 a line counts by the worst 1 - caution of what it may bring, so that money
    goes where the return is sure. explore: give each line the mean of what would be best in each possible case (as
    Thompson sampling does over many rounds), so that unsure lines are tried. change_max: a line may change by this
    share of what it had (0.5 = half); None = freely.
    """

    caution: float = 0.0
    explore: bool = False
    change_max: float | None = None
    shape: Shape | None = None


@dataclass(frozen=True)
class Proposed:
    """One line. old_micros: what its points cost. marginal: what a unit of money more brings at the new spend."""

    name: str
    old_micros: int
    new_micros: int
    value_old: Estimate
    value_new: Estimate
    marginal: float
    why: str


@dataclass(frozen=True)
class Proposal:
    """What is proposed, to be read before it is applied. The lines' new_micros sum to total_micros exactly.

    gain: new value - old value, of all lines. better: probability that there is a gain. marginal: what a unit of money
    more brings on lines not at a bound.
    """

    lines: tuple[Proposed, ...]
    total_micros: int
    old_micros: int
    value_old: Estimate
    value_new: Estimate
    gain: Estimate
    better: float
    marginal: float
    shape: Shape


def allocate(lines: Sequence[Line], total_micros: int, rules: AllocateRules | None = None) -> Proposal:
    """Return how to share out a total over lines, for a span of as many periods as each line's points cover.

    Raises ValueError where names repeat, bounds leave no room for the total, or nothing can be learnt (see `fit`).
    """
    rules = rules or AllocateRules()
    _check_names(lines)
    lows, highs = bounds(lines, total_micros, rules)
    curves = fit(lines, rules.shape)
    if rules.explore:
        ideal = np.mean(
            [best(_drawn(curves, draw), lows, highs, total_micros, 0.0) for draw in range(_cases(curves))], 0
        )
    else:
        ideal = best(curves, lows, highs, total_micros, rules.caution)
    new = exact(ideal, total_micros, lows, highs)
    return _proposal(lines, new, curves, (lows, highs), total_micros)


def bounds(lines: Sequence[Line], total_micros: int, rules: AllocateRules) -> tuple[list[int], list[int]]:
    """Return the least and the most micros of each line. Raises ValueError where the total does not fit between."""
    lows, highs = [], []
    for line in lines:
        low = line.minimum_micros
        high = max(low, total_micros) if line.maximum_micros is None else line.maximum_micros
        if rules.change_max is not None and line.spent_micros:
            low = max(low, math.ceil(line.spent_micros * (1.0 - rules.change_max)))
            high = min(high, math.floor(line.spent_micros * (1.0 + rules.change_max)))
        if not 0 <= low <= high:
            raise ValueError(f"line {line.name}: from {_money(low)} to {_money(high)}, expected 0 <= least <= most")
        lows.append(low)
        highs.append(min(high, total_micros) if low <= total_micros else high)
    if not sum(lows) <= total_micros <= sum(highs):
        between = f"{_money(sum(lows))} to {_money(sum(highs))}"
        raise ValueError(f"total {_money(total_micros)}, but the lines' bounds leave {between}")
    return lows, highs


def best(curves: Curves, lows: Sequence[int], highs: Sequence[int], total_micros: int, caution: float) -> Floats:
    """Return the spends with the largest value; they sum to the total up to rounding.

    Two bisections: for a price of a micro each line buys as long as a micro brings more; the price is right when the
    total is used up.
    """
    low, high = np.array(lows, dtype=np.float64), np.array(highs, dtype=np.float64)
    floor = np.maximum(low, _TINY * max(1, total_micros))
    cheap, dear = (math.log(max(1e-300, one)) for one in _prices(curves, floor, high, caution))
    for _ in range(_STEPS):
        price = (cheap + dear) / 2.0
        if _bought(curves, low, high, math.exp(price), caution).sum() > total_micros:
            cheap = price
        else:
            dear = price
    return _bought(curves, low, high, math.exp((cheap + dear) / 2.0), caution)


def _prices(curves: Curves, floor: Floats, high: Floats, caution: float) -> tuple[float, float]:
    least = float(_marginal(curves, np.maximum(high, floor), caution).min())
    return least * 0.5, float(_marginal(curves, floor, caution).max()) * 2.0


def _bought(curves: Curves, low: Floats, high: Floats, price: float, caution: float) -> Floats:
    """Return, for each line, how much is worth its price."""
    lower, upper = low.copy(), high.copy()
    for _ in range(_STEPS):
        middle = (lower + upper) / 2.0
        worth = _marginal(curves, middle, caution) > price
        lower, upper = np.where(worth, middle, lower), np.where(worth, upper, middle)
    return np.asarray((lower + upper) / 2.0)


def _marginal(curves: Curves, spend: Floats, caution: float) -> Floats:
    """Return what a micro more brings: of the mean of the worst 1 - caution of the draws, which is concave as well."""
    marginal = curves.marginal(spend)
    kept = max(1, round(marginal.shape[1] * (1.0 - caution)))
    if kept == marginal.shape[1]:
        return np.asarray(marginal.mean(axis=1))
    worst = np.argpartition(curves.value(spend), kept - 1, axis=1)[:, :kept]
    return np.asarray(np.take_along_axis(marginal, worst, axis=1).mean(axis=1))


def _cases(curves: Curves) -> int:
    return min(16, int(curves.scale.shape[1]))


def _drawn(curves: Curves, draw: int) -> Curves:
    """Return one possible case: of each line one draw, turned so that neighbours are not in step."""
    count = curves.scale.shape[1]
    picks = [(draw * (count // _cases(curves)) + 37 * place) % count for place in range(len(curves.means))]
    rows = np.arange(len(picks))
    scale, bend = curves.scale[rows, picks][:, None], curves.bend[rows, picks][:, None]
    return replace(curves, scale=scale, bend=bend)


def exact(ideal: Floats, total_micros: int, lows: Sequence[int], highs: Sequence[int]) -> list[int]:
    """Return whole micros near `ideal` within the bounds that sum to the total exactly."""
    found = [min(high, max(low, math.floor(one))) for one, low, high in zip(ideal, lows, highs, strict=True)]
    places = sorted(range(len(found)), key=lambda place: ideal[place] - found[place], reverse=True)
    while rest := total_micros - sum(found):
        room = [place for place in places if (found[place] < highs[place] if rest > 0 else found[place] > lows[place])]
        assert room, f"{rest} micros are left of {total_micros}"
        share = max(1, abs(rest) // len(room))
        for place in room[: abs(rest)]:
            if rest > 0:
                found[place] += min(share, highs[place] - found[place])
            else:
                found[place] -= min(share, found[place] - lows[place])
    return found


# --- what is said about it -------------------------------------------------------------------------------------------


def _proposal(
    lines: Sequence[Line], new: Sequence[int], curves: Curves, limits: tuple[Sequence[int], Sequence[int]], total: int
) -> Proposal:
    spent = np.array([line.spent_micros for line in lines], dtype=np.float64)
    amounts = np.array(new, dtype=np.float64)
    before, after = curves.value(spent), curves.value(amounts)
    at_old, at_new = curves.marginal(spent).mean(axis=1), curves.marginal(amounts).mean(axis=1)
    inner = [low < one < high for one, low, high in zip(new, *limits, strict=True)]
    price = float(np.median(at_new[inner] if any(inner) else at_new))
    worth = at_old / price if price else np.ones(len(lines))
    proposed = tuple(
        Proposed(
            line.name, line.spent_micros, new[place], _estimate(before[place]), _estimate(after[place]),
            float(at_new[place]) * MICROS,
            _why(line, new[place], float(worth[place]), (limits[0][place], limits[1][place]), len(lines)),
        )
        for place, line in enumerate(lines)
    )  # fmt: skip
    gain = _sum(after - before)
    deviation = (gain.high - gain.mean) / _Z_90
    better = 0.5 * math.erfc(-gain.mean / deviation / math.sqrt(2.0)) if deviation > 0.0 else float(gain.mean > 0.0)
    return Proposal(
        proposed, total, int(spent.sum()), _sum(before), _sum(after), gain, better, price * MICROS, curves.shape
    )


_Z_90: Final = 1.645


def _estimate(values: Floats) -> Estimate:
    low, high = np.quantile(values, (0.05, 0.95))
    return Estimate(float(values.mean()), float(low), float(high))


def _sum(values: Floats) -> Estimate:
    """Return what all lines bring; they are unsure independently of each other."""
    mean, reach = float(values.mean(axis=1).sum()), _Z_90 * math.sqrt(float(values.var(axis=1).sum()))
    return Estimate(mean, mean - reach, mean + reach)


def _why(line: Line, new: int, worth: float, limits: tuple[int, int], count: int) -> str:
    """Return one sentence. worth: what a unit more brought at the old spend / what it brings on the lines now."""
    old, spends = line.spent_micros, [point.spend_micros for point in line.points if point.spend_micros]
    if not spends:
        return "nothing known of it yet: taken as the mean of the others"
    said = []
    if count > 1 and new in limits:
        said.append("at its least" if new == limits[0] else "at its most")
    elif abs(new - old) < 0.005 * max(old, 1):
        said.append("stays: a unit more brings what it brings elsewhere")
    if not said or new in limits:
        said.append(f"a unit more brought {worth:.2f} times what it will bring on the others")
    tried = float(np.quantile(spends, TRIED))
    if new > old and new / len(spends) > tried:
        said.append(f"a guess: {new / max(old, 1):.1f} times what it had, which was hardly ever tried")
    return "; ".join(said)


def _check_names(lines: Sequence[Line]) -> None:
    names = [line.name for line in lines]
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"lines that are there twice: {', '.join(repeated[:5])}")


def _money(micros: int) -> str:
    return f"{micros / MICROS:,.2f}"

"""The tables, and what they say in one number. Errors are standard errors over seeds, of ratios by pairs of seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tests.bench_learning.lineup import BOUND_VW, DEFAULT, VW

Regrets = dict[str, dict[str, list[float]]]
"""Problem -> player -> regret of each seed; the same seeds of every player."""
Costs = dict[str, dict[int, tuple[float, float, float]]]
"""Player -> actions -> microseconds to decide, to learn, to make a model."""
AIMS_US = {100: (100.0, 100.0), 1_000: (1_000.0, 100.0)}
"""Actions -> (decide, learn)."""


class Measured(NamedTuple):
    """A mean over seeds, or a ratio of two. error: its standard error; NaN of a single seed."""

    value: float
    error: float

    def __str__(self) -> str:
        """Return both, as tables show a ratio."""
        return f"{self.value:.2f} +-{self.error:.2f}" if not math.isnan(self.error) else f"{self.value:.2f}"


def mean(values: Sequence[float]) -> Measured:
    """Return the mean of some seeds."""
    return Measured(statistics.fmean(values), _error(values))


def ratio(values: Sequence[float], others: Sequence[float]) -> Measured:
    """Return mean / mean; the error is that of (value - ratio x other) over pairs of seeds, which met the same luck."""
    over = statistics.fmean(others)
    found = statistics.fmean(values) / over if over > 0.0 else math.nan
    error = _error([value - found * other for value, other in zip(values, others, strict=True)])
    return Measured(found, error / over if over > 0.0 else math.nan)


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def best_of(players: dict[str, list[float]], beginning: str) -> str | None:
    """Return who of those whose names begin so has the least mean regret, chosen after the fact."""
    means = {
        name: statistics.fmean(values) for name, values in players.items() if name.startswith(beginning) and values
    }
    return min(means, key=means.__getitem__) if means else None


def vw_best(players: dict[str, list[float]], beginning: str = VW) -> tuple[str, float] | None:
    """Return VW's best setting for a problem and its mean regret."""
    name = best_of(players, beginning)
    return None if name is None else (name, statistics.fmean(players[name]))


def ratios(regrets: Regrets) -> dict[str, dict[str, Measured]]:
    """Return player -> problem -> regret as a multiple of VW's best."""
    found: dict[str, dict[str, Measured]] = {}
    for problem, players in regrets.items():
        best = best_of(players, VW)
        if best is not None:
            for name, values in players.items():
                found.setdefault(name, {})[problem] = ratio(values, players[best])
    return found


def show_problem(console: Console, title: str, players: dict[str, list[float]], notes: dict[str, str]) -> None:
    """Print a problem's rows, best first. notes: why some did not play."""
    best = best_of(players, VW)
    table = Table("player", "to VW's best", "mean regret", "s.e.", title=title, title_justify="left")
    for name in sorted(players, key=lambda name: statistics.fmean(players[name])):
        found = mean(players[name])
        multiple = str(ratio(players[name], players[best])) if best is not None else ""
        style = "bold" if name == DEFAULT else ""
        table.add_row(name, multiple, f"{found.value:.4f}", f"{found.error:.4f}", style=style)
    for name, why in notes.items():
        table.add_row(name, "", why, "")
    console.print(table)


def show_summary(console: Console, regrets: Regrets, groups: dict[str, str]) -> None:
    """Print the geometric mean of the ratios to VW's best, over each group's problems."""
    names = sorted({groups[problem] for problem in regrets}, key=list(groups.values()).index)
    table = Table("player", *names, "all", "worst", title="regret / VW's best, geometric means", title_justify="left")
    for player, found in ratios(regrets).items():
        values = {problem: one.value for problem, one in found.items() if one.value > 0.0}
        if not values:
            continue
        cells = [_geometric([value for at, value in values.items() if groups[at] == group]) for group in names]
        worst = max(values, key=values.__getitem__)
        table.add_row(player, *cells, _geometric([*values.values()]), f"{values[worst]:.2f} {worst}")
    console.print(table)


def _geometric(values: Sequence[float]) -> str:
    return f"{statistics.geometric_mean(values):.3f} ({len(values)})" if values else ""


def show_aims(console: Console, regrets: Regrets) -> None:
    """Print, problem by problem, who won, and whether what is deployed has at most the regret of VW's best.

    Twice: beside VW as it comes, and beside VW under the same promise of a least share for every action.
    """
    _show_aim(console, regrets, VW, "VW's best setting")
    _show_aim(console, regrets, BOUND_VW, "VW's best setting with our floor")


def _show_aim(console: Console, regrets: Regrets, beginning: str, whom: str) -> None:
    title = f"{DEFAULT}: regret at most that of {whom}, chosen after the fact for each problem?"
    table = Table("problem", "winner", "VW's best", "to VW's best", "MABWiser's best", "uniform", "met", title=title)
    told: dict[str, Measured] = {}
    for problem, players in regrets.items():
        best, other = best_of(players, beginning), best_of(players, "mabwiser ")
        if best is None or DEFAULT not in players:
            continue
        against = players[best]
        told[problem] = ratio(players[DEFAULT], against)
        table.add_row(
            problem,
            best_of(players, ""),
            best.removeprefix(beginning),
            str(told[problem]),
            str(ratio(players[other], against)) if other is not None else "-",
            str(ratio(players["uniform"], against)) if "uniform" in players else "-",
            met(told[problem]),
        )
    if told:
        console.print(table)
        over_all = _geometric([one.value for one in told.values() if one.value > 0.0])
        console.print(
            f"met on {sum(one.value <= 1.0 for one in told.values())} of {len(told)}; geometric mean {over_all}"
        )


def met(found: Measured) -> str:
    """Say whether a ratio is at most 1; and where two standard errors could turn it, or there are none, that too."""
    said = "yes" if found.value <= 1.0 else "no"
    if math.isnan(found.error):
        return f"{said} (one seed)"
    sure = abs(found.value - 1.0) > 2.0 * found.error
    return said if sure else f"{said} (within 2 s.e.)"


def show_costs(console: Console, costs: Costs) -> None:
    """Print CPU microseconds; those of the aims beside what is deployed."""
    table = Table("player", "actions", "decide us", "learn us", "make us", "aims", title="CPU, d = 25")
    for name, sizes in costs.items():
        for actions, (decide_us, learn_us, make_us) in sizes.items():
            aims = [
                f"{what} < {most:,.0f}: {'yes' if value < most else 'no'}"
                for what, value, most in zip(
                    ("decide", "learn"), (decide_us, learn_us), AIMS_US.get(actions, ()), strict=False
                )
            ]
            said = ", ".join(aims) if name == DEFAULT else ""
            table.add_row(name, f"{actions:,}", f"{decide_us:.0f}", f"{learn_us:.0f}", f"{make_us:.0f}", said)
    console.print(table)


def as_json(regrets: Regrets, groups: dict[str, str], costs: Costs, notes: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return everything as plain data."""
    return {
        "problems": {
            problem: {
                "group": groups[problem],
                "vw_best": vw_best(players),
                "vw_best_with_our_floor": vw_best(players, BOUND_VW),
                "players": {name: {"regret": mean(values).value, "seeds": values} for name, values in players.items()},
            }
            for problem, players in regrets.items()
        },
        "ratios_to_vw_best": {
            player: {problem: one.value for problem, one in found.items()} for player, found in ratios(regrets).items()
        },
        "cpu_us": costs,
        "not_played": notes,
    }

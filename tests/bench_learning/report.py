"""The tables, and what they say in one number."""

import math
import statistics
from typing import Any

import scipy.stats
from rich.console import Console
from rich.table import Table

Regrets = dict[str, dict[str, list[float]]]
"""Problem -> player -> regret of each seed."""


def interval(values: list[float]) -> tuple[float, float]:
    """Return (mean, half of the 95 % interval by Student's t; NaN for a single seed)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    t = float(scipy.stats.t.ppf(0.975, len(values) - 1))
    return mean, t * statistics.stdev(values) / math.sqrt(len(values))


def vw_best(players: dict[str, list[float]]) -> tuple[str, float] | None:
    """Return VW's best setting for a problem and its mean regret, chosen after the fact."""
    means = {name: statistics.fmean(values) for name, values in players.items() if name.startswith("vw ") and values}
    if not means:
        return None
    name = min(means, key=means.__getitem__)
    return name, means[name]


def ratios(regrets: Regrets) -> dict[str, dict[str, float]]:
    """Return player -> problem -> mean regret as a multiple of VW's best."""
    found: dict[str, dict[str, float]] = {}
    for problem, players in regrets.items():
        best = vw_best(players)
        if best is not None and best[1] > 0.0:
            for name, values in players.items():
                if values:
                    found.setdefault(name, {})[problem] = statistics.fmean(values) / best[1]
    return found


def show_problem(console: Console, title: str, players: dict[str, list[float]], notes: dict[str, str]) -> None:
    """Print a problem's rows, best first."""
    best = vw_best(players)
    table = Table("player", "mean regret", "95 % +-", "to VW's best", title=title, title_justify="left")
    for name in sorted(players, key=lambda name: statistics.fmean(players[name]) if players[name] else math.inf):
        if not players[name]:
            table.add_row(name, notes[name], "", "")
            continue
        mean, half = interval(players[name])
        ratio = f"{mean / best[1]:.2f}" if best is not None else ""
        table.add_row(name, f"{mean:.4f}", f"{half:.4f}", ratio, style="bold" if name == "linear_igw" else "")
    console.print(table)


def show_summary(console: Console, regrets: Regrets, groups: dict[str, str]) -> None:
    """Print the geometric mean of the ratios to VW's best, over each group's problems."""
    names = sorted(set(groups.values()), key=list(groups.values()).index)
    table = Table("player", *names, "worst", title="mean regret / VW's best: geometric means", title_justify="left")
    for player, found in ratios(regrets).items():
        cells = []
        for group in names:
            values = [ratio for problem, ratio in found.items() if groups[problem] == group]
            cells.append(f"{statistics.geometric_mean(values):.3f} ({len(values)})" if values else "")
        worst = max(found, key=found.__getitem__)
        table.add_row(player, *cells, f"{found[worst]:.2f} {worst}")
    console.print(table)


def show_costs(console: Console, costs: dict[str, dict[int, tuple[float, float, float]]]) -> None:
    """Print CPU microseconds."""
    table = Table("player", "actions", "decide us", "learn us", "make us", title="CPU, d = 25", title_justify="left")
    for name, sizes in costs.items():
        for actions, (decide_us, learn_us, make_us) in sizes.items():
            table.add_row(name, f"{actions:,}", f"{decide_us:.0f}", f"{learn_us:.0f}", f"{make_us:.0f}")
    console.print(table)


def as_json(regrets: Regrets, groups: dict[str, str], costs: dict[str, Any], notes: dict[str, str]) -> dict[str, Any]:
    """Return everything as plain data."""
    return {
        "problems": {
            problem: {
                "group": groups[problem],
                "vw_best": vw_best(players),
                "players": {
                    name: {"regret": interval(values)[0], "half_interval": interval(values)[1], "seeds": values}
                    for name, values in players.items()
                    if values
                },
            }
            for problem, players in regrets.items()
        },
        "ratios_to_vw_best": ratios(regrets),
        "cpu_us": costs,
        "not_played": notes,
    }

"""Learning quality and cost, side by side: `make bench-learning`, or `python -m tests.bench_learning --quick`.

Every player meets the same rounds and the same luck, each seed once; regret is against the best action of each round,
and the interval is over seeds. Settings stand in lineup.py and are the same for all problems. The problems are in
problems.py: classification turned into bandits, clicks on 5 to 1,000 actions with features, drift, late news.
VW (`vowpalwabbit`) and MABWiser play where they are installed.
"""

import json
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click
from rich.console import Console

from tests.bench_learning.cost import costs
from tests.bench_learning.lineup import entrants
from tests.bench_learning.problems import Problem, problems
from tests.bench_learning.report import Regrets, as_json, show_costs, show_problem, show_summary
from tests.bench_learning.turns import play

WIDTH_MIN = 100
QUICK_ROUNDS, QUICK_SEEDS = 1_000, 3
TINY_ROUNDS = 10


def play_problem(
    problem: Problem, seeds: int, rounds: int, wanted: tuple[str, ...], pool: ProcessPoolExecutor | None
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return (regrets of each player, why some did not play)."""
    actions = problem.make(0, TINY_ROUNDS).expected.shape[1]
    chosen = [(entrant, why) for entrant, why in entrants(problem, actions) if entrant.name.startswith(wanted)]
    turns = [(entrant.name, seed) for entrant, why in chosen if not why for seed in range(seeds)]
    names, numbers = [name for name, _ in turns], [seed for _, seed in turns]
    play_one = partial(play, problem.name, rounds=rounds)
    played = list(pool.map(play_one, names, numbers) if pool is not None else map(play_one, names, numbers))
    found: dict[str, list[float]] = {entrant.name: [] for entrant, _ in chosen}
    for name, lost in zip(names, played, strict=True):
        found[name].append(lost)
    return found, {entrant.name: why for entrant, why in chosen if why}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help=f"{QUICK_ROUNDS:,} rounds and {QUICK_SEEDS} seeds: for a look.")
@click.option("--only", default="", help="Problems, by comma: names or their beginnings; `cost` for the CPU alone.")
@click.option("--players", default="", help="Players, by comma: names or their beginnings.")
@click.option("--seeds", type=click.IntRange(1), default=None, help="How many; 20 unless told.")
@click.option("--rounds", type=click.IntRange(10), default=None, help="Rounds a seed; each problem's own unless told.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes side by side.")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here, too.")
def main(
    quick: bool, only: str, players: str, seeds: int | None, rounds: int | None, jobs: int, path: Path | None
) -> None:
    """Play every problem and print regrets, ratios to Vowpal Wabbit's best, and CPU."""
    console = Console(width=max(WIDTH_MIN, Console().width))
    wanted = tuple(only.split(",")) if only else ("",)
    many = seeds or (QUICK_SEEDS if quick else 20)
    regrets: Regrets = {}
    groups: dict[str, str] = {}
    notes: dict[str, str] = {}
    with ProcessPoolExecutor(jobs, get_context("spawn")) if jobs > 1 else nullcontext() as pool:
        for problem in problems():
            if not problem.name.startswith(wanted):
                continue
            length = rounds or (min(QUICK_ROUNDS, problem.rounds) if quick else problem.rounds)
            began_s = time.monotonic()
            found, why = play_problem(problem, many, length, tuple(players.split(",")), pool)
            regrets[problem.name], groups[problem.name] = found, problem.group
            notes |= {f"{problem.name}: {name}": reason for name, reason in why.items()}
            took = f"{many} seeds of {length:,} rounds, {time.monotonic() - began_s:.0f} s"
            show_problem(console, f"{problem.name}: {problem.meaning} ({took})", found, why)
            if path is not None:
                path.write_text(json.dumps(as_json(regrets, groups, {}, notes), indent=1))
    if regrets:
        show_summary(console, regrets, groups)
    timed = costs(0.3 if quick else 1.0) if "cost".startswith(wanted) else {}
    if timed:
        show_costs(console, timed)
    if path is not None:
        path.write_text(json.dumps(as_json(regrets, groups, timed, notes), indent=1))


if __name__ == "__main__":
    main()

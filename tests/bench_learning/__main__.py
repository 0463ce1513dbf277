"""Learning quality and cost, side by side: `make bench-learning`, or `python -m tests.bench_learning --quick`.

Every player meets the same rounds and the same luck, each seed once; regret is against the best action of each round,
and the errors are over seeds. Settings stand in lineup.py and are the same for all problems. The problems are in
problems.py: classification turned into bandits, clicks on 5 to 1,000 actions with features, drift, late news; and in
open_bandit.py real decisions of an online shop. VW (`vowpalwabbit`) and MABWiser play where they are installed.

All seeds take one to two hours of CPU, a quarter of it VW with 1,000 actions; a seed of all problems five minutes.
`--keep FILE` goes on from where an earlier run ended, or was ended; `--minutes` prints what there is by then.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from tests.bench_learning.cost import costs
from tests.bench_learning.lineup import entrants
from tests.bench_learning.open_bandit import replays, show_replays
from tests.bench_learning.problems import Problem, problems
from tests.bench_learning.report import Regrets, as_json, show_aims, show_costs, show_problem, show_summary
from tests.bench_learning.turns import Kept, Turn, play_all

WIDTH_MIN = 130
QUICK_ROUNDS, QUICK_SEEDS = 1_000, 3
SEEDS = 20
TINY_ROUNDS = 10


class Plan:
    """What is to be played: problems with their rounds, players, seeds."""

    def __init__(self, wanted: tuple[str, ...], players: tuple[str, ...], seeds: int, with_variants: bool) -> None:
        self.problems = [problem for problem in problems() if problem.name.startswith(wanted)]
        self.seeds = seeds
        self.players: dict[str, list[str]] = {}
        self.notes: dict[str, dict[str, str]] = {}
        for problem in self.problems:
            actions = problem.make(0, TINY_ROUNDS).expected.shape[1]
            found = entrants(problem, actions, with_variants)
            chosen = [(one.name, why) for one, why in found if one.name.startswith(players)]
            self.players[problem.name] = [name for name, why in chosen if not why]
            self.notes[problem.name] = {name: why for name, why in chosen if why}

    def worlds(self, rounds: int | None, kept: Kept) -> Iterator[list[Turn]]:
        """Give what is still to be played, seed by seed: wherever it ends, all problems have as many seeds."""
        for seed in range(self.seeds):
            for problem in self.problems:
                many = length(problem, rounds)
                turns = [Turn(problem.name, many, seed, name) for name in self.players[problem.name]]
                left = [turn for turn in turns if turn not in kept.played]
                if left:
                    yield left

    def regrets(self, problem: Problem, rounds: int | None, kept: Kept) -> dict[str, list[float]]:
        """Return each player's regrets, of the seeds that all have played."""
        many, names = length(problem, rounds), self.players[problem.name]
        whole = [
            seed
            for seed in range(self.seeds)
            if all(Turn(problem.name, many, seed, name) in kept.played for name in names)
        ]
        return {name: [kept.played[Turn(problem.name, many, seed, name)].regret for seed in whole] for name in names}


def length(problem: Problem, rounds: int | None) -> int:
    """Return how many rounds a seed has."""
    return problem.rounds if rounds is None else min(rounds, problem.rounds)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help=f"{QUICK_ROUNDS:,} rounds and {QUICK_SEEDS} seeds: for a look.")
@click.option("--only", default="", help="Problems, by comma: names or their beginnings; also `cost`, `open_bandit`.")
@click.option("--players", default="", help="Players, by comma: names or their beginnings.")
@click.option("--variants", is_flag=True, help="Also our policies as bare functions, with other settings.")
@click.option("--seeds", type=click.IntRange(1), default=None, help=f"How many; {SEEDS} unless told.")
@click.option("--rounds", type=click.IntRange(10), default=None, help="Rounds a seed, at most; else each problem's.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes side by side.")
@click.option("--minutes", type=float, default=math.inf, help="Begin nothing new after so long; print what there is.")
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), help="Keep each turn here; go on from it.")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here, too.")
def main(
    quick: bool,
    only: str,
    players: str,
    variants: bool,
    seeds: int | None,
    rounds: int | None,
    jobs: int,
    minutes: float,
    keep: Path | None,
    path: Path | None,
) -> None:
    """Play every problem and print regrets, ratios to Vowpal Wabbit's best, which aims are met, and CPU."""
    console = Console(width=max(WIDTH_MIN, Console().width))
    wanted = tuple(only.split(","))
    rounds = rounds or (QUICK_ROUNDS if quick else None)
    plan = Plan(wanted, tuple(players.split(",")), seeds or (QUICK_SEEDS if quick else SEEDS), variants)
    kept = Kept(keep)
    regrets, groups = played(console, plan, rounds, jobs, minutes, kept)
    if regrets:
        show_summary(console, regrets, groups)
        show_aims(console, regrets)
    replayed = replays(quick) if "open_bandit".startswith(wanted) else []
    show_replays(console, replayed)
    timed = costs(0.3 if quick else 1.0) if "cost".startswith(wanted) else {}
    if timed:
        show_costs(console, timed)
    if path is not None:
        found = as_json(regrets, groups, timed, plan.notes) | {"open_bandit": [one._asdict() for one in replayed]}
        path.write_text(json.dumps(found, indent=1), "utf-8")


def played(
    console: Console, plan: Plan, rounds: int | None, jobs: int, minutes: float, kept: Kept
) -> tuple[Regrets, dict[str, str]]:
    """Play what is not kept yet and print each problem; return (regrets, each problem's group)."""
    for turns in play_all(plan.worlds(rounds, kept), jobs, minutes * 60):
        for turn, found in turns:
            kept.add(turn, found)
    regrets: Regrets = {}
    for problem in plan.problems:
        found_here = plan.regrets(problem, rounds, kept)
        seeds = min(map(len, found_here.values()), default=0)
        if seeds:
            regrets[problem.name] = found_here
            took = f"{seeds} seeds of {length(problem, rounds):,} rounds"
            title = f"{problem.name}: {problem.meaning} ({took})"
            show_problem(console, title, found_here, plan.notes[problem.name])
    return regrets, {problem.name: problem.group for problem in plan.problems}


if __name__ == "__main__":
    main()

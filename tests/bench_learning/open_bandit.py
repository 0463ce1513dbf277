"""Replay on Open Bandit: 10,000 real decisions each of a fashion shop's uniform policy, for men and for women.

Two ways to ask such a log what another policy would have earned:
- replay (Li, Chu, Langford, Wang, WSDM 2011): the policy meets the log's visitors; where it would have chosen what the
  log chose, it sees the reward and learns, and the decision counts. It keeps one of K rows. Anybody can play.
- Herald's estimators over all rows (IPS, SNIPS, DR; see pipeline/core/evaluate/estimate.py), which need exact
  probabilities: the target learns from the whole log as it goes, always from what came before.

The shop ran Bernoulli Thompson sampling beside it in the same week: what that earned in its own log is the truth that
the estimates from the uniform log have to cover. The folder is named by HERALD_TEST_DATA, as in tests/core.
"""

import csv
import gzip
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.core.evaluate.estimate import Evaluation, Method
from pipeline.core.evaluate.fold import EvaluateRules, evaluate
from pipeline.core.evaluate.intervals import fay_feuer
from pipeline.core.evaluate.targets import KINDS, Target
from tests.bench_learning.lineup import LINEUP, Entrant
from tests.bench_learning.players import Turn
from tests.bench_learning.problems import Features, World
from tests.bench_learning.rivals import is_installed
from tests.core.test_evaluate_open_bandit import DATA, ByPosition, clicks, log_of

Row = Mapping[str, str]
CAMPAIGNS: Final = ("men", "women")
DRAWS: Final = 5
"""Replays of each player: they differ by its own luck alone."""
TARGETS: Final = ("uniform", "epsilon_greedy", "thompson", "linear_igw")
METHODS: Final = (Method.IPS, Method.SNIPS, Method.DR)


class Replayed(NamedTuple):
    """One row of either table. kept: rows that count (of the estimators: as many as its weights are worth).

    value, low, high: clicks a decision as a multiple of what the uniform policy earned in the log, and its 95 %
    interval. covers: whether that holds what Thompson sampling really earned; "" where it says nothing of that.
    """

    campaign: str
    method: str
    player: str
    kept: float
    clicks: float
    value: float
    low: float
    high: float
    covers: str = ""
    refused: str = ""


def replays(quick: bool = False) -> list[Replayed]:
    """Return all rows; none where the data is not there."""
    found: list[Replayed] = []
    for campaign in CAMPAIGNS:
        log, thompson = read("random", campaign), read("bts", campaign)
        if log and thompson:
            found += estimated(campaign, log, thompson)
            found += list(replayed(campaign, log, 1 if quick else DRAWS))
    return found


def read(policy: str, campaign: str) -> list[dict[str, str]]:
    """Return a log's rows, in time order; none where the file is not there."""
    path = DATA / "open_bandit" / policy / campaign / f"{campaign}.csv.gz"
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def items_of(campaign: str) -> dict[str, Features]:
    """Return each item's features: a number and three hashed categories."""
    path = DATA / "open_bandit" / "random" / campaign / "item_context.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        return {
            row["item_id"]: {
                name: float(value) if name == "item_feature_0" else value
                for name, value in row.items()
                if name.startswith("item_feature_")
            }
            for row in csv.DictReader(stream)
        }


def context_of(row: Row) -> Features:
    """Return what is known before a decision: the place on the page and the visitor's hashed features."""
    return {name: value for name, value in row.items() if name == "position" or name.startswith("user_feature_")}


def estimated(campaign: str, log: Sequence[Row], thompson: Sequence[Row]) -> list[Replayed]:
    """Return what Herald's estimators say from the uniform log."""
    items = items_of(campaign)
    decisions = [
        decision._replace(context=context_of(row), features=items)
        for decision, row in zip(log_of(log), log, strict=True)
    ]
    targets: dict[str, Target] = {name: KINDS[name].model_validate({"policy": name}).target() for name in TARGETS}
    targets["the shop's Thompson"] = ByPosition(thompson)
    found = []
    for name, target in targets.items():
        judged = evaluate(iter(decisions), target, EvaluateRules())[0]
        truth = clicks(thompson) if name.startswith("the shop") else None
        found += rows_of(campaign, name, judged, truth)
    return found


def rows_of(campaign: str, name: str, judged: Evaluation, truth: float | None) -> Iterator[Replayed]:
    """Give a row for each method. truth: clicks a decision, where they are known."""
    earned = judged.estimates[Method.LOGGED].value
    refused = ", ".join(refusal.reason.value for refusal in judged.refusals)
    for method in METHODS:
        one = judged.estimates[method]
        covers = "" if truth is None else "yes" if one.interval.covers(truth) else "no"
        low, high = one.interval.low / earned, one.interval.high / earned
        yield Replayed(
            campaign, method.value, name, judged.ess, judged.matched, one.value / earned, low, high, covers, refused
        )


def replayed(campaign: str, log: Sequence[Row], draws: int) -> Iterator[Replayed]:
    """Give a row for each player who plays so many actions."""
    items = items_of(campaign)
    names = sorted(items, key=int)
    unknown = np.zeros((len(log), len(names)))
    world = World([context_of(row) for row in log], unknown, unknown[:, 0], [items[name] for name in names])
    chosen = [names.index(row["item_id"]) for row in log]
    rewards = [float(row["click"] == "1") for row in log]
    earned = statistics.fmean(rewards)
    for entrant in LINEUP:
        if len(names) <= entrant.actions_max and (not entrant.library or is_installed(entrant.library)):
            played = [replay(entrant, world, chosen, rewards, draw) for draw in range(draws)]
            kept, won = (statistics.fmean(values) for values in zip(*played, strict=True))
            interval = fay_feuer(won, won, 1.0, round(kept))
            yield Replayed(
                campaign, "replay", entrant.name, kept, won, won / kept / earned, interval.low / earned,
                interval.high / earned,
            )  # fmt: skip


def replay(
    entrant: Entrant, world: World, chosen: Sequence[int], rewards: Sequence[float], draw: int
) -> tuple[int, float]:
    """Return (rows kept, their clicks) of one player: it learns from those rows alone."""
    player = entrant.make(world)
    luck = np.random.default_rng([draw, 6]).random(world.rounds).tolist()
    kept, won = 0, 0.0
    for number, context in enumerate(world.contexts):
        turn: Turn = player.choose(number, context, luck[number])
        if turn.action == chosen[number]:
            kept += 1
            won += rewards[number]
            player.learn(turn, 1, rewards[number])
    return kept, won


def show_replays(console: Console, found: Sequence[Replayed]) -> None:
    """Print both tables of each campaign; what is refused, and why."""
    for campaign in CAMPAIGNS:
        rows = [one for one in found if one.campaign == campaign]
        if rows:
            _show(console, f"Open Bandit, {campaign}: estimated from the uniform policy's log", _estimates(rows))
            _show(console, f"Open Bandit, {campaign}: replay of the same log (mean of some draws)", _replays(rows))


def _show(console: Console, title: str, rows: Iterable[Sequence[str]]) -> None:
    table = Table("player", "method", "to uniform", "95 %", "rows", "clicks", "remarks", title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _estimates(rows: Iterable[Replayed]) -> Iterator[Sequence[str]]:
    for one in rows:
        if one.method != "replay":
            covers = f"holds the truth: {one.covers}" if one.covers else ""
            yield (*_cells(one), "; ".join(filter(None, (covers, one.refused and f"not to be read: {one.refused}"))))


def _replays(rows: Iterable[Replayed]) -> Iterator[Sequence[str]]:
    for one in rows:
        if one.method == "replay":
            yield (*_cells(one), "")


def _cells(one: Replayed) -> list[str]:
    return [
        one.player,
        one.method,
        f"{one.value:.2f}",
        f"{one.low:.2f} to {one.high:.2f}",
        f"{one.kept:,.0f}",
        f"{one.clicks:.1f}",
    ]

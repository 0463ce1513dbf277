"""`herald experiments`: what came of a test, from a file or from the warehouse."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from rich.console import Console

from pipeline.core.evaluate.intervals import Interval
from pipeline.core.experiment.analysis.factors import FactorEffect, Interaction
from pipeline.core.experiment.analysis.report import Analysis, Effect, Metric, analyse
from pipeline.core.experiment.analysis.tally import Tally
from pipeline.described import checked, kind_of, read
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.exposures import GOALS, KINDS, check_names, read_exposures
from pipeline.errors import SettingsError
from pipeline.experiment_csv import Read, read_csv
from pipeline.experiments_show import show
from pipeline.settings import Settings
from schemas.experiment import Experiment, Goal, Holdout

REFUSED: Final = 3
ANSWER_S: Final = 600.0
LIFT_GOALS: Final = ("purchased", "revenue")


@dataclass(frozen=True)
class LiftWish:
    """What is asked of the hold-out. share: of all visitors that were held out. goals: metrics of the warehouse.
    since, until: shown from (included) to (left out), UTC; None = no limit.
    """

    share: float = Holdout().share
    goals: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    as_json: bool = False


@dataclass(frozen=True)
class Wish:
    """What is asked. experiment: file that describes it. data_file: CSV; None = the warehouse."""

    experiment: Path
    data_file: Path | None = None
    source: Literal["warehouse"] | None = None
    as_json: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of it. experiment: with the covariates and segments that the data has."""

    experiment: Experiment
    analysis: Analysis
    read: Read


def read_experiment(path: Path, needs_goals: bool = True) -> Experiment:
    """Return what a file describes. needs_goals: refuse one without. Raises SettingsError, a line for each mistake."""
    found = read(path, "an experiment")
    if not isinstance(found.content, dict):
        raise SettingsError(f"{path}: found {kind_of(found.content)}, expected `id: NAME`, `variants:` and `goals:`")
    experiment = checked(found, Experiment)
    if needs_goals and not experiment.goals:
        raise SettingsError(
            f"{found.at(('goals',))}: goals: none, expected a metric at least, such as `goals: [visit]`"
        )
    return experiment


def run(settings: Settings, console: Console, wish: Wish) -> int:
    """Analyse and print; 0, or 3 where the data cannot answer. Raises SettingsError for a wrong file."""
    if (wish.data_file is None) == (wish.source is None):
        raise SettingsError("expected either --data FILE or --from warehouse")
    experiment = read_experiment(wish.experiment)
    if wish.data_file is not None:
        answer = answered(*read_csv(wish.data_file, experiment))
    else:
        answer = from_warehouse(settings, experiment)
    return _tell(answer, console, wish.as_json)


def run_lift(settings: Settings, console: Console, wish: LiftWish) -> int:
    """Say what all that is done brings, beside those held out; 0, or 3 where the data cannot answer.

    Raises SettingsError for a goal that the warehouse does not have, or times the wrong way round.
    """
    if wish.since and wish.until and wish.until <= wish.since:
        raise SettingsError(f"--until {wish.until}: expected later than --since {wish.since}")
    names = dict.fromkeys(wish.goals or LIFT_GOALS)
    check_names("goal", list(names), GOALS)
    goals = [Goal(metric=name, kind=KINDS.get(name, "number")) for name in names]
    experiment = Holdout(share=wish.share).experiment(goals, starts=wish.since, ends=wish.until)
    return _tell(from_warehouse(settings, experiment), console, wish.as_json)


def from_warehouse(settings: Settings, experiment: Experiment) -> Answer:
    """Return what the warehouse's visitors say. Raises as `read_exposures`."""
    with Warehouse.from_url(settings.warehouse_url, ANSWER_S) as warehouse:
        return answered(*read_exposures(warehouse, experiment))


def _tell(answer: Answer, console: Console, as_json: bool) -> int:
    if as_json:
        console.print_json(json.dumps(as_object(answer)))
    else:
        show(answer.experiment, answer.analysis, answer.read, console)
    return REFUSED if answer.analysis.refusals else 0


def answered(experiment: Experiment, tally: Tally, read: Read) -> Answer:
    """Return what the visitors say."""
    return Answer(experiment, analyse(tally.sample(), experiment), read)


def as_object(answer: Answer) -> dict[str, object]:
    """Return it by names, for machines. What may not be read is left out."""
    experiment, found = answer.experiment, answer.analysis
    names = [variant.name for variant in experiment.variants]
    ratio = found.ratio
    return {
        "experiment": experiment.id,
        "control": experiment.baseline,
        "refusals": [refusal._asdict() for refusal in found.refusals],
        "visitors": dict(zip(names, ratio.counts, strict=True)),
        "sample_ratio": {
            "expected": dict(zip(names, ratio.expected, strict=True)),
            "p": ratio.p,
            "is_off": ratio.is_off,
        },
        "several_variants": found.several._asdict() | {"is_off": found.several.is_off},
        "covariates": experiment.covariates,
        "metrics": [_metric(one, names) for one in found.metrics],
        "effects": [_effect(one) for one in found.effects],
        "correction": {"effects": "holm", "segments": "benjamini_hochberg", "factors": "holm", "interactions": "holm"},
        "segments": [_effect(one) for one in found.segments],
        "segments_too_small": found.segments_small,
        "factors": [_factor(one) for one in found.factors],
        "interactions": [_interaction(one) for one in found.interactions],
        "read": asdict(answer.read),
    }


def _metric(one: Metric, names: list[str]) -> dict[str, object]:
    return {
        "metric": one.goal.metric,
        "kind": one.goal.kind,
        "means": dict(zip(names, one.means, strict=True)),
        "cut_at": one.limit,
        "cut": one.cut,
        "variance_kept": one.kept,
    }


def _effect(one: Effect) -> dict[str, object]:
    found = one.found
    said: dict[str, object] = {
        "metric": one.metric,
        "variant": one.variant,
        "visitors": one.visitors,
        "control_visitors": one.control_visitors,
        "mean": one.mean,
        "control_mean": one.control_mean,
        "difference": found.difference,
        "interval": _ends(found.interval),
        "lift": _number(found.lift),
        "lift_interval": _ends(found.lift_interval),
        "p": found.p,
        "p_adjusted": one.p_adjusted,
        "verdict": one.verdict.value,
    }
    return ({"segment": one.segment[0], "value": one.segment[1]} if one.segment else {}) | said


def _factor(one: FactorEffect) -> dict[str, object]:
    return {
        "metric": one.metric,
        **one.level._asdict(),
        "difference": one.difference,
        "interval": _ends(one.interval),
        "p": one.p,
        "p_adjusted": one.p_adjusted,
        "odds_ratio": one.odds,
        "odds_ratio_interval": _ends(one.odds_interval) if one.odds_interval else None,
    }


def _interaction(one: Interaction) -> dict[str, object]:
    return {
        "metric": one.metric,
        "levels": [one.first._asdict(), one.second._asdict()],
        "difference": one.difference,
        "p": one.p,
        "p_adjusted": one.p_adjusted,
    }


def _ends(interval: Interval) -> list[float | None]:
    return [_number(interval.low), _number(interval.high)]


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None

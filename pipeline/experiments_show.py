"""An experiment's answer for people who decide by it: what each variant did, what may be read into it, what not."""

import math
from collections.abc import Callable, Iterable
from typing import Final

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pipeline.core.evaluate.intervals import Interval
from pipeline.core.experiment.analysis.effect import UNKNOWN, Verdict
from pipeline.core.experiment.analysis.report import Analysis, Effect, Metric
from pipeline.core.experiment.analysis.sequence import ALPHA
from pipeline.experiment_csv import SEGMENT, Read
from schemas.experiment import Experiment, Goal

KEPT_WORTH_SAYING: Final = 0.995
PER: Final = 1_000
SENTENCES_MAX: Final = 6
_STYLES: Final = {Verdict.BETTER: "green", Verdict.WORSE: "red", Verdict.UNCLEAR: "", Verdict.TOO_FEW: "dim"}
_WORDS: Final = {
    Verdict.BETTER: "better",
    Verdict.WORSE: "worse",
    Verdict.UNCLEAR: "no difference shown",
    Verdict.TOO_FEW: "too few to say",
}


def show(experiment: Experiment, found: Analysis, read: Read, console: Console) -> None:
    """Print it."""
    _say(console, _head(experiment, found, read))
    if found.refusals:
        _say(console, "this experiment cannot answer:", "yellow")
        for refusal in found.refusals:
            _say(console, f"  {refusal.text}", "yellow")
        return
    _say(console, f"split as planned: yes (p = {found.ratio.p:.2g})")
    console.print(_table(experiment, found))
    goals = {goal.metric: goal for goal in experiment.goals}
    for effect in found.effects:
        if effect.verdict is not Verdict.UNCLEAR or len(found.effects) <= SENTENCES_MAX:
            _say(console, verdict(effect, goals[effect.metric]))
    if found.factors:
        console.print(_factors(found, goals))
        _say(console, _together(found))
    if found.segments or found.segments_small:
        _segments(found, goals, console)
    _say(console, "")
    for note in _notes(experiment, found):
        _say(console, note, "dim")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)


def _head(experiment: Experiment, found: Analysis, read: Read) -> str:
    counted = {
        "saw several variants": found.several.visitors,
        "never shown their variant": read.unshown,
        "outside its time": read.outside,
        "without an id": read.unnamed,
    }
    left_out = ", ".join(f"{count:,} {what}" for what, count in counted.items() if count) or "nobody"
    visitors = sum(found.ratio.counts)
    return f"experiment {experiment.id}: {visitors:,} visitors, control: {experiment.baseline}; left out: {left_out}"


def verdict(effect: Effect, goal: Goal) -> str:
    """Return a comparison as a sentence."""
    found, what = effect.found, f"{effect.metric}: {effect.variant}"
    if effect.verdict is Verdict.TOO_FEW:
        return f"{what}: too few visitors with anything to count, nothing can be said yet"
    if effect.verdict is Verdict.UNCLEAR and found.interval.covers(0.0):
        return f"{what}: no difference shown; anything from {_range(found.interval, _difference(goal))} is possible"
    if effect.verdict is Verdict.UNCLEAR:
        spread = _range(found.interval, _difference(goal))
        return f"{what}: no difference shown; {spread} by itself, but among so many comparisons one looks so by chance"
    lift = "" if found.lift != found.lift else f" by {abs(found.lift):.1%}"
    low, high = sorted(abs(end) * PER for end in found.interval)
    per = f"{_short(abs(found.difference) * PER)} {'more' if found.difference > 0.0 else 'less'} per {PER:,} visitors"
    return f"{what} is {effect.verdict.value} than the control{lift}: {per} ({_short(low)} to {_short(high)})"


def _table(experiment: Experiment, found: Analysis) -> Table:
    table = Table(
        "goal", "variant", *(_right(title) for title in ("visitors", "mean", "difference", "95 %", "lift", "95 %"))
    )
    table.add_column("")
    counts = dict(zip((one.name for one in experiment.variants), found.ratio.counts, strict=True))
    for goal in experiment.goals:
        effects = [effect for effect in found.effects if effect.metric == goal.metric]
        control = _value(effects[0].control_mean, goal)
        first = (goal.metric, experiment.baseline, f"{counts[experiment.baseline]:,}", control)
        table.add_row(*map(Text, first), "", "", "", "", Text("control", "dim"))
        for effect in effects:
            cells = ("", effect.variant, f"{effect.visitors:,}", _value(effect.mean, goal), *_cells(effect, goal))
            said = Text(_WORDS[effect.verdict], _STYLES[effect.verdict])
            table.add_row(*map(Text, cells), said, end_section=effect is effects[-1])
    return table


def _right(title: str) -> Column:
    return Column(title, justify="right")


def _cells(effect: Effect, goal: Goal) -> tuple[str, str, str, str]:
    found = effect.found
    return (
        _difference(goal)(found.difference),
        _range(found.interval, _difference(goal)).removesuffix(" points"),
        "" if found.lift != found.lift else f"{found.lift:+.1%}",
        _range(found.lift_interval, lambda value: f"{value:+.1%}"),
    )


def _segments(found: Analysis, goals: dict[str, Goal], console: Console) -> None:
    if found.segments:
        table = Table(
            "segment", "variant", *(_right(title) for title in ("visitors", "mean", "difference", "95 %")), ""
        )
        for effect in found.segments:
            goal = goals[effect.metric]
            assert effect.segment is not None
            visitors = f"{effect.visitors + effect.control_visitors:,}"
            name = " = ".join(effect.segment).removeprefix(SEGMENT)
            cells = (name, effect.variant, visitors, _value(effect.mean, goal), *_cells(effect, goal)[:2])
            table.add_row(*map(Text, cells), Text(_WORDS[effect.verdict], _STYLES[effect.verdict]))
        _say(console, f"\n{found.segments[0].metric} by segment: hints for a next test, not findings of this one")
        console.print(table)
    if found.segments_small:
        _say(console, f"{found.segments_small:,} segments have too few visitors in some variant")


def _factors(found: Analysis, goals: dict[str, Goal]) -> Table:
    table = Table("goal", "factor", *(_right(title) for title in ("difference", "95 %", "odds", "95 %")), "")
    for one in found.factors:
        goal, level = goals[one.metric], one.level
        is_shown = one.p_adjusted <= ALPHA
        is_better = (one.difference > 0.0) == (goal.better == "higher")
        said = Verdict.UNCLEAR if one.is_enough else Verdict.TOO_FEW
        if is_shown:
            said = Verdict.BETTER if is_better else Verdict.WORSE
        odds = f"x {one.odds:.3g}" if one.odds is not None else ""
        odds_range = _range(one.odds_interval, lambda value: f"{value:.3g}") if one.odds_interval else ""
        name = f"{level.factor}: {level.level} instead of {level.beside}"
        spread = _range(one.interval, _difference(goal)).removesuffix(" points")
        cells = (one.metric, name, _difference(goal)(one.difference), spread, odds, odds_range)
        table.add_row(*map(Text, cells), Text(_WORDS[said], _STYLES[said]))
    return table


def _together(found: Analysis) -> str:
    """Say whether the factors' effects may be added up."""
    shown = [one for one in found.interactions if one.p_adjusted <= ALPHA]
    if not shown:
        return "no sign that one factor changes what another does: effects may be added up"
    pairs = {f"{one.first.factor}={one.first.level} with {one.second.factor}={one.second.level}" for one in shown}
    return f"factors change each other's effect ({', '.join(sorted(pairs))}): read the variants, not the factors"


def _notes(experiment: Experiment, found: Analysis) -> Iterable[str]:
    """Say what the numbers mean, and what was done to them."""
    yield "95 %: holds at every look, so you may look each day and stop when you like; each range by itself."
    if len(found.effects) > 1:
        yield f"better, worse: at 5 % for all {len(found.effects)} comparisons together (Holm)."
    for metric in found.metrics:
        yield from _metric_notes(experiment, metric)
    if found.segments:
        yield "segments: one in twenty that are called better or worse may not be (Benjamini-Hochberg on e-values)."


def _metric_notes(experiment: Experiment, metric: Metric) -> Iterable[str]:
    name, goal = metric.goal.metric, metric.goal
    means = ", ".join(
        f"{variant.name} {_value(mean, goal)}" for variant, mean in zip(experiment.variants, metric.means, strict=True)
    )
    if metric.limit is not None:
        yield (
            f"{name}: {metric.cut:,} amounts above {metric.limit:,.2f} count as that (the "
            f"{100.0 * goal.cap_quantile:g} % quantile of those above 0), so that a few do not decide; "
            f"uncut means: {means}."
        )
    if experiment.covariates and metric.kept < KEPT_WORTH_SAYING:
        known = ", ".join(experiment.covariates)
        yield (
            f"{name}: {1.0 - metric.kept:.1%} of the noise taken away by what was known before ({known}); "
            f"as measured: {means}."
        )


def _value(value: float, goal: Goal) -> str:
    return f"{value:.2%}" if goal.kind == "rate" else _short(value)


def _difference(goal: Goal) -> Callable[[float], str]:
    """Return how a goal's differences are written."""
    if goal.kind == "rate":
        return lambda value: f"{100.0 * value:+.2f} points"
    return lambda value: _short(value, "+")


def _short(value: float, sign: str = "") -> str:
    """Return a number by its first three digits, or whole."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:{sign},.{digits}f}"


def _range(interval: Interval, say: Callable[[float], str]) -> str:
    if interval == UNKNOWN:
        return ""
    low, high = say(interval.low), say(interval.high)
    return f"{low.removesuffix(' points')} to {high}"

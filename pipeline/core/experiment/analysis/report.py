"""All that is asked of an experiment at one look, or why nothing is said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.experiment.analysis.checks import SampleRatio, SeveralVariants, sample_ratio
from pipeline.core.experiment.analysis.correction import benjamini_hochberg, holm
from pipeline.core.experiment.analysis.cuped import adjust
from pipeline.core.experiment.analysis.effect import Difference, Verdict, arm, compare, is_unusual
from pipeline.core.experiment.analysis.factors import FactorEffect, Interaction, factor_effects, interactions
from pipeline.core.experiment.analysis.sequence import ALPHA, Floats, Mixture, narrowest_at
from pipeline.core.experiment.analysis.tails import winsorise
from pipeline.core.experiment.analysis.tally import Sample
from schemas.experiment import Experiment, Goal

VISITORS_MIN: Final = 100
"""Of each arm: with fewer, nothing is said of it."""
SEGMENTS_MAX: Final = 50
"""Values of one segment column that are looked at: the most frequent ones."""

Correction = Callable[[Sequence[float]], list[float]]


class Reason(StrEnum):
    """Why nothing is said. A closed list."""

    NO_VISITORS = "no_visitors"
    FEW_VISITORS = "few_visitors"
    SAMPLE_RATIO = "sample_ratio"
    SEVERAL_VARIANTS = "several_variants"


class Refusal(NamedTuple):
    """Why the experiment cannot answer. text: for people."""

    reason: Reason
    text: str


@dataclass(frozen=True)
class Metric:
    """How a goal was measured. means: by variant, as they came. limit: amounts above it count as it (None: none was);
    cut: how many were. kept: share of the variance that the covariates leave.
    """

    goal: Goal
    means: tuple[float, ...]
    limit: float | None
    cut: int
    kept: float


@dataclass(frozen=True)
class Effect:
    """A variant against the control in one metric. mean, control_mean: as compared (cut and adjusted). p_adjusted: for
    all effects of the table together. segment: (column, value), or None for all visitors.
    """

    metric: str
    variant: str
    visitors: int
    control_visitors: int
    mean: float
    control_mean: float
    found: Difference
    p_adjusted: float
    verdict: Verdict
    segment: tuple[str, str] | None = None


@dataclass(frozen=True)
class Analysis:
    """What an experiment says. refusals: none = effects, segments and factors may be read."""

    ratio: SampleRatio
    several: SeveralVariants
    metrics: tuple[Metric, ...] = ()
    effects: tuple[Effect, ...] = ()
    segments: tuple[Effect, ...] = ()
    segments_small: int = 0
    factors: tuple[FactorEffect, ...] = ()
    interactions: tuple[Interaction, ...] = ()
    refusals: tuple[Refusal, ...] = ()


class _Measured(NamedTuple):
    """A metric ready to be compared. in_common: see `adjust`."""

    goal: Goal
    values: Floats
    unusual: NDArray[np.bool_]
    in_common: float


def analyse(sample: Sample, experiment: Experiment) -> Analysis:
    """Return what a sample says of an experiment. Metrics, covariates and segments are in its order."""
    names = [variant.name for variant in experiment.variants]
    counts = np.bincount(sample.variant, minlength=len(names)).tolist()
    ratio = sample_ratio(counts, [experiment.shares[name] for name in names])
    met = sum(counts) + sample.several
    several = SeveralVariants(sample.several, sample.several / met if met else 0.0)
    refusals = tuple(refuse(experiment, ratio, several))
    if refusals:
        return Analysis(ratio, several, refusals=refusals)
    mixture = narrowest_at(experiment.expected_visitors)
    measured, metrics = [], []
    for goal, values in zip(experiment.goals, sample.metrics, strict=True):
        one, how = _measure(goal, values, sample, len(names))
        measured.append(one)
        metrics.append(how)
    everybody = np.ones(len(sample.variant), dtype=np.bool_)
    effects = [each for one in measured for each in _effects(one, sample.variant, everybody, experiment, mixture)]
    segments, small = _by_segment(measured[:1], sample, experiment, mixture)
    compared = [one.values for one in measured]
    return Analysis(
        ratio, several, tuple(metrics), _judged(effects, experiment, holm),
        _judged(segments, experiment, benjamini_hochberg), small,
        factor_effects(experiment, sample, compared, mixture), interactions(experiment, sample, compared, mixture),
    )  # fmt: skip


def refuse(experiment: Experiment, ratio: SampleRatio, several: SeveralVariants) -> list[Refusal]:
    """Return every reason not to read the effects."""
    names = [variant.name for variant in experiment.variants]
    if not sum(ratio.counts):
        return [Refusal(Reason.NO_VISITORS, "nobody was shown one variant of this experiment")]
    said = []
    if ratio.is_off:
        split = ", ".join(
            f"{name} {count:,} (expected {expected:,.0f})"
            for name, count, expected in zip(names, ratio.counts, ratio.expected, strict=True)
        )
        text = f"visitors are not split as planned: {split}; by chance p = {ratio.p:.1e}, expected .001 at least"
        said.append(Refusal(Reason.SAMPLE_RATIO, text))
    if several.is_off:
        text = f"{several.visitors:,} visitors ({several.share:.1%}) saw several variants, expected 1 % at most"
        said.append(Refusal(Reason.SEVERAL_VARIANTS, text))
    few = [
        f"{name} {count:,}"
        for name, count, expected in zip(names, ratio.counts, ratio.expected, strict=True)
        if expected > 0.0 and count < VISITORS_MIN
    ]
    if few:
        said.append(Refusal(Reason.FEW_VISITORS, f"too few visitors: {', '.join(few)}; expected {VISITORS_MIN} each"))
    return said


def _measure(goal: Goal, values: Floats, sample: Sample, variants: int) -> tuple[_Measured, Metric]:
    """Cut the tail of an amount, then take away what was known before."""
    cut = winsorise(values, goal.cap_quantile if goal.kind == "money" else 1.0)
    adjusted = adjust(cut.values, sample.covariates, sample.variant)
    counts = np.bincount(sample.variant, minlength=variants)
    sums = np.bincount(sample.variant, weights=values, minlength=variants)
    means = tuple((sums / np.maximum(counts, 1)).tolist())
    one = _Measured(goal, adjusted.values, is_unusual(values), adjusted.of_mean)
    return one, Metric(goal, means, cut.limit, cut.cut, adjusted.kept)


def _effects(
    one: _Measured, variant: NDArray[np.int64], among: NDArray[np.bool_], experiment: Experiment, mixture: Mixture
) -> list[Effect]:
    """Return each variant against the control in one metric, not yet judged. among: which visitors."""
    arms = {}
    for number, each in enumerate(experiment.variants):
        of_arm = among & (variant == number)
        if each.weight > 0.0:
            arms[each.name] = arm(one.values[of_arm], int(np.count_nonzero(one.unusual[of_arm])))
    control = arms.pop(experiment.baseline)
    made = []
    for name, treated in arms.items():
        found = compare(treated, control, mixture, one.in_common)
        counts = (treated.visitors, control.visitors, treated.mean, control.mean)
        made.append(Effect(one.goal.metric, name, *counts, found, 1.0, Verdict.TOO_FEW))
    return made


def _by_segment(
    measured: Sequence[_Measured], sample: Sample, experiment: Experiment, mixture: Mixture
) -> tuple[list[Effect], int]:
    """Return the first goal's effects in each segment, and how many segments were too small to say anything of."""
    made: list[Effect] = []
    small = 0
    needed = [number for number, each in enumerate(experiment.variants) if each.weight > 0.0]
    for name, column in zip(experiment.segments, sample.segments, strict=True):
        values, counts = np.unique(column, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        small += max(0, len(order) - SEGMENTS_MAX)
        for value in values[order[:SEGMENTS_MAX]]:
            among = column == value
            sizes = np.bincount(sample.variant[among], minlength=len(experiment.variants))
            if sizes[needed].min() < VISITORS_MIN:
                small += 1
                continue
            for one in measured:
                effects = _effects(one, sample.variant, among, experiment, mixture)
                made += [replace(effect, segment=(name, str(value))) for effect in effects]
    return made, small


def _judged(effects: list[Effect], experiment: Experiment, correct: Correction) -> tuple[Effect, ...]:
    """Return the effects with p-values that answer for all of them, and what can be said of each."""
    better = {goal.metric: 1.0 if goal.better == "higher" else -1.0 for goal in experiment.goals}
    adjusted = correct([effect.found.p for effect in effects])
    judged = []
    for effect, p in zip(effects, adjusted, strict=True):
        verdict = Verdict.UNCLEAR if effect.found.is_enough else Verdict.TOO_FEW
        if effect.found.is_enough and p <= ALPHA:
            is_better = effect.found.difference * better[effect.metric] > 0.0
            verdict = Verdict.BETTER if is_better else Verdict.WORSE
        judged.append(replace(effect, p_adjusted=p, verdict=verdict))
    return tuple(judged)

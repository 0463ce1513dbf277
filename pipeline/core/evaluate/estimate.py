"""From the terms of every decision to what the target would have earned: IPS, SNIPS, DM and DR, or a refusal.

With w = the target's probability of the logged choice / the log's, r = its reward, q = a model's guess of a reward:

    IPS    mean of w r                                   Horvitz & Thompson (1952)
    SNIPS  sum of w r / sum of w                         Swaminathan & Joachims, NeurIPS 2015
    DM     mean of sum over candidates of p q            direct method: as good as the model
    DR     mean of DM's term + w (r - q of the choice)   Dudik, Langford, Li, ICML 2011

All values are rewards per decision, 0..1 as rewards are.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.evaluate.bootstrap import RESAMPLES, Bootstrap, deviation, percentile
from pipeline.core.evaluate.intervals import Interval, effective, empirical_bernstein, fay_feuer

REWARDS_MIN: Final = 10.0
ESS_MIN: Final = 100.0
MISSING_MAX: Final = 1e-9
Z_95: Final = 1.96
WEIGHT_ERROR_MAX: Final = 0.1
WEIGHT_ERRORS_MAX: Final = 4.0
"""A mean weight off 1 by more than a tenth, and by more than so many of its standard errors, is no chance."""


class Term(NamedTuple):
    """One decision. weight: target's probability of its choice / the log's. reward: 0..1. direct: the reward that the
    model expects of the target here. expected: the reward that the model expects of the logged choice.
    """

    weight: float
    reward: float
    direct: float = 0.0
    expected: float = 0.0


class Method(StrEnum):
    """How an estimate is made."""

    LOGGED = "logged"
    IPS = "ips"
    SNIPS = "snips"
    DM = "dm"
    DR = "dr"


class Reason(StrEnum):
    """Why nothing is said. A closed list."""

    NO_DECISIONS = "no_decisions"
    FEW_REWARDS = "few_rewards"
    SMALL_SAMPLE = "small_sample"
    NO_SUPPORT = "no_support"
    WEIGHTS_OFF = "weights_off"
    NOT_SHOWN = "not_shown"


class Refusal(NamedTuple):
    """Why the log cannot answer. text: for people."""

    reason: Reason
    text: str


@dataclass(frozen=True)
class Estimate:
    """Reward per decision, 0..1, with 95 % intervals.

    interval: the one to read: Fay and Feuer's for `logged` and IPS; the bootstrap's for SNIPS and DR, not below 0; for
    DM a normal one that adds the model's own doubt, and holds only if the model is right. bootstrap: percentiles.
    bernstein: of IPS only, holds for any distribution. lift: of what the log earned, as a share (0.1 = 10 % more); its
    interval is the bootstrap's, which takes both from the same decisions (DM's: as above, what was earned taken as
    known). NaN where the log earned nothing.
    """

    method: Method
    value: float
    interval: Interval
    bootstrap: Interval
    bernstein: Interval | None
    lift: float
    lift_interval: Interval


@dataclass(frozen=True)
class Evaluation:
    """What the log says of a target.

    decisions, rewards: judged, and those of them that earned something. matched: effective number of rewards that
    speak for the target, see `matched_rewards`. ess: effective number of decisions (Kish). weight_max: the
    largest weight of a decision. weight_mean: 1 but for chance where the log could choose whatever the target does.
    missing: share of the target's probability on actions that the log could not have chosen. refusals: none = the
    estimates may be read.
    """

    decisions: int
    rewards: int
    matched: float
    ess: float
    weight_max: float
    weight_mean: float
    missing: float
    estimates: dict[Method, Estimate]
    refusals: tuple[Refusal, ...]


_R, _W, _WR, _DM, _DR, _ONE = range(6)


class Evaluator:
    """Adds up terms, chunk by chunk, in constant memory."""

    def __init__(self, seed: int, resamples: int = RESAMPLES) -> None:
        """seed: of the bootstrap. resamples: how many."""
        self._bootstrap = Bootstrap(6, seed, resamples)
        self._sums = np.zeros(6)
        self._squares = np.zeros(6)
        self._rewards = 0
        self._reward_max = 0.0
        self._weight_max = self._weight_bound = self._missing = 0.0

    def add(self, terms: NDArray[np.float64], missing: float = 0.0, weight_bound: float = 0.0) -> None:
        """Take terms in. terms: shape (decisions, 4), columns as in Term. missing: sum, over them, of the probability
        that the log could not have chosen. weight_bound: the largest weight that any choice of theirs could have had.
        """
        if not len(terms):
            return
        w, r, direct, expected = terms.T
        table = np.column_stack((r, w, w * r, direct, direct + w * (r - expected), np.ones(len(terms))))
        self._bootstrap.add(table)
        self._sums += table.sum(axis=0)
        self._squares += (table**2).sum(axis=0)
        self._rewards += int(np.count_nonzero(r))
        self._reward_max = max(self._reward_max, float(r.max()))
        self._weight_max = max(self._weight_max, float(w.max()))
        self._weight_bound = max(self._weight_bound, self._weight_max, weight_bound)
        self._missing += missing

    def result(self, unseen: tuple[str, ...] = (), model_error: float = 0.0) -> Evaluation:
        """Return what all terms say. unseen: actions of the target that were no decision's candidates.

        model_error: standard error of the reward model's guess for what the target shows.
        """
        sums, squares = self._sums.tolist(), self._squares.tolist()
        count = round(sums[_ONE])
        found = Evaluation(
            decisions=count,
            rewards=self._rewards,
            matched=matched_rewards(sums[_WR], squares[_WR], self._reward_most()),
            ess=effective(sums[_W], squares[_W]),
            weight_max=self._weight_max,
            weight_mean=sums[_W] / count if count else 0.0,
            missing=self._missing / count if count else 0.0,
            estimates={method: self._estimate(method, model_error) for method in Method} if count else {},
            refusals=(),
        )
        refusals = tuple(refuse(found, self._weight_error(count), unseen))
        return Evaluation(**(vars(found) | {"refusals": refusals}))

    def _reward_most(self) -> float:
        """Return the most that one reward not yet seen may count for: the largest weight and the largest reward."""
        return self._weight_max * (self._reward_max or 1.0)

    def _weight_error(self, count: int) -> float:
        """Return the standard error of the mean weight."""
        mean = self._sums[_W] / max(count, 1)
        return float(np.sqrt(max(0.0, self._squares[_W] / max(count, 1) - mean**2) / max(count, 1)))

    def _estimate(self, method: Method, model_error: float) -> Estimate:
        over, under = _RATIOS[method]
        sums, squares, resamples = self._sums.tolist(), self._squares.tolist(), self._bootstrap.sums
        value, logged = _ratio(sums[over], sums[under]), _ratio(sums[_R], sums[_ONE])
        with np.errstate(divide="ignore", invalid="ignore"):
            values = resamples[:, over] / resamples[:, under]
            lifts = values / (resamples[:, _R] / resamples[:, _ONE]) - 1.0
        bootstrap = percentile(values)
        count = round(sums[_ONE])
        interval, bernstein = Interval(max(0.0, bootstrap.low), bootstrap.high), None
        if method is Method.LOGGED:
            interval = fay_feuer(sums[_R], squares[_R], self._reward_max or 1.0, count)
        elif method is Method.IPS:
            interval = fay_feuer(sums[_WR], squares[_WR], self._reward_most(), count)
            bernstein = empirical_bernstein(sums[_WR], squares[_WR], self._weight_bound, count)
        elif method is Method.DM:
            reach = Z_95 * math.hypot(deviation(values), model_error)
            interval = Interval(max(0.0, value - reach), value + reach)
        lift = value / logged - 1.0 if logged > 0.0 else math.nan
        lift_interval = percentile(lifts)
        if method is Method.DM and logged > 0.0:  # the bootstrap knows nothing of the model's doubt
            lift_interval = Interval(interval.low / logged - 1.0, interval.high / logged - 1.0)
        return Estimate(method, value, interval, bootstrap, bernstein, lift, lift_interval)


_RATIOS: Final = {
    Method.LOGGED: (_R, _ONE),
    Method.IPS: (_WR, _ONE),
    Method.SNIPS: (_WR, _W),
    Method.DM: (_DM, _ONE),
    Method.DR: (_DR, _ONE),
}


def _ratio(over: float, under: float) -> float:
    return over / under if under else math.nan


def matched_rewards(total: float, squares: float, most: float) -> float:
    """Return the effective number of rewards that speak for a target; of equal weights it is their number.

    total, squares: sums of weight x reward and of its squares. most: what a reward of the largest weight counts for.
    It is Kish's number of these rewards and one more of the largest weight, less one: many rewards of what the target
    hardly ever shows say nothing of what it shows mostly, if that was never rewarded.
    """
    return max(0.0, effective(total + most, squares + most**2) - 1.0) if total > 0.0 else 0.0


def refuse(found: Evaluation, weight_error: float, unseen: tuple[str, ...]) -> list[Refusal]:
    """Return every reason not to read the estimates. weight_error: standard error of the mean weight."""
    if not found.decisions:
        return [Refusal(Reason.NO_DECISIONS, "the log has no decision that can be judged")]
    said = []
    if unseen:
        names = ", ".join(unseen[:10]) + (", …" if len(unseen) > 10 else "")
        said.append(Refusal(Reason.NO_SUPPORT, f"never a candidate in this log: {names}"))
    if found.missing > MISSING_MAX:
        text = f"{found.missing:.2%} of the target's choices are actions that the log could not have chosen"
        said.append(Refusal(Reason.NO_SUPPORT, text))
    off = abs(found.weight_mean - 1.0)
    if found.ess < ESS_MIN:
        text = (
            f"effective sample size {found.ess:,.1f}, expected {ESS_MIN:.0f} at least: the log hardly ever chose alike"
        )
        said.append(Refusal(Reason.SMALL_SAMPLE, text))
    elif off > WEIGHT_ERROR_MAX and off > WEIGHT_ERRORS_MAX * weight_error and not said:
        text = f"weights average {found.weight_mean:.3g}, expected 1: logged probabilities are wrong or choices were 0"
        said.append(Refusal(Reason.WEIGHTS_OFF, text))
    if found.matched < REWARDS_MIN:
        text = f"{found.matched:,.1f} matched rewards, expected {REWARDS_MIN:.0f} at least"
        said.append(Refusal(Reason.FEW_REWARDS, text))
    if found.rewards == found.decisions:
        text = "every decision earned something: are those without reward reported as shown? (see --unshown)"
        said.append(Refusal(Reason.NOT_SHOWN, text))
    return said

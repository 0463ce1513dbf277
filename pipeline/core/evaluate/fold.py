"""The fold over the log: before each decision the target knows what the learn stage would have known, and no more.

So a policy that learns is judged as it would have been at each moment, from what the logged decisions taught (also when
another policy made them). Since the weight of a decision depends only on what came before it, IPS stays unbiased.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import Final

import numpy as np

from pipeline.core.evaluate.bootstrap import RESAMPLES
from pipeline.core.evaluate.estimate import Evaluation, Evaluator, Term
from pipeline.core.evaluate.logged import Logged
from pipeline.core.evaluate.reward_model import RewardModel
from pipeline.core.evaluate.targets import Target

TERMS_AT_ONCE: Final = 4_096


@dataclass(frozen=True)
class EvaluateRules:
    """from_ms: decisions before it teach but are not judged. counts_unshown: a decision that nobody reported as shown
    earned 0 (else it is left out). seed: of the bootstrap. resamples: of the bootstrap.
    """

    from_ms: int = 0
    counts_unshown: bool = False
    seed: int = 0
    resamples: int = RESAMPLES


@dataclass
class Counts:
    """Decisions that were read. taught_only: before from_ms. unshown: left out, or counted as earning 0. unusable:
    whose choice was impossible by their own log. elsewhere: of those judged, made by another system.
    """

    read: int = 0
    taught_only: int = 0
    unshown: int = 0
    unusable: int = 0
    elsewhere: int = 0


@dataclass
class _Answer:
    """What target and model say of one set of candidates, at one version."""

    probabilities: Sequence[float]
    guesses: Sequence[float]
    direct: float
    missing: float
    uses: int = 0


@dataclass
class Fold:
    """The state of an evaluation: feed it decisions in order of time, then ask for the result."""

    target: Target
    rules: EvaluateRules = field(default_factory=EvaluateRules)
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        """Start with nothing known."""
        self._model = RewardModel()
        self._evaluator = Evaluator(self.rules.seed, self.rules.resamples)
        self._news: list[tuple[int, int, Logged, int, int]] = []  # (known from, number, decision, trials, reward)
        self._number = 0
        self._until_refresh = 0
        self._answers: dict[tuple[str, ...], _Answer] = {}
        self._terms: list[Term] = []
        self._missing = self._weight_bound = 0.0
        self._shares: dict[str, float] = {}  # action id -> sum of the target's probabilities

    def add(self, decision: Logged) -> None:
        """Judge a decision, then remember what it will teach and when. Decisions come in order of time."""
        self.counts.read += 1
        if not _is_usable(decision):
            self.counts.unusable += 1
            return
        if self._until_refresh <= 0:
            self._refresh(decision.decided_ms)
        self._until_refresh -= 1
        is_shown = decision.shown_ms > 0
        self.counts.unshown += not is_shown
        if decision.decided_ms < self.rules.from_ms:
            self.counts.taught_only += 1
        elif is_shown or self.rules.counts_unshown:
            self._judge(decision)
        if is_shown:
            self._remember(decision.shown_ms, decision, 1, 0)
            if decision.reward_micros:
                known_ms = max(decision.shown_ms, decision.rewarded_ms)
                self._remember(known_ms, decision, 0, decision.reward_micros)

    def result(self) -> Evaluation:
        """Return what all decisions so far say of the target."""
        self._flush()
        self._forget_answers()
        judged = sum(self._shares.values()) or 1.0
        error = self._model.error({name: share / judged for name, share in self._shares.items()})
        return self._evaluator.result(tuple(self.target.unseen()), error)

    def _remember(self, known_ms: int, decision: Logged, trials: int, reward_micros: int) -> None:
        self._number += 1
        heapq.heappush(self._news, (known_ms, self._number, decision, trials, reward_micros))

    def _refresh(self, now_ms: int) -> None:
        """Tell target and model what is known by now."""
        self._until_refresh = self.target.refresh_every
        while self._news and self._news[0][0] <= now_ms:
            _, _, decision, trials, reward_micros = heapq.heappop(self._news)
            self._model.sums.add(decision.action_id, trials, reward_micros)
            self.target.learn(decision, trials, reward_micros)
        self._model.refresh()
        if self.target.learns:
            self.target.refresh()
        self._forget_answers()

    def _forget_answers(self) -> None:
        """Another version begins: keep only how much of what the target would have shown."""
        for candidates, answer in self._answers.items():
            for name, share in zip(candidates, answer.probabilities, strict=True):
                self._shares[name] = self._shares.get(name, 0.0) + share * answer.uses
        self._answers.clear()

    def _judge(self, decision: Logged) -> None:
        answer = self._answer(decision)
        at = decision.candidates.index(decision.action_id)
        weight = answer.probabilities[at] / decision.propensity
        self._terms.append(Term(weight, decision.reward, answer.direct, answer.guesses[at]))
        self._missing += answer.missing
        if decision.propensities:
            for wanted, logged in zip(answer.probabilities, decision.propensities, strict=True):
                if logged <= 0.0:
                    self._missing += wanted
                elif wanted > self._weight_bound * logged:
                    self._weight_bound = wanted / logged
        else:
            self.counts.elsewhere += 1
            if decision.propensity >= 1.0:  # the others are known after all: never
                self._missing += max(0.0, 1.0 - answer.missing - answer.probabilities[at])
        if len(self._terms) >= TERMS_AT_ONCE:
            self._flush()

    def _answer(self, decision: Logged) -> _Answer:
        if self.target.reads_context:
            self._forget_answers()
        found = self._answers.get(decision.candidates)
        if found is None:
            probabilities = self.target.probabilities(decision)
            guesses = self._model.guesses(decision.candidates)
            direct = sum(map(mul, probabilities, guesses))
            found = _Answer(probabilities, guesses, direct, max(0.0, 1.0 - sum(probabilities)))
            self._answers[decision.candidates] = found
        found.uses += 1
        return found

    def _flush(self) -> None:
        if self._terms:
            self._evaluator.add(np.array(self._terms), self._missing, self._weight_bound)
        self._terms, self._missing = [], 0.0


def _is_usable(decision: Logged) -> bool:
    """Say whether the choice was possible by its own log; NaN is not."""
    known = len(decision.propensities)
    return (
        0.0 < decision.propensity <= 1.0
        and decision.action_id in decision.candidates
        and known in (0, len(decision.candidates))
    )


def evaluate(log: Iterable[Logged], target: Target, rules: EvaluateRules) -> tuple[Evaluation, Counts]:
    """Return what a log says of a target, and what was read. log: decisions in order of time, read once."""
    fold = Fold(target, rules)
    for decision in log:
        fold.add(decision)
    return fold.result(), fold.counts

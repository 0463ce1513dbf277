"""What each action's reward is guessed to be, from what is known so far: what DM and DR lean on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.core.evaluate.logged import MICROS
from pipeline.core.evaluate.sums import Sums


class Spread(NamedTuple):
    """How rewards vary, in squares of rewards.

    mean: of all trials. within: variance of one action's reward. between: of the actions' true means.
    """

    trials: int = 0
    mean: float = 0.0
    within: float = 0.0
    between: float = 0.0

    def credibility(self, trials: int) -> float:
        """Return how far an action's own mean is to be believed, 0..1. trials: of this action."""
        over = trials * self.between
        return over / (over + self.within) if over > 0.0 else 0.0


class RewardModel:
    """q: each action's mean reward so far, drawn towards the mean of all by as much as chance explains.

    Plain means would flatter whatever target was made from the same means: of many rare rewards the best looks several
    times as good as it is. Source: Buhlmann & Straub, "Glaubwurdigkeit fur Schadensatze" (1970), credibility.
    """

    def __init__(self) -> None:
        """Start with nothing known: every guess is 0."""
        self.sums = Sums()
        self._guesses: dict[str, float] = {}
        self._spread = Spread()

    def refresh(self) -> None:
        """Make the guesses anew from the sums."""
        spread = self._spread = _spread(self.sums)
        self._guesses = {}
        for name, arm in self.sums.arms.items():
            if arm.trials > 0:
                own = arm.reward_micros / (MICROS * arm.trials)
                self._guesses[name] = spread.mean + spread.credibility(arm.trials) * (own - spread.mean)

    def guesses(self, action_ids: Sequence[str]) -> list[float]:
        """Return the expected reward of each action, 0..1; of an untried one the mean of all."""
        return [self._guesses.get(name, self._spread.mean) for name in action_ids]

    def error(self, shares: Mapping[str, float]) -> float:
        """Return the standard error of the guess for a mixture of actions, by what is known now.

        shares: action id -> its share of the mixture.
        """
        spread = self._spread
        if not spread.trials:
            return 0.0
        variance = spread.within / spread.trials
        for name, share in shares.items():
            arm = self.sums.arms.get(name)
            credibility = spread.credibility(arm.trials if arm else 0)
            variance += share**2 * spread.between * (1.0 - credibility)
        return float(variance**0.5)


def _spread(sums: Sums) -> Spread:
    """Return the moments: within and between as in a one-way analysis of variance with unequal groups."""
    tried = [arm for arm in sums.arms.values() if arm.trials > 0]
    trials = sum(arm.trials for arm in tried)
    if not trials:
        return Spread()
    mean = sum(arm.reward_micros for arm in tried) / (MICROS * trials)
    own = sum(arm.trials * (arm.reward_micros / (MICROS * arm.trials)) ** 2 for arm in tried)
    if trials <= len(tried):
        return Spread(trials, mean)
    squares = sum(arm.reward_squares_micros for arm in tried) / MICROS
    within = max(0.0, squares - own) / (trials - len(tried))
    evenness = trials - sum(arm.trials**2 for arm in tried) / trials
    apart = own - trials * mean**2 - (len(tried) - 1) * within
    return Spread(trials, mean, within, max(0.0, apart / evenness) if evenness > 0.0 else 0.0)

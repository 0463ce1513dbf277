"""The rivals: Vowpal Wabbit and MABWiser, each fed as its own documentation says. They need not be installed."""

import importlib.util
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features import GRID, Vector
from pipeline.core.linear_policy import Drawing
from tests.bench_learning.players import A_BLOCK, Turn, named_space, pick
from tests.bench_learning.problems import Features, World


def is_installed(name: str) -> bool:
    """Say whether a rival can be imported."""
    return importlib.util.find_spec(name) is not None


class VowpalWabbit:
    """Contextual bandits with action-dependent features; context x action by -q.

    What belongs to the context alone is left out: it is the same for all actions, and VW does better without it.
    The actions' lines are parsed once and used again: the same decisions as from text each time, and at 1,000 actions a
    sixth of the time.
    """

    is_additive = False

    def __init__(self, world: World, arguments: str, promise: Drawing | None = None) -> None:
        """promise: the share of every action that our policies keep; mixed into VW's own, as it is into ours."""
        import vowpalwabbit

        self.promise = promise
        self.vw = vowpalwabbit.Workspace(
            f"--quiet --cb_explore_adf -q ca --ignore_linear c --random_seed 1 {arguments}"
        )
        self.lines = [
            f"|a i{number} {vw_features(features)}".rstrip() for number, features in enumerate(world.action_features)
        ]
        self.actions = [self.vw.example(line) for line in self.lines]
        self.last: tuple[Features, object] | None = None

    def choose(self, number: int, context: Features, u: float) -> Turn:
        """See Player."""
        found = self.vw.predict([self._shared(context), *self.actions])
        if self.promise is not None:
            even, whole = self.promise.even(len(found)), sum(found)
            found = [share / whole * (1.0 - even) + even / len(found) for share in found]
        at = pick(found, u * sum(found))
        return Turn(number, at, found[at], context)

    def learn(self, turn: Turn, trials: int, reward: float) -> None:
        """See Player."""
        examples = [self._shared(turn.context), *self.actions]
        label = f"0:{-reward}:{max(turn.probability, 1e-6)}"
        examples[1 + turn.action] = self.vw.example(f"{label} {self.lines[turn.action]}")
        self.vw.learn(examples)

    def _shared(self, context: Features) -> object:
        """The context as VW has it: mostly it is told of the very one that it has just decided for."""
        if self.last is None or self.last[0] is not context:
            self.last = context, self.vw.example(f"shared |c {vw_features(context)}")
        return self.last[1]


def vw_features(features: Features) -> str:
    """Return features in VW's words: numbers by value (it scales them itself), categories as names."""
    return " ".join(
        f"{name}_{value}" if isinstance(value, str) else f"{name}:{float(value):g}"  # type: ignore[arg-type]
        for name, value in features.items()
    )


class MabWiser:
    """MABWiser's linear policies: the same vectors as ours, asked and fitted so many rounds at a time as delivery is.

    Round by round it would take a millisecond each.
    """

    is_additive = False

    def __init__(self, world: World, policy: str) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        policies = {
            "LinGreedy": LearningPolicy.LinGreedy(epsilon=0.1),
            "LinUCB": LearningPolicy.LinUCB(alpha=1.0),
            "LinTS": LearningPolicy.LinTS(alpha=0.1),
        }
        self.contexts = world.contexts
        self.space = named_space(world.contexts)
        self.ids = list(range(len(world.action_ids)))
        self.mab = MAB(self.ids, policies[policy], seed=1)
        self.mab.fit(self.ids, [0] * len(self.ids), np.zeros((len(self.ids), self.space.dimension)))
        self.answers: dict[int, int] = {}
        self.waiting: list[tuple[int, float, Vector]] = []

    def choose(self, number: int, context: Features, u: float) -> Turn:
        """See Player. It says no probability. What it will do until it is fitted again is asked at once."""
        if number not in self.answers:
            some = self.contexts[number : number + max(2, A_BLOCK - len(self.waiting))]  # of one it gives no list
            found = self.mab.predict(self._matrix(some)) if len(some) > 1 else [self.mab.predict(self._matrix(some))]
            self.answers = dict(enumerate(map(int, found), number))
        return Turn(number, self.answers[number], 1.0, context)

    def learn(self, turn: Turn, trials: int, reward: float) -> None:
        """See Player."""
        self.waiting.append((turn.action, reward, self.space.vector(turn.context)))
        if len(self.waiting) >= A_BLOCK:
            actions, rewards, vectors = zip(*self.waiting, strict=True)
            self.mab.partial_fit([*actions], [*rewards], np.array(vectors) / GRID)
            self.waiting, self.answers = [], {}

    def _matrix(self, contexts: Sequence[Features]) -> NDArray[np.float64]:
        return np.array([self.space.vector(context) for context in contexts]) / GRID

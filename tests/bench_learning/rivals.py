"""The rivals: Vowpal Wabbit and MABWiser, each fed as its own documentation says. They need not be installed."""

import importlib.util

import numpy as np

from tests.bench_learning.players import Turn, named_space, pick
from tests.bench_learning.problems import Features, World

GRID = 1024


def is_installed(name: str) -> bool:
    """Say whether a rival can be imported."""
    return importlib.util.find_spec(name) is not None


class VowpalWabbit:
    """Contextual bandits with action-dependent features, through text; context x action by -q.

    What belongs to the context alone is left out: it is the same for all actions, and VW does better without it.
    """

    is_additive = False

    def __init__(self, world: World, arguments: str) -> None:
        import vowpalwabbit

        self.vw = vowpalwabbit.Workspace(
            f"--quiet --cb_explore_adf -q ca --ignore_linear c --random_seed 1 {arguments}"
        )
        self.actions = [
            f"|a i{number} {vw_features(features)}".rstrip() for number, features in enumerate(world.action_features)
        ]

    def choose(self, number: int, context: Features, u: float) -> Turn:
        """See Player."""
        found = self.vw.predict([f"shared |c {vw_features(context)}", *self.actions])
        at = pick(found, u * sum(found))
        return Turn(number, at, found[at], context)

    def learn(self, turn: Turn, trials: int, reward: float) -> None:
        """See Player."""
        lines = [f"shared |c {vw_features(turn.context)}", *self.actions]
        lines[1 + turn.action] = f"0:{-reward}:{max(turn.probability, 1e-6)} {self.actions[turn.action]}"
        self.vw.learn(lines)


def vw_features(features: Features) -> str:
    """Return features in VW's words: numbers by value (it scales them itself), categories as names."""
    return " ".join(
        f"{name}_{value}" if isinstance(value, str) else f"{name}:{float(value):g}"  # type: ignore[arg-type]
        for name, value in features.items()
    )


class MabWiser:
    """MABWiser's linear policies: the same vectors as ours, fitted round by round."""

    is_additive = False

    def __init__(self, world: World, policy: str) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        policies = {
            "LinGreedy": LearningPolicy.LinGreedy(epsilon=0.1),
            "LinUCB": LearningPolicy.LinUCB(alpha=1.0),
            "LinTS": LearningPolicy.LinTS(alpha=0.1),
        }
        self.space = named_space(world.contexts)
        self.ids = list(range(len(world.action_ids)))
        self.mab = MAB(self.ids, policies[policy], seed=1)
        self.mab.fit(self.ids, [0] * len(self.ids), np.zeros((len(self.ids), self.space.dimension)))

    def choose(self, number: int, context: Features, u: float) -> Turn:
        """See Player. It says no probability."""
        at = int(self.mab.predict(self.space.vector(context)[None, :] / GRID))
        return Turn(number, at, 1.0, context)

    def learn(self, turn: Turn, trials: int, reward: float) -> None:
        """See Player."""
        self.mab.partial_fit([turn.action], [reward], self.space.vector(turn.context)[None, :] / GRID)

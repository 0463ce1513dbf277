"""One player in one world: regret, with news told when the world tells it."""

from collections import defaultdict

import numpy as np

from tests.bench_learning.players import Player, Turn
from tests.bench_learning.problems import World


def regret(world: World, player: Player, seed: int) -> float:
    """Play all rounds; return the mean over rounds of (best expected reward - the chosen action's)."""
    draws = np.random.default_rng([seed, 4]).random(world.rounds).tolist()
    best = world.expected.max(axis=1)
    news: defaultdict[int, list[tuple[Turn, int, float]]] = defaultdict(list)
    lost = 0.0
    for number, context in enumerate(world.contexts):
        for turn, trials, reward in news.pop(number, ()):
            player.learn(turn, trials, reward)
        turn = player.choose(number, context, draws[number])
        expected = world.expected[number, turn.action]
        lost += best[number] - expected
        reward = float(world.luck[number] < expected)
        for wait, trials, told in telling(world, player, number, reward):
            if wait == 0:
                player.learn(turn, trials, told)
            else:
                news[number + wait].append((turn, trials, told))
    return float(lost) / world.rounds


def telling(world: World, player: Player, number: int, reward: float) -> list[tuple[int, int, float]]:
    """Return (rounds until it is told, trials, reward) of a round's news."""
    if world.conversion_rounds is None:
        return [(world.late_rounds, 1, reward)]
    wait = int(world.conversion_rounds[number])
    if not player.is_additive:  # what it was told cannot be corrected: a reward when it comes, none when time is up
        return [(wait + 1 if reward else world.window_rounds, 1, reward)]
    return [(0, 1, 0.0), (wait + 1, 0, reward)] if reward else [(0, 1, 0.0)]

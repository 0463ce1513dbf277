"""What a decision and a learning step cost: CPU of this process, 24 features, d = 25, after 2,000 rounds."""

import statistics
import time
from collections.abc import Callable
from itertools import cycle

import numpy as np

from tests.bench_learning.deployed import Deployed, learnt, outcome_of
from tests.bench_learning.lineup import LINEUP, Entrant
from tests.bench_learning.players import A_BLOCK, Turn
from tests.bench_learning.problems import Features, World
from tests.bench_learning.rivals import is_installed

BLOCKS = 64
ROUNDS_BEFORE = 2_000
TIMED = (
    "deployed epsilon_greedy", "deployed thompson", "deployed linear_igw", "vw squarecb", "vw epsilon .05",
    "mabwiser LinUCB",
)  # fmt: skip


def world_of(actions: int, rounds: int = 2_300) -> World:
    """Return a world of 24 numbers (4 for a shared model's sake) and as many actions, five features each."""
    rng = np.random.default_rng(5)
    contexts: list[Features] = [
        {f"n{at}": float(value) for at, value in enumerate(row)} for row in rng.random((rounds, 24))
    ]
    features: list[Features] = [{f"f{at}": float(v) for at, v in enumerate(row)} for row in rng.random((actions, 4))]
    return World(contexts, np.full((rounds, actions), 0.1), rng.random(rounds), features)


def cost_us(entrant: Entrant, actions: int, seconds: float = 1.0) -> tuple[float, float, float]:
    """Return (decide, learn, make a new model) in microseconds of CPU; the last is 0 where it is part of learning."""
    world = world_of(actions)
    player = entrant.make(world)
    turns: list[Turn] = []
    began = time.process_time()
    while time.process_time() - began < 5 * seconds and len(turns) < ROUNDS_BEFORE:
        turn = player.choose(len(turns), world.contexts[len(turns)], float(world.luck[len(turns)]))
        player.learn(turn, 1, float(len(turns) % 10 == 0))
        turns.append(turn)
    numbers = cycle(range(world.rounds))
    if isinstance(player, Deployed):
        deployed = player

        def whole() -> object:
            at = next(numbers)
            return deployed.decide(at, world.contexts[at], float(world.luck[at]))

        return per_call(whole, seconds), *fold_us(deployed, world)

    def decide() -> object:
        at = next(numbers)
        return player.choose(at, world.contexts[at], float(world.luck[at]))

    told = cycle(turns)
    return per_call(decide, seconds), per_call(lambda: player.learn(next(told), 1, 0.0), seconds), 0.0


def fold_us(player: Deployed, world: World) -> tuple[float, float]:
    """Return what an outcome costs the learn stage (its fold, and the state that it writes), and what a new version of
    the model costs delivery: the means over so many blocks of new visitors, so that every lesson is read.
    """
    learn_us, make_us = [], []
    for first in range(0, BLOCKS * A_BLOCK, A_BLOCK):
        outcomes = []
        for at in range(first, first + A_BLOCK):
            context = {name: float(str(value)) * 1.01 for name, value in world.contexts[at].items()}
            turn = player.choose(at, context, float(world.luck[at]))
            outcomes.append(outcome_of(turn, player.ids, 1, float(at % 10 == 0)))
        began = time.process_time()
        changes = learnt(player.fold, next(player.offsets), outcomes)
        done = time.process_time()
        player.take(changes)
        learn_us.append((done - began) / A_BLOCK * 1e6)
        make_us.append((time.process_time() - done) * 1e6)
    return statistics.fmean(learn_us), statistics.fmean(make_us)


def per_call(function: Callable[[], object], seconds: float) -> float:
    """Return the CPU time of a call in microseconds: the least of five rounds."""
    function()
    rounds = []
    for _ in range(5):
        began, calls = time.process_time(), 0
        while time.process_time() - began < seconds / 10:
            function()
            calls += 1
        rounds.append((time.process_time() - began) / calls * 1e6)
    return min(rounds)


def costs(seconds: float) -> dict[str, dict[int, tuple[float, float, float]]]:
    """Return name -> actions -> costs, of those that can be imported."""
    found: dict[str, dict[int, tuple[float, float, float]]] = {}
    for entrant in LINEUP:
        if entrant.name in TIMED and (not entrant.library or is_installed(entrant.library)):
            sizes = (100,) if entrant.library == "mabwiser" else (100, 1_000)
            found[entrant.name] = {actions: cost_us(entrant, actions, seconds) for actions in sizes}
    return found

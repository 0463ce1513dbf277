"""What a decision and a learning step cost: CPU of this process, 24 features, d = 25, after 2,000 rounds."""

import time
from collections.abc import Callable, Sequence
from itertools import count, cycle

import numpy as np

from pipeline.core.learn import Learn
from pipeline.core.state import StateView
from schemas.block import Origin, OutcomeBlock
from schemas.outcome import Outcome
from tests.bench_learning.lineup import LINEUP, Entrant
from tests.bench_learning.players import Deployed, Linear, Turn
from tests.bench_learning.problems import Features, World
from tests.bench_learning.rivals import is_installed

A_BLOCK, FOLD_BLOCKS = 8, 64
TIMED = (
    "epsilon_greedy", "thompson", "linear_igw", "linear_squarecb", "shared linear_igw", "deployed linear_igw",
    "vw squarecb", "vw epsilon .05", "mabwiser LinUCB",
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
    while time.process_time() - began < seconds and len(turns) < 2_000:
        turn = player.choose(len(turns), world.contexts[len(turns)], float(world.luck[len(turns)]))
        player.learn(turn, 1, float(len(turns) % 10 == 0))
        turns.append(turn)
    number = iter(range(10**9))

    def decide() -> object:
        at = next(number) % world.rounds
        return player.choose(at, world.contexts[at], float(world.luck[at]))

    decide_us = per_call(decide, seconds)
    if isinstance(player, Deployed):
        turns = [player.choose(at, world.contexts[at], float(world.luck[at])) for at in range(world.rounds)]
        return decide_us, fold_us(turns, player.ids, seconds), per_call(player._made, seconds)
    at = iter(range(10**9))
    learn_us = per_call(lambda: player.learn(turns[next(at) % len(turns)], 1, 0.0), seconds)
    make_us = per_call(player._made, seconds) if isinstance(player, Linear) else 0.0
    return decide_us, learn_us - make_us, make_us


def fold_us(turns: Sequence[Turn], ids: Sequence[str], seconds: float) -> float:
    """Return what an outcome costs the learn stage: its fold and the state that it writes, eight outcomes a block."""
    fold, offset = Learn(StateView()), count()
    rewards = [1_000_000 * (number % 10 == 0) for number in range(len(turns))]
    outcomes = [
        Outcome("d", ids[turn.action], "home", "v", 1, 2, 3, 0, 0, reward, 0.5, 1, reward, lesson=turn.logged)
        for turn, reward in zip(turns, rewards, strict=True)
    ]
    blocks = cycle([OutcomeBlock(1, outcomes[at : at + A_BLOCK]) for at in range(0, len(outcomes), A_BLOCK)])

    def learn() -> None:
        for _ in range(FOLD_BLOCKS):
            fold.apply(Origin(0, next(offset)), next(blocks))
            fold.take_changes()

    return per_call(learn, seconds) / (FOLD_BLOCKS * A_BLOCK)


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

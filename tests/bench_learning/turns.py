"""One turn by names, so that another process can play it."""

from tests.bench_learning.lineup import LINEUP
from tests.bench_learning.play import regret
from tests.bench_learning.problems import problems


def play(problem_name: str, player_name: str, seed: int, rounds: int) -> float:
    """Play one seed of a problem; return the regret."""
    problem = next(problem for problem in problems() if problem.name == problem_name)
    entrant = next(entrant for entrant in LINEUP if entrant.name == player_name)
    world = problem.make(seed, rounds)
    return regret(world, entrant.make(world), seed)

"""Turns: one player in one world each. A world is made once for all its players; what is played is kept at once.

A turn is named by plain words, so that another process can play it.
"""

import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from tests.bench_learning.lineup import named
from tests.bench_learning.play import regret
from tests.bench_learning.problems import problems


class Turn(NamedTuple):
    """Who played what."""

    problem: str
    rounds: int
    seed: int
    player: str


class Played(NamedTuple):
    """regret: the mean over the rounds. cpu_us: of a round, everything included."""

    regret: float
    cpu_us: float


class Kept:
    """What was played so far, in a file where one is named: a run goes on from it, also after a kill."""

    def __init__(self, path: Path | None) -> None:
        """path: of JSON lines; a line that a kill has cut is left out."""
        self._path = path
        self.played: dict[Turn, Played] = {}
        if path is not None and path.exists():
            for line in path.read_text("utf-8").splitlines():
                if line.endswith("]"):
                    problem, rounds, seed, player, lost, cpu_us = json.loads(line)
                    self.played[Turn(problem, rounds, seed, player)] = Played(lost, cpu_us)

    def add(self, turn: Turn, played: Played) -> None:
        """Keep one more."""
        self.played[turn] = played
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([*turn, *played]) + "\n")


def play(turns: list[Turn]) -> list[tuple[Turn, Played]]:
    """Play turns of one world."""
    first = turns[0]
    problem = next(problem for problem in problems() if problem.name == first.problem)
    world = problem.make(first.seed, first.rounds)
    found = []
    for turn in turns:
        began_s = time.process_time()
        lost = regret(world, named(turn.player).make(world), turn.seed)
        found.append((turn, Played(lost, (time.process_time() - began_s) / turn.rounds * 1e6)))
    return found


def play_all(worlds: Iterable[list[Turn]], jobs: int, seconds: float) -> Iterator[list[tuple[Turn, Played]]]:
    """Play worlds, one after the other or `jobs` at a time, and give each as it ends; begin none after so long."""
    until_s = time.monotonic() + seconds
    if jobs == 1:
        for turns in worlds:
            if time.monotonic() > until_s:
                return
            yield play(turns)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = [pool.submit(play, turns) for turns in worlds]
        for done in as_completed(waiting):
            if time.monotonic() > until_s:
                for other in waiting:
                    other.cancel()
            if not done.cancelled():
                yield done.result()

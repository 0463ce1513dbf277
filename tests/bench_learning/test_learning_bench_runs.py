"""The learning bench plays: its problems are what they say, and its players are told what the world tells."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.core.linear import read_lesson
from pipeline.core.linear_blend import Blend
from tests.bench_learning.__main__ import main
from tests.bench_learning.deployed import Deployed
from tests.bench_learning.lineup import LINEUP, OURS, Entrant, entrants, named
from tests.bench_learning.open_bandit import replay
from tests.bench_learning.play import regret, telling
from tests.bench_learning.players import Turn
from tests.bench_learning.problems import Features, World, problems, shop
from tests.bench_learning.report import Measured, met, ratio, ratios, vw_best
from tests.bench_learning.rivals import is_installed


class Listener:
    """Plays the first action, and notes what it is told in which round."""

    def __init__(self, is_additive: bool) -> None:
        self.is_additive = is_additive
        self.round = 0
        self.told: list[tuple[int, int, int, float]] = []

    def choose(self, number: int, context: Features, u: float) -> Turn:
        """See Player."""
        self.round = number
        return Turn(number, 0, 1.0, context)

    def learn(self, turn: Turn, trials: int, reward: float) -> None:
        """See Player."""
        self.told.append((turn.number, self.round, trials, reward))


def steady(rounds: int, chances: list[float], **more: object) -> World:
    world = World([{"x": 1.0}] * rounds, np.tile(chances, (rounds, 1)), np.full(rounds, 0.5), [{}] * len(chances))
    return World(**(vars(world) | more))


def test_every_problem_gives_the_rounds_it_was_asked_for() -> None:
    for problem in problems():
        world = problem.make(1, 40)
        assert world.expected.shape == (40, len(world.action_ids)), problem.name
        assert len(world.action_features) == len(world.action_ids)
        assert 0.0 <= world.expected.min() <= world.expected.max() <= 1.0


def test_a_seed_is_the_same_world_again_and_another_seed_is_another() -> None:
    one, two, other = shop(5)(3, 50), shop(5)(3, 50), shop(5)(4, 50)
    assert (one.expected == two.expected).all()
    assert (one.luck == two.luck).all()
    assert not (one.expected == other.expected).all()


def test_late_news_comes_late_and_a_reward_is_an_addition_for_those_who_can() -> None:
    """Told at once: a trial without reward; 3 rounds later the reward. The others hear of it once."""
    world = steady(20, [1.0, 0.0], conversion_rounds=np.full(20, 2), window_rounds=10)
    additive, waiting = Listener(True), Listener(False)
    regret(world, additive, 1)
    regret(world, waiting, 1)
    assert [told for told in additive.told if told[0] == 5] == [(5, 5, 1, 0.0), (5, 7, 0, 1.0)]
    assert [told for told in waiting.told if told[0] == 5] == [(5, 7, 1, 1.0)]
    assert telling(world, waiting, 5, 0.0) == [(10, 1, 0.0)]


def test_regret_is_what_the_best_action_would_have_earned_more() -> None:
    assert regret(steady(50, [0.2, 0.9]), Listener(True), 1) == pytest.approx(0.7)


def test_what_is_deployed_loses_less_than_what_knows_no_context() -> None:
    """From the decision through the learn stage's packed state to the next decision; a model for each block."""
    problem = next(problem for problem in problems() if problem.name == "segment")
    world = problem.make(1, 600)
    linear, plain = (regret(world, Deployed(world, name), 1) for name in ("linear_igw", "epsilon_greedy"))
    assert linear < 0.7 * plain


def test_a_deployed_player_has_the_floor_and_the_lessons_that_delivery_has() -> None:
    world = shop(5)(3, 50)
    player = Deployed(world, "linear_igw")
    log = player.decide(0, world.contexts[0], 0.5)
    assert min(log.propensities) >= 0.01
    assert sum(log.propensities) == pytest.approx(1.0, abs=1e-12)
    assert read_lesson(log.choices[0].lesson).space == Blend.space


def play_some(*arguments: str) -> str:
    """Two seeds of sixty rounds of one problem; return what the command printed."""
    shared = ["--only", "phishing", "--players", "uniform,deployed linear,vw eps", "--rounds", "60", "--seeds", "2"]
    result = CliRunner().invoke(main, [*shared, "--jobs", "1", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_who_is_not_installed_is_named_so(tmp_path: Path) -> None:
    """The command plays, prints and writes what it found; a rival that is missing has a row that says so."""
    path = tmp_path / "found.json"
    output = play_some("--json", str(path))
    problem = next(problem for problem in problems() if problem.name == "phishing")
    why = {entrant.name: why for entrant, why in entrants(problem, 2)}
    assert ("not installed" in output) == (why["vw epsilon .05"] == "not installed")
    played = json.loads(path.read_text("utf-8"))["problems"]["phishing"]["players"]
    assert len(played["deployed linear_igw"]["seeds"]) == 2
    assert {entrant.name for entrant in LINEUP} >= set(played)


def test_a_run_goes_on_from_what_an_earlier_one_has_kept(tmp_path: Path) -> None:
    """A line that a kill has cut is played again; nothing else is."""
    path = tmp_path / "kept.jsonl"
    first = play_some("--keep", str(path))
    whole = path.read_text("utf-8")
    assert play_some("--keep", str(path)) == first
    assert path.read_text("utf-8") == whole
    path.write_text(whole[:-9] + "\n", "utf-8")
    play_some("--keep", str(path))
    again = [json.loads(line)[:5] for line in path.read_text("utf-8").splitlines() if line.endswith("]")]
    assert again == [json.loads(line)[:5] for line in whole.splitlines()]


def test_ratios_are_to_the_best_setting_of_the_rival_and_their_errors_are_of_pairs() -> None:
    regrets = {"p": {"vw a": [0.4, 0.2], "vw b": [0.1, 0.3], "ours": [0.05, 0.15]}}
    best = vw_best(regrets["p"])
    assert best is not None
    assert best[0] == "vw b"
    assert best[1] == pytest.approx(0.2)
    assert ratios(regrets)["ours"]["p"].value == pytest.approx(0.5)
    assert ratios(regrets)["ours"]["p"].error == pytest.approx(0.0), "half of it with each seed"
    assert ratio([0.2, 0.2], [0.1, 0.3]).error == pytest.approx(0.5)
    assert vw_best({"ours": [0.1]}) is None


def test_an_aim_is_met_at_the_rivals_own_regret_and_what_chance_could_turn_is_said() -> None:
    assert met(Measured(1.0, 0.0)).startswith("yes")
    assert met(Measured(1.2, 0.05)) == "no"
    assert met(Measured(0.8, 0.05)) == "yes"
    assert met(Measured(1.05, 0.05)) == "no (within 2 s.e.)"
    assert met(Measured(1.05, math.nan)) == "no (one seed)"


def test_a_replay_counts_and_teaches_only_where_the_player_does_what_the_log_did() -> None:
    world, listener = steady(6, [0.5, 0.5]), Listener(True)
    entrant = Entrant("listener", OURS, lambda world: listener)
    assert replay(entrant, world, [0, 1, 0, 0, 1, 1], [1.0, 1.0, 0.0, 1.0, 0.0, 0.0], 0) == (3, 2.0)
    assert [(number, reward) for number, _, _, reward in listener.told] == [(0, 1.0), (2, 0.0), (3, 1.0)]


@pytest.mark.skipif(not is_installed("vowpalwabbit"), reason="Vowpal Wabbit is not installed: `make bench-learning`")
def test_a_rival_under_our_promise_shows_every_action_as_often_as_we_do() -> None:
    world = next(problem for problem in problems() if problem.name == "digits").make(0, 40)
    rival = named("vw+floor squarecb 1000, l 2").make(world)
    shares: dict[int, set[float]] = {}
    for number in range(40):
        turn = rival.choose(number, world.contexts[number], number / 40)
        shares.setdefault(turn.action, set()).add(round(turn.probability, 3))
        rival.learn(turn, 1, float(turn.action == 3))
    assert min(min(found) for found in shares.values()) >= 0.01
    assert len(shares) > 1

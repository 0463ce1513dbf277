"""Ranks that share what there is little of: what was chosen first may be the last of it."""

from collections import Counter
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.decide import Action, Ask, Candidate, Known, decide, make_id
from pipeline.core.policies import ALL_POLICIES
from pipeline.core.policy import MICROS, PolicyRules
from pipeline.core.redraw import redraw
from schemas.model import ArmStatistics
from schemas.outcome import Choice, DecisionLog

RULES = PolicyRules(epsilon=0.4)
ARMS = {f"a{at}": ArmStatistics(1_000, 10 * at * MICROS) for at in range(8)}
POLICIES = {name: ALL_POLICIES[name](ARMS, RULES) for name in ("epsilon_greedy", "thompson", "uniform")}


class Shelf:
    """Goods of which each action takes a piece; the more the fewer are left."""

    def __init__(self, takes: Mapping[str, str], pieces: Mapping[str, int]) -> None:
        self.takes, self.pieces = takes, dict(pieces)
        self.had: list[str] = []
        self.asked = 0

    def take(self, choice: Choice, action: Candidate) -> Mapping[str, str] | None:
        self.asked += 1
        good = self.takes[action.id]
        if not self.pieces[good]:
            return None
        self.pieces[good] -= 1
        self.had.append(action.id)
        return {name: good for name, of in self.takes.items() if not self.pieces[of] and name not in self.had}


class Racing(Shelf):
    """Somebody else takes all there is after the first choice, unseen."""

    def take(self, choice: Choice, action: Candidate) -> Mapping[str, str] | None:
        found = super().take(choice, action)
        self.pieces = dict.fromkeys(self.pieces, 0)
        return None if found is None else {}


def decided(shelf: Shelf, count: int, number: int, policy: str = "epsilon_greedy") -> DecisionLog:
    known = Known(POLICIES[policy], "0:1")
    actions = [Action(name) for name in shelf.takes]
    return decide(Ask("home", "", actions, count), known, make_id(1_000, "", number), "seed", shelf.take)


GOODS = st.lists(st.sampled_from(["boat", "rope", "oar"]), min_size=1, max_size=8)
PIECES = st.fixed_dictionaries({name: st.integers(1, 3) for name in ("boat", "rope", "oar")})


@given(GOODS, PIECES, st.integers(1, 8), st.integers(0, 2**40), st.sampled_from(sorted(POLICIES)))
def test_nothing_is_chosen_that_the_ranks_before_took_the_last_of_and_nothing_is_left_that_could_be_had(
    goods: list[str], pieces: dict[str, int], count: int, number: int, policy: str
) -> None:
    """And it is drawn again bit for bit from its log, as it travels."""
    takes = {f"a{at}": good for at, good in enumerate(goods)}
    shelf = Shelf(takes, pieces)
    log = decided(shelf, count, number, policy)
    used = Counter(takes[choice.action_id] for choice in log.choices)
    assert all(used[good] <= pieces[good] for good in used)
    could = sum(min(pieces[good], many) for good, many in Counter(goods).items())
    assert len(log.choices) == shelf.asked == min(count, could)
    assert [choice.rank for choice in log.choices] == list(range(len(log.choices)))
    chosen = {choice.action_id for choice in log.choices}
    assert chosen.isdisjoint(log.excluded)
    assert log.candidates == list(takes)
    travelled = msgspec.json.decode(msgspec.json.encode(log), type=DecisionLog)
    again = redraw(travelled)
    assert again.differences == []
    assert again.choices == [(choice.action_id, choice.propensity) for choice in log.choices]


def test_a_log_in_which_what_fell_out_was_changed_is_not_drawn_again_as_it_says() -> None:
    takes = dict.fromkeys(ARMS, "boat") | {"a0": "rope", "a1": "rope"}
    log = next(
        one
        for number in range(50)
        if (one := decided(Shelf(takes, {"boat": 1, "rope": 1}), 2, number)).choices[0].action_id > "a1"
    )
    assert set(log.excluded.values()) == {"taken:0:boat", "taken:1:rope"}
    log.excluded = {name: why for name, why in log.excluded.items() if why == "taken:1:rope"}
    assert redraw(log).differences


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_each_logged_propensity_is_how_often_it_is_chosen_given_the_ranks_before(policy: str) -> None:
    """3,000 decisions: of those with the same ranks before, each action's share is what the log says."""
    takes = {"a0": "boat", "a1": "boat", "a2": "boat", "a3": "rope", "a4": "rope"}
    paths: Counter[tuple[str, ...]] = Counter()
    said: dict[tuple[str, ...], float] = {}
    for number in range(3_000):
        log = decided(Shelf(takes, {"boat": 1, "rope": 2}), 3, number, policy)
        path: tuple[str, ...] = ()
        paths[path] += 1
        for choice in log.choices:
            path = (*path, choice.action_id)
            paths[path] += 1
            assert said.setdefault(path, choice.propensity) == choice.propensity
    for path, probability in said.items():
        before = paths[path[:-1]]
        deviation = (probability * (1 - probability) / before) ** 0.5
        assert abs(paths[path] / before - probability) <= 4.5 * deviation + 1e-9, (path, before)


def test_where_somebody_else_was_faster_the_decision_ends_and_what_stands_before_it_is_true() -> None:
    takes = dict.fromkeys(ARMS, "boat")
    log = decided(Racing(takes, {"boat": 9}), 4, 7)
    whole = decided(Shelf(takes, {"boat": 9}), 4, 7)
    assert (log.choices, log.propensities) == (whole.choices[:1], whole.propensities)
    assert redraw(log).differences == []
    assert decided(Shelf(takes, {"boat": 0}), 4, 7).choices == []


def test_without_anything_that_runs_out_the_draws_are_what_they_always_were() -> None:
    actions = [Action(name) for name in ARMS]
    known = Known(POLICIES["epsilon_greedy"], "0:1")
    for number in range(50):
        plain = decide(Ask("home", "", actions, 5), known, make_id(1_000, "", number), "seed")
        assert decided(Shelf(dict.fromkeys(ARMS, "boat"), {"boat": 9}), 5, number) == plain

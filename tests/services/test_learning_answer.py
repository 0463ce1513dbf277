"""`GET /v1/learning` and the campaigns' shares: by the priors and features that the policy goes by, and bounded."""

import math
import threading
from typing import Any

import pytest

from pipeline.core.catalogue import Catalogue
from pipeline.core.learning_curve import Cell
from pipeline.core.linear import SHARED, LinearDelta, learn
from pipeline.core.linear_blend import Blend, nothing
from pipeline.core.linear_policy import LINEAR_POLICIES
from pipeline.core.policy import EpsilonGreedy, PolicyRules
from pipeline.core.prior import Priors
from pipeline.delivery.arms import shares
from pipeline.delivery.curves import ARMS_MAX, learning
from pipeline.delivery.reports import Span
from pipeline.edge.rewards import CELLS_MAX, TooMany, read_cells
from tests.core.catalogue_rig import shop, stored

HOUR_MS = 3_600_000
SPAN = Span(0, 24 * HOUR_MS, "hour")


class Told:
    """A warehouse that answers with these rows, and remembers what it was asked."""

    def __init__(self, outcomes: list[tuple[Any, ...]], decisions: list[tuple[Any, ...]]) -> None:
        self.outcomes, self.decisions = outcomes, decisions
        self.asked: list[dict[str, Any]] = []

    def execute(self, sql: str, params: Any = None) -> list[tuple[object, ...]]:
        self.asked.append(dict(params))
        return self.outcomes if "FROM outcomes" in sql else self.decisions


def row(hour: int, arm: str, trials: int = 1) -> tuple[Any, ...]:
    return hour * 3_600, arm, trials, 0.0, 2.0 * trials, 0.0, 0.0, 2.0


def test_the_prior_of_a_curve_is_what_the_policy_expects_of_that_arm() -> None:
    """Not the setting: of a red one, where red ones earn, it expects more."""
    policy = EpsilonGreedy({}, PolicyRules(prior_mean=0.02, prior_trials=50), Priors(0.1, {"red": 0.3}))
    cells = [Cell(0, arm, 50, 0.0, 100.0, 0.0, 0.0, 2.0) for arm in ("red", "blue")]
    means = {curve.id: curve.points[0].mean for curve in learning("home", SPAN, cells, policy).arms}
    assert means == {"red": pytest.approx(0.15), "blue": pytest.approx(0.05)}


def test_shares_are_asked_for_the_arms_that_are_shown_alone() -> None:
    arms = [f"a{number:03d}" for number in range(ARMS_MAX + 1)]
    told = Told([row(0, arm, 10 + number) for number, arm in enumerate(arms)], [(0, arms[-1], 0.25)])
    cells = read_cells(told, "home", SPAN, ARMS_MAX)
    assert set(told.asked[1]["arms"]) == set(arms[1:])
    assert [cell.probability for cell in cells if not math.isnan(cell.probability)] == [0.25]
    found = learning("home", SPAN, cells, EpsilonGreedy({}, PolicyRules()))
    assert ({curve.id for curve in found.arms}, found.truncated) == (set(arms[1:]), True)
    assert len(read_cells(Told(told.outcomes, []), "home", SPAN)) == len(arms)


@pytest.mark.parametrize("which", ["outcomes", "decisions"])
def test_an_answer_that_would_not_fit_is_refused_with_what_to_ask_instead(which: str) -> None:
    many = [row(0, "a")] * (CELLS_MAX + 1)
    told = Told(many if which == "outcomes" else many[:1], many)
    with pytest.raises(TooMany, match="interval hour: more than 200,000 of them over all arms; expected a longer one"):
        read_cells(told, "home", SPAN, ARMS_MAX)
    assert told.asked[-1]["most"] == CELLS_MAX + 1


def trained() -> Blend:
    """A model of 400 choices: what is big is clicked, what is small is not."""
    own, shared = nothing()
    blank = Blend(own, shared)
    told = [(f"x{n % 2}", {"big": n % 2 == 1}, 1_000_000 * (n % 2)) for n in range(400)]
    lessons = [(name, blank.lesson({}, features), reward) for name, features, reward in told]
    learn(own, [LinearDelta(name, lesson.own, 1, reward) for name, lesson, reward in lessons])
    learn(shared, [LinearDelta(SHARED, lesson.shared, 1, reward) for _, lesson, reward in lessons])
    return Blend(own, shared)


def test_shares_of_a_linear_policy_go_by_the_creatives_features_and_leave_the_deciding_model_alone() -> None:
    """Two creatives that were never shown: without their features both would get the same."""
    place = Catalogue(
        shop(
            stored("creatives", "red", line="shoes", features={"big": True}),
            stored("creatives", "blue", line="shoes", features={"big": False}),
        )
    ).placements["home"]
    model = trained()
    policy = LINEAR_POLICIES["linear_igw"]({}, PolicyRules(), model)
    found: list[dict[str, float]] = []
    thread = threading.Thread(target=lambda: found.append(shares(place, policy)))
    thread.start()
    thread.join()
    assert found[0]["red"] > 0.8 > 0.2 > found[0]["blue"] > 0.0
    assert model.shared._cache._rows == {}, (
        "a model is asked by one thread: a report that adds to it may mix up its rows"
    )
    assert policy.scores_for(["red"], {}, [{"big": True}]) == policy.apart().scores_for(["red"], {}, [{"big": True}])

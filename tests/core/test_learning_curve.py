"""Learning that can be seen: curves, regret against the best arm, and drift, on simulated truths."""

import math
import random

import pytest

from pipeline.core.learning_curve import ALARM_P, Cell, curves, drifts, regret

HOUR_MS = 3_600_000


def cell(hour: int, arm: str, trials: int, reward: float, share: float = 0.5) -> Cell:
    weight = 1.0 / share
    return Cell(
        hour * HOUR_MS, arm, trials, reward, trials * weight, reward * weight, reward * weight**2, weight, share
    )


def simulated(rates: dict[str, list[float]], shares: dict[str, float], decisions: int, seed: int) -> list[Cell]:
    """Hours of decisions: each arm has a rate for each hour, and a share of the decisions."""
    found, rng = [], random.Random(seed)
    for hour in range(len(next(iter(rates.values())))):
        chosen = rng.choices(list(shares), list(shares.values()), k=decisions)
        for arm, share in shares.items():
            trials = chosen.count(arm)
            reward = sum(rng.random() < rates[arm][hour] for _ in range(trials))
            found.append(cell(hour, arm, trials, reward, share))
    return found


def test_a_curve_adds_up_what_came_before_and_narrows() -> None:
    points = curves([cell(0, "a", 10, 2), cell(1, "a", 90, 8), cell(1, "b", 5, 0)], 0.02, 50)["a"]
    assert [(point.trials, point.reward) for point in points] == [(10, 2), (90, 8)]
    assert points[0].mean == pytest.approx(3 / 60)
    assert points[1].mean == pytest.approx(11 / 150)
    assert points[1].low < points[1].mean < points[1].high
    assert points[1].high - points[1].low < points[0].high - points[0].low


def test_regret_is_judged_against_the_arm_that_would_have_earned_most() -> None:
    rates = {"a": [0.3] * 20, "b": [0.1] * 20}
    covered = 0
    for seed in range(40):
        found = regret(simulated(rates, {"a": 0.2, "b": 0.8}, 200, seed))
        assert found is not None
        covered += found.interval.covers(0.3)
        assert found.best == "a", f"seed {seed}"
        assert found.each == pytest.approx(0.3 - (0.2 * 0.3 + 0.8 * 0.1), abs=0.06), f"seed {seed}"
    assert covered >= 37, "an interval of 95 % should hold in about 38 of 40"


def test_a_lucky_arm_with_few_trials_is_not_called_the_best() -> None:
    found = regret([cell(0, "lucky", 3, 3), cell(0, "known", 1_000, 300)])
    assert found is not None
    assert found.best == "known"
    assert regret([cell(0, "lucky", 3, 3)]) is None
    assert regret([]) is None


def test_a_change_is_found_at_its_hour() -> None:
    rates = {"a": [0.10] * 12 + [0.03] * 12, "b": [0.05] * 24}
    alarms = drifts(simulated(rates, {"a": 0.5, "b": 0.5}, 600, 7))
    assert [alarm.arm for alarm in alarms] == ["a"]
    assert abs(alarms[0].time_ms / HOUR_MS - 12) <= 2
    assert (alarms[0].before, alarms[0].after) == (pytest.approx(0.10, abs=0.02), pytest.approx(0.03, abs=0.02))


def test_what_does_not_change_raises_hardly_ever_an_alarm() -> None:
    rates = {arm: [rate] * 24 for arm, rate in (("a", 0.02), ("b", 0.05), ("c", 0.3))}
    alarms = sum(bool(drifts(simulated(rates, dict.fromkeys(rates, 1 / 3), 300, seed))) for seed in range(150))
    assert alarms <= 150 * ALARM_P + 5 * math.sqrt(150 * ALARM_P)

"""What a linear policy would have earned: it is taken through the log with the contexts that the log has."""

import numpy as np
import pytest

from pipeline.core.evaluate.estimate import Method
from pipeline.core.evaluate.fold import EvaluateRules, evaluate
from pipeline.core.evaluate.logged import MICROS, Logged
from pipeline.core.evaluate.targets import KINDS, EpsilonGreedySpec, LinearSpec
from pipeline.core.linear_policy import LINEAR_POLICIES

ROUNDS = 6_000
GOOD = {"phone": "a", "desk": "b"}


def log_of(seed: int) -> list[Logged]:
    """Uniform choices among two; what is good for one device earns .3, on the other .02."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = []
    for number in range(ROUNDS):
        device, action = rng.choice(["phone", "desk"]), str(rng.choice(["a", "b"]))
        paid = int(rng.random() < (0.3 if GOOD[device] == action else 0.02))
        shown_ms = 1_000 * number + 1
        found.append(
            Logged(
                f"{number:032x}",
                1_000 * number,
                action,
                0.5,
                ("a", "b"),
                (0.5, 0.5),
                paid * MICROS,
                shown_ms,
                shown_ms * paid,
                {"device": device, "profile": {"version": number, "visits": 3}},
                {"a": {"price": 2}},
            )
        )
    return found


def test_a_linear_policy_is_found_to_earn_what_no_policy_without_context_can() -> None:
    """Two thirds of what knowing all would earn over no context, already while it learns."""
    log, rules = log_of(5), EvaluateRules(resamples=100)
    linear, _ = evaluate(log, LinearSpec(policy="linear_igw", prior_mean=0.1).target(), rules)
    plain, _ = evaluate(log, EpsilonGreedySpec(policy="epsilon_greedy").target(), rules)
    found, without = linear.estimates[Method.DR], plain.estimates[Method.DR]
    print(f"seed 5: linear {found.value:.3f}, epsilon-greedy {without.value:.3f}, all known .30, one action .16")
    assert found.interval.low > without.interval.high
    assert found.value > 0.25
    assert linear.refusals == ()


@pytest.mark.parametrize("name", sorted(LINEAR_POLICIES))
def test_every_linear_policy_can_be_asked_about(name: str) -> None:
    target = KINDS[name].model_validate({"policy": name}).target()
    assert target.reads_context
    assert target.probabilities(log_of(1)[0]) == pytest.approx([0.5, 0.5])


def test_a_floor_that_delivery_is_told_to_keep_is_kept_by_who_is_asked_about() -> None:
    log = log_of(5)
    for floor in (0.01, 0.05):
        target = LinearSpec(policy="linear_igw", floor=floor, refresh_every=1).target()
        for decision in log[:200]:
            target.learn(decision, 1, 1_000_000 if decision.action_id == decision.candidates[0] else 0)
            target.refresh()
        assert floor <= min(target.probabilities(log[200])) < 2 * floor

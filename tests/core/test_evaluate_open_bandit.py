"""Off-policy evaluation on real decisions: Open Bandit's logs of a uniform policy and of Bernoulli Thompson sampling.

The truth is known: Thompson's own log says what it earned. The folder is named by HERALD_TEST_DATA (default:
../shared/data beside the project); what is absent is skipped.
"""

import csv
import gzip
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from pipeline.core.evaluate.estimate import Evaluation, Method, Reason
from pipeline.core.evaluate.fold import EvaluateRules, evaluate
from pipeline.core.evaluate.logged import MICROS, Logged
from pipeline.core.evaluate.targets import Target, UniformSpec

DATA = Path(os.environ.get("HERALD_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
PUBLISHED = {"men": (0.0051, 0.0067), "women": (0.0048, 0.0064)}
"""Clicks per decision of the random and of the Thompson policy in the full logs of millions: Saito et al., NeurIPS 2021
Datasets and Benchmarks, table 1."""


def rows(policy: str, campaign: str) -> list[dict[str, str]]:
    path = DATA / "open_bandit" / policy / campaign / f"{campaign}.csv.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not in {DATA} (HERALD_TEST_DATA)")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def log_of(found: Sequence[Mapping[str, str]]) -> Iterator[Logged]:
    """As logged: only the shown item's probability is known, and where on the page it stood."""
    items = tuple(sorted({row["item_id"] for row in found}, key=int))
    for number, row in enumerate(found):
        at_ms = int(datetime.fromisoformat(row["timestamp"]).timestamp() * 1_000)
        probability, reward = float(row["propensity_score"]), MICROS * (row["click"] == "1")
        context = {"position": row["position"]}
        yield Logged(f"{number}", at_ms, row["item_id"], probability, items, (), reward, at_ms, at_ms, context)


class ByPosition:
    """Fixed probabilities for each position: how often Thompson sampling put each item there, in its own log.

    The frequencies, not the logged propensities: those are of the chosen item only, so their mean by item is of the
    moments at which the item was likely, and sums to 1.6 to 3 over the items of a position.
    """

    learns = False
    reads_context = True
    refresh_every = 1_000

    def __init__(self, found: Sequence[Mapping[str, str]]) -> None:
        shown = Counter((row["item_id"], row["position"]) for row in found)
        positions = Counter(row["position"] for row in found)
        self._shares = {key: count / positions[key[1]] for key, count in shown.items()}

    def learn(self, decision: Logged, trials: int, reward_micros: int) -> None:
        """It does not."""

    def refresh(self) -> None:
        """Nothing changes."""

    def probabilities(self, decision: Logged) -> list[float]:
        return [self._shares.get((item, str(decision.context["position"])), 0.0) for item in decision.candidates]

    def unseen(self) -> Sequence[str]:
        return ()


def judged(found: Sequence[Mapping[str, str]], target: Target) -> Evaluation:
    return evaluate(log_of(found), target, EvaluateRules(resamples=200))[0]


def clicks(found: Sequence[Mapping[str, str]]) -> float:
    return sum(row["click"] == "1" for row in found) / len(found)


@pytest.mark.parametrize(("campaign", "logged", "earned"), [("men", 46, 69), ("women", 46, 46)])
def test_the_interval_from_the_random_log_covers_what_thompson_sampling_earned(
    campaign: str, logged: int, earned: int
) -> None:
    random, thompson = rows("random", campaign), rows("bts", campaign)
    assert (len(random), len(thompson)) == (10_000, 10_000)
    assert (clicks(random), clicks(thompson)) == (logged / 10_000, earned / 10_000)
    found = judged(random, ByPosition(thompson))
    assert found.refusals == ()
    assert found.ess > 2_500
    for method in (Method.IPS, Method.SNIPS, Method.DR):
        one = found.estimates[method]
        print(f"{campaign} {method}: {one.value:.5f} {one.interval}, Thompson's own log {clicks(thompson):.5f}")
        assert one.interval.covers(clicks(thompson))
        assert one.interval.covers(PUBLISHED[campaign][1])
    assert found.estimates[Method.LOGGED].interval.covers(PUBLISHED[campaign][0])
    bernstein = found.estimates[Method.IPS].bernstein
    assert bernstein is not None
    assert bernstein.covers(clicks(thompson))


def test_the_random_policy_cannot_be_judged_on_thompson_samplings_log_of_women() -> None:
    """It had no floor: one row would weigh 21,739, and all 10,000 are worth two."""
    found = judged(rows("bts", "women"), UniformSpec(policy="uniform").target())
    assert found.ess == pytest.approx(2.1, abs=0.05)
    assert found.weight_max == pytest.approx(21_739, abs=1)
    assert {refusal.reason for refusal in found.refusals} == {Reason.SMALL_SAMPLE, Reason.FEW_REWARDS}


def test_the_random_policy_cannot_be_judged_on_thompson_samplings_log_of_men_either() -> None:
    """An effective sample of 656 would do, but one reward can weigh 178; the interval covers the truth all the same."""
    found = judged(rows("bts", "men"), UniformSpec(policy="uniform").target())
    assert found.ess == pytest.approx(656, abs=1)
    assert found.weight_max == pytest.approx(178, abs=1)
    assert {refusal.reason for refusal in found.refusals} == {Reason.FEW_REWARDS}
    assert found.estimates[Method.IPS].interval.covers(PUBLISHED["men"][0])

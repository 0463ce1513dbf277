"""`herald evaluate` judges the policy that delivery runs: its priors come of the published creatives' features."""

from pathlib import Path

from campaigns_rig import fill, of_url, opened, put, step

from pipeline.core.evaluate.logged import Logged
from pipeline.core.evaluate.targets import EpsilonGreedySpec, LinearSpec, ThompsonSpec, UcbSpec
from pipeline.core.policy import PolicyRules, ThompsonSampling
from pipeline.core.prior import priors
from pipeline.evaluate import creatives_of
from schemas.campaign import Status
from schemas.model import ArmStatistics

LIVE = (Status.REVIEW, Status.PUBLISHED)
COLOURS = {"red": "warm", "pink": "warm", "blue": "cold", "new": "warm"}


def test_a_creative_that_was_never_tried_is_expected_to_earn_what_those_like_it_do(tmp_path: Path) -> None:
    """As in delivery; one that nobody has published, or that has ended, says nothing."""
    settings = of_url("", tmp_path)
    assert creatives_of(settings, "home") is None
    assert not list(tmp_path.iterdir()), "asking makes no store"
    with opened(settings) as store:
        fill(store)
        for name, colour in COLOURS.items():
            put(store, "creatives", expected=int(name == "red"), id=name, features={"colour": colour})
        put(store, "creatives", id="draft", features={"colour": "cold"})
        for kind, key in (("placements", "home"), ("advertisers", "acme"), ("campaigns", "spring"), ("lines", "all")):
            step(store, kind, key, *LIVE)
        for name in COLOURS:
            step(store, "creatives", name, *LIVE)
    known = creatives_of(settings, "home")
    assert known is not None
    assert known.ids == ("blue", "new", "pink", "red")
    assert creatives_of(settings, "elsewhere") is None
    target = ThompsonSpec(policy="thompson").target(known)
    tried = {"red": (400, 120), "pink": (400, 100), "blue": (400, 4)}
    for name, (trials, rewards) in tried.items():
        target.learn(Logged(name, 0, name, 1.0, (name,)), trials, rewards * 1_000_000)
    target.refresh()
    arms = {name: ArmStatistics(trials, rewards * 1_000_000) for name, (trials, rewards) in tried.items()}
    rules, asked = PolicyRules(), ("pink", "new")
    found = list(target.probabilities(Logged("d", 0, "new", 0.5, asked)))
    with_features, without = (
        ThompsonSampling(arms, rules, priors(arms, rules.prior_mean, rules.prior_trials, one)) for one in (known, None)
    )
    assert found == with_features.probabilities(with_features.scores(asked))
    assert found[1] > without.probabilities(without.scores(asked))[1] + 0.1
    wants = [one.wants_features for one in (EpsilonGreedySpec, UcbSpec, ThompsonSpec, LinearSpec)]
    assert wants == [True, True, True, False]

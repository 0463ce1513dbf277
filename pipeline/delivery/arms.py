"""What is learnt of the published creatives, as metrics: learning that ops can watch."""

from collections.abc import Mapping
from typing import Final

from pipeline.core.catalogue import Catalogue, LivePlacement
from pipeline.core.policy import Policy, estimate
from pipeline.delivery.memory import Memory
from pipeline.edge import metrics
from schemas.model import ArmStatistics

SERIES_MAX: Final = 200
"""Creatives that are shown as metrics, over all placements: the first ones by name."""
_UNTRIED: Final = ArmStatistics()


def features_of(place: LivePlacement) -> dict[str, Mapping[str, object]]:
    """Return what each published creative of a place is like: id -> its features."""
    return {creative.id: creative.features for line in place.lines for creative in line.creatives}


def shares(place: LivePlacement, policy: Policy, most: int = SERIES_MAX) -> dict[str, float]:
    """Return what each published creative of a place, or member of a group, gets of its decisions, were none excluded.

    By the creatives' features, of a visitor of whom nothing is known in a request that says nothing: policies that go
    by context give others other shares. most: so many creatives, the first ones by name. For any thread.
    """
    features = features_of(place)
    ids = place.body.members[:most] or sorted(features)[:most]
    if not ids:
        return {}
    scores = policy.apart().scores_for(ids, {}, [features.get(one, {}) for one in ids])
    return dict(zip(ids, policy.probabilities(scores), strict=True))


def show_arms(catalogue: Catalogue, memory: Memory) -> None:
    """Tell the metrics what each published creative gets and earns, in the placement's policy as it is now."""
    for gauge in (metrics.ARM_PROBABILITY, metrics.ARM_REWARD, metrics.ARM_TRIALS):
        gauge.clear()
    left = SERIES_MAX
    for name, place in sorted(catalogue.placements.items()):
        policy = memory.policy(name).policy
        found = shares(place, policy, left)
        left -= len(found)
        for arm, share in found.items():
            sums = policy.arms.get(arm, _UNTRIED)
            metrics.ARM_PROBABILITY.labels(name, arm).set(share)
            metrics.ARM_TRIALS.labels(name, arm).set(sums.trials)
            for bound, value in estimate(sums, policy.rules, policy.priors.of(arm))._asdict().items():
                metrics.ARM_REWARD.labels(name, arm, bound).set(value)

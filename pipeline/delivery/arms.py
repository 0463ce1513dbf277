"""What is learnt of the published creatives, as metrics: learning that ops can watch."""

from typing import Final

from pipeline.core.catalogue import Catalogue
from pipeline.core.policy import estimate
from pipeline.delivery.memory import Memory
from pipeline.edge import metrics
from schemas.model import ArmStatistics

SERIES_MAX: Final = 200
"""Creatives that are shown as metrics, over all placements: the first ones by name."""
_UNTRIED: Final = ArmStatistics()


def show_arms(catalogue: Catalogue, memory: Memory) -> None:
    """Tell the metrics what each published creative gets and earns, in the placement's policy as it is now."""
    for gauge in (metrics.ARM_PROBABILITY, metrics.ARM_REWARD, metrics.ARM_TRIALS):
        gauge.clear()
    left = SERIES_MAX
    for name, place in sorted(catalogue.placements.items()):
        ids = sorted({creative.id for line in place.lines for creative in line.creatives})[:left]
        left -= len(ids)
        if not ids:
            continue
        policy = memory.policy(name).policy
        for arm, share in zip(ids, policy.probabilities(policy.scores(ids)), strict=True):
            sums = policy.arms.get(arm, _UNTRIED)
            metrics.ARM_PROBABILITY.labels(name, arm).set(share)
            metrics.ARM_TRIALS.labels(name, arm).set(sums.trials)
            for bound, value in estimate(sums, policy.rules)._asdict().items():
                metrics.ARM_REWARD.labels(name, arm, bound).set(value)

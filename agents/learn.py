"""The learn stage: `outcomes` -> `models`."""

from agents.app import run_worker
from agents.runtime import StageRunner
from pipeline.core.learn import Learn
from pipeline.core.linear_book import LearnRules
from pipeline.core.stage import Applied
from pipeline.edge import metrics
from pipeline.settings import Settings


def rules(settings: Settings) -> LearnRules:
    """Return the stage's rules."""
    return LearnRules(settings.policy_prior_mean, settings.policy_drift_watch)


def count(applied: Applied) -> None:
    """Tell the metrics what a block led to."""
    for (what, result), many in applied.counts.items():
        if what == "lesson" and many:
            metrics.LESSONS.labels(result).inc(many)


def run(settings: Settings) -> int:
    """Run the stage until told to stop."""
    made = rules(settings)
    return run_worker(StageRunner(Learn, lambda view: Learn(view, made), settings, count).app, settings)

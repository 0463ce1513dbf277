"""The clean stage: `collected` -> `events`, `bad`."""

from agents.app import run_worker
from agents.runtime import StageRunner
from pipeline.core.clean import CleanRules
from pipeline.core.clean_stage import Clean
from pipeline.core.stage import Applied
from pipeline.core.user_agent import read_user_agent
from pipeline.edge import metrics
from pipeline.settings import Settings


def rules(settings: Settings) -> CleanRules:
    """Return the stage's rules."""
    return CleanRules(
        future_max_ms=settings.future_max_ms,
        age_max_ms=settings.age_max_ms,
        skew_min_ms=settings.skew_min_ms,
        skew_max_ms=settings.skew_max_ms,
        dedupe_window_ms=settings.dedupe_window_ms,
    )


def count(applied: Applied) -> None:
    """Tell the metrics what a block led to."""
    for (what, label), many in applied.counts.items():
        if what == "refused":
            metrics.REFUSED.labels(label).inc(many)
        elif what == "bot":
            metrics.BOTS.labels(label).inc(many)
        elif what == "duplicate":
            metrics.DUPLICATES.inc(many)


def run(settings: Settings) -> int:
    """Run the stage until told to stop."""
    made = rules(settings)
    read_user_agent("Mozilla/5.0")  # builds the patterns: a tenth of a second that no block should wait for
    runner = StageRunner(Clean, lambda view: Clean(view, made), settings, count)
    return run_worker(runner.app, settings)

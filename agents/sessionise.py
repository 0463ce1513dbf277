"""The sessionise stage: `events` -> `sessions`."""

from agents.app import run_worker
from agents.runtime import StageRunner
from pipeline.core.sessionise import Sessionise
from pipeline.core.sessions import SessionRules
from pipeline.core.stage import Applied
from pipeline.edge import metrics
from pipeline.edge.local_store import stores
from pipeline.settings import Settings


def rules(settings: Settings) -> SessionRules:
    """Return the stage's rules."""
    return SessionRules(settings.session_gap_ms, settings.session_retain_ms, settings.session_split_on_campaign)


def count(applied: Applied) -> None:
    """Tell the metrics what a block led to."""
    for (what, _), many in applied.counts.items():
        if what == "late":
            metrics.LATE.inc(many)


def run(settings: Settings) -> int:
    """Run the stage until told to stop."""
    made = rules(settings)
    runner = StageRunner(Sessionise, lambda view: Sessionise(view, made), settings, count, stores(settings))
    return run_worker(runner.app, settings)

"""The learn stage: `outcomes` -> `models`."""

from agents.app import run_worker
from agents.runtime import StageRunner
from pipeline.core.learn import Learn
from pipeline.core.stage import Applied
from pipeline.settings import Settings


def count(applied: Applied) -> None:
    """Nothing beyond what every stage counts."""


def run(settings: Settings) -> int:
    """Run the stage until told to stop."""
    return run_worker(StageRunner(Learn, Learn, settings, count).app, settings)

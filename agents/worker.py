"""Runs one stage by its name: metrics on a port of its own, then the stage until it is told to stop."""

from collections.abc import Callable
from importlib import import_module

from pipeline import topics
from pipeline.edge import metrics
from pipeline.parts import metrics_port
from pipeline.settings import Settings


def run(stage: str, settings: Settings) -> int:
    """Run a stage of `pipeline.parts.STAGES`; each lives in the module of its name.

    Raises SettingsError where the topics have another number of partitions, Retryable where the broker is away.
    """
    topics.check_partitions(settings)
    metrics.serve(metrics_port(settings, stage), settings.host)
    metrics.watch_data_dir(settings.data_dir)
    start: Callable[[Settings], int] = import_module(f"agents.{stage}").run
    return start(settings)

"""The spend stage: `outcomes` -> `spend`."""

from agents.app import run_worker
from agents.runtime import StageRunner
from pipeline.core.holds import PIECE
from pipeline.core.spend import BOOKS, Spend
from pipeline.core.stage import Applied
from pipeline.edge import metrics
from pipeline.money import rules
from pipeline.settings import Settings


def count(applied: Applied) -> None:
    """Tell the metrics what a block led to."""
    for (what, label), many in applied.counts.items():
        if what.startswith(BOOKS):
            metrics.MONEY_BOOKS.labels(label, what.removeprefix(BOOKS)).set(many)
        elif what.startswith(PIECE):
            metrics.STOCK_PIECES.labels(what.removeprefix(PIECE)).inc(many)
        else:
            metrics.MONEY_RESERVATIONS.labels(what, label).inc(many)


def run(settings: Settings) -> int:
    """Run the stage until told to stop."""
    made = rules(settings)
    return run_worker(StageRunner(Spend, lambda view: Spend(view, made), settings, count).app, settings)

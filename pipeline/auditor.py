"""The auditor: reads the books now and then and tells the metrics; its own part in production, a thread of `up`."""

import logging
import signal
import threading

from pipeline import status
from pipeline.edge import metrics
from pipeline.errors import HeraldError
from pipeline.settings import Settings

log = logging.getLogger(__name__)


def watch(settings: Settings, stop: threading.Event) -> None:
    """Look at the books every `audit_every_ms` until told to stop. A store that is away is a log line, not an end."""
    while not stop.wait(settings.audit_every_ms / 1_000):
        try:
            look(settings)
        except HeraldError as error:
            log.warning("the books could not be read: %s", error)


def look(settings: Settings) -> None:
    """Read the books once and tell the metrics."""
    found = status.read(settings, ask_parts=False)
    for row in found.books:
        metrics.BOOKS_MISSING.labels(str(row.partition)).set(row.missing)
        if row.missing:
            log.error("partition %d: %d events are unaccounted for: %s", row.partition, row.missing, row._asdict())


def run(settings: Settings) -> int:
    """Watch until SIGINT or SIGTERM, with metrics on the port after the stages'."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    metrics.serve(settings.auditor_metrics_port, settings.host)
    metrics.watch_data_dir(settings.data_dir)
    watch(settings, stop)
    return 0

"""The auditor: looks at books and rows now and then, heals, and tells the metrics; also what will run out.

Its own part in production, a thread of `up`.
"""

import logging
import signal
import threading
from contextlib import ExitStack

from pipeline import status
from pipeline.audit.command import opened
from pipeline.audit.lookout import Lookout
from pipeline.audit.service import Report
from pipeline.core.audit import ALTERED, COPIED, EXTRA, MISSING
from pipeline.edge import metrics
from pipeline.edge.clock import monotonic_s
from pipeline.errors import HeraldError
from pipeline.settings import Settings
from schemas.tables import TABLES

log = logging.getLogger(__name__)

LOGGED_MAX = 20
BUG_WAIT_S = 10.0
QUIET_TIMES = 3
"""So many times rarer are looks while nothing new comes: each costs a third of a second of CPU, mostly ClickHouse's."""
COUNTERS = {
    MISSING: metrics.AUDIT_MISSING,
    EXTRA: metrics.AUDIT_EXTRA,
    ALTERED: metrics.AUDIT_ALTERED,
    COPIED: metrics.AUDIT_COPIED,
}


def watch(settings: Settings, stop: threading.Event) -> None:
    """Audit as a thread beside others, until told to stop.

    A bug ends a process, and a supervisor starts it again; it would only end this thread, and nobody would see that. So
    it is logged, counted as a restart of the auditor, and a new one begins.
    """
    while not stop.is_set():
        try:
            keep_auditing(settings, stop)
        except Exception:  # a bug must be seen, and must not be the end of all audits
            if stop.is_set():
                return
            metrics.RESTARTS.labels("auditor").inc()
            log.exception("the auditor ended on a bug; starting again in %.0f s", BUG_WAIT_S)
            stop.wait(BUG_WAIT_S)


def keep_auditing(settings: Settings, stop: threading.Event) -> None:
    """Audit every `audit_every_ms`, more rarely while nothing new comes, until told to stop.

    A store that is away is a log line, not an end.
    """
    for counter in COUNTERS.values():
        for table in TABLES:
            counter.labels(table.name)  # from the start, or the first fault would be no increase
    lookout = Lookout(settings)
    while not stop.is_set():
        try:
            _watch(settings, stop, lookout)
        except HeraldError as error:
            if not stop.is_set():  # else the stores were stopped under the last look, as everything is
                log.warning("no audit now: %s", error)


def _watch(settings: Settings, stop: threading.Event, lookout: Lookout) -> None:
    """Audit with one auditor, as long as nothing fails: what it knows is void then."""
    every_s = settings.audit_every_ms / 1_000
    if stop.wait(every_s):
        return
    with ExitStack() as held:
        look(settings)
        auditor = held.enter_context(opened(settings, settings.audit_heal))
        while True:
            began_s = monotonic_s()
            report = auditor.look(settings.audit_busy_ms / 1_000)
            metrics.AUDIT_SECONDS.observe(monotonic_s() - began_s)
            tell(report)
            lookout.note(report.is_quiet)
            lookout.look()
            pause_s = every_s * (QUIET_TIMES if report.is_quiet else 1)
            if stop.wait(max(0.0, pause_s - (monotonic_s() - began_s))):
                return
            look(settings)


def look(settings: Settings) -> None:
    """Read the books once and tell the metrics."""
    found = status.read(settings, ask_parts=False, books_only=True)
    for row in found.books:
        partition = str(row.partition)
        for column, count in row._asdict().items():
            if column != "partition":
                metrics.BOOKS_EVENTS.labels(partition, column).set(count)
        metrics.BOOKS_MISSING.labels(partition).set(row.missing)
        if row.missing:
            log.error("partition %d: %d events are unaccounted for: %s", row.partition, row.missing, row._asdict())
    for refused in found.refused_books:
        metrics.BOOKS_EVENTS.labels(str(refused.partition), "bad_stored").set(refused.stored)
        metrics.BOOKS_EVENTS.labels(str(refused.partition), "bad_missing").set(refused.missing)
        if refused.missing:
            text = "partition %d: %d refused events have no row in `bad`: %s"
            log.error(text, refused.partition, refused.missing, refused._asdict())


def tell(report: Report) -> None:
    """Tell metrics and log what a look found."""
    for fault in report.faults:
        COUNTERS[fault.kind].labels(fault.table).inc(fault.rows)
    for fault in report.faults[:LOGGED_MAX]:
        level = logging.WARNING if fault.healed else logging.ERROR
        place = f"{fault.table}[{fault.partition}] block {fault.offset}"
        done = "put right" if fault.healed else "NOT put right"
        log.log(level, "%s: %d rows %s, %s %s", place, fault.rows, fault.kind, done, fault.note)
    if len(report.faults) > LOGGED_MAX:
        log.error("and %d more; `herald audit` shows them", len(report.faults) - LOGGED_MAX)
    metrics.AUDIT_LEFT.set(sum(fault.rows for fault in report.left))
    metrics.AUDIT_FORGOTTEN.inc(report.forgotten.total())
    metrics.AUDIT_BEHIND.set(report.behind)


def run(settings: Settings) -> int:
    """Watch until SIGINT or SIGTERM, with metrics on the port after the stages'."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    metrics.serve(settings.auditor_metrics_port, settings.host)
    metrics.watch_data_dir(settings.data_dir)
    keep_auditing(settings, stop)
    return 0

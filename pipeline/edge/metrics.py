"""Every metric: one entry here makes the metric, its documentation and its place on the dashboard.

Labels are few and closed; nothing that a visitor sends becomes a label (placements and creatives are those that
marketers have published, up to a bound). Beside our own, every process tells of itself:
memory, CPU, open files, when it started (see PROCESS_METRICS).
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DECISION_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1)
SIZE_BUCKETS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)


@dataclass(frozen=True)
class Metric:
    """One metric: kind, name (unit last), meaning, labels and, for histograms, bucket bounds."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = LATENCY_BUCKETS_S


REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

PROCESS_METRICS = (
    Metric("counter", "process_cpu_seconds_total", "CPU time of the process, user and system"),
    Metric("gauge", "process_resident_memory_bytes", "memory of the process that is in RAM"),
    Metric("gauge", "process_start_time_seconds", "unix time of the process's start: a change is a restart"),
    Metric("gauge", "process_open_fds", "open file descriptors"),
    Metric("gauge", "process_max_fds", "how many may be open"),
)
"""Those of prometheus_client's own metrics that the dashboard or an alert uses. Linux only."""


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    METRICS.append(Metric("counter", name, meaning, labels))
    return Counter(name, meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    METRICS.append(Metric("gauge", name, meaning, labels))
    return Gauge(name, meaning, labels, registry=REGISTRY)


def _histogram(name: str, meaning: str, *labels: str, buckets: Sequence[float] = LATENCY_BUCKETS_S) -> Histogram:
    METRICS.append(Metric("histogram", name, meaning, labels, tuple(buckets)))
    return Histogram(name, meaning, labels, buckets=buckets, registry=REGISTRY)


METRICS: list[Metric] = []

# Collector
REQUESTS = _counter("herald_requests_total", "HTTP requests answered, by endpoint and status", "endpoint", "status")
RECEIVED = _counter("herald_received_total", "events accepted into the log, after the broker's word", "protocol")
REJECTED = _counter("herald_rejected_total", "events or requests refused at the door, by reason", "reason")
OVER_QUOTA = _counter("herald_over_quota_total", "events refused since their write key had passed its rate", "site")
IN_FLIGHT_BYTES = _gauge("herald_in_flight_bytes", "bytes accepted from clients and not yet acknowledged by the broker")
BLOCK_ROWS = _histogram("herald_block_rows", "events in a block", "topic", buckets=SIZE_BUCKETS)
ACK_SECONDS = _histogram("herald_ack_seconds", "block sent -> acknowledged by the broker")

# Stages
BLOCKS = _counter("herald_blocks_total", "input blocks applied", "stage")
BLOCKS_SKIPPED = _counter(
    "herald_blocks_skipped_total", "input blocks seen again and skipped (after a restart)", "stage"
)
STAGE_ROWS = _counter("herald_stage_rows_total", "rows in the input blocks that were applied", "stage")
REFUSED = _counter("herald_refused_total", "events refused by the clean stage, by reason", "reason")
DUPLICATES = _counter("herald_duplicates_total", "events whose id was seen before within the window")
BOTS = _counter("herald_bots_total", "events flagged as made by a machine, by reason", "reason")
LATE = _counter(
    "herald_late_total", "events behind their visitor's closed session: merged, or in a session of their own"
)
UNKNOWN_DECISIONS = _counter("herald_unknown_decisions_total", "rewards for a decision unknown, expired or paid before")
BAD_DECISIONS = _counter("herald_bad_decisions_total", "decision events whose log could not be read: never learnt from")
LESSONS = _counter(
    "herald_lessons_total",
    "outcomes for linear models: line = learnt, arms_full = without sums of the action's own, restarted = actions that"
    " had changed and were started anew; bad, other_space, placements_full = not learnt",
    "result",
)
MONEY_RESERVATIONS = _counter(
    "herald_money_reservations_total",
    "choices that cost something, by what became of them; bots and stale (recorded too late) are among the released,"
    " late (paid for after the release) is not billed; repeated: of a decision logged twice. stock_full is no money:"
    " stock levels of new skus that found no room",
    "column",
    "pays_for",
)
MONEY_BOOKS = _gauge(
    "herald_money_books_micros",
    "the books of money of a partition, a column at a time, in millionths: reserved = settled + released + open",
    "partition",
    "column",
)
STOCK_PIECES = _counter(
    "herald_stock_pieces_total",
    "pieces of skus held for who was shown them, by what became of them: held, bought, ended (its time was over), bots",
    "column",
)
LAG_BLOCKS = _gauge(
    "herald_lag_blocks",
    "blocks that the stage has still to apply, of partitions it owns",
    "stage",
    "partition",
)
PROGRESS = _gauge(
    "herald_last_progress_timestamp_seconds",
    "unix time of the stage's last block",
    "stage",
)
FOLD_SECONDS = _histogram("herald_fold_seconds", "one block through the stage's pure functions", "stage")
STAGE_LATENCY = _histogram("herald_stage_latency_seconds", "block closed by the collector -> applied here", "stage")
STATE_ENTRIES = _gauge("herald_state_entries", "entries in the stage's state", "stage", "partition")
STATE_FILE_BYTES = _gauge(
    "herald_state_file_bytes", "local files of the worker's state; they have no name, so `du` does not see them"
)
STATE_DAMAGED = _counter(
    "herald_state_damaged_total", "state topics found damaged on taking over; computed again from the input", "stage"
)
RESTORE_SECONDS = _gauge("herald_restore_seconds", "duration of the last state restore", "stage")

# Warehouse
STORED_ROWS = _counter("herald_stored_rows_total", "rows inserted, replays included", "table")
INSERT_SECONDS = _histogram("herald_insert_seconds", "one insert of a chunk of blocks", "table")
QUERYABLE_SECONDS = _histogram("herald_event_to_queryable_seconds", "event received -> row in the warehouse")

# Delivery
DECISIONS = _counter(
    "herald_decisions_total",
    "decisions answered, by whether anything was learnt of the placement and whether anything was missing",
    "placement_known",
    "degraded",
)
DECISION_SECONDS = _histogram(
    "herald_decision_seconds", "one decision, request read to answer made", buckets=DECISION_BUCKETS_S
)
USABLE_SECONDS = _histogram(
    "herald_event_to_decision_seconds", "event received -> its visitor's profile usable in a decision"
)
MODEL_AGE = _gauge("herald_model_age_seconds", "now - the block time of the newest outcome in the models in use")
ARM_PROBABILITY = _gauge(
    "herald_arm_probability",
    "share of decisions that a published creative gets, in a placement, of visitors of whom nothing is known",
    "placement", "arm",
)  # fmt: skip
ARM_REWARD = _gauge(
    "herald_arm_reward", "reward that is expected of one, with the prior; bound: mean, low and high of 95 %",
    "placement", "arm", "bound",
)  # fmt: skip
ARM_TRIALS = _gauge("herald_arm_trials", "how often one was shown, machines left out", "placement", "arm")
PROFILES = _gauge("herald_profiles", "profiles in delivery's memory")
REWARDS = _counter("herald_rewards_total", "rewards, impressions and clicks taken by delivery", "kind", "result")
DECISIONS_UNLOGGED = _counter(
    "herald_decisions_unlogged_total", "decisions answered whose log record could not be kept"
)
RECORDS_RESENT = _counter(
    "herald_records_resent_total",
    "records that a delivery left when it died, by what became of them",
    "result",
)
SPOOL_FAILURES = _counter("herald_spool_failures_total", "records that the disk refused: a kill would lose them")

# Campaigns
CAMPAIGN_CHANGES = _counter("herald_campaign_changes_total", "changes of the marketer's objects", "kind", "what")
CAMPAIGN_PUBLISH_SECONDS = _histogram("herald_campaign_publish_seconds", "an object changed -> the topic has it")
CAMPAIGNS_UNPUBLISHED = _gauge("herald_campaigns_unpublished", "changes that the topic is still to be told of")

LEASE_SECONDS = _histogram("herald_lease_seconds", "one talk with the lease store: leases asked for and given back")
LEASES = _counter(
    "herald_leases_total",
    "leases of money by what became of the asking: granted, refused (nothing left), behind (the spend stage's news is"
    " still to be read), failed (the store did not answer)",
    "result",
)
CAP_SLOTS = _gauge(
    "herald_cap_slots", "visitors' slots, of 64, whose frequency caps this process counts; of all processes together 64"
)
FORWARDED = _counter(
    "herald_decisions_forwarded_total",
    "decisions sent on to the process that counts the visitor's caps: answered, away (not reached), late, misdirected"
    " (it does not count them any more), refused; all but the first were decided here, without what has a cap",
    "result",
)
FORWARD_SECONDS = _histogram(
    "herald_forward_seconds", "a decision sent on to another process -> its answer", buckets=DECISION_BUCKETS_S
)
LEASED_MICROS = _gauge("herald_leased_micros", "money leased by this process and not reserved yet, in millionths")

# Whole
BOOKS_MISSING = _gauge(
    "herald_books_missing", "events unaccounted for: 0, or lost (above 0) or counted twice (below 0)", "partition"
)
BOOKS_EVENTS = _gauge(
    "herald_books_events",
    "the books of a partition, a column at a time; `bad_stored` are rows of refused events",
    "partition",
    "column",
)
AUDIT_MISSING = _counter("herald_audit_missing_total", "rows of the log that were not in the warehouse", "table")
AUDIT_EXTRA = _counter("herald_audit_extra_total", "rows in the warehouse that the log does not have", "table")
AUDIT_ALTERED = _counter("herald_audit_altered_total", "rows that were not as the log says", "table")
AUDIT_COPIED = _counter(
    "herald_audit_copied_total", "rows that stood there twice to the letter, as after a repeated insert", "table"
)
AUDIT_LEFT = _gauge("herald_audit_left_rows", "rows of the kinds above found by the last look and not put right")
AUDIT_FORGOTTEN = _counter(
    "herald_audit_forgotten_blocks_total", "blocks that the log forgot before the audit saw them"
)
AUDIT_BEHIND = _gauge("herald_audit_behind_blocks", "applied blocks that the audit has still to compare with the log")
AUDIT_SECONDS = _histogram("herald_audit_seconds", "one look of the auditor")
STOCK_RUNS_OUT = _gauge(
    "herald_stock_runs_out_hours",
    "in how many hours a sku's stock is gone, of the 50 most urgent skus and of 50 that have run out; bound: even (as"
    " likely earlier as later), early (earlier in one case of 20); none where that is later than in half a year",
    "site", "sku", "bound",
)  # fmt: skip
STOCK_RISK = _gauge(
    "herald_stock_risk_ratio", "probability that a sku's stock is gone within HERALD_STOCK_LEAD_DAYS", "site", "sku"
)
STOCK_WARNED = _gauge(
    "herald_stock_warned_skus",
    "skus of which that probability is 1 % or more, those that have run out included; of 500 at most",
)
LEARNING_REGRET = _gauge(
    "herald_learning_regret_ratio",
    "what always showing the best arm would have earned more, in rewards a decision, over the last day, of the 20"
    " placements and groups where most was seen; bound: mean, low and high of 95 %",
    "placement", "bound",
)  # fmt: skip
LEARNING_DRIFTS = _gauge(
    "herald_learning_drifts", "arms of a placement whose rewards have changed within the last day, at 1 %", "placement"
)
RESTARTS = _counter("herald_restarts_total", "parts restarted by the supervisor of `herald up`", "part")
DATA_FREE = _gauge("herald_data_free_bytes", "free space of the disk under HERALD_DATA_DIR")
DATA_SIZE = _gauge("herald_data_size_bytes", "size of the disk under HERALD_DATA_DIR")


def serve(port: int, host: str = "127.0.0.1") -> None:
    """Serve /metrics from a thread of its own, so that a busy event loop cannot time a scrape out."""
    start_http_server(port, addr=host, registry=REGISTRY)


def watch_data_dir(data_dir: Path) -> None:
    """Have each scrape measure the disk under data_dir; NaN where it cannot be asked, so that the scrape goes on."""

    def measured(field: Literal["free", "total"]) -> Callable[[], float]:
        def ask() -> float:
            try:
                return float(getattr(shutil.disk_usage(data_dir), field))
            except OSError:
                return float("nan")

        return ask

    DATA_FREE.set_function(measured("free"))
    DATA_SIZE.set_function(measured("total"))


def markdown() -> str:
    """Return the table of all metrics for the docs: name, kind, labels, meaning."""
    lines = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for metric in (*METRICS, *PROCESS_METRICS):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(lines) + "\n"

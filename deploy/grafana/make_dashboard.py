"""Makes the Grafana dashboard from the metric registry: `python -m deploy.grafana.make_dashboard`.

A panel names the registry's own objects, so a metric that is gone or renamed cannot stay on the dashboard, and what a
metric means is said on its panel. The test compares the written file with what this makes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prometheus_client.metrics import MetricWrapperBase

from pipeline.edge import metrics

FILE = Path(__file__).parent / "dashboards" / "herald.json"
SOURCE = {"type": "prometheus", "uid": "herald-prometheus"}
RATE = "[$__rate_interval]"
COLUMNS = 24
HEIGHT = 8
SCHEMA_VERSION = 41

_BY_NAME = {metric.name: metric for metric in metrics.METRICS}


@dataclass(frozen=True)
class Line:
    """One query of a panel. legend: Grafana's template, as in `{{stage}}`."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel. about: the metrics it shows, whose meanings become its description. unit: as Grafana names it.

    limit: the alert's threshold, drawn in red. width: of 24 columns.
    """

    title: str
    about: Sequence[MetricWrapperBase]
    lines: Sequence[Line]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    limit: float | None = None
    width: int = 8
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A titled row of panels."""

    title: str
    panels: Sequence[Panel]


def name_of(metric: MetricWrapperBase) -> str:
    """Return a metric's name as Prometheus has it (a counter ends in _total)."""
    found = next(iter(metric.describe()))
    return f"{found.name}_total" if found.type == "counter" else found.name


def per_second(metric: MetricWrapperBase, *by: str, where: str = "") -> str:
    """Return the rate of a counter, summed."""
    return f"{_sum(by)}(rate({name_of(metric)}{where}{RATE}))"


def quantiles(metric: MetricWrapperBase, *by: str) -> list[Line]:
    """Return the lines of a histogram's median and 99th percentile."""
    sums = f"{_sum(('le', *by))}(rate({name_of(metric)}_bucket{RATE}))"
    labels = "".join(f" {{{{{label}}}}}" for label in by)
    return [
        Line(f"histogram_quantile({share}, {sums})", f"{legend}{labels}")
        for share, legend in ((0.5, "p50"), (0.99, "p99"))
    ]


def _sum(by: Sequence[str]) -> str:
    return f"sum by ({', '.join(by)}) " if by else "sum"


def _total(metric: MetricWrapperBase, where: str = "") -> str:
    """Return how much a counter grew in the time shown."""
    return f"sum(increase({name_of(metric)}{where}[$__range]))"


def _latency(title: str, metric: MetricWrapperBase, limit_s: float) -> Panel:
    return Panel(title, [metric], quantiles(metric), "s", limit=limit_s, width=6)


_CLEAN = '{stage="clean"}'
_AUDITED = [
    metrics.AUDIT_MISSING,
    metrics.AUDIT_EXTRA,
    metrics.AUDIT_ALTERED,
    metrics.AUDIT_COPIED,
    metrics.AUDIT_LEFT,
]

BOOKS = Row(
    "Books: received = stored + refused + duplicate + in flight",
    [
        Panel("received", [metrics.RECEIVED], [Line(_total(metrics.RECEIVED), "")], kind="stat", width=4),
        Panel(
            "stored", [metrics.STORED_ROWS], [Line(_total(metrics.STORED_ROWS, '{table="events"}'), "")],
            kind="stat", width=4, note="Rows of the table `events`; after a restart some are inserted again.",
        ),
        Panel("refused", [metrics.REFUSED], [Line(_total(metrics.REFUSED), "")], kind="stat", width=4),
        Panel("duplicate", [metrics.DUPLICATES], [Line(_total(metrics.DUPLICATES), "")], kind="stat", width=4),
        Panel(
            "in flight", [metrics.LAG_BLOCKS],
            [Line(f'sum(max by (partition) ({name_of(metrics.LAG_BLOCKS)}{{stage=~"clean|aggregate"}}))', "")],
            kind="stat", width=4, note="In blocks; `herald status` counts the events in them.",
        ),
        Panel(
            "missing", [metrics.BOOKS_MISSING], [Line(f"sum(abs({name_of(metrics.BOOKS_MISSING)}))", "")],
            kind="stat", limit=1, width=4, note="The auditor's word; anything but 0 is an alert.",
        ),
        Panel(
            "books by column", [metrics.BOOKS_EVENTS],
            [Line(f"sum by (column) (max by (partition, column) ({name_of(metrics.BOOKS_EVENTS)}))", "{{column}}")],
            width=12,
        ),
        Panel(
            "rows found wrong and put right",
            _AUDITED,
            [
                Line(_total(metrics.AUDIT_MISSING), "missing"),
                Line(_total(metrics.AUDIT_EXTRA), "extra"),
                Line(_total(metrics.AUDIT_ALTERED), "altered"),
                Line(_total(metrics.AUDIT_COPIED), "copied (harmless)"),
                Line(f"max({name_of(metrics.AUDIT_LEFT)})", "not put right"),
            ],
            width=12,
        ),
        Panel(
            "blocks not audited", [metrics.AUDIT_BEHIND, metrics.AUDIT_FORGOTTEN],
            [
                Line(f"max({name_of(metrics.AUDIT_BEHIND)})", "still to compare"),
                Line(_total(metrics.AUDIT_FORGOTTEN), "forgotten by the log"),
            ],
            width=12,
        ),
        Panel("one look of the auditor", [metrics.AUDIT_SECONDS], quantiles(metrics.AUDIT_SECONDS), "s", width=12),
    ],
)  # fmt: skip

FLOW = Row(
    "Flow",
    [
        Panel("requests by status", [metrics.REQUESTS],
              [Line(per_second(metrics.REQUESTS, "part", "status"), "{{part}} {{status}}")], "reqps"),
        Panel("received by protocol", [metrics.RECEIVED],
              [Line(per_second(metrics.RECEIVED, "protocol"), "{{protocol}}")], "cps"),
        Panel("rows by stage", [metrics.STAGE_ROWS],
              [Line(per_second(metrics.STAGE_ROWS, "stage"), "{{stage}}")], "cps"),
        Panel("rows stored by table", [metrics.STORED_ROWS],
              [Line(per_second(metrics.STORED_ROWS, "table"), "{{table}}")], "cps"),
        Panel("lag", [metrics.LAG_BLOCKS],
              [Line(f"sum by (stage) ({name_of(metrics.LAG_BLOCKS)})", "{{stage}}")], limit=300),
        Panel("since the last block", [metrics.PROGRESS],
              [Line(f"time() - max by (stage) ({name_of(metrics.PROGRESS)})", "{{stage}}")], "s", limit=60),
        Panel("blocks", [metrics.BLOCKS, metrics.BLOCKS_SKIPPED],
              [Line(per_second(metrics.BLOCKS, "stage"), "{{stage}}"),
               Line(per_second(metrics.BLOCKS_SKIPPED, "stage"), "{{stage}} skipped")], "cps"),
        Panel("events in a block", [metrics.BLOCK_ROWS], quantiles(metrics.BLOCK_ROWS, "topic")),
        Panel("waiting for the broker", [metrics.IN_FLIGHT_BYTES],
              [Line(f"sum by (part) ({name_of(metrics.IN_FLIGHT_BYTES)})", "{{part}}")], "bytes", limit=50e6),
    ],
)  # fmt: skip

LATENCIES = Row(
    "Latencies",
    [
        _latency("event -> decision", metrics.USABLE_SECONDS, 2),
        _latency("event -> queryable", metrics.QUERYABLE_SECONDS, 5),
        _latency("block -> acknowledged", metrics.ACK_SECONDS, 0.5),
        _latency("one decision", metrics.DECISION_SECONDS, 0.005),
        Panel("block closed -> applied", [metrics.STAGE_LATENCY], quantiles(metrics.STAGE_LATENCY, "stage"), "s"),
        Panel("one block's fold", [metrics.FOLD_SECONDS], quantiles(metrics.FOLD_SECONDS, "stage"), "s"),
        Panel("one insert", [metrics.INSERT_SECONDS], quantiles(metrics.INSERT_SECONDS, "table"), "s"),
    ],
)  # fmt: skip

QUALITY = Row(
    "What was wrong with the input",
    [
        Panel("refused at the door", [metrics.REJECTED, metrics.OVER_QUOTA],
              [Line(per_second(metrics.REJECTED, "reason"), "{{reason}}"),
               Line(per_second(metrics.OVER_QUOTA, "site"), "over quota: {{site}}")], "cps", width=6),
        Panel("refused by clean", [metrics.REFUSED],
              [Line(per_second(metrics.REFUSED, "reason"), "{{reason}}")], "cps", width=6),
        Panel("bots", [metrics.BOTS], [Line(per_second(metrics.BOTS, "reason"), "{{reason}}")], "cps", width=6),
        Panel("duplicate and late", [metrics.DUPLICATES, metrics.LATE, metrics.UNKNOWN_DECISIONS],
              [Line(f"{per_second(metrics.DUPLICATES)} / {per_second(metrics.STAGE_ROWS, where=_CLEAN)}", "duplicate"),
               Line(f"{per_second(metrics.LATE)} / {per_second(metrics.STAGE_ROWS, where=_CLEAN)}", "late"),
               Line(f"{per_second(metrics.UNKNOWN_DECISIONS)} / {per_second(metrics.STAGE_ROWS, where=_CLEAN)}",
                    "of an unknown decision")], "percentunit", width=6, note="As shares of the events received."),
    ],
)  # fmt: skip

_DECISIONS = per_second(metrics.DECISIONS)
_DEGRADED = per_second(metrics.DECISIONS, where='{degraded="true"}')

DELIVERY = Row(
    "Delivery",
    [
        Panel("decisions", [metrics.DECISIONS],
              [Line(per_second(metrics.DECISIONS, "placement_known"), "known: {{placement_known}}")], "reqps"),
        Panel("degraded", [metrics.DECISIONS],
              [Line(f"({_DEGRADED} or vector(0)) / {_DECISIONS}", "degraded")], "percentunit", limit=0.05),
        Panel("rewards", [metrics.REWARDS],
              [Line(per_second(metrics.REWARDS, "kind", "result"), "{{kind}} {{result}}")], "cps"),
        Panel("model age", [metrics.MODEL_AGE], [Line(f"max({name_of(metrics.MODEL_AGE)})", "age")], "s", limit=3600),
        Panel("share of decisions, by creative", [metrics.ARM_PROBABILITY, metrics.ARM_TRIALS],
              [Line(f"max by (placement, arm) ({name_of(metrics.ARM_PROBABILITY)})", "{{placement}} {{arm}}")],
              "percentunit", width=12, note="Of published placements."),
        Panel("reward expected, by creative", [metrics.ARM_REWARD],
              [Line(f'max by (placement, arm) ({name_of(metrics.ARM_REWARD)}{{bound="mean"}})',
                    "{{placement}} {{arm}}")], "percentunit", width=12),
        Panel("regret against the best fixed arm, last day", [metrics.LEARNING_REGRET],
              [Line(f"max by (placement, bound) ({name_of(metrics.LEARNING_REGRET)})", "{{placement}} {{bound}}")],
              "percentunit", width=12),
        Panel("arms whose rewards have changed, last day", [metrics.LEARNING_DRIFTS],
              [Line(f"max by (placement) ({name_of(metrics.LEARNING_DRIFTS)})", "{{placement}}")], width=12),
        Panel("lessons of contextual policies", [metrics.LESSONS],
              [Line(per_second(metrics.LESSONS, "result"), "{{result}}")], "cps"),
        Panel("profiles in memory", [metrics.PROFILES], [Line(f"max({name_of(metrics.PROFILES)})", "profiles")]),
        Panel("decisions in no log, or not readable in it", [metrics.DECISIONS_UNLOGGED, metrics.BAD_DECISIONS],
              [Line(per_second(metrics.DECISIONS_UNLOGGED), "unlogged"),
               Line(per_second(metrics.BAD_DECISIONS), "not readable")], "cps"),
        Panel("records on disk: left by a dead delivery, refused", [metrics.RECORDS_RESENT, metrics.SPOOL_FAILURES],
              [Line(per_second(metrics.RECORDS_RESENT, "result"), "left behind, {{result}}"),
               Line(per_second(metrics.SPOOL_FAILURES), "refused by the disk")], "cps"),
    ],
)  # fmt: skip

CAMPAIGNS = Row(
    "Campaigns",
    [
        Panel("changes", [metrics.CAMPAIGN_CHANGES],
              [Line(per_second(metrics.CAMPAIGN_CHANGES, "kind", "what"), "{{kind}} {{what}}")], "cps"),
        Panel("changed -> published", [metrics.CAMPAIGN_PUBLISH_SECONDS], quantiles(metrics.CAMPAIGN_PUBLISH_SECONDS),
              "s", limit=1),
        Panel("not published yet", [metrics.CAMPAIGNS_UNPUBLISHED],
              [Line(f"max({name_of(metrics.CAMPAIGNS_UNPUBLISHED)})", "changes")]),
    ],
)  # fmt: skip

_COLUMNS = "sum by (column) (max by (partition, column) ({}))"

MONEY = Row(
    "Money: reserved = settled + released + open",
    [
        Panel("books", [metrics.MONEY_BOOKS],
              [Line(f"{_COLUMNS.format(name_of(metrics.MONEY_BOOKS))} / 1e6", "{{column}}")],
              note="In units of the currencies; by line: `herald status`."),
        Panel("reservations", [metrics.MONEY_RESERVATIONS],
              [Line(per_second(metrics.MONEY_RESERVATIONS, "column", "pays_for"), "{{pays_for}} {{column}}")], "cps"),
        Panel("leases asked for", [metrics.LEASES],
              [Line(per_second(metrics.LEASES, "result"), "{{result}}")], "cps"),
        Panel("caps: slots counted for", [metrics.CAP_SLOTS], [Line(name_of(metrics.CAP_SLOTS), "{{instance}}")],
              note="Of all processes 64; fewer for longer than seconds: some visitors see nothing with a cap."),
        Panel("caps: decisions sent on", [metrics.FORWARDED],
              [Line(per_second(metrics.FORWARDED, "result"), "{{result}}")], "cps"),
        Panel("caps: a decision sent on -> its answer", [metrics.FORWARD_SECONDS], quantiles(metrics.FORWARD_SECONDS),
              "s"),
        Panel("leased and not reserved", [metrics.LEASED_MICROS],
              [Line(f"{name_of(metrics.LEASED_MICROS)} / 1e6", "{{instance}}")], width=12),
        Panel("talks with the lease store", [metrics.LEASE_SECONDS], quantiles(metrics.LEASE_SECONDS), "s", width=12),
        Panel("stock: gone in, as likely as not", [metrics.STOCK_RUNS_OUT],
              [Line(f'max by (site, sku) ({name_of(metrics.STOCK_RUNS_OUT)}{{bound="even"}})', "{{site}} {{sku}}")],
              "h"),
        Panel("stock: gone before more can be had", [metrics.STOCK_RISK, metrics.STOCK_WARNED],
              [Line(f"max by (site, sku) ({name_of(metrics.STOCK_RISK)})", "{{site}} {{sku}}"),
               Line(f"max({name_of(metrics.STOCK_WARNED)})", "skus warned of")], "percentunit", limit=0.01),
        Panel("pieces held for visitors", [metrics.STOCK_PIECES],
              [Line(per_second(metrics.STOCK_PIECES, "column"), "{{column}}")], "cps"),
    ],
)  # fmt: skip

_STARTED = 'changes(max by (part) (process_start_time_seconds{job="herald"})[$__range:30s])'

PROCESSES = Row(
    "Processes",
    [
        Panel("up", [], [Line('sum by (part) (up{job="herald"})', "{{part}}")], kind="stat"),
        Panel("restarts", [metrics.RESTARTS],
              [Line(_STARTED, "{{part}}"),
               Line(f"sum by (part) (increase({name_of(metrics.RESTARTS)}[$__range]))", "{{part}}, by `herald up`")],
              kind="stat", limit=3),
        Panel("restore", [metrics.RESTORE_SECONDS],
              [Line(f"max by (stage) ({name_of(metrics.RESTORE_SECONDS)})", "{{stage}}")], "s", kind="stat"),
        Panel("memory", [], [Line('process_resident_memory_bytes{job="herald"}', "{{part}} {{instance}}")], "bytes"),
        Panel("CPU", [], [Line(f'rate(process_cpu_seconds_total{{job="herald"}}{RATE})', "{{part}} {{instance}}")],
              "percentunit", note="1 = one core."),
        Panel("state entries", [metrics.STATE_ENTRIES],
              [Line(f"sum by (stage) ({name_of(metrics.STATE_ENTRIES)})", "{{stage}}")]),
        Panel("state files", [metrics.STATE_FILE_BYTES],
              [Line(f"max by (part) ({name_of(metrics.STATE_FILE_BYTES)})", "{{part}}")], "bytes"),
        Panel("damaged state", [metrics.STATE_DAMAGED],
              [Line(f"sum by (stage) (increase({name_of(metrics.STATE_DAMAGED)}[$__range]))", "{{stage}}")],
              kind="stat", limit=1),
        Panel("open files", [], [Line('process_open_fds{job="herald"}', "{{part}} {{instance}}")]),
        Panel("free disk", [metrics.DATA_FREE, metrics.DATA_SIZE],
              [Line(f"min by (part) ({name_of(metrics.DATA_FREE)} / {name_of(metrics.DATA_SIZE)})", "{{part}}")],
              "percentunit"),
    ],
)  # fmt: skip

ROWS = (BOOKS, FLOW, LATENCIES, QUALITY, DELIVERY, CAMPAIGNS, MONEY, PROCESSES)


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in ROWS:
        panels.append(_heading(row.title, len(panels) + 1, top))
        left, top = 0, top + 1
        for panel in row.panels:
            height = HEIGHT // 2 if panel.kind == "stat" and row is BOOKS else HEIGHT
            if left + panel.width > COLUMNS:
                left, top = 0, top + height
            panels.append(_panel(panel, len(panels) + 1, {"h": height, "w": panel.width, "x": left, "y": top}))
            left += panel.width
        top += height
    return {
        "uid": "herald",
        "title": "Herald",
        "description": "Made by deploy/grafana/make_dashboard.py from the metric registry: change it there.",
        "tags": ["herald"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": []},
        "annotations": {"list": [_alerts()]},
        "panels": panels,
    }


def _alerts() -> dict[str, Any]:
    """Firing alerts, as marks in every panel."""
    return {
        "name": "alerts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Herald.*", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{part}}{{stage}}",
    }


def _heading(title: str, number: int, top: int) -> dict[str, Any]:
    place = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    meanings = [f"`{name_of(metric)}`: {_BY_NAME[name_of(metric)].meaning}." for metric in panel.about]
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        style = "line" if panel.limit is not None else "off"
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never", "thresholdsStyle": {"mode": style}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": "\n\n".join([*meanings, panel.note]).strip(),
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": line.expr, "legendFormat": line.legend}
            for at, line in enumerate(panel.lines)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}


def text() -> str:
    """Return the file's text."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")

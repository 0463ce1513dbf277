"""`herald audit`: one audit of everything, for people and machines."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from pipeline.audit.log import KafkaSource
from pipeline.audit.service import Auditor, Report
from pipeline.core.audit import Fault
from pipeline.edge.clickhouse import Warehouse
from pipeline.settings import Settings

ANSWER_S = 600.0
"""A sum over a large part takes longer than an answer to a person may."""

SHOWN_MAX = 200


class Wish(NamedTuple):
    """What to do. heals: put faults right. deep: compare all with the log, seals or not. as_json: for machines."""

    heals: bool
    deep: bool
    as_json: bool


@contextmanager
def opened(settings: Settings, heals: bool) -> Iterator[Auditor]:
    """An auditor on the log and the warehouse of these settings."""
    with Warehouse.from_url(settings.warehouse_url, ANSWER_S) as warehouse:
        auditor = Auditor(warehouse, KafkaSource(settings), settings.partitions, settings.retention_days, heals)
        try:
            yield auditor
        finally:
            auditor.close()


def run(settings: Settings, console: Console, wish: Wish) -> int:
    """Audit everything and print what was found; 0 where nothing wrong is left."""
    with opened(settings, wish.heals) as auditor:
        report = auditor.everything(wish.deep)
    if wish.as_json:
        console.print_json(json.dumps(as_object(report)))
    else:
        show(report, console)
    return 1 if report.left else 0


def as_object(report: Report) -> dict[str, object]:
    """Return a report by names."""
    return {
        "blocks": report.blocks,
        "rows": report.rows,
        "sealed_slices": report.sealed,
        "forgotten_blocks": dict(report.forgotten),
        "faults": [fault._asdict() for fault in report.faults],
        "left": len(report.left),
    }


def show(report: Report, console: Console) -> None:
    """Print it for people."""
    if report.faults:
        console.print(_table(report.faults[:SHOWN_MAX]))
    if len(report.faults) > SHOWN_MAX:
        console.print(f"and {len(report.faults) - SHOWN_MAX:,} more; --json has them all", highlight=False)
    console.print(
        f"{report.blocks:,} blocks with {report.rows:,} rows compared with the log, "
        f"{report.sealed:,} sealed slices by their sums",
        highlight=False,
    )
    for topic, blocks in report.forgotten.items():
        console.print(f"{topic}: {blocks:,} blocks could not be compared, the log has them no more", highlight=False)
    left, healed = len(report.left), len(report.faults) - len(report.left)
    said = f"{left:,} faults are left" if left else "nothing is wrong"
    console.print(said + (f", {healed:,} were put right" if healed else ""), highlight=False)


def _table(faults: list[Fault]) -> Table:
    table = Table("table", "partition", "block", "rows", "fault", "healed", "", title="audit")
    for fault in faults:
        block = str(fault.offset) if fault.offset >= 0 else ""
        healed = "yes" if fault.healed else "no"
        style = "" if fault.healed else "red"
        table.add_row(
            fault.table, str(fault.partition), block, f"{fault.rows:,}", fault.kind, healed, fault.note, style=style
        )
    return table

"""The `herald` command. Exit codes: 0 done, 1 failed, 2 wrong use or wrong settings, 3 the log cannot
answer (`evaluate`), 70 a stage stopped on a fault.

Heavy parts are imported by the command that needs them, so that `herald --help` answers at once.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipeline import settings as settings_module
from pipeline.cli_campaigns import campaigns
from pipeline.cli_experiments import experiments
from pipeline.cli_plan import plan
from pipeline.commands import data_option, end_with_parent, err, out
from pipeline.commands import with_settings as _with_settings
from pipeline.parts import STAGES
from pipeline.settings import Settings

TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="herald", prog_name="herald")
@click.option("--supervised", is_flag=True, hidden=True, help="End when standard input ends.")
def main(supervised: bool) -> None:
    """Streaming event processing for information promotion: from a visitor's click to a better live decision.

    \b
    Example: herald up
    """
    if supervised:
        threading.Thread(target=end_with_parent, name="parent", daemon=True).start()


main.add_command(campaigns)
main.add_command(experiments)
main.add_command(plan)


@main.command()
@data_option
@_with_settings
def up(settings: Settings) -> int:
    """Run all parts on this machine until Ctrl-C; one that dies is started again.

    \b
    Example: herald up --data ./data
    """
    from pipeline.up import run

    return run(settings, out)


@main.command()
@click.option(
    "--exit", "exit_after", is_flag=True, help="End after the summary; exit code 0 only when the books balance."
)
@click.option("--rows", "rows_max", type=int, hidden=True, help="Only so many rows of each file.")
@data_option
@_with_settings
def demo(settings: Settings, exit_after: bool, rows_max: int | None) -> int:
    """Start everything, replay a real clickstream and real ad decisions, show what came of it.

    \b
    Example: herald demo --exit
    """
    from pipeline.demo.service import run

    return run(settings, out, exit_after, rows_max)


@main.command()
@_with_settings
def collector(settings: Settings) -> int:
    """Run the collector: pixel and API to Kafka.

    \b
    Example: HERALD_WRITE_KEYS=k1=shop herald collector
    """
    from pipeline.collector.service import run

    return run(settings)


@main.command()
@click.argument("stage", type=click.Choice(STAGES))
@_with_settings
def worker(settings: Settings, stage: str) -> int:
    """Run one stage.

    \b
    Example: herald worker clean
    """
    from agents.worker import run

    return run(stage, settings)


@main.command()
@_with_settings
def delivery(settings: Settings) -> int:
    """Run delivery: live decisions, profiles, reports.

    \b
    Example: herald delivery
    """
    from pipeline.delivery.service import run

    return run(settings)


@main.command()
@_with_settings
def auditor(settings: Settings) -> int:
    """Watch the books and tell the metrics; `herald up` does it by itself.

    \b
    Example: HERALD_AUDIT_EVERY_MS=10000 herald auditor
    """
    from pipeline.auditor import run

    return run(settings)


@main.command()
@click.option("--heal", is_flag=True, help="Put right what the log still has.")
@click.option("--deep", is_flag=True, help="Compare every block with the log, those that were compared before, too.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@_with_settings
def audit(settings: Settings, heal: bool, deep: bool, as_json: bool) -> int:
    """Compare log, ledger and warehouse by block; name what is missing, extra or altered.

    Exit code 0 only when nothing is wrong, or all of it was put right.

    \b
    Example: herald audit --heal
    """
    from pipeline.audit.command import Wish, run

    return run(settings, out, Wish(heal, deep, as_json))


@main.command()
@click.option("--placement", required=True, metavar="ID", help="Whose decisions.")
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="YAML or TOML: `policy: epsilon_greedy` or another of delivery's, or `fixed`, and its parameters.",
)
@click.option("--from", "since", type=click.DateTime(TIMES), help="Decided at or after, UTC.")
@click.option("--to", "until", type=click.DateTime(TIMES), help="Decided before, UTC.")
@click.option("--unshown", is_flag=True, help="Decisions never reported as shown count, as earning nothing.")
@click.option("--seed", default=0, help="Of the bootstrap.", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@_with_settings
def evaluate(settings: Settings, **wish: Any) -> int:
    """Say what another policy would have earned on the decisions in the warehouse.

    By the probabilities that each decision was logged with. Of a decision with several choices the first one counts.
    A policy that learns is taken through the log in time, knowing at each decision what was known then. What it expects
    of a creative at first comes, as in delivery, of those like it: by the features that are published now.
    Exit code 3 when the log cannot answer: it says why.

    \b
    new.yaml, one of:
      {policy: epsilon_greedy, epsilon: 0.05, prior_mean: 0.02, prior_trials: 50, refresh_every: 100}
      {policy: thompson, prior_mean: 0.02, prior_trials: 50, refresh_every: 100}
      {policy: ucb, epsilon: 0.1, prior_mean: 0.02, prior_trials: 50, refresh_every: 100}
      {policy: linear_igw, prior_mean: 0.02, refresh_every: 100}
      {policy: fixed, actions: {red: 0.75, blue: 0.25}}
      {policy: uniform}

    \b
    Example: herald evaluate --placement home --policy new.yaml
    """
    from pipeline.evaluate import Wish, run

    return run(settings, out, Wish(**wish))


@main.command()
@data_option
@_with_settings
def broker(settings: Settings) -> int:
    """Run the embedded Kafka alone.

    \b
    Example: herald broker --data ./data
    """
    from pipeline.embedded.kafka import KafkaConfig, run

    config = KafkaConfig(
        settings.data_dir, settings.kafka_port, settings.kafka_controller_port, heap_mb=settings.kafka_heap_mb
    )
    return run(config, lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True))


@main.command()
@data_option
@_with_settings
def warehouse(settings: Settings) -> int:
    """Run the embedded warehouse alone: a ClickHouse engine behind ClickHouse's native protocol.

    \b
    Example: herald warehouse --data ./data
    """
    from pipeline.embedded.warehouse import WarehouseConfig, run

    config = WarehouseConfig(settings.data_dir, settings.clickhouse_port)
    return run(config, lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True))


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--pace", default=0.0, help="The log's own pace times this factor; 0 = flat out.", show_default=True)
@click.option("--limit", default=0, help="Stop after so many lines; 0 = all.", show_default=True)
@click.option("--key", default="demo", help="Write key.", show_default=True)
@click.option("--url", default="", metavar="URL", help="The collector's address; without it, this machine's.")
@_with_settings
def replay(settings: Settings, **wish: Any) -> int:
    """Send a CSV (REES46, trivago, …) or an access log to the collector over HTTP.

    \b
    Example: herald replay access.log.gz --pace 60
    """
    from pipeline.replay.service import Wish, run

    return run(settings, out, Wish(**wish))


@main.command()
@click.argument("what", type=click.Choice(["explain", "replay"]))
@click.argument("decision_id")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@_with_settings
def decisions(settings: Settings, **wish: Any) -> int:
    """Explain a decision, or draw it again from its log: the same seed and scores give the same answer bit for bit.

    \b
    Example: herald decisions replay 019e0c4f1a2b7f3a9c01d2e3f4a5b6c7
    """
    from pipeline.decisions import Wish, run

    return run(settings, out, Wish(**wish))


folder_argument = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
partitions_type = click.IntRange(min=1)
to_generation_option = click.option("--to-generation", type=click.IntRange(min=1), default=0, help="Which one to fill.")
accept_gap_option = click.option("--accept-gap", is_flag=True, help="Go on although the log's beginning is gone.")
start_over_option = click.option("--start-over", is_flag=True, help="Empty a generation that is not in use yet, first.")


@main.command()
@folder_argument
@click.option("--verify", is_flag=True, help="Only check every file of the backup.")
@data_option
@_with_settings
def backup(settings: Settings, **wish: Any) -> int:
    """Append what is new in the log to a backup, with the campaigns' store. All else is made again from the log.

    Run it more often than the log forgets (7 days). --verify names every file that is torn or altered.

    \b
    Example: herald backup /mnt/backup/herald
    """
    from pipeline.archive.backup import Wish, run

    return run(settings, out, Wish(**wish))


@main.command()
@folder_argument
@click.option("--partitions", type=partitions_type, default=0, help="Another number than the backup was of.")
@to_generation_option
@accept_gap_option
@start_over_option
@data_option
@_with_settings
def restore(settings: Settings, **wish: Any) -> int:
    """Write a backup into an empty log, and put the campaigns back; `herald up` then makes everything again from it.

    The same number of partitions gives the same offsets. Interrupted, it goes on where it stopped.

    \b
    Example: herald restore /mnt/backup/herald && herald up
    """
    from pipeline.archive.restore import Wish, run

    return run(settings, out, Wish(**wish))


@main.command()
@click.option("--partitions", type=partitions_type, required=True, help="Of the new generation.")
@to_generation_option
@click.option("--from-backup", type=click.Path(file_okay=False, path_type=Path), help="Holds the log's beginning.")
@accept_gap_option
@start_over_option
@data_option
@_with_settings
def repartition(settings: Settings, **wish: Any) -> int:
    """Copy the log into a new generation of topics with another number of partitions.

    Once while all runs, and again after it was stopped: exit code 0 when nothing is left to copy. It says which
    settings to start with; the present generation stays as it is.

    \b
    Example: herald repartition --partitions 8
    """
    from pipeline.archive.repartition import Wish, run

    return run(settings, out, Wish(**wish))


@main.command()
@click.option("--apply", "do_apply", is_flag=True, help="Create what is missing.")
@_with_settings
def topics(settings: Settings, do_apply: bool) -> int:
    """Show the topics and how the broker's differ; create what is missing.

    \b
    Example: herald topics --apply
    """
    from pipeline import topics as tool

    found = tool.apply(settings) if do_apply else tool.differences(settings)
    _print_rows(("topic", "meaning", "writer", "kept"), tool.table(settings))
    for difference in found:
        out.print(("done: " if do_apply else "differs: ") + difference.text, markup=False, highlight=False)
    return 0 if do_apply or not found else 1


@main.command()
@click.option("--apply", "do_apply", is_flag=True, help="Create what is missing.")
@_with_settings
def tables(settings: Settings, do_apply: bool) -> int:
    """Show the warehouse's tables and how they differ; create what is missing.

    \b
    Example: herald tables --apply
    """
    from pipeline import tables as tool
    from pipeline.edge.clickhouse import Warehouse
    from schemas.tables import TABLES

    if do_apply:
        tool.make_database(settings)
    with Warehouse.from_url(settings.warehouse_url) as warehouse:
        act = tool.apply if do_apply else tool.differences
        found = act(warehouse, settings.retention_days)
    _print_rows(("table", "meaning"), [(table.name, table.meaning) for table in TABLES])
    for difference in found:
        out.print(("done: " if do_apply else "differs: ") + str(difference), markup=False, highlight=False)
    return 0 if do_apply or not found else 1


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@_with_settings
def status(settings: Settings, as_json: bool) -> int:
    """Show the books, the lag and which parts are alive. Exit code 0 only when the books balance.

    \b
    Example: herald status
    """
    from pipeline.status import run

    return run(settings, out, as_json)


@main.command("settings")
@click.option("--markdown", is_flag=True, help="The table for the docs.")
@_with_settings
def show_settings(settings: Settings, markdown: bool) -> int:
    """Print every setting: name, value, default, meaning.

    \b
    Example: HERALD_PARTITIONS=8 herald settings
    """
    rows = settings_module.table(settings)
    if markdown:
        click.echo("| setting | default | meaning |\n| --- | --- | --- |")
        for name, _, default, meaning in rows:
            click.echo(f"| `{name}` | `{default}` | {meaning} |")
    else:
        _print_rows(("setting", "value", "default", "meaning"), rows)
    return 0


def _print_rows(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = Table(*titles, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    out.print(shown)


if __name__ == "__main__":
    main()

"""`herald plan`: plans to read before they are applied."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands import data_option, out, with_settings
from pipeline.settings import Settings


@click.group()
def plan() -> None:
    """Plans to read before they are applied: budgets over lines, stock, hours to send.

    \b
    Example: herald plan allocate --data spend.csv --total 5000
    """


planned_file_option = click.option(
    "--data",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="CSV with a header line; also .gz.",
)


live_option = click.option(
    "--data",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="CSV with a header line; also .gz. Without it, what the warehouse knows.",
)


@plan.command()
@live_option
@click.option(
    "--days-back", type=click.IntRange(2, 730), default=30, show_default=True, help="Of the warehouse's days."
)
@click.option("--total", default="", metavar="N", help="Money to share out; without it, what was spent.")
@click.option("--by", default="", metavar="COLUMN,…", help="What names a line; without it line, channel, campaign …")
@click.option("--spend", default="", metavar="COLUMN", help="Without it spend, spent or cost.")
@click.option("--value", default="", metavar="COLUMN", help="Without it value, revenue or conversions.")
@click.option(
    "--caution", type=click.FloatRange(0.0, 0.95), default=0.0, show_default=True, help="Prefer what is sure."
)
@click.option("--explore", is_flag=True, help="Try what is unsure.")
@click.option("--change-max", type=click.FloatRange(0.0), help="A line changes by this share at most: 0.5 = half.")
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write it for `herald plan apply`; what names a line is its id in the campaigns.",
)
@click.option(
    "--budget",
    "limit",
    type=click.Choice(["daily", "total"]),
    default="daily",
    show_default=True,
    help="Which limit the file sets: the money by the day, or what was spent since the line began + the money.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 3_660),
    help="That the money is for, of daily limits; without --data, the days on which the line spent.",
)
@click.option("--currency", default="", metavar="CODE", help="Only lines in it, of the warehouse's; as EUR.")
@click.option("--campaign", "campaigns", multiple=True, metavar="ID", help="Only its lines, of the warehouse's.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@with_settings
def allocate(settings: Settings, **wish: Any) -> int:
    """Share out a total over lines, or channels, by what a unit more would bring.

    A row is what one period (a day, a week, an ad) of a line cost and brought. Columns min and max bound a line; with
    a column channel beside the line, it is summed up by channel. It says old and new, what to expect with an interval,
    and why; it applies nothing. Without --data, lines are those that are published, have a price and a schedule that
    is not over; a day of the warehouse is a period, and what it brought is the value of the goals that were reached.
    Others that spent are named and keep what they have. Lines of more than one currency are refused.

    With --write, a limit stands for the money that is proposed, never for what was spent before: --budget daily is the
    money / its days; --budget total asks the books of money what the line has spent since it began, and adds the money.

    \b
    Example: herald plan allocate --data spend.csv --total 5000 --change-max 0.5 --write plan.yaml --days 30
    """
    from pipeline.plan import AllocateWish, run_allocate

    return run_allocate(settings, out, AllocateWish(**wish))


@plan.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show what would change, and store nothing.")
@data_option
@with_settings
def apply(settings: Settings, **wish: Any) -> int:
    """Put the budgets of a plan that `allocate` wrote into the campaigns: all of them, or none.

    A line that somebody has changed since the plan was made is named, and nothing is stored. It writes to the store
    itself, so no service has to run; one that runs publishes the changes within a second. Who did it is in the audit.

    \b
    Example: herald plan apply plan.yaml --dry-run
    """
    from pipeline.plan_apply import ApplyWish, apply_plan

    return apply_plan(settings, out, ApplyWish(**wish))


@plan.command()
@live_option
@click.option(
    "--stock",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="CSV of what is left: sku, stock. Without it, only the demand is told.",
)
@click.option("--lead-days", type=click.IntRange(0, 180), default=7, show_default=True, help="To get more.")
@click.option("--top", type=click.IntRange(0), default=50, show_default=True, help="So many skus; 0 = all.")
@click.option("--sku", default="", metavar="COLUMN", help="Without it sku, product_id, product or item_id.")
@click.option("--time", default="", metavar="COLUMN", help="Without it date, day, time, transaction_timestamp …")
@click.option("--quantity", default="", metavar="COLUMN", help="Without it quantity, units or pieces; none: 1 a row.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@with_settings
def stock(settings: Settings, **wish: Any) -> int:
    """Forecast the demand by sku from past sales, and when the stock runs out.

    Without --data by the purchases and stock events that the warehouse has: the skus that run out first. The auditor
    looks at the same every HERALD_OUTLOOK_EVERY_MS, warns in its log and tells Prometheus.

    Days are told as likely earlier as later, and with 90 % between; a sku is to be ordered where its stock may end
    within the lead time with 1 % or more.

    \b
    Example: herald plan stock --data sales.csv --stock left.csv --lead-days 10
    """
    from pipeline.plan_stock import StockWish, run_stock

    return run_stock(settings, out, StockWish(**wish))


@plan.command("send-time")
@live_option
@click.option("--hours", default="", metavar="FROM-TO", help="That may be advised, as 8-20; without it, any.")
@click.option("--zone", default="UTC", show_default=True, help="Of the hours.")
@click.option("--json", "as_json", is_flag=True, help="For machines; with every visitor.")
@with_settings
def send_time(settings: Settings, **wish: Any) -> int:
    """Find the best hour to send, by visitor and segment, from past visits and answers.

    Columns: visitor, time; segment, sent, answered (0 or 1) if there are. A row is a visit, or a send. Without --data:
    what delivery sends by at present, by channel and segment (a line's audience).

    \b
    Example: herald plan send-time --data visits.csv --hours 8-20 --zone Europe/Berlin
    """
    from pipeline.plan_send_time import SendTimeWish, run_send_time

    return run_send_time(settings, out, SendTimeWish(**wish))

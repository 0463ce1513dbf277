"""`herald plan`: plans to read before they are applied."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands import out, with_settings
from pipeline.settings import Settings


@click.group()
def plan() -> None:
    """Plans to read before they are applied: budgets over lines, stock.

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


@plan.command()
@planned_file_option
@click.option("--total", default="", metavar="N", help="Money to share out; without it, what was spent.")
@click.option("--by", default="", metavar="COLUMN,…", help="What names a line; without it line, channel, campaign …")
@click.option("--spend", default="", metavar="COLUMN", help="Without it spend, spent or cost.")
@click.option("--value", default="", metavar="COLUMN", help="Without it value, revenue or conversions.")
@click.option(
    "--caution", type=click.FloatRange(0.0, 0.95), default=0.0, show_default=True, help="Prefer what is sure."
)
@click.option("--explore", is_flag=True, help="Try what is unsure.")
@click.option("--change-max", type=click.FloatRange(0.0), help="A line changes by this share at most: 0.5 = half.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@with_settings
def allocate(settings: Settings, **wish: Any) -> int:
    """Share out a total over lines, or channels, by what a unit more would bring.

    A row is what one period (a day, a week, an ad) of a line cost and brought. Columns min and max bound a line. It
    says old and new, what to expect with an interval, and why; it applies nothing.

    \b
    Example: herald plan allocate --data spend.csv --total 5000 --change-max 0.5
    """
    from pipeline.plan import AllocateWish, run_allocate

    return run_allocate(settings, out, AllocateWish(**wish))


@plan.command()
@planned_file_option
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

    Days are told as likely earlier as later, and with 90 % between; a sku is to be ordered where its stock may end
    within the lead time with 1 % or more.

    \b
    Example: herald plan stock --data sales.csv --stock left.csv --lead-days 10
    """
    from pipeline.plan_stock import StockWish, run_stock

    return run_stock(settings, out, StockWish(**wish))


@plan.command("send-time")
@planned_file_option
@click.option("--hours", default="", metavar="FROM-TO", help="That may be advised, as 8-20; without it, any.")
@click.option("--zone", default="UTC", show_default=True, help="Of the hours.")
@click.option("--json", "as_json", is_flag=True, help="For machines; with every visitor.")
@with_settings
def send_time(settings: Settings, **wish: Any) -> int:
    """Find the best hour to send, by visitor and segment, from past visits and answers.

    Columns: visitor, time; segment, sent, answered (0 or 1) if there are. A row is a visit, or a send.

    \b
    Example: herald plan send-time --data visits.csv --hours 8-20 --zone Europe/Berlin
    """
    from pipeline.plan_send_time import SendTimeWish, run_send_time

    return run_send_time(settings, out, SendTimeWish(**wish))

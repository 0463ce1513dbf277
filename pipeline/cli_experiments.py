"""`herald experiments`: tests and what came of them."""

from pathlib import Path
from typing import Any, Final

import click

from pipeline.commands import out, with_settings
from pipeline.settings import Settings

TIMES: Final = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")


@click.group()
def experiments() -> None:
    """A/B and multivariate tests: who meets what, and what came of it.

    \b
    Example: herald experiments analyse --experiment test.yaml --from warehouse
    """


@experiments.command()
@click.option(
    "--experiment",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="YAML or TOML that describes it.",
)
@click.option(
    "--data",
    "data_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="CSV (also .gz): visitor, variant, a column for each goal; exposed, pre_…, segment_… if there are.",
)
@click.option("--from", "source", type=click.Choice(["warehouse"]), help="Instead of a file: the decisions shown.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@with_settings
def analyse(settings: Settings, **wish: Any) -> int:
    """Say what each variant did beside the control, and whether that may be more than chance.

    You may look as often as you like and stop at any time. Exit code 3 when the experiment cannot answer: visitors not
    split as planned, too many who saw several variants, too few in all.

    \b
    test.yaml:
      id: button
      variants: [{name: old}, {name: new, weight: 2}]     # the first is the control; or, for a multivariate test:
      factors: {colour: [red, blue], text: [buy, order]}  # (instead of variants) every combination
      goals: [{metric: purchased, kind: rate}, {metric: revenue, kind: money}]
      # if wanted: control, layer, share, placements, starts, ends, covariates, segments, expected_visitors
    From the warehouse, goals are shown, clicks, clicked, reward, conversions, converted, purchases, purchased, revenue.

    \b
    Example: herald experiments analyse --experiment test.yaml --data visitors.csv.gz
    """
    from pipeline.experiments import Wish, run

    return run(settings, out, Wish(**wish))


@experiments.command()
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Of the visitors that are held out.",
)
@click.option(
    "--goal", "goals", multiple=True, metavar="NAME", help="As of `analyse`; without it purchased and revenue."
)
@click.option("--since", type=click.DateTime(TIMES), help="First shown something at or after, UTC.")
@click.option("--until", type=click.DateTime(TIMES), help="First shown something before, UTC.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@with_settings
def lift(settings: Settings, **wish: Any) -> int:
    """Say what all that Herald decides brings, beside the visitors held out of it.

    \b
    Example: herald experiments lift --goal purchased --goal revenue
    """
    from pipeline.experiments import LiftWish, run_lift

    return run_lift(settings, out, LiftWish(**wish))


@experiments.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--visitor", default="", metavar="ID", help="Tell which variants this visitor meets.")
@click.option("--placement", default="", metavar="ID", help="And where.")
@click.option("--json", "as_json", is_flag=True, help="For machines; with the buckets, to keep.")
@with_settings
def check(settings: Settings, **wish: Any) -> int:
    """Check that experiments are whole and fit beside each other; show how they share the visitors out.

    \b
    Example: herald experiments check button.yaml headline.yaml --visitor ann
    """
    from pipeline.experiments_check import CheckWish, run_check

    return run_check(out, CheckWish(**wish))

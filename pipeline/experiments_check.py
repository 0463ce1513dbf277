"""`herald experiments check`: whether experiments fit beside each other, and what a visitor would meet."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.core.experiment.assign import Assignment, allot, assign, plan
from pipeline.errors import SettingsError
from pipeline.experiments import read_experiment
from schemas.experiment import BUCKETS, Experiment, Holdout


@dataclass(frozen=True)
class CheckWish:
    """What is asked. files: of the experiments that are to run together, those that run already first. visitor: whose
    variants to tell; "" = nobody's. placement: where; "" = anywhere.
    """

    files: Sequence[Path]
    visitor: str = ""
    placement: str = ""
    as_json: bool = False


def run_check(console: Console, wish: CheckWish) -> int:
    """Print how the experiments share the visitors out; 0. Raises SettingsError where they do not fit."""
    experiments = [read_experiment(path, needs_goals=False) for path in wish.files]
    try:
        allotted = allot(experiments)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    met = assign(plan(allotted), wish.visitor, wish.placement) if wish.visitor else None
    if wish.as_json:
        console.print_json(json.dumps(_as_object(allotted, met)))
        return 0
    console.print(_table(allotted))
    held = f"{Holdout().share:.0%} of all visitors are held out of everything"
    console.print(f"{held}; layers cross, within a layer a visitor is in one experiment at most", highlight=False)
    if met is not None:
        variants = "; ".join(f"{name}: {variant}" for name, variant in met.variants.items()) or "nothing"
        console.print(f"{wish.visitor} meets {variants}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _as_object(experiments: Sequence[Experiment], met: Assignment | None) -> dict[str, object]:
    found: dict[str, object] = {"experiments": [one.model_dump(mode="json") for one in experiments]}
    return found if met is None else found | {"is_held_out": met.is_held_out, "variants": met.variants}


def _table(experiments: Sequence[Experiment]) -> Table:
    table = Table("layer", "experiment", "share of the layer", f"buckets of {BUCKETS:,}", "variants")
    for one in sorted(experiments, key=lambda each: each.layer):
        buckets = ", ".join(f"{low}-{high - 1}" for low, high in one.buckets)
        variants = "\n".join(f"{name} {share:.1%}" for name, share in one.shares.items())
        table.add_row(*map(Text, (one.layer, one.id, f"{one.share:.2%}", buckets, variants)))
    return table

"""`herald decisions`: why a decision came out as it did, and whether it comes out so again."""

import json
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.core.decide import is_id
from pipeline.core.group import group_decision, whole_probability
from pipeline.core.redraw import NotDrawable, Redrawn, redraw
from pipeline.delivery.explain import Archive, explain
from pipeline.edge.clickhouse import Warehouse
from pipeline.errors import HeraldError
from pipeline.settings import Settings
from schemas.outcome import DecisionLog

SHOWN_MAX = 50


class Wish(NamedTuple):
    """What to do with which decision. as_json: for machines."""

    what: Literal["explain", "replay"]
    decision_id: str
    as_json: bool


def run(settings: Settings, console: Console, wish: Wish) -> int:
    """Explain a decision or draw it again; 0 where it came out the same. Raises HeraldError where it is not known."""
    if not is_id(wish.decision_id):
        raise HeraldError(f"{wish.decision_id!r} is no decision id: expected 32 hexadecimal digits in lower case")
    with Warehouse.from_url(settings.warehouse_url) as warehouse:
        found = Archive(warehouse).log(wish.decision_id)
    if found is None:
        raise HeraldError(f"{wish.decision_id}: no such decision in the warehouse; new ones are there within seconds")
    log, visitor = found
    if wish.what == "replay":
        return _replay(log, console, wish.as_json)
    if wish.as_json:
        console.print_json(explain(log, visitor, "warehouse").model_dump_json())
    else:
        show_decision(log, visitor, console)
    return 0


def _replay(log: DecisionLog, console: Console, as_json: bool) -> int:
    try:
        again = redraw(log)
    except NotDrawable as error:
        raise HeraldError(f"{log.decision_id} cannot be drawn again: {error}") from None
    if as_json:
        console.print_json(json.dumps(again._asdict()))
    else:
        show_redrawn(log, again, console)
    return 1 if again.differences else 0


def show_redrawn(log: DecisionLog, again: Redrawn, console: Console) -> None:
    """Print what came out of drawing again, and where it is not what the log says."""
    if again.member is not None:
        line = f"placement: {again.member[0]}, probability {again.member[1]!r}"
        console.print(line, markup=False, highlight=False)
    for rank, (action_id, probability) in enumerate(again.choices):
        line = f"rank {rank}: {action_id}, probability {probability!r}"
        console.print(line, markup=False, highlight=False)
    for difference in again.differences[:SHOWN_MAX]:
        console.print(difference, style="red", markup=False, highlight=False)
    said = f"{len(again.differences):,} differences" if again.differences else "the same, to the last bit"
    console.print(f"{log.decision_id} drawn again from its log: {said}", markup=False, highlight=False)


def show_decision(log: DecisionLog, visitor: str, console: Console) -> None:
    """Print why a decision came out as it did: the group's choice of the placement first, where there was one."""
    above = group_decision(log)
    if above is not None:
        console.print(_table(above, f"placement of {above.placement_id}", "placement"))
    console.print(_table(log, f"decision {log.decision_id}", "action"))
    if len(log.candidates) > SHOWN_MAX:
        console.print(f"and {len(log.candidates) - SHOWN_MAX:,} more; --json has them all", highlight=False)
    facts = {
        "placement": log.placement_id,
        **(_facts_of_group(above, log) if above is not None else {}),
        "visitor": visitor or "nobody in particular (no consent, or no id)",
        "policy": _policy(log),
        "model version": log.model_version or "none",
        "seed": log.seed,
        "known": msgspec.json.encode(log.context).decode(),
        "fallen": _fallen(log),
        "missing": ", ".join(log.degraded) or "nothing",
    }
    if log.choices and log.choices[0].send_ms:
        facts["to be sent"] = datetime.fromtimestamp(log.choices[0].send_ms / 1_000, UTC).isoformat(timespec="seconds")
    for name, value in facts.items():
        console.print(f"{name:<14} {value}", markup=False, highlight=False)


def _facts_of_group(above: DecisionLog, log: DecisionLog) -> dict[str, str]:
    """What is to be said of the level above, and the probability of the whole choice."""
    found = {
        "group": above.placement_id,
        "its policy": _policy(above),
        "its model": above.model_version or "none",
        "its fallen": _fallen(above),
    }
    if log.choices:
        first = log.choices[0]
        parts = f"{first.group_propensity:.6f} x {first.propensity:.6f} = {whole_probability(first):.6f}"
        found["probability"] = f"{log.placement_id} and {first.action_id} together: {parts}"
    return found


def _policy(log: DecisionLog) -> str:
    return " ".join([log.policy, *(f"{name}={value:g}" for name, value in log.rules.items())])


def _fallen(log: DecisionLog) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in log.excluded.items()) or "none"


def _table(log: DecisionLog, title: str, what: str) -> Table:
    ranks = {choice.action_id: choice for choice in log.choices}
    table = Table(what, "rank", "probability", "score", "features", title=title)
    scores = dict(zip(log.candidates, log.scores, strict=False))
    by_share = sorted(zip(log.candidates, log.propensities, strict=True), key=lambda pair: -pair[1])
    for action_id, propensity in by_share[:SHOWN_MAX]:
        rank = str(ranks[action_id].rank) if action_id in ranks else ""
        score = f"{scores[action_id]:.6g}" if action_id in scores else ""
        features = msgspec.json.encode(log.features.get(action_id, {})).decode() if log.features else ""
        table.add_row(action_id, rank, f"{propensity:.6f}", score, features)
    return table

"""`herald evaluate`: what another policy would have earned on the decisions that are in the warehouse."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from pipeline.campaigns.database import url_of
from pipeline.core.evaluate.estimate import Estimate, Evaluation, Method
from pipeline.core.evaluate.fold import Counts, EvaluateRules, evaluate
from pipeline.core.evaluate.intervals import Interval
from pipeline.core.evaluate.targets import Spec
from pipeline.core.prior import Described, described
from pipeline.delivery.arms import features_of
from pipeline.edge.clickhouse import Source, Warehouse
from pipeline.edge.decision_log import DecisionLogReader, Read, Span
from pipeline.evaluate_policy import read_policy
from pipeline.plan_live import published
from pipeline.settings import Settings

REFUSED: Final = 3
ANSWER_S: Final = 600.0

_EXPLAINED: Final[Mapping[Method, str]] = {
    Method.LOGGED: "what was earned (Fay-Feuer)",
    Method.IPS: "rewards weighed by probability (Fay-Feuer)",
    Method.SNIPS: "the same, weights made to average 1 (bootstrap)",
    Method.DM: "the reward model alone: as good as the model",
    Method.DR: "the model, corrected by weighed rewards (bootstrap)",
}


@dataclass(frozen=True)
class Wish:
    """What is asked. policy: file. since, until: decided from (included) to (left out), UTC; None = no limit.
    unshown: count decisions that nobody reported as shown, as earning nothing. seed: of the bootstrap.
    """

    placement: str
    policy: Path
    since: datetime | None = None
    until: datetime | None = None
    unshown: bool = False
    seed: int = 0
    as_json: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of it."""

    spec: Spec
    evaluation: Evaluation
    counts: Counts
    read: Read


def ask(warehouse: Source, wish: Wish, spec: Spec, known: Described | None = None) -> Answer:
    """Read the log and evaluate a policy on it. known: see Spec. Raises what the warehouse raises."""
    target = spec.target(known)
    from_ms = _ms(wish.since)
    # What was decided before counts for nothing but the learning of a policy that learns.
    span = Span(wish.placement, 0 if target.learns else from_ms, _ms(wish.until))
    reader = DecisionLogReader(warehouse, span, target.reads_context)
    found, counts = evaluate(reader, target, EvaluateRules(from_ms, wish.unshown, wish.seed))
    return Answer(spec, found, counts, reader.read)


def run(settings: Settings, console: Console, wish: Wish) -> int:
    """Evaluate and print; 0, or 3 where the log cannot answer. Raises SettingsError for a wrong policy file."""
    spec = read_policy(wish.policy)
    with Warehouse.from_url(settings.warehouse_url, ANSWER_S) as warehouse:
        known = creatives_of(settings, wish.placement) if spec.wants_features else None
        answer = ask(warehouse, wish, spec, known)
    if wish.as_json:
        console.print_json(json.dumps(as_object(answer, wish)))
    else:
        show(answer, wish, console)
    return REFUSED if answer.evaluation.refusals else 0


def creatives_of(settings: Settings, placement: str) -> Described | None:
    """Return the placement's creatives with features as they are published now, as delivery knows them; None: none has.

    Those that have ended since the log was written are not among them, nor are they in delivery. One whose features
    were changed since has the new ones from the beginning. Raises Retryable where the store is away.
    """
    url = url_of(settings)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return None  # nothing was ever published, and asking would make the store
    place = published(settings).placements.get(placement)
    return described(features_of(place)) if place is not None else None


def as_object(answer: Answer, wish: Wish) -> dict[str, object]:
    """Return it by names, for machines. Estimates are left out where they may not be read."""
    found = answer.evaluation
    return {
        "placement": wish.placement,
        "policy": answer.spec.model_dump(),
        "refusals": [refusal._asdict() for refusal in found.refusals],
        "decisions": found.decisions,
        "rewards": found.rewards,
        "matched_rewards": found.matched,
        "effective_sample_size": found.ess,
        "weight_max": found.weight_max,
        "weight_mean": found.weight_mean,
        "missing_support": found.missing,
        "estimates": {} if found.refusals else {name.value: _estimate(one) for name, one in found.estimates.items()},
        "read": asdict(answer.counts) | asdict(answer.read),
    }


def _estimate(one: Estimate) -> dict[str, object]:
    return {
        "value": _number(one.value),
        "interval": _ends(one.interval),
        "bootstrap": _ends(one.bootstrap),
        "bernstein": _ends(one.bernstein) if one.bernstein else None,
        "lift": _number(one.lift),
        "lift_interval": _ends(one.lift_interval),
    }


def _ends(interval: Interval) -> list[float | None]:
    return [_number(interval.low), _number(interval.high)]


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def show(answer: Answer, wish: Wish, console: Console) -> None:
    """Print it for people."""
    found, counts = answer.evaluation, answer.counts
    parameters = ", ".join(f"{name} {_parameter(value)}" for name, value in answer.spec.model_dump().items())
    console.print(f"placement {wish.placement}, {parameters}", markup=False, highlight=False, soft_wrap=True)
    left_out = [f"{answer.read.bots:,} of bots", f"{answer.read.empty:,} without an action"]
    left_out += [f"{counts.unusable:,} unusable"] if counts.unusable else []
    elsewhere = f" ({counts.elsewhere:,} made by another system)" if counts.elsewhere else ""
    left_out += [f"{counts.unshown:,} never shown"] if not wish.unshown else []
    console.print(
        f"{found.decisions:,} decisions judged{elsewhere}, {found.rewards:,} rewarded; left out: {', '.join(left_out)}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"matched rewards {found.matched:,.1f}, effective sample size {found.ess:,.1f}, largest weight "
        f"{found.weight_max:,.4g}, mean weight {found.weight_mean:.4g}, without support {found.missing:.2%}",
        highlight=False,
        soft_wrap=True,
    )
    if found.refusals:
        console.print("not enough data to say what this policy would have earned:", style="yellow", highlight=False)
        for refusal in found.refusals:
            console.print(f"  {refusal.text}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        return
    console.print(_table(found))
    console.print(_verdict(found.estimates[Method.SNIPS]), highlight=False, soft_wrap=True)


def _parameter(value: object) -> str:
    if isinstance(value, dict):
        shown = [f"{name}={share:g}" for name, share in list(value.items())[:5]]
        return " ".join(shown) + (" …" if len(value) > 5 else "")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(found: Evaluation) -> Table:
    table = Table("", "reward per decision", "95 %", "lift", "95 %", "")
    for method, one in found.estimates.items():
        is_logged = method is Method.LOGGED
        lift = "" if is_logged else f"{one.lift:+.1%}"
        lifts = "" if is_logged else f"{one.lift_interval.low:+.1%} to {one.lift_interval.high:+.1%}"
        interval = f"{one.interval.low:.5f} to {one.interval.high:.5f}"
        table.add_row(method.value, f"{one.value:.5f}", interval, lift, lifts, _EXPLAINED[method])
    return table


def _verdict(one: Estimate) -> str:
    low, high = one.lift_interval
    if low == high == 0.0:
        return "it would have chosen just as the log did"
    if low > 0.0:
        return f"it would have earned more: {one.lift:+.1%} ({low:+.1%} to {high:+.1%})"
    if high < 0.0:
        return f"it would have earned less: {one.lift:+.1%} ({low:+.1%} to {high:+.1%})"
    return f"no difference can be shown: {one.lift:+.1%}, but {low:+.1%} to {high:+.1%} is possible"


def _ms(moment: datetime | None) -> int:
    """Return ms since 1970 UTC of a time without zone; 0 for none."""
    return int(moment.replace(tzinfo=UTC).timestamp() * 1_000) if moment else 0

"""What delivery knows, for people and programs to read: a decision, a profile, a model."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET

from pipeline.core.decide import time_of
from pipeline.core.policy import MICROS, estimate
from pipeline.delivery.api import Arm, ChoiceOut, DecisionExplained, GroupExplained, ModelAnswer, ProfileAnswer
from pipeline.delivery.memory import Found, PlacementPolicy
from pipeline.delivery.reports import Source
from schemas.model import ArmStatistics
from schemas.outcome import Choice, DecisionLog, GroupLog
from schemas.tables import DECISIONS

_COLUMNS: Final = (
    "visitor", "placement_id", "policy", "model_version", "seed", "choices", "candidates", "propensities", "excluded",
    "context", "features", "degraded", "scores", "rules", "group_log",
)  # fmt: skip
_UNTRIED: Final = ArmStatistics()
_NO_CHOICE: Final = Choice("", 0, 0.0)


def explain(log: DecisionLog, visitor: str, source: Literal["memory", "warehouse"]) -> DecisionExplained:
    """Return a decision's log in the API's words. visitor: "" without consent or id."""
    return DecisionExplained(
        decision_id=log.decision_id,
        decided_ms=time_of(log.decision_id),
        source=source,
        visitor=visitor,
        placement=log.placement_id,
        policy=log.policy,
        model_version=log.model_version,
        seed=log.seed,
        choices=[ChoiceOut.model_validate(choice, from_attributes=True) for choice in log.choices],
        candidates=log.candidates,
        propensities=log.propensities,
        scores=log.scores,
        rules=log.rules,
        excluded=log.excluded,
        context=log.context,
        features=log.features,
        degraded=log.degraded,
        group=GroupExplained.model_validate(log.group, from_attributes=True) if log.group is not UNSET else None,
    )


class Archive:
    """Older decisions, from the warehouse."""

    def __init__(self, warehouse: Source) -> None:
        """warehouse: where `decisions` is."""
        self._warehouse = warehouse

    def decision(self, decision_id: str) -> DecisionExplained | None:
        """Return a decision, or None. Raises what the warehouse raises."""
        found = self.log(decision_id)
        return explain(*found, "warehouse") if found is not None else None

    def newest_with_tail(self, tail: str) -> DecisionLog | None:
        """Return the newest decision whose id ends so, or None. tail: what follows an id's 12 digits of time."""
        statement = f"SELECT max(decision_id) FROM {DECISIONS.name} WHERE substring(decision_id, 13) = %(tail)s"  # noqa: S608
        found = str(self._warehouse.execute(statement, {"tail": tail})[0][0])
        log = self.log(found) if found else None
        return log[0] if log is not None else None

    def log(self, decision_id: str) -> tuple[DecisionLog, str] | None:
        """Return a decision's log and its visitor, or None. Raises what the warehouse raises."""
        statement = ("SELECT", ", ".join(_COLUMNS), "FROM", DECISIONS.name, "FINAL WHERE decision_id = %(id)s LIMIT 1")
        rows = self._warehouse.execute(" ".join(statement), {"id": decision_id})
        if not rows:
            return None
        row: dict[str, Any] = dict(zip(_COLUMNS, rows[0], strict=True))
        log = DecisionLog(
            decision_id=decision_id,
            placement_id=row["placement_id"],
            policy=row["policy"],
            model_version=row["model_version"],
            seed=row["seed"],
            choices=[_choice(found) for found in msgspec.json.decode(row["choices"])],
            candidates=list(row["candidates"]),
            propensities=list(row["propensities"]),
            excluded=msgspec.json.decode(row["excluded"]),
            context=msgspec.json.decode(row["context"]),
            features=msgspec.json.decode(row["features"]),
            degraded=list(row["degraded"]),
            scores=list(row["scores"]),
            rules=msgspec.json.decode(row["rules"] or "{}"),  # "": none were logged
            group=msgspec.json.decode(row["group_log"], type=GroupLog) if row["group_log"] else UNSET,
        )
        return log, row["visitor"]


def of_profile(visitor: str, found: Found, degraded: Sequence[str]) -> ProfileAnswer:
    """Return a visitor's profile. found.state: not None."""
    assert found.state is not None
    return ProfileAnswer(
        visitor=visitor,
        version=found.version,
        profile=_named(found.state.profile),
        open_decisions=[_named(decision) for decision in found.state.decisions],
        degraded=list(degraded),
    )


def of_model(
    placement: str,
    found: PlacementPolicy,
    time_ms: int,
    degraded: Sequence[str],
    features: Mapping[str, Mapping[str, object]],
    worth_micros: int = 0,
) -> ModelAnswer:
    """Return a placement's arms, the most tried first, those with features that wait for their first trial among them.

    time_ms: now. features: of the published creatives. worth_micros: what a reward of 1 is worth there.
    Shares of a linear policy are those in a context of which nothing is known.
    """
    policy = found.policy
    sums = dict.fromkeys(policy.priors.by_action, _UNTRIED) | policy.arms
    ids = sorted(sums, key=lambda action_id: (-sums[action_id].trials, action_id))
    shares = policy.probabilities(policy.scores_for(ids, {}, [features.get(one, {}) for one in ids])) if ids else []
    arms = []
    for action_id, share in zip(ids, shares, strict=True):
        arm, prior = sums[action_id], policy.priors.of(action_id)
        believed = estimate(arm, policy.rules, prior)._asdict()
        reward = arm.reward_micros / MICROS
        arms.append(Arm(id=action_id, trials=arm.trials, reward=reward, prior=prior, share=share, **believed))
    return ModelAnswer(
        placement=placement,
        policy=policy.name,
        model_version=found.model_version,
        updated_ms=found.updated_ms,
        age_ms=max(0, time_ms - found.updated_ms),
        worth_micros=worth_micros,
        prior=policy.priors.mean,
        arms=arms,
        degraded=list(degraded),
    )


def _choice(found: dict[str, Any]) -> Choice:
    """A choice from its JSON by name, which lacks what says nothing."""
    return msgspec.convert(list((msgspec.structs.asdict(_NO_CHOICE) | found).values()), Choice)


def _named(value: msgspec.Struct) -> dict[str, object]:
    """A Struct with the names of its fields, which its packed form leaves out."""
    return {name: _plain(found) for name, found in msgspec.structs.asdict(value).items()}


def _plain(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        return _named(value)
    if isinstance(value, dict):
        return {key: _plain(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(found) for found in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value

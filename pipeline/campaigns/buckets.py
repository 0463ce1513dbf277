"""Which of a layer's visitors an experiment has: kept in the store, so that another one moves nobody."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.campaigns.refusals import Reason, Refused
from pipeline.core.experiment.assign import allot
from schemas.campaign import Status
from schemas.experiment import Experiment

HOLDS_BUCKETS = frozenset({Status.PUBLISHED, Status.PAUSED})
"""An experiment has its visitors from when it is published until it ends; a pause keeps them."""


def kept(body: Experiment, before: Mapping[str, Any] | None) -> Experiment:
    """Return what an author has written with the buckets that it has: he need not know of them.

    before: its stored body, which the model of today may refuse; then what it says of buckets may be void.
    """
    if body.buckets or not before or not before.get("buckets"):
        return body
    try:
        return Experiment.model_validate(body.model_dump() | {"buckets": before["buckets"]})
    except ValidationError:
        return body


def allotted(body: Experiment, others: Iterable[Experiment]) -> Experiment:
    """Return an experiment with its buckets. others: that have some. Raises Refused where the layer has not enough."""
    try:
        return allot([*others, body])[-1]
    except ValueError as error:
        raise Refused(Reason.SHARE, f"experiments/{body.id}: {error}", [("share", str(error))]) from None

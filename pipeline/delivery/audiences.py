"""`POST /v1/audiences/explain`: is a visitor in an audience, and which part of it decided."""

import msgspec

from pipeline.core.audience import AudienceError, explain, parse
from pipeline.core.ids import usable_id
from pipeline.delivery.api import AudienceAnswer, AudiencePart, AudienceQuestion
from pipeline.delivery.memory import Memory
from pipeline.delivery.offer import NOBODY, Whom
from pipeline.delivery.problems import Problem
from pipeline.delivery.published import Published


def asked_audience(asked: AudienceQuestion, memory: Memory, published: Published, time_ms: int) -> AudienceAnswer:
    """Return the answer. time_ms: now. Raises Problem 400 for a text that does not parse, 404 for an unknown line."""
    try:
        audience = published.audience(asked.line) if asked.line else parse(asked.audience)
    except AudienceError as error:
        where = f"at position {error.position}: {error.expected}"
        raise Problem(400, "audience", f"audience: {error}", [("audience", where)]) from None
    visitor = usable_id(asked.visitor)
    found = memory.visitor(visitor) if visitor else NOBODY
    degraded = memory.degraded(visitor, time_ms)
    why = explain(audience, published.facts(Whom(visitor, found, asked.context, "", missing=degraded), time_ms))
    return AudienceAnswer(
        audience=audience.text,
        held=why.held,
        known=found.state is not None,
        why=AudiencePart.model_validate(msgspec.to_builtins(why)),
        degraded=[name for name in degraded if name.startswith("profiles")],
    )

"""Azure Personalizer's protocol (REST v1.0): rank, reward and activate, so that its clients go on with another address.

A loop of Personalizer's is a placement here: `personalizer`, or the one that stands in the endpoint
(`https://host/placements/NAME`). It knows no visitor, so decisions are nobody's in particular. An event that is not
deferred counts as shown at once, as Personalizer has it; a deferred one when it is activated or rewarded.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from pipeline.core import decide as decisions
from pipeline.delivery.api import DecisionRequest, RankAnswer, RankedAction, RankRequest, RewardEventRequest
from pipeline.delivery.desk import Desk
from pipeline.delivery.explain import Archive
from pipeline.delivery.guard import Guard
from pipeline.delivery.log import News, Pen, Sender
from pipeline.delivery.problems import SAFE_HEADERS, Problem, away, invalid
from pipeline.delivery.web import Answer, Request
from pipeline.edge import metrics
from pipeline.settings import Settings
from schemas.event import EventType
from schemas.outcome import DecisionLog

PLACEMENT: Final = "personalizer"
NAMED_MAX: Final = 100_000
"""Event ids of clients' own that are kept in memory; older ones are looked up in the warehouse."""

Ask = Callable[[Callable[..., Any], str], Any]
"""Calls a function of the warehouse with one argument, in a thread of its own; raises Problem 503 where it is away."""


class Personalizer:
    """The three endpoints. Belongs to the event loop's thread."""

    def __init__(self, settings: Settings, guard: Guard, desk: Desk, pen: Pen, archive: Archive, ask: Ask) -> None:
        """archive: finds events that this process has not ranked, by `ask`."""
        self._guard, self._desk, self._pen, self._archive, self._ask = guard, desk, pen, archive, ask
        self._ack_s = settings.ack_timeout_ms / 1_000
        self._sender = Sender(next(iter(settings.write_keys.values())))
        self._named: OrderedDict[str, str] = OrderedDict()  # tail of a decision's id -> the whole

    async def rank(self, request: Request, now_ms: int) -> Answer:
        """Rank the actions: 201. The same event id again gets the same answer, as long as this process knows it."""
        body = self._guard.read(request, RankRequest)
        known = self._pen.recent(self._named.get(tail_of(body.event_id), "")) if body.event_id else None
        log = known.log() if known is not None else self._decided(body, request, now_ms)
        chosen = log.choices[0].action_id if log.choices else ""
        if not body.defer_activation and known is None and chosen:
            await self._shown(log.decision_id, chosen, log.placement_id, now_ms, 0.0)
        shares = dict(zip(log.candidates, log.propensities, strict=True))
        ranking = [RankedAction(id=one.id, probability=shares.get(one.id, 0.0)) for one in body.actions]
        answer = RankAnswer(ranking=ranking, event_id=body.event_id or log.decision_id, reward_action_id=chosen)
        return Answer(201, answer.__pydantic_serializer__.to_json(answer, by_alias=True), headers=SAFE_HEADERS)

    async def reward(self, request: Request, now_ms: int) -> Answer:
        """Take an event's reward: 204 once the broker has it."""
        body = self._guard.read(request, RewardEventRequest)
        decision_id, _ = await self._event(request.params["event_id"])
        said = f"{decision_id}::reward:{body.value!r}"
        news = News(EventType.REWARD, decision_id, _digest(said), reward=body.value)
        return self._taken(await self._pen.news(news, self._sender, now_ms, self._ack_s), "reward")

    async def activate(self, request: Request, now_ms: int) -> Answer:
        """Count a deferred event as shown: 204 once the broker has it."""
        decision_id, log = await self._event(request.params["event_id"])
        chosen = log.choices[0].action_id if log is not None and log.choices else ""
        placement = log.placement_id if log is not None else ""
        return self._taken(await self._shown(decision_id, chosen, placement, now_ms, self._ack_s), "activation")

    def _decided(self, body: RankRequest, request: Request, now_ms: int) -> DecisionLog:
        left = [one for one in body.actions if one.id not in (body.excluded_actions or ())]
        if not left:
            expected = "all actions are excluded, expected one at least to be left"
            raise Problem(400, "invalid", f"excludedActions: {expected}", [("excludedActions", expected)])
        wish = {
            "placement": request.params.get("placement", PLACEMENT),
            "actions": [{"id": one.id, "features": dict(flat(one.features))} for one in left],
            "context": dict(flat(body.context_features)),
        }
        try:
            asked = self._desk.read(DecisionRequest.model_validate(wish), no_consent=False)
        except ValidationError as error:
            raise invalid(400, error, "request body") from None
        log = self._desk.log(asked, now_ms, random_48_of(body.event_id) if body.event_id else None)
        if body.event_id:
            self._named[tail_of(body.event_id)] = log.decision_id
            while len(self._named) > NAMED_MAX:
                self._named.popitem(last=False)
        return log

    async def _event(self, event_id: str) -> tuple[str, DecisionLog | None]:
        """Return the decision of an event, and its log where it is known. Raises Problem 404 or 503."""
        decision_id = event_id if decisions.is_id(event_id) else self._named.get(tail_of(event_id), "")
        known = self._pen.recent(decision_id)
        if known is not None:
            return decision_id, known.log()
        if decision_id:
            return decision_id, None  # the log will tell: it may be of another process, or of before this one's start
        found = await asyncio.to_thread(self._ask, self._archive.newest_with_tail, tail_of(event_id))
        if found is None:
            metrics.REWARDS.labels("reward", "unknown").inc()
            raise Problem(404, "not_found", f"event {event_id[:64]!r} was not ranked here, expected one of `rank`'s")
        return found.decision_id, found

    async def _shown(self, decision_id: str, action_id: str, placement: str, now_ms: int, wait_s: float) -> bool:
        kind = EventType.IMPRESSION
        news = News(kind, decision_id, _digest(f"{decision_id}:{action_id}:{kind.value}"), action_id, placement)
        return await self._pen.news(news, self._sender, now_ms, wait_s)

    def _taken(self, landed: bool, what: str) -> Answer:
        metrics.REWARDS.labels("reward" if what == "reward" else "impression", "logged" if landed else "unlogged").inc()
        if not landed:
            raise away(f"the log did not confirm the {what} in time")
        return Answer(204, kind="", headers=SAFE_HEADERS)


def random_48_of(event_id: str) -> int:
    """Return the 48 bits of a decision's id that a client's own event id stands for."""
    return int.from_bytes(hashlib.blake2b(event_id.encode("utf-8", "replace"), digest_size=6).digest(), "big")


def tail_of(event_id: str) -> str:
    """Return all of a decision's id but its time, for a client's own event id: nobody's decision, routed by itself."""
    return decisions.make_id(0, "", random_48_of(event_id))[12:]


def flat(features: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, object]]:
    """Yield features by one name each: those of namespaces as `namespace.name`, of lists by their place."""
    for found in features:
        for name, value in found.items():
            yield from _flat(name, value)


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    """At most as deep as JSON could be read."""
    if isinstance(value, Mapping):
        for inner, found in value.items():
            yield from _flat(f"{name}.{inner}", found)
    elif isinstance(value, list):
        for place, found in enumerate(value):
            yield from _flat(f"{name}.{place}", found)
    else:
        yield name, value


def _digest(said: str) -> str:
    return hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=16).hexdigest()

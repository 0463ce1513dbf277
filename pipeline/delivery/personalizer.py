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
from pipeline.delivery.log import News, Pen, Sender, news_id
from pipeline.delivery.problems import SAFE_HEADERS, Problem, away, invalid
from pipeline.delivery.web import Answer, Request
from pipeline.edge import metrics
from pipeline.settings import Settings
from schemas.event import EventType
from schemas.outcome import DecisionLog

PLACEMENT: Final = "personalizer"
NAMED_MAX: Final = 100_000
"""Event ids of clients' own that are kept in memory; older ones are looked up in the warehouse."""
TIME_CHARS: Final = 12
ROUTE_CHARS: Final = 8  # what follows the time in a decision's id; then 12 of randomness

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
        tail = tail_of(_placement(request), body.event_id) if body.event_id else ""
        known = self._pen.recent(self._named.get(tail, ""))
        log = known.log() if known is not None else self._decided(body, _placement(request), tail, now_ms)
        if known is None and not body.defer_activation:
            await self._shown(log, now_ms, 0.0)
        shares = dict(zip(log.candidates, log.propensities, strict=True))
        answer = RankAnswer(
            ranking=[RankedAction(id=one.id, probability=shares.get(one.id, 0.0)) for one in body.actions],
            event_id=body.event_id or log.decision_id,
            reward_action_id=log.choices[0].action_id,
        )
        return Answer(201, answer.__pydantic_serializer__.to_json(answer, by_alias=True), headers=SAFE_HEADERS)

    async def reward(self, request: Request, now_ms: int) -> Answer:
        """Take an event's reward: 204 once the broker has it."""
        body = self._guard.read(request, RewardEventRequest)
        decision_id = self._known_id(request) or (await self._found(request)).decision_id
        event_id = news_id(decision_id, "", EventType.REWARD, repr(body.value))
        news = News(EventType.REWARD, decision_id, event_id, reward=body.value)
        return _taken(await self._pen.news(news, self._sender, now_ms, self._ack_s), EventType.REWARD)

    async def activate(self, request: Request, now_ms: int) -> Answer:
        """Count a deferred event as shown: 204 once the broker has it."""
        known = self._pen.recent(self._known_id(request))
        log = known.log() if known is not None else await self._found(request)
        return _taken(await self._shown(log, now_ms, self._ack_s), EventType.IMPRESSION)

    def _decided(self, body: RankRequest, placement: str, tail: str, now_ms: int) -> DecisionLog:
        """Decide. tail: of the decision's id, "" where the client has no event id of its own. Raises Problem 400."""
        left = [one for one in body.actions if one.id not in (body.excluded_actions or ())]
        if not left:
            expected = "all actions are excluded, expected one at least to be left"
            raise Problem(400, "invalid", f"excludedActions: {expected}", [("excludedActions", expected)])
        wish = {
            "placement": placement,
            "actions": [{"id": one.id, "features": dict(named(one.features))} for one in left],
            "context": dict(named(body.context_features)),
        }
        try:
            asked = self._desk.read(DecisionRequest.model_validate(wish), no_consent=False)
        except ValidationError as error:
            raise invalid(400, error, "request body") from None
        log = self._desk.log(asked, now_ms, _random_48(tail) if tail else None)
        if tail:
            self._named[tail] = log.decision_id
            while len(self._named) > NAMED_MAX:
                self._named.popitem(last=False)
        return log

    def _known_id(self, request: Request) -> str:
        """Return the decision's id of an event ranked here, or with an id of ours; "": only the warehouse may know."""
        event_id = request.params["event_id"]
        own = event_id if is_own(event_id) else ""
        return self._named.get(tail_of(_placement(request), event_id), own)

    async def _found(self, request: Request) -> DecisionLog:
        """Return the log of an event that is not remembered here, from the warehouse. Raises Problem 404 or 503."""
        event_id = request.params["event_id"]
        tail = event_id[12:] if is_own(event_id) else tail_of(_placement(request), event_id)
        found: DecisionLog | None = await asyncio.to_thread(self._ask, self._archive.newest_with_tail, tail)
        if found is None:
            what = f"event {event_id[:64]!r} was not ranked here, or seconds ago: expected one of `rank`'s"
            raise Problem(404, "not_found", what)
        return found

    async def _shown(self, log: DecisionLog, now_ms: int, wait_s: float) -> bool:
        kind, action_id = EventType.IMPRESSION, log.choices[0].action_id
        news = News(kind, log.decision_id, news_id(log.decision_id, action_id, kind), action_id, log.placement_id)
        return await self._pen.news(news, self._sender, now_ms, wait_s)


def _placement(request: Request) -> str:
    return request.params.get("placement", PLACEMENT)


def _taken(landed: bool, kind: EventType) -> Answer:
    metrics.REWARDS.labels(kind.value, "logged" if landed else "unlogged").inc()
    if not landed:
        raise away(f"the log did not confirm the {kind.value} in time")
    return Answer(204, kind="", headers=SAFE_HEADERS)


def tail_of(placement: str, event_id: str) -> str:
    """Return all of a decision's id but its time, for a client's own event id in a loop: nobody's, routed by itself."""
    said = f"{placement}\n{event_id}".encode("utf-8", "replace")
    return decisions.make_id(0, "", int.from_bytes(hashlib.blake2b(said, digest_size=6).digest(), "big"))[TIME_CHARS:]


def is_own(event_id: str) -> bool:
    """True for an id that `rank` has made. A UUID in hexadecimal has its form too, but not its route."""
    tail = event_id[TIME_CHARS:]
    return decisions.is_id(event_id) and tail == decisions.make_id(0, "", _random_48(tail))[TIME_CHARS:]


def _random_48(tail: str) -> int:
    return int(tail[ROUTE_CHARS:], 16)


def named(features: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, object]]:
    """Yield features by one name each: those of namespaces as `namespace.name`, of lists by their place."""
    for found in features:
        for name, value in found.items():
            yield from _named(name, value)


def _named(name: str, value: object) -> Iterator[tuple[str, object]]:
    """At most as deep as JSON could be read."""
    if isinstance(value, Mapping):
        for inner, found in value.items():
            yield from _named(f"{name}.{inner}", found)
    elif isinstance(value, list):
        for place, found in enumerate(value):
            yield from _named(f"{name}.{place}", found)
    else:
        yield name, value

"""Delivery's HTTP face: one method for each address of the table in routes.py."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from pipeline.core import decide as decisions
from pipeline.core.link import Expired, Link, LinkFault, LinkKind, unseal
from pipeline.delivery.api import (
    AudienceQuestion,
    DecisionRequest,
    PageAnswer,
    RewardAnswer,
    RewardRequest,
    RollupAnswer,
)
from pipeline.delivery.arms import features_of, shares
from pipeline.delivery.audiences import asked_audience
from pipeline.delivery.campaign_report import CampaignsReport, Known, read_counts, report
from pipeline.delivery.curves import ARMS_MAX, learning, read_cells
from pipeline.delivery.desk import Asked, Desk
from pipeline.delivery.explain import Archive, explain, of_model, of_profile
from pipeline.delivery.guard import Guard
from pipeline.delivery.kevel import Kevel
from pipeline.delivery.log import News, Pen, Sender, news_id
from pipeline.delivery.memory import Memory
from pipeline.delivery.pages import HEADERS, PAGES, content
from pipeline.delivery.peers import MISDIRECTED, Decided, Peers, is_forwarded
from pipeline.delivery.personalizer import Personalizer
from pipeline.delivery.problems import SAFE_HEADERS, Problem, away
from pipeline.delivery.published import Published
from pipeline.delivery.reports import Source, read_from, read_query, read_span, run_query
from pipeline.delivery.routes import ROUTES, document
from pipeline.delivery.web import Answer, Request, redirect
from pipeline.edge import metrics
from pipeline.edge.clock import monotonic_s, now_ms
from pipeline.edge.rewards import TooMany
from pipeline.errors import HeraldError
from pipeline.rest.front import Served
from pipeline.settings import Settings
from schemas.event import EventType

log = logging.getLogger(__name__)

LINK_WAIT_S: Final = 1.0
PIXEL: Final = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")
NEWS_OF: Final = {LinkKind.IMPRESSION: EventType.IMPRESSION, LinkKind.CLICK: EventType.CLICK}


class Delivery:
    """The endpoints and what they share. `is_stopping` is set before the end: then /readyz says so."""

    def __init__(
        self,
        settings: Settings,
        memory: Memory,
        pen: Pen,
        warehouse: Source,
        signing_key: bytes,
        published: Published,
    ) -> None:
        """warehouse: asked for reports and old decisions only, and never by the event loop's thread.

        signing_key: of addresses, and of what delivery processes tell each other; the settings may accept others, too.
        published: what marketers have to show.
        """
        accepted = [one.get_secret_value().encode() for one in settings.signing_secrets_accepted]
        self.settings, self.memory, self.pen = settings, memory, pen
        self.warehouse, self.published = warehouse, published
        self.guard = Guard(settings)
        self.desk = Desk(settings, memory, pen, signing_key, published)
        self._keys = (signing_key, *accepted)
        self.peers = Peers(self._keys, pen, settings.peer_timeout_ms / 1_000)
        self.is_stopping = False
        self._personalizer = Personalizer(settings, self.guard, self.desk, pen, Archive(warehouse), self._ask_warehouse)
        self._kevel = Kevel(self.guard, self.desk, published)
        self._document = msgspec.json.encode(document())
        self._index, self._campaigns_page = content("index.html"), content("campaigns.html")

    def stop(self) -> None:
        """Say that this process stops, and end what waits for others. Answers under way are still given."""
        self.is_stopping = True
        self.desk.sends.stop()
        self.peers.close()

    def served(self) -> list[Served]:
        """Return every address with what answers it."""
        return [Served(route, getattr(self, route.name)) for route in ROUTES]

    def decide(self, request: Request) -> Answer | Awaitable[Answer]:
        """Choose among actions for a visitor."""
        body = self.guard.read(request, DecisionRequest)
        started_s = monotonic_s()
        asked = self.desk.read(body, self.guard.refuses_tracking(request))
        owner = self._owner(asked)
        if owner or is_forwarded(request):
            return self._across(request, asked, owner, lambda: self._decided(asked, monotonic_s()))
        return self._decided(asked, started_s)[0]

    def _decided(self, asked: Asked, started_s: float) -> Decided:
        answer = self.desk.decide(asked, now_ms())
        found = _json(answer)
        metrics.DECISION_SECONDS.observe(monotonic_s() - started_s)
        return found, [one.decision_id for one in (answer.decisions if isinstance(answer, PageAnswer) else [answer])]

    def _owner(self, asked: Asked) -> str:
        """Return the address of the process that has to decide, "" where that is this one."""
        return self.published.elsewhere(asked.places, asked.visitor, asked.request.cap_hint, now_ms())

    def _across(
        self, request: Request, asked: Asked, owner: str, decide: Callable[[], Decided]
    ) -> Answer | Awaitable[Answer]:
        """Send a request on, or answer one that another process has sent on. Raises Problem 403 or 421."""
        if not is_forwarded(request):
            return self._elsewhere(request, owner, decide)
        self.peers.check(request)
        counted = self.published.counted
        if not counted.is_here(asked.visitor, asked.request.cap_hint, now_ms()):
            counted.look_soon()
            raise Problem(MISDIRECTED, "misdirected", "this process does not count the visitor's caps (any more)")
        return self.peers.passed(decide())

    async def _elsewhere(self, request: Request, owner: str, decide: Callable[[], Decided]) -> Answer:
        found = await self.peers.ask(owner, request)
        if found is not None:
            return found
        self.published.counted.look_soon()
        return decide()[0]

    async def explained(self, request: Request) -> Answer:
        """Explain a decision: from memory where it is recent, else from the warehouse."""
        decision_id = _decision_id(request)
        remembered = self.pen.recent(decision_id)
        if remembered is not None:
            return _json(explain(remembered.log(), remembered.visitor, "memory"))
        found = await asyncio.to_thread(self._ask_warehouse, Archive(self.warehouse).decision, decision_id)
        if found is None:
            raise Problem(404, "not_found", "no such decision; the newest ones reach the warehouse within seconds")
        return _json(found)

    async def reward(self, request: Request) -> Answer:
        """Take a reward by name; 200 once the broker has it."""
        decision_id = _decision_id(request)
        reward = self.guard.read(request, RewardRequest)
        known = self.pen.recent(decision_id)
        news = News(
            EventType.REWARD,
            decision_id,
            reward.event_id or news_id(decision_id, reward.action_id, EventType.REWARD, repr(reward.value)),
            reward.action_id,
            reward=reward.value,
        )
        sender = Sender(known.site if known else next(iter(self.settings.write_keys.values())))
        landed = await self.pen.news(news, sender, now_ms(), self.settings.ack_timeout_ms / 1_000)
        metrics.REWARDS.labels("reward", "logged" if landed else "unlogged").inc()
        if not landed:
            raise away("the log did not confirm the reward in time")
        return _json(RewardAnswer(event_id=news.event_id))

    async def rank(self, request: Request) -> Answer:
        """Azure Personalizer's rank."""
        return await self._personalizer.rank(request, now_ms())

    async def reward_event(self, request: Request) -> Answer:
        """Azure Personalizer's reward of an event."""
        return await self._personalizer.reward(request, now_ms())

    async def activate_event(self, request: Request) -> Answer:
        """Azure Personalizer's activation of a deferred event."""
        return await self._personalizer.activate(request, now_ms())

    def audience(self, request: Request) -> Answer:
        """Say whether a visitor is in an audience, and why."""
        return _json(asked_audience(self.guard.read(request, AudienceQuestion), self.memory, self.published, now_ms()))

    def kevel(self, request: Request) -> Answer | Awaitable[Answer]:
        """Kevel's decisions for the places of a page."""
        asked, decide = self._kevel.read(request)
        owner = self._owner(asked)
        if owner or is_forwarded(request):
            return self._across(request, asked, owner, decide)
        return decide()[0]

    def profile(self, request: Request) -> Answer:
        """Return what is known of a visitor."""
        visitor = request.params["visitor"]
        missing = self.memory.degraded(visitor, now_ms())
        found = self.memory.visitor(visitor)
        if found.state is None:
            if "profiles_loading" in missing:
                raise away("profiles are still being read")
            raise Problem(404, "not_found", "no profile of this visitor")
        return _json(of_profile(visitor, found, [name for name in missing if name.startswith("profiles")]))

    def model(self, request: Request) -> Answer:
        """Return what a placement has learnt."""
        placement = request.params["placement"]
        missing = [name for name in self.memory.degraded("", now_ms()) if name.startswith("models")]
        if not self.memory.is_known(placement):
            if "models_loading" in missing:
                raise away("models are still being read")
            raise Problem(404, "not_found", "nothing was learnt of this placement yet")
        shelf, found = self.published.shelf, self.memory.policy(placement)
        place = shelf.catalogue.placements.get(placement)
        features = features_of(place) if place is not None else {}
        return _json(of_model(placement, found, now_ms(), missing, features, shelf.worths.get(placement, 0)))

    async def learning(self, request: Request) -> Answer:
        """Return how a placement has learnt over time."""
        placement, span = request.params["placement"], read_span(request.query(), now_ms())
        cells = await asyncio.to_thread(self._ask_warehouse, read_cells, self.warehouse, placement, span, ARMS_MAX)
        if not cells:
            raise Problem(404, "not_found", "nothing was shown and seen in this placement in that time")
        policy, worth_micros = self.memory.policy(placement).policy, self.published.shelf.worths.get(placement, 0)
        return _json(await asyncio.to_thread(learning, placement, span, cells, policy, worth_micros))

    async def rollup(self, request: Request) -> Answer:
        """Report from the minute rollups."""
        query = read_query(request.query(), now_ms())
        rows, truncated = await asyncio.to_thread(self._ask_warehouse, run_query, query, self.warehouse)
        return _json(
            RollupAnswer(
                from_ms=query.from_ms,
                to_ms=query.to_ms,
                interval=query.interval,
                dimensions=list(query.dimensions),
                metrics=list(query.metrics),
                rows=rows,
                truncated=truncated,
            )
        )

    async def campaigns_report(self, request: Request) -> Answer:
        """Report how every campaign is doing."""
        time_ms = now_ms()
        from_ms = read_from(request.query(), time_ms)
        return _json(await asyncio.to_thread(self._campaigns, from_ms, time_ms))

    def _campaigns(self, from_ms: int, time_ms: int) -> CampaignsReport:
        try:
            counts = read_counts(self.warehouse, from_ms)
        except HeraldError:
            counts = None
        published, catalogue = self.published, self.published.shelf.catalogue
        found = {
            (name, arm): share
            for name, place in catalogue.placements.items()
            for arm, share in shares(place, self.memory.policy(name).policy).items()
        }
        sites = sorted(set(self.settings.write_keys.values()))
        return report(Known(published.objects(), catalogue, published.till, found, sites, counts), from_ms, time_ms)

    def campaigns_page(self, request: Request) -> Answer:
        """That report, for people."""
        return Answer(200, self._campaigns_page, PAGES["index.html"], HEADERS)

    async def impression(self, request: Request) -> Answer:
        """Count an impression; a GIF. 503 (with the GIF) where it could not be stored."""
        landed = await self._follow(request, self._link(request, LinkKind.IMPRESSION))
        headers = [("cache-control", "no-store"), *([] if landed else [("retry-after", "1")])]
        return Answer(200 if landed else 503, PIXEL, "image/gif", headers)

    async def click(self, request: Request) -> Answer:
        """Count a click and send the visitor on; also where it could not be stored in time, or comes too late."""
        found = self._link(request, LinkKind.CLICK)
        await self._follow(request, found)
        link = found.link if isinstance(found, Expired) else found
        return redirect(302, link.target, [("cache-control", "no-store"), ("x-robots-tag", "noindex")])

    def health(self, request: Request) -> Answer:
        """200 while the process lives."""
        return Answer(200, b'{"status":"ok"}', headers=SAFE_HEADERS)

    def ready(self, request: Request) -> Answer:
        """200 once profiles and models are read and the log can be written."""
        missing = [] if self.memory.is_loaded else ["profiles and models are still being read"]
        missing += [] if self.published.is_loaded else ["campaigns are still being read"]
        missing += [] if self.published.counted.has_looked else ["who counts caps is still being asked"]
        missing += [] if self.pen.is_available else ["the log cannot be written"]
        missing += ["stopping"] if self.is_stopping else []
        if missing:
            raise away("; ".join(missing))
        return Answer(200, b'{"status":"ready"}', headers=SAFE_HEADERS)

    def metrics(self, request: Request) -> Answer:
        """Prometheus."""
        return Answer(200, generate_latest(metrics.REGISTRY), CONTENT_TYPE_LATEST, SAFE_HEADERS)

    def openapi(self, request: Request) -> Answer:
        """The OpenAPI document."""
        return Answer(200, self._document, headers=SAFE_HEADERS)

    def docs(self, request: Request) -> Answer:
        """The OpenAPI document, for people."""
        return Answer(200, self._index, PAGES["index.html"], HEADERS)

    def _link(self, request: Request, kind: LinkKind) -> Link | Expired:
        found = unseal(request.params["token"], self._keys, kind, now_ms())
        if isinstance(found, LinkFault):
            metrics.REWARDS.labels(kind.value, found.value).inc()
            raise Problem(400, found.value, f"this {kind.value} address is {found.value}; expected one of our making")
        return found

    async def _follow(self, request: Request, link: Link | Expired) -> bool:
        """Log that an address was followed. Its event id is the link's: following it again counts once.

        Too late, it is counted in the metrics alone: nothing may be learnt or billed from an address that somebody kept
        or collected. It is still answered, since the visitor did no wrong, and its seal says that the target is ours.
        """
        if request.method == "HEAD":  # a mail scanner or a preview: nobody has seen or clicked anything
            return True
        if isinstance(link, Expired):
            metrics.REWARDS.labels(link.link.kind.value, "expired").inc()
            return True
        kind = NEWS_OF[link.kind]
        event_id = news_id(link.decision_id, link.action_id, kind)
        named = (link.action_id, link.placement_id, link.campaign_id, link.creative_id)
        news = News(kind, link.decision_id, event_id, *named)
        landed = await self.pen.news(news, self.guard.browser(request, link.site), now_ms(), LINK_WAIT_S)
        metrics.REWARDS.labels(kind.value, "logged" if landed else "unlogged").inc()
        return landed

    def _ask_warehouse(self, ask: Callable[..., Any], *arguments: object) -> Any:
        try:
            return ask(*arguments)
        except TooMany as error:
            raise Problem(422, "invalid", str(error), [("interval", str(error))]) from error
        except HeraldError as error:
            raise away(f"the warehouse does not answer: {str(error)[:200]}") from error


def _decision_id(request: Request) -> str:
    decision_id = request.params["decision_id"]
    if not decisions.is_id(decision_id):
        raise Problem(404, "not_found", "no such decision: an id has 32 hexadecimal digits in lower case")
    return decision_id


def _json(model: BaseModel) -> Answer:
    return Answer(200, model.__pydantic_serializer__.to_json(model), headers=SAFE_HEADERS)

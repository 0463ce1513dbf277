"""Where a decision is made: from what memory knows, at once, with everything logged that explains it."""

import secrets
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import count
from typing import Final
from urllib.parse import quote

from pipeline.core.decide import Ask, Known, decide, made_elsewhere, make_id
from pipeline.core.ids import ID_BYTES_MAX, usable_id
from pipeline.core.link import Link, LinkKind, seal
from pipeline.core.profile import strongest_interest
from pipeline.delivery.api import Chosen, DecisionAnswer, DecisionRequest, PageAnswer, ProfileRead, SendingOut
from pipeline.delivery.group import Groups
from pipeline.delivery.log import Pen, Sender
from pipeline.delivery.memory import Found, Memory
from pipeline.delivery.offer import NOBODY, Offer, Place, Sending, Whom, of_request
from pipeline.delivery.problems import Problem
from pipeline.delivery.published import Published
from pipeline.delivery.send import SENT, SendTimes
from pipeline.edge import metrics
from pipeline.settings import Settings
from schemas.outcome import DecisionLog

UNLOGGED: Final = "unlogged"
UNREADABLE: Final = "profile_unreadable"


@dataclass(frozen=True, slots=True)
class Asked:
    """A decision request after validation: for whom (visitor "" = nobody in particular), and who sends it."""

    request: DecisionRequest
    visitor: str
    sender: Sender

    @property
    def places(self) -> Sequence[Place]:
        """The places asked for, in their order."""
        return self.request.placements or (self.request,)


class Desk:
    """Makes decisions. Belongs to the event loop's thread; waits for nothing."""

    def __init__(self, settings: Settings, memory: Memory, pen: Pen, signing_key: bytes, published: Published) -> None:
        """signing_key: of impression and click addresses. published: what marketers have to show."""
        self._settings = settings
        self._memory = memory
        self._pen = pen
        self._key = signing_key
        self._published = published
        self._sites = tuple(dict.fromkeys(settings.write_keys.values()))
        self._base = settings.public_url.rstrip("/") or own_url(settings)
        self._seed = secrets.token_hex(8)
        self.sends = SendTimes(lambda: published.shelf.catalogue)
        self._groups = Groups(memory, published, self._seed)
        self._random = _random_48(secrets.token_bytes(32))

    def read(self, request: DecisionRequest, no_consent: bool) -> Asked:
        """Return what a request asks for, checked against the settings and what is published.

        no_consent: the request came with DNT: 1 or Sec-GPC: 1.
        Raises Problem 400 for too many actions, too long an id, or an unknown site; 404 for a placement that has
        neither actions in the request nor is published.
        """
        if request.site and request.site not in self._sites:
            expected = f"expected one of {', '.join(sorted(self._sites))}"
            raise Problem(400, "invalid", f"site: {expected}", [("site", expected)])
        for place in request.placements or (request,):
            self._check(place)
        no_consent = no_consent or not request.consent
        visitor = "" if no_consent else usable_id(request.visitor)
        return Asked(request, visitor, Sender(request.site or self._sites[0], no_consent=no_consent))

    def _check(self, place: Place) -> None:
        if not place.actions:
            self._published.check(place.placement)
            return
        if len(place.actions) > self._settings.actions_max:
            expected = f"found {len(place.actions)}, expected at most {self._settings.actions_max}"
            raise Problem(400, "invalid", f"actions: {expected}", [("actions", expected)])
        ids = [action.id for action in place.actions]
        if not "".join(ids).isascii() and any(len(name.encode()) > ID_BYTES_MAX for name in ids):
            expected = f"expected ids of at most {ID_BYTES_MAX} bytes in UTF-8"
            raise Problem(400, "invalid", f"actions: {expected}", [("actions", expected)])
        if place.made is not None and place.made.action_id not in ids:
            expected = f"found {place.made.action_id!r}, expected the id of one of the actions"
            raise Problem(400, "invalid", f"made.action_id: {expected}", [("made.action_id", expected)])

    def decide(self, asked: Asked, time_ms: int) -> DecisionAnswer | PageAnswer:
        """Decide for each place, log it, and return the answers with their signed addresses. As `log`."""
        answers = [answer for answer, _ in self.decided(asked, time_ms)]
        return PageAnswer(decisions=answers) if asked.request.placements else answers[0]

    def decided(self, asked: Asked, time_ms: int) -> list[tuple[DecisionAnswer, Offer]]:
        """As `decide`: for each place the answer, and what it was chosen among."""
        found = self._memory.visitor(asked.visitor) if asked.visitor else NOBODY
        page: set[str] = set()
        answers = []
        for place in asked.places:
            log, offer = self._logged(asked, place, found, page, time_ms, next(self._random))
            page.update(choice.action_id for choice in log.choices)
            answer = DecisionAnswer(
                decision_id=log.decision_id,
                placement=log.placement_id,
                actions=self._links(log, offer, asked.sender, time_ms),
                fallback=None if log.choices else offer.fallback,
                model_version=log.model_version,
                policy=log.policy,
                profile=ProfileRead(known=found.state is not None, version=found.version),
                degraded=log.degraded,
                group=offer.group,
                channel=offer.channel if log.choices else "",
                send_at=_iso(offer.sending.send_ms) if offer.sending is not None else None,
                sending=_why_then(offer.sending) if offer.sending is not None else None,
            )
            answers.append((answer, offer))
        return answers

    def log(self, asked: Asked, time_ms: int, random_48: int | None = None) -> DecisionLog:
        """Decide for the one place asked for, log it, and return the log.

        time_ms: now. random_48: of the decision's id, None for random ones. What is missing (profiles, models, room in
        the log) is named in `degraded`, and stops nothing.
        """
        found = self._memory.visitor(asked.visitor) if asked.visitor else NOBODY
        random_48 = next(self._random) if random_48 is None else random_48
        return self._logged(asked, asked.request, found, set(), time_ms, random_48)[0]

    def _logged(
        self, asked: Asked, place: Place, found: Found, page: Set[str], time_ms: int, random_48: int
    ) -> tuple[DecisionLog, Offer]:
        """page: actions that stand elsewhere on the page."""
        visitor = asked.visitor
        policy = self._memory.policy(place.placement)
        missing = self._memory.degraded(visitor, time_ms) + ([UNREADABLE] if found.is_unreadable else [])
        known = Known(policy.policy, policy.model_version, missing)
        decision_id = make_id(time_ms, visitor, random_48)
        whom = Whom(
            visitor,
            found,
            self._context(asked.request, found),
            asked.sender.site,
            asked.sender.no_consent,
            asked.request.cap_hint,
            missing,
        )
        if place.made is not None:
            offer = of_request(place.actions, page)
            ask = Ask(place.placement, visitor, offer.candidates, place.count, whom.context, offer.excluded)
            log = made_elsewhere(ask, place.made.action_id, place.made.probability, decision_id, policy.policy)
        elif not place.actions and self._published.members(place.placement):
            log, offer = self._groups.drawn(place, whom, known, page, decision_id)
        else:
            log, offer = self._drawn(place, whom, known, page, decision_id)
        if offer.channel in SENT and log.choices:
            offer = self.sends.set(log, offer, whom)
        if self._published.shelf.worths:
            self._published.weigh(log)
        if not self._pen.decision(log, visitor, asked.sender, time_ms):
            log.degraded.append(UNLOGGED)
        is_known = str(self._memory.is_known(place.placement)).lower()
        metrics.DECISIONS.labels(is_known, str(bool(log.degraded)).lower()).inc()
        return log, offer

    def _drawn(
        self, place: Place, whom: Whom, known: Known, page: Set[str], decision_id: str
    ) -> tuple[DecisionLog, Offer]:
        """Draw; where somebody else just had the last of what was drawn first, draw again without it."""
        gone: dict[str, str] = {}
        while True:
            if place.actions:
                offer = of_request(place.actions, page)
            else:
                offer = self._published.offer(place, whom, page, gone, decision_id)
            context = {**whom.context, **offer.context} if offer.context else whom.context
            if offer.policy:
                known = known._replace(policy=self._memory.policy(place.placement, offer.policy).policy)
            ask = Ask(place.placement, whom.visitor, offer.candidates, place.count, context, offer.excluded)
            if place.actions:
                return decide(ask, known, decision_id, self._seed), offer
            sale = self._published.sale(offer, whom, decision_id, place.count)
            log = decide(ask, known, decision_id, self._seed, sale.take)
            lacking = sale.close(log)
            if not lacking:
                return log, offer
            gone |= lacking

    def _context(self, request: DecisionRequest, found: Found) -> dict[str, object]:
        context: dict[str, object] = dict(request.context)
        context.pop("experiments", None)  # ours alone to say
        if found.state is not None:
            profile = found.state.profile
            context["profile"] = {
                "version": found.version,
                "visits": profile.visits,
                "events": profile.events,
                "purchases": profile.purchases,
                "interest": strongest_interest(profile, self._settings.interest_half_life_ms),
                "is_bot": profile.is_bot,
            }
        return context

    def _links(self, log: DecisionLog, offer: Offer, sender: Sender, time_ms: int) -> list[Chosen]:
        expires_ms = time_ms + self._settings.link_max_age_ms
        found = offer.found({choice.action_id for choice in log.choices})
        chosen = []
        for choice in log.choices:
            named = (log.decision_id, choice.action_id, sender.site, log.placement_id, choice.campaign_id)
            candidate = found[choice.action_id]
            target = candidate.url
            shown = seal(Link(LinkKind.IMPRESSION, *named, choice.creative_id, expires_ms), self._key)
            clicked = seal(Link(LinkKind.CLICK, *named, choice.creative_id, expires_ms, target), self._key)
            chosen.append(
                Chosen(
                    id=choice.action_id,
                    rank=choice.rank,
                    probability=choice.propensity * choice.group_propensity,
                    impression_url=f"{self._base}/v1/i/{shown}.gif",
                    click_url=f"{self._base}/c/{clicked}" if target else None,
                    content=offer.content(candidate),
                    campaign_id=choice.campaign_id,
                    line_id=choice.line_id,
                )
            )
        return chosen


def _why_then(sending: Sending) -> SendingOut:
    advice = sending.advice
    return SendingOut(
        best_hour=advice.hour,
        lift=advice.lift,
        low=advice.low,
        high=advice.high,
        sure=advice.sure,
        known=advice.known.value,
        explored=sending.is_explored,
    )


def _iso(time_ms: int) -> str:
    """Return a moment as ISO 8601 has it, in UTC."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="seconds")


def _random_48(key: bytes) -> Iterator[int]:
    """Give 48 bits after 48 bits that nobody can foretell without the key.

    The system's own generator is a call that lets other threads take their turn: at a thousand decisions a second that
    is paid in latency.
    """
    for number in count():
        yield int.from_bytes(blake2b(number.to_bytes(8, "big"), key=key, digest_size=6).digest(), "big")


def own_url(settings: Settings) -> str:
    """Return the address that delivery binds to, as a URL."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{quote(host, safe='[]:.')}:{settings.delivery_port}"

"""Kevel's decision protocol (`POST /api/v2`): its SDKs go on with another address, answered from published campaigns.

A `divName` is the id of a placement here, or a `zoneIds` entry stands in a placement's label `kevel_zone`. Kevel's ids
are whole numbers: an object's label `kevel_id`, so that one who comes from there keeps them, else a number made of its
id. Where nothing may be shown the decision is null, as Kevel has it; a placement that is not published is a problem.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from pipeline.core.catalogue import Catalogue, LiveCampaign, LiveCreative, LiveLine
from pipeline.delivery.api import NAMES_MAX, PLACEMENTS_MAX, Chosen, DecisionAnswer, DecisionRequest
from pipeline.delivery.desk import Asked, Desk
from pipeline.delivery.guard import Guard
from pipeline.delivery.offer import Offer
from pipeline.delivery.peers import Decided
from pipeline.delivery.problems import SAFE_HEADERS, Problem, invalid
from pipeline.delivery.published import Published
from pipeline.delivery.web import Answer, Request
from pipeline.edge.clock import now_ms

COUNT_MAX: Final = 20
BODY_KEYS: Final = ("html", "body")
"""Which of a creative's contents is Kevel's `body`; the first that is there."""
NUMBER_LABEL: Final = "kevel_id"
ZONE_LABEL: Final = "kevel_zone"

Number = Annotated[int, Field(ge=0, le=2**53)]


class _Kevel(BaseModel):
    """Kevel's requests: names as it has them, what is not known here is passed over, null means left out."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, validate_by_name=True)


class KevelPlacement(_Kevel):
    """Kevel: one place of the page."""

    div_name: Annotated[str, Field(max_length=128)] = ""
    zone_ids: list[Number] | None = None
    campaign_id: Number | None = None
    flight_id: Number | None = None
    ad_id: Number | None = None
    properties: dict[str, Any] | None = None
    count: Annotated[int, Field(ge=1, le=COUNT_MAX)] | None = None


class KevelUser(_Kevel):
    """Kevel: for whom."""

    key: Annotated[str, Field(max_length=512)] | None = None


class KevelRequest(_Kevel):
    """Kevel: a page's request for decisions."""

    placements: Annotated[list[KevelPlacement], Field(min_length=1, max_length=PLACEMENTS_MAX)]
    user: KevelUser | None = None
    keywords: list[str] | None = None
    url: str | None = None
    blocked_creatives: Annotated[list[Number], Field(max_length=NAMES_MAX)] | None = None
    is_mobile: bool | None = None
    notrack: bool | None = None
    consent: dict[str, Any] | None = None


class KevelContent(_Kevel):
    """Kevel: a part of what is shown."""

    type: str
    body: str
    data: dict[str, str]


class KevelDecision(_Kevel):
    """Kevel: an ad for a place."""

    ad_id: int
    creative_id: int
    flight_id: int
    campaign_id: int
    advertiser_id: int
    priority_id: int
    click_url: str
    impression_url: str
    contents: list[KevelContent]
    events: list[dict[str, Any]]


class KevelAnswer(_Kevel):
    """Kevel: div name -> an ad, several where `count` was given, or null."""

    user: KevelUser
    decisions: dict[str, KevelDecision | list[KevelDecision] | None]


class Numbers:
    """Kevel's numbers of what one catalogue holds."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Take all that is published."""
        self.catalogue = catalogue
        self.zones = {
            zone: place.id for place in catalogue.placements.values() if (zone := place.body.labels.get(ZONE_LABEL))
        }
        self.creatives, self.lines, self.campaigns = (
            _by_number(found.values()) for found in (catalogue.creatives, catalogue.lines, catalogue.campaigns)
        )
        """Number -> ids: each kind of objects has numbers of its own."""


class Kevel:
    """The endpoint. Belongs to the event loop's thread."""

    def __init__(self, guard: Guard, desk: Desk, published: Published) -> None:
        """published: what may be shown."""
        self._guard, self._desk, self._published = guard, desk, published
        self._known = Numbers(published.shelf.catalogue)

    def read(self, request: Request) -> tuple[Asked, Callable[[], Decided]]:
        """Return what a request asks for, and what decides for every place of its page."""
        body = self._guard.read(request, KevelRequest)
        if self._known.catalogue is not self._published.shelf.catalogue:
            self._known = Numbers(self._published.shelf.catalogue)
        names = _names(body.placements)
        numbers = dict.fromkeys(body.blocked_creatives or ())
        blocked = [key for number in numbers for key in self._known.creatives.get(number, ())]
        wish = {
            "placements": [self._wish(place, blocked) for place in body.placements],
            "visitor": (body.user.key if body.user is not None else None) or "",
            "consent": not body.notrack and not _refuses(body.consent),
            "context": _context(body),
        }
        try:
            asked = self._desk.read(DecisionRequest.model_validate(wish), self._guard.refuses_tracking(request))
        except ValidationError as error:  # properties by names that no context may have, say, or too many of them
            raise invalid(400, error, "request body") from None
        return asked, lambda: self._decided(body, names, asked)

    def _decided(self, body: KevelRequest, names: Sequence[str], asked: Asked) -> Decided:
        decided = self._desk.decided(asked, now_ms())
        found = zip(names, body.placements, decided, strict=True)
        answer = KevelAnswer(
            user=body.user or KevelUser(), decisions={name: _answer(place, *one) for name, place, one in found}
        )
        json_ = answer.__pydantic_serializer__.to_json(answer, by_alias=True)
        return Answer(200, json_, headers=SAFE_HEADERS), [one.decision_id for one, _ in decided]

    def _wish(self, place: KevelPlacement, blocked: Sequence[str]) -> dict[str, object]:
        known = self._known
        only = [
            found.get(number, ["unknown"])
            for found, number in (
                (known.campaigns, place.campaign_id), (known.lines, place.flight_id), (known.creatives, place.ad_id),
            )
            if number is not None
        ]  # fmt: skip
        return {
            "placement": self._placement(place),
            "count": place.count or 1,
            "exclude": blocked,
            "only": [key for ids in only for key in ids],
        }

    def _placement(self, place: KevelPlacement) -> str:
        for zone in place.zone_ids or ():
            found = self._known.zones.get(str(zone))
            if found is not None:
                return found
        if not self._published.knows(place.div_name):
            zones = f" and no placement has a label {ZONE_LABEL} of {place.zone_ids}" if place.zone_ids else ""
            raise Problem(
                404, "unknown_placement", f"divName {place.div_name!r}: no such placement is published{zones}"
            )
        return place.div_name


def _answer(place: KevelPlacement, one: DecisionAnswer, offer: Offer) -> KevelDecision | list[KevelDecision] | None:
    creatives = {found.id: found for found in offer.candidates if isinstance(found, LiveCreative)}
    ads = [_ad(chosen, creatives[chosen.id]) for chosen in one.actions]
    if place.count is not None and place.count > 1 and ads:
        return ads
    return ads[0] if ads else None


def _ad(chosen: Chosen, creative: LiveCreative) -> KevelDecision:
    line = creative.line
    number = number_of(creative.id, creative.labels)
    content = chosen.content or {}
    text = next((content[key] for key in BODY_KEYS if key in content), "")
    return KevelDecision(
        ad_id=number,
        creative_id=number,
        flight_id=number_of(line.id, line.labels),
        campaign_id=number_of(line.campaign.id, line.campaign.labels),
        advertiser_id=number_of(line.campaign.advertiser_id, {}),
        priority_id=line.priority,
        click_url=chosen.click_url or "",
        impression_url=chosen.impression_url,
        contents=[KevelContent(type="html" if "html" in content else "raw", body=text, data=dict(content))],
        events=[],
    )


def number_of(key: str, labels: Mapping[str, str]) -> int:
    """Return an object's number: its label, or 31 bits made of its id."""
    stated = labels.get(NUMBER_LABEL, "")
    if stated.isascii() and stated.isdigit():
        return int(stated)
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") & 0x7FFFFFFF


def _by_number(objects: Iterable[LiveCreative | LiveLine | LiveCampaign]) -> Mapping[int, list[str]]:
    found: dict[int, list[str]] = {}
    for one in objects:
        found.setdefault(number_of(one.id, one.labels), []).append(one.id)
    return found


def _names(places: Sequence[KevelPlacement]) -> list[str]:
    names = [place.div_name or f"div{at}" for at, place in enumerate(places)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Problem(400, "invalid", f"placements: divName {twice!r} stands twice, expected each once")
    return names


def _refuses(consent: Mapping[str, Any] | None) -> bool:
    """True where any purpose of the GDPR is refused."""
    gdpr = (consent or {}).get("gdpr")
    return isinstance(gdpr, dict) and any(value is False for value in gdpr.values())


def _context(body: KevelRequest) -> dict[str, object]:
    """What audiences and policies may go by: keywords, the page, and the properties of all places by their names."""
    context: dict[str, object] = {}
    for place in body.placements:
        for name, value in (place.properties or {}).items():
            text = value if isinstance(value, bool | int | float) else _text(value)
            context.setdefault(name[:64], text)
    if body.keywords:
        context["keywords"] = " ".join(body.keywords)[:256]
    if body.url:
        context["url"] = body.url[:256]
    if body.is_mobile is not None:
        context["is_mobile"] = body.is_mobile
    return context


def _text(value: object) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:256]

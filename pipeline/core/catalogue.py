"""All that may be shown, ready to be asked for: the published objects, compiled and found by placement.

A catalogue is made whole from the objects of the topic `campaigns` and never changed; a change makes a new one. An
object counts while it and all above it (creative, line, campaign, advertiser) are published. Those that are paused, or
stand under one that is, are kept as names, so that a decision can say so. One that this code cannot read is left out
with what stands under it, and named: the rest goes on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.core.audience import Audience, AudienceError, parse
from pipeline.core.caps import CapRule, cap_rules
from pipeline.core.schedule import Timetable
from schemas.campaign import (
    HOLDS_MAX,
    PARENTS,
    Advertiser,
    Budget,
    Campaign,
    Channel,
    Creative,
    Goal,
    Line,
    Pacing,
    Placement,
    Price,
    Schedule,
    Status,
    Stored,
)
from schemas.outcome import OWN_REVENUE, GoalTerms

B = TypeVar("B", bound=BaseModel)
B_co = TypeVar("B_co", bound=BaseModel, covariant=True)
T = TypeVar("T")
Objects = Mapping[tuple[str, str], Stored]
"""(kind, id) -> the object as it stands."""
_Bodies = Mapping[tuple[str, str], tuple[Stored, BaseModel]]
"""(kind, id) -> an object, and its body as it was validated."""


@dataclass(frozen=True, slots=True, eq=False)
class LiveCampaign:
    """A published campaign. Its budget's day is one of its own zone."""

    id: str
    advertiser_id: str
    version: int
    currency: str
    schedule: Schedule
    timetable: Timetable
    budget: Budget | None
    caps: tuple[CapRule, ...]
    goals: tuple[GoalTerms, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class LiveLine:
    """A published line under published parents.

    audience: None = everyone. caps: the campaign's, then its own. goals: its own or the campaign's. creatives: those
    that are published. each_micros: what one event of pays_for costs; 0 and "" without a price. published_ms: when this
    version of it was stored. hold_ms: 0 = no piece of the skus is held.
    """

    id: str
    version: int
    published_ms: int
    campaign: LiveCampaign
    audience: Audience | None
    schedule: Schedule
    timetable: Timetable
    budget: Budget | None
    price: Price | None
    pays_for: str
    each_micros: int
    pacing: Pacing
    caps: tuple[CapRule, ...]
    goals: tuple[GoalTerms, ...]
    skus: tuple[str, ...]
    hold_ms: int
    priority: int
    placements: tuple[str, ...]
    channels: frozenset[Channel]
    labels: Mapping[str, str]
    creatives: "tuple[LiveCreative, ...]" = ()

    @property
    def campaign_id(self) -> str:
        """Its campaign's id."""
        return self.campaign.id


@dataclass(frozen=True, slots=True, eq=False)
class LiveCreative:
    """A published creative: a Candidate (see decide.py) that knows its line and price.

    held_skus: of which showing it holds a piece, as the line's hold_ms says; empty = of none.
    """

    id: str
    version: int
    line: LiveLine = field(repr=False)
    url: str
    kind: str
    content: Mapping[str, str]
    features: Mapping[str, object]
    skus: tuple[str, ...]
    held_skus: tuple[str, ...]
    caps: tuple[CapRule, ...]
    labels: Mapping[str, str]
    line_id: str
    campaign_id: str
    price: Price | None

    @property
    def creative_id(self) -> str:
        """Its id: it is what is shown."""
        return self.id


class Held(NamedTuple):
    """A creative that is not shown because something is paused. level: advertiser, campaign, line or creative."""

    creative_id: str
    level: str


@dataclass(frozen=True, slots=True, eq=False)
class LivePlacement:
    """A published placement with all lines that may be shown there, those of the highest priority first."""

    id: str
    version: int
    body: Placement
    lines: tuple[LiveLine, ...]
    held: tuple[Held, ...]


class _Found(NamedTuple, Generic[B_co]):
    stored: Stored
    body: B_co
    paused: str  # at which level, "" = nowhere


class Catalogue:
    """What may be shown. Read its attributes; change nothing.

    placements, lines, creatives, campaigns: by id, published ones under published parents.
    unreadable: `kind/id` -> what is wrong with an object, or with the one above it.
    """

    __slots__ = ("_bodies", "campaigns", "creatives", "lines", "placements", "unreadable")

    def __init__(
        self,
        objects: Objects,
        segments: Mapping[str, Audience] | None = None,
        before: "Catalogue | None" = None,
    ) -> None:
        """Compile the objects. Raises nothing.

        segments: those that audiences may name; None = the built-in ones. before: the catalogue that this one comes
        after; objects that are the very same in both are not validated again.
        """
        reading = _Reading(objects, segments, {} if before is None else before._bodies)
        self._bodies: _Bodies = reading.bodies
        self.campaigns: Mapping[str, LiveCampaign] = reading.campaigns
        self.lines: Mapping[str, LiveLine] = reading.lines
        self.creatives: Mapping[str, LiveCreative] = reading.creatives
        self.placements: Mapping[str, LivePlacement] = reading.placements
        self.unreadable: Mapping[str, str] = reading.unreadable

    def placement(self, placement_id: str) -> LivePlacement | None:
        """Return a placement; None where none of this id is published."""
        return self.placements.get(placement_id)


class _Reading:
    """One pass over the objects, parents first."""

    def __init__(self, objects: Objects, segments: Mapping[str, Audience] | None, known: _Bodies) -> None:
        self._objects = objects
        self._known = known
        self.bodies: dict[tuple[str, str], tuple[Stored, BaseModel]] = {}
        self._segments = segments
        self._timetables: dict[str, Timetable] = {}
        self._audiences: dict[str, Audience] = {}
        self.unreadable: dict[str, str] = {}
        advertisers = self._standing("advertisers", Advertiser, {})
        campaigns = self._standing("campaigns", Campaign, advertisers)
        lines = self._standing("lines", Line, campaigns)
        creatives = self._standing("creatives", Creative, lines)
        self.campaigns = {name: self._campaign(each) for name, each in campaigns.items() if not each.paused}
        self.lines: dict[str, LiveLine] = {}
        for name, line in lines.items():
            if not line.paused:
                self._add_line(name, line)
        self.creatives: dict[str, LiveCreative] = {}
        self._add_creatives(creatives)
        self.placements = self._placements(lines, creatives)

    def _standing(
        self, kind: str, model: type[B], parents: Mapping[str, "_Found[BaseModel]"]
    ) -> "dict[str, _Found[B]]":
        """The objects of a kind that are published or paused, under parents that are."""
        found: dict[str, _Found[B]] = {}
        for (its_kind, name), stored in self._objects.items():
            if its_kind != kind or stored.status not in (Status.PUBLISHED, Status.PAUSED):
                continue
            paused = kind.removesuffix("s") if stored.status is Status.PAUSED else ""
            if kind in PARENTS:
                parent_field, parent_kind = PARENTS[kind]
                parent_name = str(stored.body.get(parent_field))
                parent = parents.get(parent_name)
                if parent is None:
                    self._miss(f"{kind}/{name}", f"{parent_kind}/{parent_name}")
                    continue
                paused = parent.paused or paused
            try:
                found[name] = _Found(stored, self._body(model, stored), paused)
            except ValidationError as error:
                self.unreadable[f"{kind}/{name}"] = _what(error)
        return found

    def _body(self, model: type[B], stored: Stored) -> B:
        known = self._known.get((stored.kind, stored.id))
        if known is not None and known[0] is stored and isinstance(known[1], model):
            body = known[1]
        else:
            body = model.model_validate(stored.body)
        self.bodies[stored.kind, stored.id] = (stored, body)
        return body

    def _miss(self, address: str, parent: str) -> None:
        """Its parent is no part of the catalogue: said where that is because it cannot be read."""
        if parent in self.unreadable:
            self.unreadable[address] = f"{parent} cannot be read"

    def _campaign(self, found: "_Found[Campaign]") -> LiveCampaign:
        body = found.body
        return LiveCampaign(
            id=body.id,
            advertiser_id=body.advertiser,
            version=found.stored.version,
            currency=body.currency,
            schedule=body.schedule,
            timetable=self._timetable(body.schedule),
            budget=body.budget,
            caps=cap_rules("campaign", body.id, body.caps),
            goals=_terms(body.goals),
            labels=body.labels,
        )

    def _add_line(self, name: str, found: "_Found[Line]") -> None:
        try:
            self.lines[name] = self._line(found)
        except AudienceError as error:
            self.unreadable[f"lines/{name}"] = f"audience: {error}"

    def _line(self, found: "_Found[Line]") -> LiveLine:
        body, campaign = found.body, self.campaigns[found.body.campaign]
        audience = self._audience(body.audience)
        return LiveLine(
            id=body.id,
            version=found.stored.version,
            published_ms=found.stored.changed_ms,
            campaign=campaign,
            audience=None if audience.is_everyone else audience,
            schedule=body.schedule,
            timetable=self._timetable(body.schedule),
            budget=body.budget,
            price=body.price,
            pays_for="" if body.price is None else body.price.per.value,
            each_micros=0 if body.price is None else body.price.each_micros,
            pacing=body.pacing,
            caps=campaign.caps + cap_rules("line", body.id, body.caps),
            goals=_terms(body.goals) or campaign.goals,
            skus=tuple(body.skus),
            hold_ms=body.hold_ms or 0,
            priority=body.priority,
            placements=tuple(dict.fromkeys(body.placements)),
            channels=frozenset(body.channels),
            labels=body.labels,
        )

    def _add_creatives(self, creatives: "Mapping[str, _Found[Creative]]") -> None:
        of_line: dict[str, list[LiveCreative]] = {}
        for name, found in creatives.items():
            line = self.lines.get(found.body.line)
            if line is None:
                self._miss(f"creatives/{name}", f"lines/{found.body.line}")
            elif not found.paused:
                live = self.creatives[name] = _creative(found, line)
                of_line.setdefault(line.id, []).append(live)
        for line_id, lives in of_line.items():
            # set once, before anybody else sees the line: a creative knows its line, and the line its creatives
            object.__setattr__(self.lines[line_id], "creatives", tuple(sorted(lives, key=lambda each: each.id)))

    def _placements(
        self, lines: "Mapping[str, _Found[Line]]", creatives: "Mapping[str, _Found[Creative]]"
    ) -> dict[str, LivePlacement]:
        found = self._standing("placements", Placement, {})
        here: dict[str, list[LiveLine]] = {}
        for line in sorted(self.lines.values(), key=lambda each: (-each.priority, each.id)):
            if line.creatives:
                _put(here, line, line.placements, line.channels, found)
        held: dict[str, list[Held]] = {}
        for name, each in sorted(creatives.items()):
            if each.paused:
                body = lines[each.body.line].body
                _put(held, Held(name, each.paused), body.placements, body.channels, found)
        return {
            name: LivePlacement(
                name, each.stored.version, each.body, tuple(here.get(name, ())), tuple(held.get(name, ()))
            )
            for name, each in found.items()
            if not each.paused
        }

    def _timetable(self, schedule: Schedule) -> Timetable:
        key = schedule.model_dump_json()
        found = self._timetables.get(key)
        if found is None:
            found = self._timetables[key] = Timetable(schedule)
        return found

    def _audience(self, text: str) -> Audience:
        found = self._audiences.get(text)
        if found is None:
            found = self._audiences[text] = parse(text, self._segments)
        return found


def _put(
    where: dict[str, list[T]],
    what: T,
    placements: Iterable[str],
    channels: Iterable[Channel],
    known: "Mapping[str, _Found[Placement]]",
) -> None:
    """Put something under each of its placements whose channel is one of its channels (none = any).

    A group stands for its members.
    """
    channels = frozenset(channels)
    for name in _members(placements, known):
        placement = known.get(name)
        if placement is not None and (not channels or placement.body.channel in channels):
            where.setdefault(name, []).append(what)


def _members(placements: Iterable[str], known: "Mapping[str, _Found[Placement]]") -> Iterable[str]:
    """Return placements, each group's members in its place, each once."""
    found: dict[str, None] = {}
    for name in placements:
        group = known.get(name)
        found.update(dict.fromkeys((name,) if group is None or not group.body.members else group.body.members))
    return found


def _creative(found: "_Found[Creative]", line: LiveLine) -> LiveCreative:
    body = found.body
    return LiveCreative(
        id=body.id,
        version=found.stored.version,
        line=line,
        url=body.url,
        kind=body.kind,
        content=body.content,
        features=body.features,
        skus=tuple(body.skus),
        held_skus=(tuple(body.skus) or line.skus)[:HOLDS_MAX] if line.hold_ms else (),
        caps=cap_rules("creative", body.id, body.caps),
        labels=body.labels,
        line_id=line.id,
        campaign_id=line.campaign.id,
        price=line.price,
    )


def _terms(goals: Iterable[Goal]) -> tuple[GoalTerms, ...]:
    """Goals as decisions carry them."""
    return tuple(
        GoalTerms(goal.event, OWN_REVENUE if goal.value_micros is None else goal.value_micros, goal.window_ms)
        for goal in goals
    )


def _what(error: ValidationError) -> str:
    """What is wrong, in one line: where, and what was expected there."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {first['msg']}{more}" if where else f"{first['msg']}{more}"


EMPTY: Final = Catalogue({})
"""Before anything was read."""

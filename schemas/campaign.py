"""The marketer's objects: advertiser > campaign > line > creative, and the placements that they are shown in.

One definition for all: the REST interface and `herald campaigns import` validate by these models, the OpenAPI document
is made from them, the store keeps them as JSON, and the compacted topic `campaigns` carries them to delivery.
Money in micros of the campaign's currency, times with their zone, shares between 0 and 1.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.event import EventType
from schemas.experiment import Experiment

KEY_PATTERN: Final = r"^[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?$"
MICROS_MAX: Final = 2**53 - 1  # what JSON's readers hold exactly
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

Key = Annotated[str, Field(pattern=KEY_PATTERN, description="id: lower case letters, digits, `_`, `.`, `-`; 1 to 64")]
Name = Annotated[str, Field(min_length=1, max_length=200, description="for people")]
Micros = Annotated[int, Field(ge=1, le=MICROS_MAX, strict=True)]
Label = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Labels = Annotated[dict[Label, Label], Field(max_length=32, description="free labels, for filters and reports")]
Feature = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]
Whole = Annotated[int, Field(ge=-(2**63) + 1, le=2**63 - 1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Features = Annotated[dict[Feature, bool | Whole | Number | Annotated[str, Field(max_length=256)]], Field(max_length=32)]


class Channel(StrEnum):
    """By which way something is shown; a part of the choice."""

    WEB = "web"
    MAIL = "mail"
    PUSH = "push"
    MESSAGE = "message"
    OFFLINE = "offline"


class Status(StrEnum):
    """Where an object is in its life. Only what is published is shown, and only under published parents."""

    DRAFT = "draft"
    REVIEW = "review"
    PUBLISHED = "published"
    PAUSED = "paused"
    ENDED = "ended"


STEPS: Final[Mapping[Status, frozenset[Status]]] = {
    Status.DRAFT: frozenset({Status.REVIEW, Status.ENDED}),
    Status.REVIEW: frozenset({Status.DRAFT, Status.PUBLISHED, Status.ENDED}),
    Status.PUBLISHED: frozenset({Status.PAUSED, Status.ENDED}),
    Status.PAUSED: frozenset({Status.PUBLISHED, Status.ENDED}),
    Status.ENDED: frozenset(),
}
"""From which status an object may go to which."""


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hours(_Object):
    """Hours of some days of the week, in the schedule's zone. to_hour 24 is midnight; days: empty = every day."""

    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = []
    from_hour: Annotated[int, Field(ge=0, le=23)] = 0
    to_hour: Annotated[int, Field(ge=1, le=24)] = 24

    @model_validator(mode="after")
    def _is_a_span(self) -> Self:
        if self.from_hour >= self.to_hour:
            raise ValueError(f"from_hour {self.from_hour} is not before to_hour {self.to_hour}; write a night as two")
        return self


class Schedule(_Object):
    """When it may be shown. Without a start at once, without an end for ever, without hours around the clock."""

    starts_at: AwareDatetime | None = None
    ends_at: Annotated[AwareDatetime | None, Field(description="the first moment that is too late")] = None
    zone: Annotated[str, Field(description="IANA name; days and hours are meant in it")] = "UTC"
    hours: Annotated[list[Hours], Field(max_length=64)] = []

    @field_validator("zone")
    @classmethod
    def _is_known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{zone[:64]!r} is no time zone; expected an IANA name such as Asia/Tokyo") from None
        return zone

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.starts_at is not None and self.ends_at is not None and self.ends_at <= self.starts_at:
            raise ValueError(f"ends_at {_iso(self.ends_at)} is not after starts_at {_iso(self.starts_at)}")
        return self


class Budget(_Object):
    """How much may be spent: never more, whatever is asked at once. A day is one of the line's schedule's zone."""

    total_micros: Micros | None = None
    daily_micros: Micros | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.total_micros is None and self.daily_micros is None:
            raise ValueError("expected total_micros, daily_micros or both; leave the budget out where there is none")
        return self


class Per(StrEnum):
    """What is paid for."""

    IMPRESSION = "impression"  # the price is that of a thousand
    CLICK = "click"
    ACTION = "action"  # the first of the line's goals


class Price(_Object):
    """What one event costs the advertiser. For impressions it is the price of a thousand.

    An action is the first of the line's goals, within that goal's window; without goals, a conversion or a purchase. It
    is paid for while its reservation is open (settings reservation_click_ms, reservation_action_ms): the shorter wins.
    """

    per: Per
    micros: Micros

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.per is Per.IMPRESSION and self.micros % 1_000:
            raise ValueError(f"micros {self.micros} a thousand impressions: expected a multiple of 1000")
        return self

    @property
    def each_micros(self) -> int:
        """What one impression, click or action costs."""
        return self.micros // 1_000 if self.per is Per.IMPRESSION else self.micros


class Pacing(StrEnum):
    """How a budget is spread over its time."""

    EVEN = "even"
    ASAP = "asap"
    LEARNT = "learnt"  # as visitors come, by the hours of the week


class Cap(_Object):
    """How often one visitor may be shown it. The object that it stands in is the level that is counted."""

    count: Annotated[int, Field(ge=1, le=1_000)]
    per: Literal["hour", "day", "lifetime"]


class Goal(_Object):
    """What is wanted, and what one is worth. value_micros: None = the event's own revenue, nothing where it has none.

    window_ms: for how long after the click it counts, its last millisecond included; of an impression or a click, and
    where nothing was clicked, after the decision.
    """

    event: Literal["impression", "click", "conversion", "purchase", "subscribe", "add_to_cart"]
    value_micros: Micros | None = None
    window_ms: Annotated[int, Field(ge=1, le=90 * DAY_MS)] = 7 * DAY_MS

    @model_validator(mode="after")
    def _has_a_value(self) -> Self:
        if self.value_micros is None and self.event in _WITHOUT_REVENUE:
            raise ValueError(f"value_micros: {self.event}s have no revenue of their own; expected what one is worth")
        return self

    @property
    def event_type(self) -> EventType:
        """The event as the pipeline knows it."""
        return EventType(self.event)


_WITHOUT_REVENUE: Final = frozenset({"impression", "click"})


def _each_event_once(goals: list[Goal]) -> list[Goal]:
    events = [goal.event for goal in goals]
    twice = next((event for event in events if events.count(event) > 1), None)
    if twice is not None:
        raise ValueError(f"two goals are for {twice}; expected one goal for each event")
    return goals


Goals = Annotated[
    list[Goal],
    Field(description="what is wanted; the first is what a price per action pays for; a single `goal` is read as well"),
    AfterValidator(_each_event_once),
]


def _read_older_goal(given: object) -> object:
    """Read the older spelling, a single `goal`. Its default, a click without a value, had no effect: it is no goal."""
    if not isinstance(given, dict) or "goal" not in given:
        return given
    fields = {name: value for name, value in given.items() if name != "goal"}
    if "goals" in fields:
        raise ValueError("goal and goals are both given; expected goals alone, of which goal is the older spelling")
    goal = given["goal"]
    if isinstance(goal, dict) and goal.get("value_micros") is None and goal.get("event", "click") in _WITHOUT_REVENUE:
        goal = None
    return fields if goal is None else {**fields, "goals": [goal]}


Caps = Annotated[list[Cap], Field(max_length=3)]


class Advertiser(_Object):
    """Who pays."""

    id: Key
    name: Name
    labels: Labels = {}


class Campaign(_Object):
    """What an advertiser wants in some time: its schedule, budget and caps bind all of its lines together."""

    id: Key
    advertiser: Key
    name: Name
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")] = "EUR"
    schedule: Schedule = Schedule()
    budget: Budget | None = None
    caps: Caps = []
    goals: Goals = []
    labels: Labels = {}

    _older = model_validator(mode="before")(_read_older_goal)


class Line(_Object):
    """A flight: to whom, where, when, how often and for how much a campaign's creatives are shown.

    priority: of the lines that may be shown, only those of the highest one are chosen among. goals: empty = those of
    the campaign; where that has none, conversions and purchases. skus: it is shown while any of them is in stock;
    empty = stock does not matter. hold_ms: a piece of each of them that is left is held so long for who is shown it,
    and it is shown only to who can have one; where a creative has skus, of its own in their stead.
    """

    id: Key
    campaign: Key
    name: Name
    placements: Annotated[list[Key], Field(min_length=1, max_length=200)]
    channels: Annotated[list[Channel], Field(description="empty = any")] = []
    audience: Annotated[str, Field(max_length=4_096, description="an expression; empty = everyone")] = ""
    schedule: Schedule = Schedule()
    budget: Budget | None = None
    price: Price | None = None
    pacing: Pacing = Pacing.EVEN
    caps: Caps = []
    goals: Goals = []
    skus: Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=1_000)] = []
    hold_ms: Annotated[int | None, Field(ge=1_000, le=3_600_000, description="None = nothing is held")] = None
    priority: Annotated[int, Field(ge=1, le=10, description="10 goes before 1")] = 5
    labels: Labels = {}

    _older = model_validator(mode="before")(_read_older_goal)

    @model_validator(mode="after")
    def _can_hold(self) -> Self:
        if self.hold_ms is not None and len(self.skus) > HOLDS_MAX:
            raise ValueError(f"hold_ms: found {len(self.skus)} skus, expected {HOLDS_MAX} at most to hold a piece of")
        return self

    @model_validator(mode="after")
    def _can_spend(self) -> Self:
        if self.budget is not None and self.price is None:
            raise ValueError("a budget needs a price: nothing would ever be spent of it")
        return self


class Creative(_Object):
    """What is shown. A dynamic one's content may hold `{profile.…}` and `{context.…}`, filled in at the decision."""

    id: Key
    line: Key
    name: Name
    kind: Literal["static", "dynamic"] = "static"
    url: Annotated[str, Field(max_length=2_048, description="where its click leads: http(s), ASCII")] = ""
    content: Annotated[dict[Label, str], Field(max_length=64, description="title, image, text …")] = {}
    features: Features = {}
    skus: Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=1_000)] = []
    caps: Caps = []
    labels: Labels = {}


class Placement(_Object):
    """A place that is asked for. fallback: shown where nothing else may be; policy: "" = the setting's default.

    reward_worth_micros: what a reward of 1 is worth, in the one currency of the lines shown there. A choice is rewarded
    with the values of the goals that it reached, divided by it; what is above counts as 1. None = rewards are weighed
    by the settings reward_click and reward_conversion. A change is for new decisions: what was learnt before stays as
    it was told, in the old unit.
    members: of a group, placements of different channels: its policy chooses one of them, and that one's policy what
    is shown there. A line that names the group stands in each member of its channels.
    """

    id: Key
    name: Name
    site: Annotated[str, Field(max_length=128, description="one of the sites of the write keys; empty = any")] = ""
    channel: Channel = Channel.WEB
    policy: Annotated[str, Field(max_length=64)] = ""
    reward_worth_micros: Annotated[Micros | None, Field(description="what a reward of 1 is worth")] = None
    count_max: Annotated[int, Field(ge=1, le=50)] = 1
    fallback: Annotated[dict[Label, str], Field(max_length=64, description="content; never counted or billed")] = {}
    labels: Labels = {}
    members: Annotated[list[Key], Field(max_length=5, description="a group's: of different channels")] = []

    @model_validator(mode="after")
    def _can_choose(self) -> Self:
        if len(self.members) == 1:
            raise ValueError(f"members: found {self.members[0]!r} alone, expected two or more to choose among")
        if len(set(self.members)) < len(self.members):
            raise ValueError(f"members: found {', '.join(self.members)}, expected each placement once")
        if self.id in self.members:
            raise ValueError(f"members: found {self.id!r}, which is the group itself; expected other placements")
        return self


Body = Advertiser | Campaign | Line | Creative | Placement | Experiment

HOLDS_MAX: Final = 10
"""One decision holds pieces of so many skus at most; of a creative's, of the first ones."""

KINDS: Final[Mapping[str, type[BaseModel]]] = {
    "advertisers": Advertiser,
    "campaigns": Campaign,
    "lines": Line,
    "creatives": Creative,
    "placements": Placement,
    "experiments": Experiment,
}
"""Every kind of object, parents first: the name is its address, its key in YAML and in the topic."""

PARENTS: Final[Mapping[str, tuple[str, str]]] = {
    "campaigns": ("advertiser", "advertisers"),
    "lines": ("campaign", "campaigns"),
    "creatives": ("line", "lines"),
}
"""Kind -> (its field that names the parent, the parent's kind)."""


class Stored(_Object):
    """One object as it stands: what REST gives, and what the topic carries under the key `kind/id`.

    version: 1, 2, …; its ETag. changed_ms: when. changed_by: who, as far as we know. body: of the kind's model.
    """

    kind: str
    id: Key
    version: Annotated[int, Field(ge=1)]
    status: Status
    changed_ms: int
    changed_by: str
    body: Annotated[dict[str, object], Field(description="see the kind's own schema")]


def _iso(moment: datetime) -> str:
    return moment.isoformat()

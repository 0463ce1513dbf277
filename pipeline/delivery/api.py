"""What delivery takes and gives, as pydantic models: they validate, and the OpenAPI page is made from them."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator, model_validator
from pydantic.alias_generators import to_camel

from schemas.outcome import OWN_REVENUE

HOW_MANY_MAX = 50
NAMES_MAX = 1_000
PLACEMENTS_MAX = 20
FEATURES_MAX = 32
_SHOWN = r"[^\s\x00-\x1f\x7f]"
_TEXT = rf"^{_SHOWN}(?:[^\x00-\x1f\x7f]*{_SHOWN})?$"

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=_TEXT)]
Names = Annotated[list[Name], Field(max_length=NAMES_MAX)]
Id = Annotated[str, Field(max_length=128, pattern=rf"^$|{_TEXT}")]
Whole = Annotated[int, Field(ge=-(2**63) + 1, le=2**63 - 1, strict=True)]
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Text = Annotated[str, Field(max_length=256)]
Feature = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]
Features = Annotated[dict[Feature, bool | Whole | Number | Text | None], Field(max_length=FEATURES_MAX)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ActionIn(_In):
    """One candidate: what could be shown."""

    id: Name
    url: Annotated[str, Field(max_length=4_096, description="where its click leads: http(s), ASCII")] = ""
    campaign_id: Id = ""
    creative_id: Id = ""
    features: Features = Field(default_factory=dict)


class Made(_In):
    """A decision that somebody else has made already: logged and learnt from as it was, not decided again."""

    action_id: Name
    probability: Annotated[float, Field(gt=0, le=1, description="with which it was chosen")]


class _Asked(_In):
    """One place to decide for. actions: to choose from; none = from the published campaigns."""

    actions: Annotated[list[ActionIn], Field(description="empty = from the published campaigns")] = Field(
        default_factory=list
    )
    exclude: Annotated[Names, Field(description="published creatives, lines, campaigns to leave out")] = Field(
        default_factory=list
    )
    only: Annotated[Names, Field(description="published creatives, lines, campaigns to choose from; empty = any")] = (
        Field(default_factory=list)
    )
    count: Annotated[int, Field(ge=1, le=HOW_MANY_MAX, description="how many different actions")] = 1
    made: Annotated[Made | None, Field(description="made elsewhere: log it as it was, for learning")] = None


class PlacementAsked(_Asked):
    """One of several places of a page."""

    placement: Annotated[Name, Field(description="the place on the page; each has a model of its own")]


class DecisionRequest(_Asked):
    """What to choose from, where and for whom: one `placement`, or several `placements` of one page."""

    placement: Annotated[Id, Field(description="the place on the page; each has a model of its own")] = ""
    placements: Annotated[
        list[PlacementAsked], Field(max_length=PLACEMENTS_MAX, description="instead: the places of one page")
    ] = Field(default_factory=list)
    visitor: Annotated[str, Field(description="visitor id; none = no personal decision")] = ""
    consent: Annotated[bool, Field(description="false = no personal decision, and no id in the log")] = True
    cap_hint: Annotated[
        str, Field(max_length=256, description="without consent: what caps may go by for a day (address and browser)")
    ] = ""
    context: Features = Field(default_factory=dict)
    site: Annotated[str, Field(max_length=128, description="one of the sites of the write keys")] = ""

    @model_validator(mode="after")
    def _asks_one_way(self) -> Self:
        if bool(self.placement) == bool(self.placements):
            raise ValueError("expected either `placement` or `placements`")
        if self.placements and (self.actions or self.made is not None or self.count != 1):
            raise ValueError("with `placements`, expected actions, count and made inside of each")
        return self


class Chosen(BaseModel):
    """One action to show. probability: with which it was drawn at its rank, given the ranks before it."""

    id: str
    rank: int
    probability: float
    impression_url: str
    click_url: str | None = None
    content: Annotated[dict[str, str] | None, Field(description="of a published creative: what to show")] = None
    campaign_id: str = ""
    line_id: str = ""


class ProfileRead(BaseModel):
    """What the decision knew of the visitor. version: offset of the visitor's partition; -1 = nothing read yet."""

    known: bool
    version: int


class SendingOut(BaseModel):
    """Why then. best_hour: of the day, UTC. lift: of answers, over sending at any allowed hour alike; low, high: 90 %.

    sure: probability that the best hour is better than the others. known: the finest that it rests on. explored: it is
    sent at another hour, so that something is learnt of that one.
    """

    best_hour: int
    lift: float
    low: float
    high: float
    sure: float
    known: Literal["visitor", "segment", "all", "nothing"]
    explored: bool


class DecisionAnswer(BaseModel):
    """What to show. degraded: what the decision had to do without; [] is the normal case.

    fallback: what a published placement shows where nothing was chosen; neither counted nor billed.
    placement: where to show it; where a group was asked for, the one chosen of its members. channel: that one's.
    send_at: of mail, push and message, when to send it: the next allowed moment of the best hour; at once where a line
    pays for an event or holds a piece, since both are reserved from the decision on. Who sends it follows its
    impression_url then: a trial is what was sent, answered or not.
    """

    decision_id: str
    placement: str
    actions: list[Chosen]
    fallback: dict[str, str] | None = None
    model_version: str
    policy: str
    profile: ProfileRead
    degraded: list[str]
    group: Annotated[str, Field(description="the placement asked for, where it is a group; else empty")] = ""
    channel: str = ""
    send_at: str | None = None
    sending: SendingOut | None = None


class PageAnswer(BaseModel):
    """What to show in several places of one page: nothing stands in two of them."""

    decisions: list[DecisionAnswer]


class Decided(RootModel[DecisionAnswer | PageAnswer]):
    """A decision for `placement`, or one for each of `placements`, in their order."""


class AudienceQuestion(_In):
    """Is a visitor in an audience? line: of a published line; or a text. What it may say: schemas/docs/audiences.md."""

    line: Id = ""
    audience: Annotated[str, Field(max_length=4_096)] = ""
    visitor: Annotated[str, Field(description="visitor id; none = nobody in particular")] = ""
    context: Features = Field(default_factory=dict)

    @model_validator(mode="after")
    def _asks_one_way(self) -> Self:
        if bool(self.line) == bool(self.audience):
            raise ValueError("expected either `line` or `audience`")
        return self


class AudiencePart(BaseModel):
    """A part of an audience: whether it held, and the value that was found; null = not known, so it does not hold."""

    text: str
    held: bool
    found: bool | int | float | str | None = None
    parts: list["AudiencePart"] = []


class AudienceAnswer(BaseModel):
    """Whether the visitor is in the audience, and why, part by part. known: there is a profile."""

    audience: str
    held: bool
    known: bool
    why: AudiencePart
    degraded: list[str]


class GoalOut(BaseModel):
    """What a choice is rewarded for. value_micros: null = the event's own revenue. window_ms: see the line's goals."""

    event: str
    value_micros: int | None
    window_ms: int

    @field_validator("value_micros", mode="before")
    @classmethod
    def _own_revenue_is_null(cls, value: object) -> object:
        return None if value == OWN_REVENUE else value


class HoldOut(BaseModel):
    """A piece of a sku that is held for the visitor."""

    site: str
    sku: str


class ChoiceOut(BaseModel):
    """One chosen action, as logged. pays_for, price_micros: what was reserved for it of its line's budget.

    goals: its line's, the one first that a price per action pays for; empty = the settings' rules. worth_micros: what a
    reward of 1 is worth in the placement; 0 = rewards are weighed by the settings.
    chosen_by: the group that chose the placement, of the first choice; group_propensity: with which probability, so
    that the whole choice has the product. send_ms: when it was to be sent, ms since 1970 UTC; 0 = at once.
    holds: pieces held for the visitor from then on, for hold_ms; empty also where the visitor had them already.
    """

    action_id: str
    rank: int
    propensity: float
    campaign_id: str
    creative_id: str
    line_id: str
    pays_for: str
    price_micros: int
    budget_day: str
    goals: list[GoalOut]
    worth_micros: int
    chosen_by: str
    group_propensity: float
    send_ms: int
    holds: list[HoldOut]
    hold_ms: int


class GroupExplained(BaseModel):
    """How the placement was chosen among a group's members. propensity: of the one chosen. excluded: member -> why."""

    placement_id: str
    policy: str
    model_version: str
    propensity: float
    candidates: list[str]
    propensities: list[float]
    excluded: dict[str, str]
    scores: list[float]
    rules: dict[str, float]


class DecisionExplained(BaseModel):
    """Why a decision came out as it did: seed, candidates, scores and the policy's rules are enough to draw it again.

    scores: what the policy made the propensities from; [] in a decision made elsewhere.
    """

    decision_id: str
    decided_ms: int
    source: Literal["memory", "warehouse"]
    visitor: str
    placement: str
    policy: str
    model_version: str
    seed: str
    choices: list[ChoiceOut]
    candidates: list[str]
    propensities: list[float]
    scores: list[float]
    rules: dict[str, float]
    excluded: dict[str, str]
    context: dict[str, object]
    features: dict[str, dict[str, object]]
    degraded: list[str]
    group: GroupExplained | None = None


class RewardRequest(_In):
    """A reward by name. action_id: which of several actions, else the first. event_id: yours, for resending."""

    value: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    action_id: Id = ""
    event_id: Id = ""


class RewardAnswer(BaseModel):
    """The reward is in the log. event_id: a resend under the same id counts once (within a day)."""

    event_id: str


EventId = Annotated[str, Field(min_length=1, max_length=256, pattern=_TEXT)]


class _Foreign(BaseModel):
    """Another product's request: names as it has them, and what it may add one day is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)


class RankableAction(_Foreign):
    """Personalizer: one action, with features by namespace."""

    id: Name
    features: Annotated[list[dict[str, Any]], Field(max_length=FEATURES_MAX)] = Field(default_factory=list)


class RankRequest(_Foreign):
    """Personalizer: what to rank. eventId: yours; deferActivation: it counts as shown only once it is activated."""

    context_features: Annotated[list[dict[str, Any]], Field(max_length=FEATURES_MAX)] = Field(default_factory=list)
    actions: Annotated[list[RankableAction], Field(min_length=1)]
    excluded_actions: list[Name] | None = None
    event_id: EventId | None = None
    defer_activation: bool | None = None


class RankedAction(BaseModel):
    """Personalizer: an action and the probability that it is the chosen one; 0 where it was excluded."""

    id: str
    probability: float


class RankAnswer(BaseModel):
    """Personalizer: all actions in the request's order, and the one to show."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    ranking: list[RankedAction]
    event_id: str
    reward_action_id: str


class RewardEventRequest(_Foreign):
    """Personalizer: an event's reward."""

    value: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ProfileAnswer(BaseModel):
    """A visitor's online profile as of `version`, and decisions still open for reward."""

    visitor: str
    version: int
    profile: dict[str, object]
    open_decisions: list[dict[str, object]]
    degraded: list[str]


class Arm(BaseModel):
    """One action's record. mean: with the prior; low, high: 95 % interval; share: of decisions among all of these.

    reward: the sum of all rewards, each 0 to 1. prior: what was expected of it, from the others and from its features.

    Shares of a linear policy are those where nothing is known of the visitor, the page or the actions.
    """

    id: str
    trials: int
    reward: float
    prior: float
    mean: float
    low: float
    high: float
    share: float


class ModelAnswer(BaseModel):
    """What a placement has learnt. age_ms: since the last outcome. prior: expected of an action nothing is known of.

    worth_micros: what a reward of 1 is worth there now; 0 = rewards are weighed by the settings.
    """

    placement: str
    policy: str
    model_version: str
    updated_ms: int
    age_ms: int
    worth_micros: int
    prior: float
    arms: list[Arm]
    degraded: list[str]


class ArmPoint(BaseModel):
    """One arm in one interval: trials and reward in it, of decisions whose first choice it was; mean, low, high: of all
    so far in this answer, with the prior that the policy has for this arm now.

    probability: mean over the interval's decisions that it was a candidate of; null where none was logged.
    """

    time_ms: int
    trials: int
    reward: float
    probability: float | None
    mean: float
    low: float
    high: float


class ArmCurve(BaseModel):
    """One arm over time."""

    id: str
    points: list[ArmPoint]


class RegretOut(BaseModel):
    """What always showing the best arm would have earned more, a decision; best_low, best_high: 95 % interval."""

    best: str
    best_value: float
    best_low: float
    best_high: float
    earned: float
    decisions: int
    each: float


class DriftAlarm(BaseModel):
    """An arm whose rate of reward has changed. time_ms: the first interval of the new rate; p: corrected."""

    arm: str
    time_ms: int
    before: float
    after: float
    p: float


class LearningAnswer(BaseModel):
    """How a placement has learnt. regret: null while no arm has enough trials. worth_micros: as in ModelAnswer."""

    placement: str
    from_ms: int
    to_ms: int
    interval: str
    worth_micros: int
    arms: list[ArmCurve]
    regret: RegretOut | None
    drifts: list[DriftAlarm]
    truncated: bool


class RollupAnswer(BaseModel):
    """A report. Each row has the time (unless interval=all), the dimensions and the metrics asked for.

    Money is {currency: millionths}; "" is money sent without a currency.
    """

    from_ms: int
    to_ms: int
    interval: str
    dimensions: list[str]
    metrics: list[str]
    rows: list[dict[str, object]]
    truncated: bool


class ProblemDetails(BaseModel):
    """What went wrong, by RFC 9457. code: one word for programs; errors: each wrong place and what was expected."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]] = []

"""Decisions and what became of them."""

from typing import Final

from msgspec import UNSET, Struct, UnsetType

from schemas.spend import Hold

OWN_REVENUE: Final = -1
"""Of a goal's value: each event's own revenue."""


class GoalTerms(Struct, array_like=True, frozen=True):
    """One goal of a choice as it was when it was decided: the event, what one is worth, and for how long it counts.

    event: an EventType's value. value_micros: OWN_REVENUE = the event's own revenue. window_ms: from the click to the
    event, its last millisecond included; of an impression or a click, and where there is no click, from the decision.
    """

    event: str
    value_micros: int = OWN_REVENUE
    window_ms: int = 0


class Choice(Struct, array_like=True):
    """One action that a decision chose: its place on the page, its exact probability, and the model it came from.

    lesson: what a linear policy learns from (see pipeline/core/linear.py); b"" where there is none.
    line_id, pays_for, price_micros, lease_id, budget_day: what was reserved for it. pays_for: "impression", "click",
    "action", or "" where nothing is paid; budget_day: `YYYY-MM-DD` in the line's zone.
    campaign_day: the same in the campaign's zone; "" = the same day.
    goals: what is wanted of it, the one first that an action's price pays for; () = by the settings' rules.
    worth_micros: what a reward of 1 is worth in its placement; 0 = rewards are weighed by the settings.
    chosen_by: the group that chose the decision's placement among its members, in the decision's first choice alone;
    group_propensity: with which probability (its product with `propensity` is that of the whole choice); group_lesson:
    as lesson, of the group's policy. send_ms: when it was to be sent, ms since 1970 UTC; 0 = nothing is sent.
    holds, hold_ms: pieces kept for the visitor, and for how long from the decision on, the last millisecond included.
    """

    action_id: str
    rank: int
    propensity: float
    campaign_id: str = ""
    creative_id: str = ""
    lesson: bytes = b""
    line_id: str = ""
    pays_for: str = ""
    price_micros: int = 0
    lease_id: str = ""
    budget_day: str = ""
    campaign_day: str = ""
    goals: tuple[GoalTerms, ...] = ()
    worth_micros: int = 0
    chosen_by: str = ""
    group_propensity: float = 1.0
    group_lesson: bytes = b""
    send_ms: int = 0
    holds: tuple[Hold, ...] = ()
    hold_ms: int = 0


class GroupLog(Struct):
    """How a decision's placement was chosen among a group's members: the log of a decision, one level up.

    placement_id: the group's. candidates: the members with something to show. propensity: of the one chosen. excluded:
    member -> why. Its seed is made of the decision's and the group's id (see pipeline/core/group.py).
    """

    placement_id: str
    policy: str
    model_version: str
    propensity: float
    candidates: list[str]
    propensities: list[float]
    excluded: dict[str, str] = {}
    scores: list[float] = []
    rules: dict[str, float] = {}


class DecisionLog(Struct):
    """What a decision event carries in its properties (JSON): enough to explain and to replay it."""

    decision_id: str
    placement_id: str
    policy: str
    model_version: str
    seed: str
    choices: list[Choice]
    candidates: list[str]
    propensities: list[float]
    excluded: dict[str, str] = {}  # action id -> reason
    context: dict[str, object] = {}
    features: dict[str, dict[str, object]] = {}  # action id -> its features
    degraded: list[str] = []
    scores: list[float] = []  # of each candidate: what the policy made the propensities from
    rules: dict[str, float] = {}  # the policy's settings, by name
    group: GroupLog | UnsetType = UNSET  # where the placement itself was chosen, by a group of placements


class Reached(Struct, array_like=True):
    """How often a goal's event came within its window, and with how much revenue. Of impressions and clicks: nothing.

    Those are told by the decision's own times.
    """

    count: int = 0
    revenue_micros: int = 0


class OpenDecision(Struct, array_like=True):
    """A decision that can still be rewarded, one per chosen action; kept inside its visitor's state."""

    decision_id: str
    decided_ms: int
    placement_id: str
    choice: Choice
    impressed_ms: int = 0
    clicked_ms: int = 0
    conversions: int = 0
    revenue_micros: int = 0
    explicit_micros: int = 0  # reward given by name over the API, in millionths
    reward_micros: int = 0  # what the learner was last told
    counted: bool = False  # whether the learner has this trial
    model_version: str = ""
    policy: str = ""
    site: str = ""
    reached: list[Reached] = []  # of each of the choice's goals, in their order; empty while there is nothing to say
    rewarded_ms: int = 0  # see Outcome


class Response(Struct, array_like=True):
    """What came back to a decision: it was seen, clicked, bought from, or rewarded by name.

    Kept under its visitor while its decision is not in the log yet: the two have different writers.
    """

    decision_id: str
    action_id: str  # "" where the sender named no action
    kind: str  # the EventType's value
    event_time_ms: int
    revenue_micros: int = 0
    explicit_micros: int = 0


class Outcome(Struct, array_like=True):
    """A decision joined to what followed, in full; late news is a new Outcome of the same decision and action.

    trials_delta and reward_delta_micros are what this change adds to the learner: natural parameters are sums, so a
    correction is an addition and the order of corrections does not matter. reward_micros is the sum of all deltas so
    far (a bot's are 0). impressed_ms: the earliest sign that the choice was shown; 0 = none yet.

    is_new: this block opened the decision. is_paid: with this block came, for the first time and not by a bot, what the
    choice pays for. Each is true in one outcome of a decision and action at most. has_paid: that has come, by now.

    rewarded_ms: event time of the latest news that changed the reward; 0 = none has, or it is older than this field.
    """

    decision_id: str
    action_id: str
    placement_id: str
    visitor: str
    decided_ms: int
    impressed_ms: int
    clicked_ms: int
    conversions: int
    revenue_micros: int
    reward_micros: int
    propensity: float
    trials_delta: int
    reward_delta_micros: int
    campaign_id: str = ""
    creative_id: str = ""
    model_version: str = ""
    policy: str = ""
    is_bot: bool = False
    site: str = ""
    lesson: bytes = b""  # this and what follows: the choice's, see Choice
    line_id: str = ""
    pays_for: str = ""
    price_micros: int = 0
    lease_id: str = ""
    budget_day: str = ""
    campaign_day: str = ""
    is_new: bool = False
    is_paid: bool = False
    holds: tuple[Hold, ...] = ()
    hold_ms: int = 0
    chosen_by: str = ""  # this and the next three: the choice's
    group_propensity: float = 1.0
    group_lesson: bytes = b""
    send_ms: int = 0
    value_micros: int = 0  # what it has earned in money: of its goals; without goals, its revenue
    rank: int = 0  # the choice's: 0 = the decision's first
    has_paid: bool = False
    rewarded_ms: int = 0

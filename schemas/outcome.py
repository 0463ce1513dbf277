"""Decisions and what became of them."""

from msgspec import Struct


class Choice(Struct, array_like=True):
    """One action that a decision chose: its place on the page, its exact probability, and the model it came from.

    lesson: what a linear policy learns from (see pipeline/core/linear.py); b"" where there is none.
    line_id, pays_for, price_micros, lease_id, budget_day: what was reserved for it. pays_for: "impression", "click",
    "action", or "" where nothing is paid; budget_day: `YYYY-MM-DD` in the line's zone.
    campaign_day: the same in the campaign's zone; "" = the same day.
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
    choice pays for. Each is true in one outcome of a decision and action at most.
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

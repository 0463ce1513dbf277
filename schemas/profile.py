"""A visitor's online profile, and the state that the profile stage keeps of one visitor."""

from msgspec import Struct

from schemas.outcome import OpenDecision, Response


class Interest(Struct, array_like=True):
    """How much a visitor cares for one category: a weight that halves every half-life of event time."""

    weight: float
    updated_ms: int


class Profile(Struct, array_like=True):
    """What is known of one visitor, kept online. Times in ms since 1970 UTC; money in micros; hours in UTC.

    Means are kept as River keeps them (count and mean), so that they go on after a restart exactly where they were.
    """

    first_seen_ms: int = 0
    last_seen_ms: int = 0  # recency
    events: int = 0
    visits: int = 0  # frequency: runs of events at most the session gap apart
    pages: int = 0
    impressions: int = 0
    clicks: int = 0
    add_to_carts: int = 0
    purchases: int = 0
    revenue_micros: int = 0  # value
    order_value_mean_micros: float = 0.0
    visit_interval_mean_ms: float = 0.0  # from the last event of a visit to the first of the next
    visit_interval_count: int = 0
    satisfaction_mean: float = 0.0
    satisfaction_count: int = 0
    engagement: float = 0.0  # River's exponentially weighted mean of engagement points; 0 = no such event yet
    interests: dict[str, Interest] = {}  # by category as the site names it, the strongest kept
    hours: dict[int, float] = {}  # preferred hours: UTC hour (0-23) -> weight as of last_seen_ms; absent = 0
    devices: dict[str, int] = {}  # events by device
    channels: dict[str, int] = {}  # arrivals by channel
    last_campaign: str = ""
    last_channel: str = ""
    user_id: str = ""
    site: str = ""
    is_bot: bool = False
    visit_began_ms: int = 0  # this and what follows: of the last visit; 0 = since before this was kept
    visit_events: int = 0
    visit_pages: int = 0


class Shown(Struct, array_like=True):
    """How often a creative was chosen for a visitor; for frequency caps (pipeline/core/shown.py).

    line_id, campaign_id: its line and campaign when it was last chosen. total: in the visitor's whole life.
    stamps: when, sorted: the newest one, and all of the 25 hours before the newest of any creative.
    """

    line_id: str
    campaign_id: str
    total: int
    stamps: list[int]


class VisitorState(Struct, array_like=True):
    """One entry of the profile stage's state: the profile and the decisions still open for reward.

    early: responses whose decision has not come yet, oldest arrival first. shown: by creative id.
    shown_lost_ms: up to when something was left out of `shown` for want of room; 0 = nothing was.
    """

    profile: Profile
    decisions: list[OpenDecision] = []
    early: list[Response] = []
    shown: dict[str, Shown] = {}
    shown_lost_ms: int = 0


class ProfileFixed(Struct, array_like=True):
    """The profile stage's part for a whole partition. The counts are since the partition's first block."""

    stream_ms: int = 0
    block_time_ms: int = 0
    events: int = 0
    decisions: int = 0  # choices opened
    responses: int = 0  # taken in for an open decision
    unknown: int = 0  # for a decision unknown or expired

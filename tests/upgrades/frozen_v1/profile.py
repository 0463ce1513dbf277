"""A visitor's online profile, and the state that the profile stage keeps of one visitor."""

from msgspec import Struct

from tests.upgrades.frozen_v1.outcome import OpenDecision, Response


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


class VisitorState(Struct, array_like=True):
    """One entry of the profile stage's state: the profile and the decisions still open for reward.

    early: responses whose decision has not come yet, oldest arrival first.
    """

    profile: Profile
    decisions: list[OpenDecision] = []
    early: list[Response] = []


class ProfileFixed(Struct, array_like=True):
    """The profile stage's part for a whole partition. The counts are since the partition's first block."""

    stream_ms: int = 0
    block_time_ms: int = 0
    events: int = 0
    decisions: int = 0  # choices opened
    responses: int = 0  # taken in for an open decision
    unknown: int = 0  # for a decision unknown or expired

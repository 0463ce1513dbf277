"""Profile arithmetic: one clean event into its visitor's profile (RFM, interests, habits).

The means are River's own objects, made for one update from the numbers that the profile keeps: River's first update of
a fresh statistic sets it to the value, so that this gives bit for bit what one long-lived object would.
Decay is by event time, which River's exponentially weighted statistics do not know, and is computed here.
"""

from dataclasses import dataclass
from math import log2
from typing import Final

from river.stats import EWMean, Mean

from pipeline.core.whole import fitting
from schemas.event import Event, EventFlag, EventType
from schemas.profile import Interest, Profile

ENGAGEMENT_POINTS: Final[dict[EventType, float]] = {
    EventType.PAGE: 1.0,
    EventType.SCREEN: 1.0,
    EventType.CUSTOM: 1.0,
    EventType.PRODUCT_VIEW: 2.0,
    EventType.SEARCH: 2.0,
    EventType.CLICK: 3.0,
    EventType.SATISFACTION: 3.0,
    EventType.ADD_TO_CART: 5.0,
    EventType.SHARE: 5.0,
    EventType.SUBSCRIBE: 8.0,
    EventType.CONVERSION: 10.0,
    EventType.PURCHASE: 10.0,
    # The visitor was there, but did nothing of their own accord: counted, without points.
    EventType.IMPRESSION: 0.0,
    EventType.IDENTIFY: 0.0,
    EventType.GROUP: 0.0,
    EventType.ALIAS: 0.0,
}
"""What an event says about a visitor's engagement, and how much it adds to the interest in its category.

A type that is not here (decision, reward, stock, cost) is no visitor's doing and leaves the profile alone."""

DEVICES_MAX: Final = 8
CHANNELS_MAX: Final = 16
SCORE_MAX: Final = 1e9
"""A satisfaction score beyond this is none."""
DIRECT: Final = "direct"  # pipeline.core.channel.Channel.DIRECT; an internal referrer is direct as well

_HOUR_MS: Final = 3_600_000
_BOT: Final = int(EventFlag.BOT)  # an IntFlag operation costs a microsecond, an int's thirty nanoseconds
_PAGE, _SCREEN, _IMPRESSION, _CLICK = EventType.PAGE, EventType.SCREEN, EventType.IMPRESSION, EventType.CLICK
_CART, _PURCHASE, _CONVERSION = EventType.ADD_TO_CART, EventType.PURCHASE, EventType.CONVERSION
_SATISFACTION = EventType.SATISFACTION


@dataclass(frozen=True, slots=True)
class ProfileRules:
    """The rules of profiles. gap_ms: a longer pause ends a visit. engagement_fading: the newest event's share, 0..1."""

    gap_ms: int = 1_800_000
    interest_half_life_ms: int = 1_209_600_000
    interests_max: int = 20
    engagement_fading: float = 0.1


def learn(profile: Profile, event: Event, rules: ProfileRules) -> None:
    """Take one clean event of the profile's visitor in, changing the profile.

    A bot's event flags the profile; a flagged profile stays flagged and learns nothing more.
    A late event (before last_seen_ms) counts and decays as if it had come in time, but opens no visit and does not
    replace the last campaign or channel. Money is added as it is: one currency a site is assumed.
    Raises nothing.
    """
    points = ENGAGEMENT_POINTS.get(event.event_type)
    if points is None:
        return
    if event.flags & _BOT or profile.is_bot:
        profile.is_bot = True
        return
    late = event.event_time_ms < profile.last_seen_ms
    if points:
        _learn_hour(profile, event.event_time_ms, rules.interest_half_life_ms)
        mean = EWMean(rules.engagement_fading)
        if profile.engagement:
            mean.update(profile.engagement)
        mean.update(points)
        profile.engagement = mean.get()
        if event.category:
            add_interest(profile.interests, event.category, points, event.event_time_ms, rules)
    else:
        _fade_hours(profile, event.event_time_ms, rules.interest_half_life_ms)
    opens_visit = _learn_visit(profile, event.event_time_ms, rules.gap_ms)
    _learn_kind(profile, event)
    _learn_traits(profile, event, opens_visit, late)


def _learn_visit(profile: Profile, time_ms: int, gap_ms: int) -> bool:
    """Recency and frequency; True where this event opens a visit."""
    profile.events += 1
    if profile.events == 1:
        profile.first_seen_ms = profile.last_seen_ms = profile.visit_began_ms = time_ms
        profile.visits = profile.visit_events = 1
        return True
    pause_ms = time_ms - profile.last_seen_ms
    if pause_ms > 0:
        profile.last_seen_ms = time_ms
    elif time_ms < profile.first_seen_ms:
        profile.first_seen_ms = time_ms
    if pause_ms <= gap_ms:
        if time_ms >= profile.visit_began_ms:  # what is older may be of a visit before
            profile.visit_events += 1
        return False
    profile.visits += 1
    profile.visit_began_ms, profile.visit_events, profile.visit_pages = time_ms, 1, 0
    profile.visit_interval_mean_ms = mean_after(profile.visit_interval_mean_ms, profile.visit_interval_count, pause_ms)
    profile.visit_interval_count += 1
    return True


def _learn_kind(profile: Profile, event: Event) -> None:
    """Counts by type, value and satisfaction."""
    kind = event.event_type
    if kind is _PAGE or kind is _SCREEN:
        profile.pages += 1
        if event.event_time_ms >= profile.visit_began_ms:
            profile.visit_pages += 1
    elif kind is _IMPRESSION:
        profile.impressions += 1
    elif kind is _CLICK:
        profile.clicks += 1
    elif kind is _CART:
        profile.add_to_carts += 1
    elif kind is _PURCHASE:
        revenue = event.revenue_micros
        profile.order_value_mean_micros = mean_after(profile.order_value_mean_micros, profile.purchases, revenue)
        profile.purchases += 1
        profile.revenue_micros = fitting(profile.revenue_micros + revenue)
    elif kind is _CONVERSION:
        profile.revenue_micros = fitting(profile.revenue_micros + event.revenue_micros)
    elif kind is _SATISFACTION and abs(event.score) <= SCORE_MAX:  # NaN, or what overflows, would stay in it for ever
        profile.satisfaction_mean = mean_after(profile.satisfaction_mean, profile.satisfaction_count, event.score)
        profile.satisfaction_count += 1


def _learn_traits(profile: Profile, event: Event, opens_visit: bool, late: bool) -> None:
    """Device, channel, campaign and names. Small dicts stay small, whatever a client sends."""
    device, channel = event.device, event.channel
    if device and (device in profile.devices or len(profile.devices) < DEVICES_MAX):
        profile.devices[device] = profile.devices.get(device, 0) + 1
    # Within a visit each page has a channel again (direct, from the site's own links): only arrivals count.
    if channel and (opens_visit or (channel != DIRECT and channel != profile.last_channel)):
        if channel in profile.channels or len(profile.channels) < CHANNELS_MAX:
            profile.channels[channel] = profile.channels.get(channel, 0) + 1
        if not late:
            profile.last_channel = channel
    if late:
        return
    campaign = event.utm_campaign or (event.campaign_id if event.event_type is _CLICK else "")
    if campaign:
        profile.last_campaign = campaign
    if event.user_id:
        profile.user_id = event.user_id
    if event.site:
        profile.site = event.site


def mean_after(mean: float, count: int, value: float) -> float:
    """Return River's running mean of count values with this mean, after one more value."""
    statistic = Mean()
    if count:
        statistic.update(mean, count)
    statistic.update(value)
    return statistic.get()


def add_interest(
    interests: dict[str, Interest], category: str, points: float, time_ms: int, rules: ProfileRules
) -> None:
    """Add points of this time to a category; where there are too many, the weakest goes (ties: the first by name).

    Only the category itself is written, not those above it: weights add up, so `interest_of` can read any level, and
    a profile keeps interests_max real interests instead of their parents.
    """
    known = interests.get(category)
    if known is None:
        interests[category] = Interest(points, time_ms)
        if len(interests) > rules.interests_max:
            del interests[_weakest(interests, rules.interest_half_life_ms)]
    elif time_ms >= known.updated_ms:
        known.weight = known.weight * decay(time_ms - known.updated_ms, rules.interest_half_life_ms) + points
        known.updated_ms = time_ms
    else:
        known.weight += points * decay(known.updated_ms - time_ms, rules.interest_half_life_ms)


def _weakest(interests: dict[str, Interest], half_life_ms: int) -> str:
    return min((_strength(found, half_life_ms), name) for name, found in interests.items())[1]


def strongest_interest(profile: Profile, half_life_ms: int) -> str:
    """Return the category that weighs most, whatever the time (ties: the last by name); "" where there is none."""
    return max(((_strength(found, half_life_ms), name) for name, found in profile.interests.items()), default=(0, ""))[
        1
    ]


def _strength(interest: Interest, half_life_ms: int) -> float:
    """What orders interests of different times as their weights at any common time do: all halve together."""
    return log2(interest.weight) + interest.updated_ms / half_life_ms


def decay(age_ms: int, half_life_ms: int) -> float:
    """Return what is left of 1 after this long: 0.5 after a half-life."""
    weight: float = 2.0 ** (-age_ms / half_life_ms)
    return weight


def interest_of(profile: Profile, category: str, at_ms: int, half_life_ms: int) -> float:
    """Return the interest in a category and all below it ("electronics" includes "electronics.smartphone") at a time.

    at_ms: not before the interests' own times (an earlier time counts as those).
    """
    below = category + "."
    return sum(
        found.weight * decay(max(0, at_ms - found.updated_ms), half_life_ms)
        for name, found in profile.interests.items()
        if name == category or name.startswith(below)
    )


def _fade_hours(profile: Profile, time_ms: int, half_life_ms: int) -> None:
    """Bring the weights from last_seen_ms to this time, where it is later."""
    age_ms = time_ms - profile.last_seen_ms
    if age_ms > 0 and profile.hours:
        left = decay(age_ms, half_life_ms)
        profile.hours = {hour: weight * left for hour, weight in profile.hours.items()}


def _learn_hour(profile: Profile, time_ms: int, half_life_ms: int) -> None:
    _fade_hours(profile, time_ms, half_life_ms)
    late_ms = profile.last_seen_ms - time_ms
    weight = decay(late_ms, half_life_ms) if late_ms > 0 else 1.0
    hour = time_ms // _HOUR_MS % 24
    profile.hours[hour] = profile.hours.get(hour, 0.0) + weight

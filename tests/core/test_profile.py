"""Profile arithmetic: boundaries, River's numbers, decay by event time."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river.stats import EWMean, Mean

from pipeline.core.channel import Channel
from pipeline.core.profile import (
    CHANNELS_MAX,
    DEVICES_MAX,
    DIRECT,
    ENGAGEMENT_POINTS,
    ProfileRules,
    decay,
    interest_of,
    learn,
    mean_after,
    strongest_interest,
)
from schemas.event import Event, EventFlag, EventType
from schemas.profile import Profile

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_700_000_000_000
RULES = ProfileRules(gap_ms=1_000, interest_half_life_ms=DAY_MS, interests_max=3, engagement_fading=0.2)


def event(time_ms: int = 0, kind: EventType = EventType.PAGE, **fields: object) -> Event:
    """An event this long after the start."""
    return Event("e", kind, START_MS + time_ms, START_MS + time_ms, "shop", "ann", **fields)  # type: ignore[arg-type]


def profile_of(*events: Event, rules: ProfileRules = RULES) -> Profile:
    """The profile after these events."""
    profile = Profile()
    for each in events:
        learn(profile, each, rules)
    return profile


def test_an_event_at_exactly_the_gap_belongs_to_the_visit_and_one_past_it_opens_the_next() -> None:
    assert profile_of(event(0), event(1_000)).visits == 1
    assert profile_of(event(0), event(1_001)).visits == 2


def test_the_visit_interval_is_from_the_last_event_to_the_first_of_the_next_visit() -> None:
    profile = profile_of(event(0), event(500), event(5_500), event(12_500))
    assert (profile.visits, profile.visit_interval_count, profile.visit_interval_mean_ms) == (3, 2, 6_000.0)


def test_a_late_event_counts_but_opens_no_visit_and_moves_only_first_seen() -> None:
    profile = profile_of(event(10_000), event(0))
    assert (profile.events, profile.visits, profile.visit_interval_count) == (2, 1, 0)
    assert (profile.first_seen_ms, profile.last_seen_ms) == (START_MS, START_MS + 10_000)


def test_the_last_visit_is_counted_by_itself_without_what_is_older_than_its_begin() -> None:
    click = event(6_200, EventType.CLICK)
    profile = profile_of(event(0), event(500), event(5_500), click, event(6_100), event(400))
    assert (profile.visit_began_ms, profile.visit_events, profile.visit_pages) == (START_MS + 5_500, 3, 2)
    assert (profile.visits, profile.pages, profile.events) == (2, 5, 6)


def test_a_late_event_does_not_replace_the_last_campaign_and_channel() -> None:
    new = event(10_000, utm_campaign="autumn", channel="email", user_id="u2")
    old = event(0, utm_campaign="summer", channel="display", user_id="u1")
    profile = profile_of(new, old)
    assert (profile.last_campaign, profile.last_channel, profile.user_id) == ("autumn", "email", "u2")


def test_a_channel_counts_by_arrival_not_by_page() -> None:
    profile = profile_of(
        event(0, channel="email"), event(1, channel=DIRECT), event(2, channel="email"), event(5_000, channel=DIRECT)
    )
    assert profile.channels == {"email": 1, DIRECT: 1}
    assert profile_of(event(0, channel=DIRECT), event(1, channel="display")).channels == {DIRECT: 1, "display": 1}


def test_the_word_for_direct_is_the_channel_module_s() -> None:
    assert DIRECT == Channel.DIRECT


def test_an_order_adds_its_revenue_and_moves_the_mean_order_value() -> None:
    profile = profile_of(
        event(0, EventType.PURCHASE, revenue_micros=30_000_000),
        event(1, EventType.PURCHASE, revenue_micros=10_000_000),
        event(2, EventType.CONVERSION, revenue_micros=5_000_000),
    )
    assert (profile.purchases, profile.revenue_micros, profile.order_value_mean_micros) == (2, 45_000_000, 20_000_000.0)


def test_satisfaction_that_is_no_number_is_left_out_of_the_mean() -> None:
    kind = EventType.SATISFACTION
    profile = profile_of(event(0, kind, score=4.0), event(1, kind, score=math.nan), event(2, kind, score=2.0))
    assert (profile.satisfaction_count, profile.satisfaction_mean) == (2, 3.0)


def test_an_impression_is_counted_but_is_no_engagement() -> None:
    profile = profile_of(event(0, EventType.IMPRESSION, category="shoes"))
    assert (profile.impressions, profile.engagement, profile.interests, profile.hours) == (1, 0.0, {}, {})


@pytest.mark.parametrize("kind", [EventType.DECISION, EventType.REWARD, EventType.STOCK, EventType.COST])
def test_what_no_visitor_did_leaves_the_profile_alone(kind: EventType) -> None:
    assert profile_of(event(0, kind, category="shoes")) == Profile()


def test_every_type_of_event_either_has_points_or_is_no_visitor_s_doing() -> None:
    assert set(EventType) - set(ENGAGEMENT_POINTS) == {
        EventType.DECISION,
        EventType.REWARD,
        EventType.STOCK,
        EventType.COST,
    }


def test_a_bot_flags_the_profile_and_teaches_it_nothing_then_or_later() -> None:
    bot = event(1, category="shoes", flags=int(EventFlag.BOT | EventFlag.SKEW_CORRECTED))
    assert profile_of(bot) == Profile(is_bot=True)
    before = profile_of(event(0))
    before.is_bot = True
    assert profile_of(event(0), bot, event(2)) == before


def test_an_interest_halves_in_a_half_life_and_adds_the_points_of_the_event() -> None:
    view = EventType.PRODUCT_VIEW
    profile = profile_of(event(0, view, category="shoes"), event(DAY_MS, view, category="shoes"))
    assert profile.interests["shoes"].weight == 3.0  # 2 points halved, and 2 more
    assert profile.interests["shoes"].updated_ms == START_MS + DAY_MS


def test_a_late_interest_is_added_as_it_has_decayed_by_now() -> None:
    view = EventType.PRODUCT_VIEW
    profile = profile_of(event(DAY_MS, view, category="shoes"), event(0, view, category="shoes"))
    assert profile.interests["shoes"].weight == 3.0
    assert profile.interests["shoes"].updated_ms == START_MS + DAY_MS


def test_the_weakest_interest_goes_when_there_are_too_many() -> None:
    old = event(0, EventType.PRODUCT_VIEW, category="old")
    strong = event(0, EventType.PURCHASE, category="strong")
    later = [event(2 * DAY_MS, category=name) for name in ("a", "b")]
    assert set(profile_of(old, strong, *later).interests) == {"strong", "a", "b"}


def test_of_equally_weak_interests_the_first_by_name_goes_whatever_the_order() -> None:
    names = ["d", "b", "a", "c"]
    for order in (names, names[::-1]):
        assert set(profile_of(*(event(0, category=name) for name in order)).interests) == {"b", "c", "d"}


def test_a_category_s_interest_includes_what_is_below_it_but_not_its_namesakes() -> None:
    profile = profile_of(
        event(0, category="electronics.smartphone"), event(0, category="electronics"), event(0, category="electronicsx")
    )
    assert interest_of(profile, "electronics", START_MS, DAY_MS) == 2.0
    assert interest_of(profile, "electronics", START_MS + DAY_MS, DAY_MS) == 1.0
    assert interest_of(profile, "electronics.smartphone", START_MS, DAY_MS) == 1.0


def test_the_strongest_interest_is_the_one_that_weighs_most_now_not_then() -> None:
    old = event(0, EventType.PRODUCT_VIEW, category="old")
    assert strongest_interest(profile_of(old, event(DAY_MS // 2, category="new")), DAY_MS) == "old"
    assert strongest_interest(profile_of(old, event(2 * DAY_MS, category="new")), DAY_MS) == "new"
    assert strongest_interest(Profile(), DAY_MS) == ""


def test_preferred_hours_decay_together_and_a_late_hour_is_weighed_as_of_last_seen() -> None:
    first_hour = START_MS // HOUR_MS % 24
    profile = profile_of(event(0), event(HOUR_MS), event(DAY_MS))
    assert profile.hours == pytest.approx({first_hour: 1.5, (first_hour + 1) % 24: 2 ** (-23 / 24)})
    learn(profile, event(2 * HOUR_MS), RULES)
    assert profile.hours[(first_hour + 2) % 24] == pytest.approx(2 ** (-22 / 24))


def test_hours_fade_at_events_without_points_too() -> None:
    profile = profile_of(event(0), event(DAY_MS, EventType.IMPRESSION))
    assert profile.hours == {START_MS // HOUR_MS % 24: 0.5}


def test_devices_and_channels_stay_few_whatever_a_client_sends() -> None:
    profile = profile_of(*(event(n * 5_000, device=f"d{n}", channel=f"c{n}") for n in range(50)))
    assert (len(profile.devices), len(profile.channels)) == (DEVICES_MAX, CHANNELS_MAX)
    learn(profile, event(50 * 5_000, device="d0"), RULES)
    assert profile.devices["d0"] == 2


def test_a_decay_so_long_that_nothing_is_left_is_no_error() -> None:
    profile = profile_of(
        event(0, category="a"), event(10**12, category="b"), event(1, category="c"), event(2, category="d")
    )
    assert "b" in profile.interests
    assert decay(10**14, 1) == 0.0


TIMES = st.integers(0, 10 * DAY_MS)
VISITS = st.lists(
    st.tuples(TIMES, st.sampled_from(sorted(ENGAGEMENT_POINTS)), st.floats(0, 5), st.integers(0, 10**9)), max_size=40
)


@given(VISITS)
def test_the_means_are_bit_for_bit_those_of_river_objects_fed_with_the_same_stream(
    stream: list[tuple[int, EventType, float, int]],
) -> None:
    engagement, orders, satisfaction = EWMean(RULES.engagement_fading), Mean(), Mean()
    profile = Profile()
    for time_ms, kind, score, revenue in stream:
        learn(profile, event(time_ms, kind, score=score, revenue_micros=revenue), RULES)
        if ENGAGEMENT_POINTS[kind]:
            engagement.update(ENGAGEMENT_POINTS[kind])
        if kind is EventType.PURCHASE:
            orders.update(revenue)
        if kind is EventType.SATISFACTION:
            satisfaction.update(score)
    assert profile.engagement == engagement.get()
    assert (profile.order_value_mean_micros, profile.purchases) == (orders.get(), orders.n)
    assert (profile.satisfaction_mean, profile.satisfaction_count) == (satisfaction.get(), satisfaction.n)


@given(st.lists(st.floats(-1e9, 1e9), max_size=30))
def test_a_mean_made_anew_for_each_value_is_river_s(values: list[float]) -> None:
    whole, mean = Mean(), 0.0
    for count, value in enumerate(values):
        whole.update(value)
        mean = mean_after(mean, count, value)
    assert mean == whole.get()


@given(st.lists(st.tuples(TIMES, st.sampled_from(["a", "b.c"])), min_size=1, max_size=20), st.randoms())
def test_interests_and_hours_do_not_depend_on_the_order_of_arrival(
    stream: list[tuple[int, str]], random: Random
) -> None:
    events = [event(time_ms, EventType.PRODUCT_VIEW, category=name) for time_ms, name in stream]
    shuffled = list(events)
    random.shuffle(shuffled)
    one, other = profile_of(*events), profile_of(*shuffled)
    at_ms = START_MS + 10 * DAY_MS
    for name in ("a", "b"):
        assert interest_of(one, name, at_ms, DAY_MS) == pytest.approx(interest_of(other, name, at_ms, DAY_MS))
    assert one.hours == pytest.approx(other.hours)
    assert (one.first_seen_ms, one.last_seen_ms) == (other.first_seen_ms, other.last_seen_ms)

"""The quota of a write key: exact over time, for every way of sending, and of one key alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.collector.quota import BURST_S, Quota


def accepted_within(rate: int, batch: int, every_s: float, last_s: float) -> int:
    """How many events of a sender who sends a batch at this pace pass until then, without ever waiting."""
    quota = Quota(["a"], rate, 0.0)
    taken, sends = 0, int(last_s / every_s)
    for number in range(sends):
        key, _ = quota.take({"a": batch}, number * every_s)
        taken += 0 if key else batch
    return taken


@pytest.mark.parametrize("batch", [1, 7, 100, 1_000])
@pytest.mark.parametrize("rate", [100, 1_000])
def test_whoever_sends_too_fast_gets_the_rate_to_within_one_percent(rate: int, batch: int) -> None:
    """Three times too fast, until a burst and a batch are less than that; a batch may be larger than a second's."""
    last_s = 110 * (1 + batch / rate)
    taken = accepted_within(rate, batch, batch / (3 * rate), last_s)
    assert abs(taken - rate * last_s) <= 0.01 * rate * last_s


def test_whoever_keeps_to_the_rate_is_never_refused() -> None:
    """At exactly the rate: each request finds what it needs."""
    assert accepted_within(100, 50, 0.5, 500.0) == 100 * 500


def test_whoever_waits_as_long_as_told_is_taken() -> None:
    """And a moment earlier is not: the wait is neither too long nor too short."""
    quota = Quota(["a"], 10, 0.0)
    assert quota.take({"a": 35}, 0.0) == ("", 0.0)
    assert quota.take({"a": 1}, 0.0) == ("a", 2.5)
    assert quota.take({"a": 1}, 2.499)[0] == "a"
    assert quota.take({"a": 1}, 2.501) == ("", 0.0)


def test_a_pause_saves_up_one_burst_and_no_more() -> None:
    """A key that was quiet for a day may not send a day's worth at once."""
    quota = Quota(["a"], 10, 0.0)
    taken = sum(quota.take({"a": 1}, 86_400.0)[0] == "" for _ in range(1_000))
    assert taken == 10 * BURST_S


def test_one_key_s_haste_costs_no_other_key() -> None:
    """Each has a bucket of its own, and a request that is refused for one takes nothing from another."""
    quota = Quota(["a", "b"], 10, 0.0)
    assert quota.take({"a": 1_000}, 0.0)[0] == ""
    assert quota.take({"a": 1, "b": 5}, 0.0)[0] == "a"
    assert quota.take({"b": 10}, 0.0)[0] == ""
    assert quota.take({"b": 1}, 0.0)[0] == "b"


def test_what_could_not_be_stored_is_not_charged() -> None:
    """It is sent again, and then it counts."""
    quota = Quota(["a"], 10, 0.0)
    assert quota.take({"a": 10}, 0.0)[0] == ""
    quota.give_back({"a": 10})
    assert quota.take({"a": 10}, 0.0)[0] == ""
    assert quota.take({"a": 1}, 0.0)[0] == "a"


@given(
    st.integers(1, 1_000),
    st.lists(st.tuples(st.integers(1, 1_000), st.floats(0, 20, allow_nan=False)), max_size=60),
)
def test_no_way_of_sending_gets_more_than_the_rate_and_one_burst(rate: int, sends: list[tuple[int, float]]) -> None:
    """Up to any moment: what passed is at most what flowed in, one burst, and the batch that was let through last."""
    quota, now_s, taken = Quota(["a"], rate, 0.0), 0.0, 0
    for events, pause_s in sends:
        now_s += pause_s
        if quota.take({"a": events}, now_s)[0] == "":
            assert taken < rate * (now_s + BURST_S) + 1e-6
            taken += events
        else:
            assert taken, "the first one finds a full bucket"

"""A visitor who is shown more than can be remembered: no cap is passed for it, and none is full without need."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_rig import START_MS

from pipeline.core.caps import OTHERS_MAX, CapCounts, OwnShow, OwnShows, cap_rules
from pipeline.core.decide import make_id
from pipeline.core.shown import KEPT_MS, stamp_ms
from schemas.campaign import DAY_MS, HOUR_MS, Cap
from schemas.outcome import Choice
from schemas.profile import Profile, VisitorState

MINUTE_MS = 60_000
RED = cap_rules("creative", "red", [Cap(count=1, per="day")])


def choices(name: str, many: int = 1) -> list[Choice]:
    return [Choice(f"{name}{at or ''}", at, 1.0, "spring", line_id=name) for at in range(many)]


def note(own: OwnShows, at_ms: int, capped: list[Choice], others: list[Choice] = [], key: str = "ann") -> None:  # noqa: B006
    own.note(key, make_id(START_MS + at_ms, key, at_ms), START_MS + at_ms, capped, others)


def full(own: OwnShows, at_ms: int, caps: list[Cap], name: str = "red", state: VisitorState | None = None) -> bool:
    time_ms = START_MS + at_ms
    counts = CapCounts(state, own.of("ann", state, time_ms), time_ms, own.lost("ann"))
    return counts.full(cap_rules("creative", name, caps)) is not None


def test_a_thousand_choices_without_a_cap_push_no_capped_one_out() -> None:
    own = OwnShows()
    note(own, 0, choices("red"))
    for at in range(21):
        note(own, 1 + at, [], choices("news", 50))
    assert full(own, 100, [Cap(count=1, per="day")])
    assert not full(own, 100, [Cap(count=1, per="day")], "blue")
    assert len(own.of("ann", None, START_MS + 100)) == OTHERS_MAX + 1


def test_what_was_shown_before_it_had_a_cap_counts_once_it_has_one() -> None:
    own = OwnShows()
    note(own, 0, [], choices("red"))
    assert full(own, 1, [Cap(count=1, per="day")])
    own.merge("ann", [OwnShow(mark, *names) for mark, *names in own.of("ann", None, START_MS + 1)])
    assert not full(own, 1, [Cap(count=2, per="day")])


@pytest.mark.parametrize(("per", "open_after_ms"), [("hour", HOUR_MS), ("day", DAY_MS), ("lifetime", KEPT_MS)])
def test_where_a_capped_one_had_to_go_caps_are_full_as_far_as_it_may_matter(per: str, open_after_ms: int) -> None:
    """1,001 capped choices: the first, at 0, is not known any more; a cap that does not reach back to it goes on."""
    own = OwnShows()
    note(own, 0, choices("red"))
    for at in range(20):
        note(own, 10 + at, choices("hats", 50))
    caps = [Cap.model_validate({"count": 1, "per": per})]
    for at_ms, is_full in ((100, True), (open_after_ms - 1, True), (open_after_ms, False)):
        assert full(own, at_ms, caps, "blue") is is_full, at_ms
    assert not full(own, KEPT_MS + 100, caps, "blue")
    assert len(own) == 0, "and nothing of it is kept for ever"


def test_what_another_process_tells_late_may_be_the_oldest() -> None:
    own = OwnShows()
    for at in range(20):
        note(own, 10 + at, choices("hats", 50))
    other = OwnShows()
    note(other, 0, choices("red"))
    own.merge("ann", other.of("ann", None, START_MS + 50))
    assert full(own, 100, [Cap(count=1, per="day")])
    assert stamp_ms(own.lost("ann")) == START_MS
    assert not full(own, HOUR_MS + 1, [Cap(count=1, per="hour")]), "what is newer is still known"


EVENTS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["red", "hats", "news"]), st.integers(1, 50)), max_size=60
)


@given(EVENTS)
@settings(max_examples=60, deadline=None)
def test_no_cap_is_passed_however_much_is_shown(events: list[tuple[int, str, int]]) -> None:
    """Each time some minutes later, up to 50 at once; red has a cap of one an hour and two a day, hats some other."""
    own, shown, minute = OwnShows(), list[int](), 0
    caps = [Cap(count=1, per="hour"), Cap(count=2, per="day")]
    for number, (gap, name, many) in enumerate(events):
        minute += gap
        at_ms = minute * MINUTE_MS + number
        if name == "news":
            note(own, at_ms, [], choices(name, many))
        elif name == "hats":
            note(own, at_ms, choices(name, many))
        elif not full(own, at_ms, caps):
            note(own, at_ms, choices("red"))
            shown.append(at_ms)
            assert sum(at_ms - HOUR_MS < one for one in shown) <= 1
            assert sum(at_ms - DAY_MS < one for one in shown) <= 2


def test_one_more_of_the_same_decision_is_counted_at_all_levels() -> None:
    class Chosen:
        id, line_id, campaign_id = "red", "shoes", "spring"

    counts = CapCounts(VisitorState(Profile()), (), START_MS)
    rules = cap_rules("line", "shoes", [Cap(count=2, per="hour")]) + cap_rules(
        "campaign", "spring", [Cap(count=3, per="lifetime")]
    )
    assert counts.full(rules) is None
    found = []
    for _ in range(3):
        counts.add(Chosen())
        found.append(counts.full(rules))
    assert [one and one.detail for one in found] == [None, "line:hour", "line:hour"]
    assert counts.full(rules[1:]) is rules[1]

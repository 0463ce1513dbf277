"""Who may be shown what: each reason by itself, their order, and that every creative is in or has a reason."""

from typing import Any

import pytest
from catalogue_rig import NOW_MS, home, line, shop, stored, visit
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.audience import Facts
from pipeline.core.caps import CapCounts
from pipeline.core.catalogue import LiveLine
from pipeline.core.decide import Candidate
from pipeline.core.eligibility import MEANINGS, Eligible, Plenty, Reason, Visit, eligible
from schemas.campaign import DAY_MS
from schemas.profile import Profile, Shown

OPEN = {"starts_at": "2020-01-01T00:00:00Z"}
OVER = {"ends_at": "2020-01-01T00:00:00Z"}
ONCE = [{"count": 1, "per": "day"}]
STAMP = (NOW_MS - 1) << 20
GERMAN = Facts(NOW_MS, None, {"country": "DE"})
SEEN = {"of-hats": Shown("hats", "spring", 1, [STAMP])}


class Sold:
    """A shop that has only these."""

    def __init__(self, *skus: str) -> None:
        self.skus = skus

    def has_stock(self, sku: str) -> bool:
        return sku in self.skus


class Lacks(Plenty):
    """A budget in which these lines lack something."""

    def __init__(self, **reasons: str) -> None:
        self.reasons = reasons

    def lacks(self, line: LiveLine) -> str:
        return self.reasons.get(line.id, "")


def only_hats(visited: Visit, **body: Any) -> Eligible:
    """What becomes of one line, of one creative."""
    return eligible(home(shop(*line("hats", **body), without=("lines", "shoes"))), visited)


def test_what_nothing_speaks_against_is_a_candidate() -> None:
    found = eligible(home(shop()), visit())
    assert [each.id for each in found.candidates] == ["blue", "red"]
    assert found.excluded == {}
    candidate: Candidate = found.candidates[1]
    assert (candidate.url, candidate.campaign_id, candidate.features) == (
        "https://shop.example/red",
        "spring",
        {"colour": "red"},
    )


@pytest.mark.parametrize(
    ("body", "fields", "reason"),
    [
        ({"audience": "profile.visits >= 3"}, {}, "audience"),
        ({"schedule": OVER}, {}, "schedule:line"),
        ({"audience": "not profile.is_bot"}, {"facts": Facts(NOW_MS), "has_consent": False}, "consent:audience"),
        ({"caps": ONCE}, {"caps": None, "has_consent": False}, "consent:cap"),
        ({"caps": ONCE}, {"caps": None}, "cap:unknown"),
        ({"caps": ONCE}, {"shown": SEEN}, "cap:line:day"),
        ({"skus": ["s1", "s2"]}, {"stock": Sold("s3")}, "stock:line"),
        ({}, {"budget": Lacks(hats="budget")}, "budget"),
        ({}, {"budget": Lacks(hats="pacing")}, "pacing"),
        ({}, {"on_page": {"of-hats"}}, "on_page:creative"),
    ],
)
def test_each_rule_excludes_with_its_reason(body: dict[str, Any], fields: dict[str, Any], reason: str) -> None:
    found = only_hats(visit(**fields), **body)
    assert found == ([], {"of-hats": reason})
    assert Reason(reason.partition(":")[0]) in MEANINGS


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"audience": "profile.visits >= 3"}, {"profile": Profile(visits=3)}),
        (
            {"audience": 'context.country == "DE"'},
            {"has_consent": False, "facts": GERMAN},
        ),
        ({"schedule": OPEN}, {}),
        ({"caps": [{"count": 2, "per": "day"}]}, {"shown": SEEN}),
        ({"caps": [{"count": 1, "per": "hour"}]}, {"caps": CapCounts(None, (), NOW_MS), "has_consent": False}),
        ({"skus": ["s1", "s2"]}, {"stock": Sold("s2")}),
        ({}, {"budget": Lacks(shoes="budget")}),
        ({}, {"on_page": {"red"}}),
    ],
)
def test_each_rule_lets_pass_what_fits(body: dict[str, Any], fields: dict[str, Any]) -> None:
    found = only_hats(visit(**fields), **body)
    assert [each.id for each in found.candidates] == ["of-hats"]


def test_the_campaign_s_schedule_and_caps_bind_its_lines() -> None:
    closed = stored("campaigns", "spring", advertiser="adv", schedule=OVER)
    assert set(eligible(home(shop(closed)), visit()).excluded.values()) == {"schedule:campaign"}
    capped = stored("campaigns", "spring", advertiser="adv", caps=ONCE)
    elsewhere = {"gone": Shown("other-line", "spring", 1, [STAMP])}
    assert set(eligible(home(shop(capped)), visit(shown=elsewhere)).excluded.values()) == {"cap:campaign:day"}


def test_a_creative_s_own_cap_and_stock_leave_the_others_of_its_line() -> None:
    objects = shop(
        stored("creatives", "capped", line="shoes", caps=ONCE),
        stored("creatives", "sold-out", line="shoes", skus=["s1"]),
        stored("creatives", "some-left", line="shoes", skus=["s1", "s2"]),
    )
    shown = {"capped": Shown("shoes", "spring", 1, [STAMP])}
    found = eligible(home(objects), visit(shown=shown, stock=Sold("s2")))
    assert [each.id for each in found.candidates] == ["blue", "red", "some-left"]
    assert found.excluded == {"capped": "cap:creative:day", "sold-out": "stock:creative"}


def test_a_line_s_budget_is_asked_once_and_only_where_it_could_be_spent() -> None:
    """Who paces counts what it is asked for."""
    asked: list[str] = []

    class Counting(Plenty):
        def lacks(self, line: LiveLine) -> str:
            asked.append(line.id)
            return ""

    objects = shop(*line("sold-out", skus=["s1"]), *line("over", schedule=OVER), *line("capped", caps=ONCE))
    shown = {"x": Shown("capped", "spring", 1, [STAMP])}
    eligible(home(objects), visit(shown=shown, stock=Sold(), budget=Counting()))
    assert asked == ["shoes"]


def test_a_paused_creative_says_what_is_paused() -> None:
    objects = shop(stored("creatives", "red", "paused", line="shoes"))
    assert eligible(home(objects), visit()).excluded == {"red": "paused:creative"}


def test_only_the_highest_priority_that_can_be_shown_is_chosen_among() -> None:
    objects = shop(*line("first", priority=9), *line("also-first", priority=9), *line("last", priority=1))
    found = eligible(home(objects), visit())
    assert [each.id for each in found.candidates] == ["of-also-first", "of-first"]
    assert found.excluded == dict.fromkeys(["red", "blue", "of-last"], "priority:9")
    budget = Lacks(**{"first": "budget", "also-first": "pacing"})
    found = eligible(home(objects), visit(budget=budget))
    assert [each.id for each in found.candidates] == ["blue", "red"]
    assert found.excluded == {"of-first": "budget", "of-also-first": "pacing", "of-last": "priority:5"}


def test_a_line_whose_creative_is_on_the_page_already_makes_room_for_a_lower_one() -> None:
    objects = shop(*line("first", priority=9))
    found = eligible(home(objects), visit(on_page={"of-first"}))
    assert [each.id for each in found.candidates] == ["blue", "red"]


def test_without_consent_nobody_is_shown_what_is_for_those_of_whom_nothing_is_known() -> None:
    """`not …` holds for whoever is not known: without consent it must not be taken for what the marketer meant."""
    unknown = visit(facts=Facts(NOW_MS), has_consent=False)
    assert only_hats(unknown, audience="not (profile.visits >= 3)").excluded == {"of-hats": "consent:audience"}
    assert only_hats(visit(), audience="not (profile.visits >= 3)").excluded == {}


LATER: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("audience", {"audience": 'context.country == "FR"'}, {}),
    ("schedule:line", {"schedule": OVER}, {}),
    ("cap:line:day", {"caps": ONCE}, {"shown": SEEN}),
    ("stock:line", {"skus": ["s1"]}, {"stock": Sold()}),
    ("budget", {}, {"budget": Lacks(hats="budget")}),
    ("on_page:creative", {}, {"on_page": {"of-hats"}}),
    ("priority:9", {}, {}),
]


@pytest.mark.parametrize("first", range(len(LATER)))
def test_the_reason_is_the_first_one_of_all_that_speak_against_it(first: int) -> None:
    body: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for _, more, facts in LATER[first:]:
        body |= more
        fields |= facts
    objects = shop(*line("hats", **body), *line("above", priority=9), without=("lines", "shoes"))
    assert eligible(home(objects), visit(**fields)).excluded == {"of-hats": LATER[first][0]}


def test_every_reason_has_a_meaning_in_the_same_order() -> None:
    assert list(MEANINGS) == list(Reason)


LINES = st.lists(
    st.fixed_dictionaries(
        {
            "priority": st.integers(1, 3),
            "audience": st.sampled_from(["", "profile.visits >= 3", 'context.country == "DE"', "not profile.is_bot"]),
            "schedule": st.sampled_from([{}, OPEN, OVER]),
            "caps": st.sampled_from([[], ONCE, [{"count": 1, "per": "lifetime"}]]),
            "skus": st.sampled_from([[], ["s1"], ["s1", "s2"]]),
        }
    ),
    max_size=6,
)


@given(LINES, st.data())
@settings(max_examples=100, deadline=None)
def test_every_creative_is_a_candidate_or_has_one_reason_and_priority_is_the_only_one_that_depends_on_others(
    bodies: list[dict[str, Any]], data: st.DataObject
) -> None:
    more = [line(f"l{number}", **body) for number, body in enumerate(bodies)]
    objects = shop(*(each for one in more for each in one))
    names = [f"l{number}" for number in range(len(bodies))]
    ids = [f"of-{name}" for name in names]
    has_consent = data.draw(st.booleans())
    seen = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
    shown = {each: Shown(each.removeprefix("of-"), "spring", 1, [STAMP - (DAY_MS << 20)]) for each in seen}
    visited = visit(
        Profile(visits=data.draw(st.integers(0, 4))),
        shown,
        has_consent=has_consent,
        stock=Sold(*data.draw(st.sets(st.sampled_from(["s1", "s2"])))),
        budget=Lacks(**{name: data.draw(st.sampled_from(["", "", "budget", "pacing"])) for name in names}),
    )
    found = eligible(home(objects), visited)
    assert sorted([*found.excluded, *(each.id for each in found.candidates)]) == sorted([*ids, "red", "blue"])
    assert len({each.line.priority for each in found.candidates}) <= 1
    for text in found.excluded.values():
        assert Reason(text.partition(":")[0]) in MEANINGS
    for number, body in enumerate(bodies):
        alone = eligible(home(shop(*line(f"l{number}", **body), without=("lines", "shoes"))), visited)
        reason = found.excluded.get(f"of-l{number}", "")
        assert alone.excluded.get(f"of-l{number}", "") == ("" if reason.startswith("priority") else reason)

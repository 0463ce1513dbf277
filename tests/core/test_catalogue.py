"""The catalogue: what counts as published, what is left out and named, and what stands where."""

from random import Random

import pytest
from catalogue_rig import NOW_MS, home, line, shop, stored
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.caps import CapRule
from pipeline.core.catalogue import EMPTY, Catalogue, Held
from pipeline.core.decide import Ask, Known, decide, make_id
from pipeline.core.policy import POLICIES, PolicyRules
from schemas.campaign import DAY_MS, Status, Stored
from schemas.outcome import OWN_REVENUE, GoalTerms

ABOVE = [("advertisers", "adv"), ("campaigns", "spring"), ("lines", "shoes"), ("creatives", "red")]
GOALS = [{"event": "purchase"}, {"event": "subscribe", "value_micros": 5, "window_ms": 9}]
PAIRS = [(kind, name, status) for kind, name in ABOVE for status in Status]


def with_status(kind: str, name: str, status: Status) -> Catalogue:
    objects = shop()
    objects[kind, name] = objects[kind, name].model_copy(update={"status": status})
    return Catalogue(objects)


@pytest.mark.parametrize(("kind", "name", "status"), PAIRS)
def test_a_creative_counts_only_while_it_and_all_above_it_are_published(kind: str, name: str, status: Status) -> None:
    catalogue = with_status(kind, name, status)
    assert ("red" in catalogue.creatives) is (status is Status.PUBLISHED)
    placement = catalogue.placement("home")
    assert placement is not None
    held = [each for each in placement.held if each.creative_id == "red"]
    assert held == ([Held("red", kind.removesuffix("s"))] if status is Status.PAUSED else [])
    assert catalogue.unreadable == {}


def test_what_is_paused_highest_is_said() -> None:
    objects = shop(stored("campaigns", "spring", "paused", advertiser="adv"))
    objects["creatives", "red"] = objects["creatives", "red"].model_copy(update={"status": Status.PAUSED})
    assert home(objects).held == (Held("blue", "campaign"), Held("red", "campaign"))
    assert home(objects).lines == ()


@pytest.mark.parametrize("status", [Status.DRAFT, Status.PAUSED, Status.ENDED])
def test_a_placement_that_is_not_published_is_not_known(status: Status) -> None:
    assert with_status("placements", "home", status).placement("home") is None
    assert Catalogue(shop()).placement("elsewhere") is None
    assert EMPTY.placement("home") is None


@pytest.mark.parametrize("missing", ABOVE[:3])
def test_what_has_no_parent_is_left_out_and_is_no_error(missing: tuple[str, str]) -> None:
    """The parent may come later in the log."""
    catalogue = Catalogue(shop(without=missing))
    assert catalogue.creatives == {}
    assert catalogue.unreadable == {}


def test_an_object_that_cannot_be_read_is_left_out_with_what_stands_under_it_and_named() -> None:
    objects = shop(*line("hats"))
    objects["lines", "hats"] = stored("lines", "hats", campaign="spring", placements=["home"], colour="new in v9")
    objects["creatives", "blue"] = stored("creatives", "blue", line="shoes", url=7)
    catalogue = Catalogue(objects)
    assert set(catalogue.creatives) == {"red"}
    assert catalogue.unreadable == {
        "lines/hats": "colour: Extra inputs are not permitted",
        "creatives/of-hats": "lines/hats cannot be read",
        "creatives/blue": "url: Input should be a valid string",
    }


def test_a_line_whose_audience_does_not_parse_is_left_out_with_the_position() -> None:
    catalogue = Catalogue(shop(*line("hats", audience="profile.visitz > 3")))
    assert set(catalogue.creatives) == {"red", "blue"}
    assert catalogue.unreadable["lines/hats"].startswith("audience: character 0: found profile.visitz, expected")
    assert catalogue.unreadable["creatives/of-hats"] == "lines/hats cannot be read"


def test_a_line_is_shown_at_its_placements_of_its_channels_the_highest_priority_first() -> None:
    more = [
        stored("placements", "inbox", channel="mail"),
        *line("everywhere", placements=["home", "inbox", "home", "no-such-place"], priority=3),
        *line("by-mail", placements=["home", "inbox"], channels=["mail"], priority=9),
        *line("no-creative"),
    ]
    objects = shop(*more, without=("creatives", "of-no-creative"))
    catalogue = Catalogue(objects)
    lines = {name: [each.id for each in place.lines] for name, place in catalogue.placements.items()}
    assert lines == {"home": ["shoes", "everywhere"], "inbox": ["by-mail", "everywhere"]}


def test_a_line_knows_what_is_needed_to_judge_pay_and_learn() -> None:
    price = {"per": "impression", "micros": 2_000_000}
    cap = {"count": 3, "per": "day"}
    campaign = stored("campaigns", "spring", advertiser="adv", caps=[cap], goals=GOALS, currency="CHF")
    body = {"price": price, "budget": {"daily_micros": 5}, "caps": [{"count": 1, "per": "hour"}], "skus": ["s1"]}
    hats = line("hats", **body, audience='context.country == "DE"', schedule={"zone": "Asia/Tokyo"}, labels={"a": "b"})
    catalogue = Catalogue(shop(campaign, *hats))
    found = catalogue.lines["hats"]
    assert (found.pays_for, found.each_micros, found.campaign_id) == ("impression", 2_000, "spring")
    assert found.caps == (
        CapRule("campaign", "spring", "day", 3, ("campaign", "spring"), 1),
        CapRule("line", "hats", "hour", 1, ("line", "hats"), 0),
    )
    assert found.goals == (GoalTerms("purchase", OWN_REVENUE, 7 * DAY_MS), GoalTerms("subscribe", 5, 9))
    assert (found.timetable.zone, found.timetable.budget_day(NOW_MS)) == ("Asia/Tokyo", "2026-09-21")
    assert (found.skus, found.labels, found.campaign.currency) == (("s1",), {"a": "b"}, "CHF")
    assert found.audience is not None
    assert str(found.audience) == 'context.country == "DE"'
    plain = catalogue.lines["shoes"]
    assert (plain.audience, plain.pays_for, plain.each_micros) == (None, "", 0)
    (creative,) = found.creatives
    assert (creative.line, creative.line_id, creative.price) == (found, "hats", found.price)


def test_a_line_s_goals_go_before_its_campaign_s_and_an_older_single_one_is_read() -> None:
    """The older spelling's default, a click without a value, never meant anything."""
    campaign = stored("campaigns", "spring", advertiser="adv", goals=GOALS)
    hats, caps = line("hats", goals=[{"event": "click", "value_micros": 3, "window_ms": 4}]), line("caps")
    older = line("older", goal={"event": "subscribe", "value_micros": 6, "window_ms": 7})
    nothing = line("nothing", goal={"event": "click", "value_micros": None, "window_ms": 604_800_000})
    lines = Catalogue(shop(campaign, *hats, *caps, *older, *nothing)).lines
    assert lines["hats"].goals == (GoalTerms("click", 3, 4),)
    assert lines["older"].goals == (GoalTerms("subscribe", 6, 7),)
    assert lines["caps"].goals == lines["nothing"].goals == lines["hats"].campaign.goals != ()
    assert Catalogue(shop()).lines["shoes"].goals == ()


@pytest.mark.parametrize(("body", "told"), [
    ({"goals": [{"event": "click", "value_micros": 1}, {"event": "click", "value_micros": 2}]},
     "goals: Value error, two goals are for click; expected one goal for each event"),
    ({"goals": [{"event": "impression"}]},
     "goals.0: Value error, value_micros: impressions have no revenue of their own; expected what one is worth"),
    ({"goals": [], "goal": {"event": "purchase"}}, "Value error, goal and goals are both given; expected goals alone"),
    ({"goals": [{"value_micros": 3}]}, "goals.0.event: Field required"),
    ({"goals": [{"event": "purchase", "window_ms": 91 * 86_400_000}]}, "goals.0.window_ms: Input should be less than"),
    ({"goal": "click"}, "goals.0: Input should be a valid dictionary"),
])  # fmt: skip
def test_goals_that_make_no_sense_say_what_is_wrong(body: dict[str, object], told: str) -> None:
    unreadable = Catalogue(shop(*line("hats", **body))).unreadable
    assert unreadable["lines/hats"].startswith(told)


def test_its_creatives_are_candidates_for_a_decision() -> None:
    candidates = home(shop()).lines[0].creatives
    policy = POLICIES["thompson"]({}, PolicyRules(0.1, 0.5, 2.0))
    log = decide(Ask("home", "", candidates), Known(policy, ""), make_id(NOW_MS, "", 1), "seed")
    assert log.candidates == ["blue", "red"]
    (choice,) = log.choices
    assert (choice.campaign_id, choice.creative_id) == ("spring", choice.action_id)
    assert log.features == {"red": {"colour": "red"}}


def test_a_change_makes_a_new_catalogue_and_leaves_the_old_one_as_it_was() -> None:
    objects = shop()
    old = Catalogue(objects)
    new = Catalogue({**objects, ("creatives", "red"): stored("creatives", "red", "ended", line="shoes")}, None, old)
    assert (set(old.creatives), set(new.creatives)) == ({"red", "blue"}, {"blue"})
    assert [each.id for each in old.lines["shoes"].creatives] == ["blue", "red"]


def told(catalogue: Catalogue) -> dict[str, tuple[list[str], tuple[Held, ...]]]:
    """What each placement shows and holds."""
    return {name: ([each.id for each in place.lines], place.held) for name, place in catalogue.placements.items()}


def test_a_body_that_has_changed_is_read_anew() -> None:
    old = Catalogue(shop())
    new = Catalogue(
        shop(stored("creatives", "red", line="shoes", version=2, url="https://shop.example/new")), None, old
    )
    assert (new.creatives["red"].url, new.creatives["red"].version) == ("https://shop.example/new", 2)
    broken = Catalogue(shop(stored("creatives", "red", line="shoes", url=7)), None, new)
    assert set(broken.creatives) == {"blue"}


STATUSES = st.sampled_from([*Status, Status.PUBLISHED, Status.PUBLISHED])


@given(st.lists(st.tuples(st.sampled_from(sorted(shop())), STATUSES), max_size=8), st.randoms())
def test_it_depends_on_the_objects_alone_not_on_their_order_or_on_the_catalogue_before(
    changes: list[tuple[tuple[str, str], Status]], order: Random
) -> None:
    objects: dict[tuple[str, str], Stored] = shop()
    catalogue = Catalogue(objects)
    for key, status in changes:
        objects[key] = objects[key].model_copy(update={"status": status})
        catalogue = Catalogue(dict(objects), None, catalogue)
    mixed = sorted(objects.items(), key=lambda each: order.random())
    fresh = Catalogue(dict(mixed))
    assert set(catalogue.creatives) == set(fresh.creatives)
    assert told(catalogue) == told(fresh)

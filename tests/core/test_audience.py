"""Audiences: what they mean, how they are refused, and the laws of printing, evaluating and explaining them."""

from collections import Counter

import pytest
from audience_rig import DAY_MS, FACTS, NAMES, NOW_MS, SEGMENT_NAMES, TREES, holds
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.audience import (
    LEVELS_MAX,
    PARTS_MAX,
    SEGMENT_TEXTS,
    SEGMENTS,
    Audience,
    AudienceError,
    Explained,
    Facts,
    define,
    explain,
    parse,
)
from pipeline.core.audience_fields import FIELDS, OPERATORS
from pipeline.core.audience_parse import DEPTH_MAX
from pipeline.core.audience_tree import Tree, render
from pipeline.core.audience_words import CHARS_MAX
from pipeline.core.profile import ProfileRules
from schemas.profile import Interest, Profile

ANN = Profile(
    first_seen_ms=NOW_MS - 100 * DAY_MS,
    last_seen_ms=NOW_MS - 60_000,
    events=40,
    visits=5,
    pages=20,
    impressions=9,
    clicks=3,
    add_to_carts=2,
    purchases=2,
    revenue_micros=119_980_000,
    order_value_mean_micros=59_990_000.0,
    visit_interval_mean_ms=7.0 * DAY_MS,
    visit_interval_count=4,
    satisfaction_mean=0.8,
    satisfaction_count=1,
    engagement=3.5,
    interests={"shoes.red": Interest(2.0, NOW_MS), "hats": Interest(0.5, NOW_MS)},
    devices={"mobile": 30, "desktop": 10},
    channels={"email": 3},
    last_campaign="spring-sale",
    last_channel="email",
    user_id="u-1",
    site="shop",
    visit_began_ms=NOW_MS - 600_000,
    visit_events=7,
    visit_pages=4,
)
HERE = Facts(
    NOW_MS, ANN, {"country": "DE", "path": "/shoes/red", "plan": "gold", "age": 41, "beta": True, "host": "a.at"}
)
NOBODY = Facts(NOW_MS, None, HERE.context)
NUMBER_SIGNS = "one of ==, !=, <, <=, >, >=, in, not in after profile.visits, which is a number"
TEXT_SIGNS = "one of ==, !=, <, <=, >, >=, in, not in, contains, starts_with, ends_with after"


def refused(text: str) -> AudienceError:
    with pytest.raises(AudienceError) as caught:
        parse(text)
    return caught.value


TRUE_OF_ANN = [
    "",
    "profile.visits >= 5",
    "profile.visits == 5.0",
    "profile.events > 39 and profile.pages <= 20 and profile.impressions < 10",
    "profile.clicks == 3 and profile.add_to_carts == 2 and profile.purchases in (1, 2)",
    "profile.revenue >= 119.98 and profile.revenue <= 119.98",
    "profile.order_value == 59.99",
    "profile.satisfaction > 0.5 and profile.engagement == 3.5",
    "profile.first_seen before 90d and not profile.first_seen before 100d",
    "profile.first_seen within 100d",
    "profile.last_seen within 1m and not profile.last_seen within 59s",
    "profile.visit_interval == 1w and profile.visit_interval < 8d",
    'profile.interests["shoes"] > 1.5 and profile.interests["bags"] == 0',
    'profile.interest == "shoes.red"',
    'profile.devices["mobile"] == 30 and profile.device == "mobile" and profile.devices["tv"] == 0',
    'profile.channels["email"] >= 3 and profile.last_channel == "email"',
    'profile.last_campaign starts_with "spring" and profile.last_campaign ends_with "sale"',
    'has(profile.user_id) and profile.user_id != "u-2" and profile.site == "shop"',
    "not profile.is_bot and profile.is_bot == false",
    "session.pages > 3 and session.events == 7 and session.age >= 10m and session.age < 601s",
    "context.country in ('DE', 'AT') and context.country not in (\"FR\")",
    'context.path contains "/red" and context.host ends_with ".at"',
    'context["plan"] == "gold" and context["age"] >= 18 and context["beta"] == true',
    'segment("loyal") and segment("repeat_buyer") and not segment("new")',
    'NOT (profile.visits < 5 OR context.country == "FR") AND profile.is_bot == FALSE',
]


@pytest.mark.parametrize("text", TRUE_OF_ANN)
def test_each_of_these_is_said_of_ann(text: str) -> None:
    audience = parse(text)
    assert audience.holds(HERE) is True
    assert parse(str(audience)).tree == audience.tree


def test_every_field_is_asked_for_above() -> None:
    """So each field's reading is checked against a visitor with known numbers, or against the context."""
    asked = " ".join(TRUE_OF_ANN)
    assert [each.name for each in FIELDS if not each.name.startswith("context.") and each.name not in asked] == []
    for each in FIELDS:
        if each.name.startswith("context."):
            there = Facts(NOW_MS, None, {each.name.removeprefix("context."): "x"})
            assert parse(f'{each.name} == "x"').holds(there)


def test_fields_and_operators_are_listed_once_and_their_examples_parse() -> None:
    assert len({each.name for each in FIELDS}) == len(FIELDS)
    assert all(str(parse(each.example)) for each in OPERATORS)
    for each in FIELDS:
        parse(f'has({each.name}["x"])' if each.is_keyed else f"has({each.name})")


def test_and_binds_closer_than_or_and_not_closer_than_both() -> None:
    text = "profile.is_bot and profile.is_bot or not profile.is_bot or profile.is_bot"
    assert (
        parse(text).tree == parse("(profile.is_bot and profile.is_bot) or (not profile.is_bot) or profile.is_bot").tree
    )
    assert parse(text).holds(HERE)


@pytest.mark.parametrize(
    "text",
    [
        "profile.visits >= 0",
        "profile.visits != 3",
        "profile.last_seen within 30d",
        "profile.last_seen before 30d",
        'profile.last_channel not in ("email")',
        "profile.is_bot == false",
        "session.pages >= 0",
        'context.city != "Berlin"',
        'context["country"] > 3',
        'context["country"] == true',
        "has(profile.visits)",
        'segment("new")',
    ],
)
def test_a_comparison_with_what_is_not_known_is_false_and_its_not_is_true(text: str) -> None:
    assert parse(text).holds(NOBODY) is False
    assert parse(f"not ({text})").holds(NOBODY) is True


def test_a_visitor_who_was_never_seen_has_counts_of_zero_and_no_dates() -> None:
    new = Facts(NOW_MS, Profile())
    assert parse('profile.visits == 0 and segment("new") and profile.interests["x"] == 0').holds(new)
    assert not parse("profile.first_seen within 1d or profile.last_seen before 1s or profile.order_value >= 0").holds(
        new
    )


def test_a_number_that_is_none_is_not_known() -> None:
    facts = Facts(NOW_MS, None, {"age": float("nan"), "size": 10**400})
    assert not parse('context["age"] != 3 or context["age"] == 3 or has(context["age"])').holds(facts)
    assert parse('context["size"] > 3').holds(facts)


def test_a_session_is_over_after_the_gap() -> None:
    rules = ProfileRules(gap_ms=60_000)
    audience = parse("session.pages >= 0")
    assert audience.holds(Facts(NOW_MS, ANN, {}, rules))
    assert not audience.holds(Facts(NOW_MS + 1, ANN, {}, rules))


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("profile.visit >= 3", 0, "profile.visits"),
        ('context.cuntry == "DE"', 0, "context.country or context."),
        ("visits >= 3", 0, "a field that begins with profile., session. or context."),
        ("session.clicks > 1", 0, "one of session.pages, session.events, session.age"),
        ('profile.visits >= "3"', 18, "a number"),
        ("context.country == 3", 19, 'a text in quotes, "…"'),
        ("context.country == DE", 19, 'a text in quotes, "…"'),
        ('context.country in ("DE", 3)', 26, 'a text in quotes, "…"'),
        ('context.country in "DE"', 19, "( and a list of values"),
        ('context.country in ("DE" "AT")', 25, ", or )"),
        ('context["x"] in (1, "a")', 20, "a number"),
        ('context.country == ""', 19, "a text that is not empty (`not has(…)` asks whether there is none)"),
        ('profile.visits contains "3"', 15, NUMBER_SIGNS),
        ("profile.last_seen > 30d", 18, "one of within, before after profile.last_seen, which is a time"),
        ("profile.last_seen within 30", 25, "a duration such as 30d"),
        ("profile.last_seen within 30y", 27, "one of w, d, h, m, s after a duration's number"),
        ("profile.last_seen within 0d", 25, "a duration: a whole number above 0, at most 36500d"),
        ("profile.last_seen within 1.5d", 25, "a duration: a whole number above 0, at most 36500d"),
        ("profile.is_bot > true", 15, "one of ==, != after profile.is_bot, which is true or false"),
        ("profile.is_bot == 1", 18, "true or false"),
        ("profile.visits", 14, NUMBER_SIGNS),
        ("profile.visits = 3", 15, "== (is)"),
        ("profile.visits >= 3 && profile.is_bot", 20, "and"),
        ("profile.visits >= 3 profile.is_bot", 20, "and, or, or the end"),
        ("profile.visits >= 3 and", 23, "a field such as profile.visits, or (, not, has, segment"),
        ("(profile.visits >= 3", 20, "and, or, or )"),
        ("profile.visits >= 3)", 19, "and, or, or the end"),
        ("()", 1, "a field such as profile.visits, or (, not, has, segment"),
        ("3 < profile.visits", 0, "a field such as profile.visits, or (, not, has, segment"),
        ("profile.visits not 3", 19, "in"),
        ("profile.interests > 3", 18, '["…"] after profile.interests'),
        ('profile.interests[""] > 3', 18, 'a name in quotes, "…"'),
        ('profile.visits["a"] > 3', 14, "no [ after profile.visits"),
        ('segment("loyl")', 8, 'the name of a segment, such as "loyal"'),
        ("segment(loyal)", 8, 'a segment\'s name in quotes, "…"'),
        ("has(3)", 4, "a field such as profile.visits, or (, not, has, segment"),
        ('context.country == "DE', 19, 'a closing "'),
        (r'context.country == "D\E"', 21, r"\\, \" or \' after a backslash"),
        ("context.country == “DE”", 19, 'straight quotes, "…"'),
        ("profile.visits > 1e400", 17, "a number between -9007199254740992 and 9007199254740992"),
        ("profile.visits > " + "9" * 25, 17, "a number of at most 24 characters"),
        ('context["x"] within 3d', 13, TEXT_SIGNS),
    ],
)  # fmt: skip
def test_what_is_no_audience_is_refused_with_its_place_and_what_was_expected(
    text: str, position: int, expected: str
) -> None:
    error = refused(text)
    assert (error.position, error.expected[: len(expected)]) == (position, expected)
    shown, caret = str(error).splitlines()[-2:]
    assert shown[len(caret) - 1 :][:1] == text[position : position + 1]


def test_the_message_shows_the_place_with_a_caret_also_in_a_long_text_of_many_lines() -> None:
    assert str(refused("profile.visits >= 3\nand profile.visitz > 1")) == (
        "character 24: found profile.visitz, expected profile.visits or profile.site\n"
        "profile.visits >= 3 and profile.visitz > 1\n"
        "                        ^"
    )
    long = "profile.is_bot or " * 20 + "oops" + " or profile.is_bot" * 20
    _, shown, caret = str(refused(long)).splitlines()
    assert shown[0] == shown[-1] == "…"
    assert shown[len(caret) - 1 :].startswith("oops")


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("(" * 10_000 + "profile.is_bot" + ")" * 10_000, CHARS_MAX),
        ("(" * 2_000 + "profile.is_bot" + ")" * 2_000, DEPTH_MAX + 1),
        ("not " * 1_000 + "profile.is_bot", 4 * (DEPTH_MAX + 1)),
        ("context.country in (" + ",".join(['"a"'] * 600) + ")", 20 + 4 * 500 - 1),
    ],
)
def test_what_is_too_deep_or_too_much_is_refused_and_nothing_overflows(text: str, position: int) -> None:
    error = refused(text)
    assert error.position == position
    assert "at most" in error.expected


def test_as_deep_as_is_allowed_it_parses() -> None:
    assert parse("(" * DEPTH_MAX + "profile.visits == 5" + ")" * DEPTH_MAX).holds(HERE)
    assert parse("not " * DEPTH_MAX + "profile.visits == 5").holds(HERE) is (DEPTH_MAX % 2 == 0)


def test_segments_that_multiply_are_refused_before_they_are_asked() -> None:
    texts = {"s0": "profile.visits > 1"}
    texts |= {f"s{n + 1}": f'segment("s{n}") or segment("s{n}")' for n in range(40)}
    with pytest.raises(AudienceError, match=rf"segment 's\d+'.*at most {PARTS_MAX} parts in {LEVELS_MAX} levels"):
        define(texts, {})
    chain = {"s0": "profile.visits > 1"} | {f"s{n + 1}": f'segment("s{n}")' for n in range(200)}
    with pytest.raises(AudienceError, match="levels"):
        define(chain, {})


def test_a_segment_may_name_those_before_it_and_no_others() -> None:
    known = define({"big": "profile.revenue > 100", "big_and_loyal": 'segment("big") and segment("loyal")'})
    assert parse('segment("big_and_loyal")', known).holds(HERE)
    with pytest.raises(AudienceError, match=r"segment 'a'.*found \"b\"") as caught:
        define({"a": 'segment("b")', "b": "profile.is_bot"})
    assert caught.value.position == 8
    assert set(SEGMENTS) == set(SEGMENT_TEXTS)


@pytest.mark.parametrize(
    ("text", "is_personal"),
    [
        ("", False),
        ('context.country == "DE"', False),
        ("not session.pages > 3", True),
        ('context.country == "DE" or segment("loyal")', True),
        ("has(profile.user_id)", True),
        ("profile.is_bot", True),
    ],
)
def test_an_audience_knows_whether_it_asks_about_the_visitor(text: str, is_personal: bool) -> None:
    assert parse(text).is_personal is is_personal


def test_only_the_empty_text_is_everyone() -> None:
    assert parse("").is_everyone
    assert parse(" \n\t ").is_everyone
    assert not parse("has(profile.visits)").is_everyone


def test_the_explanation_shows_what_was_found_in_each_part() -> None:
    text = (
        'profile.visits >= 9 and (segment("lapsed") or context.city == "Berlin") and not profile.first_seen within 9d'
    )
    told = explain(parse(text), HERE)
    assert (told.held, told.found) == (False, None)
    visits, either, seen = told.parts
    assert (visits.text, visits.held, visits.found) == ("profile.visits >= 9", False, 5)
    lapsed, city = either.parts
    assert lapsed.parts[0].text == "profile.last_seen before 30d"
    assert lapsed.parts[0].found == "2026-09-21T14:12:20+00:00"
    assert (city.held, city.found) == (False, None)
    assert seen.held
    assert explain(parse("profile.visit_interval > 2d"), HERE).found == "7.0d"


@given(TREES)
@settings(max_examples=200, deadline=None)
def test_printed_and_parsed_again_it_is_the_same_tree(tree: Tree) -> None:
    text = render(tree)
    if len(text) <= CHARS_MAX:
        assert parse(text).tree == tree


@given(TREES, FACTS)
@settings(max_examples=200, deadline=None)
def test_compiled_it_says_what_it_says_word_by_word(tree: Tree, facts: Facts) -> None:
    segments = {name: SEGMENTS[name].tree for name in SEGMENTS}
    audience = Audience(render(tree), tree, SEGMENTS)
    assert audience.holds(facts) is holds(tree, facts, segments)


@given(TREES, FACTS)
@settings(max_examples=100, deadline=None)
def test_the_explanation_s_root_is_the_answer(tree: Tree, facts: Facts) -> None:
    audience = Audience(render(tree), tree, SEGMENTS)
    told = explain(audience, facts)
    assert told.held is audience.holds(facts)
    assert told.text == str(audience)
    assert _is_whole(told)


def _is_whole(told: Explained) -> bool:
    return bool(told.text) and all(map(_is_whole, told.parts))


WORDS = [each.name for each in FIELDS] + [each.sign for each in OPERATORS]
WORDS += [
    "and",
    "or",
    "not",
    "has",
    "segment",
    "(",
    ")",
    "[",
    "]",
    ",",
    '"',
    "'",
    "\\",
    '"DE"',
    "30d",
    "3",
    "-1.5",
    "true",
]
WORDS += [f'"{name}"' for name in SEGMENT_NAMES]
SOUP = (
    st.text(max_size=60)
    | st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)
    | st.lists(st.sampled_from(WORDS) | NAMES, max_size=10).map("".join)
)


@st.composite
def nearly(draw: st.DrawFn) -> str:
    """What asks for something, with up to two of its words replaced, left out or repeated."""
    words = draw(st.sampled_from(TRUE_OF_ANN) | TREES.map(render))[:CHARS_MAX].split(" ")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(words) - 1))
        words[at : at + 1] = draw(st.sampled_from([[], words[at : at + 1] * 2, [draw(st.sampled_from(WORDS))]]))
        words = words or [""]
    return " ".join(words)


def parsed(text: str) -> Audience | AudienceError:
    """What becomes of a text; any other exception is a failure."""
    try:
        return parse(text)
    except AudienceError as error:
        return error


def test_any_text_is_an_audience_or_is_refused_at_a_place_in_it() -> None:
    audiences: Counter[bool] = Counter()

    @settings(max_examples=300)
    @given(nearly() | nearly() | SOUP)
    def is_either(text: str) -> None:
        found = parsed(text)
        audiences[isinstance(found, Audience)] += 1
        if isinstance(found, AudienceError):
            assert 0 <= found.position <= len(text)
            assert found.expected
            assert len(str(found)) < 2_000
        else:
            assert parse(str(found)).tree == found.tree
            assert found.holds(HERE) in (True, False)

    is_either()
    assert min(audiences[True], audiences[False]) > 15, audiences


@given(TREES, st.data())
@settings(max_examples=150, deadline=None)
def test_a_text_with_one_character_changed_is_an_audience_or_refused(tree: Tree, data: st.DataObject) -> None:
    text = render(tree)[:CHARS_MAX]
    at = data.draw(st.integers(0, len(text)))
    changed = text[:at] + data.draw(st.characters() | st.sampled_from(["", "(", '"', "\\"])) + text[at + 1 :]
    found = parsed(changed)
    if isinstance(found, AudienceError):
        assert 0 <= found.position <= len(changed)
    else:
        assert found.holds(HERE) in (True, False)

"""Campaigns as YAML: what is written is read again as it was, and every fault of a file is named."""

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.campaigns import rules, yaml_file
from pipeline.campaigns.yaml_file import FileError
from schemas.campaign import KINDS, Status, Stored

TRAPS = ["no", "Yes", "12:30", "1e5", "08", "0x1f", "1_000", "~", "null", "2026-01-01", "=", "<<", ".5", "+1", "", " x"]
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12) | st.sampled_from(TRAPS)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(TRAPS[:-2])
KEYS = st.from_regex(r"[a-z0-9](?:[a-z0-9_.-]{0,6}[a-z0-9])?", fullmatch=True)
LABELS = st.dictionaries(TEXT, TEXT, max_size=3)
FEATURES = st.dictionaries(
    st.from_regex(r"[ -~]{1,5}", fullmatch=True),
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    max_size=3,
)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()).map(
    lambda one: one.isoformat()
)
SCHEDULES = st.fixed_dictionaries({}, optional={"starts_at": MOMENTS, "zone": st.sampled_from(["UTC", "Asia/Tokyo"])})
LINES = st.fixed_dictionaries(
    {"id": KEYS, "campaign": KEYS, "name": NAMES, "placements": st.lists(KEYS, min_size=1, max_size=3)},
    optional={
        "schedule": SCHEDULES, "labels": LABELS, "priority": st.integers(1, 10), "skus": st.lists(NAMES, max_size=2),
        "caps": st.lists(st.fixed_dictionaries({"count": st.integers(1, 9), "per": st.just("day")}), max_size=2),
        "goals": st.lists(
            st.fixed_dictionaries(
                {"event": st.sampled_from(["click", "purchase", "subscribe"]), "value_micros": st.integers(1, 9)},
                optional={"window_ms": st.integers(1, 9)},
            ),
            max_size=3,
            unique_by=lambda goal: goal["event"],
        ),
        "price": st.fixed_dictionaries({"per": st.just("click"), "micros": st.integers(1, 10**9)}),
    },
)  # fmt: skip
CREATIVES = st.fixed_dictionaries(
    {"id": KEYS, "line": KEYS, "name": NAMES},
    optional={"labels": LABELS, "features": FEATURES, "content": st.dictionaries(TEXT, NAMES, max_size=3)},
)


def stored(kind: str, given: Mapping[str, Any], status: Status) -> Stored:
    body = rules.as_json(KINDS[kind].model_validate(given))
    return Stored(kind=kind, id=body["id"], version=3, status=status, changed_ms=1, changed_by="ann", body=body)


@given(st.lists(LINES, unique_by=lambda one: one["id"], max_size=3),
       st.lists(CREATIVES, unique_by=lambda one: one["id"], max_size=3), st.sampled_from(Status))  # fmt: skip
def test_what_is_written_is_read_again_as_it_was(
    lines: list[dict[str, Any]], creatives: list[dict[str, Any]], status: Status
) -> None:
    objects = [stored("lines", one, status) for one in lines] + [stored("creatives", one, status) for one in creatives]
    found = yaml_file.read(yaml_file.write(objects))
    wanted = sorted((one.kind, one.id, repr(one.body), one.status) for one in objects)
    assert sorted((one.kind, one.id, repr(rules.as_json(one.body)), one.status) for one in found) == wanted
    again = [stored(one.kind, one.body.model_dump(mode="json"), status) for one in found]
    assert yaml_file.write(again) == yaml_file.write(objects)


def test_a_word_is_no_boolean_a_time_of_day_no_number_and_ten_is_ten() -> None:
    """`no`, `12:30` and `010` are what YAML 1.1 makes a false, a 750 and an 8 of."""
    (one,) = yaml_file.read("creatives: [{id: a, line: b, name: no, labels: {at: 12:30}, features: {n: 010, m: 1e3}}]")
    values = rules.as_json(one.body)
    assert (values["name"], values["labels"], values["features"]) == ("no", {"at": "12:30"}, {"n": 10, "m": 1000.0})


def test_the_objects_come_behind_those_that_they_name() -> None:
    text = """
    creatives: [{id: c, line: l, name: C}]
    lines: [{id: l, campaign: s, name: L, placements: [home]}]
    placements: [{id: home, name: H}]
    """
    assert [one.kind for one in yaml_file.read(text)] == ["placements", "lines", "creatives"]


@pytest.mark.parametrize("text", ["", "{}", "# nothing", "lines:", "lines: []"])
def test_a_file_may_hold_nothing(text: str) -> None:
    assert yaml_file.read(text) == []


@pytest.mark.parametrize(("text", "told"), [
    ("lines: [", "it is no YAML"), ("just words", "expected a mapping"), ("[1]", "expected a mapping"),
    ("banners: []", "banners: unknown; expected some of advertisers"), ("lines: {a: 1}", "lines: expected a list"),
    ("lines: [7]", "lines[0]: expected an object"), ("advertisers: [{id: a}]", "advertisers/a: name: Field required"),
    ("advertisers: [{id: a, name: A}, {id: a, name: B}]", "advertisers/a: it stands here twice"),
    ("advertisers: [{id: a, name: A, name: B}]", "'name' stands here twice"),
    ("advertisers: [{id: a, name: A, status: live}]", "status: 'live', expected one of draft"),
    ("advertisers: [{id: a, name: A, status: [draft]}]", "expected one of draft"),
    ("advertisers: [{id: 7, name: A}]", "id: Input should be a valid string"),
    ("advertisers: [{id: a, name: A, colour: red}]", "colour: Extra inputs are not permitted"),
    ("campaigns: [{id: c, advertiser: a, name: C, schedule: {starts_at: 2026-02-01T00:00:00Z, "
     "ends_at: 2026-01-01T00:00:00Z}}]", "ends_at 2026-01-01T00:00:00+00:00 is not after starts_at"),
    ("&a [*a]", "expected a mapping"), ("a: !!python/object:os.system {}", "it is no YAML"),
])  # fmt: skip
def test_a_fault_is_named_with_its_place(text: str, told: str) -> None:
    with pytest.raises(FileError) as failure:
        yaml_file.read(text)
    assert told in str(failure.value)


def test_all_faults_are_named_at_once_up_to_a_screen() -> None:
    many = ", ".join(f"{{id: a{number}}}" for number in range(50))
    with pytest.raises(FileError) as failure:
        yaml_file.read(f"advertisers: [{many}]\nbanners: []")
    lines = str(failure.value).splitlines()
    assert len(lines) == yaml_file.ERRORS_SHOWN_MAX + 1
    assert lines[-1] == "and 31 more"


@given(st.text(max_size=60) | st.text("lines:[]{} \n&*!-a?'\"|>%@`", max_size=60))
def test_no_text_ends_in_anything_but_objects_or_faults(text: str) -> None:
    found = []
    with contextlib.suppress(FileError):
        found = yaml_file.read(text)
    assert found == []

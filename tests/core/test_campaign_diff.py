"""What differs between two JSON objects: the laws of diff and patch."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.json_diff import Difference, Op, diff, patched

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3)
NAMES = st.text("ab/~0é", max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)


def same(one: object, other: object) -> bool:
    """As JSON texts: true is not 1."""
    return repr(_sorted(one)) == repr(_sorted(other))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, float):
        return value + 0.0  # -0.0 is 0.0
    return [_sorted(one) for one in value] if isinstance(value, list) else value


@given(OBJECTS, OBJECTS)
def test_the_differences_make_the_one_from_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert same(patched(before, diff(before, after)), after)


@given(OBJECTS, OBJECTS)
def test_there_are_differences_exactly_where_something_differs(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert diff(before, before) == []
    assert bool(diff(before, after)) is not same(before, after)


@given(OBJECTS, OBJECTS)
def test_the_way_back_is_the_way_there_turned_round(before: dict[str, Any], after: dict[str, Any]) -> None:
    turned = {Op.ADD: Op.REMOVE, Op.REMOVE: Op.ADD, Op.REPLACE: Op.REPLACE}
    there = {(one.path, turned[one.op], repr(one.after), repr(one.before)) for one in diff(before, after)}
    assert there == {(one.path, one.op, repr(one.before), repr(one.after)) for one in diff(after, before)}


def test_places_are_json_pointers_and_lists_are_compared_as_a_whole() -> None:
    before = {"a": {"x/y": 1, "gone": None}, "list": [1, 2]}
    after = {"a": {"x/y": 1.0}, "list": [2, 1], "new": {}}
    assert diff(before, after) == [
        Difference(Op.REMOVE, "/a/gone", None, None),
        Difference(Op.REPLACE, "/a/x~1y", 1, 1.0),
        Difference(Op.REPLACE, "/list", [1, 2], [2, 1]),
        Difference(Op.ADD, "/new", None, {}),
    ]


def test_differences_of_something_else_are_refused() -> None:
    with pytest.raises(KeyError):
        patched({"a": 1}, [Difference(Op.REMOVE, "/b", 1, None)])
    with pytest.raises(KeyError):
        patched({"a": 1}, [Difference(Op.REPLACE, "/a/b", 1, 2)])

"""An audience's tree as one closure: no tree is walked when a visitor is asked about.

A comparison with what is not known (None) is false.
"""

from collections.abc import Callable, Mapping
from typing import Final, cast

from pipeline.core.audience_facts import Facts, Kind
from pipeline.core.audience_fields import BY_NAME, reader
from pipeline.core.audience_tree import And, Comparison, Has, InSegment, Literal, Not, Span, Tree, Truth

Holds = Callable[[Facts], bool]
_Number = Callable[[Facts], float | None]
_Text = Callable[[Facts], str | None]
_Any = Callable[[Facts], object]


def compile_tree(tree: Tree, segments: Mapping[str, Holds]) -> Holds:
    """Return the function that evaluates a tree; segments: those that it names."""
    if isinstance(tree, Comparison):
        return _comparison(tree)
    if isinstance(tree, InSegment):
        return segments[tree.name]
    if isinstance(tree, Not):
        part = compile_tree(tree.part, segments)
        return lambda facts: not part(facts)
    if isinstance(tree, Has):
        read = reader(BY_NAME[tree.field.name], tree.field.key, Kind.ANY)
        return lambda facts: read(facts) is not None
    if isinstance(tree, Truth):
        read = reader(BY_NAME[tree.field.name], tree.field.key, Kind.TRUTH)
        return lambda facts: read(facts) is True
    parts = tuple(compile_tree(part, segments) for part in tree.parts)
    return _all(parts) if isinstance(tree, And) else _any(parts)


def _all(parts: tuple[Holds, ...]) -> Holds:
    if len(parts) == 2:  # nearly always few: a generator in all() costs as much as two comparisons
        first, second = parts
        return lambda facts: first(facts) and second(facts)
    if len(parts) == 3:
        one, two, three = parts
        return lambda facts: one(facts) and two(facts) and three(facts)
    return lambda facts: all(part(facts) for part in parts)


def _any(parts: tuple[Holds, ...]) -> Holds:
    if len(parts) == 2:
        first, second = parts
        return lambda facts: first(facts) or second(facts)
    return lambda facts: any(part(facts) for part in parts)


def _comparison(tree: Comparison) -> Holds:
    wanted = tree.values[0]
    read = reader(BY_NAME[tree.field.name], tree.field.key, _kind_of(wanted))
    if tree.sign in ("in", "not in"):
        return _among(read, frozenset(tree.values), is_in=tree.sign == "in")
    if tree.sign in _AGO:
        assert isinstance(wanted, Span)
        return _AGO[tree.sign](cast(_Number, read), wanted.ms)
    if tree.sign in _TEXTS:
        return _TEXTS[tree.sign](cast(_Text, read), str(wanted))
    if tree.sign in _SAME:
        return _SAME[tree.sign](read, wanted.ms if isinstance(wanted, Span) else wanted)
    number = wanted.ms if isinstance(wanted, Span) else cast(float, wanted)
    return _ORDERS[tree.sign](cast(_Number, read), number)


def _kind_of(value: Literal) -> Kind:
    if isinstance(value, bool):
        return Kind.TRUTH
    return Kind.TEXT if isinstance(value, str) else Kind.NUMBER


def _among(read: _Any, values: frozenset[Literal], *, is_in: bool) -> Holds:
    if is_in:
        return lambda facts: read(facts) in values  # None is never one of them
    return lambda facts: (found := read(facts)) is not None and found not in values


def _less(read: _Number, wanted: float) -> Holds:
    return lambda facts: (found := read(facts)) is not None and found < wanted


def _at_most(read: _Number, wanted: float) -> Holds:
    return lambda facts: (found := read(facts)) is not None and found <= wanted


def _more(read: _Number, wanted: float) -> Holds:
    return lambda facts: (found := read(facts)) is not None and found > wanted


def _at_least(read: _Number, wanted: float) -> Holds:
    return lambda facts: (found := read(facts)) is not None and found >= wanted


def _same(read: _Any, wanted: object) -> Holds:
    return lambda facts: read(facts) == wanted


def _other(read: _Any, wanted: object) -> Holds:
    return lambda facts: (found := read(facts)) is not None and found != wanted


def _contains(read: _Text, wanted: str) -> Holds:
    return lambda facts: (found := read(facts)) is not None and wanted in found


def _starts_with(read: _Text, wanted: str) -> Holds:
    return lambda facts: (found := read(facts)) is not None and found.startswith(wanted)


def _ends_with(read: _Text, wanted: str) -> Holds:
    return lambda facts: (found := read(facts)) is not None and found.endswith(wanted)


def _within(read: _Number, span_ms: int) -> Holds:
    return lambda facts: (found := read(facts)) is not None and facts.now_ms - found <= span_ms


def _before(read: _Number, span_ms: int) -> Holds:
    return lambda facts: (found := read(facts)) is not None and facts.now_ms - found > span_ms


_ORDERS: Final = {"<": _less, "<=": _at_most, ">": _more, ">=": _at_least}
_SAME: Final = {"==": _same, "!=": _other}
_TEXTS: Final = {"contains": _contains, "starts_with": _starts_with, "ends_with": _ends_with}
_AGO: Final = {"within": _within, "before": _before}

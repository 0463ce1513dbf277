"""What differs between two JSON objects, by place: to be read by people, and enough to make the one from the other.

Objects are compared member by member, everything else (lists, too) as a whole. Places are JSON Pointers (RFC 6901).
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

Json = Mapping[str, object]


class Op(StrEnum):
    """What happened at a place; the words of JSON Patch (RFC 6902)."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"


class Difference(NamedTuple):
    """One place. before, after: None where there was, or is, nothing (see op), or where that is the value."""

    op: Op
    path: str
    before: object
    after: object


def diff(before: Json, after: Json) -> list[Difference]:
    """Return what has to be done to `before` to have `after`: places that are gone first, then in `after`'s order."""
    return list(_diff(before, after, ""))


def _diff(before: Json, after: Json, path: str) -> Iterator[Difference]:
    for name in before:
        if name not in after:
            yield Difference(Op.REMOVE, f"{path}/{_escaped(name)}", before[name], None)
    for name, now in after.items():
        place = f"{path}/{_escaped(name)}"
        if name not in before:
            yield Difference(Op.ADD, place, None, now)
            continue
        was = before[name]
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from _diff(was, now, place)
        elif not _is_same(was, now):
            yield Difference(Op.REPLACE, place, was, now)


def patched(before: Json, differences: Sequence[Difference]) -> dict[str, object]:
    """Return what `differences` make of `before`. Raises KeyError where they are not differences from it."""
    found = {name: dict(value) if isinstance(value, Mapping) else value for name, value in before.items()}
    for one in differences:
        first, goes_on, rest = one.path[1:].partition("/")
        name = _unescaped(first)
        if goes_on:
            inner = found[name]
            if not isinstance(inner, Mapping):
                raise KeyError(one.path)
            found[name] = patched(inner, [one._replace(path=f"/{rest}")])
        elif one.op is Op.REMOVE:
            del found[name]
        else:
            found[name] = one.after
    return found


def _is_same(one: object, other: object) -> bool:
    """As JSON has it: true is not 1, and lists have an order; 1 and 1.0 are written differently."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[name], other[name]) for name in one)
    return type(one) is type(other) and one == other


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _unescaped(name: str) -> str:
    return name.replace("~1", "/").replace("~0", "~")

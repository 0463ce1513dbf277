"""Audiences: to whom something is shown, as an expression that is checked when it is written and cheap when asked.

    profile.visits >= 3 and (segment("loyal") or profile.interests["shoes"] > 0.5) and not profile.is_bot

The grammar stands in audience_parse.py, the fields and operators in audience_fields.py. Truth has two values: a
comparison with what is not known is false, also one with `!=` and `not in`; `not` turns any false into true, so that
`not (profile.visits >= 3)` holds for those of whom nothing is known. `has(field)` asks whether it is known.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from pipeline.core.audience_compile import Holds, compile_tree
from pipeline.core.audience_facts import Facts, Kind, Value
from pipeline.core.audience_fields import BY_NAME, reader
from pipeline.core.audience_parse import parse_tree
from pipeline.core.audience_tree import And, Comparison, Has, InSegment, Not, Or, Ref, Tree, Truth, render
from pipeline.core.audience_words import AudienceError

__all__ = ["SEGMENTS", "Audience", "AudienceError", "Explained", "Facts", "define", "explain", "parse"]

PARTS_MAX: Final = 2_000  # with those of the segments: a segment that names segments multiplies
LEVELS_MAX: Final = 64


class Audience:
    """A parsed audience. holds(facts): whether a visitor belongs to it; raises nothing.

    text: as written. tree: what it means. is_personal: it asks about the visitor, not about the request alone.
    parts, levels: its size and depth, its segments' included.
    """

    __slots__ = ("holds", "is_personal", "levels", "parts", "segments", "text", "tree")

    def __init__(self, text: str, tree: Tree, segments: Mapping[str, "Audience"]) -> None:
        """segments: at least those that the tree names."""
        self.text = text
        self.tree = tree
        self.segments = {name: segments[name] for name in _segments_in(tree)}
        self.parts, self.levels = _size(tree, self.segments)
        self.is_personal = _is_personal(tree, self.segments)
        self.holds: Holds = compile_tree(tree, {name: each.holds for name, each in self.segments.items()})

    @property
    def is_everyone(self) -> bool:
        """True for the empty text."""
        return self.tree == And(())

    def __str__(self) -> str:
        """The audience as Herald writes it; parsed again it is the same tree."""
        return render(self.tree)


def parse(text: str, segments: Mapping[str, Audience] | None = None) -> Audience:
    """Return the audience of a text; the empty text is everyone.

    segments: those that `segment("…")` may name; None = SEGMENTS.
    Raises AudienceError, with the position and what was expected there.
    """
    known = SEGMENTS if segments is None else segments
    tree = parse_tree(text, known)
    parts, levels = _size(tree, known)
    if parts > PARTS_MAX or levels > LEVELS_MAX:
        expected = f"at most {PARTS_MAX} parts in {LEVELS_MAX} levels, those of its segments included"
        raise AudienceError(text, 0, expected, f"{parts} parts in {levels} levels")
    return Audience(text, tree, known)


def define(texts: Mapping[str, str], known: Mapping[str, Audience] | None = None) -> dict[str, Audience]:
    """Return named audiences: those known (None = SEGMENTS) and these, which may name those and the ones before them.

    Raises AudienceError whose message begins with the segment's name.
    """
    found = dict(SEGMENTS if known is None else known)
    for name, text in texts.items():
        try:
            found[name] = parse(text, found)
        except AudienceError as error:
            error.args = (f"segment {name[:64]!r}: {error}",)
            raise
    return found


class Explained(Struct):
    """Why an audience, or a part of it, held or not. found: the value met, None where it is not known.

    Times are shown as ISO 8601 UTC, durations in days, hours, … A part that did not decide is explained as well.
    """

    text: str
    held: bool
    found: Value | None = None
    parts: "list[Explained]" = []


def explain(audience: Audience, facts: Facts) -> Explained:
    """Return for a visitor which parts held, with the values found. The root's `held` is `audience.holds(facts)`."""
    return _explain(audience.tree, audience.segments, facts)


def _explain(tree: Tree, segments: Mapping[str, Audience], facts: Facts) -> Explained:
    if isinstance(tree, And | Or):
        parts = [_explain(part, segments, facts) for part in tree.parts]
        held = all(part.held for part in parts) if isinstance(tree, And) else any(part.held for part in parts)
        return Explained(render(tree), held, parts=parts)
    if isinstance(tree, Not):
        part = _explain(tree.part, segments, facts)
        return Explained(render(tree), not part.held, parts=[part])
    if isinstance(tree, InSegment):
        part = explain(segments[tree.name], facts)
        return Explained(render(tree), part.held, parts=[part])
    return Explained(render(tree), compile_tree(tree, {})(facts), _found(tree.field, facts))


def _found(ref: Ref, facts: Facts) -> Value | None:
    found = BY_NAME[ref.name]
    value = reader(found, ref.key, Kind.ANY)(facts)
    if value is None or found.kind not in (Kind.TIME, Kind.SPAN):
        return value
    return _moment(int(value)) if found.kind is Kind.TIME else _duration(int(value))


def _moment(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms // 1_000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):  # a clock far off; still worth showing
        return f"{time_ms} ms"


def _duration(ms: int) -> str:
    for unit, length_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        if ms >= length_ms:
            return f"{ms / length_ms:.1f}{unit}"
    return f"{ms / 1_000:.1f}s"


def _walk(tree: Tree, visit: Callable[[Tree], None]) -> None:
    visit(tree)
    for part in tree.parts if isinstance(tree, And | Or) else (tree.part,) if isinstance(tree, Not) else ():
        _walk(part, visit)


def _leaves(tree: Tree) -> list[Tree]:
    found: list[Tree] = []
    _walk(tree, found.append)
    return found


def _segments_in(tree: Tree) -> list[str]:
    return [leaf.name for leaf in _leaves(tree) if isinstance(leaf, InSegment)]


def _is_personal(tree: Tree, segments: Mapping[str, Audience]) -> bool:
    return any(
        (isinstance(leaf, Comparison | Truth | Has) and BY_NAME[leaf.field.name].is_personal)
        or (isinstance(leaf, InSegment) and segments[leaf.name].is_personal)
        for leaf in _leaves(tree)
    )


def _size(tree: Tree, segments: Mapping[str, Audience]) -> tuple[int, int]:
    """How many parts are looked at, at most, and how deep they lie."""
    if isinstance(tree, InSegment):
        return 1 + segments[tree.name].parts, 1 + segments[tree.name].levels
    inner = tree.parts if isinstance(tree, And | Or) else (tree.part,) if isinstance(tree, Not) else ()
    sizes = [_size(part, segments) for part in inner]
    return 1 + sum(parts for parts, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)


SEGMENT_TEXTS: Final[Mapping[str, str]] = MappingProxyType({
    "new": "profile.visits <= 1",
    "returning": "profile.visits >= 2",
    "loyal": "profile.visits >= 5 and profile.last_seen within 30d",
    "engaged": "profile.engagement >= 3",
    "buyer": "profile.purchases >= 1",
    "repeat_buyer": "profile.purchases >= 2",
    "lapsed": "profile.last_seen before 30d",
    "lapsed_buyer": 'segment("buyer") and segment("lapsed")',
    "undecided": "profile.add_to_carts >= 1 and profile.purchases == 0",
    "signed_in": "has(profile.user_id)",
})  # fmt: skip
"""The segments that everybody has."""

SEGMENTS: Final[Mapping[str, Audience]] = MappingProxyType(define(SEGMENT_TEXTS, {}))
"""The segments that everybody has, parsed."""

"""An audience as a tree, and the tree as text again: `parse(render(tree)).tree == tree`."""

from typing import Final

from msgspec import Struct

from pipeline.core.audience_facts import Value

DAY_MS: Final = 86_400_000
UNITS_MS: Final = {"w": 7 * DAY_MS, "d": DAY_MS, "h": 3_600_000, "m": 60_000, "s": 1_000}
_WRITTEN_UNITS: Final = ("d", "h", "m", "s")  # 14d is said more often than 2w


class Span(Struct, frozen=True):
    """A duration."""

    ms: int


Literal = Value | Span


class Ref(Struct, frozen=True):
    """A field of the list; key: the name in brackets, "" where it takes none."""

    name: str
    key: str = ""


class Comparison(Struct, frozen=True, tag=True):
    """field sign values; one value, but for `in` and `not in`."""

    field: Ref
    sign: str
    values: tuple[Literal, ...]


class Truth(Struct, frozen=True, tag=True):
    """A field that is true or false, by itself."""

    field: Ref


class Has(Struct, frozen=True, tag=True):
    """The field is known."""

    field: Ref


class InSegment(Struct, frozen=True, tag=True):
    """The audience of this name holds."""

    name: str


class Not(Struct, frozen=True, tag=True):
    """The part does not hold."""

    part: "Tree"


class And(Struct, frozen=True, tag=True):
    """All parts hold. No parts: everyone."""

    parts: "tuple[Tree, ...]"


class Or(Struct, frozen=True, tag=True):
    """Some part holds."""

    parts: "tuple[Tree, ...]"


Tree = Comparison | Truth | Has | InSegment | Not | And | Or

EVERYONE: Final = And(())


def render(tree: Tree) -> str:
    """Return a tree as text, with the parentheses that it needs and no others."""
    if isinstance(tree, And):
        return " and ".join(_inside(part, (And, Or)) for part in tree.parts)
    if isinstance(tree, Or):
        return " or ".join(_inside(part, (Or,)) for part in tree.parts)
    if isinstance(tree, Not):
        return f"not {_inside(tree.part, (And, Or))}"
    if isinstance(tree, InSegment):
        return f"segment({render_text(tree.name)})"
    if isinstance(tree, Has):
        return f"has({render_ref(tree.field)})"
    if isinstance(tree, Truth):
        return render_ref(tree.field)
    values = ", ".join(map(render_literal, tree.values))
    if tree.sign in ("in", "not in"):
        values = f"({values})"
    return f"{render_ref(tree.field)} {tree.sign} {values}"


def render_ref(ref: Ref) -> str:
    """Return a field as it is written."""
    return f"{ref.name}[{render_text(ref.key)}]" if ref.key else ref.name


def render_text(text: str) -> str:
    """Return a text in quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def render_literal(value: Literal) -> str:
    """Return a value as it is written."""
    if isinstance(value, Span):
        return render_span(value.ms)
    if isinstance(value, bool):
        return "true" if value else "false"
    return render_text(value) if isinstance(value, str) else repr(value)


def render_span(ms: int) -> str:
    """Return a duration of whole seconds in its largest whole unit."""
    unit = next(unit for unit in _WRITTEN_UNITS if ms % UNITS_MS[unit] == 0)
    return f"{ms // UNITS_MS[unit]}{unit}"


def _inside(part: Tree, kinds: tuple[type, ...]) -> str:
    return f"({render(part)})" if isinstance(part, kinds) else render(part)

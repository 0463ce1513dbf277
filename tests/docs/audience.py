"""The page of audiences: fields, operators, segments, and why something is not shown; made from the code."""

from textwrap import dedent

from pipeline.core import audience_parse
from pipeline.core.audience import SEGMENT_TEXTS
from pipeline.core.audience_facts import Kind
from pipeline.core.audience_fields import FIELDS, OPERATORS
from pipeline.core.eligibility import MEANINGS, Reason
from tests.docs.structs import table

RULES = """What does not parse is refused when it is written, with the position and what was expected there.

A comparison with what is not known is false, also with `!=` and `not in`; `not` turns any false into true, and
`has(…)` asks whether it is known. Without consent or id nothing of `profile` and `session` is known, and a line that
asks for it is not shown. Texts are compared letter by letter. A session is the visit that goes on: from the first event
after a longer pause than `HERALD_SESSION_GAP_MS`.
"""


def field_rows() -> list[tuple[str, ...]]:
    """Return a row for each field: as it is written, its kind, its meaning."""
    return [
        (f'`{each.name}["…"]`' if each.is_keyed else f"`{each.name}`", each.kind.value, each.meaning) for each in FIELDS
    ]


def operator_rows() -> list[tuple[str, ...]]:
    """Return a row for each operator: an example, beside what it stands, its meaning."""
    rows = [
        (f"`{each.sign}`", ", ".join(kind.value for kind in each.kinds), f"`{each.example}`", each.meaning)
        for each in OPERATORS
    ]
    return [
        *rows,
        ("", Kind.TRUTH.value, "`not profile.is_bot`", "stands alone"),
        ("`has(…)`", "each", "`has(profile.user_id)`", "is known"),
        ("`segment(…)`", "", '`segment("loyal")`', "that audience holds"),
    ]


def page() -> str:
    """Return the page."""
    grammar = dedent((audience_parse.__doc__ or "").split("\n\n", 2)[1])
    return "\n".join([
        "# Audiences\n",
        '`profile.visits >= 3 and (segment("loyal") or profile.interests["shoes"] > 0.5) and not profile.is_bot`\n',
        RULES,
        "## Fields\n", table(field_rows(), "field", "kind", "meaning"),
        "## Operators\n", table(operator_rows(), "operator", "beside", "example", "meaning"),
        "## Segments that everybody has\n",
        table([(f"`{name}`", f"`{text}`") for name, text in SEGMENT_TEXTS.items()], "segment", "audience"),
        "## Grammar\n", f"```\n{grammar}\n```\n",
        "## Why something is not shown\n",
        table([(f"`{reason}`", MEANINGS[reason]) for reason in Reason], "reason", "meaning"),
    ])  # fmt: skip

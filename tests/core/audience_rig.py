"""Trees and facts for the audience's tests: any well-typed tree, any visitor, and a slow reading of a tree."""

from hypothesis import strategies as st

from pipeline.core.audience_facts import Facts, Kind, Value
from pipeline.core.audience_fields import BY_NAME, FIELDS, OPERATORS, Field, reader
from pipeline.core.audience_tree import And, Comparison, Has, InSegment, Literal, Not, Or, Ref, Span, Tree, Truth
from schemas.profile import Interest, Profile

DAY_MS = 86_400_000
NOW_MS = 1_790_000_000_000
NAMES = st.sampled_from(["shoes", "shoes.red", "DE", "mobile", 'a "quoted" \\ one', "é\n"]) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5
)
NUMBERS = st.integers(-5, 12) | st.floats(-1e6, 1e6) | st.sampled_from([0.5, 1e-9, 2**53, -(2**53), 1e15])
SPANS = st.integers(1, 90 * 24).map(lambda hours: Span(hours * 3_600_000)) | st.integers(1, 3_599).map(
    lambda seconds: Span(seconds * 1_000)
)
SEGMENT_NAMES = ("new", "loyal", "lapsed_buyer")


@st.composite
def refs(draw: st.DrawFn, found: Field) -> Ref:
    """A way to write a field."""
    return Ref(found.name, draw(NAMES) if found.is_keyed else "")


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """A comparison whose kinds fit."""
    operator = draw(st.sampled_from(OPERATORS))
    kinds = [kind for kind in operator.kinds if kind not in (Kind.TIME, Kind.SPAN)]
    fields = [each for each in FIELDS if each.kind in operator.kinds or (each.kind is Kind.ANY and kinds)]
    found = draw(st.sampled_from(fields))
    kind = draw(st.sampled_from(kinds)) if found.kind is Kind.ANY else found.kind
    values: dict[Kind, st.SearchStrategy[Literal]] = {
        Kind.NUMBER: NUMBERS,
        Kind.TEXT: NAMES,
        Kind.TRUTH: st.booleans(),
        Kind.TIME: SPANS,
        Kind.SPAN: SPANS,
    }
    many = draw(st.integers(1, 3)) if operator.sign in ("in", "not in") else 1
    return Comparison(draw(refs(found)), operator.sign, tuple(draw(values[kind]) for _ in range(many)))


LEAVES: st.SearchStrategy[Tree] = st.one_of(
    comparisons(),
    st.sampled_from(FIELDS).flatmap(refs).map(Has),
    st.just(Truth(Ref("profile.is_bot"))),
    st.sampled_from(SEGMENT_NAMES).map(InSegment),
)
TREES: st.SearchStrategy[Tree] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: And(tuple(parts))),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: Or(tuple(parts))),
    ),
    max_leaves=12,
)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """A visitor, known more or less."""
    count = st.integers(0, 8)
    seen_ms = NOW_MS - draw(st.integers(0, 100)) * DAY_MS // 2
    return Profile(
        first_seen_ms=seen_ms - draw(st.integers(0, 100)) * DAY_MS,
        last_seen_ms=seen_ms,
        events=draw(count),
        visits=draw(count),
        purchases=draw(count),
        revenue_micros=draw(count) * 1_500_000,
        visit_interval_mean_ms=draw(st.floats(0, 90 * DAY_MS)),
        visit_interval_count=draw(count),
        engagement=draw(st.floats(0, 10)),
        interests={name: Interest(draw(st.floats(0.1, 9)), seen_ms) for name in draw(st.sets(NAMES, max_size=3))},
        devices={name: draw(st.integers(1, 9)) for name in draw(st.sets(NAMES, max_size=2))},
        last_channel=draw(st.sampled_from(["", "email", "shoes"])),
        user_id=draw(st.sampled_from(["", "u1"])),
        is_bot=draw(st.booleans()),
        visit_began_ms=seen_ms - 60_000,
        visit_events=draw(count),
        visit_pages=draw(count),
    )


CONTEXTS = st.dictionaries(
    st.sampled_from([each.name.partition(".")[2] for each in FIELDS if each.name.startswith("context.")]) | NAMES,
    NAMES | NUMBERS | st.booleans() | st.none() | st.just(float("nan")) | st.just(""),
    max_size=5,
)
FACTS = st.builds(Facts, st.just(NOW_MS), st.none() | profiles(), CONTEXTS)


def holds(tree: Tree, facts: Facts, segments: dict[str, Tree]) -> bool:
    """What a tree says, read word by word."""
    match tree:
        case And():
            return sum(holds(part, facts, segments) for part in tree.parts) == len(tree.parts)
        case Or():
            return sum(holds(part, facts, segments) for part in tree.parts) > 0
        case Not():
            return not holds(tree.part, facts, segments)
        case InSegment():
            return holds(segments[tree.name], facts, segments)
        case Has():
            return value_of(tree.field, facts, Kind.ANY) is not None
        case Truth():
            return value_of(tree.field, facts, Kind.TRUTH) is True
        case Comparison():
            return _compares(tree, facts)


def value_of(ref: Ref, facts: Facts, kind: Kind) -> Value | None:
    """The value of a field."""
    return reader(BY_NAME[ref.name], ref.key, kind)(facts)


def _compares(tree: Comparison, facts: Facts) -> bool:
    wanted = tree.values[0]
    kind = {bool: Kind.TRUTH, str: Kind.TEXT}.get(type(wanted), Kind.NUMBER)
    found = value_of(tree.field, facts, kind)
    if found is None:
        return False
    values = [value.ms if isinstance(value, Span) else value for value in tree.values]
    if isinstance(found, str):
        return _compares_texts(tree.sign, found, [str(value) for value in values])
    age_ms = facts.now_ms - found
    first = values[0]
    assert not isinstance(first, str)
    answers = {
        "==": found == first, "!=": found != first, "<": found < first, "<=": found <= first, ">": found > first,
        ">=": found >= first, "in": found in values, "not in": found not in values, "within": age_ms <= first,
        "before": age_ms > first,
    }  # fmt: skip
    return answers[tree.sign]


def _compares_texts(sign: str, found: str, values: list[str]) -> bool:
    first = values[0]
    return {
        "==": found == first, "!=": found != first, "in": found in values, "not in": found not in values,
        "contains": found.find(first) >= 0, "starts_with": found[: len(first)] == first,
        "ends_with": found[max(0, len(found) - len(first)) :] == first,
    }[sign]  # fmt: skip

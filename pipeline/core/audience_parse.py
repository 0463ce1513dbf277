"""From an audience's text to its tree: recursive descent, bounded in depth, every field and kind checked on the way.

    audience = [ either ] ;
    either   = both , { "or" , both } ;
    both     = single , { "and" , single } ;
    single   = "not" , single
             | "(" , either , ")"
             | "has" , "(" , field , ")"
             | "segment" , "(" , text , ")"
             | field , [ test ] ;                               (* alone: a field that is true or false *)
    test     = ( "==" | "!=" | "<" | "<=" | ">" | ">=" ) , value
             | [ "not" ] , "in" , "(" , value , { "," , value } , ")"
             | ( "contains" | "starts_with" | "ends_with" ) , text
             | ( "within" | "before" ) , duration ;
    field    = "profile." , word , [ key ] | "session." , word | "context." , word | "context" , key ;
    key      = "[" , text , "]" ;
    value    = number | text | duration | "true" | "false" ;
    text     = '"' , { character } , '"' | "'" , { character } , "'" ;   (* \\" \\' \\\\ inside *)
    duration = digits , ( "w" | "d" | "h" | "m" | "s" ) ;

The words and, or, not, in, has, segment, contains, … may be written in capitals. Fields and their kinds: FIELDS;
which operator stands beside which kind: OPERATORS (both in audience_fields.py).
"""

from collections.abc import Collection
from difflib import get_close_matches
from typing import Final, NoReturn

from pipeline.core.audience_facts import Kind
from pipeline.core.audience_fields import BY_NAME, OPERATORS, Field
from pipeline.core.audience_tree import (
    EVERYONE,
    And,
    Comparison,
    Has,
    InSegment,
    Literal,
    Not,
    Or,
    Ref,
    Span,
    Tree,
    Truth,
)
from pipeline.core.audience_words import AudienceError, Word, words

DEPTH_MAX: Final = 32
VALUES_MAX: Final = 500
_KINDS_OF: Final = {operator.sign: operator.kinds for operator in OPERATORS}
_RESERVED: Final = frozenset({"and", "or", "not", "in", "has", "segment", "true", "false"})
_TRUTHS: Final[dict[str, Literal]] = {"true": True, "false": False}


def parse_tree(text: str, segments: Collection[str]) -> Tree:
    """Return the tree of a text; segments: the names that may be asked for. Raises AudienceError."""
    reading = _Reading(text, segments)
    if reading.word.kind == "end":
        return EVERYONE
    tree = reading.either(0)
    if reading.word.kind != "end":
        reading.refuse("and, or, or the end")
    return tree


class _Reading:
    """A place in the words of a text."""

    def __init__(self, text: str, segments: Collection[str]) -> None:
        self._text = text
        self._segments = segments
        self._words = words(text)
        self._next = 0
        self.word = self._words[0]

    def refuse(self, expected: str, word: Word | None = None) -> NoReturn:
        word = word or self.word
        raise AudienceError(self._text, word.at, expected, word.shown)

    def take(self) -> Word:
        taken = self.word
        self._next += 1
        self.word = self._words[self._next]
        return taken

    def is_at(self, *names: str) -> bool:
        """Whether one of these words or signs stands here."""
        word = self.word
        return word.kind in ("name", "sign") and word.text.lower() in names

    def must(self, sign: str, meaning: str = "") -> None:
        if not self.is_at(sign):
            self.refuse(meaning or sign)
        self.take()

    def either(self, depth: int) -> Tree:
        parts = [self.both(depth)]
        while self.is_at("or"):
            self.take()
            parts.append(self.both(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self, depth: int) -> Tree:
        parts = [self.single(depth)]
        while self.is_at("and"):
            self.take()
            parts.append(self.single(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def single(self, depth: int) -> Tree:
        if depth > DEPTH_MAX:
            self.refuse(f"at most {DEPTH_MAX} parentheses and nots within each other")
        if self.is_at("not"):
            self.take()
            return Not(self.single(depth + 1))
        if self.is_at("("):
            self.take()
            tree = self.either(depth + 1)
            self.must(")", "and, or, or )")
            return tree
        if self.is_at("has"):
            self.take()
            self.must("(")
            ref, _ = self.field()
            self.must(")")
            return Has(ref)
        return self.segment() if self.is_at("segment") else self.comparison()

    def segment(self) -> Tree:
        self.take()
        self.must("(")
        if not isinstance(self.word.value, str) or self.word.kind != "value":
            self.refuse('a segment\'s name in quotes, "…"')
        name = self.take()
        if name.value not in self._segments:
            self.refuse(_near_segment(str(name.value), self._segments), name)
        self.must(")")
        return InSegment(str(name.value))

    def comparison(self) -> Tree:
        ref, found = self.field()
        operator = self.operator()
        if operator is None:
            if found.kind is not Kind.TRUTH:
                self.refuse(f"{_signs(found.kind)} after {ref.name}, which is {_named(found.kind)}")
            return Truth(ref)
        sign, word = operator
        kinds = _KINDS_OF[sign]
        if found.kind is not Kind.ANY and found.kind not in kinds:
            self.refuse(f"{_signs(found.kind)} after {ref.name}, which is {_named(found.kind)}", word)
        wanted = kinds if found.kind is Kind.ANY else (found.kind,)
        if wanted == (Kind.TIME,):
            wanted = (Kind.SPAN,)
        if found.kind is Kind.ANY:
            wanted = tuple(kind for kind in wanted if kind not in (Kind.SPAN, Kind.TIME))
            if not wanted:
                self.refuse(f"{_signs(Kind.ANY)} after {ref.name}[…], of which no time is known", word)
        return Comparison(ref, sign, self.values(wanted) if sign in ("in", "not in") else (self.value(wanted),))

    def operator(self) -> tuple[str, Word] | None:
        """The operator that stands here, with its first word; None where a comparison ends without one."""
        word = self.word
        if self.is_at("not"):
            self.take()
            if not self.is_at("in"):
                self.refuse("in")
            self.take()
            return "not in", word
        if word.kind in ("name", "sign") and word.text.lower() in _KINDS_OF:
            self.take()
            return word.text.lower(), word
        return None

    def field(self) -> tuple[Ref, Field]:
        word = self.word
        if word.kind != "name" or word.text.lower() in _RESERVED:
            self.refuse("a field such as profile.visits, or (, not, has, segment")
        found = BY_NAME.get(word.text)
        if found is None:
            self.refuse(_near_field(word.text))
        self.take()
        if not found.is_keyed:
            if self.is_at("["):
                self.refuse(f"no [ after {found.name}")
            return Ref(found.name), found
        self.must("[", f'["…"] after {found.name}')
        if self.word.kind != "value" or not isinstance(self.word.value, str) or not self.word.value:
            self.refuse('a name in quotes, "…"')
        key = str(self.take().value)
        self.must("]")
        return Ref(found.name, key), found

    def values(self, kinds: tuple[Kind, ...]) -> tuple[Literal, ...]:
        self.must("(", "( and a list of values")
        found = [self.value(kinds)]
        while self.is_at(","):
            if len(found) == VALUES_MAX:
                self.refuse(f"at most {VALUES_MAX} values")
            self.take()
            found.append(self.value((_kind_of(found[0]),)))
        self.must(")", ", or )")
        return tuple(found)

    def value(self, kinds: tuple[Kind, ...]) -> Literal:
        """One value of one of these kinds."""
        word = self.word
        if word.kind == "name" and word.text.lower() in _TRUTHS:
            value = _TRUTHS[word.text.lower()]
        elif word.kind == "value":
            value = word.value
        else:
            self.refuse(_wanted(kinds))
        if _kind_of(value) not in kinds:
            self.refuse(_wanted(kinds))
        if value == "" and isinstance(value, str):
            self.refuse("a text that is not empty (`not has(…)` asks whether there is none)")
        self.take()
        return value


def _kind_of(value: Literal) -> Kind:
    if isinstance(value, Span):
        return Kind.SPAN
    if isinstance(value, bool):
        return Kind.TRUTH
    return Kind.TEXT if isinstance(value, str) else Kind.NUMBER


_EXAMPLES: Final = {
    Kind.NUMBER: "a number",
    Kind.TEXT: 'a text in quotes, "…"',
    Kind.TRUTH: "true or false",
    Kind.SPAN: "a duration such as 30d",
}


def _wanted(kinds: tuple[Kind, ...]) -> str:
    return ", or ".join(_EXAMPLES[kind] for kind in kinds)


def _named(kind: Kind) -> str:
    return kind.value if kind is Kind.TRUTH else f"a {kind.value}"


def _signs(kind: Kind) -> str:
    wanted = (Kind.NUMBER, Kind.TEXT, Kind.TRUTH) if kind is Kind.ANY else (kind,)
    return "one of " + ", ".join(operator.sign for operator in OPERATORS if set(wanted) & set(operator.kinds))


def _near_field(name: str) -> str:
    """What could be meant by a field that is not in the list."""
    top, _, rest = name.partition(".")
    ends = {each.partition(".")[2]: each for each in BY_NAME if each.startswith(top + ".")}
    near = [ends[end] for end in get_close_matches(rest.lower(), ends, 2, 0.6)]
    near += [f'context["{rest[:64]}"]'] if top == "context" and rest else []
    if near:
        return " or ".join(near)
    return "one of " + ", ".join(ends.values()) if ends else "a field that begins with profile., session. or context."


def _near_segment(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name.lower(), known, 2, 0.6) or list(known)
    shown = " or ".join(f'"{each}"' for each in near[:20])
    return f"the name of a segment, such as {shown}" if near else "no segment: none is defined"

"""An audience's text as words, each with its place; and the refusal that shows the place."""

import re
from math import isfinite
from typing import Final, NamedTuple

from pipeline.core.audience_tree import UNITS_MS, Literal, Span

CHARS_MAX: Final = 4_096
NUMBER_CHARS_MAX: Final = 24
NUMBER_MAX: Final = 2**53
SPAN_MS_MAX: Final = 36_500 * UNITS_MS["d"]
_SHOWN_CHARS: Final = 60  # of the text before the caret, and after it

_WORD: Final = re.compile(
    r"(?P<blank>\s+)"
    r"|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)"
    r"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?P<unit>[A-Za-z]\w*)?"
    r"|(?P<sign>==|!=|<=|>=|[<>()\[\],])",
    re.ASCII,
)
_QUOTED: Final = re.compile(r"""(["'])((?:(?!\1)[^\\]|\\["'\\])*)\1""")
_ESCAPED: Final = re.compile(r"\\(.)")
_MEANT: Final = {
    "=": "== (is)", "&": "and", "|": "or", "!": "not, or !=", "“": 'straight quotes, "…"', "”": 'straight quotes, "…"',
    "„": 'straight quotes, "…"', "’": "straight quotes, '…'", "{": "parentheses, (…)", "%": "a plain number",
}  # fmt: skip


class AudienceError(ValueError):
    """A text is no audience.

    position: of the first character that is wrong, from 0. expected: what could stand there. The message shows both.
    """

    def __init__(self, text: str, position: int, expected: str, found: str) -> None:
        """text: all of it. found: what stands at the position, in words."""
        super().__init__(_message(text, position, expected, found))
        self.position = position
        self.expected = expected


class Word(NamedTuple):
    """kind: name, sign, value or end. at: the place of its first character. text: as written. value: of a value."""

    kind: str
    at: int
    text: str
    value: Literal = ""

    @property
    def shown(self) -> str:
        """For a message."""
        return "the end" if self.kind == "end" else _short(self.text)


def words(text: str) -> list[Word]:
    """Cut a text into words, the end as the last one. Raises AudienceError at what is no word, or too much."""
    if len(text) > CHARS_MAX:
        raise AudienceError(text, CHARS_MAX, f"at most {CHARS_MAX} characters", f"{len(text)} of them")
    found: list[Word] = []
    at = 0
    while at < len(text):
        match = _WORD.match(text, at)
        if match is None:
            found.append(_quoted(text, at))
        elif match["name"]:
            found.append(Word("name", at, match[0]))
        elif match["number"]:
            found.append(Word("value", at, match[0], _number(text, match)))
        elif match["sign"]:
            found.append(Word("sign", at, match[0]))
        at = match.end() if match is not None else at + len(found[-1].text)
    return [*found, Word("end", len(text), "")]


def _quoted(text: str, at: int) -> Word:
    match = _QUOTED.match(text, at)
    if match is not None:
        return Word("value", at, match[0], _ESCAPED.sub(r"\1", match[2]))
    if text[at] not in "\"'":
        expected = _MEANT.get(text[at], "a field, a value or a sign")
        raise AudienceError(text, at, expected, _short(text[at]))
    until = re.compile(rf"(?:[^\\{text[at]}]|\\[\"'\\])*").match(text, at + 1)
    stop = until.end() if until is not None else at + 1
    if stop >= len(text):
        raise AudienceError(text, at, f"a closing {text[at]}", "a text that does not end")
    raise AudienceError(text, stop, r"\\, \" or \' after a backslash", _short(text[stop : stop + 2]))


def _number(text: str, match: re.Match[str]) -> Literal:
    written, unit, at = match["number"], match["unit"], match.start()
    if len(written) > NUMBER_CHARS_MAX:
        raise AudienceError(text, at, f"a number of at most {NUMBER_CHARS_MAX} characters", _short(written))
    if unit is None:
        value = float(written) if set(written) & set(".eE") else int(written)
        if not isfinite(value) or abs(value) > NUMBER_MAX:
            raise AudienceError(text, at, f"a number between -{NUMBER_MAX} and {NUMBER_MAX}", _short(written))
        return value
    if unit not in UNITS_MS:
        raise AudienceError(text, match.start("unit"), "one of w, d, h, m, s after a duration's number", _short(unit))
    if not written.isdigit() or not 0 < int(written) * UNITS_MS[unit] <= SPAN_MS_MAX:
        raise AudienceError(text, at, "a duration: a whole number above 0, at most 36500d", _short(match[0]))
    return Span(int(written) * UNITS_MS[unit])


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def _message(text: str, position: int, expected: str, found: str) -> str:
    """One line that says it, the text around the place, and a caret below it."""
    begin = max(0, position - _SHOWN_CHARS)
    end = min(len(text), position + _SHOWN_CHARS)
    before = "…" if begin else ""
    shown = "".join(char if char.isprintable() else " " for char in text[begin:end])
    after = "…" if end < len(text) else ""
    caret = " " * (len(before) + position - begin) + "^"
    return f"character {position}: found {found}, expected {expected}\n{before}{shown}{after}\n{caret}"

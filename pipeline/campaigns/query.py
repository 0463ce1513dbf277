"""Query strings of the campaigns' addresses: known names, each once, within bounds."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, TypeVar

from pipeline.campaigns.routes import LIMIT
from pipeline.campaigns.store import PAGE_MAX
from pipeline.delivery.problems import Problem
from pipeline.delivery.web import Request

E = TypeVar("E", bound=StrEnum)
REPEATED: Final = frozenset({"label"})
TEXT_CHARS_MAX: Final = 256


class Query:
    """What was asked for. Every method raises Problem 422, naming the parameter and what was expected of it."""

    def __init__(self, request: Request, names: Sequence[str]) -> None:
        """names: of the parameters that the address has."""
        self._given: dict[str, list[str]] = {}
        for name, value in request.query():
            if name not in names:
                raise _wrong(name[:40], f"expected one of {', '.join(names)}")
            if self._given.setdefault(name, []) and name not in REPEATED:
                raise _wrong(name, "expected once")
            if len(value) > TEXT_CHARS_MAX or not value.isprintable():
                raise _wrong(name, f"expected {TEXT_CHARS_MAX} printable characters at most")
            self._given[name].append(value)

    def text(self, name: str) -> str | None:
        """Return a parameter as it is, None where it is left out."""
        return self._given[name][0] if name in self._given else None

    def word(self, name: str, words: type[E]) -> E | None:
        """Return a word of a closed list."""
        found = self.choice(name, tuple(words))
        return None if found is None else words(found)

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        """Return one of these."""
        given = self.text(name)
        if given is not None and given not in choices:
            raise _wrong(name, f"{given[:40]!r}, expected one of {', '.join(choices)}")
        return given

    def number(self, name: str, least: int, most: int) -> int | None:
        """Return a whole number between least and most, None where it is left out."""
        given = self.text(name)
        if given is None:
            return None
        is_number = given.isascii() and given.isdecimal() and len(given) <= len(str(most))
        if not is_number or not least <= int(given) <= most:
            raise _wrong(name, f"{given[:40]!r}, expected a whole number from {least} to {most}")
        return int(given)

    def limit(self) -> int:
        """Return how many are wanted at most."""
        return self.number("limit", 1, PAGE_MAX) or LIMIT

    def labels(self) -> tuple[tuple[str, str | None], ...]:
        """Return the labels that are wanted: (name, value), value None = any."""
        pairs = [one.partition("=") for one in self._given.get("label", [])]
        return tuple((name, value if equals else None) for name, equals, value in pairs)


def _wrong(name: str, what: str) -> Problem:
    return Problem(422, "query", f"{name}: {what}", [(name, what)])

"""What is known of a visitor at a moment, and how an audience reads it. None: it is not known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Final, cast

from pipeline.core.profile import ProfileRules, interest_of, strongest_interest
from schemas.profile import Profile


class Kind(StrEnum):
    """What a field or a value is: it says which operators may stand beside it."""

    NUMBER = "number"
    TEXT = "text"
    TRUTH = "true or false"
    TIME = "time"
    SPAN = "duration"
    ANY = "any"  # of a context field that is in no list: the value beside it says which


Value = bool | int | float | str
"""Of TRUTH, NUMBER, NUMBER, TEXT. A TIME is read as ms since 1970 UTC, a SPAN as ms."""


_RULES: Final = ProfileRules()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a visitor at a moment.

    now_ms: the moment. profile: None without consent or id; `Profile()` of a visitor who was never seen.
    context: what the request says, flat. rules: the profile stage's, for the gap and the half-life of interests.
    """

    now_ms: int
    profile: Profile | None = None
    context: Mapping[str, object] = field(default_factory=dict)
    rules: ProfileRules = _RULES


Read = Callable[[Facts], Value | None]
"""Reads one value; None where it is not known. Raises nothing."""


def of_profile(attribute: str) -> Read:
    """Return what reads a field of the profile as it is."""
    get = attrgetter(attribute)

    def read(facts: Facts) -> Value | None:
        profile = facts.profile
        return None if profile is None else cast(Value, get(profile))

    return read


def said(attribute: str) -> Read:
    """Return what reads a text of the profile; "" is unknown."""
    get = attrgetter(attribute)

    def read(facts: Facts) -> Value | None:
        profile = facts.profile
        return None if profile is None else cast(str, get(profile)) or None

    return read


def where(is_known: Callable[[Profile], bool], give: Callable[[Profile], Value]) -> Read:
    """Return what reads something that the profile knows only from some time on."""

    def read(facts: Facts) -> Value | None:
        profile = facts.profile
        return give(profile) if profile is not None and is_known(profile) else None

    return read


def in_session(give: Callable[[Profile, int], Value]) -> Read:
    """Return what reads something of the visit that goes on; unknown without one. give: of (profile, now_ms)."""

    def read(facts: Facts) -> Value | None:
        profile = facts.profile
        if profile is None or not profile.visit_began_ms or facts.now_ms - profile.last_seen_ms > facts.rules.gap_ms:
            return None
        return give(profile, facts.now_ms)

    return read


def strongest(facts: Facts) -> Value | None:
    """Read the category that a visitor cares for most."""
    if facts.profile is None:
        return None
    return strongest_interest(facts.profile, facts.rules.interest_half_life_ms) or None


def interest_at(category: str) -> Read:
    """Return what reads the interest in a category and all below it, as of now."""

    def read(facts: Facts) -> Value | None:
        if facts.profile is None:
            return None
        return interest_of(facts.profile, category, facts.now_ms, facts.rules.interest_half_life_ms)

    return read


def most(counts: dict[str, int]) -> str:
    """Return the name with the highest count (ties: the first by name). counts: not empty."""
    return min(counts, key=lambda name: (-counts[name], name))


def count_at(attribute: str) -> Callable[[str], Read]:
    """Return what gives, for a name, the reader of its count; 0 where there is none."""
    get = cast(Callable[[Profile], dict[str, int]], attrgetter(attribute))

    def at(name: str) -> Read:
        def read(facts: Facts) -> Value | None:
            return None if facts.profile is None else get(facts.profile).get(name, 0)

        return read

    return at


def context_reader(name: str, kind: Kind) -> Read:
    """Return what reads one name of the request's context as this kind; a value of another kind is unknown.

    kind: NUMBER, TEXT, TRUTH, or ANY for whatever there is.
    """

    def read_text(facts: Facts) -> Value | None:
        found = facts.context.get(name)
        return found or None if isinstance(found, str) else None

    def read_number(facts: Facts) -> Value | None:
        found = facts.context.get(name)
        if not isinstance(found, int | float) or isinstance(found, bool):
            return None
        return found if found == found else None  # not a number: nothing can be said of it

    def read_truth(facts: Facts) -> Value | None:
        found = facts.context.get(name)
        return found if isinstance(found, bool) else None

    readers = {Kind.TEXT: read_text, Kind.NUMBER: read_number, Kind.TRUTH: read_truth}
    if kind in readers:
        return readers[kind]
    return lambda facts: next((found for read in readers.values() if (found := read(facts)) is not None), None)

"""What an audience may ask about: the one list of fields, each with its kind, its meaning and how it is read.

The parser refuses what is not in it, the compiler reads by it, and the marketers' table is made from it. Adding a field
is one line here.

A field that is not known has no value (None): every comparison with it is false. Of a visitor without consent or id the
whole profile is unknown; of one with an id who was never seen the counts are 0, as they would be counted.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from pipeline.core.audience_facts import (
    Kind,
    Read,
    context_reader,
    count_at,
    in_session,
    interest_at,
    most,
    of_profile,
    said,
    strongest,
    where,
)

MICROS: Final = 1_000_000


class Field(NamedTuple):
    """One field. source: where it comes from, for people. keyed: it is written with a name, `field["name"]`.

    read: its value; of a keyed field, given the name, the function that reads it.
    """

    name: str
    kind: Kind
    meaning: str
    source: str
    read: Read = lambda facts: None
    read_at: Callable[[str], Read] | None = None

    @property
    def is_keyed(self) -> bool:
        """True where it takes a name in brackets."""
        return self.read_at is not None

    @property
    def is_personal(self) -> bool:
        """True where it tells of the visitor and not of the request alone."""
        return not self.name.startswith("context")


class Operator(NamedTuple):
    """One operator: beside which kinds it may stand, what follows it, and what it means."""

    sign: str
    kinds: tuple[Kind, ...]
    example: str
    meaning: str


_ORDERED: Final = (Kind.NUMBER, Kind.SPAN)
OPERATORS: Final = (
    Operator("==", (*_ORDERED, Kind.TEXT, Kind.TRUTH), 'context.country == "DE"', "is; texts letter by letter"),
    Operator("!=", (*_ORDERED, Kind.TEXT, Kind.TRUTH), 'context.device != "mobile"', "is known, and is not"),
    Operator("<", _ORDERED, "profile.visits < 3", "is less than"),
    Operator("<=", _ORDERED, "profile.visits <= 3", "is at most"),
    Operator(">", _ORDERED, "session.pages > 2", "is more than"),
    Operator(">=", _ORDERED, "profile.revenue >= 99.50", "is at least"),
    Operator("in", (Kind.NUMBER, Kind.TEXT), 'context.country in ("DE", "AT")', "is one of"),
    Operator("not in", (Kind.NUMBER, Kind.TEXT), 'context.country not in ("DE", "AT")', "is known, and is none of"),
    Operator("contains", (Kind.TEXT,), 'context.path contains "/shoes"', "has it somewhere in it"),
    Operator("starts_with", (Kind.TEXT,), 'profile.last_campaign starts_with "spring"', "begins with it"),
    Operator("ends_with", (Kind.TEXT,), 'context.host ends_with ".at"', "ends with it"),
    Operator("within", (Kind.TIME,), "profile.last_seen within 30d", "at most so long ago"),
    Operator("before", (Kind.TIME,), "profile.first_seen before 90d", "longer ago than that"),
)
"""Every operator. `has(field)`: it is known. A field that is true or false may stand alone."""


_PROFILE: Final = "profile"
_REQUEST: Final = "the request's context"
_NUMBER, _TEXT, _TRUTH, _TIME, _SPAN = Kind.NUMBER, Kind.TEXT, Kind.TRUTH, Kind.TIME, Kind.SPAN


def _counted(name: str, meaning: str) -> Field:
    return Field(f"profile.{name}", _NUMBER, meaning, _PROFILE, of_profile(name))


def _context(name: str, meaning: str) -> Field:
    return Field(f"context.{name}", _TEXT, meaning, _REQUEST, context_reader(name, _TEXT))


FIELDS: Final = (
    _counted("visits", "visits so far, this one too"),
    _counted("events", "everything that was seen of the visitor"),
    _counted("pages", "pages and screens seen"),
    _counted("impressions", "impressions"),
    _counted("clicks", "clicks"),
    _counted("add_to_carts", "goods put into the cart"),
    _counted("purchases", "purchases"),
    Field(
        "profile.revenue",
        _NUMBER,
        "what the visitor has spent, in the site's currency",
        "profile.revenue_micros",
        where(lambda profile: True, lambda profile: profile.revenue_micros / MICROS),
    ),
    Field(
        "profile.order_value",
        _NUMBER,
        "mean value of an order; unknown before the first",
        "profile.order_value_mean_micros",
        where(lambda profile: profile.purchases > 0, lambda profile: profile.order_value_mean_micros / MICROS),
    ),
    Field(
        "profile.satisfaction",
        _NUMBER,
        "mean score given; unknown before the first",
        "profile.satisfaction_mean",
        where(lambda profile: profile.satisfaction_count > 0, lambda profile: profile.satisfaction_mean),
    ),
    Field("profile.engagement", _NUMBER, "moving mean of engagement points", _PROFILE, of_profile("engagement")),
    Field(
        "profile.first_seen",
        _TIME,
        "when the visitor was first seen",
        "profile.first_seen_ms",
        where(lambda profile: profile.events > 0, lambda profile: profile.first_seen_ms),
    ),
    Field(
        "profile.last_seen",
        _TIME,
        "when the visitor was last seen",
        "profile.last_seen_ms",
        where(lambda profile: profile.events > 0, lambda profile: profile.last_seen_ms),
    ),
    Field(
        "profile.visit_interval",
        _SPAN,
        "mean pause between visits; unknown before the second",
        "profile.visit_interval_mean_ms",
        where(lambda profile: profile.visit_interval_count > 0, lambda profile: profile.visit_interval_mean_ms),
    ),
    Field(
        "profile.interests",
        _NUMBER,
        "interest in a category and all below it; 0 without any",
        "profile.interests, faded to now",
        read_at=interest_at,
    ),
    Field("profile.interest", _TEXT, "the category that the visitor cares for most", "profile.interests", strongest),
    Field("profile.devices", _NUMBER, "events from a device", "profile.devices", read_at=count_at("devices")),
    Field(
        "profile.device",
        _TEXT,
        "the device used most",
        "profile.devices",
        where(lambda profile: bool(profile.devices), lambda profile: most(profile.devices)),
    ),
    Field("profile.channels", _NUMBER, "arrivals by a channel", "profile.channels", read_at=count_at("channels")),
    Field("profile.last_channel", _TEXT, "the channel of the last arrival", _PROFILE, said("last_channel")),
    Field("profile.last_campaign", _TEXT, "the campaign last arrived by", _PROFILE, said("last_campaign")),
    Field("profile.user_id", _TEXT, "the site's own id, of one who signed in", _PROFILE, said("user_id")),
    Field("profile.site", _TEXT, "the site last seen on", _PROFILE, said("site")),
    Field("profile.is_bot", _TRUTH, "known as a bot", _PROFILE, of_profile("is_bot")),
    Field(
        "session.pages",
        _NUMBER,
        "pages and screens of the visit that goes on; unknown without one",
        "profile.visit_pages",
        in_session(lambda profile, now_ms: profile.visit_pages),
    ),
    Field(
        "session.events",
        _NUMBER,
        "everything seen in the visit that goes on",
        "profile.visit_events",
        in_session(lambda profile, now_ms: profile.visit_events),
    ),
    Field(
        "session.age",
        _SPAN,
        "how long the visit goes on",
        "profile.visit_began_ms",
        in_session(lambda profile, now_ms: max(0, now_ms - profile.visit_began_ms)),
    ),
    _context("country", "country, as the site names it"),
    _context("region", "region"),
    _context("city", "city"),
    _context("language", "language"),
    _context("device", "device of this request"),
    _context("browser", "browser"),
    _context("os", "operating system"),
    _context("channel", "channel of this arrival"),
    _context("host", "host of the page"),
    _context("path", "path of the page"),
    _context("referrer", "where the visitor came from"),
    _context("search", "what was searched for"),
    _context("category", "category of the page"),
    _context("product", "product of the page"),
    Field(
        "context",
        Kind.ANY,
        "anything else that the request says; of another kind than the value beside it, it is unknown",
        _REQUEST,
        read_at=lambda name: context_reader(name, Kind.ANY),
    ),
)
"""Every field. The first of a name counts; names are unique."""

BY_NAME: Final[Mapping[str, Field]] = {each.name: each for each in FIELDS}


def reader(found: Field, key: str, kind: Kind) -> Read:
    """Return what reads a field (a keyed one at its key) as a value of this kind; ANY = as it is."""
    if found.kind is Kind.ANY:
        return context_reader(key, kind)
    return found.read if found.read_at is None else found.read_at(key)

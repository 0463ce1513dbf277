"""c. What is done for one event where each event is a record of its own: our functions, with no block around them.

Every engine calls the same ones in the same order: `read`, `clean`, was its id seen?, `place`, `learn`. Where the state
is kept in between is the engine's own affair. The same input gives the same rows as our stages: `outputs.py` compares.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from agents import clean as clean_stage
from agents import profile as profile_stage
from agents import sessionise as sessionise_stage
from pipeline.core import profile as profiling
from pipeline.core import sessions as rule
from pipeline.core.clean import CleanRules, Drop
from pipeline.core.clean import clean as clean_collected
from pipeline.core.profile import ENGAGEMENT_POINTS, ProfileRules
from pipeline.core.sessions import SessionRules
from pipeline.settings import load
from schemas.event import Collected, Context, Event
from schemas.profile import Profile
from schemas.session import SessionRow, VisitorSessions


class One(Struct, array_like=True, gc=False):
    """An event as a record of its own: what a block holds for it, and its context."""

    collected: Collected
    context: Context


@dataclass(frozen=True)
class Rules:
    """The rules of the three stages, as the default settings make them."""

    clean: CleanRules
    session: SessionRules
    profile: ProfileRules


pack: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
read: Callable[[bytes], One] = msgspec.msgpack.Decoder(One).decode
read_sessions: Callable[[bytes], VisitorSessions] = msgspec.msgpack.Decoder(VisitorSessions).decode
read_profile: Callable[[bytes], Profile] = msgspec.msgpack.Decoder(Profile).decode


def rules() -> Rules:
    """Return the rules of our own stages."""
    settings = load()
    return Rules(clean_stage.rules(settings), sessionise_stage.rules(settings), profile_stage.rules(settings).profile)


def clean(one: One, found: Rules) -> Event:
    """Clean an event. All of the workload's are clean: one that is refused is a mistake of the benchmark's."""
    event = clean_collected(one.collected, one.context, found.clean)
    assert not isinstance(event, Drop), event
    return event


def place(state: VisitorSessions, event: Event, found: Rules) -> SessionRow:
    """Put an event among its visitor's sessions; return the one that holds it now. Changes the state."""
    time_ms = event.event_time_ms
    last = state.sessions[-1] if state.sessions else None
    if last is not None and last.end_ms <= time_ms <= last.end_ms + found.session.gap_ms:
        rule.extend(last, event, time_ms)
        return SessionRow(event.visitor, last)
    held, _ = rule.insert(state.sessions, rule.session_of(event, time_ms, found.session), found.session)
    return SessionRow(event.visitor, held)


def learn(profile: Profile, event: Event, found: Rules) -> None:
    """Add an event to its visitor's profile. Changes the profile."""
    if event.event_type in ENGAGEMENT_POINTS:
        profiling.learn(profile, event, found.profile)

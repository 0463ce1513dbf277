"""c, the product's own job with one event a record: our cleaning, sessions and profiles as three Faust agents.

What our stages do, in the way that Faust's documentation shows: an agent a stage, clean events and sessions sent on as
records, state in Tables. The functions for an event are ours; blocks, rounds and the fenced state log are what is left
away. So the ratio of b to this is what they are worth.
"""

from collections.abc import Callable
from typing import Any

import faust
import msgspec

from agents import clean as clean_agent
from agents import profile as profile_agent
from agents import sessionise as sessionise_agent
from pipeline.core import sessions as rule
from pipeline.core.clean import Drop, clean
from pipeline.core.profile import learn
from pipeline.settings import load
from schemas.event import Collected, Context, Event, Protocol
from schemas.profile import Profile
from schemas.session import VisitorSessions

_pack = msgspec.msgpack.encode
_read_ids = msgspec.json.Decoder(dict[str, Any]).decode
_read_event = msgspec.msgpack.Decoder(Event).decode
_read_sessions = msgspec.msgpack.Decoder(VisitorSessions).decode
_read_profile = msgspec.msgpack.Decoder(Profile).decode


def wire(app: Any, source: Any, now_ms: int, done: Callable[[], None]) -> Any:
    """Register the three agents; return the table of sessions. done: called as sessionise or profile ends an event."""
    events = app.topic("bench-stage-events", value_type=bytes, value_serializer="raw")
    raw = faust.Schema(key_type=str, value_type=bytes, key_serializer="json", value_serializer="raw")
    kept_sessions = app.Table("bench-stage-kept-sessions", schema=raw)
    app.agent(source)(_clean(app, events, now_ms))
    app.agent(events)(_sessionise(app, kept_sessions, done))
    app.agent(events)(_profile(app.Table("bench-stage-kept-profiles", schema=raw), done))
    return kept_sessions


def _clean(app: Any, events: Any, now_ms: int) -> Any:
    rules = clean_agent.rules(load())
    seen = app.Table("bench-stage-seen", default=int)
    context = Context(Protocol.SEGMENT, "batch", "demo", now_ms, now_ms, "192.0.2.0", "analytics-python/2.4.0")

    async def clean_each(stream: Any) -> None:
        async for incoming in stream.events():
            ids = _read_ids(incoming.value)
            event = clean(Collected(0, ids["messageId"], ids["anonymousId"], incoming.value), context, rules)
            assert not isinstance(event, Drop), event
            if event.event_id not in seen:
                seen[event.event_id] = 1
                await events.send(value=_pack(event), partition=incoming.message.partition)

    return clean_each


def _sessionise(app: Any, kept: Any, done: Callable[[], None]) -> Any:
    rules = sessionise_agent.rules(load())
    sessions = app.topic("bench-stage-sessions", value_type=bytes, value_serializer="raw")

    async def sessionise_each(stream: Any) -> None:
        async for incoming in stream.events():
            event = _read_event(incoming.value)
            found = kept.get(event.visitor)
            state = _read_sessions(found) if found else VisitorSessions([])
            held, _ = rule.insert(state.sessions, rule.session_of(event, event.event_time_ms, rules), rules)
            kept[event.visitor] = _pack(state)
            await sessions.send(value=_pack(held), partition=incoming.message.partition)
            done()

    return sessionise_each


def _profile(kept: Any, done: Callable[[], None]) -> Any:
    rules = profile_agent.rules(load()).profile

    async def profile_each(stream: Any) -> None:
        async for incoming in stream.events():
            event = _read_event(incoming.value)
            found = kept.get(event.visitor)
            profile = _read_profile(found) if found else Profile()
            learn(profile, event, rules)
            kept[event.visitor] = _pack(profile)
            done()

    return profile_each

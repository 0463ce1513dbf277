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
from pipeline.core.clean import CleanRules, Drop, clean
from pipeline.core.outcome import OutcomeRules
from pipeline.core.profile import learn
from pipeline.core.profile_stage import ProfilesRules
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
    settings = load()
    cleaning = clean_agent.rules(settings)
    grouping = sessionise_agent.rules(settings)
    profiling = profile_agent.rules(settings)
    assert isinstance(cleaning, CleanRules)
    assert isinstance(profiling, ProfilesRules)
    assert isinstance(profiling.outcome, OutcomeRules)
    events = app.topic("bench-stage-events", value_type=bytes, value_serializer="raw")
    sessions_out = app.topic("bench-stage-sessions", value_type=bytes, value_serializer="raw")
    seen = app.Table("bench-stage-seen", default=int)
    raw = faust.Schema(key_type=str, value_type=bytes, key_serializer="json", value_serializer="raw")
    kept_sessions = app.Table("bench-stage-kept-sessions", schema=raw)
    kept_profiles = app.Table("bench-stage-kept-profiles", schema=raw)
    context = Context(Protocol.SEGMENT, "batch", "demo", now_ms, now_ms, "192.0.2.0", "analytics-python/2.4.0")

    async def clean_each(stream: Any) -> None:
        async for incoming in stream.events():
            ids = _read_ids(incoming.value)
            collected = Collected(0, ids["messageId"], ids["anonymousId"], incoming.value)
            event = clean(collected, context, cleaning)
            assert not isinstance(event, Drop), event
            if event.event_id not in seen:
                seen[event.event_id] = 1
                await events.send(value=_pack(event), partition=incoming.message.partition)

    async def sessionise_each(stream: Any) -> None:
        async for incoming in stream.events():
            event = _read_event(incoming.value)
            found = kept_sessions.get(event.visitor)
            state = _read_sessions(found) if found else VisitorSessions([])
            single = rule.session_of(event, event.event_time_ms, grouping)
            held, _ = rule.insert(state.sessions, single, grouping)
            kept_sessions[event.visitor] = _pack(state)
            await sessions_out.send(value=_pack(held), partition=incoming.message.partition)
            done()

    async def profile_each(stream: Any) -> None:
        async for incoming in stream.events():
            event = _read_event(incoming.value)
            found = kept_profiles.get(event.visitor)
            profile = _read_profile(found) if found else Profile()
            learn(profile, event, profiling.profile)
            kept_profiles[event.visitor] = _pack(profile)
            done()

    app.agent(source)(clean_each)
    app.agent(events)(sessionise_each)
    app.agent(events)(profile_each)
    return kept_sessions

"""c. Faust as its documentation shows it: an agent, an event a record, state in Tables (each change is a record of the
table's changelog). One agent does all three steps, which costs Faust less than three agents would.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import faust

from schemas.profile import Profile
from schemas.session import VisitorSessions
from tests.bench import per_event as do
from tests.bench.reading import Job, Reading

LAST_ONE_S = 0.2  # the change that is on its way from the tables' queue into the producer


def run(job: Job) -> None:
    """Run until all events of the job are through; report, and end the process at once."""
    from agents.app import run_worker
    from pipeline.settings import load

    run_worker(_app(job, Reading(job)), load(log_level="WARNING"))


def profiles_topic(job: Job) -> str:
    """Return where the profiles can be read."""
    return f"{job.group}-profiles-changelog"


def visitor_of(key: bytes) -> str:
    """Return whose profile a key of that topic names: Faust writes it as JSON."""
    return key.decode().strip('"')


def _app(job: Job, reading: Reading) -> Any:
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    app = faust.App(
        job.group,
        broker=f"kafka://{job.broker}",
        store="memory://",
        datadir=job.folder,
        topic_partitions=job.partitions,
        topic_replication_factor=1,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4_194_304,
        web_enabled=False,
        worker_redirect_stdouts=False,
        loghandlers=[],
    )
    source = app.topic(job.source, key_type=bytes, value_type=bytes, value_serializer="raw")
    app.agent(source)(_agent(app, job, reading))
    return app


def _agent(app: Any, job: Job, reading: Reading) -> Any:
    found = do.rules()
    schema: Any = faust.Schema(key_type=str, value_type=bytes, key_serializer="raw", value_serializer="raw")
    kept_seen = app.Table("seen", default=int)
    kept_sessions = app.Table("sessions", schema=schema)
    kept_profiles = app.Table("profiles", schema=schema)
    events, sessions = (
        app.topic(name, value_type=bytes, value_serializer="raw") for name in (job.events, job.sessions)
    )

    async def each(stream: Any) -> None:
        async for incoming in stream.events():
            event = do.clean(do.read(incoming.value), found)
            if event.event_id not in kept_seen:
                kept_seen[event.event_id] = 1
                visitor, partition = event.visitor, incoming.message.partition
                await events.send(value=do.pack(event), partition=partition)
                raw = kept_sessions.get(visitor)
                state = do.read_sessions(raw) if raw else VisitorSessions([])
                row = do.place(state, event, found)
                kept_sessions[visitor] = do.pack(state)
                await sessions.send(value=do.pack(row), partition=partition)
                raw = kept_profiles.get(visitor)
                profile = do.read_profile(raw) if raw else Profile()
                do.learn(profile, event, found)
                kept_profiles[visitor] = do.pack(profile)
            if reading.add():
                while app.producer.buffer.size:  # the tables' changes: a flush alone gives up after 0.1 s
                    await app.producer.flush()
                await asyncio.sleep(LAST_ONE_S)
                await app.producer.flush()
                reading.report()
                os._exit(0)  # what Faust would still tidy up is not of the measurement

    return each

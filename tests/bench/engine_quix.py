"""c. Quix Streams as its documentation shows it: a StreamingDataFrame, state in RocksDB by the record's key (with its
changelog topics), outputs by `to_topic`. All settings at their defaults, at-least-once.
"""

from typing import Any

from schemas.profile import Profile
from schemas.session import VisitorSessions
from tests.bench import per_event as do
from tests.bench.reading import Job, Reading


def run(job: Job) -> None:
    """Run until all events of the job are through; report."""
    from quixstreams import Application

    app = Application(
        job.broker,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        state_dir=job.folder,
        loglevel="WARNING",
    )
    source, events, sessions = (
        app.topic(name, key_serializer="bytes", key_deserializer="bytes", value_serializer="bytes",
                  value_deserializer="bytes")
        for name in (job.source, job.events, job.sessions)
    )  # fmt: skip
    reading = Reading(job)
    fresh = app.dataframe(source).apply(_each(reading), stateful=True).filter(lambda rows: rows is not None)
    fresh.apply(lambda rows: rows[0]).to_topic(events)
    fresh.apply(lambda rows: rows[1]).to_topic(sessions)
    reading.when_done(app.stop)
    app.run()
    reading.report()


def profiles_topic(job: Job) -> str:
    """Return where the profiles can be read: the changelog, by the keys that end in `profile`."""
    return f"changelog__{job.group}--{job.source}--default"


def visitor_of(key: bytes) -> str:
    """Return whose profile a key of that topic names, "" where it names none."""
    visitor, _, name = key.rpartition(b"|")
    return visitor.decode() if name == b'"profile"' else ""


def _each(reading: Reading) -> Any:
    found = do.rules()

    def each(value: bytes, state: Any) -> tuple[bytes, bytes] | None:
        event = do.clean(do.read(value), found)
        rows = None
        if not state.exists(event.event_id):
            state.set(event.event_id, 1)
            raw = state.get_bytes("sessions")
            held = do.read_sessions(raw) if raw else VisitorSessions([])
            row = do.place(held, event, found)
            state.set_bytes("sessions", do.pack(held))
            raw = state.get_bytes("profile")
            profile = do.read_profile(raw) if raw else Profile()
            do.learn(profile, event, found)
            state.set_bytes("profile", do.pack(profile))
            rows = (do.pack(event), do.pack(row))
        reading.add()
        return rows

    return each

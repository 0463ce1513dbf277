"""c. Bytewax as its documentation shows it: Kafka in, `stateful_map` by visitor, Kafka out; state as Python objects in
memory, saved into recovery partitions at the end of each epoch (10 s, the default).

Its state can be read by nobody else, so the profiles leave as rows of a topic of their own.
"""

from pathlib import Path
from typing import Any

from schemas.event import Event
from schemas.profile import Profile
from schemas.session import VisitorSessions
from tests.bench import per_event as do
from tests.bench.reading import Job, Reading

Rows = tuple[bytes, bytes, bytes]


class Visitor:
    """What is kept of one visitor; pickled by Bytewax."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.seen: set[str] = set()
        self.sessions = VisitorSessions([])
        self.profile = Profile()


def run(job: Job) -> None:
    """Run until all events of the job are through; report."""
    from datetime import timedelta

    from bytewax._bytewax import cli_main
    from bytewax.recovery import RecoveryConfig, init_db_dir

    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    init_db_dir(folder, 1)
    reading = Reading(job)
    cli_main(_flow(job, reading), epoch_interval=timedelta(seconds=10), recovery_config=RecoveryConfig(folder))
    reading.report()


def profiles_topic(job: Job) -> str:
    """Return where the profiles can be read."""
    return job.profiles


def visitor_of(key: bytes) -> str:
    """Return whose profile a key of that topic names."""
    return key.decode()


def _flow(job: Job, reading: Reading) -> Any:
    import bytewax.operators as op
    from bytewax.connectors.kafka import KafkaSinkMessage
    from bytewax.connectors.kafka import operators as kop
    from bytewax.dataflow import Dataflow

    found = do.rules()

    def read(message: Any) -> tuple[str, Event]:
        event = do.clean(do.read(message.value), found)
        return event.visitor, event

    def each(state: Visitor | None, event: Event) -> tuple[Visitor, Rows | None]:
        state = state or Visitor()
        rows = None
        if event.event_id not in state.seen:
            state.seen.add(event.event_id)
            row = do.place(state.sessions, event, found)
            do.learn(state.profile, event, found)
            rows = (do.pack(event), do.pack(row), do.pack(state.profile))
        reading.add()
        return state, rows

    flow = Dataflow("bench")
    brokers = [job.broker]
    incoming = kop.input("in", flow, brokers=brokers, topics=[job.source], tail=False)
    made = op.stateful_map("each", op.map("read", incoming.oks, read), each)
    fresh = op.filter("fresh", made, lambda keyed: keyed[1] is not None)
    for place, topic in enumerate((job.events, job.sessions, job.profiles)):
        out = op.map(f"to-{topic}", fresh, lambda keyed, at=place: KafkaSinkMessage(keyed[0].encode(), keyed[1][at]))
        kop.output(f"out-{topic}", out, brokers=brokers, topic=topic)
    return flow

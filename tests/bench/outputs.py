"""c. What came out, read back from Kafka and made comparable: events, sessions and profiles, row for row.

An engine that hears one event at a time tells of a session after each, we tell of it once a block: so the last word on
each session counts, as in the warehouse, and on each profile. Two things only our stages know, because they need
stream time and not just an event: whether a session is closed, and when it was last touched. They are left out.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from kafka import KafkaConsumer, TopicPartition

from pipeline.core.state import StateView
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import EventBlock, SessionBlock
from schemas.event import Event
from schemas.profile import VisitorState
from schemas.session import SessionRow
from schemas.state import StateRecord
from schemas.topics import EVENTS, PROFILES, SESSIONS
from tests.bench.per_event import pack, read_profile

_IDLE_MS = 3_000


class Outputs(NamedTuple):
    """How many rows of each kind. digest: three, over each kind's rows, sorted: two are equal if all rows are."""

    events: int
    sessions: int
    profiles: int
    digest: str


def of_stages(settings: Settings) -> Outputs:
    """Return what our stages wrote."""
    events = [
        pack(event)
        for value in _values(settings, settings.topic(EVENTS.name))
        for event in codec.decode(value, EventBlock).events
    ]
    rows = (
        row
        for value in _values(settings, settings.topic(SESSIONS.name))
        for row in codec.decode(value, SessionBlock).sessions
    )
    views: dict[int, StateView] = {}
    for partition, offset, value, _ in _records(settings, settings.topic(PROFILES.name)):
        views.setdefault(partition, StateView()).apply(codec.decode(value, StateRecord), offset)
    profiles = {
        visitor: pack(msgspec.msgpack.decode(raw, type=VisitorState).profile)
        for view in views.values()
        for visitor, raw in view.entries.items()
    }
    return _digest(events, _last_words(rows), profiles)


def of_engine(
    settings: Settings, events: str, sessions: str, profiles: str, visitor_of: Callable[[bytes], str]
) -> Outputs:
    """Return what an engine wrote. visitor_of: whose profile a key of `profiles` names, "" where it names none."""
    read_row = msgspec.msgpack.Decoder(SessionRow).decode
    held: dict[str, bytes] = {}
    for _, _, value, key in _records(settings, profiles):
        if visitor := visitor_of(key):
            held[visitor] = pack(read_profile(value))
    rows = (read_row(value) for value in _values(settings, sessions))
    return _digest([pack(_read_event(value)) for value in _values(settings, events)], _last_words(rows), held)


_read_event = msgspec.msgpack.Decoder(Event).decode


def _last_words(rows: Iterable[SessionRow]) -> dict[str, bytes]:
    """Return each session as it was last told of, under its name."""
    found: dict[str, bytes] = {}
    for row in rows:
        session = row.session
        name = f"{row.visitor}\n{session.start_ms}\n{session.stray_id}"
        if row.deleted:
            found.pop(name, None)
            continue
        session.closed, session.touched_ms = False, 0
        found[name] = pack(session)
    return found


def _digest(events: list[bytes], sessions: dict[str, bytes], profiles: dict[str, bytes]) -> Outputs:
    kinds = (events, _named(sessions), _named(profiles))
    return Outputs(len(events), len(sessions), len(profiles), "-".join(_digest_of(rows) for rows in kinds))


def _named(rows: dict[str, bytes]) -> list[bytes]:
    return [f"{name}\n".encode() + row for name, row in rows.items()]


def _digest_of(rows: list[bytes]) -> str:
    made = blake2b(digest_size=6)
    for row in sorted(rows):
        made.update(len(row).to_bytes(4, "little") + row)
    return made.hexdigest()


def _values(settings: Settings, topic: str) -> Iterator[bytes]:
    for _, _, value, _ in _records(settings, topic):
        yield value


def _records(settings: Settings, topic: str) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Yield (partition, offset, value, key) of all that a topic holds now, each partition's in order."""
    reader = KafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers, consumer_timeout_ms=_IDLE_MS, fetch_max_bytes=2**26
    )
    try:
        found = [TopicPartition(topic, partition) for partition in reader.partitions_for_topic(topic) or ()]
        assert found, f"{topic}: no such topic"
        ends = reader.end_offsets(found)
        for tp in found:
            reader.assign([tp])
            reader.seek_to_beginning(tp)
            while reader.position(tp) < ends[tp]:
                for record in reader.poll(timeout_ms=_IDLE_MS).get(tp, ()):
                    yield tp.partition, record.offset, record.value or b"", record.key or b""
    finally:
        reader.close()

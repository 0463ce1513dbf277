"""What the tests of delivery's memory share: records of changes, read as the follower reads them."""

import msgspec

from pipeline.delivery.memory import Memory
from pipeline.edge.clock import monotonic_s, now_ms
from schemas.state import StateRecord
from schemas.topics import Topic


def change(
    version: int, entries: dict[str, msgspec.Struct], deletes: tuple[str, ...] = (), **more: object
) -> StateRecord:
    puts = [(key, msgspec.msgpack.encode(value)) for key, value in entries.items()]
    return msgspec.structs.replace(
        StateRecord("change", "o", 0, version, 0, b"", puts, list(deletes), False, now_ms()), **more
    )


def read(memory: Memory, topic: Topic, partition: int, *records: StateRecord) -> None:
    """Read a partition from its beginning, as the follower does."""
    memory.begin(topic, partition)
    for offset, record in enumerate(records):
        memory.take(topic, partition, record, offset)
    memory.loaded(topic, partition)


def refresh(memory: Memory) -> None:
    """Give it the pauses it needs to make the policies of all that has changed."""
    end = monotonic_s() + 30
    memory.pause()
    while memory._changed and monotonic_s() < end:
        memory.pause()

"""A block as Faust brings it: checked, with its name."""

from typing import Any, NamedTuple

from faust.types import EventT

from schemas import block as codec
from schemas.block import Origin
from schemas.topics import COLLECTED, Topic


class Arrival(NamedTuple):
    """One record of an input topic. rows and crc: from its headers; event: to acknowledge it by."""

    origin: Origin
    value: bytes
    rows: int
    crc: int
    event: EventT[Any]


def arrived(event: EventT[Any], source: Topic) -> Arrival:
    """Read a record's headers and check its value against them.

    Raises CorruptBlock where it is not one of our blocks.
    """
    message = event.message
    raw: Any = message.headers or ()
    headers: list[tuple[str, bytes]] = list(raw.items() if isinstance(raw, dict) else raw)
    value = message.value or b""
    codec.check(value, headers)
    is_first = source is COLLECTED
    origin = Origin(message.partition, message.offset) if is_first else codec.origin_of(headers)
    return Arrival(origin, value, codec.rows_of(headers), int(dict(headers).get("crc", b"0"), 16), event)

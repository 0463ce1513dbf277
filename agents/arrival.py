"""A block as the broker brings it: checked, with its name."""

from typing import Any, NamedTuple, Protocol

from schemas import block as codec
from schemas.block import Origin
from schemas.topics import COLLECTED, Topic


class Message(Protocol):
    """A record as a consumer has it; Faust's is one. headers: pairs, or in Faust's case maybe a dict; None: none."""

    @property
    def tp(self) -> Any:
        """Topic and partition, as the client names them."""

    @property
    def partition(self) -> int:
        """The partition of the topic that was read."""

    @property
    def offset(self) -> int:
        """Its place there."""

    @property
    def headers(self) -> Any:
        """Its headers."""

    @property
    def value(self) -> bytes | None:
        """Its bytes."""


class Event(Protocol):
    """What a message is acknowledged by; Faust's event is one."""

    @property
    def message(self) -> Message:
        """The message."""


class Arrival(NamedTuple):
    """One record of an input topic. rows and crc: from its headers; event: to acknowledge it by."""

    origin: Origin
    value: bytes
    rows: int
    crc: int
    event: Event


def arrived(event: Event, source: Topic) -> Arrival:
    """Read a record's headers and check its value against them.

    Raises CorruptBlock where it is not one of our blocks.
    """
    message = event.message
    raw = message.headers or ()
    headers: list[tuple[str, bytes]] = list(raw.items() if isinstance(raw, dict) else raw)
    value = message.value or b""
    codec.check(value, headers)
    is_first = source is COLLECTED
    origin = Origin(message.partition, message.offset) if is_first else codec.origin_of(headers)
    return Arrival(origin, value, codec.rows_of(headers), int(dict(headers).get("crc", b"0"), 16), event)

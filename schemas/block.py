"""The block codec: many events in one Kafka record (schemas/docs/blocks.md, exactness.md beside it).

value  = one byte of format version, then msgpack of the block's Struct.
headers = `origin` (partition and offset in `collected`, on every hop), `rows`, `crc` (of the value).
A block's name is its origin and it travels; a hop's own offset is no identity.
"""

import zlib
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from schemas.event import Collected, Context, Event, Refused
from schemas.outcome import Outcome
from schemas.session import SessionRow
from schemas.spend import Sale, StockLevel

BLOCK_VERSION = 1
READABLE_VERSIONS = frozenset({1})

Headers = list[tuple[str, bytes]]


class CorruptBlock(ValueError):
    """A record that is not a block we can read: torn, altered, or of a version that this code does not know."""


class Origin(NamedTuple):
    """A block's name: where it stands in `collected`."""

    partition: int
    offset: int


class CollectedBlock(Struct, array_like=True):
    """What a collector (or delivery) gathered for one partition. Without events it is a tick."""

    block_time_ms: int  # the writer's clock when the block was closed
    writer: str
    contexts: list[Context]
    events: list[Collected]


class Totals(Struct, array_like=True):
    """What has happened to all events of a partition up to a block; the books are kept from it."""

    received: int = 0
    clean: int = 0
    refused: int = 0
    duplicate: int = 0
    refused_by_reason: dict[str, int] = {}


class EventBlock(Struct, array_like=True):
    """The clean stage's answer to one collected block. rows: each event's place in the collected block.

    received: events in the collected block; -1 in blocks of an older writer, which did not say.
    """

    block_time_ms: int
    totals: Totals
    rows: list[int]
    events: list[Event]
    received: int = -1

    @property
    def is_tick(self) -> bool:
        """True where nothing came. Where all that came was refused or a repeat, something did: no time passed."""
        return self.received <= 0 and not self.events


class RefusedBlock(Struct, array_like=True):
    """What the clean stage refused of one collected block."""

    block_time_ms: int
    events: list[Refused]


class SessionBlock(Struct, array_like=True):
    """The sessions that one block changed, each in full."""

    block_time_ms: int
    sessions: list[SessionRow]


class OutcomeBlock(Struct, array_like=True):
    """The outcomes that one block changed, each in full with what it was before; and what it said of stock.

    sales: of pieces that were held for who bought them.
    """

    block_time_ms: int
    outcomes: list[Outcome]
    stock: list[StockLevel] = []
    sales: list[Sale] = []


Block = CollectedBlock | EventBlock | RefusedBlock | SessionBlock | OutcomeBlock
B = TypeVar("B", bound=Struct)

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type[Struct], msgspec.msgpack.Decoder[Struct]] = {}


def encode(block: Struct) -> bytes:
    """Return the record value of a block."""
    buffer = bytearray((BLOCK_VERSION,))
    _encoder.encode_into(block, buffer, 1)
    return bytes(buffer)


def decode(value: bytes | memoryview, kind: type[B]) -> B:
    """Return the block of this kind in a record value.

    Raises CorruptBlock where the version is unknown or the bytes do not fit the kind.
    """
    view = memoryview(value)
    if not view or view[0] not in READABLE_VERSIONS:
        found = view[0] if view else "nothing"
        raise CorruptBlock(f"{kind.__name__}: format version {found}, expected one of {sorted(READABLE_VERSIONS)}")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(view[1:])  # type: ignore[return-value]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptBlock(f"{kind.__name__}: {error}") from error


def headers(value: bytes, rows: int, origin: Origin | None = None) -> Headers:
    """Return the record headers of a block: rows, checksum and, on every hop after `collected`, the origin."""
    found: Headers = [("rows", b"%d" % rows), ("crc", b"%08x" % zlib.crc32(value))]
    if origin is not None:
        found.append(("origin", b"%d:%d" % origin))
    return found


def check(value: bytes, found: Iterable[tuple[str, bytes]]) -> None:
    """Raise CorruptBlock where the value is not the one that the headers were made for."""
    expected = dict(found).get("crc")
    actual = b"%08x" % zlib.crc32(value)
    if expected is not None and expected != actual:
        raise CorruptBlock(f"checksum {actual.decode()}, expected {expected.decode()}: the record was altered")


def origin_of(found: Iterable[tuple[str, bytes]]) -> Origin:
    """Return the origin in a hop's headers. Raises CorruptBlock where there is none."""
    raw = dict(found).get("origin")
    if raw is None:
        raise CorruptBlock("no `origin` header: only blocks made from `collected` may stand in this topic")
    partition, _, offset = raw.partition(b":")
    if not (partition.isdigit() and offset.isdigit()):
        raise CorruptBlock(f"`origin` header {raw[:40]!r}, expected partition:offset")
    return Origin(int(partition), int(offset))


def rows_of(found: Iterable[tuple[str, bytes]]) -> int:
    """Return how many events a block holds, from its headers alone. Raises CorruptBlock where they do not say."""
    raw = dict(found).get("rows", b"")
    if not raw.isdigit():
        raise CorruptBlock(f"`rows` header {raw[:40]!r}, expected a number of events")
    return int(raw)


def partition_of(key: str, partitions: int) -> int:
    """Return the partition of a visitor (or of an event without one): stable over processes, versions and machines."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % partitions

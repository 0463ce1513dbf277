"""Packets of the native protocol at revision 54440: the last before the inter-server secret and the per-column marks.

Above it a block would no longer equal the Native file format that the engine reads and writes.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pipeline.embedded.native.faults import ServerError
from pipeline.embedded.native.wire import ByteReader, compress, text, varint

REVISION: Final = 54440
_REVISION_MIN: Final = 54429
"""The oldest client understood: the first that sends settings as strings."""
_NAME_BYTES_MAX: Final = 1 << 16
_QUERY_BYTES_MAX: Final = 1 << 26
_BLOCK_INFO: Final = bytes.fromhex("010002ffffffff00")
_EXCEPTION: Final = struct.Struct("<i")
_IMPORTANT: Final = 1
_OVER_TCP: Final = 1
HTTP_ANSWER: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks ClickHouse's native protocol (clickhouse-client, clickhouse-driver), not HTTP.\r\n"
)


class FromClient(IntEnum):
    """Packets that a client sends."""

    HELLO = 0
    QUERY = 1
    DATA = 2
    CANCEL = 3
    PING = 4


@dataclass(frozen=True)
class Hello:
    """Who connects."""

    client_name: str
    revision: int
    database: str
    user: str
    password: str


@dataclass(frozen=True)
class Query:
    """A statement as sent.

    settings: name -> value; important: names that must not be ignored when unknown. compressed: blocks of both ways.
    """

    query_id: str
    settings: dict[str, str]
    important: frozenset[str]
    compressed: bool
    sql: str


def read_hello(reader: ByteReader) -> Hello:
    """Read the first packet, after its type. Raises ServerError 99 for a client too old."""
    name = reader.text(_NAME_BYTES_MAX)
    reader.varint()
    reader.varint()
    revision = reader.varint()
    database, user, password = (reader.text(_NAME_BYTES_MAX) for _ in range(3))
    if revision < _REVISION_MIN:
        raise ServerError(
            99, f"client {name} speaks revision {revision}; expected {_REVISION_MIN} or later", fatal=True
        )
    return Hello(name, revision, database, user, password)


def read_query(reader: ByteReader, revision: int) -> Query:
    """Read a Query packet, after its type.

    revision: what both sides speak.
    """
    query_id = reader.text(_NAME_BYTES_MAX)
    _skip_client_info(reader, revision)
    settings: dict[str, str] = {}
    important = set()
    while name := reader.text(_NAME_BYTES_MAX):
        if reader.u8() & _IMPORTANT:
            important.add(name)
        settings[name] = reader.text(_QUERY_BYTES_MAX)
    reader.varint()  # up to which stage: always complete here, there are no shards
    compressed = bool(reader.varint())
    return Query(query_id, settings, frozenset(important), compressed, reader.text(_QUERY_BYTES_MAX))


def _skip_client_info(reader: ByteReader, revision: int) -> None:
    if reader.u8() == 0:
        return
    for _ in range(3):
        reader.text(_NAME_BYTES_MAX)
    interface = reader.u8()
    if interface != _OVER_TCP:
        raise ServerError(99, f"client interface {interface} is not supported; expected {_OVER_TCP} (TCP)", fatal=True)
    for _ in range(3):
        reader.text(_NAME_BYTES_MAX)
    for _ in range(3):
        reader.varint()
    reader.text(_NAME_BYTES_MAX)
    if revision >= 54401:
        reader.varint()


def skip_block_info(reader: ByteReader) -> None:
    """Pass by what precedes a block on the wire but not in the Native format."""
    while field := reader.varint():
        reader.skip({1: 1, 2: 4}.get(field, 0))
        if field not in (1, 2):
            raise ServerError(261, f"Unknown BlockInfo field number: {field}. (UNKNOWN_BLOCK_INFO_FIELD)", fatal=True)


def hello(version: tuple[int, ...], timezone: str, display_name: str) -> bytes:
    """Build the server's answer to Hello."""
    major, minor, patch = version
    head = b"\x00" + text("ClickHouse") + varint(major) + varint(minor) + varint(REVISION)
    return head + text(timezone) + text(display_name) + varint(patch)


def data(block: bytes, compressed: bool) -> bytes:
    """Build a Data packet around a Native block."""
    body = _BLOCK_INFO + block
    return b"\x01\x00" + (compress(body) if compressed else body)


def header_block(columns: list[tuple[str, str]]) -> bytes:
    """Build a block of no rows: names and types only."""
    return varint(len(columns)) + b"\x00" + b"".join(text(name) + text(kind) for name, kind in columns)


def string_block(names: list[str], rows: list[list[str]]) -> bytes:
    """Build a block of String columns."""
    columns = [text(name) + text("String") + b"".join(text(row[at]) for row in rows) for at, name in enumerate(names)]
    return varint(len(names)) + varint(len(rows)) + b"".join(columns)


def exception(error: ServerError) -> bytes:
    """Build an Exception packet; no stack trace, nothing nested."""
    return b"\x02" + _EXCEPTION.pack(error.code) + text("DB::Exception") + text(str(error)) + text("") + b"\x00"


def progress(read: tuple[int, int, int], written: tuple[int, int] = (0, 0)) -> bytes:
    """Build a Progress packet: increments since the last one.

    read: rows, bytes, rows to read in all. written: rows, bytes.
    """
    return b"\x03" + b"".join(varint(max(0, value)) for value in (*read, *written))


def profile_info(rows: int, blocks: int, size_bytes: int) -> bytes:
    """Build a ProfileInfo packet: what the result held."""
    return b"\x06" + varint(rows) + varint(blocks) + varint(size_bytes) + b"\x00\x00\x00"


PONG: Final = b"\x04"
END_OF_STREAM: Final = b"\x05"

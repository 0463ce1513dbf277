"""Segment files of a backup: records of one partition, one after the other, each with its checksum.

    file    MAGIC, frame, frame, …
    frame   length of the body (4 bytes), crc32 of the body (4 bytes), body: msgpack of [offset, time, headers, value]

A file gets its name only when it is whole and on the disk. Personal data: readable by its owner alone.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import msgspec

from pipeline.archive.log import LogRecord
from pipeline.errors import HeraldError

MAGIC = b"HERALD1\n"
BODY_BYTES_MAX = 33_554_432  # four times what a record may hold: a length beyond it is none
READ_BYTES = 1_048_576
ENDING = ".blocks"
UNFINISHED = ".unfinished"
_HEAD = struct.Struct(">II")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[str, bytes]], bytes]).decode


class Damaged(HeraldError):
    """A file of a backup is torn, altered or missing; the text names it."""


class Segment(NamedTuple):
    """One whole file. name: relative to the backup's folder. first, next: offsets. size: in bytes."""

    name: str
    first: int
    next: int
    size: int
    sha256: str


class SegmentWriter:
    """One file in the making."""

    def __init__(self, folder: Path, partition: int, first: int) -> None:
        """folder: the backup's. Raises OSError."""
        self.name = f"{partition:04}/{first:020}{ENDING}"
        self.first = self.next = first
        self._folder, self._path = folder, folder / self.name
        make_folder(self._path.parent)
        self._unfinished = self._path.with_name(self._path.name + UNFINISHED)
        self._file: BinaryIO = private(self._unfinished)
        self._hash = hashlib.sha256()
        self.size = 0
        self._write(MAGIC)

    def append(self, record: LogRecord) -> None:
        """Add the next record."""
        body = _encode((record.offset, record.time_ms, record.headers, record.value))
        self._write(_HEAD.pack(len(body), zlib.crc32(body)) + body)
        self.next = record.offset + 1

    def finish(self) -> Segment:
        """Give the file its name, for good."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unfinished.replace(self._path)
        sync_folder(self._path.parent)
        return Segment(self.name, self.first, self.next, self.size, self._hash.hexdigest())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; unfinished, it is nothing."""
        self._file.close()


def make_folder(path: Path) -> None:
    """Make a folder, for its owner alone, and its name durable. Raises OSError."""
    if not path.is_dir():
        path.mkdir(mode=0o700, parents=True)
        sync_folder(path.parent)


def private(path: Path) -> BinaryIO:
    """Open a new file for its owner alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(folder: Path, segment: Segment) -> Iterator[LogRecord]:
    """Yield a file's records, each checked. Raises Damaged where one is torn, altered, or not the next one."""
    path, expected, at = folder / segment.name, segment.first, len(MAGIC)
    with _opened(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise Damaged(f"{path}: does not begin as a segment does")
        while head := file.read(_HEAD.size):
            record, size = _record(file, head, f"{path}, byte {at}")
            if record.offset != expected:
                raise Damaged(f"{path}, byte {at}: record {record.offset}, expected {expected}")
            yield record
            expected, at = expected + 1, at + size
    if expected != segment.next:
        raise Damaged(f"{path}: ends before record {expected}, expected records up to {segment.next - 1}")


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}; it belongs to the backup") from error


def _record(file: BinaryIO, head: bytes, where: str) -> tuple[LogRecord, int]:
    """Return the record behind a frame's head, and the frame's length."""
    if len(head) < _HEAD.size:
        raise Damaged(f"{where}: torn in the middle of a record")
    size, crc = _HEAD.unpack(head)
    body = file.read(size) if size <= BODY_BYTES_MAX else b""
    if len(body) != size or zlib.crc32(body) != crc:
        raise Damaged(f"{where}: torn or altered, its checksum does not fit")
    try:
        return LogRecord(*_decode(body)), _HEAD.size + size
    except msgspec.MsgspecError as error:
        raise Damaged(f"{where}: {error}") from error


def check(folder: Path, segment: Segment) -> None:
    """Raise Damaged where a file is not to the byte what was written."""
    path, found, size = folder / segment.name, hashlib.sha256(), 0
    with _opened(path) as file:
        while data := file.read(READ_BYTES):
            found.update(data)
            size += len(data)
    if (size, found.hexdigest()) != (segment.size, segment.sha256):
        for _ in read(folder, segment):
            pass  # says where, if a record is hit
        raise Damaged(f"{path}: {size} bytes with another checksum than the manifest's, expected {segment.size} bytes")

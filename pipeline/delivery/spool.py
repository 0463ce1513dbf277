"""What delivery has answered and Kafka has not yet, in files: a killed process loses none of it.

A decision is answered from memory and logged behind its answer. So its record is appended to a file first: one write
into the page cache, which outlives the process (not the machine: for that it would have to wait for the disk). Once the
broker has everything in a file, the file is emptied; what a dead process left is sent again by the next one that finds
it, under the same ids, so that the clean stage counts it once.
"""

import fcntl
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from pipeline.edge import metrics
from schemas.event import Context

log = logging.getLogger(__name__)

SEGMENT_BYTES_MAX: Final = 4_194_304
HEAD_BYTES: Final = 8  # length and crc32 of what follows, four bytes each
SUFFIX: Final = ".spool"

Landed = Callable[[bool], None]


class Entry(Struct, array_like=True, gc=False):
    """One event of `collected` as delivery writes it. key: what its partition is chosen by."""

    key: str
    context: Context
    event_id: str
    visitor: str
    raw: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def frame(entry: Entry) -> bytes:
    """Return an entry as it stands in a file."""
    body = _encode(entry)
    return len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big") + body


def entries(data: bytes) -> Iterator[Entry]:
    """Yield the entries of a file, up to one that is torn or altered: its process died before it could answer."""
    at = 0
    while at + HEAD_BYTES <= len(data):
        size, crc = (int.from_bytes(data[start : start + 4], "big") for start in (at, at + 4))
        body = data[at + HEAD_BYTES : at + HEAD_BYTES + size]
        if not size or len(body) < size or zlib.crc32(body) != crc:
            return
        yield _decode(body)
        at += HEAD_BYTES + size


class _Segment:
    """One file, locked as long as its process lives. waiting: entries that the broker does not have yet."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.size = 0
        self.waiting = 0
        self.is_closed = False  # nothing more is written: it goes once all has landed

    def landed(self, is_landed: bool) -> None:
        """Take the broker's word on one entry. False leaves the file to the next process."""
        if not is_landed:
            return
        self.waiting -= 1
        if self.waiting == 0:
            self.clear()

    def clear(self) -> None:
        """Forget what is in the file. Where the disk refuses, it is sent once more: its ids make it count once."""
        try:
            self._clear()
        except OSError as error:
            metrics.SPOOL_FAILURES.inc()
            log.error("%s could not be emptied: %s", self.path, error)

    def _clear(self) -> None:
        if self.is_closed:
            self.path.unlink(missing_ok=True)
            os.close(self.descriptor)
        elif self.size:
            os.ftruncate(self.descriptor, 0)
            self.size = 0


class Spool:
    """The files of one process. All methods belong to the event loop's thread."""

    def __init__(self, folder: Path) -> None:
        """folder: shared by all delivery processes of a machine; each file is locked by the one that writes it."""
        self._folder = folder
        self._segment: _Segment | None = None
        self._number = 0
        self._is_failing = False

    def keep(self, entry: Entry) -> Landed:
        """Append an entry; return whom to tell once the broker has it. A disk that refuses is logged, not raised."""
        try:
            segment = self._current()
            data = frame(entry)
            written = os.write(segment.descriptor, data)
            if written < len(data):
                os.ftruncate(segment.descriptor, segment.size)
                raise OSError(f"{written} of {len(data)} bytes were written")
        except OSError as error:
            self._failed(error)
            return _nobody
        self._is_failing = False
        segment.size += len(data)
        segment.waiting += 1
        return segment.landed

    def left_behind(self) -> Iterator[tuple[Entry, Landed]]:
        """Yield what dead processes left, with whom to tell once the broker has it; each file goes when it has all."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                segment = _taken_over(path)
                found = list(entries(_content(segment.descriptor))) if segment is not None else []
            except OSError as error:  # gone meanwhile, or not ours to read: no reason not to serve
                log.warning("%s is left where it is: %s", path, error)
                continue
            if segment is None:
                continue
            segment.waiting = len(found)
            if not found:
                segment.clear()
            for entry in found:
                yield entry, segment.landed

    def close(self) -> None:
        """Close the file; it stays where something in it has not landed."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.is_closed = True
            if segment.waiting == 0:
                segment.clear()

    def _current(self) -> _Segment:
        if self._segment is not None and self._segment.size >= SEGMENT_BYTES_MAX:
            self.close()
        while self._segment is None:
            self._number += 1
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._folder / f"{os.getpid()}-{self._number}{SUFFIX}"
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if _locked(descriptor) and os.fstat(descriptor).st_nlink and not os.fstat(descriptor).st_size:
                self._segment = _Segment(path, descriptor)
            else:  # a process with this id lived here before, or one that starts just now took it for dead
                os.close(descriptor)
        return self._segment

    def _failed(self, error: OSError) -> None:
        metrics.SPOOL_FAILURES.inc()
        if not self._is_failing:
            log.error("decisions are answered without a record on disk, a kill would lose them: %s", error)
        self._is_failing = True


def _taken_over(path: Path) -> _Segment | None:
    """Return a dead process's file; None where its process lives, or another one has just dealt with it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    if not _locked(descriptor) or not os.fstat(descriptor).st_nlink:
        os.close(descriptor)
        return None
    segment = _Segment(path, descriptor)
    segment.is_closed = True
    return segment


def _content(descriptor: int) -> bytes:
    """Read a file by its descriptor: under its name there may be another one by now."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _nobody(is_landed: bool) -> None:
    """Nothing was written, nothing is waited for."""

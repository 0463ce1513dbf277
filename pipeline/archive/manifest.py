"""A backup's manifest: what belongs to it. Replaced as a whole, so there is always one, the old or the new.

A file that it does not name is no part of the backup: left over from a run that was killed, and written again.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct, UnsetType

from pipeline.archive import segments
from pipeline.archive.campaigns import StoreFile
from pipeline.archive.log import LogRecord
from pipeline.archive.segments import Damaged, Segment
from pipeline.errors import SettingsError, StateError

FORMAT = 1
NAME = "manifest.json"
LOCK = "lock"
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class Part(Struct):
    """One partition. first, next: offsets. last_crc: the checksum in the last record's headers."""

    first: int
    next: int
    last_crc: str
    segments: list[Segment]


class Manifest(Struct):
    """What a backup holds. written_ms: when the last run ended. checksum: sha256 of all the rest.

    campaigns: their store; unset where it was not there (and in backups of before, whose checksum knows no such field).
    """

    format: int
    herald: str
    generation: int
    written_ms: int
    parts: list[Part]
    checksum: str = ""
    campaigns: StoreFile | UnsetType = UNSET

    @property
    def partitions(self) -> int:
        """How many partitions the log had."""
        return len(self.parts)


def new(generation: int, firsts: list[int]) -> Manifest:
    """Return the manifest of an empty backup. firsts: where the log began then."""
    parts = [Part(first, first, "", []) for first in firsts]
    return Manifest(FORMAT, version("herald"), generation, 0, parts)


def read(folder: Path) -> Manifest | None:
    """Return a folder's manifest, or None where there is none.

    Raises Damaged where it was altered, SettingsError where another Herald wrote it in a way that this one cannot read.
    """
    path = folder / NAME
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; expected the folder of a backup, to be read") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"{path}: {error}") from error
    if found.checksum != _checksum(found):
        raise Damaged(f"{path}: altered, its checksum does not fit")
    if found.format != FORMAT:
        raise SettingsError(f"{path}: format {found.format} of Herald {found.herald}; expected {FORMAT}")
    return found


def need(folder: Path) -> Manifest:
    """Return a folder's manifest. Raises as `read` does, and SettingsError where there is none."""
    found = read(folder)
    if found is None:
        raise SettingsError(f"{folder}: no {NAME} there; expected a folder that `herald backup` has written")
    return found


def write(folder: Path, manifest: Manifest) -> None:
    """Replace a folder's manifest. Raises OSError."""
    manifest.herald = version("herald")
    manifest.checksum = _checksum(manifest)
    unfinished = folder / (NAME + segments.UNFINISHED)
    with segments.private(unfinished) as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest)))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / NAME)
    segments.sync_folder(folder)


def _checksum(manifest: Manifest) -> str:
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(manifest, checksum=""))).hexdigest()


@contextmanager
def locked(folder: Path, *, to_write: bool = True) -> Iterator[None]:
    """Have a backup's folder to oneself; the lock ends with the process. Raises StateError where another one has it.

    to_write: false for who only reads, and may be unable to do more: then nobody else will write there, either.
    """
    try:
        file = (folder / LOCK).open("ab")
    except OSError as error:
        if to_write or error.errno not in _READ_ONLY:
            raise
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(f"{folder}: another backup or restore is at work there") from error
        yield


def check_order(folder: Path, manifest: Manifest) -> None:
    """Raise Damaged where the files named do not follow on each other."""
    for number, part in enumerate(manifest.parts):
        expected = part.first
        for segment in part.segments:
            if segment.first != expected:
                raise Damaged(f"{folder / NAME}: partition {number} lacks {expected} to {segment.first - 1}")
            expected = segment.next
        if expected != part.next:
            raise Damaged(f"{folder / NAME}: partition {number} lacks {expected} to {part.next - 1}")


class BackupLog:
    """A backup as a log to read from."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """manifest: of the folder, checked."""
        self.folder, self.manifest = folder, manifest
        self.name = f"g{manifest.generation}x{manifest.partitions}"
        self.firsts = [part.first for part in manifest.parts]
        self.ends = [part.next for part in manifest.parts]

    def read(self, partition: int, start: int) -> Iterator[LogRecord]:
        """Yield the records of [start, end). Raises Damaged."""
        for segment in self.manifest.parts[partition].segments:
            if segment.next > start:
                yield from (record for record in segments.read(self.folder, segment) if record.offset >= start)

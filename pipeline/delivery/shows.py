"""What delivery has shown of capped things and the profiles may not have yet, in files: a killed process forgets none.

A capped choice stands in a file before its decision is answered: one write into the page cache, which outlives the
process. Who takes over a dead or stopped process's visitors on the same machine reads it there, and goes on counting
where that one stopped. Records of visitors with an id go once the profiles have them; those of keys of the day
(without consent, see caps.cap_key) go with the day. A file holds the visitors of a few slots (core/slots.py), so that
what has to be known of those is read in little time, however many there are of the others.

All processes on one data folder share these files: the folder is their `home`. Each holds a lock on a file of its own
as long as it lives; it also says up to which version of the profiles what was deleted has been counted there.
"""

import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct
from pydantic import SecretStr

from pipeline.core.caps import OwnShow
from pipeline.core.slots import slot_of
from pipeline.delivery.spool import HEAD_BYTES
from pipeline.edge.secret import key_of
from pipeline.errors import SettingsError
from pipeline.settings import Settings

log = logging.getLogger(__name__)

FOLDER: Final = "caps"
SEGMENT_BYTES_MAX: Final = 262_144
LOCK, SUFFIX, NEW = ".lock", ".shows", ".new"
KNOWN: Final = "id"
"""In a file's name, in the place of the day: of visitors with an id."""
GROUP_SLOTS: Final = 8
"""So many slots share a file: 2.6 million entries of a day are read in 10 s, those of one group in little over 1 s."""


class Entry(Struct, array_like=True, gc=False):
    """What one decision showed. key: visitor id, or key of the day; day: days since 1970, "" for a visitor's id."""

    key: str
    day: str
    shows: list[OwnShow]


class Floor(Struct, array_like=True, frozen=True):
    """What is not in the files any more is in the profiles, for whoever has read them up to here.

    versions: of each partition of `profiles`, in this generation of the log. at_ms: when it was so; for whoever has
    read what came after, versions say nothing: a log that was put back from a copy counts its own.
    """

    generation: int
    versions: tuple[int, ...]
    at_ms: int

    def with_those_of(self, other: "Floor") -> "Floor":
        """Return the floor by which both are reached; of two generations the newer one's."""
        if self.generation != other.generation or len(self.versions) != len(other.versions):
            return max(self, other, key=lambda each: (each.generation, len(each.versions)))
        return Floor(self.generation, tuple(map(max, self.versions, other.versions)), max(self.at_ms, other.at_ms))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


class _Name(NamedTuple):
    """What a file's name says, `holder-which-group.number`. which: a day, or KNOWN. group: "" = of any slots."""

    holder: str
    which: str
    group: str

    @classmethod
    def of(cls, path: Path) -> "_Name":
        holder, which, rest = path.stem.split("-")
        group, dot, _ = rest.partition(".")
        return cls(holder, which, group if dot else "")  # an older version's has no group


class Shows:
    """This process's files, and those of its neighbours. `keep` belongs to the event loop's thread, the rest to one."""

    def __init__(self, data_dir: Path) -> None:
        """data_dir: see Settings. Raises OSError where nothing can be written there."""
        self._folder = data_dir / FOLDER
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # the folder's own number: a copy of the files on another machine is another home
        seed = key_of(SecretStr(""), data_dir, "caps.home") + str(self._folder.stat().st_ino).encode()
        self.home = blake2b(seed, digest_size=8).hexdigest()
        self.holder, self._lock = self._begin()
        self._open: dict[tuple[str, int], tuple[int, int, Path]] = {}  # which, group -> descriptor, size, path
        self._newest: Path | None = None
        self._number = 0
        self._is_failing = False
        self._floor: Floor | None = None

    def _begin(self) -> tuple[str, int]:
        while True:
            holder = secrets.token_hex(8)
            path = self._folder / f"{holder}{LOCK}"
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:  # else a neighbour took it for a dead one's before we had the lock
                return holder, lock
            os.close(lock)

    def keep(self, entry: Entry) -> bool:
        """Append an entry; False where the disk refuses: then it must not be shown."""
        try:
            self._keep(entry)
        except OSError as error:
            if not self._is_failing:
                log.error("nothing that has a cap is shown, since it cannot be written down: %s", error)
            self._is_failing = True
            return False
        self._is_failing = False
        return True

    def _keep(self, entry: Entry) -> None:
        which = _place(entry)
        found = self._open.get(which)
        if found is None or found[1] >= SEGMENT_BYTES_MAX:
            found = self._segment(*which)
        descriptor, size, path = found
        data = _frame(entry)
        written = os.write(descriptor, data)
        if written < len(data):
            os.ftruncate(descriptor, size)
            raise OSError(f"{path}: {written} of {len(data)} bytes were written")
        self._open[which] = (descriptor, size + written, path)

    def take_over(self, entries: Iterable[Entry], floor: "Floor | None") -> None:
        """Write what another home has told into a file of ours. Not of the event loop's thread. Raises OSError."""
        if floor is not None:
            self._raise_floor(floor)
        by_place: dict[tuple[str, int], list[bytes]] = {}
        for entry in entries:
            by_place.setdefault(_place(entry), []).append(_frame(entry))
        for (which, group), frames in by_place.items():
            name = f"{self.holder}-{which}-{group}.{secrets.token_hex(4)}"
            fresh = self._folder / f"{name}{NEW}"
            fresh.write_bytes(b"".join(frames))
            fresh.rename(self._folder / f"{name}{SUFFIX}")

    def _segment(self, which: str, group: int) -> tuple[int, int, Path]:
        """Begin a file, and close the one before it, and those of another day."""
        is_over = {name: which != KNOWN and name[0] not in (KNOWN, which) for name in self._open}
        for name in [name for name in is_over if is_over[name] or name == (which, group)]:
            os.close(self._open.pop(name)[0])
        self._number += 1
        path = self._folder / f"{self.holder}-{which}-{group}.{self._number}{SUFFIX}"
        self._newest = path  # before it is there: see `_is_in_use`
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._open[which, group] = descriptor, 0, path
        return self._open[which, group]

    # Asked by the thread of who counts what

    def is_dead(self, holder: str) -> bool:
        """Say whether a process of this home lives no more: nobody holds its lock."""
        if holder == self.holder:
            return False
        try:
            lock = os.open(self._folder / f"{holder}{LOCK}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            return _is_locked_now(lock)
        finally:
            os.close(lock)

    def read(self, slots: Collection[int]) -> Iterator[Entry]:
        """Yield what stands of these in the files of this home; afterwards `floor` says what is not there any more."""
        groups = {"", *(str(slot // GROUP_SLOTS) for slot in slots)}
        for path in sorted(self._folder.glob(f"*{SUFFIX}")) if slots else ():
            if _Name.of(path).group not in groups:
                continue
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue  # swept
            yield from (entry for entry in _entries(data) if slot_of(entry.key) in slots)

    def floor(self) -> Floor | None:
        """Return up to which version of the profiles has to be known what stands in no file any more; None = any."""
        found: Floor | None = None
        for path in sorted(self._folder.glob(f"*{LOCK}")):
            with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
                one = msgspec.json.decode(path.read_bytes() or b"null", type=Floor | None)
                if one is not None:
                    found = one if found is None else found.with_those_of(one)
        return found

    def sweep(self, today: str, is_counted: Callable[[Entry], bool], floor: Callable[[], Floor]) -> None:
        """Delete files that say nothing new: of days that are over, and those whose entries are all counted.

        floor: how far the profiles are known, asked after `is_counted`. Our own files, and those of dead neighbours.
        """
        dead: dict[str, bool] = {}
        for path in sorted([*self._folder.glob(f"*{SUFFIX}"), *self._folder.glob(f"*{NEW}")]):
            holder, which, _ = _Name.of(path)
            if holder != self.holder and not dead.setdefault(holder, self.is_dead(holder)):
                continue
            with contextlib.suppress(FileNotFoundError):
                if path.suffix == NEW:
                    path.unlink()  # its process died over it: what was to be in it still stands where it came from
                elif which != KNOWN:
                    # a clock that is set back over midnight finds the file in use as it was
                    if int(which) + self._is_in_use(path) < int(today):
                        path.unlink()
                elif not self._is_in_use(path):
                    self._sweep_known(path, is_counted, floor)
        for path in sorted(self._folder.glob(f"*{LOCK}")):
            self._bury(path)

    def _is_in_use(self, path: Path) -> bool:
        """Say whether the event loop's thread writes to a file, or is just about to: then it is empty, and not open."""
        return path == self._newest or any(each[2] == path for each in list(self._open.values()))

    def _sweep_known(self, path: Path, is_counted: Callable[[Entry], bool], floor: Callable[[], Floor]) -> None:
        if all(map(is_counted, _entries(path.read_bytes()))):
            self._raise_floor(floor())
            path.unlink()

    def _raise_floor(self, floor: Floor) -> None:
        if self._floor is not None:
            floor = self._floor.with_those_of(floor)
        if floor != self._floor:
            body = msgspec.json.encode(floor)
            os.pwrite(self._lock, body + b" " * (os.fstat(self._lock).st_size - len(body)), 0)
            self._floor = floor

    def _bury(self, path: Path) -> None:
        """Remove the lock of a dead process that has left nothing; what it says of the profiles is said here."""
        holder = path.name.removesuffix(LOCK)
        if holder == self.holder or any(self._folder.glob(f"{holder}-*")):
            return
        try:
            lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            if _is_locked_now(lock):
                with contextlib.suppress(msgspec.MsgspecError):
                    left = msgspec.json.decode(path.read_bytes() or b"null", type=Floor | None)
                    if left is not None:
                        self._raise_floor(left)
                path.unlink(missing_ok=True)
        finally:
            os.close(lock)

    def close(self) -> None:
        """Close every file; what is in them stays for the next process."""
        for descriptor, _, _ in self._open.values():
            os.close(descriptor)
        self._open.clear()
        os.close(self._lock)


def shows_of(settings: Settings) -> Shows:
    """Return a process's files. Raises SettingsError where they cannot be made."""
    try:
        return Shows(settings.data_dir)
    except OSError as error:
        raise SettingsError(f"{settings.data_dir / FOLDER}: {error.strerror}; expected a folder to write in") from error


def _place(entry: Entry) -> tuple[str, int]:
    """In which of the files: of which day, or KNOWN, and of which group of slots."""
    return entry.day or KNOWN, slot_of(entry.key) // GROUP_SLOTS


def _frame(entry: Entry) -> bytes:
    body = _encode(entry)
    return len(body).to_bytes(4, "big") + crc32(body).to_bytes(4, "big") + body


def _entries(data: bytes) -> Sequence[Entry]:
    """Return the entries of a file, up to one that is torn: its process died before it could answer."""
    found: list[Entry] = []
    at = 0
    while at + HEAD_BYTES <= len(data):
        size, crc = (int.from_bytes(data[start : start + 4], "big") for start in (at, at + 4))
        body = data[at + HEAD_BYTES : at + HEAD_BYTES + size]
        if not size or len(body) < size or crc32(body) != crc:
            break
        found.append(_decode(body))
        at += HEAD_BYTES + size
    return found


def _is_locked_now(lock: int) -> bool:
    """Say whether nobody else has this lock; then it is ours until the file is closed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

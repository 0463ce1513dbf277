"""The packed entries of one partition in a file, the hot ones in memory: for a state that is larger than memory.

The file is scratch. It has no name, so it goes with the process however that ends; a new owner fills one of its own
from the state topic. So nothing in it has to survive a kill, and nothing has to be recovered.

Entries lie in buckets of about BUCKET_BYTES (linear hashing, Litwin 1980), which are written whole, and never over
themselves. Of each bucket memory keeps the place and the checksum: so whatever comes back otherwise than it was last
written (a flipped bit, a torn or a lost write) is found when it is read, also where it would only have hidden a key.
Then the worker stops, and its successor restores. (SQLite, the obvious choice, finds damage in its own structure only.)

Entries just read or written stay in memory in two generations, each up to half of the cache: when the young one is
full, it becomes the old one, and what of the old one was not asked for again leaves, a little with every entry that
comes; what has changed is written then, a bucket at a time.
"""

import os
import tempfile
import time
import weakref
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from pipeline.core.state import SLICES, Packed, hash_of
from pipeline.edge import metrics
from pipeline.errors import StateError
from pipeline.settings import Settings

BUCKET_BYTES: Final = 2_048  # on average, beyond which one is split
UNIT_BYTES: Final = 512  # places in the file are multiples of it
ENTRY_BYTES: Final = 200  # what an entry in memory takes beside its bytes: two objects and its place in a dict
STEP_BYTES: Final = 65_536  # so much comes in before some of the old generation leaves

_MISSING: Final = object()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, bytes]).decode


def stores(settings: Settings) -> Callable[[], Packed]:
    """Return what makes the entries of a partition, as HERALD_STATE_STORE says."""
    if settings.state_store == "memory":
        return dict
    folder, cache_bytes = settings.data_dir / "state", settings.state_cache_mb * 1_048_576 // settings.partitions
    return lambda: LocalStore(folder, cache_bytes)


class LocalStore(MutableMapping[str, bytes]):
    """Entries on disk, as a dict has them. One thread uses it; any thread may `peek` meanwhile."""

    def __init__(self, folder: Path, cache_bytes: int) -> None:
        """folder: where the file is made. cache_bytes: memory for hot entries, about. Raises OSError."""
        self._folder = folder
        self._generation_bytes = max(STEP_BYTES, cache_bytes // 2)
        self.clear()

    def clear(self) -> None:
        """Begin with an empty file."""
        self._file = _File(self._folder)
        self._slices = [_Buckets(self._file) for _ in range(SLICES)]
        self._young: dict[str, bytes | None] = {}  # None: known not to be there
        self._old: dict[str, bytes | None] = {}  # may hold what the young one also holds: that counts then
        self._young_bytes = self._came_bytes = 0
        self._leaving: list[str] = []  # of the old ones, in reverse order of buckets
        self._dirty: list[set[str]] = [set() for _ in range(SLICES)]  # changed, and not written yet
        self._unsure: set[str] = set()  # set without a look into the file, which may hold them too: counted twice then
        self._count = 0

    def get(self, key: str, default: Any = None) -> Any:
        """Return the bytes of a key. Raises StateError where the file is damaged."""
        if key in self._young:
            raw = self._young[key]
        else:
            raw = self._old[key] if key in self._old else self._filed(key)
            self._admit(key, raw)
        return default if raw is None else raw

    def peek(self, key: str) -> bytes | None:
        """Return the bytes of a key, from any thread, as they were during the call. Raises StateError for damage."""
        for hot in (self._young, self._old):  # in this order: a generation is written before it goes
            raw = hot.get(key, _MISSING)
            if raw is not _MISSING:
                return cast(bytes | None, raw)
        return self._filed(key)

    def __getitem__(self, key: str) -> bytes:
        raw = self.get(key)
        if raw is None:
            raise KeyError(key)
        return cast(bytes, raw)

    def __setitem__(self, key: str, raw: bytes) -> None:
        self._set(key, raw)

    def __delitem__(self, key: str) -> None:
        self[key]
        self._set(key, None)

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove a key and return its bytes, or the default."""
        raw = self.get(key)
        if raw is not None:
            self._set(key, None)
        elif default is _MISSING:
            raise KeyError(key)
        return default if raw is None else raw

    def update(self, puts: Iterable[tuple[str, bytes]], /) -> None:  # type: ignore[override]
        """Set many."""
        for key, raw in puts:
            self._set(key, raw)

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.items())

    def items(self) -> Iterator[tuple[str, bytes]]:  # type: ignore[override]
        """All entries, in no order, none of them kept in memory; not to be changed meanwhile."""
        for number in range(SLICES):
            yield from self.slice(number)

    def __len__(self) -> int:
        together: dict[tuple[int, int], list[str]] = {}
        for key in self._unsure:
            together.setdefault(self._bucket_of(key), []).append(key)
        for (number, bucket), keys in together.items():
            entries = self._slices[number].read(bucket)
            self._count -= sum(key in entries for key in keys)
        self._unsure.clear()
        return self._count

    def slice(self, number: int) -> Iterator[tuple[str, bytes]]:
        """Give the entries of a slice, each as it is when it is given; they may change meanwhile.

        What is put in meanwhile may be left out. Nothing that was there, and is not deleted meanwhile, is.
        """
        changed = sorted(self._dirty[number])  # the file may not know of these
        for key in changed:
            raw = self.peek(key)
            if raw is not None:
                yield key, raw
        given = set(changed)
        buckets, bucket = self._slices[number], 0
        while bucket < len(buckets):
            version, entries = buckets.version(bucket), buckets.read(bucket)
            for key in list(entries):
                if buckets.version(bucket) != version:  # a split moves keys to a later bucket only
                    version, entries = buckets.version(bucket), buckets.read(bucket)
                raw = self._young.get(key, self._old.get(key, entries.get(key)))
                if raw is not None and key not in given:
                    yield key, raw
            bucket += 1

    @property
    def file_bytes(self) -> int:
        """The size of the file."""
        return self._file.bytes

    def _filed(self, key: str) -> bytes | None:
        crc = hash_of(key)
        return self._slices[crc % SLICES].get(key, crc)

    def _set(self, key: str, raw: bytes | None) -> None:
        before = self._young.get(key, _MISSING)
        if before is _MISSING:
            before = self._old.get(key, _MISSING)
        if before is _MISSING:
            self._unsure.add(key)
            before = None
        self._count += (raw is not None) - (before is not None)
        self._dirty[hash_of(key) % SLICES].add(key)
        self._admit(key, raw)

    def _admit(self, key: str, raw: bytes | None) -> None:
        """Make a key one of the young; now and then, let some of the old go."""
        young = self._young
        if key in young:
            grown = _size(raw) - _size(young[key])
            self._young_bytes += grown
        else:
            grown = ENTRY_BYTES + len(key) + _size(raw)
            self._young_bytes += grown
            self._came_bytes += grown
        young[key] = raw
        if self._came_bytes > STEP_BYTES:
            self._came_bytes = 0
            self._let_go(2 * STEP_BYTES)
        if self._young_bytes > self._generation_bytes:
            self._turn()

    def _turn(self) -> None:
        """The young become the old."""
        while self._leaving:
            self._let_go(STEP_BYTES)
        self._old, self._young, self._young_bytes = self._young, {}, 0
        self._leaving = sorted(self._old, key=self._bucket_of, reverse=True)

    def _bucket_of(self, key: str) -> tuple[int, int]:
        """Return a key's slice and its bucket there."""
        crc = hash_of(key)
        number = crc % SLICES
        return number, self._slices[number].of(crc)

    def _let_go(self, size: int) -> None:
        """Write what has changed of the next old entries, of some size together, and forget them."""
        together: dict[tuple[int, int], list[str]] = {}
        gone: list[str] = []
        while self._leaving and size > 0:
            key = self._leaving.pop()
            size -= ENTRY_BYTES + len(key) + _size(self._old[key])
            gone.append(key)
            if key not in self._young:
                place = self._bucket_of(key)
                if key in self._dirty[place[0]]:
                    together.setdefault(place, []).append(key)
        for (number, bucket), keys in together.items():
            self._write(number, bucket, keys)
        for number, _ in together:
            self._slices[number].split()  # not before: it moves keys to other buckets
        for key in gone:  # only now, for those who peek
            del self._old[key]

    def _write(self, number: int, bucket: int, keys: list[str]) -> None:
        """Write changed entries of one bucket."""
        buckets = self._slices[number]
        entries = buckets.read(bucket)
        for key in keys:
            raw = self._old[key]
            was_there = entries.pop(key, None) is not None
            if key in self._unsure:
                self._unsure.remove(key)
                self._count -= was_there
            if raw is not None:
                entries[key] = raw
        buckets.write(bucket, entries)
        self._dirty[number].difference_update(keys)


class _Buckets:
    """One slice of the keys. A bucket splits when all together are too full: which one goes by turns."""

    def __init__(self, file: "_File") -> None:
        self._file = file
        self._places = array("Q", [0])  # position in the file and length; 0: empty
        self._sums = array("I", [0])
        self._bytes = 0
        self._is_moving = False  # between the two halves of a change of place

    def __len__(self) -> int:
        return len(self._places)

    def of(self, crc: int) -> int:
        """Return the bucket of a key."""
        return _bucket(crc, len(self._places))

    def get(self, key: str, crc: int) -> bytes | None:
        """Return what the file has of a key. From any thread: what was rewritten meanwhile is read again."""
        while True:
            count = len(self._places)
            bucket = _bucket(crc, count)
            place, found = self._places[bucket], self._sums[bucket]
            try:
                raw = self._entries(bucket, place, found).get(key)
            except StateError:
                if not self._is_moving and (place, found) == (self._places[bucket], self._sums[bucket]):
                    raise
                time.sleep(0)
                continue
            if count == len(self._places):
                return raw

    def version(self, bucket: int) -> int:
        """Return a number that changes whenever the bucket is written."""
        return self._places[bucket] << 32 | self._sums[bucket]

    def read(self, bucket: int) -> dict[str, bytes]:
        """Return a bucket's entries. Raises StateError where they are not what was written."""
        return self._entries(bucket, self._places[bucket], self._sums[bucket])

    def _entries(self, bucket: int, place: int, expected: int) -> dict[str, bytes]:
        if not place:
            return {}
        value = self._file.read(place)
        found = zlib.crc32(value)
        if found != expected:
            raise StateError(
                f"local state file, bucket {bucket} at {_position(place)}: checksum {found:08x}, expected "
                f"{expected:08x}: what is read is not what was written; a restart reads the state topic again"
            )
        return _decode(value)

    def split(self) -> None:
        """Split as many as there are too few."""
        while self._bytes > len(self._places) * BUCKET_BYTES:
            self._split()

    def write(self, bucket: int, entries: dict[str, bytes]) -> None:
        """Write a bucket."""
        before = self._places[bucket]
        value = _encode(entries) if entries else b""
        self._bytes += len(value) - _length(before)
        place = self._file.write(value) if value else 0
        self._is_moving = True
        self._sums[bucket], self._places[bucket] = zlib.crc32(value), place
        self._is_moving = False
        self._file.free(before)

    def _split(self) -> None:
        count = len(self._places)
        bucket = count - (1 << count.bit_length() - 1)
        stay: dict[str, bytes] = {}
        go: dict[str, bytes] = {}
        for key, raw in self.read(bucket).items():
            (stay if _bucket(hash_of(key), count + 1) == bucket else go)[key] = raw
        value = _encode(go) if go else b""
        self._sums.append(zlib.crc32(value))  # who peeks finds a key in its old place or in its new one
        self._places.append(self._file.write(value) if value else 0)
        self._bytes += len(value)
        self.write(bucket, stay)


def _bucket(crc: int, count: int) -> int:
    """Return the bucket of a key among so many. The low bits of the crc are the same for all keys here: not they."""
    mixed = (crc * 0x9E3779B1 & 0xFFFFFFFF) >> 12
    half = 1 << count.bit_length() - 1
    bucket = mixed & 2 * half - 1
    return bucket if bucket < count else bucket - half


class _File:
    """A file without a name, and its free places."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as made:
            self._number = os.dup(made.fileno())
        self._close = weakref.finalize(self, os.close, self._number)
        self.bytes = 0
        self._told = [0]
        weakref.finalize(self, _untell, self._told)
        self._free: dict[int, list[int]] = {}  # by size in units: positions

    def read(self, place: int) -> bytes:
        """Return what was written there, if the disk is sound."""
        return os.pread(self._number, _length(place), _position(place))

    def write(self, value: bytes) -> int:
        """Write into a free place and return it. Raises OSError."""
        units = -(-len(value) // UNIT_BYTES)
        free = self._free.get(units)
        position = free.pop() if free else self._grow(units)
        written = os.pwrite(self._number, value, position)
        if written != len(value):
            raise OSError(f"local state file: {written} of {len(value)} bytes written: is the disk full?")
        return position // UNIT_BYTES << 32 | len(value)

    def free(self, place: int) -> None:
        """Say that nobody needs a place any more."""
        if place:
            self._free.setdefault(-(-_length(place) // UNIT_BYTES), []).append(_position(place))

    def _grow(self, units: int) -> int:
        position, self.bytes = self.bytes, self.bytes + units * UNIT_BYTES
        self._told[0] = self.bytes
        metrics.STATE_FILE_BYTES.inc(units * UNIT_BYTES)
        return position


def _untell(told: list[int]) -> None:
    metrics.STATE_FILE_BYTES.dec(told[0])


def _position(place: int) -> int:
    return (place >> 32) * UNIT_BYTES


def _length(place: int) -> int:
    return place & 0xFFFFFFFF


def _size(raw: bytes | None) -> int:
    return 0 if raw is None else len(raw)

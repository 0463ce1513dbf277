"""A partition's state as a fold of its state topic: packed entries, a fenced log, a rolling sweep.

One record is written for a partition's blocks of a round, after all of them. It holds the entries that the blocks
changed and, with them, some of the unchanged ones; when every entry has been written once (a sweep), all older records
are void. So there is no snapshot to pause for, and a restore reads one run of records: at most two sweeps, which is
within six times the state.

A sweep goes by slices of keys, and a record says how many are whole: a new owner goes on with the next one, so that
the log stays bounded also where partitions move more often than a sweep takes.

A new owner first writes a fence and reads up to it. Records of older epochs behind a fence are ignored by every reader:
whatever a stalled previous owner still writes changes nothing (the log itself decides, as with leader epochs in Kafka).
An owner's records stand one after the other. Where they do not, somebody else has written, and from then on the owner
leaves `begin` where it is: so that of a fenced one never passes the fence, and readers that begin there meet it.

Where a record is damaged, the new owner goes on from an older version, of which the log still has all, and computes the
blocks since then again. Its first record has no version: that tells every reader that all it knew is void. A sweep of
its own follows, after which `begin` lies behind the damage. So the log keeps two whole sweeps.
"""

import zlib
from collections.abc import Iterator, MutableMapping
from typing import Generic, Protocol, TypeVar, runtime_checkable

import msgspec
from msgspec import Struct

from pipeline.errors import StateError
from schemas.state import HERE, StateRecord

V = TypeVar("V", bound=Struct)

NO_VERSION = -1
SLICES = 16
SWEPT_BYTES_MIN = 512  # of an idle block: a quiet partition's sweep must end some day
RECORD_OVERHEAD_BYTES = 128  # a record's own fields; an estimate, for pacing the sweep

_encode = msgspec.msgpack.Encoder().encode

Packed = MutableMapping[str, bytes]
"""A partition's entries as they are in the log. A dict is one; a local store on disk (an edge) is another."""


@runtime_checkable
class Sliced(Protocol):
    """Entries that give one slice at a time, so that a sweep does not need all keys in memory."""

    def slice(self, number: int) -> Iterator[tuple[str, bytes]]:
        """Give the entries of a slice, each as it is when it is given; they may change meanwhile.

        What is put in meanwhile may be left out. Nothing that was there, and is not deleted meanwhile, is.
        """


def hash_of(key: str) -> int:
    """Return a key's hash: it depends on nothing but the key, and its rest by SLICES is the key's slice."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass"))


class StateView:
    """What any reader of a state topic knows of one partition: the entries as of `version`.

    Delivery uses it as it is.
    """

    def __init__(self, entries: Packed | None = None) -> None:
        """Start before the first record. entries: empty, and owned by this object; a dict where none are given."""
        self.entries: Packed = {} if entries is None else entries
        self.fixed = b""
        self.version = NO_VERSION
        self.epoch = -1
        self.begin = 0
        self.sweep_began = HERE
        self.swept = 0
        self._parts: list[StateRecord] = []
        self._first_offset = 0  # of the parts
        self.emptied_at = 0  # where the log went back to an older version

    @property
    def is_whole(self) -> bool:
        """False from where the log goes back to an older version until all of that version was read."""
        return self.begin >= self.emptied_at

    def is_all_from(self, start: int) -> bool:
        """Say whether who began to read at an offset knows all of the state as of the version.

        start: where a version begins, as every `begin` is, and so what a trimmed log begins with.
        """
        if not self.is_whole or (start > 0 and self.version == NO_VERSION):
            return False
        return start == 0 or max(self.begin, self.sweep_began if self.swept == SLICES else 0) >= start

    def goes_back(self, record: StateRecord) -> bool:
        """Say whether from this record on a new owner writes an older state again: all that is known is void."""
        return record.kind == "change" and record.version == NO_VERSION != self.version

    def apply(self, record: StateRecord, offset: int) -> bool:
        """Take in the record at this offset of the state topic; return False where it is void (a fenced owner's).

        Raises StateError where a version goes back within one epoch, or begins before the one before it is whole.
        Where a new owner has to go on from an older one, it says so first (see `goes_back`, `is_whole`).
        """
        if record.kind == "fence":
            self.epoch = max(self.epoch, offset)
            self._parts.clear()  # what the previous owner left half written never happened
            return True
        if record.epoch < self.epoch:
            return False
        if record.version < self.version and not self.goes_back(record):
            raise StateError(f"state record {offset}: version {record.version} after {self.version} in one epoch")
        if self._parts and record.version != self._parts[0].version:
            raise StateError(
                f"state record {offset}: version {record.version} before {self._parts[0].version} is whole"
            )
        self.epoch = record.epoch
        self._first_offset = self._first_offset if self._parts else offset
        self._parts.append(record)
        if not record.more:
            if self.goes_back(record):
                self.entries.clear()
                self.emptied_at = self._first_offset
            for part in self._parts:
                self._take(part)
            self._parts.clear()
        return True

    def _take(self, record: StateRecord) -> None:
        for key in record.deletes:
            self.entries.pop(key, None)
        self.entries.update(record.puts)
        self.fixed, self.version, self.begin = record.fixed, record.version, record.begin
        self.note_sweep(self._first_offset if record.sweep_began == HERE else record.sweep_began, record.swept)

    def note_sweep(self, began: int, swept: int) -> None:
        """Note how far the sweep has come as of the last record. (The owner, who does not read what it writes.)"""
        self.sweep_began, self.swept = began, swept


class Entries(Generic[V]):
    """Keyed values of one partition: packed at rest (about a third of the objects' memory), decoded while in use.

    Reading decodes once a block; `put` and `delete` are gathered and handed out by `take_changes`.
    """

    def __init__(self, packed: Packed, kind: type[V]) -> None:
        """packed: the entries as they are in the log; owned (and changed) by this object from now on."""
        self.packed = packed
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._live: dict[str, V | None] = {}
        self._changed: dict[str, None] = {}  # a dict, for its order: sets have none that replays share

    def get(self, key: str) -> V | None:
        """Return the value of a key, or None. The same object until the end of the block: change it, then `put` it."""
        if key in self._live:
            return self._live[key]
        raw = self.packed.get(key)
        if raw is None:
            return None
        value = self._live[key] = self._decode(raw)
        return value

    def put(self, key: str, value: V) -> None:
        """Set a value."""
        self._live[key] = value
        self._changed[key] = None

    def delete(self, key: str) -> None:
        """Remove a key."""
        self._live[key] = None
        self._changed[key] = None

    def items(self) -> Iterator[tuple[str, V]]:
        """All entries, decoded: for rebuilding an index after a restore, not for every block."""
        for key, raw in self.packed.items():
            yield key, self._decode(raw)

    def __len__(self) -> int:
        return len(self.packed)

    def take_changes(self) -> tuple[list[tuple[str, bytes]], list[str]]:
        """Pack what changed since the last call and return (puts, deletes), in the order of the changes."""
        puts: list[tuple[str, bytes]] = []
        deletes: list[str] = []
        for key in self._changed:
            value = self._live[key]
            if value is None:
                if self.packed.pop(key, None) is not None:
                    deletes.append(key)
            else:
                raw = self.packed[key] = _encode(value)
                puts.append((key, raw))
        self._changed.clear()
        self._live.clear()
        return puts, deletes


class StateWriter:
    """The owner's side of a partition's state topic: turns each block's changes into the next record."""

    def __init__(self, view: StateView, owner: str) -> None:
        """view: the partition as restored up to and including our fence."""
        self.owner = owner
        self.epoch = view.epoch
        self.begin = view.begin
        self.kept_from = 0  # what lies before it may be trimmed: `begin` as it was a sweep ago
        self._view = view
        # what this sweep has still to write; the slice in hand is the last
        self._slices: list[Iterator[tuple[str, bytes]]] = []
        self._began = view.sweep_began
        self.interrupted = False
        self.next_offset = view.epoch + 1  # right behind our fence, where our next record stands if nobody else writes
        self._parts = 0
        if 0 < view.swept < SLICES:
            self._slices = self._cut(view.swept)
        else:
            self._finish(view.swept)

    @staticmethod
    def fence(owner: str) -> StateRecord:
        """Return the record with which a new owner makes all older ones void."""
        return StateRecord("fence", owner, -1, NO_VERSION, 0, b"", [], [])

    def records(
        self,
        version: int,
        fixed: bytes,
        changes: tuple[list[tuple[str, bytes]], list[str]],
        bytes_max: int,
        block_time_ms: int = 0,
    ) -> list[StateRecord]:
        """Return the next records: the changes, and about as many bytes of swept entries.

        Usually one; what is larger than bytes_max is split into parts of one version, and only the last part counts.
        """
        puts, deletes = changes
        others = RECORD_OVERHEAD_BYTES + len(self.owner) + len(fixed) + sum(len(key) + 2 for key in deletes)
        room = max(SWEPT_BYTES_MIN, others + sum(_size(put) for put in puts))
        return self._records(version, fixed, changes, room, bytes_max, block_time_ms)

    def anew(self) -> list[StateRecord]:
        """Return the record that makes all void which readers know; `swept_on` follows, until `begin` has come here."""
        self._slices, self._began, self._parts = self._cut(0), HERE, 1
        return [StateRecord("change", self.owner, self.epoch, NO_VERSION, self.begin, b"", [], [])]

    def swept_on(self, bytes_max: int) -> list[StateRecord]:
        """Return the view's version once more, with bytes_max of swept entries."""
        return self._records(self._view.version, self._view.fixed, ([], []), bytes_max, bytes_max, 0)

    def _records(
        self,
        version: int,
        fixed: bytes,
        changes: tuple[list[tuple[str, bytes]], list[str]],
        room: int,
        bytes_max: int,
        block_time_ms: int,
    ) -> list[StateRecord]:
        puts, deletes = changes
        if not self._slices:
            self._slices, self._began = self._cut(0), HERE
        puts = puts + self._sweep(room, {key for key, _ in puts})
        parts = list(_parts(puts, bytes_max))
        self._parts = len(parts)
        return [
            StateRecord(
                kind="change",
                owner=self.owner,
                epoch=self.epoch,
                version=version,
                begin=self.begin,
                fixed=fixed,
                puts=part,
                deletes=[] if index else deletes,
                more=index < len(parts) - 1,
                block_time_ms=block_time_ms,
                sweep_began=self._began,
                swept=SLICES - len(self._slices),
            )
            for index, part in enumerate(parts)
        ]

    def written(self, first_offset: int) -> None:
        """Say where the last records (their first part) now stand: from there a reader of this sweep can begin.

        Where others stand between them and those before, we are fenced, or hear a fenced one: `interrupted`.
        """
        self.interrupted |= first_offset != self.next_offset
        self.next_offset = first_offset + self._parts
        if self._began == HERE:
            self._began = first_offset
        swept = SLICES - len(self._slices)
        self._view.note_sweep(self._began, swept)
        self._finish(swept)

    def _finish(self, swept: int) -> None:
        if swept == SLICES and self._began not in (HERE, self.begin) and not self.interrupted:
            self.kept_from, self.begin = self.begin, self._began

    def _cut(self, swept: int) -> list[Iterator[tuple[str, bytes]]]:
        """Return the slices that are not swept yet, the next one last."""
        entries = self._view.entries
        if isinstance(entries, Sliced):
            return [entries.slice(number) for number in reversed(range(swept, SLICES))]
        slices: list[list[str]] = [[] for _ in range(SLICES)]
        for key in entries:
            slices[hash_of(key) % SLICES].append(key)
        return [_still_there(entries, keys) for keys in slices[swept:][::-1]]

    def _sweep(self, room: int, changed: set[str]) -> list[tuple[str, bytes]]:
        swept: list[tuple[str, bytes]] = []
        while self._slices and room > 0:
            put = next(self._slices[-1], None)
            if put is None:
                self._slices.pop()
            elif put[0] not in changed:
                swept.append(put)
                room -= _size(put)
        return swept


def _still_there(entries: Packed, keys: list[str]) -> Iterator[tuple[str, bytes]]:
    """Give the entries of keys, each as it is when it is given; forget the keys on the way."""
    while keys:
        key = keys.pop()
        raw = entries.get(key)
        if raw is not None:
            yield key, raw


def _size(put: tuple[str, bytes]) -> int:
    return len(put[0]) + len(put[1]) + 8


def _parts(puts: list[tuple[str, bytes]], bytes_max: int) -> Iterator[list[tuple[str, bytes]]]:
    """Cut puts into runs of at most bytes_max; at least one run, maybe empty."""
    part: list[tuple[str, bytes]] = []
    size = 0
    for put in puts:
        if part and size + _size(put) > bytes_max:
            yield part
            part, size = [], 0
        part.append(put)
        size += _size(put)
    yield part

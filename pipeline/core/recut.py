"""Cutting the log anew: the blocks of `collected` in some partitions -> blocks for another number of partitions.

Used by `herald repartition` and by a restore into another number of partitions. Each visitor's events keep their order,
each event goes where the collector (or delivery) would have written it had there been so many partitions, and no event
is lost or doubled wherever the copying stops: every new block says how far each old partition has been read into its
partition (`Piece.read`), and goes on from there.

Time. Old partitions are merged by the times at which their blocks were closed, so new ones fill as they would have.
A new block holds what came within a tick's time; a new partition for which nothing came gets ticks. A pause of the
whole log is not told by a tick at once, since the collectors that come back do not either.

What is equal, visitor by visitor, under both cuts: clean events (an id that the clean stage makes for an event without
one gets the old generation's name before it), profiles, outcomes and sessions. What is not, since it is a matter of a
whole partition: stream time is the latest of all visitors of a partition, so which event was `late` may differ, and so
may the session of one that came later than the gap and the retention after it happened; two visitors that send the
same event id are duplicates only within one partition; news of a decision over the collector that names no visitor
finds the decision only where both chance to be in one partition.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from pipeline.core import decide
from pipeline.core.stream_time import NEVER
from pipeline.errors import StateError
from schemas.block import CollectedBlock, partition_of
from schemas.event import Collected, Context, Protocol

HOUR_MS: Final = 3_600_000
EVENT_OVERHEAD_BYTES: Final = 160
PAUSE_MS: Final = 60_000
"""Nothing in any partition for so long: no writer was there. A shorter pause is far below what ends a session."""
WRITER: Final = "recut"

Read = tuple[int, ...]
"""For each old partition the offset of the next block: all before it has been read."""


@dataclass(frozen=True, slots=True)
class RecutRules:
    """partitions: of the new log. generation: of the old one, for names. The rest: as the collector's settings."""

    partitions: int
    generation: int
    tick_ms: int
    block_events_max: int
    block_bytes_max: int


class Placed(NamedTuple):
    """A block of the old log and where it stands."""

    partition: int
    offset: int
    block: CollectedBlock


class Standing(NamedTuple):
    """One new partition as it is found: what its last block has read, and that block's time (NEVER where none)."""

    read: Read
    block_time_ms: int = NEVER


class Piece(NamedTuple):
    """A block for a new partition. read: all events before these offsets are in the partition once it is written."""

    partition: int
    block: CollectedBlock
    read: Read


@dataclass(slots=True)
class _Share:
    """What is for one new partition."""

    contexts: list[Context] = field(default_factory=list)
    events: list[Collected] = field(default_factory=list)
    size: int = 0
    opened_ms: int = 0
    block_time_ms: int = 0
    places: dict[int, int] = field(default_factory=dict)  # of the old block's contexts

    def add(self, event: Collected, context: Context) -> None:
        at = self.places.get(event.context)
        if at is None:
            at = self.places[event.context] = len(self.contexts)
            self.contexts.append(context)
            self.size += 3 * (len(context.user_agent) + len(context.referrer))
        self.size += len(event.raw) + EVENT_OVERHEAD_BYTES
        self.events.append(msgspec.structs.replace(event, context=at) if at != event.context else event)

    def extend(self, other: "_Share") -> None:
        first = len(self.contexts)
        self.contexts += other.contexts
        moved = (msgspec.structs.replace(event, context=event.context + first) for event in other.events)
        self.events += moved if first else other.events
        self.size += other.size
        self.block_time_ms = other.block_time_ms


class Recut:
    """Takes the old log's blocks in order and gives the new log's. No clock: all times are in the blocks."""

    def __init__(self, rules: RecutRules, standings: Sequence[Standing]) -> None:
        """standings: of each new partition; where nothing is written yet, `read` is where the old log begins."""
        self._rules = rules
        self._done = [standing.read for standing in standings]
        self._times = [standing.block_time_ms for standing in standings]
        self._pending: list[_Share | None] = [None] * rules.partitions
        self.read = list(begin(standings))
        self._latest_ms = max(self._times)
        self._hold_until_ms = NEVER
        self._was_pause = False

    def take(self, placed: Placed) -> list[Piece]:
        """Take the next block of an old partition in; return the new blocks that are full or due.

        Raises StateError where a block before it is missing.
        """
        partition, offset, block = placed
        if offset != self.read[partition]:
            raise StateError(f"collected[{partition}]: block {offset}, expected {self.read[partition]}")
        now_ms = block.block_time_ms
        pieces = []
        for number, share in self._shares(placed).items():
            pending = self._pending[number]
            if pending is not None and not self._fits(pending, share):
                pieces.append(self._leave(number, pending))
                pending = None
            if pending is None:
                self._pending[number] = share
            else:
                pending.extend(share)
        self.read[partition] = offset + 1
        self._note(now_ms)
        return pieces + [piece for number in range(self._rules.partitions) for piece in self._due(number, now_ms)]

    def finish(self) -> list[Piece]:
        """Return what is left, and for each partition that has not said so a block that says how far was read.

        That one is empty and as old as the block before it: no time passes by it.
        """
        left = [self._leave(number, share) for number, share in enumerate(self._pending) if share is not None]
        read = tuple(self.read)
        behind = [number for number, done in enumerate(self._done) if done != read]
        marks = [self._empty(number, max(self._times[number], 0) or self._latest_ms) for number in behind]
        return left + marks

    @property
    def is_done(self) -> bool:
        """True where every new partition says that all has been read that was."""
        return all(done == tuple(self.read) for done in self._done)

    def _shares(self, placed: Placed) -> dict[int, _Share]:
        """Return what a block has for each new partition that has not got it."""
        partition, offset, block = placed
        shares: dict[int, _Share] = {}
        for row, event in enumerate(block.events):
            context = block.contexts[event.context]
            name = f"g{self._rules.generation}-{partition}-{offset}-{row}"
            number = place(event, context, name, self._rules.partitions)
            if offset < self._done[number][partition]:
                continue
            share = shares.get(number)
            if share is None:
                share = shares[number] = _Share(opened_ms=block.block_time_ms, block_time_ms=block.block_time_ms)
            is_named = event.event_id or event.refused
            share.add(event if is_named else msgspec.structs.replace(event, event_id=name), context)
        return shares

    def _fits(self, pending: _Share, share: _Share) -> bool:
        """Whether both can be one block: of a tick's time, not too large, not of two hours (ids are so kept)."""
        return (
            share.opened_ms < pending.opened_ms + self._rules.tick_ms
            and pending.size + share.size <= self._rules.block_bytes_max
            and len(pending.events) + len(share.events) <= self._rules.block_events_max
            and pending.block_time_ms // HOUR_MS == share.block_time_ms // HOUR_MS
        )

    def _note(self, now_ms: int) -> None:
        """After a pause of the whole log hold the ticks back as long as a collector that starts does.

        Not twice in a row: then blocks are that far apart always.
        """
        is_pause = self._latest_ms != NEVER and now_ms > self._latest_ms + PAUSE_MS
        if is_pause and not self._was_pause:
            self._hold_until_ms = now_ms + self._rules.tick_ms
        self._was_pause = is_pause
        self._latest_ms = max(self._latest_ms, now_ms)

    def _due(self, number: int, now_ms: int) -> Iterator[Piece]:
        pending, tick_ms = self._pending[number], self._rules.tick_ms
        if pending is not None:
            if now_ms >= pending.opened_ms + tick_ms:
                yield self._leave(number, pending)
        elif now_ms >= max(self._times[number] + tick_ms, self._hold_until_ms):
            yield self._empty(number, now_ms)

    def _leave(self, number: int, share: _Share) -> Piece:
        self._pending[number] = None
        return self._piece(number, CollectedBlock(share.block_time_ms, WRITER, share.contexts, share.events))

    def _empty(self, number: int, block_time_ms: int) -> Piece:
        return self._piece(number, CollectedBlock(block_time_ms, WRITER, [], []))

    def _piece(self, number: int, block: CollectedBlock) -> Piece:
        read = tuple(map(max, self.read, self._done[number]))
        self._done[number] = read
        self._times[number] = max(self._times[number], block.block_time_ms)
        return Piece(number, block, read)


def begin(standings: Sequence[Standing]) -> Read:
    """Return from where the old log has to be read so that no new partition misses anything."""
    return tuple(min(column) for column in zip(*(standing.read for standing in standings), strict=True))


def merged(logs: Sequence[Iterator[Placed]]) -> Iterator[Placed]:
    """Merge old partitions by the times of their blocks, each in its own order whatever its writers' clocks said."""
    return merge(*logs, key=lambda placed: (placed.block.block_time_ms, placed.partition))


class _Named(Struct):
    """What of delivery's own events is needed here."""

    decision_id: str = ""


_read_named = msgspec.json.Decoder(_Named).decode


def place(event: Collected, context: Context, name: str, partitions: int) -> int:
    """Return the partition in which the writer of an event would have put it, of so many.

    name: in place of the chance by which an event without visitor and id is placed.
    """
    if context.protocol is Protocol.HERALD:
        try:
            decision_id = _read_named(event.raw).decision_id
        except (msgspec.DecodeError, msgspec.ValidationError):
            decision_id = ""
        if decide.is_id(decision_id):
            return decide.partition_of(decision_id, partitions)
    return partition_of(event.visitor or event.event_id or name, partitions)

"""A stage's work on the partitions that are its own, in rounds: no Faust in it, no client library, no clock.

A round takes waiting blocks of all partitions together: folds them; writes all outputs and waits for the broker's word;
writes each partition's state record and waits; only then acknowledges. A kill at any instant leaves a round that is
done again with the same result, and what was already written carries the same origin, so that readers skip it
(schemas/docs/exactness.md).

What a block costs beside its events is the talk with the broker; a round has two produce requests, whatever it holds.

Nothing is caught here: after an exception the owner has to go, for what is in memory may be more than the log has.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from agents.arrival import Arrival
from agents.mend import Input, mend
from agents.ports import Acks, Group, Report, Sender, StateReader
from agents.restore import Restored, fence_within, packed, state_headers, take_over
from pipeline.core.stage import Fold
from pipeline.core.state import Packed, StateView, StateWriter
from pipeline.errors import Gap, Retryable
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import Origin
from schemas.state import StateRecord

log = logging.getLogger(__name__)

STATE_RECORD_BYTES_MAX = 1_048_576

MakeFold = Callable[[StateView], Fold]


@dataclass
class Owned:
    """A partition in our hands."""

    fold: Fold
    view: StateView
    writer: StateWriter
    position: int = -1  # next offset of the input topic (not an origin: hops repeat blocks)


@dataclass
class Turn:
    """One partition's part in a round: its blocks, and what came of them. version: after the last block folded."""

    partition: int
    owned: Owned
    version: int
    arrivals: list[Arrival] = field(default_factory=list)
    sends: list[tuple[str, bytes, codec.Headers]] = field(default_factory=list)
    rows: int = 0
    block_time_ms: int = 0

    @property
    def is_new(self) -> bool:
        """True where the round moved this partition on; false where all its blocks were seen before."""
        return self.version > self.owned.view.version


class Rounds:
    """The partitions of one stage that one worker has, and the rounds that it does over them."""

    def __init__(
        self,
        stage: type[Fold],
        make: MakeFold,
        settings: Settings,
        owner: str,
        report: Report,
        store: Callable[[], Packed] = dict,
    ) -> None:
        """make: builds the fold over a restored view. owner: a name that no other worker has, nor this one before.

        store: makes what holds a partition's entries.
        """
        self._store = store
        self.stage, self.settings, self.owner = stage, settings, owner
        self.owned: dict[int, Owned] = {}
        self.known: dict[int, Restored] = {}
        self._make, self._report = make, report
        self._reader: StateReader | None = None

    async def take(self, partitions: Sequence[int], sender: Sender, reader: StateReader, group: Group) -> None:
        """Make these partitions ours: fence their state, restore it, line the input up with it.

        Raises as `take_over`, `line_up` and `mend` do; and Retryable where the input was put back: what the consumer
        has fetched already is from where it was, and only a new one surely reads from where it is now.
        """
        self._reader = reader
        for partition in partitions:
            if partition not in self.known:
                self.known[partition] = Restored(StateView(self._store()))
        known = {partition: self.known[partition] for partition in partitions}
        topic = self.settings.topic(self.stage.state.name)
        writers = await take_over(known, topic, self.owner, sender, reader, self._store)
        source = Input(self.stage.source, self.settings.topic(self.stage.source.name), reader, group)
        put_back: list[int] = []
        for partition, writer in writers.items():
            if known[partition].damage:
                self._report.damaged(partition)
            if await source.line_up(partition, known[partition], accepts_gap=self.settings.accept_gap):
                put_back.append(partition)
            if known[partition].damage:
                await mend(topic, partition, writer, sender)
                known[partition].next_offset = writer.next_offset
                known[partition].view.begin = writer.begin
            view = known[partition].view
            self.owned[partition] = Owned(self._make(view), view, writer)
        if put_back:
            raise Retryable(f"{self.stage.source.name}{put_back}: put back, as told above; a restart reads from there")

    def release(self) -> None:
        """Let all partitions go, between rounds; what is known of them stays, for the case that they come back."""
        for partition, owned in self.owned.items():
            if owned.writer.interrupted:  # records of ours may be void: what we know may not be what the log says
                self.known.pop(partition, None)
        self.owned.clear()

    async def run(self, arrivals: Iterable[Arrival], sender: Sender, acks: Acks) -> None:
        """Do a round. Raises Gap where a block is missing, Retryable where we are fenced, or what the sender raises."""
        arrivals = list(arrivals)
        try:
            turns = self._fold_all(arrivals)
        except Gap:
            await self._not_fenced({arrival.event.message.partition for arrival in arrivals})
            raise
        new = [turn for turn in turns if turn.is_new]
        await self._write_outputs(new, sender)
        await self._write_states(new, sender)
        await self._acknowledge(turns, acks)

    def _fold_all(self, arrivals: Iterable[Arrival]) -> Sequence[Turn]:
        turns: dict[int, Turn] = {}
        for arrival in arrivals:
            partition = arrival.event.message.partition
            owned = self.owned.get(partition)
            if owned is not None:  # else it was taken from us: unacknowledged, the next owner reads it
                turn = turns.setdefault(partition, Turn(partition, owned, owned.view.version))
                self._fold(turn, arrival)
        return list(turns.values())

    def _fold(self, turn: Turn, arrival: Arrival) -> None:
        """Apply one block, in memory. Raises Gap where the one before it is missing."""
        turn.arrivals.append(arrival)
        origin = arrival.origin
        if origin.offset <= turn.version:
            self._report.skipped()
            return
        self._no_gap(origin, turn.version)
        self._report.began()
        block = codec.decode(arrival.value, self.stage.reads)
        applied = turn.owned.fold.apply(origin, block)
        for output in applied.outputs:
            value = codec.encode(output.block)
            headers = codec.headers(value, output.rows, origin)
            turn.sends.append((self.settings.topic(output.topic.name), value, headers))
        turn.version = origin.offset
        turn.rows += arrival.rows
        turn.block_time_ms = int(getattr(block, "block_time_ms", 0))
        self._report.applied(applied)

    def _no_gap(self, origin: Origin, version: int) -> None:
        if origin.offset == version + 1:
            return
        place = f"{self.stage.source.name}[{origin.partition}]"
        found = f"{place}: block {origin.offset} after {version}, expected {version + 1}"
        if not self.settings.accept_gap:
            raise Gap(f"{found}: blocks or state were lost to retention; HERALD_ACCEPT_GAP=true goes on without them")
        log.error("%s; going on (HERALD_ACCEPT_GAP)", found)

    async def _write_outputs(self, turns: Sequence[Turn], sender: Sender) -> None:
        await _write(sender, [(turn.partition, *send) for turn in turns for send in turn.sends])

    async def _write_states(self, turns: Sequence[Turn], sender: Sender) -> None:
        """Make the rounds' changes durable: the versions count from here on."""
        topic = self.settings.topic(self.stage.state.name)
        parts = [(turn, self._state_records(turn)) for turn in turns]
        offsets = iter(await _write(sender, [(t.partition, topic, *_wire(one)) for t, ones in parts for one in ones]))
        for turn, records in parts:
            written = [next(offsets) for _ in records]
            await self._still_ours(turn, topic, written)
            self._advance(turn, records[-1], written)

    async def _still_ours(self, turn: Turn, topic: str, offsets: list[int]) -> None:
        """Look at what others wrote between our records. Raises Retryable where a fence is among it.

        Then what we wrote behind it is void for every reader, and must not be acknowledged. Nobody else may do it: a
        worker can lose the partition again while its fence is on its way, and then that fence comes after ours.
        """
        writer, partition = turn.owned.writer, turn.partition
        if offsets[-1] - writer.next_offset + 1 == len(offsets):
            return
        log.warning("%s[%d]: another worker writes into our state topic", self.stage.state.name, partition)
        assert self._reader is not None
        fenced_by = await fence_within(self._reader, topic, partition, writer.next_offset, offsets[-1])
        if fenced_by:
            raise Retryable(f"{topic}[{partition}]: {fenced_by} has fenced us; our blocks are done again by the owner")

    async def _not_fenced(self, partitions: set[int]) -> None:
        """Raise Retryable where another worker has one of these by now: it went on, and we took that for a gap."""
        assert self._reader is not None
        topic = self.settings.topic(self.stage.state.name)
        for partition in sorted(partitions & self.owned.keys()):
            await self._reader.open(topic, partition)
            last = await self._reader.end() - 1
            first = self.owned[partition].writer.next_offset
            fenced_by = await fence_within(self._reader, topic, partition, first, last)
            if fenced_by:
                raise Retryable(f"{topic}[{partition}]: {fenced_by} has fenced us, and has gone on with our input")

    def _state_records(self, turn: Turn) -> list[StateRecord]:
        fold = turn.owned.fold
        changes = fold.take_changes()
        return turn.owned.writer.records(
            turn.version, fold.fixed(), changes, STATE_RECORD_BYTES_MAX, turn.block_time_ms
        )

    def _advance(self, turn: Turn, record: StateRecord, offsets: list[int]) -> None:
        view, partition = turn.owned.view, turn.partition
        turn.owned.writer.written(offsets[0])
        view.version, view.begin, view.fixed = turn.version, record.begin, record.fixed
        self.known[partition].next_offset = offsets[-1] + 1
        self._report.moved(partition, turn.rows, turn.block_time_ms, len(view.entries))

    async def _acknowledge(self, turns: Sequence[Turn], acks: Acks) -> None:
        for turn in turns:
            for arrival in turn.arrivals:
                await acks.ack(arrival.event)
            turn.owned.position = turn.arrivals[-1].event.message.offset + 1


async def _write(sender: Sender, records: list[tuple[int, str, bytes, codec.Headers]]) -> list[int]:
    """Write records (partition, topic, value, headers) and wait for the broker's word; return their offsets."""
    futures = [
        await sender.send(topic, value, partition=partition, headers=headers)
        for partition, topic, value, headers in records
    ]
    return [(await future).offset for future in futures]


def _wire(record: StateRecord) -> tuple[bytes, codec.Headers]:
    value = packed(record)
    return value, state_headers(value, record, len(record.puts))

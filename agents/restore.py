"""Taking a partition over: fence the state topic, then read it up to the fence.

A record that is not what was written (a flipped bit on the broker's disk) is found by its checksum. Then the state is
taken as of a moment before it, where the log has all of it, and `mend.py` sees to it that the rest is done again.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from agents.ports import Record, Sender, StateReader
from pipeline.core.state import Packed, StateView, StateWriter
from pipeline.errors import Retryable
from schemas import block as codec
from schemas.state import StateRecord

log = logging.getLogger(__name__)

STALL_S = 60.0  # no record for so long while some are due: the broker is away


class Damaged(Exception):
    """A record that is not what was written. offset: where it stands."""

    def __init__(self, offset: int, text: str) -> None:
        """text: what is wrong with it."""
        super().__init__(text)
        self.offset = offset


@dataclass
class Restored:
    """What we know of a partition's state topic; kept when the partition goes, so that it can come back cheaply.

    damage: what was wrong with the log; "": nothing. Else the view is older than the log, and the log is to be mended.
    """

    view: StateView = field(default_factory=StateView)
    next_offset: int = 0
    damage: str = ""


async def take_over(
    known: dict[int, Restored],
    topic: str,
    owner: str,
    sender: Sender,
    reader: StateReader,
    store: Callable[[], Packed] = dict,
) -> dict[int, StateWriter]:
    """Fence the known partitions of a state topic and bring what is known up to the fences; return each one's writer.

    store: makes what holds a partition's entries.
    Raises Retryable where the broker does not answer, StateError where the log contradicts itself.
    """
    fence = codec.encode(StateWriter.fence(owner))
    sent = [await sender.send(topic, fence, partition=p, headers=codec.headers(fence, 0)) for p in known]
    fences = {p: (await future).offset for p, future in zip(known, sent, strict=True)}
    try:
        for partition, restored in known.items():
            await _Reading(reader, topic, partition, store).up_to(restored, fences[partition])
            restored.view.apply(StateWriter.fence(owner), fences[partition])
            restored.next_offset = fences[partition] + 1
            _tell(topic, partition, restored)
    finally:
        await reader.close()
    return {p: StateWriter(restored.view, owner) for p, restored in known.items()}


def _tell(topic: str, partition: int, restored: Restored) -> None:
    view = restored.view
    if restored.damage:
        log.error("%s; the state before it is of block %d", restored.damage, view.version)
    told = {"entries": len(view.entries), "version": view.version}
    log.info("state of %s[%d] restored", topic, partition, extra=told)


class _Reading:
    """One partition of a state topic, read up to a fence of ours."""

    def __init__(self, reader: StateReader, topic: str, partition: int, store: Callable[[], Packed]) -> None:
        self._reader, self._topic, self._partition, self._store = reader, topic, partition, store
        self._first = 0

    async def up_to(self, restored: Restored, fence: int) -> None:
        """Read what stands before the fence: from where we know it, else from where the last record says."""
        self._first = await self._reader.open(self._topic, self._partition)
        restored.damage, parked = "", None  # what we found the last time we have mended, or its heir will find it
        if restored.next_offset >= max(self._first, 1):  # else it is trimmed past what we know, deletions and all
            try:
                await self._apply(restored.view, restored.next_offset, fence)
                if restored.view.is_whole:
                    return
            except Damaged:
                parked = restored.view if restored.view.is_whole else None
        restored.view, restored.damage = await self._newest(fence)
        if restored.damage and parked is not None and parked.version >= restored.view.version:
            restored.view = parked

    async def _newest(self, until: int) -> tuple[StateView, str]:
        """Return the state as the log has it before an offset; where that is damaged, how, and an older state.

        The older one is the newest that the log has in full: up to a damaged record, from a sweep before it.
        """
        told = ""
        while until > self._first:
            view, start = StateView(self._store()), -1
            try:
                start = max(self._first, await self._begin_of_last(until))
                await self._apply(view, start, until)
                if view.is_whole and not told:
                    return view, ""
                until_then = self._first if view.is_whole else view.emptied_at
            except Damaged as damage:
                told = told or f"{self._topic}[{self._partition}]: record {damage.offset} is damaged: {damage}"
                until_then = damage.offset
            if start >= 0 and view.is_all_from(start):
                return view, told
            told = told or f"{self._topic}[{self._partition}]: an owner has left it half mended at {view.emptied_at}"
            until = until_then
        return StateView(self._store()), told

    async def _apply(self, view: StateView, start: int, end: int) -> None:
        """Apply the records from start to before end. Raises Damaged for one that is not what was written."""
        self._reader.seek(start)
        position, last_progress = start, asyncio.get_running_loop().time()
        while position < end:
            batch = await self._fetch(position)
            now = asyncio.get_running_loop().time()
            last_progress = now if batch else last_progress
            if now - last_progress > STALL_S:
                raise Retryable(f"{self._topic}[{self._partition}]: no record {position}, expected all before {end}")
            for record in batch[: end - position]:  # what comes later is another owner's, which we do not read now
                if record.offset != position:
                    raise Damaged(position, f"the next one is {record.offset}")
                view.apply(_checked(record), position)
                position += 1
            await asyncio.sleep(0)

    async def _fetch(self, position: int) -> Sequence[Record]:
        try:
            return await self._reader.fetch(200)
        except codec.CorruptBlock as error:
            raise Damaged(position, str(error)) from error

    async def _begin_of_last(self, until: int) -> int:
        """Return where the newest change record before an offset says that reading must begin: a few records back."""
        for back in (8, 64, 512):
            start = max(self._first, until - back)
            begins: list[tuple[int, int]] = []
            position = start
            self._reader.seek(start)
            while position < until:
                try:
                    batch = await self._reader.fetch(1_000)
                except codec.CorruptBlock:  # it may be one that nobody needs to read
                    position += 1
                    self._reader.seek(position)
                    continue
                for record in batch:
                    position = record.offset + 1
                    header = dict(record.headers).get("begin")
                    if header is not None and record.offset < until:
                        epoch, _, begin = header.partition(b":")
                        begins.append((int(epoch), int(begin)))
            if begins:
                return max(begins)[1]
            if start == self._first:
                break
        return self._first


def _checked(record: Record) -> StateRecord:
    try:
        codec.check(record.value, record.headers)
        return codec.decode(record.value, StateRecord)
    except codec.CorruptBlock as error:
        raise Damaged(record.offset, str(error)) from error


async def fence_within(reader: StateReader, topic: str, partition: int, first: int, last: int) -> str:
    """Return the owner of the last fence that stands at first..last of a state topic, or "" where none does.

    Raises Retryable where the broker does not answer.
    """
    found = ""
    began = asyncio.get_running_loop().time()
    try:
        position = max(first, await reader.open(topic, partition))
        reader.seek(position)
        while position <= last:
            if asyncio.get_running_loop().time() - began > STALL_S:
                raise Retryable(f"{topic}[{partition}]: no record {position}, which should be there")
            for record in await reader.fetch(200):
                position = record.offset + 1
                state = _checked(record)
                if state.kind == "fence" and record.offset <= last:
                    found = state.owner
    except (Damaged, codec.CorruptBlock) as error:
        raise Retryable(f"{topic}[{partition}]: {error}; it is mended after a restart") from error
    finally:
        await reader.close()
    return found


def state_headers(value: bytes, record: StateRecord, rows: int) -> codec.Headers:
    """Return a state record's headers; `begin` lets a reader find its start without decoding."""
    return [*codec.headers(value, rows), ("begin", b"%d:%d" % (record.epoch, record.begin))]


def packed(record: StateRecord) -> bytes:
    """Return the value of a state record. Raises msgspec.MsgspecError for what cannot be packed (a bug)."""
    try:
        return codec.encode(record)
    except OverflowError as error:
        raise msgspec.MsgspecError(f"state record of version {record.version}: {error}") from error

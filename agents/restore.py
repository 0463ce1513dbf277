"""Taking a partition over: fence the state topic, then read it up to the fence."""

import asyncio
import logging
from dataclasses import dataclass, field

import msgspec

from agents.ports import Sender, StateReader
from pipeline.core.state import StateView, StateWriter
from pipeline.errors import Retryable
from schemas import block as codec
from schemas.state import StateRecord

log = logging.getLogger(__name__)

STALL_S = 60.0  # no record for so long while some are due: the broker is away


@dataclass
class Restored:
    """What we know of a partition's state topic; kept when the partition goes, so that it can come back cheaply."""

    view: StateView = field(default_factory=StateView)
    next_offset: int = 0


async def take_over(
    known: dict[int, Restored], topic: str, owner: str, sender: Sender, reader: StateReader
) -> dict[int, StateWriter]:
    """Fence the known partitions of a state topic and bring what is known up to the fences; return each one's writer.

    Raises Retryable where the broker does not answer, CorruptBlock or StateError where the log contradicts itself.
    """
    fence = codec.encode(StateWriter.fence(owner))
    sent = [await sender.send(topic, fence, partition=p, headers=codec.headers(fence, 0)) for p in known]
    fences = {p: (await future).offset for p, future in zip(known, sent, strict=True)}
    try:
        for partition, restored in known.items():
            await _read_up_to(reader, topic, partition, restored, fences[partition])
    finally:
        await reader.close()
    return {p: StateWriter(restored.view, owner) for p, restored in known.items()}


async def _read_up_to(reader: StateReader, topic: str, partition: int, restored: Restored, fence: int) -> None:
    first = await reader.open(topic, partition)
    if 0 < restored.next_offset < first:  # trimmed past what we know: the deletions in between are gone from the log
        restored.view, restored.next_offset = StateView(), 0
    start = max(restored.next_offset, first)
    if restored.next_offset == 0 and fence > start:
        start = max(start, await _begin_of_last(reader, start, fence))
    reader.seek(start)
    last_progress = asyncio.get_running_loop().time()
    while restored.next_offset <= fence:
        batch = await reader.fetch(200)
        now = asyncio.get_running_loop().time()
        last_progress = now if batch else last_progress
        if now - last_progress > STALL_S:
            raise Retryable(f"{topic}[{partition}]: no record after {restored.next_offset}, expected up to {fence}")
        for record in batch:
            if record.offset > fence:
                break  # another owner's, which we do not read now: next_offset must not pass what was not applied
            codec.check(record.value, record.headers)
            restored.view.apply(codec.decode(record.value, StateRecord), record.offset)
            restored.next_offset = record.offset + 1
        await asyncio.sleep(0)
    log.info(
        "state of %s[%d] restored",
        topic,
        partition,
        extra={"entries": len(restored.view.entries), "version": restored.view.version, "from_offset": start},
    )


async def _begin_of_last(reader: StateReader, first: int, fence: int) -> int:
    """Return where the newest change record says that reading must begin: a few records back from the fence."""
    for back in (8, 64, 512):
        start = max(first, fence - back)
        reader.seek(start)
        begins: list[tuple[int, int]] = []
        position = start
        while position < fence:
            for record in await reader.fetch(1_000):
                position = record.offset + 1
                header = dict(record.headers).get("begin")
                if header is not None and record.offset < fence:
                    epoch, _, begin = header.partition(b":")
                    begins.append((int(epoch), int(begin)))
        if begins:
            return max(begins)[1]
        if start == first:
            break
    return first


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
                state = codec.decode(record.value, StateRecord)
                if state.kind == "fence" and record.offset <= last:
                    found = state.owner
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

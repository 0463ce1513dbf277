"""Where a state is older than what the input has been acknowledged to: the input is put back, the state log mended.

A state gets old where its topic is damaged (see restore.py) or has lost its end (a broker without power). As long as
the input still has the blocks since then, they are done again; what is written again carries the same names, so that
its readers skip it. Else we stop, and the text says what can be done.
"""

import logging

from agents.ports import Group, Sender, StateReader
from agents.restore import STALL_S, Restored, packed, state_headers
from pipeline.core.state import StateWriter
from pipeline.errors import Gap, Retryable
from schemas import block as codec
from schemas.topics import COLLECTED, Topic

log = logging.getLogger(__name__)

SWEPT_BYTES = 1_048_576  # of entries in a record, where all of them are written at once


class Input:
    """A stage's input, for lining it up with the state."""

    def __init__(self, source: Topic, name: str, reader: StateReader, group: Group) -> None:
        """name: the topic's name in Kafka."""
        self.source, self.name = source, name
        self._reader, self._group = reader, group

    async def line_up(self, partition: int, restored: Restored, *, accepts_gap: bool) -> bool:
        """Put the input back to the block behind the state's version, where it has gone further; say whether it had.

        Raises Gap where the state is damaged and these blocks are gone (unless accepts_gap: then from what there is).
        An undamaged state is left as it is then: the next block will show the gap, if there is one.
        """
        needed = restored.view.version + 1
        committed = await self._group.committed(partition)
        if committed <= needed:  # a hop repeats blocks, so that its offsets never fall behind their names
            return False
        try:
            first, end = await self._reader.open(self.name, partition), await self._reader.end()
            if restored.damage or await self._origin(partition, committed, end) > needed:
                offset = await self._block(partition, needed, first, end)
                if offset < 0 and restored.damage and not accepts_gap:
                    raise Gap(self._cannot(partition, restored, first, end))
                if offset >= 0 or accepts_gap:
                    await self._put_back(partition, committed, max(first, offset), restored)
                    return True
            return False
        finally:
            await self._reader.close()

    async def _block(self, partition: int, needed: int, first: int, end: int) -> int:
        """Return an offset at which the needed block stands, or one before it; -1 where the log begins later."""
        for offset in (max(first, needed), first):
            if offset < end and await self._origin(partition, offset, end) <= needed:
                return offset
        return -1

    async def _origin(self, partition: int, offset: int, end: int) -> int:
        """Return the name of the block at an offset; -1 where none is there (yet)."""
        if self.source is COLLECTED:
            return offset
        if offset >= end:
            return -1
        self._reader.seek(offset)
        for _ in range(round(STALL_S)):
            for record in await self._reader.fetch(1_000):
                return codec.origin_of(record.headers).offset
        raise Retryable(f"{self.name}[{partition}]: no record {offset}, which should be there")

    async def _put_back(self, partition: int, committed: int, offset: int, restored: Restored) -> None:
        log.error(
            "%s[%d]: the state holds up to block %d only; reading again from offset %d, not from %d%s",
            self.source.name,
            partition,
            restored.view.version,
            offset,
            committed,
            f" ({restored.damage})" if restored.damage else "",
        )
        await self._group.put_back(partition, offset)

    def _cannot(self, partition: int, restored: Restored, first: int, end: int) -> str:
        version = restored.view.version
        return (
            f"{restored.damage}. Without it the state holds up to block {version}, and block {version + 1}, from which "
            f"it could be computed again, is no longer in {self.source.name}[{partition}] (records {first} to "
            f"{end - 1}). Restore a backup; or HERALD_ACCEPT_GAP=true goes on without what is gone"
        )


async def mend(topic: str, partition: int, writer: StateWriter, sender: Sender) -> None:
    """Write a damaged log's state again, all of it, so that nobody reads the damage any more.

    Raises Retryable where another worker writes in between: then it may be void.
    """
    records = writer.anew()
    while records:
        offsets = []
        for record in records:
            value = packed(record)
            sent = await sender.send(
                topic, value, partition=partition, headers=state_headers(value, record, len(record.puts))
            )
            offsets.append((await sent).offset)
        writer.written(offsets[0])
        if writer.interrupted or offsets[-1] != writer.next_offset - 1:
            raise Retryable(f"{topic}[{partition}]: another worker wrote while the log was being mended; once more")
        said = records[-1].begin > writer.epoch  # that reading begins behind our fence
        records = [] if said else writer.swept_on(SWEPT_BYTES)
    log.warning("%s[%d]: mended: all of the state as of its version is written again", topic, partition)

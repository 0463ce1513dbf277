"""The state topics' reader on a real broker."""

from collections.abc import Sequence
from typing import Any

import aiokafka

from agents.ports import Record
from pipeline.edge.kafka import async_consumer
from pipeline.settings import Settings
from schemas.block import CorruptBlock


class ConsumerReader:
    """A StateReader on an aiokafka consumer without a group."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is connected before the first `open`."""
        self._settings = settings
        self._consumer: Any = None
        self._tp = aiokafka.TopicPartition("", -1)
        self._most: int | None = None

    async def open(self, topic: str, partition: int) -> int:
        """Turn to a partition; return the offset of the first record that it still has."""
        if self._consumer is None:
            self._consumer = async_consumer(self._settings)
            await self._consumer.start()
        self._tp = aiokafka.TopicPartition(topic, partition)
        self._consumer.assign([self._tp])
        return int((await self._consumer.beginning_offsets([self._tp]))[self._tp])

    async def end(self) -> int:
        """Return the offset behind the last record of the open partition."""
        return int((await self._consumer.end_offsets([self._tp]))[self._tp])

    def seek(self, offset: int) -> None:
        """Go on from there."""
        self._most = None
        self._consumer.seek(self._tp, offset)

    async def fetch(self, wait_ms: int) -> Sequence[Record]:
        """Return the next records; none where none comes within wait_ms.

        Raises CorruptBlock where the broker's own checksum is not that of the next one: its disk has changed it.
        """
        try:
            batches = await self._consumer.getmany(self._tp, timeout_ms=wait_ms, max_records=self._most)
        except aiokafka.errors.CorruptRecordException as error:
            if self._most:
                raise CorruptBlock(f"the broker's checksum is wrong: {error}") from error
            self._most = 1  # one by one up to the one that it is
            return []
        found: Sequence[Record] = batches.get(self._tp, [])
        return found

    async def close(self) -> None:
        """Let go of the broker; `open` connects anew."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.stop()

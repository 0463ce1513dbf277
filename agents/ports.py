"""What a stage needs of the world, as small as it is needed: rounds and restore know these and no client library.

aiokafka's producer is a Sender, Faust's stream an Acks, as they are; `broker.py` makes a StateReader of a consumer.
The simulation in the tests has its own of each.
"""

from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Protocol

from pipeline.core.stage import Applied
from schemas.block import Headers


class Written(Protocol):
    """The broker's word that a record stands in the log."""

    @property
    def offset(self) -> int:
        """Where it stands."""


class Record(Protocol):
    """One record of a topic, as it was read."""

    @property
    def offset(self) -> int:
        """Where it stands."""

    @property
    def value(self) -> bytes:
        """Its bytes."""

    @property
    def headers(self) -> Iterable[tuple[str, bytes]]:
        """Its headers."""


class Sender(Protocol):
    """Writes records: in the order of the calls, within a partition."""

    async def send(self, topic: str, value: bytes, *, partition: int, headers: Headers) -> Awaitable[Written]:
        """Hand a record on; what is returned ends when it is durable, or raises when that is not known."""


class Acks(Protocol):
    """Tells the broker what never has to come again."""

    async def ack(self, event: Any) -> object:
        """Acknowledge one arrival's event. Only a hint: what is lost of it comes again and is skipped."""


class StateReader(Protocol):
    """Reads one partition of a topic at a time: of a state topic or, to line them up, of the input."""

    async def open(self, topic: str, partition: int) -> int:
        """Turn to a partition; return the offset of the first record that it still has."""

    def seek(self, offset: int) -> None:
        """Go on from there."""

    async def end(self) -> int:
        """Return the offset behind the last record of the open partition."""

    async def fetch(self, wait_ms: int) -> Sequence[Record]:
        """Return the next records; none where none comes within wait_ms.

        Raises CorruptBlock where the next one is there but cannot be read.
        """

    async def close(self) -> None:
        """Let go of the broker; `open` connects anew."""


class Group(Protocol):
    """Where the stage's consumer group stands in its input."""

    async def committed(self, partition: int) -> int:
        """Return the offset from which a partition will be read; -1: from its first record."""

    async def put_back(self, partition: int, offset: int) -> None:
        """Have it read from an earlier offset, now and by whoever comes after us. Raises Retryable."""


class Report(Protocol):
    """Hears what rounds do, for the metrics: rounds themselves know no clock."""

    def began(self) -> None:
        """A block's fold begins."""

    def applied(self, applied: Applied) -> None:
        """It is done."""

    def skipped(self) -> None:
        """A block came that had been applied before."""

    def damaged(self, partition: int) -> None:
        """A record of a partition's state topic was damaged."""

    def moved(self, partition: int, rows: int, block_time_ms: int, entries: int) -> None:
        """A partition's new state is durable: by so many events, up to the block closed then, so many entries large."""

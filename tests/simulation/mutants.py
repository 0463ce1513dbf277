"""Parts with one fault each, as somebody could write them: the simulation must find every one.

They are made by subclassing and by other ports, so that what they differ in can be read here.
"""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from agents.arrival import Arrival
from agents.ports import Acks, Group, Sender, StateReader
from agents.rounds import Rounds, Turn
from pipeline.core import rows
from pipeline.core.sessionise import Sessionise
from pipeline.core.state import StateView
from pipeline.warehouse_writer import PendingBlock, Place, WarehouseWriter
from schemas import block as codec
from schemas.block import Headers, Origin
from schemas.state import StateRecord
from tests.simulation import story
from tests.simulation.broker import Connection, Kept
from tests.simulation.broker import Written as Answer
from tests.simulation.world import STAGES, Parts


class AcknowledgesFirst(Rounds):
    """Acknowledges before anything is durable."""

    async def run(self, arrivals: Iterable[Arrival], sender: Sender, acks: Acks) -> None:
        """Do a round in a wrong order."""
        turns = self._fold_all(arrivals)
        await self._acknowledge(turns, acks)
        new = [turn for turn in turns if turn.is_new]
        await self._write_outputs(new, sender)
        await self._write_states(new, sender)


class WritesStatesFirst(Rounds):
    """Writes the state before the outputs: a kill between the two loses them."""

    async def run(self, arrivals: Iterable[Arrival], sender: Sender, acks: Acks) -> None:
        """Do a round in a wrong order."""
        turns = self._fold_all(arrivals)
        new = [turn for turn in turns if turn.is_new]
        await self._write_states(new, sender)
        await self._write_outputs(new, sender)
        await self._acknowledge(turns, acks)


class NamesBlocksByTheirHop(Rounds):
    """Takes a block's place in the topic that was read for its name: a copy becomes another block."""

    async def run(self, arrivals: Iterable[Arrival], sender: Sender, acks: Acks) -> None:
        """Do a round under wrong names."""
        renamed = [
            one._replace(origin=Origin(one.event.message.partition, one.event.message.offset)) for one in arrivals
        ]
        await super().run(renamed, sender, acks)


class AppliesAgain(Rounds):
    """Does not skip a block whose name is known."""

    def _fold(self, turn: Turn, arrival: Arrival) -> None:
        turn.version = min(turn.version, arrival.origin.offset - 1)
        super()._fold(turn, arrival)


class DeafToFences(Rounds):
    """Goes on where another worker's fence stands between its records."""

    async def _still_ours(self, turn: Turn, topic: str, offsets: list[int]) -> None:
        return


class _FencesNobody:
    """A sender that writes everything but fences."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send(self, topic: str, value: bytes, *, partition: int, headers: Headers) -> "asyncio.Future[Answer]":
        """Answer for a fence as if the last record were one."""
        if codec.decode(value, StateRecord).kind != "fence":
            return await self._connection.send(topic, value, partition=partition, headers=headers)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer.set_result(Answer(self._connection.end_of(topic, partition) - 1))
        return answer


class TakesWithoutAFence(DeafToFences):
    """Restores without making the owner before void."""

    async def take(self, partitions: Sequence[int], sender: Sender, reader: StateReader, group: Group) -> None:
        """Restore only."""
        assert isinstance(sender, Connection)
        await super().take(partitions, _FencesNobody(sender), reader, group)


class ForgetsToWait(Rounds):
    """Takes the hand-over of outputs for the broker's word."""

    async def _write_outputs(self, turns: Sequence[Turn], sender: Sender) -> None:
        for turn in turns:
            for topic, value, headers in turn.sends:
                answer: object = await sender.send(topic, value, partition=turn.partition, headers=headers)
                assert isinstance(answer, asyncio.Future)


class _NeverPutBack:
    """A group whose position stays where it is."""

    def __init__(self, group: Group) -> None:
        self._group = group

    async def committed(self, partition: int) -> int:
        """Tell the truth."""
        return await self._group.committed(partition)

    async def put_back(self, partition: int, offset: int) -> None:
        """Do nothing."""


class MendsButReadsOn(Rounds):
    """Takes an older state where the log is damaged, and goes on with the input where it was."""

    async def take(self, partitions: Sequence[int], sender: Sender, reader: StateReader, group: Group) -> None:
        """Restore only."""
        await super().take(partitions, sender, reader, _NeverPutBack(group))


class _Credulous:
    """A reader that finds every checksum right."""

    def __init__(self, reader: StateReader) -> None:
        self.open, self.end, self.seek, self.close = reader.open, reader.end, reader.seek, reader.close
        self._reader = reader

    async def fetch(self, wait_ms: int) -> Sequence[Kept]:
        """Return what comes, under checksums of its own."""
        found = await self._reader.fetch(wait_ms)
        return [Kept(one.offset, one.value, _believed(one.value, one.headers)) for one in found]


def _believed(value: bytes, headers: Iterable[tuple[str, bytes]]) -> Headers:
    return [(name, dict(codec.headers(value, 0))["crc"] if name == "crc" else raw) for name, raw in headers]


class BelievesAnything(Rounds):
    """Does not look at the checksums of its state."""

    async def take(self, partitions: Sequence[int], sender: Sender, reader: StateReader, group: Group) -> None:
        """Restore whatever is there."""
        await super().take(partitions, sender, _Credulous(reader), group)


class KnowsTooMuch(Rounds):
    """Takes what it restored for more than it is: one record of the state topic is never read."""

    def release(self) -> None:
        """Let go, and move the mark of what is known by one."""
        super().release()
        for restored in self.known.values():
            restored.next_offset += 1


class LedgerFirst(WarehouseWriter):
    """Enters blocks into the ledger before their rows are there."""

    def _send(self, fresh: dict[Place, list[PendingBlock]]) -> list["Future[None]"]:
        entries = [
            rows.LedgerRow(topic, origin, 0, crc, 0) for blocks in fresh.values() for topic, origin, _, crc in blocks
        ]
        self._insert(rows.ledger_columns(entries, 0), "early")
        return super()._send(fresh)


_LIVES = itertools.count()


def _moody(view: StateView) -> Sessionise:
    """A fold with something in it that no replay has: every second one has another gap."""
    rules = story.SESSIONS
    return Sessionise(view, rules if next(_LIVES) % 2 else type(rules)(rules.gap_ms + 1_000, rules.retain_ms))


MUTANTS: dict[str, Parts] = {
    **{
        kind.__name__: Parts().with_rounds(kind)
        for kind in (
            AcknowledgesFirst, WritesStatesFirst, NamesBlocksByTheirHop, AppliesAgain, DeafToFences,
            TakesWithoutAFence, ForgetsToWait, KnowsTooMuch, MendsButReadsOn, BelievesAnything,
        )
    },
    "LedgerFirst": Parts(writer=LedgerFirst),
    "MoodyFold": Parts({**STAGES, "sessionise": STAGES["sessionise"]._replace(make=_moody)}),
}  # fmt: skip

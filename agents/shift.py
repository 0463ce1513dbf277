"""One worker at its work: blocks come in, rounds are done, partitions come and go between rounds. No Faust in it."""

import asyncio
from collections.abc import Sequence

from agents.arrival import Arrival
from agents.ports import Acks, Group, Sender, StateReader
from agents.rounds import Rounds
from pipeline.errors import StateError

WAITING_BLOCKS_MAX = 64
ROUND_BYTES_MAX = 1_048_576
GATHER_S = 0.002  # the blocks of one fetch come one by one: let them all come before a round begins
QUIESCE_S = 30.0


class Shift:
    """The rounds of one worker, never two at once, and none while partitions change hands."""

    def __init__(self, rounds: Rounds) -> None:
        """Begin without partitions. The attribute acks is to be set before the first block is offered."""
        self.rounds = rounds
        self.acks: Acks | None = None
        self._sender: Sender | None = None
        self._waiting: asyncio.Queue[tuple[int, Arrival]] = asyncio.Queue(WAITING_BLOCKS_MAX)
        self._in_round = asyncio.Lock()
        self._hand = 0  # counts the revocations: what arrived before one is not for the partitions we have after it

    async def offer(self, arrival: Arrival) -> None:
        """Hand a block on, in order; wait while there are too many. Nothing is acknowledged here."""
        await self._waiting.put((self._hand, arrival))

    async def assigned(self, partitions: Sequence[int], sender: Sender, reader: StateReader, group: Group) -> None:
        """Restore these partitions, and no others are ours. Raises as `Rounds.take` does."""
        self._sender = sender
        await self.rounds.take(partitions, sender, reader, group)

    async def revoked(self) -> None:
        """Let all partitions go, after the round in hand. Raises StateError where that does not end."""
        await self.end()
        try:
            self._hand += 1
            while not self._waiting.empty():
                self._waiting.get_nowait()
            self.rounds.release()
        finally:
            self._in_round.release()

    async def end(self) -> None:
        """Wait for the end of the round in hand; no further one begins. Raises StateError where it does not end."""
        try:
            await asyncio.wait_for(self._in_round.acquire(), QUIESCE_S)
        except TimeoutError as error:
            raise StateError(f"a round of blocks took longer than {QUIESCE_S} s") from error

    async def turn(self) -> None:
        """Wait for blocks and do one round. Raises what the round raises."""
        gathered = await self._gather()
        async with self._in_round:
            assert self._sender is not None, "a block came before its partition was ours"
            assert self.acks is not None, "a block came before `acks` was set"
            arrivals = [arrival for hand, arrival in gathered if hand == self._hand]
            await self.rounds.run(arrivals, self._sender, self.acks)

    async def _gather(self) -> list[tuple[int, Arrival]]:
        arrivals = [await self._waiting.get()]
        await asyncio.sleep(GATHER_S)
        size = len(arrivals[0][1].value)
        while size < ROUND_BYTES_MAX and not self._waiting.empty():
            arrivals.append(self._waiting.get_nowait())
            size += len(arrivals[-1][1].value)
        return arrivals

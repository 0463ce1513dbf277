"""One life of a stage's worker: what agents/runtime.py is on Faust, on the simulated broker and group."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from agents.arrival import Arrival, arrived
from agents.rounds import MakeFold, Rounds
from agents.shift import Shift
from pipeline.core.stage import Applied, Fold
from pipeline.errors import Retryable, StateError
from pipeline.settings import Settings
from schemas.topics import Topic
from tests.simulation.broker import Broker, Connection, Kept, Lost, Place, Reader
from tests.simulation.group import SESSION_S, Group
from tests.simulation.loop import Process

COMMIT_S = 1.5
HEARTBEAT_S = 3.0


class Stage(NamedTuple):
    """A stage with its rules, and the rounds that do it (a mutant, where a test wants to see one caught)."""

    kind: type[Fold]
    make: MakeFold
    rounds: type[Rounds] = Rounds


class Message(NamedTuple):
    """A record as a consumer has it."""

    tp: Place
    partition: int
    offset: int
    value: bytes
    headers: list[tuple[str, bytes]]


class Event(NamedTuple):
    """What is acknowledged: the message, and the generation in which it came."""

    message: Message
    generation: int


class Quiet:
    """Nobody listens."""

    def began(self) -> None:
        """A block's fold begins."""

    def applied(self, applied: Applied) -> None:
        """It is done."""

    def skipped(self) -> None:
        """A block came that had been applied before."""

    def damaged(self, partition: int) -> None:
        """A record of a partition's state topic was damaged."""

    def moved(self, partition: int, rows: int, block_time_ms: int, entries: int) -> None:
        """A partition's new state is durable."""


class Consumer:
    """A group member's side: positions, what comes next, acknowledgements, commits. Subclasses say what to do with it.

    on_end: told when the life ended itself, and why.
    """

    def __init__(self, broker: Broker, group: Group, name: str, on_end: "OnEnd") -> None:
        """Alive from now on; a member after `start`."""
        self.broker, self.group, self.name = broker, group, name
        self.loop, self.faults = broker.loop, broker.faults
        self.process = Process(broker.loop, name)
        self.connection = self.connect()
        self.generation = -1  # whose assignment we work on; -1: none
        self.positions: dict[Place, int] = {}
        self._told = -1  # the newest generation that we have heard of
        self._assigning = -1  # the one whose partitions are being restored
        self._acked: dict[Place, int] = {}
        self._commits = False
        self._on_end = on_end
        self._waiting: dict[Place, asyncio.Future[None]] = {}
        self._handling: dict[str, asyncio.Lock] = {"revoke": asyncio.Lock(), "assign": asyncio.Lock()}
        self._listening: set[Place] = set()

    def connect(self) -> Connection:
        """Return a producer of this process."""
        return Connection(self.broker, self.process)

    async def assigned(self, places: list[Place]) -> None:
        """Make these ours."""
        raise NotImplementedError

    async def revoked(self) -> None:
        """Let all go."""
        raise NotImplementedError

    async def end(self) -> None:
        """End the work in hand; nothing begins any more."""
        raise NotImplementedError

    def start(self) -> None:
        """Join the group and go to work."""
        self.group.join(self)
        self._heartbeat()

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *words: object) -> None:
        """Start a task of this life; what it raises ends the life, as `stop_now` does."""
        self.process.spawn(self._guarded(work, *words))

    async def _guarded(self, work: Callable[..., Coroutine[Any, Any, None]], *words: object) -> None:
        try:
            await work(*words)
        except Exception as error:  # noqa: BLE001 - judged by who started us
            self.kill()
            self._on_end(self, error)

    def kill(self) -> None:
        """As kill -9: nothing more is done, nobody is told."""
        if not self.process.is_dead:
            self.loop.note("kill", self.name)
            self.process.kill()
            self.connection.cut()
            self.loop.call_later(SESSION_S, self.group.evict, self)

    def pause(self, for_s: float) -> None:
        """As SIGSTOP, and SIGCONT after a time."""
        self.process.pause()
        self.loop.call_later(SESSION_S, lambda: self.group.evict(self) if self.process.is_paused else None)
        self.loop.call_later(for_s, lambda: None if self.process.is_dead else self.process.resume())

    async def stop(self) -> None:
        """As SIGTERM."""
        await self.end()
        self._commit()
        self.kill()
        self.group.evict(self)

    def told_to_revoke(self, generation: int) -> None:
        """A rebalance has begun."""
        self.spawn(self._revoke, generation)

    def told_assigned(self, generation: int, places: list[Place]) -> None:
        """It is over."""
        self.spawn(self._assign, generation, places)

    async def _revoke(self, generation: int) -> None:
        async with self._handling["revoke"]:
            if generation < self._told:
                return  # old news, overtaken by newer
            self._told = generation
            self.generation, self.positions = -1, {}
            self._acked = {}
            await self.revoked()
            self.group.rejoin(self, generation)

    async def _assign(self, generation: int, places: list[Place]) -> None:
        """Restoring goes on while the next rebalance begins: Faust calls the two from different tasks."""
        async with self._handling["assign"]:
            if generation != self._told:
                return
            self._assigning = generation
            await self.assigned(places)
            if generation != self._told:
                return
            rng = self.faults.rng
            back = rng.choice((0, 0, 0, 5))  # a commit that was lost
            self.generation = generation
            self.positions = {place: max(0, self.group.committed.get(place, 0) - back) for place in places}
            for place in places:
                self._listen(place)
            self._wake()

    def _listen(self, place: Place) -> None:
        if place not in self._listening:
            self._listening.add(place)
            self.broker.logs[place].listeners.append(self._wake)

    def _wake(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)

    def _heartbeat(self) -> None:
        if self.process.is_dead:
            return
        if self.process.is_paused:
            self.loop.call_later(HEARTBEAT_S, self._heartbeat)
            return
        after_s = self.faults.rng.random() * HEARTBEAT_S
        if self not in self.group.members:  # taken for dead; what is under way goes on until we hear of it
            self.spawn(self._come_back, after_s)
        self.loop.call_later(after_s + HEARTBEAT_S, self._heartbeat)

    async def _come_back(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if self in self.group.members:
            return
        async with self._handling["revoke"]:
            self.generation, self.positions, self._acked = -1, {}, {}
            self._told = self.group.generation  # what was given to us is void
            await self.revoked()
        self.group.join(self)

    async def next_event(self, topic: str) -> Event:
        """Wait for the next record of a topic, of any of our partitions."""
        while True:
            ready = [
                place
                for place, position in self.positions.items()
                if place[0] == topic and position < self.broker.logs[place].end
            ]
            if ready:
                place = self.faults.rng.choice(ready)
                found = self.broker.read(place, self.positions[place], 1)[0]
                self.positions[place] = found.offset + 1
                return Event(_message(place, found), self.generation)
            waiting = self._waiting[topic, -1] = self.loop.create_future()
            await waiting
            await asyncio.sleep(self.faults.wait_s())

    async def ack(self, event: Event) -> None:
        """The port `Acks`: committed some time later."""
        if event.generation == self.generation and not self.process.is_dead:
            place, offset = event.message.tp, event.message.offset
            self._acked[place] = max(self._acked.get(place, 0), offset + 1)
            if not self._commits:
                self._commits = True
                self.loop.call_later(self.faults.rng.random() * COMMIT_S, self._commit)

    def _commit(self) -> None:
        self._commits = False
        if not self.process.is_dead and self.generation != -1:
            self.group.commit(self, self.generation, self._acked)


OnEnd = Callable[[Consumer, Exception], None]


class Life(Consumer):
    """One life of a worker of a fold's stage."""

    def __init__(self, stage: Stage, settings: Settings, broker: Broker, group: Group, name: str,
                 on_end: "OnEnd") -> None:  # fmt: skip
        """Alive from now on; a member after `start`."""
        super().__init__(broker, group, name, on_end)
        self.stage = stage
        self.rounds = stage.rounds(stage.kind, stage.make, settings, name, Quiet())
        self.shift = Shift(self.rounds)
        self.shift.acks = self
        self._source: Topic = stage.kind.source
        self._topic = settings.topic(self._source.name)

    def start(self) -> None:
        """Join the group and go to work."""
        super().start()
        self.spawn(self._receive)
        self.spawn(self._work)

    async def _receive(self) -> None:
        while True:
            event = await self.next_event(self._topic)
            found: Arrival = arrived(event, self._source)
            await self.shift.offer(found)

    async def _work(self) -> None:
        while True:
            await self.shift.turn()

    async def assigned(self, places: list[Place]) -> None:
        """Make these ours."""
        partitions = sorted(partition for _, partition in places)
        await self.shift.assigned(partitions, self.connection, Reader(self.broker), self)

    async def committed(self, partition: int) -> int:
        """The port `Group`."""
        await asyncio.sleep(self.faults.wait_s())
        return self.group.committed.get((self._topic, partition), -1)

    async def put_back(self, partition: int, offset: int) -> None:
        """The port `Group`."""
        await asyncio.sleep(self.faults.wait_s())
        if not self.group.commit(self, self._assigning, {(self._topic, partition): offset}):
            raise Retryable("the group has moved on")

    async def revoked(self) -> None:
        """Let all go."""
        await self.shift.revoked()

    async def end(self) -> None:
        """End the round in hand."""
        await self.shift.end()


def is_expected(error: Exception) -> bool:
    """Say whether a worker may end like that: transport trouble, and a round that took too long because of it."""
    return isinstance(error, Lost | Retryable) or (isinstance(error, StateError) and "took longer" in str(error))


def _message(place: Place, found: Kept) -> Message:
    return Message(place, place[1], found.offset, found.value, found.headers)

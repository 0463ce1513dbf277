"""A simulated broker: logs, and connections that delay, lose answers, and deliver what a dead process had handed over.

What it keeps is what Kafka promises: the order of one producer's records within a partition, a record once it is
answered, and nothing more.
"""

import asyncio
import itertools
import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from schemas.block import CorruptBlock, Headers
from tests.simulation.loop import PROCESS, Process, SimulatedLoop

Place = tuple[str, int]  # topic, partition


class Lost(Exception):
    """The broker's answer did not come: the record may or may not be there."""


class Kept(NamedTuple):
    """One record of a log."""

    offset: int
    value: bytes
    headers: Headers


class Written(NamedTuple):
    """The broker's answer."""

    offset: int


class Sent(NamedTuple):
    """A record on its way."""

    value: bytes
    headers: Headers
    answer: "asyncio.Future[Written]"


class Faults:
    """How likely what is, and how long things take. `calm` ends the faults and leaves the delays."""

    def __init__(self, rng: random.Random) -> None:
        """Each seed has its own weather."""
        self.rng = rng
        self.lost_answer = rng.choice((0.0, 0.0, 0.01, 0.05))
        self.lost_request = rng.choice((0.0, 0.0, 0.01, 0.05))
        self.slow = rng.choice((0.0, 0.02, 0.2))
        self.slow_s = rng.choice((0.5, 3.0, 8.0))
        self.delay_s = rng.choice((0.001, 0.01, 0.1))

    def calm(self) -> None:
        """From now on only delays."""
        self.lost_answer = self.lost_request = self.slow = 0.0

    def wait_s(self) -> float:
        """How long the network takes this time."""
        rng = self.rng
        return rng.random() * (self.slow_s if rng.random() < self.slow else self.delay_s)


class Log:
    """One partition of one topic."""

    def __init__(self) -> None:
        """Empty."""
        self.first = 0
        self.end = 0
        self.kept: dict[int, Kept] = {}
        self.listeners: list[Callable[[], None]] = []


class Broker:
    """All logs."""

    def __init__(self, loop: SimulatedLoop, faults: Faults) -> None:
        """Without records."""
        self.loop, self.faults = loop, faults
        self.logs: defaultdict[Place, Log] = defaultdict(Log)
        self.appends = 0
        self.damaged: dict[Place, set[int]] = {}  # records that are not what was written
        self.unreadable: set[tuple[Place, int]] = set()  # those of them that the broker's own checksum tells of

    def damage(self, place: Place, offset: int) -> None:
        """Flip a bit of a record that stands there: as its writer's checksum tells, or already the broker's."""
        rng, log = self.faults.rng, self.logs[place]
        kept = log.kept[offset]
        if rng.random() < 0.5:
            self.unreadable.add((place, offset))
        else:
            at = rng.randrange(len(kept.value))
            value = bytearray(kept.value)
            value[at] ^= 1 << rng.randrange(8)
            log.kept[offset] = kept._replace(value=bytes(value))
        self.damaged.setdefault(place, set()).add(offset)
        self.loop.note("damage", place, offset)

    def append(self, place: Place, value: bytes, headers: Headers) -> int:
        """Write a record; return its offset."""
        log = self.logs[place]
        offset, log.end = log.end, log.end + 1
        log.kept[offset] = Kept(offset, value, headers)
        self.appends += 1
        self.loop.note(place, offset, dict(headers).get("crc"), dict(headers).get("origin"))
        for listener in log.listeners:
            listener()
        return offset

    def read(self, place: Place, offset: int, most: int) -> list[Kept]:
        """Return the records from an offset on; where it has been trimmed, from the first one that there is."""
        log = self.logs[place]
        start = max(offset, log.first)
        return [log.kept[at] for at in range(start, min(start + most, log.end))]

    def trim(self, place: Place, first: int) -> None:
        """Forget the records before an offset."""
        log = self.logs[place]
        for offset in range(log.first, min(first, log.end)):
            del log.kept[offset]
        log.first = max(log.first, min(first, log.end))


class Connection:
    """One process's producer: the ports `Sender` of the stages. What is handed over can outlive the process."""

    def __init__(self, broker: Broker, process: Process) -> None:
        """Nothing on its way."""
        self._broker, self._process = broker, process
        self._queues: defaultdict[Place, deque[Sent]] = defaultdict(deque)
        self._broken: set[Place] = set()  # an idempotent producer never writes behind a hole of its own

    async def send(self, topic: str, value: bytes, *, partition: int, headers: Headers) -> "asyncio.Future[Written]":
        """Hand a record on."""
        loop = self._broker.loop
        sent = Sent(value, headers, loop.create_future())
        if self._process.is_dead:
            return sent.answer
        queue = self._queues[topic, partition]
        queue.append(sent)
        if len(queue) == 1:
            self._later(self._deliver, (topic, partition))
        if self._broker.faults.rng.random() < 0.1:  # a full buffer
            await asyncio.sleep(self._broker.faults.wait_s())
        return sent.answer

    def end_of(self, topic: str, partition: int) -> int:
        """Return where a log ends now."""
        return self._broker.logs[topic, partition].end

    def cut(self) -> None:
        """The process has died: of what it handed over, some, from the front, still arrives."""
        for queue in self._queues.values():
            for _ in range(self._broker.faults.rng.randint(0, len(queue))):
                queue.pop()

    def _later(self, call: Callable[[Place], None], place: Place) -> None:
        token = PROCESS.set(None)  # the network is nobody's: it goes on while a process is paused
        self._broker.loop.call_later(self._broker.faults.wait_s(), call, place)
        PROCESS.reset(token)

    def _deliver(self, place: Place) -> None:
        queue, faults = self._queues[place], self._broker.faults
        if not queue:
            return
        if place in self._broken or faults.rng.random() < faults.lost_request:
            self._broken.add(place)
            while queue:
                self._answer(queue.popleft(), Lost("not written"))
            return
        sent = queue.popleft()
        offset = self._broker.append(place, sent.value, sent.headers)
        is_lost = faults.rng.random() < faults.lost_answer
        self._answer(sent, Lost("written") if is_lost else Written(offset))
        if queue:
            self._later(self._deliver, place)

    def _answer(self, sent: Sent, answer: Written | Lost) -> None:
        def arrive() -> None:
            if not sent.answer.done() and not self._process.is_dead:
                if isinstance(answer, Lost):
                    sent.answer.set_exception(answer)
                    sent.answer.exception()  # the process may go for another reason before it looks
                else:
                    sent.answer.set_result(answer)

        token = PROCESS.set(None)
        self._broker.loop.call_later(self._broker.faults.wait_s(), arrive)
        PROCESS.reset(token)


class Reader:
    """One process's reader of state topics: the port `StateReader`."""

    def __init__(self, broker: Broker) -> None:
        """Nothing is open."""
        self._broker = broker
        self._place: Place = ("", -1)
        self._position = 0

    async def open(self, topic: str, partition: int) -> int:
        """Turn to a partition."""
        await asyncio.sleep(self._broker.faults.wait_s())
        self._place = (topic, partition)
        return self._broker.logs[self._place].first

    def seek(self, offset: int) -> None:
        """Go on from there."""
        self._position = offset

    async def end(self) -> int:
        """Return where it ends."""
        await asyncio.sleep(self._broker.faults.wait_s())
        return self._broker.logs[self._place].end

    async def fetch(self, wait_ms: int) -> Sequence[Kept]:
        """Return some records, or none: an answer can be empty at any time."""
        rng = self._broker.faults.rng
        await asyncio.sleep(self._broker.faults.wait_s() if rng.random() < 0.8 else wait_ms / 1000)
        if rng.random() < 0.05:
            return []
        found = self._broker.read(self._place, self._position, rng.choice((1, 3, 10, 100)))
        sound = list(itertools.takewhile(lambda one: (self._place, one.offset) not in self._broker.unreadable, found))
        if found and not sound:
            raise CorruptBlock("the broker's checksum is wrong")
        if sound:
            self._position = sound[-1].offset + 1
        return sound

    async def close(self) -> None:
        """Nothing to let go of."""

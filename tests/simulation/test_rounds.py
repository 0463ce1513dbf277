"""What the simulation has found once, told as stories: a fence that comes late, and a restore that is overtaken."""

import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agents.arrival import Arrival, arrived
from agents.restore import take_over
from agents.rounds import Rounds
from pipeline.core.state import StateWriter
from pipeline.errors import Retryable
from pipeline.settings import load
from schemas import block as codec
from schemas.topics import COLLECTED
from tests.simulation import story
from tests.simulation.broker import Broker, Connection, Faults, Reader
from tests.simulation.life import Event, Message, Quiet
from tests.simulation.loop import Process, SimulatedLoop
from tests.simulation.world import STAGES

PLACE = ("sim-clean-state", 0)


class Scene:
    """A calm broker, and workers of the clean stage on it."""

    def __init__(self) -> None:
        self.rng = random.Random(1)
        self.loop = SimulatedLoop(self.rng)
        faults = Faults(self.rng)
        faults.calm()
        self.broker = Broker(self.loop, faults)
        self.process = Process(self.loop, "workers")
        self.sender, self.reader = Connection(self.broker, self.process), Reader(self.broker)
        self.visitors = story.Visitors(self.rng, 0)
        self.acked: list[int] = []
        self.offset = 0

    def worker(self, name: str) -> Rounds:
        stage = STAGES["clean"]
        return Rounds(stage.kind, stage.make, load(topic_prefix="sim-"), name, Quiet())

    async def ack(self, event: Event) -> None:
        self.acked.append(event.message.offset)

    async def round(self, worker: Rounds) -> None:
        value = codec.encode(self.visitors.block())
        message = Message(("sim-collected", 0), 0, self.offset, value, codec.headers(value, 1))
        self.offset += 1
        arrival: Arrival = arrived(Event(message, 1), COLLECTED)
        await worker.run([arrival], self.sender, self)

    def fence(self, owner: str) -> int:
        value = codec.encode(StateWriter.fence(owner))
        return self.broker.append(PLACE, value, codec.headers(value, 0))

    def play(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        ended: list[BaseException | None] = []

        async def whole() -> None:
            try:
                await act()
            except BaseException as error:  # noqa: BLE001 - raised again outside of the loop
                ended.append(error)
            else:
                ended.append(None)

        self.process.spawn(whole())
        assert self.loop.run_until(lambda: bool(ended), 1_000.0), "it does not end"
        if ended[0] is not None:
            raise ended[0]


def test_an_owner_that_is_fenced_late_by_a_worker_that_has_gone_again_acknowledges_nothing() -> None:
    """The other one lost the partition while its fence was on its way: nobody else will ever do these blocks."""
    scene = Scene()
    owner = scene.worker("owner")

    async def act() -> None:
        await owner.take([0], scene.sender, scene.reader)
        await scene.round(owner)
        scene.fence("gone again")
        await scene.round(owner)

    with pytest.raises(Retryable, match="gone again has fenced us"):
        scene.play(act)
    assert scene.acked == [0]


def test_a_void_record_of_a_former_owner_does_not_stop_the_new_one() -> None:
    """Only a fence does: what a zombie writes behind ours is ignored by every reader."""
    scene = Scene()
    zombie, owner = scene.worker("zombie"), scene.worker("owner")

    async def act() -> None:
        await zombie.take([0], scene.sender, scene.reader)
        await owner.take([0], scene.sender, scene.reader)
        with pytest.raises(Retryable, match="owner has fenced us"):
            await scene.round(zombie)
        scene.offset = 0
        await scene.round(owner)

    scene.play(act)
    assert scene.acked == [0]
    assert owner.owned[0].writer.interrupted


def test_a_restore_that_is_overtaken_reads_on_from_its_own_fence_when_the_partition_comes_back() -> None:
    """What came behind the fence in one fetch was not applied, so it must be read the next time."""
    scene = Scene()
    first, second = scene.worker("first"), scene.worker("second")

    async def act() -> None:
        await first.take([0], scene.sender, scene.reader)
        first.release()
        known, topic = {0: first.known[0]}, PLACE[0]
        fence = scene.broker.logs[PLACE].end
        behind = _LateReader(scene, second)
        await take_over(known, topic, "first", scene.sender, behind)
        assert known[0].next_offset == fence + 1

    scene.play(act)


class _LateReader(Reader):
    """A reader so slow that another worker fences and writes before its first fetch."""

    def __init__(self, scene: Scene, other: Rounds) -> None:
        super().__init__(scene.broker)
        self._scene, self._other = scene, other

    async def open(self, topic: str, partition: int) -> int:
        """Turn to the partition, when it is too late."""
        await self._other.take([0], self._scene.sender, Reader(self._scene.broker))
        await self._scene.round(self._other)
        return await super().open(topic, partition)

    async def fetch(self, wait_ms: int) -> Any:
        """Return all at once."""
        return self._broker.read(self._place, self._position, 1_000)

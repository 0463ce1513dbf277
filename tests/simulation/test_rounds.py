"""What the simulation has found once, told as stories: a fence that comes late, and a restore that is overtaken."""

import os
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from agents.arrival import Arrival, arrived
from agents.restore import take_over
from agents.rounds import Rounds
from pipeline.core.state import StateWriter
from pipeline.edge.local_store import LocalStore
from pipeline.errors import Gap, Retryable, StateError
from pipeline.settings import load
from schemas import block as codec
from schemas.block import EventBlock, Origin, Totals
from schemas.event import Event as Clean
from schemas.event import EventType
from schemas.topics import COLLECTED, EVENTS
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
        self.commit = -1
        self.offset = 0

    def worker(self, name: str) -> Rounds:
        stage = STAGES["clean"]
        return Rounds(stage.kind, stage.make, load(topic_prefix="sim-"), name, Quiet())

    async def committed(self, partition: int) -> int:
        return self.commit

    async def put_back(self, partition: int, offset: int) -> None:
        self.commit = offset

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
        await owner.take([0], scene.sender, scene.reader, scene)
        await scene.round(owner)
        scene.fence("gone again")
        await scene.round(owner)

    with pytest.raises(Retryable, match="gone again has fenced us"):
        scene.play(act)
    assert scene.acked == [0]


def test_a_worker_that_was_fenced_does_not_take_the_new_owners_progress_for_a_loss() -> None:
    """It reads on from what the group has acknowledged meanwhile; a gap would be told to people, as a loss."""
    scene = Scene()
    former, owner = scene.worker("former"), scene.worker("owner")

    async def act() -> None:
        await former.take([0], scene.sender, scene.reader, scene)
        await owner.take([0], scene.sender, scene.reader, scene)
        await scene.round(owner)
        await scene.round(former)

    with pytest.raises(Retryable, match="owner has fenced us"):
        scene.play(act)


def test_a_gap_that_no_other_worker_explains_is_a_gap() -> None:
    scene = Scene()
    owner = scene.worker("owner")

    async def act() -> None:
        await owner.take([0], scene.sender, scene.reader, scene)
        await scene.round(owner)
        scene.offset += 1
        await scene.round(owner)

    with pytest.raises(Gap, match="block 2 after 0, expected 1"):
        scene.play(act)


def test_a_void_record_of_a_former_owner_does_not_stop_the_new_one() -> None:
    """Only a fence does: what a zombie writes behind ours is ignored by every reader."""
    scene = Scene()
    zombie, owner = scene.worker("zombie"), scene.worker("owner")

    async def act() -> None:
        await zombie.take([0], scene.sender, scene.reader, scene)
        await owner.take([0], scene.sender, scene.reader, scene)
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
        await first.take([0], scene.sender, scene.reader, scene)
        first.release()
        known, topic = {0: first.known[0]}, PLACE[0]
        fence = scene.broker.logs[PLACE].end
        behind = _LateReader(scene, second)
        await take_over(known, topic, "first", scene.sender, behind)
        assert known[0].next_offset == fence + 1

    scene.play(act)


def test_a_state_log_that_has_lost_its_end_is_continued_from_the_input() -> None:
    """A broker without power forgets what it had not written yet; the group's position may be younger."""
    scene = Scene()
    first, second, third = (scene.worker(name) for name in ("first", "second", "third"))

    async def act() -> None:
        await first.take([0], scene.sender, scene.reader, scene)
        for _ in range(5):
            scene.broker.append(("sim-collected", 0), b"", [])
            await scene.round(first)
        scene.commit = 5
        log = scene.broker.logs[PLACE]
        for _ in range(2):
            log.end -= 1
            del log.kept[log.end]
        with pytest.raises(Retryable, match="put back"):
            await second.take([0], scene.sender, scene.reader, scene)
        await third.take([0], scene.sender, scene.reader, scene)

    scene.play(act)
    assert (third.owned[0].view.version, scene.commit) == (2, 3)


def test_a_log_that_was_mended_is_not_mended_again_when_its_partition_comes_back() -> None:
    """Each time, all of the state would be void for its readers until all of it was written once more."""
    scene = Scene()
    first, second = scene.worker("first"), scene.worker("second")

    async def act() -> None:
        await first.take([0], scene.sender, scene.reader, scene)
        await scene.round(first)
        scene.broker.unreadable.add((PLACE, 1))
        await second.take([0], scene.sender, scene.reader, scene)
        assert second.known[0].damage
        second.release()
        mended = scene.broker.logs[PLACE].end
        await second.take([0], scene.sender, scene.reader, scene)
        assert scene.broker.logs[PLACE].end == mended + 1  # the fence

    scene.play(act)


def test_a_damaged_local_file_stops_the_worker_and_its_successor_has_it_all_again(tmp_path: Path) -> None:
    """Bits flip under a running worker whose state is larger than its memory; a restart reads the state topic."""
    scene = Scene()
    stage = STAGES["profile"]
    stores: list[LocalStore] = []

    def store() -> LocalStore:
        stores.append(LocalStore(tmp_path, 1))
        return stores[-1]

    def worker(name: str) -> Rounds:
        return Rounds(stage.kind, stage.make, load(topic_prefix="sim-"), name, Quiet(), store)

    async def round_of(one: Rounds, offset: int) -> None:
        events = [
            Clean("e", EventType.PAGE, offset, offset, "shop", f"v{n}") for n in range(400 * offset, 400 * offset + 800)
        ]
        value = codec.encode(EventBlock(offset, Totals(), [], events))
        message = Message(("sim-events", 0), 0, offset, value, codec.headers(value, 1, Origin(0, offset)))
        await one.run([arrived(Event(message, 1), EVENTS)], scene.sender, scene)

    async def act() -> None:
        first, second = worker("first"), worker("second")
        await first.take([0], scene.sender, scene.reader, scene)
        for offset in range(10):
            await round_of(first, offset)
        number = stores[-1]._file._number
        for position in range(0, stores[-1].file_bytes, 300):
            os.pwrite(number, b"\xff", position)
        with pytest.raises(StateError, match="local state file"):
            await round_of(first, 10)
        await second.take([0], scene.sender, scene.reader, scene)
        entries = second.owned[0].view.entries
        assert (len(entries), second.owned[0].view.version) == (400 * 11, 9)
        await round_of(second, 10)
        assert len(entries) == 400 * 12

    scene.play(act)


class _LateReader(Reader):
    """A reader so slow that another worker fences and writes before its first fetch."""

    def __init__(self, scene: Scene, other: Rounds) -> None:
        super().__init__(scene.broker)
        self._scene, self._other = scene, other

    async def open(self, topic: str, partition: int) -> int:
        """Turn to the partition, when it is too late."""
        await self._other.take([0], self._scene.sender, Reader(self._scene.broker), self._scene)
        await self._scene.round(self._other)
        return await super().open(topic, partition)

    async def fetch(self, wait_ms: int) -> Any:
        """Return all at once."""
        return self._broker.read(self._place, self._position, 1_000)

"""A worker is killed while it does a block, and while it takes its partitions over."""

import random
import time
from collections.abc import Callable

from msgspec import Struct

from agents import clean, profile, sessionise
from pipeline import money
from pipeline.core.clean_stage import Clean
from pipeline.core.profile_stage import Profiles
from pipeline.core.sessionise import Sessionise
from pipeline.core.spend import Spend
from pipeline.core.stage import Fold
from pipeline.core.state import StateView
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import CollectedBlock, Origin
from schemas.topics import BAD, EVENTS, OUTCOMES, SESSIONS, Topic
from tests.agents.rig import Stages, page_views
from tests.agents.shop import Shop
from tests.crashpoints.life import Life
from tests.crashpoints.log import Reference, Written

PARTITIONS = 2
EVENTS_OF_BLOCK = 20
COMMITTED_S = 1.3  # Faust commits every second
BACK_S = 90.0
STARTS_MAX = 3
ROUNDS = 4
APART_S = 0.03  # the next block comes while the last one's round is at work, or just after

MAKE: dict[type[Fold], Callable[[StateView, Settings], Fold]] = {
    Clean: lambda view, settings: Clean(view, clean.rules(settings)),
    Sessionise: lambda view, settings: Sessionise(view, sessionise.rules(settings)),
    Profiles: lambda view, settings: Profiles(view, profile.rules(settings)),
    Spend: lambda view, settings: Spend(view, money.rules(settings)),
}
OUTPUTS: dict[type[Fold], tuple[Topic, ...]] = {
    Clean: (EVENTS, BAD),
    Sessionise: (SESSIONS,),
    Profiles: (OUTCOMES,),
    Spend: (),
}
BEFORE: dict[type[Fold], tuple[type[Fold], ...]] = {
    Clean: (),
    Sessionise: (Clean,),
    Profiles: (Clean,),
    Spend: (Clean, Profiles),
}
"""Who makes a stage's input: they are folded here, nobody kills them."""


class Commit:
    """A worker that has done all blocks so far gets some more in each partition: outputs, state, acknowledgement."""

    what = "rounds of blocks"
    calls = 20

    def __init__(self, stages: Stages, stage: type[Fold]) -> None:
        """stages: on a broker, with topics of their own."""
        self.name = f"{stage.name}: {self.what}"
        self.stages, self.stage = stages, stage
        self.written = Written(stages.settings, stage, OUTPUTS[stage])
        self.references = {p: self._reference(stage) for p in range(PARTITIONS)}
        self.before = {p: [self._reference(one) for one in BEFORE[stage]] for p in range(PARTITIONS)}
        self.shops = {p: Shop(p, random.Random(p)) for p in range(PARTITIONS)}
        self.number = -1
        self.is_warm = False
        self.life: Life | None = None

    def _reference(self, stage: type[Fold]) -> Reference:
        view = StateView()
        return Reference(MAKE[stage](view, self.stages.settings), view)

    def _feed(self) -> None:
        """Write the next block of each partition into the stage's input, and into its reference."""
        self.number += 1
        for partition in range(PARTITIONS):
            origin, made = Origin(partition, self.number), self._block(partition)
            if self.stage is Clean:
                self.stages.feed(partition, made)
                self.references[partition].apply(origin, made)
                continue
            block: Struct = made
            for one, after in zip(self.before[partition], (*BEFORE[self.stage][1:], self.stage), strict=True):
                outputs = {topic: (found, rows) for topic, found, rows in one.apply(origin, block)}
                block, rows = outputs[after.source.name]
            value = codec.encode(block)
            self.stages.feed_raw(self.stage.source.name, partition, value, codec.headers(value, rows, origin))
            self.references[partition].apply(origin, block)

    def _block(self, partition: int) -> CollectedBlock:
        """What comes in: decisions and what people made of them where that is the stage's work, else page views."""
        if self.stage in (Profiles, Spend):
            return self.shops[partition].block(self.number)
        first = (self.number * PARTITIONS + partition) * EVENTS_OF_BLOCK
        return page_views(self.number, first, EVENTS_OF_BLOCK)

    def _is_dead(self) -> bool:
        return self.life is None or self.life.is_over

    def _start(self) -> int:
        self.is_warm = False
        self.life = Life(self.stages.start(self.stage.name, instance="0").pid)
        return self.life.pid

    def _back(self) -> list[str]:
        """Have a worker that has done everything, started again as by a supervisor; return what stood in its way."""
        for _ in range(STARTS_MAX):
            if self._is_dead():
                self._start()
            if self.written.reaches(self.number, self._is_dead, BACK_S):
                return []
        versions = {partition: view.version for partition, view in self.written.views.items()}
        return [f"not done within {BACK_S:.0f} s: versions {versions}, expected {self.number}"]

    def warm(self) -> int:
        if not self.is_warm:  # it may have come when all was done: a block that nobody kills it at
            self._feed()
            assert self._back() == []
            self.is_warm = True
        assert self.life is not None
        return self.life.pid

    def work(self) -> None:
        for _ in range(ROUNDS):
            self._feed()
            time.sleep(APART_S)
        if self.written.reaches(self.number, self._is_dead, BACK_S):
            end_s = time.monotonic() + COMMITTED_S
            while not self._is_dead() and time.monotonic() < end_s:
                time.sleep(0.02)

    def wrong(self) -> list[str]:
        stopped = self._back()
        return stopped or list(self.written.unlike(self.references))

    def close(self) -> None:
        self.written.close()
        self.stages.stop()


class Restore(Commit):
    """A worker starts: joins, fences its state, restores it, does the block that waits; killed on the way."""

    what = "start and restore"
    calls = 65

    def warm(self) -> int:
        if self.number < 0:
            for _ in range(4):
                self._feed()
            assert self._back() == []
        assert self.life is not None
        self.life.kill()
        self._feed()  # now, or the one that was killed might have done it
        return self._start()

    def work(self) -> None:
        self.written.reaches(self.number, self._is_dead, BACK_S)

"""One seed: its weather, its story, its workers, its faults; then calm, until nothing is left to do; then the books."""

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from agents.rounds import Rounds
from pipeline.core.clean_stage import Clean
from pipeline.core.learn import Learn
from pipeline.core.profile_stage import Profiles
from pipeline.core.sessionise import Sessionise
from pipeline.core.spend import Spend
from pipeline.settings import Settings, load
from pipeline.warehouse_writer import WarehouseWriter
from schemas import block as codec
from schemas.topics import BAD, COLLECTED, EVENTS, OUTCOMES, SESSIONS
from tests.simulation import story
from tests.simulation.broker import Broker, Faults
from tests.simulation.group import Group
from tests.simulation.life import Consumer, Life, Stage, is_expected
from tests.simulation.loop import SimulatedLoop
from tests.simulation.verdict import begin_of, judge
from tests.simulation.warehouse import AggregateLife, Store

CALM_MAX_S = 900.0
STEPS_MAX = 400_000

STAGES: dict[str, Stage] = {
    "clean": Stage(Clean, lambda view: Clean(view, story.CLEAN)),
    "sessionise": Stage(Sessionise, lambda view: Sessionise(view, story.SESSIONS)),
    "profile": Stage(Profiles, lambda view: Profiles(view, story.PROFILES)),
    "learn": Stage(Learn, lambda view: Learn(view)),
    "spend": Stage(Spend, lambda view: Spend(view, story.SPEND)),
}
AGGREGATE = "aggregate"
STAGE_NAMES = (*STAGES, AGGREGATE)

Start = Callable[[str], Consumer]


@dataclass
class Parts:
    """What a world is made of; tests put mutants in."""

    stages: dict[str, Stage] = field(default_factory=lambda: dict(STAGES))
    writer: type[WarehouseWriter] = WarehouseWriter
    is_rough: bool = False  # always the worst weather

    def with_rounds(self, rounds: type[Rounds]) -> "Parts":
        """Return these parts with other rounds in every stage."""
        return Parts({name: stage._replace(rounds=rounds) for name, stage in self.stages.items()}, self.writer, True)


class Outcome(NamedTuple):
    """What became of a seed. digest: of the whole trace. wrong: what was found; empty where all is as it must be."""

    seed: int
    digest: str
    wrong: list[str]
    steps: int
    simulated_s: float
    lives: int
    records: int


class World:
    """One seed's run."""

    def __init__(self, seed: int, parts: Parts, settings: Settings) -> None:
        """Everything below is chosen by the seed."""
        self.rng = rng = random.Random(seed)
        self.seed, self.parts, self.settings = seed, parts, settings
        self.loop = SimulatedLoop(rng)
        self.faults = Faults(rng)
        self.broker = Broker(self.loop, self.faults)
        self.store = Store()
        self.partitions = rng.choice((1, 2, 2, 3))
        self.blocks = rng.choice((5, 10, 20))
        self.wrong: list[str] = []
        self.lives: dict[str, list[Consumer]] = {name: [] for name in STAGE_NAMES}
        self.groups = {name: self._group(name) for name in STAGE_NAMES}
        self.born = 0
        self._is_calm = False
        self._left = self.partitions * self.blocks
        self._fault_every = rng.choice((100, 400, 1_500))
        if parts.is_rough:
            self.faults.slow, self.faults.slow_s, self._fault_every = 0.2, 8.0, 100
        self._next_fault = rng.randint(1, self._fault_every)

    def _group(self, name: str) -> Group:
        topics = (EVENTS, BAD, SESSIONS, OUTCOMES) if name == AGGREGATE else (self.parts.stages[name].kind.source,)
        names = [self.settings.topic(topic.name) for topic in topics]
        return Group(self.loop, self.faults, names, self.partitions)

    def run(self) -> Outcome:
        """Live through it."""
        for name in STAGE_NAMES:
            for _ in range(self.rng.choice((1, 1, 2, 3))):
                self._start(name)
        for partition in range(self.partitions):
            visitors = story.Visitors(self.rng, partition)
            self._collect(partition, visitors, self.blocks)
        if not self.loop.run_until(self._stormy, 10_000.0):
            self.wrong.append("nothing happens any more, in the storm")
        self._calm()
        if not self.wrong and not self.loop.run_until(self._is_done, self.loop.time() + CALM_MAX_S):
            self.wrong.append(f"not done within {CALM_MAX_S:.0f} s of calm: {self._behind()}")
        if not self.wrong:
            self.wrong += judge(self)
        outcome = Outcome(
            self.seed, self.loop.digest, self.wrong + self.loop.errors, self.loop.steps, self.loop.time(), self.born,
            self.broker.appends,
        )  # fmt: skip
        self._close()
        return outcome

    def _collect(self, partition: int, visitors: story.Visitors, left: int) -> None:
        block = visitors.block()
        value = codec.encode(block)
        headers = codec.headers(value, len(block.events))
        self.broker.append((self.settings.topic(COLLECTED.name), partition), value, headers)
        self._left -= 1
        if left > 1:
            pause_s = self.rng.choice((0.0, 0.01, 0.5, 3.0))
            self.loop.call_later(pause_s, self._collect, partition, visitors, left - 1)

    def _start(self, name: str) -> None:
        self.born += 1
        label = f"{name}-{self.born}"
        group = self.groups[name]
        life: Consumer
        if name == AGGREGATE:
            life = AggregateLife(self.store, self.parts.writer, self.settings, self.broker, group, label, self._ended)
        else:
            life = Life(self.parts.stages[name], self.settings, self.broker, group, label, self._ended)
        self.lives[name].append(life)
        life.start()

    def _ended(self, life: Consumer, error: Exception) -> None:
        """A worker has ended by itself: its supervisor starts it again, unless it is a failure."""
        self.loop.note("ended", life.name, type(error).__name__)
        if is_expected(error):
            self._later(self._replace_life, life)
        else:
            self.wrong.append(f"{life.name} at {self.loop.time():.3f} s: {type(error).__name__}: {error}")

    def _replace_life(self, life: Consumer) -> None:
        name = life.name.rsplit("-", 1)[0]
        self.lives[name].remove(life)
        self._start(name)

    def _later(self, call: Callable[..., None], *words: object) -> None:
        self.loop.call_later(self.rng.random() * 3.0, call, *words)

    def _stormy(self) -> bool:
        """One step of the storm; True when all has been collected and enough has happened."""
        if self.wrong or self.loop.errors:
            return True
        if self.loop.steps >= self._next_fault:
            self._next_fault = self.loop.steps + self.rng.randint(1, 2 * self._fault_every)
            self._strike()
        return self._left == 0 and self.loop.time() > 5.0 and (not self._behind() or self.loop.time() > 60.0)

    def _strike(self) -> None:
        name = self.rng.choice(STAGE_NAMES)
        alive = [life for life in self.lives[name] if not life.process.is_dead]
        if not alive:
            return
        life = self.rng.choice(alive)
        what = self.rng.choice((0.1, 0.4, 0.6, 0.6, 0.7, 0.7, 0.85, 0.9)) if self.parts.is_rough else self.rng.random()
        self.loop.note("strike", life.name, what)
        if what < 0.35:
            life.kill()
            self._later(self._replace_life, life)
        elif what < 0.5:
            if not life.process.is_paused:
                life.pause(self.rng.choice((1.0, 8.0, 20.0)))
        elif what < 0.65:
            self.groups[name].evict(life)  # taken for dead, and goes on
        elif what < 0.72:
            self.groups[name].rebalance()
        elif what < 0.8:
            life.spawn(life.stop)
            self._later(self._start, name)
        elif isinstance(life, Life):
            if what < 0.88:
                self._damage(life)
            else:
                self._trim(life)

    def _damage(self, life: Life) -> None:
        """A bit flips in one of the stage's state topics, as on a bad disk."""
        place = (self.settings.topic(life.stage.kind.state.name), self.rng.randrange(self.partitions))
        log = self.broker.logs[place]
        if log.first < log.end:
            self.broker.damage(place, self.rng.randrange(log.first, log.end))

    def _trim(self, life: Life) -> None:
        """As agents/watch.py does, a zombie too."""
        if not life.process.is_paused:
            topic = self.settings.topic(life.stage.kind.state.name)
            for partition, owned in life.rounds.owned.items():
                self.broker.trim((topic, partition), owned.writer.kept_from)

    def _calm(self) -> None:
        self.faults.calm()
        self._is_calm = True
        for name in STAGE_NAMES:
            for life in list(self.lives[name]):
                if life.process.is_dead:
                    continue
                if life.process.is_paused:
                    life.process.resume()
                if isinstance(life, Life) and self._is_damaged(life):
                    life.kill()  # who restores finds it
            if all(life.process.is_dead for life in self.lives[name]):
                self._start(name)

    def _is_damaged(self, life: Life) -> bool:
        topic = self.settings.topic(life.stage.kind.state.name)
        return any(place[0] == topic for place in self.broker.damaged)

    def _is_done(self) -> bool:
        if self.wrong or self.loop.errors or self.loop.steps > STEPS_MAX:
            return True
        return not self._behind() and all(
            max(damaged) < begin_of(self.broker, place) for place, damaged in self.broker.damaged.items()
        )

    def _behind(self) -> dict[str, object]:
        """Return what is not committed yet, by group."""
        found: dict[str, object] = {}
        for name, group in self.groups.items():
            for topic in group.topics:
                for partition in range(self.partitions):
                    end = self.broker.logs[topic, partition].end
                    if group.committed.get((topic, partition), 0) < end:
                        found[f"{name}: {topic}[{partition}]"] = (group.committed.get((topic, partition), 0), end)
        return found

    def _close(self) -> None:
        for lives in self.lives.values():
            for life in lives:
                if not life.process.is_dead:
                    life.process.kill()
        self.loop.run_until(lambda: self.loop.is_idle, self.loop.time())


def run(seed: int, parts: Parts | None = None) -> Outcome:
    """Run one seed."""
    outcome = World(seed, parts or Parts(), _settings()).run()
    if seed % 50 == 0:
        gc.collect()
    return outcome


_LOADED: list[Settings] = []


def _settings() -> Settings:
    if not _LOADED:
        _LOADED.append(load(topic_prefix="sim-"))
    return _LOADED[0]

"""The faults, each a function of how long it lasts: make it, hold it, heal it, and say what was seen.

What must be so in every case is in truth.py; here stands what is particular to one fault. A scenario is given a plant
under load and leaves it healed.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline import status
from pipeline.edge import kafka
from schemas.tables import SEALS, TABLES
from tests.agents.rig import until
from tests.faults import truth
from tests.faults.gauge import Gauge, Share, stored, weights
from tests.faults.load import Load, Shop
from tests.faults.plant import Plant, Worker, answers, stop_worker
from tests.faults.proxy import Fault
from tests.faults.refuser import Refuser
from tests.journeys.rig import free_ports

CAUGHT_UP_S = 600.0
GROWTH_MB_MAX = 128
"""Of a part of ours while a fault lasts; the stores have their own limits. Aggregate takes 90 more for a chunk of
insert_rows_max rows, which at this load it only meets when it is behind; it has them in the benchmark all the time."""
TIMES_LIVE_MIN = 3.0
BACKLOG_S_MIN = 60.0  # of a shorter backlog the time to the next attempt is the larger part


@dataclass
class Stage:
    """A plant with visitors and a shop. for_s: how long a fault lasts. seen: figures for the report.

    stored_before: events of earlier loads. others: visitors of the scenario's own. usual: bytes of each part before.
    slow: figures of what was too slow.
    """

    plant: Plant
    load: Load
    shop: Shop
    for_s: float
    seen: dict[str, object] = field(default_factory=dict)
    stored_before: int = 0
    others: list[Load] = field(default_factory=list)
    usual: dict[str, int] = field(default_factory=dict)
    slow: list[str] = field(default_factory=list)

    def stored(self) -> int:
        """Return how many different events of this load's visitors the warehouse has."""
        return stored(self.plant) - self.stored_before

    def wait_for(self, goal: int) -> float:
        """Wait until so many of them are stored; return after how long, s."""
        began_s = time.monotonic()
        while (found := self.stored()) < goal:
            waited_s = time.monotonic() - began_s
            assert waited_s < CAUGHT_UP_S, f"{found} events stored after {waited_s:.0f} s, expected {goal}"
            time.sleep(0.25)
        return time.monotonic() - began_s


STORES = ("broker", "warehouse")
Scenario = Callable[[Stage], None]


@contextmanager
def watched(stage: Stage) -> Iterator[None]:
    """Note how much memory the parts took meanwhile, and who was started again."""
    before = Counter(stage.plant.restarts())
    with Gauge(stage.plant, stage.usual) as gauge:
        yield
    grown = gauge.grown_mb()
    stage.seen["memory_mb"] = {name: mb for name, mb in grown.items() if mb > 0}
    stage.seen["restarts"] = dict(Counter(stage.plant.restarts()) - before)
    large = {name: mb for name, mb in grown.items() if mb > GROWTH_MB_MAX and name not in STORES}
    assert large == {}, f"grew by more than {GROWTH_MB_MAX} MB: {large}"


def _decisions_went_on(stage: Stage, before: int) -> None:
    """The shop was answered all the while: about ten a second, fewer on a loaded machine, never a failure."""
    took = sorted(stage.shop.took_ms[before:])
    assert stage.shop.failed == []
    assert len(took) > stage.for_s, f"{len(took)} decisions in {stage.for_s} s"
    stage.seen["decisions"] = {
        "answered": len(took),
        "p50_ms": round(took[len(took) // 2], 1),
        "p99_ms": round(took[len(took) * 99 // 100], 1),
    }


def _caught_up(stage: Stage) -> None:
    """Wait until all that was accepted by now is stored; note how fast that went, new events included.

    Others may be at work on this machine: what they take of its CPU is no fault of ours.
    """
    began_s, first, goal = time.monotonic(), stage.stored(), len(stage.load.accepted)
    share = Share(stage.plant)
    while (found := stage.stored()) < goal:
        assert time.monotonic() - began_s < CAUGHT_UP_S, f"{goal - found} of {goal - first} events behind"
        time.sleep(0.1)
    took_s = time.monotonic() - began_s
    if goal - first > 3 * stage.load.events_s:
        times_live = (found - first) / took_s / stage.load.live_events_s()
        ours = share.now()
        figures = {"backlog": goal - first, "took_s": round(took_s, 1), "times_live": round(times_live, 1)}
        stage.seen["catching up"] = figures | {"share of the machine": round(ours, 2)}
        if goal - first >= BACKLOG_S_MIN * stage.load.events_s and times_live / ours < TIMES_LIVE_MIN:
            stage.slow.append(str(stage.seen))


def broker_away(stage: Stage) -> None:
    """Nobody listens at the broker's port: 503 with Retry-After, decisions go on, afterwards all goes on by itself."""
    _away(stage, Fault(refuses=True))


def broker_silent(stage: Stage) -> None:
    """Connections to the broker stand, but nothing passes."""
    _away(stage, Fault(holds=True))


def broker_answers_lost(stage: Stage) -> None:
    """Blocks arrive at the broker, its word does not: who hears 503 sends again what is already in the log."""
    _away(stage, Fault(loses_answers=True))


def _away(stage: Stage, fault: Fault) -> None:
    plant, load = stage.plant, stage.load
    with watched(stage):
        plant.kafka_line.set(fault)
        time.sleep(plant.settings.ack_timeout_ms / 1_000 + 1)  # what was under way has its answer by now
        taken, decided, refused = len(load.accepted), len(stage.shop.took_ms), load.answers[503]
        time.sleep(stage.for_s)
        assert len(load.accepted) == taken, "events were accepted while the broker was away"
        until(lambda: load.answers[503] > refused, "somebody hears 503, whenever Retry-After lets them ask again")
        _decisions_went_on(stage, decided)
        plant.kafka_line.heal()
        stage.seen["again_s"] = round(_first_stored_s(stage), 1)
    stage.seen["retry_after"] = sorted(load.retry_after)


def _first_stored_s(stage: Stage) -> float:
    """Return how long it took until events that were accepted from now on stood in the warehouse."""
    began_s = time.monotonic()
    goal = len(stage.load.accepted) + stage.load.events_s
    until(lambda: len(stage.load.accepted) >= goal, "the collector takes events again")
    stage.wait_for(goal)
    return time.monotonic() - began_s


def warehouse_away(stage: Stage) -> None:
    """Nobody listens at the warehouse's port: events are taken all the same, and nothing moves past what is stored."""
    with _standing(stage):
        stage.plant.warehouse_line.set(Fault(refuses=True))


def warehouse_silent(stage: Stage) -> None:
    """Connections to the warehouse stand, but nothing passes."""
    with _standing(stage):
        stage.plant.warehouse_line.set(Fault(holds=True))


def warehouse_refuses(stage: Stage) -> None:
    """The warehouse answers every statement with a refusal that passes by itself, each of these codes for a time."""
    codes = (164, 242, 243, 252, 241, 202)
    with Refuser(codes[0]) as refuser:
        whole = stage.plant.warehouse_line.target
        with _standing(stage, stage.for_s / len(codes), lambda turn: setattr(refuser, "code", codes[turn]), len(codes)):
            stage.plant.warehouse_line.send_to(refuser.port)
        stage.plant.warehouse_line.send_to(whole)
        assert refuser.refused > 0
        stage.seen["refused"] = refuser.refused


def disk_full(stage: Stage) -> None:
    """The warehouse's disk has no byte left, and none comes free while parts that were merged are thrown away."""
    ballast = stage.plant.warehouse.disk / "ballast"
    with _tables_with(stage.plant, old_parts_lifetime=86_400):  # put back once there is room: see tables.py
        try:
            with _standing(stage):
                fill(ballast)
        finally:
            ballast.unlink()


def fill(path: os.PathLike[str]) -> None:
    """Write until not one byte more goes in."""
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123 - unbuffered
        for size in (1_048_576, 4_096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def too_many_parts(stage: Stage) -> None:
    """Merges stand still and no table takes more parts: a real 252.

    Not that of events alone: a chunk in which there are none, only sessions, say, would rightly be stored.
    """
    stage.plant.ask("SYSTEM STOP MERGES")
    try:
        with _tables_with(stage.plant, parts_to_throw_insert=1, parts_to_delay_insert=1), _standing(stage):
            pass  # the setting is the fault
    finally:
        stage.plant.ask("SYSTEM START MERGES")


@contextmanager
def _tables_with(plant: Plant, **settings: int) -> Iterator[None]:
    """All tables but the auditor's own have these settings."""
    names = [table.name for table in TABLES if table is not SEALS]
    try:
        for name in names:
            plant.ask(f"ALTER TABLE {name} MODIFY SETTING {', '.join(f'{key} = {settings[key]}' for key in settings)}")
        yield
    finally:
        for name in names:
            plant.ask(f"ALTER TABLE {name} RESET SETTING {', '.join(settings)}")


@contextmanager
def _standing(
    stage: Stage, turn_s: float = 0, each: Callable[[int], None] = lambda turn: None, turns: int = 1
) -> Iterator[None]:
    """The body makes the fault, what follows ends it: between, events are accepted and decisions go on, and neither
    what is stored nor what is acknowledged moves.
    """
    plant = stage.plant
    yield
    until(lambda: _stands(plant), "inserts that were under way end")
    with watched(stage):
        before, taken, decided = _place(plant), len(stage.load.accepted), len(stage.shop.took_ms)
        lag = _lag(plant)
        for turn in range(turns):
            each(turn)
            time.sleep(turn_s or stage.for_s)
        assert _place(plant) == before, "the fault let rows through: it did not test"
        assert len(stage.load.accepted) > taken, "the collector took nothing while the warehouse was away"
        assert _lag(plant) > lag, "the lag did not grow"
        _decisions_went_on(stage, decided)
    plant.warehouse_line.heal()


def _stands(plant: Plant) -> bool:
    """Say whether nothing moved for longer than inserts, and then commits, are apart."""
    before = _place(plant)
    time.sleep(1.2 + plant.settings.insert_wait_max_ms / 1_000)
    return _place(plant) == before


def _place(plant: Plant) -> tuple[int, dict[str, int]]:
    """Return what is stored, and what aggregate has acknowledged of each partition."""
    client = kafka.admin(plant.direct)
    try:
        group = plant.settings.topic("aggregate")
        offsets = client.list_group_offsets(group)[group]
    finally:
        client.close()
    return stored(plant), {str(tp): int(place.offset) for tp, place in offsets.items()}


def _lag(plant: Plant) -> int:
    return sum(status.read(plant.direct, ask_parts=False).lag["aggregate"])


def warehouse_slow(stage: Stage) -> None:
    """64 kB a second to and from the warehouse."""
    _bad_line(stage, Fault(bytes_per_s=65_536))


def _bad_line(stage: Stage, fault: Fault) -> None:
    line = stage.plant.warehouse_line
    with watched(stage):
        line.set(fault)
        decided = len(stage.shop.took_ms)
        time.sleep(stage.for_s)
        _decisions_went_on(stage, decided)
        line.heal()


def cuts(stage: Stage) -> None:
    """All connections to both stores break, again and again."""
    with watched(stage):
        end_s = time.monotonic() + stage.for_s
        while time.monotonic() < end_s:
            stage.plant.kafka_line.cut()
            stage.plant.warehouse_line.cut()
            time.sleep(1)


def lossy(stage: Stage) -> None:
    """One piece in fifty ends its connection, and each piece is 5 ms late; to and from both stores."""
    with watched(stage):
        for line in (stage.plant.kafka_line, stage.plant.warehouse_line):
            line.set(Fault(delay_s=0.005, reset_share=0.02))
        time.sleep(stage.for_s)
        for line in (stage.plant.kafka_line, stage.plant.warehouse_line):
            stage.seen["resets"] = line.resets
            line.heal()


def stalled_writer(stage: Stage) -> None:
    """SIGSTOP of aggregate for longer than its session; another takes over; the first wakes up and changes nothing."""
    plant = stage.plant
    pid = plant.supervisor.pid("aggregate")
    assert pid is not None
    with watched(stage):
        os.kill(pid, signal.SIGSTOP)
        other = plant.more_workers("aggregate")
        goal = len(stage.load.accepted) + stage.load.events_s
        try:
            stage.seen["taken over_s"] = round(stage.wait_for(goal), 1)
        finally:
            os.kill(pid, signal.SIGCONT)
        time.sleep(min(stage.for_s, 30))
        stop_worker(other)


def storm(stage: Stage) -> None:
    """A worker of clean, sessionise or aggregate comes or goes every three seconds."""
    names = ("clean", "sessionise", "aggregate")
    running: dict[str, Worker] = {}
    with watched(stage):
        for turn in range(max(2, round(stage.for_s / 3))):
            name = names[turn % 3]
            if name in running:
                stop_worker(running.pop(name))
            else:
                running[name] = stage.plant.more_workers(name)
            time.sleep(3)
        for worker in running.values():
            stop_worker(worker)


def one_four_one(stage: Stage) -> None:
    """Three more workers of sessionise and of aggregate come, work and go; state moves with the partitions."""
    names = ("sessionise", "aggregate")
    with watched(stage):
        running = [stage.plant.more_workers(name) for _ in range(3) for name in names]
        time.sleep(stage.for_s)
        until(lambda: all(worker.has_state() for worker in running), "all of them have state", CAUGHT_UP_S)
        stage.wait_for(len(stage.load.accepted))
        for worker in running:
            stop_worker(worker)


def wrong_clocks(stage: Stage) -> None:
    """Two collectors whose clocks are ten minutes ahead and behind, and workers that disagree with both."""
    plant, off_ms = stage.plant, 600_000
    ports = free_ports(2)
    with watched(stage):
        parts = [
            plant.more(["collector"], off, collector_port=port)
            for off, port in zip((off_ms, -off_ms), ports, strict=True)
        ]
        parts += [plant.more(["worker", name], off) for name, off in (("clean", -off_ms), ("sessionise", off_ms))]
        for port in ports:
            until(lambda port=port: answers(port), "a collector with a wrong clock is ready")  # type: ignore[misc]
        with Load(ports[0], 50, lanes=1) as ahead, Load(ports[1], 50, lanes=1) as behind:
            stage.others += [ahead, behind]
            time.sleep(stage.for_s)
        stage.wait_for(len(stage.load.accepted))
        for part in parts:
            stop_worker(part)
    ((most, least),) = plant.ask("SELECT max(received_time - event_time), min(received_time - event_time) FROM events")
    stage.seen["received - stated_s"] = (str(most), str(least))


FULL_S: dict[Scenario, float] = {
    broker_away: 600,
    broker_silent: 120,
    broker_answers_lost: 120,
    warehouse_away: 1_800,
    warehouse_silent: 180,
    warehouse_refuses: 180,
    disk_full: 180,
    too_many_parts: 180,
    warehouse_slow: 180,
    cuts: 120,
    lossy: 120,
    stalled_writer: 30,
    storm: 60,
    one_four_one: 60,
    wrong_clocks: 60,
}
"""Every scenario with its full duration, s."""


def play(
    plant: Plant, scenarios: Sequence[tuple[Scenario, float]], events_s: int, loads: list[Load]
) -> dict[str, object]:
    """Play scenarios (each for so many seconds) under one load, each until the warehouse has caught up again.

    At the end all that was accepted since the plant's start is compared. loads: of earlier plays; this one's are added.
    Returns figures. Raises AssertionError.
    """
    with Load(plant.settings.collector_port, events_s) as load, Shop(plant.settings.delivery_port) as shop:
        stage = Stage(plant, load, shop, 0, stored_before=sum(len(one.accepted) for one in loads))
        loads.append(load)
        until(lambda: stage.stored() > events_s, "events flow", CAUGHT_UP_S)
        stage.usual = weights(plant)
        seen: dict[str, object] = {}
        for scenario, for_s in scenarios:
            stage.for_s, stage.seen = for_s, {}
            seen[scenario.__name__] = stage.seen
            try:
                scenario(stage)
            finally:
                plant.kafka_line.heal()
                plant.warehouse_line.heal()
            _caught_up(stage)
    loads += stage.others
    found = truth.check(plant, loads, CAUGHT_UP_S)
    assert stage.slow == [], f"caught up at less than {TIMES_LIVE_MIN} times live speed, though exactly: {stage.slow}"
    return seen | found | {"answers": dict(load.answers)}

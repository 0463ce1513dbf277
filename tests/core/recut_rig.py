"""Logs of some partitions as collectors and deliveries would have written them, and what the stages make of a log."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import msgspec

from pipeline.core.clean import CleanRules
from pipeline.core.clean_stage import Clean
from pipeline.core.decide import make_id
from pipeline.core.decide import partition_of as partition_of_decision
from pipeline.core.learn import Learn
from pipeline.core.outcome import OutcomeRules
from pipeline.core.profile import ProfileRules
from pipeline.core.profile_stage import Profiles, ProfilesRules
from pipeline.core.recut import Piece, Placed, Recut, RecutRules, Standing, merged
from pipeline.core.sessionise import Sessionise
from pipeline.core.sessions import SessionRules
from pipeline.core.state import StateView
from schemas.block import CollectedBlock, EventBlock, Origin, OutcomeBlock, RefusedBlock, SessionBlock, partition_of
from schemas.event import Collected, Context, Event, Protocol
from schemas.model import PlacementModel
from schemas.outcome import Choice, DecisionLog, Outcome
from schemas.profile import VisitorState
from schemas.session import Session
from schemas.topics import EVENTS, OUTCOMES

START_MS = 1_790_000_000_000
HOUR_MS = 3_600_000
GAP_MS, RETAIN_MS, TICK_MS = 20_000, 30_000, 1_000
LOGS = Sequence[Sequence[CollectedBlock]]

CLEAN = CleanRules(HOUR_MS, 48 * HOUR_MS, 10_000, HOUR_MS, 2 * HOUR_MS)
SESSIONS = SessionRules(GAP_MS, RETAIN_MS, sessions_max=1_000, settle_max=1_000)
PROFILES = ProfilesRules(
    ProfileRules(gap_ms=GAP_MS, interest_half_life_ms=60_000, interests_max=3),
    OutcomeRules(click_window_ms=40_000, conversion_window_ms=90_000, early_window_ms=20_000, open_decisions_max=1_000),
)


def rules(partitions: int, events_max: int = 50, bytes_max: int = 20_000) -> RecutRules:
    """Return rules with small blocks."""
    return RecutRules(partitions, 1, TICK_MS, events_max, bytes_max)


class Shop:
    """Visitors whose events come into a log of some partitions; rng makes every choice."""

    def __init__(self, rng: random.Random, partitions: int, late_ms: int) -> None:
        """late_ms: an event may be so much older than the block that it comes in."""
        self.rng, self.partitions, self.late_ms = rng, partitions, late_ms
        self.logs: list[list[CollectedBlock]] = [[] for _ in range(partitions)]
        self.now_ms = START_MS
        self._count = count()
        self._names = [f"visitor-{number}" for number in range(rng.choice((2, 5, 12)))]
        self._decisions: list[tuple[str, str]] = []
        self._sent: list[tuple[int, tuple[int, Collected]]] = []  # with the time it is still as late as it may be

    def live(self, turns: int) -> LOGS:
        """Let them be for so many turns, then nothing but ticks until all that is due has been done."""
        for _ in range(turns):
            jump_ms = self.rng.choice((1_000, GAP_MS, 200_000, HOUR_MS)) if self.rng.random() < 0.1 else 0
            self.now_ms += jump_ms or self.rng.choice((50, 300, 1_000))
            self._turn()
        self.now_ms += 3 * HOUR_MS
        for _ in range(4):
            self.now_ms += TICK_MS
            for partition in range(self.partitions):
                self._write(partition, [])
        return self.logs

    def _turn(self) -> None:
        """Some partitions have something, the others a tick where they have been quiet."""
        events: dict[int, list[Collected]] = {}
        for _ in range(self.rng.choice((0, 1, 1, 2, 6))):
            partition, event = self._event()
            events.setdefault(partition, []).append(event)
        for partition, log in enumerate(self.logs):
            if partition in events:
                self._write(partition, events[partition])
            elif not log or self.now_ms - log[-1].block_time_ms >= TICK_MS:
                self._write(partition, [])

    def _write(self, partition: int, events: list[Collected]) -> None:
        contexts = [
            Context(Protocol.SEGMENT, "batch", "shop", self.now_ms, self.now_ms, "192.0.2.0", ""),
            Context(Protocol.HERALD, "decisions", "shop", self.now_ms),
            Context(Protocol.PIXEL, "gif", "shop", self.now_ms),
        ]
        self.logs[partition].append(CollectedBlock(self.now_ms, "collector", contexts, events))

    def _event(self) -> tuple[int, Collected]:
        rng = self.rng
        repeats = [made for until_ms, made in self._sent if until_ms >= self.now_ms]
        if repeats and rng.random() < 0.08:
            return rng.choice(repeats)  # a client's repeat
        until_ms = self.now_ms
        visitor = rng.choice(self._names) if rng.random() < 0.9 else ""
        kind = rng.random()
        if kind < 0.6:
            late_ms = rng.randint(0, self.late_ms) if rng.random() < 0.3 else 0
            made, until_ms = self._page(visitor, late_ms), self.now_ms + self.late_ms - late_ms
        elif kind < 0.75 or not self._decisions:
            made = self._decision(visitor)
        elif kind < 0.95:
            made = self._news()
        else:
            event = Collected(0, f"m-bad{next(self._count)}", visitor, b'{"type": 7')
            made = partition_of(visitor or event.event_id, self.partitions), event
        self._sent = [*self._sent[-10:], (until_ms, made)]
        return made

    def _page(self, visitor: str, late_ms: int) -> tuple[int, Collected]:
        rng, number = self.rng, next(self._count)
        name = f"m{number}" if rng.random() < 0.6 else ""
        message = {
            "type": rng.choice(("page", "page", "track")),
            "event": "Product Viewed",
            "anonymousId": visitor,
            "timestamp": self.now_ms - late_ms,
            "properties": {
                "url": f"https://shop.example/{number % 3}",
                "category": rng.choice("xyz"),
                "utm_source": rng.choice(("", "", "mail", "ads")),
            },
        }
        key = visitor or name or f"{rng.getrandbits(64):x}"
        return partition_of(key, self.partitions), Collected(0, name, visitor, msgspec.json.encode(message))

    def _decision(self, visitor: str) -> tuple[int, Collected]:
        rng = self.rng
        name = make_id(self.now_ms, visitor, rng.getrandbits(48))
        chosen = rng.sample("abc", rng.choice((1, 2)))
        choices = [Choice(action, rank, 0.5, "camp") for rank, action in enumerate(chosen)]
        log = DecisionLog(name, "home", "greedy", "0:1", "s", choices, list("abc"), [0.5, 0.25, 0.25])
        self._decisions = [*self._decisions[-6:], (name, visitor)]
        return self._ours("decision", name, visitor, name, properties=msgspec.to_builtins(log))

    def _news(self) -> tuple[int, Collected]:
        rng = self.rng
        decision_id, visitor = rng.choice(self._decisions)
        kind = rng.choice(("impression", "click", "click", "conversion", "reward"))
        more: dict[str, object] = {"reward": rng.random()} if kind == "reward" else {}
        known = visitor if rng.random() < 0.5 else ""  # a signed link carries none
        return self._ours(kind, f"m{next(self._count)}", known, decision_id, **more)

    def _ours(self, kind: str, name: str, visitor: str, decision_id: str, **more: object) -> tuple[int, Collected]:
        raw = msgspec.json.encode(
            {"type": kind, "event_time_ms": self.now_ms, "decision_id": decision_id, "placement_id": "home", **more}
        )
        return partition_of_decision(decision_id, self.partitions), Collected(1, name, visitor, raw)


def placed(logs: LOGS, read: Sequence[int] = (), ends: Sequence[int] = ()) -> Iterator[Placed]:
    """Return the merged log, from these offsets on and up to those."""
    read, ends = read or [0] * len(logs), ends or [len(log) for log in logs]
    return merged([_from(partition, log, read[partition], ends[partition]) for partition, log in enumerate(logs)])


def _from(partition: int, log: Sequence[CollectedBlock], start: int, end: int) -> Iterator[Placed]:
    return (Placed(partition, offset, log[offset]) for offset in range(start, end))


@dataclass
class Written:
    """What the new partitions hold."""

    pieces: list[list[Piece]]

    @classmethod
    def nothing(cls, partitions: int) -> "Written":
        """Return so many empty partitions."""
        return cls([[] for _ in range(partitions)])

    def take(self, pieces: Sequence[Piece]) -> None:
        """Append."""
        for piece in pieces:
            self.pieces[piece.partition].append(piece)

    def standings(self, old: int) -> list[Standing]:
        """Return what can be read of them. old: how many partitions were read."""
        return [
            Standing(log[-1].read, max(piece.block.block_time_ms for piece in log)) if log else Standing((0,) * old)
            for log in self.pieces
        ]

    @property
    def logs(self) -> list[list[CollectedBlock]]:
        """The blocks."""
        return [[piece.block for piece in log] for log in self.pieces]


def recut(logs: LOGS, chosen: RecutRules) -> Written:
    """Cut a log anew, without a break."""
    written = Written.nothing(chosen.partitions)
    work = Recut(chosen, written.standings(len(logs)))
    for one in placed(logs):
        written.take(work.take(one))
    written.take(work.finish())
    return written


@dataclass
class World:
    """What the stages made of a log, told without partitions and offsets."""

    events: dict[str, list[Event]] = field(default_factory=dict)  # by visitor, in order; sorted where there is none
    refused: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    sessions: dict[tuple[str, int, str], Session] = field(default_factory=dict)
    states: dict[str, VisitorState] = field(default_factory=dict)
    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    models: Counter[tuple[str, str, str]] = field(default_factory=Counter)


def tell(logs: LOGS, prefix: str = "") -> World:
    """Fold every partition. prefix: put before the ids that the clean stage makes."""
    world = World()
    for partition, log in enumerate(logs):
        _tell(world, partition, log, prefix)
    world.events[""] = sorted(world.events.get("", []), key=repr)
    return world


def _tell(world: World, partition: int, log: Sequence[CollectedBlock], prefix: str) -> None:
    views = [StateView() for _ in range(4)]
    clean, sessionise = Clean(views[0], CLEAN), Sessionise(views[1], SESSIONS)
    profiles, learn = Profiles(views[2], PROFILES), Learn(views[3])
    for offset, block in enumerate(log):
        origin = Origin(partition, offset)
        outputs = {output.topic: output.block for output in clean.apply(origin, block).outputs}
        cleaned = outputs.pop(EVENTS)
        assert isinstance(cleaned, EventBlock)
        _rename(cleaned, f"{partition}-{offset}-", prefix)
        for event in cleaned.events:
            world.events.setdefault(event.visitor, []).append(event)
        for refused in outputs.values():
            assert isinstance(refused, RefusedBlock)
            world.refused.update((event.reason, event.raw) for event in refused.events)
        for output in sessionise.apply(origin, cleaned).outputs:
            _take_sessions(world, output.block)
        for output in profiles.apply(origin, cleaned).outputs:
            assert output.topic is OUTCOMES
            _take_outcomes(world, output.block)
            learn.apply(origin, output.block)
        for fold, view in zip((clean, sessionise, profiles, learn), views, strict=True):
            puts, deletes = fold.take_changes()
            view.entries.update(puts)
            for key in deletes:
                view.entries.pop(key, None)
    _take_totals(world, clean, views[2], views[3])


def _rename(block: EventBlock, made: str, prefix: str) -> None:
    for event in block.events:
        if event.event_id.startswith(made):
            event.event_id = prefix + event.event_id


def _take_sessions(world: World, block: object) -> None:
    assert isinstance(block, SessionBlock)
    for row in block.sessions:
        key = (row.visitor, row.session.start_ms, row.session.stray_id)
        if row.deleted:
            world.sessions.pop(key, None)
        else:
            world.sessions[key] = msgspec.structs.replace(row.session, touched_ms=0)


def _take_outcomes(world: World, block: object) -> None:
    assert isinstance(block, OutcomeBlock)
    for one in block.outcomes:
        key = (one.decision_id, one.action_id)
        world.outcomes[key] = msgspec.structs.replace(
            one, trials_delta=0, reward_delta_micros=0, is_new=False, is_paid=False
        )


def _take_totals(world: World, clean: Clean, visitors: StateView, models: StateView) -> None:
    totals = clean.totals
    world.totals.update(received=totals.received, clean=totals.clean, refused=totals.refused)
    world.totals.update(duplicate=totals.duplicate)
    world.states |= {key: msgspec.msgpack.decode(raw, type=VisitorState) for key, raw in visitors.entries.items()}
    for placement, raw in models.entries.items():
        for action, arm in msgspec.msgpack.decode(raw, type=PlacementModel).arms.items():
            world.models[placement, action, "trials"] += arm.trials
            world.models[placement, action, "reward"] += arm.reward_micros
            world.models[placement, action, "squares"] += arm.reward_squares_micros

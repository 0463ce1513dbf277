"""The spend stage on a real broker: killed again and again, its books are those of one straight run, and balance."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from pipeline import money, progress
from pipeline.core.decide import make_id
from pipeline.core.spend import Spend
from pipeline.core.state import StateView
from pipeline.edge import kafka
from pipeline.embedded.kafka import EmbeddedKafka
from schemas.block import CollectedBlock, OutcomeBlock
from schemas.event import Collected, Context, Protocol
from schemas.outcome import Choice, DecisionLog
from schemas.spend import Sum
from tests.agents.rig import BASE_MS, Stages, kill, until
from tests.core.spend_rig import check_books

BLOCKS, DECISIONS, PARTITIONS = 30, 20, 2
PRICE = 7
WINDOW_MS = 8_000  # eight blocks
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
BOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


@pytest.fixture
def stages(running: EmbeddedKafka, tmp_path: Path) -> Iterator[Stages]:
    prefix = f"t{uuid4().hex[:8]}-"
    found = Stages.on(running, tmp_path, prefix, partitions=PARTITIONS, reservation_impression_ms=WINDOW_MS)
    try:
        yield found
    finally:
        found.stop()


class Shop:
    """Blocks of one partition: decisions that cost something, and what comes of them: seen, by a bot, late or never."""

    def __init__(self, partition: int, rng: random.Random) -> None:
        self._partition, self._rng = partition, rng
        self._number = 0
        self._open: list[tuple[int, str, str]] = []  # block, visitor, decision
        self.made = 0

    def block(self, number: int) -> CollectedBlock:
        """Block `number`: a second after the one before it."""
        time_ms = BASE_MS + number * 1_000
        contexts = [
            Context(Protocol.HERALD, "decision", "demo", time_ms),
            Context(Protocol.HERALD, "impression", "demo", time_ms, 0, "192.0.2.0", BROWSER),
            Context(Protocol.HERALD, "impression", "demo", time_ms, 0, "192.0.2.0", BOT),
        ]
        events = [self._decision(number, time_ms) for _ in range(DECISIONS)]
        for made in list(self._open):
            if self._rng.random() < (0.3 if number - made[0] < 8 else 0.02):
                self._open.remove(made)
                events.append(self._seen(time_ms, made, context=2 if made[1].endswith("7") else 1))
        return CollectedBlock(time_ms, "test", contexts, events)

    def _decision(self, number: int, time_ms: int) -> Collected:
        self._number += 1
        self.made += 1
        visitor = f"v{self._partition}-{self._number}"
        name = make_id(time_ms, visitor, self._number)
        line = f"l{self._number % 3}"
        choice = Choice("a", 0, 0.5, "c1", "", b"", line, "impression", PRICE, f"g{number}", "2026-09-21")
        log = DecisionLog(name, "home", "greedy", "", "s", [choice], ["a"], [1.0])
        self._open.append((number, visitor, name))
        return self._event("decision", name, visitor, name, time_ms, properties=msgspec.to_builtins(log))

    def _seen(self, time_ms: int, made: tuple[int, str, str], context: int) -> Collected:
        _, visitor, name = made
        return self._event("impression", f"i{name}", visitor, name, time_ms, context, action_id="a")

    def _event(
        self, kind: str, event_id: str, visitor: str, decision_id: str, time_ms: int, context: int = 0, **more: object
    ) -> Collected:
        found = {"type": kind, "event_time_ms": time_ms, "decision_id": decision_id, "placement_id": "home", **more}
        if context:
            found["user_agent"] = BOT if context == 2 else BROWSER
        return Collected(context, event_id, visitor, msgspec.json.encode(found))


def states(stages: Stages) -> list[StateView]:
    reader = kafka.consumer(stages.settings)
    try:
        return list(progress.state_views(reader, stages.settings, "spend"))
    finally:
        reader.close()


def straight(stages: Stages) -> list[StateView]:
    """What one run over the outcomes makes of them."""
    blocks = stages.blocks("outcomes", OutcomeBlock)
    views = [StateView() for _ in range(PARTITIONS)]
    folds = [Spend(view, money.rules(stages.settings)) for view in views]
    for origin, block in sorted(blocks.items()):
        folds[origin.partition].apply(origin, block)
        folds[origin.partition].take_changes()
        views[origin.partition].fixed = folds[origin.partition].fixed()
        views[origin.partition].version = origin.offset
    return views


def test_the_books_are_those_of_a_straight_run_after_any_kills_and_no_bot_was_billed(stages: Stages) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    shops = [Shop(partition, rng) for partition in range(PARTITIONS)]
    workers = {stage: stages.start(stage, instance="0") for stage in ("clean", "profile", "spend")}
    for number in range(BLOCKS):
        for partition, shop in enumerate(shops):
            stages.feed(partition, shop.block(number))
        time.sleep(rng.uniform(0.02, 0.1))
        if number % 8 == 7:
            time.sleep(rng.uniform(0.5, 3.0))
            stage = rng.choice(["spend", "spend", "profile"])
            kill(workers[stage])
            for view in states(stages):
                check_books(view)  # whatever stands in the log balances, also right now
            workers[stage] = stages.start(stage, instance="0")
    until(lambda: [view.version for view in states(stages)] == [BLOCKS - 1] * PARTITIONS, "all is in the books")
    found, expected = states(stages), straight(stages)
    for one, other in zip(found, expected, strict=True):
        check_books(one)
        assert (dict(one.entries), one.fixed) == (dict(other.entries), other.fixed)
    rows = money.books_of(found)
    assert all(row.is_balanced for row in rows)
    made = sum(shop.made for shop in shops)
    assert sum(row.reserved.count for row in rows) == made == PARTITIONS * BLOCKS * DECISIONS
    _check_by_the_log(stages, rows)


def _check_by_the_log(stages: Stages, rows: list[money.LineMoney]) -> None:
    """Settled are those that a person saw within the time that they were reserved for; no bot's."""
    decided: dict[str, int] = {}
    settled: dict[str, int] = {}
    late = 0
    for _, block in sorted(stages.blocks("outcomes", OutcomeBlock).items()):
        for one in block.outcomes:
            decided.setdefault(one.decision_id, one.decided_ms)
            if one.is_paid:
                assert not one.is_bot
                if block.block_time_ms <= one.decided_ms + WINDOW_MS:
                    settled[one.decision_id] = one.price_micros
                else:
                    late += 1
    assert late > 0
    assert sum(row.settled.micros for row in rows) == sum(settled.values()) > 0
    assert sum(row.late.count for row in rows) == late
    bots = [one for block in stages.blocks("outcomes", OutcomeBlock).values() for one in block.outcomes if one.is_bot]
    assert bots
    assert not {one.decision_id for one in bots} & settled.keys()
    assert all(row.open.count > 0 and isinstance(row.open, Sum) for row in rows)

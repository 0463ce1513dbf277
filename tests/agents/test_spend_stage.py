"""The spend stage on a real broker: killed again and again, its books are those of one straight run, and balance."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline import money, progress
from pipeline.core.spend import Spend
from pipeline.core.state import StateView
from pipeline.edge import kafka
from pipeline.embedded.kafka import EmbeddedKafka
from schemas.block import OutcomeBlock
from schemas.spend import Sum
from tests.agents.rig import Stages, kill
from tests.agents.shop import DECISIONS, WINDOW_MS, Shop
from tests.core.spend_rig import check_books
from tests.waits import until

BLOCKS, PARTITIONS = 30, 2


@pytest.fixture
def stages(running: EmbeddedKafka, tmp_path: Path) -> Iterator[Stages]:
    prefix = f"t{uuid4().hex[:8]}-"
    found = Stages.on(running, tmp_path, prefix, partitions=PARTITIONS, reservation_impression_ms=WINDOW_MS)
    try:
        yield found
    finally:
        found.stop()


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

"""A short run of chaos, and that its judges can tell right from wrong."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.state import StateView
from tests.chaos import plan
from tests.chaos.chaos import ANSWERED_MIN, Chaos, Size
from tests.chaos.compare import compare_states
from tests.chaos.expected import Expected
from tests.chaos.plan import NONSENSE, PARTS, PURCHASE, SUPERVISOR, Input

START_MS = 1_790_000_000_000


@pytest.mark.journey
def test_a_few_random_kills_under_load_change_nothing(tmp_path: Path) -> None:
    """The full setting is `make chaos`; here are as many kills as fit into half a minute."""
    lines: list[str] = []
    outcome = Chaos(Size(seed=2, kills=6, events=6_000, per_s=1_000, is_paced=True), tmp_path, lines.append).run()
    assert outcome.killed.total() == 6, "a part was not killed: the test did not test"
    assert outcome.answered >= ANSWERED_MIN, "hardly a decision was made: the test did not test"
    assert [pair for pair in outcome.pairs if not pair.is_equal] == [], lines
    assert [check for check in outcome.checks if not check.holds] == [], lines
    assert outcome.is_exact, lines


def test_a_seed_gives_the_same_kills_and_the_same_input_again() -> None:
    """Else a failing seed could not be run again."""
    assert plan.kills(7, 50, 10_000) == plan.kills(7, 50, 10_000) != plan.kills(8, 50, 10_000)
    one, two = (Input.of(7, 500, 1_000, START_MS) for _ in range(2))
    assert one.body(range(500)) == two.body(range(500))
    assert list(one.pixels(range(500))) == list(two.pixels(range(500)))


def test_every_part_has_its_turn_and_the_supervisor_now_and_then() -> None:
    """Two hundred kills are about nineteen of each part."""
    found = Counter(kill.part for kill in plan.kills(1, 200, 5_000_000))
    assert all(18 <= found[part] <= 20 for part in PARTS)
    assert found[SUPERVISOR] == 9


def test_the_sessions_of_the_list_are_those_of_a_plain_loop() -> None:
    """The judge by arrays against one that anybody can read."""
    planned = Input.of(3, 2_000, 1_000, START_MS)
    by_visitor: dict[int, list[tuple[int, int, int]]] = {}
    for visitor, time_ms, kind, cents in zip(
        planned.visitor.tolist(), planned.time_ms.tolist(), planned.kind.tolist(), planned.cents.tolist(), strict=True
    ):
        if kind != NONSENSE:
            by_visitor.setdefault(visitor, []).append((time_ms, kind, cents * 10_000))
    expected = []
    for visitor, events in by_visitor.items():
        run: list[tuple[int, int, int]] = []
        for event in [*sorted(events), (2**62, 0, 0)]:
            if run and event[0] - run[-1][0] > 100:
                bought = [money for _, kind, money in run if kind == PURCHASE]
                pages = sum(kind == plan.PAGE for _, kind, _ in run)
                expected.append((visitor, run[0][0], run[-1][0], len(run), pages, len(bought), sum(bought)))
                run = []
            run.append(event)
    assert sorted(map(tuple, Expected(planned, 100).sessions().tolist())) == sorted(expected)


def test_one_lost_event_changes_sessions_profiles_and_minutes_of_the_list() -> None:
    """What the judges hold against the list must not be deaf to one event of thousands."""
    planned = Input.of(5, 3_000, 1_000, START_MS)
    lost = int(np.flatnonzero(planned.kind == PURCHASE)[0])
    kept = np.arange(len(planned)) != lost
    less = replace(
        planned,
        visitor=planned.visitor[kept],
        time_ms=planned.time_ms[kept],
        kind=planned.kind[kept],
        cents=planned.cents[kept],
    )
    whole, rest = Expected(planned, 100), Expected(less, 100)
    assert not np.array_equal(whole.sessions(), rest.sessions())
    assert not np.array_equal(whole.profiles(), rest.profiles())
    assert not np.array_equal(whole.minutes(), rest.minutes())


def test_a_state_that_differs_by_one_byte_is_told() -> None:
    """The comparison by hash names the entry."""
    states = {(stage, 0): _state(b"one") for stage in ("clean", "sessionise", "profile", "learn", "spend")}
    other = {**states, ("profile", 0): _state(b"onf")}
    assert all(pair.is_equal for pair in compare_states(states, {**states}))
    (differing,) = [pair for pair in compare_states(states, other) if not pair.is_equal]
    assert differing.name == "state of profile"
    assert "v1" in differing.differences[0]


def _state(raw: bytes) -> StateView:
    view = StateView()
    view.entries["v1"] = raw
    return view

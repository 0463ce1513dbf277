"""Stream time: the clock in the log."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.stream_time import NEVER, StreamTime

steps = st.lists(st.tuples(st.sampled_from(["event", "tick"]), st.integers(0, 10_000)))


def run(clock: StreamTime, moves: list[tuple[str, int]]) -> list[int]:
    seen = []
    for kind, time_ms in moves:
        before = clock.now_ms
        moved = clock.advance(time_ms) if kind == "event" else clock.enter(time_ms, is_tick=True)
        assert moved == (clock.now_ms != before)
        seen.append(clock.now_ms)
    return seen


def test_time_begins_with_the_first_event() -> None:
    clock = StreamTime()
    assert not clock.enter(1_000, is_tick=True)
    assert not clock.enter(5_000, is_tick=True)
    assert clock.now_ms == NEVER
    assert clock.advance(70)
    assert clock.now_ms == 70


def test_an_older_event_does_not_turn_time_back() -> None:
    clock = StreamTime(100)
    assert not clock.advance(99)
    assert not clock.advance(100)
    assert clock.now_ms == 100


def test_a_tick_adds_the_time_since_the_block_before() -> None:
    clock = StreamTime()
    clock.enter(1_000, is_tick=False)
    clock.advance(10)
    assert clock.enter(1_250, is_tick=True)
    assert clock.now_ms == 260


def test_a_block_with_events_adds_no_wall_clock() -> None:
    """Replayed events of last year pass at the speed of their own times, however long the replay takes."""
    clock = StreamTime(10, 1_000)
    assert not clock.enter(9_000, is_tick=False)
    assert clock.now_ms == 10
    clock.enter(9_001, is_tick=True)
    assert clock.now_ms == 11


def test_two_writers_whose_clocks_differ_do_not_make_time_run_faster() -> None:
    """A ticks at 1, 2, 3 s and B, 100 ms behind, between them: three seconds must not become more."""
    clock = StreamTime(0, 0)
    for second in range(1, 4):
        clock.enter(second * 1_000, is_tick=True)
        clock.enter(second * 1_000 - 100, is_tick=True)
    assert clock.now_ms == 3_000


@settings(deadline=None)
@given(steps)
def test_time_never_goes_back(moves: list[tuple[str, int]]) -> None:
    seen = run(StreamTime(), moves)
    assert seen == sorted(seen)


@settings(deadline=None)
@given(steps, st.integers(0, 20))
def test_a_restored_clock_goes_on_as_the_old_one(moves: list[tuple[str, int]], cut: int) -> None:
    clock = StreamTime()
    run(clock, moves[:cut])
    restored = StreamTime(clock.now_ms, clock.block_time_ms)
    assert run(restored, moves[cut:]) == run(clock, moves[cut:])

"""The log cut anew: nothing lost, nothing doubled, and every visitor's world is the same."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.decide import make_id
from pipeline.core.recut import Piece, Placed, Recut, Standing, begin, place
from pipeline.core.stream_time import NEVER
from pipeline.errors import StateError
from schemas.block import CollectedBlock, partition_of
from schemas.event import Collected, Context, Protocol
from tests.core.recut_rig import (
    GAP_MS,
    HOUR_MS,
    LOGS,
    RETAIN_MS,
    START_MS,
    TICK_MS,
    Shop,
    World,
    Written,
    placed,
    recut,
    rules,
    tell,
)

law = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**32)
counts = st.integers(1, 7)


def shop(seed: int, partitions: int, late_ms: int = GAP_MS, turns: int = 30) -> LOGS:
    return Shop(random.Random(seed), partitions, late_ms).live(turns)


def ids(logs: LOGS) -> Counter[tuple[str, bytes]]:
    return Counter((event.visitor, event.raw) for log in logs for block in log for event in block.events)


def without_late(world: World) -> dict[tuple[str, int, str], object]:
    return {key: msgspec.structs.replace(one, late_events=0) for key, one in world.sessions.items()}


@law
@given(seeds, counts, counts)
def test_every_visitors_world_is_the_same_under_another_cut(seed: int, old: int, new: int) -> None:
    """Up to the gap late: events, refusals, books, sessions, profiles, outcomes, models to the last bit."""
    logs = shop(seed, old)
    assert tell(recut(logs, rules(new)).logs) == tell(logs, prefix="g1-")


@law
@given(seeds, counts, counts)
def test_events_later_than_the_gap_change_nothing_but_the_count_of_late_ones(seed: int, old: int, new: int) -> None:
    """Up to the gap and the retention late, when stream time of other visitors says how late an event is."""
    logs = shop(seed, old, late_ms=GAP_MS + RETAIN_MS)
    before, after = tell(logs, prefix="g1-"), tell(recut(logs, rules(new)).logs)
    assert without_late(after) == without_late(before)
    assert (after.events, after.states, after.outcomes) == (before.events, before.states, before.outcomes)


@law
@given(seeds, counts, counts)
def test_whatever_the_lateness_events_and_profiles_are_the_same(seed: int, old: int, new: int) -> None:
    """A profile is a matter of its visitor's events in their order, and of nothing else."""
    logs = shop(seed, old, late_ms=10 * HOUR_MS)
    before, after = tell(logs, prefix="g1-"), tell(recut(logs, rules(new)).logs)
    assert (after.events, after.refused, after.totals) == (before.events, before.refused, before.totals)
    assert {key: one.profile for key, one in after.states.items()} == {
        key: one.profile for key, one in before.states.items()
    }


@law
@given(seeds, counts, counts, st.data())
def test_a_copy_killed_anywhere_and_taken_up_again_is_the_same_copy(
    seed: int, old: int, new: int, data: st.DataObject
) -> None:
    """Each partition is at another point when it happens: what of the last blocks landed is chance."""
    logs = shop(seed, old)
    whole = recut(logs, rules(new))
    written = Written.nothing(new)
    for log, kept in zip(whole.pieces, written.pieces, strict=True):
        kept += log[: data.draw(st.integers(0, len(log)))]
    standings = written.standings(old)
    work = Recut(rules(new), standings)
    for one in placed(logs, begin(standings)):
        written.take(work.take(one))
    written.take(work.finish())
    assert ids(written.logs) == ids(logs)
    assert tell(written.logs) == tell(whole.logs)


@law
@given(seeds, counts, counts, st.data())
def test_a_copy_in_several_runs_is_as_one_in_a_single_run(seed: int, old: int, new: int, data: st.DataObject) -> None:
    """While collectors still write: each run takes what is there by then, the last one the tail."""
    logs = shop(seed, old)
    written = Written.nothing(new)
    for share in [*sorted(data.draw(st.lists(st.floats(0, 1), max_size=3))), 1.0]:
        now_ms = logs[0][0].block_time_ms + share * (logs[0][-1].block_time_ms - logs[0][0].block_time_ms)
        ends = [sum(block.block_time_ms <= now_ms for block in log) for log in logs]
        standings = written.standings(old)
        work = Recut(rules(new), standings)
        for one in placed(logs, begin(standings), ends):
            written.take(work.take(one))
        written.take(work.finish())
        assert work.is_done
        assert ids(written.logs) == ids([log[:end] for log, end in zip(logs, ends, strict=True)])
    assert tell(written.logs) == tell(logs, prefix="g1-")


@law
@given(seeds, counts, counts)
def test_a_second_recut_gives_no_id_a_second_name(seed: int, old: int, new: int) -> None:
    """From generation to generation an event keeps the id that it once got.

    A block of the first recut holds a tick's time: by so much less than the gap an event may be late in the second.
    """
    logs = shop(seed, old, late_ms=GAP_MS - 2 * TICK_MS)
    once = recut(logs, rules(new)).logs
    assert tell(recut(once, rules(old)).logs) == tell(once)


@law
@given(seeds, counts, counts)
def test_a_new_partition_without_events_has_ticks_as_a_collector_writes_them(seed: int, old: int, new: int) -> None:
    """Stream time moves there too: never much more than a tick's time passes, but for pauses of the whole log."""
    logs = shop(seed, old)
    old_times = sorted({block.block_time_ms for log in logs for block in log})
    pause_ms = {late - early for early, late in pairwise(old_times) if late - early > 2_000}
    for log in recut(logs, rules(new)).logs:
        times = [block.block_time_ms for block in log]
        assert times == sorted(times)
        gaps = [late - early for early, late in pairwise(times)]
        assert [gap for gap in gaps if gap > 6 * TICK_MS and not any(gap >= one for one in pause_ms)] == []


@law
@given(seeds, counts, counts, st.integers(1, 30))
def test_blocks_are_no_larger_than_they_may_be(seed: int, old: int, new: int, events_max: int) -> None:
    """Only what one old block held for a partition stays together beyond that; and no block has two hours in it."""
    logs = shop(seed, old)
    largest = max(len(block.events) for log in logs for block in log)
    for log in recut(logs, rules(new, events_max)).logs:
        assert max((len(block.events) for block in log), default=0) <= max(events_max, largest)
        for block in log:
            received = {context.received_time_ms // HOUR_MS for context in block.contexts}
            assert len(received) <= 1
            assert all(event.context < len(block.contexts) for event in block.events)


def block(time_ms: int, *visitors: str) -> CollectedBlock:
    context = Context(Protocol.SEGMENT, "page", "shop", time_ms)
    return CollectedBlock(time_ms, "w", [context], [Collected(0, f"m-{one}-{time_ms}", one, b"{}") for one in visitors])


def given_to(pieces: Sequence[Piece]) -> list[tuple[int, list[str]]]:
    return [(piece.partition, [event.visitor for event in piece.block.events]) for piece in pieces]


def test_a_missing_block_stops_the_copy_loudly() -> None:
    """Nothing is copied over a hole: what the hole held would be lost silently."""
    work = Recut(rules(2), [Standing((0,)), Standing((0,))])
    work.take(Placed(0, 0, block(START_MS, "ann")))
    with pytest.raises(StateError, match=r"collected\[0\]: block 2, expected 1"):
        work.take(Placed(0, 2, block(START_MS, "ann")))


def test_what_was_read_before_is_not_written_again_to_the_partition_that_has_it() -> None:
    """One partition is two blocks ahead of the other: each gets what it lacks."""
    ann, ben = partition_of("ann", 2), partition_of("bob", 2)
    assert ann != ben
    standings = [Standing((2,), START_MS) if number == ann else Standing((0,)) for number in range(2)]
    work = Recut(rules(2), standings)
    for offset in range(3):
        work.take(Placed(0, offset, block(START_MS + offset, "ann", "bob")))
    assert sorted(given_to(work.finish())) == sorted([(ann, ["ann"]), (ben, ["bob", "bob", "bob"])])


def test_the_end_of_a_run_is_said_by_an_empty_block_by_which_no_time_passes() -> None:
    """So a later run knows that nothing is left, and stream time does not know of the run."""
    work = Recut(rules(2), [Standing((0,)), Standing((0,))])
    first = work.take(Placed(0, 0, block(START_MS, "ann")))
    quiet = 1 - partition_of("ann", 2)
    assert given_to(first) == [(quiet, [])]
    last = work.take(Placed(0, 1, block(START_MS + TICK_MS // 2, "ann"))) + work.finish()
    marks = [piece for piece in last if piece.partition == quiet]
    assert [(piece.block.block_time_ms, piece.read) for piece in marks] == [(START_MS, (2,))]
    assert work.is_done


def test_after_a_pause_of_the_whole_log_no_tick_comes_before_a_collector_would_have_sent_one() -> None:
    """Else eight hours of downtime would close the sessions of whoever is replayed from last year."""
    late_ms = START_MS + 8 * HOUR_MS
    ann, quiet = partition_of("ann", 2), 1 - partition_of("ann", 2)
    work = Recut(rules(2), [Standing((0,), NEVER), Standing((0,), NEVER)])
    work.take(Placed(0, 0, block(START_MS, "ann")))
    assert given_to(work.take(Placed(0, 1, block(late_ms, "ann")))) == [(ann, ["ann"])]
    assert (quiet, []) in given_to(work.take(Placed(0, 2, block(late_ms + TICK_MS, "ann"))))


def test_blocks_that_are_always_far_apart_are_no_pauses() -> None:
    """A log with a tick every five minutes moves stream time all the same."""
    work = Recut(rules(1), [Standing((0,), NEVER)])
    far_ms = 300_000
    pieces = [piece for at in range(9) for piece in work.take(Placed(0, at, block(START_MS + at * far_ms)))]
    assert len(pieces) >= 4


def test_delivery_s_events_go_by_their_decision_and_all_others_by_visitor_id_or_name() -> None:
    """As their writers place them; a decision's route is its visitor's."""
    ours = Context(Protocol.HERALD, "click", "shop", START_MS)
    theirs = Context(Protocol.PIXEL, "gif", "shop", START_MS)
    for partitions in (1, 2, 3, 5, 8):
        by_ann = partition_of("ann", partitions)
        raw = msgspec.json.encode({"type": "click", "decision_id": make_id(START_MS, "ann", 7)})
        assert place(Collected(0, "x", "", raw), ours, "name", partitions) == by_ann
        assert place(Collected(0, "x", "ann", raw), theirs, "name", partitions) == by_ann
        assert place(Collected(0, "x", "", raw), theirs, "name", partitions) == partition_of("x", partitions)
        assert place(Collected(0, "", "", raw), theirs, "name", partitions) == partition_of("name", partitions)
        assert place(Collected(0, "x", "ann", b"no json"), ours, "name", partitions) == by_ann


def test_two_visitors_with_one_event_id_are_duplicates_only_within_a_partition() -> None:
    """What the recut does not keep, since ids are remembered by partition: the second of two becomes an event again."""
    context = Context(Protocol.SEGMENT, "page", "shop", START_MS)
    raw = msgspec.json.encode({"type": "page", "timestamp": START_MS})
    log = [
        CollectedBlock(START_MS, "w", [context], [Collected(0, "same", "ann", raw), Collected(0, "same", "bob", raw)])
    ]
    assert tell([log]).totals["duplicate"] == 1
    assert tell(recut([log], rules(2)).logs).totals["duplicate"] == 0


def test_blocks_of_two_hours_stay_two_blocks() -> None:
    """The clean stage remembers ids by the hour of their block: an id must not move into another one."""
    border_ms = START_MS // HOUR_MS * HOUR_MS + HOUR_MS
    work = Recut(rules(1), [Standing((0,), NEVER)])
    early = [work.take(Placed(0, at, block(border_ms - 100 + 100 * at, "ann"))) for at in range(3)]
    times = [[piece.block.block_time_ms for piece in pieces] for pieces in [*early, work.finish()]]
    assert times == [[], [border_ms - 100], [], [border_ms + 100]]


def test_a_block_never_says_less_than_the_one_before_it() -> None:
    """A partition that is ahead gets a tick while the others catch up (a writer's clock was ahead): it stays ahead."""
    ann, bob = partition_of("ann", 2), partition_of("bob", 2)
    standings = [Standing((5,), START_MS) if number == ann else Standing((0,)) for number in range(2)]
    work = Recut(rules(2), standings)
    pieces = work.take(Placed(0, 0, block(START_MS + 10 * TICK_MS, "ann", "bob")))
    assert [(piece.partition, piece.read) for piece in pieces] == [(ann, (5,))]
    assert bob != ann

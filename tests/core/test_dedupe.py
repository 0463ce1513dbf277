"""Event ids seen before, against a plain set."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.dedupe import ENTRY_IDS_MAX, FAN_IN, HOUR_MS, SeenIds, hash_id

DAY_MS = 24 * HOUR_MS
Block = tuple[list[int], int]

hashes = st.integers(0, 40) | st.integers(0, 2**64 - 1)
blocks = st.lists(st.tuples(st.lists(hashes, max_size=12), st.integers(0, 3)), max_size=40)


def play(seen: SeenIds, block: list[int], offset: int, hour: int) -> list[bool]:
    """One block as the clean stage does it."""
    seen.forget(hour * HOUR_MS + 1)
    fresh = seen.new_ones(block) if block else []
    seen.add([found for found, new in zip(block, fresh, strict=True) if new], offset, hour * HOUR_MS + 1)
    return fresh


class Plain:
    """What should be: ids with the hour in which they came, forgotten when the window is past."""

    def __init__(self, window_hours: int) -> None:
        self.window_hours = window_hours
        self.hours: dict[int, int] = {}

    def play(self, block: list[int], hour: int) -> list[bool]:
        self.hours = {found: came for found, came in self.hours.items() if came >= hour - self.window_hours}
        fresh = []
        for found in block:
            fresh.append(found not in self.hours)
            self.hours.setdefault(found, hour)
        return fresh


@given(blocks, st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_it_knows_what_a_plain_set_knows_whatever_is_cut_and_restored(
    made: list[Block], window_hours: int, data: st.DataObject
) -> None:
    """A restored one also goes on exactly as the one before would have: same answers, same entries, same changes."""
    seen, plain, told = SeenIds({}, window_hours * HOUR_MS), Plain(window_hours), dict[str, bytes]()
    hour = 400_000
    for offset, (block, hours_later) in enumerate(made):
        hour += hours_later
        assert play(seen, block, offset, hour) == plain.play(block, hour)
        puts, deletes = seen.take_changes()
        for key in deletes:
            told.pop(key, None)
        told.update(puts)
        assert told == seen.packed
        assert len(seen) == len(plain.hours)
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(list(told)))
            heir = SeenIds({key: told[key] for key in order}, window_hours * HOUR_MS)
            assert heir._tiers == {tier: found for tier, found in seen._tiers.items() if found}
            seen = heir


@given(st.lists(st.lists(st.integers(0, 300), max_size=8), max_size=60))
@settings(max_examples=25, deadline=None)
def test_the_answers_do_not_depend_on_how_the_log_is_cut(made: list[list[int]]) -> None:
    one_by_one, at_once = SeenIds({}, DAY_MS), SeenIds({}, DAY_MS)
    ids = [found for block in made for found in block]
    apart = [play(one_by_one, [found], offset, 7)[0] for offset, found in enumerate(ids)]
    together = [new for offset, block in enumerate(made) for new in play(at_once, block, offset, 7)]
    assert apart == together
    assert apart == [found not in ids[:place] for place, found in enumerate(ids)]


def test_of_two_equal_ids_in_one_block_the_first_is_new() -> None:
    assert SeenIds({}, DAY_MS).new_ones([5, 7, 5, 5]) == [True, True, False, False]


def test_nothing_is_forgotten_inside_the_window() -> None:
    """An id of the very first ms of an hour is still known in the last ms of the window's last hour."""
    seen = SeenIds({}, DAY_MS)
    seen.add([1], 0, 100 * HOUR_MS)
    seen.add([2], 1, 124 * HOUR_MS)
    seen.add([], 2, 125 * HOUR_MS - 1)
    assert seen.new_ones([1, 2]) == [False, False]
    seen.add([], 3, 125 * HOUR_MS)
    assert seen.new_ones([1, 2]) == [True, False]


def test_a_window_of_part_of_an_hour_is_a_whole_hour() -> None:
    assert SeenIds({}, 1).window_hours == 1
    assert SeenIds({}, HOUR_MS + 1).window_hours == 2


def test_a_clock_that_steps_back_forgets_nothing() -> None:
    seen = SeenIds({}, DAY_MS)
    seen.add([1], 0, 100 * HOUR_MS)
    seen.add([2], 1, 90 * HOUR_MS)
    seen.add([3], 2, 101 * HOUR_MS)
    assert seen.new_ones([1, 2, 3]) == [False, False, False]


def test_an_id_costs_sixteen_bytes() -> None:
    """Eight in the entries, eight in the runs; a few hundred entries for a million ids."""
    seen = SeenIds({}, DAY_MS)
    ids = np.random.default_rng(1).integers(0, 2**64, 200_000, np.uint64)
    for offset, block in enumerate(np.array_split(ids, 400)):
        seen.add(block.tolist(), offset, (offset // 40) * HOUR_MS)
    assert len(seen) == 200_000
    at_rest = sum(len(raw) for raw in seen.packed.values())
    in_runs = sum(run.nbytes for runs in seen._runs.values() for run in runs)
    assert (at_rest, in_runs) == (1_600_000, 1_600_000)
    assert len(seen.packed) <= 400 / FAN_IN + 10 * FAN_IN


def test_no_entry_grows_beyond_what_a_record_can_hold() -> None:
    """Large blocks stay as they are: joined, they would not fit into a record; nor are they looked at again."""
    seen = SeenIds({}, DAY_MS)
    ids = iter(np.random.default_rng(2).permutation(400_000).tolist())
    for offset in range(3 * FAN_IN):
        seen.add([next(ids) for _ in range(6_000)], offset, 0)
    assert len(seen.packed) == 3 * FAN_IN
    assert max(len(raw) for raw in seen.packed.values()) <= 8 * ENTRY_IDS_MAX
    assert len(seen) == 3 * FAN_IN * 6_000


def test_few_runs_are_searched() -> None:
    seen = SeenIds({}, DAY_MS)
    for offset in range(1_000):
        seen.add([offset], offset, 0)
    assert sum(len(runs) for runs in seen._runs.values()) <= 11


def test_a_hash_is_the_same_in_every_process_and_takes_any_text() -> None:
    assert hash_id("demo\nm1") == 16_640_312_868_596_202_188
    assert hash_id("\ud800") != hash_id("\ud801")
    assert 0 <= hash_id("") < 2**64

"""What the audit compares: sums by slice, and the rows of one block."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.audit import HASH_MASK, SLICE_BLOCKS, Cell, Stored, Sum, differing, judge, sliced

hashes = st.integers(0, HASH_MASK)
blocks = st.dictionaries(st.integers(0, 5), st.integers(1, 9), max_size=5)


def rows_of(block: dict[int, int], part: str = "a") -> list[Stored]:
    """A block's rows as they should be."""
    return [Stored(name, found, part) for name, found in block.items()]


def test_a_block_as_it_should_be_has_no_faults() -> None:
    assert judge({1: 10, 2: 20}, rows_of({1: 10, 2: 20})).counts == {}


def test_a_row_that_is_not_there_is_missing() -> None:
    found = judge({1: 10, 2: 20}, rows_of({1: 10}))
    assert (found.counts, found.absent, found.wrong) == ({"missing": 1}, {20}, frozenset())


def test_a_row_with_another_content_is_altered() -> None:
    found = judge({1: 10}, rows_of({1: 11}))
    assert (found.counts, found.absent, found.wrong) == ({"altered": 1}, {10}, {11})


def test_a_wrong_row_beside_the_right_one_is_extra() -> None:
    found = judge({1: 10}, [*rows_of({1: 10}), *rows_of({1: 11}, "b")])
    assert (found.counts, found.absent, found.wrong) == ({"extra": 1}, {10}, {11})


def test_a_row_that_the_log_does_not_have_is_extra() -> None:
    found = judge({}, rows_of({7: 70}))
    assert (found.counts, found.wrong) == ({"extra": 1}, {70})


def test_all_copies_but_one_are_to_go() -> None:
    found = judge({1: 10}, [Stored(1, 10, part) for part in ("c", "a", "b")])
    assert (found.counts, found.copies) == ({"copied": 2}, ((10, "b"), (10, "c")))


def test_a_copy_in_the_same_part_is_named_but_cannot_be_told_apart() -> None:
    found = judge({1: 10}, [Stored(1, 10, "a"), Stored(1, 10, "a")])
    assert (found.counts, found.copies) == ({"copied": 1}, ())


@given(blocks, st.lists(st.builds(Stored, st.integers(0, 5), st.integers(1, 9), st.sampled_from("abc")), max_size=8))
def test_healing_what_was_judged_leaves_the_rows_of_the_log(expected: dict[int, int], stored: list[Stored]) -> None:
    """Insert what is absent, delete what is wrong and the copies named: what is there then is what the log has."""
    places = [row._replace(hash=row.hash + 10 * int(str(row.name))) for row in stored]
    right = {name: found + 10 * name for name, found in expected.items()}
    verdict = judge(right, places)
    gone = {(found, part) for found, part in verdict.copies}
    kept = [row.hash for row in places if row.hash not in verdict.wrong and (row.hash, row.part) not in gone]
    assert set(kept) | verdict.absent == set(right.values())
    assert not verdict.wrong & set(right.values()), "no right row is ever deleted"
    assert verdict.counts or Counter(kept) == Counter(right.values())


def test_slices_that_were_not_sealed_are_not_compared() -> None:
    stored = {Cell(0, 0, 20_000): Sum(5, 1), Cell(0, 1, 20_000): Sum(5, 1)}
    assert differing({Cell(0, 1, 20_000): Sum(5, 1)}, stored, 0) == []


def test_a_sealed_slice_without_rows_must_stay_without() -> None:
    sealed = {Cell(0, 3, 0): Sum()}
    assert differing(sealed, {}, 0) == []
    assert differing(sealed, {Cell(0, 3, 20_000): Sum(1, 9)}, 0) == [(0, 3)]


def test_days_that_may_have_expired_are_not_compared() -> None:
    sealed = {Cell(0, 0, 99): Sum(5, 1), Cell(0, 0, 100): Sum(7, 2)}
    assert differing(sealed, {Cell(0, 0, 100): Sum(7, 2)}, 100) == []
    assert differing(sealed, {Cell(0, 0, 100): Sum(7, 2)}, 99) == [(0, 0)]
    assert differing(sealed, {}, 100) == [(0, 0)]


@given(st.lists(st.tuples(st.integers(0, 9), hashes), max_size=9))
def test_a_sum_does_not_depend_on_order(parts: list[tuple[int, int]]) -> None:
    def added(rows: list[tuple[int, int]]) -> Sum:
        found = Sum()
        for row in rows:
            found = found.plus(Sum(*row))
        return found

    assert added(parts) == added(parts[::-1])
    assert 0 <= added(parts).hash <= HASH_MASK


@given(st.integers(0, 2_000), st.integers(0, 2_000))
def test_slices_hold_every_block_once(first: int, end: int) -> None:
    spans = list(sliced(1, first, end))
    assert [offset for span in spans for offset in range(span.first, span.end)] == list(range(first, end))
    assert all(span.first // SLICE_BLOCKS == (span.end - 1) // SLICE_BLOCKS for span in spans)

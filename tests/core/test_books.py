"""The books."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.books import PartitionBooks, balanced, total

counts = st.integers(0, 1_000)
rows = st.lists(st.builds(PartitionBooks, st.integers(0, 9), counts, counts, counts, counts, counts), max_size=6)


def test_books_balance_when_every_event_is_accounted_for() -> None:
    books = PartitionBooks(0, received=10, stored=5, refused=2, duplicate=1, in_flight=2)
    assert books.missing == 0
    assert balanced([books])


def test_a_lost_event_is_missing_and_a_doubled_one_is_less_than_none() -> None:
    assert PartitionBooks(0, 10, 9, 0, 0, 0).missing == 1
    assert PartitionBooks(0, 10, 11, 0, 0, 0).missing == -1


def test_missing_events_of_two_partitions_do_not_hide_each_other() -> None:
    lost, doubled = PartitionBooks(0, 10, 9, 0, 0, 0), PartitionBooks(1, 10, 11, 0, 0, 0)
    assert total([lost, doubled]).missing == 0
    assert not balanced([lost, doubled])


def test_without_partitions_there_is_nothing_to_account_for() -> None:
    assert total([]) == PartitionBooks(-1, 0, 0, 0, 0, 0)
    assert balanced([])


@given(rows)
def test_the_total_is_the_sum(books: list[PartitionBooks]) -> None:
    found = total(books)
    assert found.received == sum(row.received for row in books)
    assert found.in_flight == sum(row.in_flight for row in books)
    assert found.missing == sum(row.missing for row in books)

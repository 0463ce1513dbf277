"""The books."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.books import PartitionBooks, RefusedBooks, as_object, balanced, total, total_refused

counts = st.integers(0, 1_000)
partitions = st.integers(0, 9)
rows = st.lists(st.builds(PartitionBooks, partitions, *[counts] * 8), max_size=6)
refused_rows = st.lists(st.builds(RefusedBooks, partitions, *[counts] * 5), max_size=6)


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
    assert found.lost_blocks == sum(row.lost_blocks for row in books)


@given(refused_rows)
def test_the_total_of_refusals_is_the_sum(books: list[RefusedBooks]) -> None:
    assert total_refused(books).missing == sum(row.missing for row in books)
    assert total_refused(books).partition == -1


def test_what_expired_and_what_was_let_go_is_accounted_for() -> None:
    books = PartitionBooks(0, 10, 5, refused=0, duplicate=0, in_flight=0, expired=3, lost=2, lost_blocks=1)
    assert books.missing == 0
    assert books._replace(expired=0).missing == 3


def test_a_refusal_without_its_row_is_missing() -> None:
    assert RefusedBooks(0, refused=3, stored=1, in_flight=1).missing == 1
    assert not balanced([RefusedBooks(0, 3, 4, 0)])


def test_books_for_machines_have_names() -> None:
    assert as_object(PartitionBooks(2, 10, 5, 2, 1, 2)) == {
        "partition": 2, "received": 10, "stored": 5, "refused": 2, "duplicate": 1, "in_flight": 2, "expired": 0,
        "lost": 0, "lost_blocks": 0, "missing": 0,
    }  # fmt: skip

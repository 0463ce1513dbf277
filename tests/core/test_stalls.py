"""When a stage notices that a partition stands still."""

from faust.types import TP

from agents.watch import Place, Stalls

ONE, OTHER = TP("events", 0), TP("events", 1)


def test_a_partition_that_is_behind_and_does_not_move_is_found_though_others_move() -> None:
    stalls = Stalls(10)
    for second in range(11):
        assert stalls.look({ONE: Place(5, 9), OTHER: Place(second, 90)}, second) == []
    assert stalls.look({ONE: Place(5, 9), OTHER: Place(11, 90)}, 11) == [ONE]


def test_a_partition_of_which_nothing_was_ever_applied_is_found() -> None:
    """A consumer that never begins after a rebalance."""
    stalls = Stalls(10)
    assert stalls.look({ONE: Place(-1, 9)}, 0) == []
    assert stalls.look({ONE: Place(-1, 9)}, 11) == [ONE]


def test_neither_an_idle_partition_nor_one_that_moves_nor_one_that_is_gone_stalls() -> None:
    stalls = Stalls(10)
    assert stalls.look({ONE: Place(9, 9), OTHER: Place(0, 9)}, 0) == []
    assert stalls.look({ONE: Place(9, 9), OTHER: Place(1, 9)}, 100) == []
    assert stalls.look({}, 200) == []
    assert stalls.look({ONE: Place(9, 19), OTHER: Place(1, 9)}, 300) == []

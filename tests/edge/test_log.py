"""What goes into a part's log."""

import logging

import pytest

from pipeline.edge.log import EVERY_S, OnceInAWhile


def record(
    created_s: float, name: str = "aiokafka.conn", text: str = "no connection to %s", of: int = 1
) -> logging.LogRecord:
    found = logging.LogRecord(name, logging.ERROR, "", 0, text, (of,), None)
    found.created = created_s
    return found


def test_a_library_says_the_same_thing_once_in_a_while_and_how_often_it_would_have() -> None:
    """A broker that is away for an hour: some hundreds of lines, not a hundred thousand."""
    said = OnceInAWhile(("aiokafka",))
    passed = [one for at in range(1_000) if said.filter(one := record(at * EVERY_S / 100, of=at))]
    assert [one.created for one in passed] == [number * EVERY_S for number in range(10)]
    assert [vars(one).get("left_out", 0) for one in passed] == [0, *[99] * 9]


@pytest.mark.parametrize("other", [record(1, text="other"), record(1, "aiokafka.fetcher"), record(1, "pipeline.edge")])
def test_another_text_or_another_speaker_is_heard_at_once(other: logging.LogRecord) -> None:
    said = OnceInAWhile(("aiokafka",))
    assert said.filter(record(0.5))
    assert said.filter(other)


def test_what_we_say_ourselves_is_never_left_out() -> None:
    said = OnceInAWhile(("aiokafka",))
    assert all(said.filter(record(1, "pipeline.supervisor")) for _ in range(3))

"""The files of what was shown: what stands in them, when they go, and that none goes too early."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pipeline.core.caps import OwnShow
from pipeline.core.slots import SLOTS, slot_of
from pipeline.delivery.shows import Entry, Floor, Shows

ALL = range(SLOTS)
RED = OwnShow(1 << 20, "red", "all", "spring")


def test_files_go_once_the_profiles_have_all_and_who_comes_next_must_know_as_much(tmp_path: Path) -> None:
    one, other = Shows(tmp_path), Shows(tmp_path)
    show = OwnShow(1 << 20, "red", "all", "spring")
    assert one.keep(Entry("ann", "", [show]))
    assert one.keep(Entry("-key", "20000", [show]))
    assert [entry.key for entry in other.read(ALL)] == ["-key", "ann"]
    assert (one.home, one.is_dead(other.holder), one.is_dead("nobody")) == (other.home, False, True)
    holder = one.holder
    one.close()
    assert other.is_dead(holder)
    other.sweep("20000", lambda entry: False, lambda: Floor(1, (5,), 9))
    assert [entry.key for entry in other.read(ALL)] == ["-key", "ann"]
    other.sweep("20000", lambda entry: True, lambda: Floor(1, (5,), 9))
    assert ([entry.key for entry in other.read(ALL)], other.floor()) == (["-key"], Floor(1, (5,), 9))
    other.sweep("20001", lambda entry: True, lambda: Floor(1, (5,), 9))
    assert list(other.read(ALL)) == []
    assert sorted(path.suffix for path in (tmp_path / "caps").iterdir()) == [".lock"]
    other.close()


def test_what_a_dead_process_had_not_written_whole_was_never_answered(tmp_path: Path) -> None:
    one = Shows(tmp_path)
    for mark in (1, 2):
        one.keep(Entry("ann", "", [OwnShow(mark, "red", "all", "spring")]))
    (path,) = (tmp_path / "caps").glob("*.shows")
    path.write_bytes(path.read_bytes()[:-1])
    assert [entry.shows[0].mark for entry in one.read(ALL)] == [1]
    one.close()


@pytest.mark.parametrize("day", ["", "20000"])
def test_a_file_that_is_just_being_opened_is_not_swept_for_empty(tmp_path: Path, day: str) -> None:
    """The loop's thread opens a file while the other one sweeps, at every line of what it does: nothing is lost."""
    entry, lines, number = Entry("ann", day, [RED]), 1, 0
    while number < lines:
        shows = Shows(tmp_path / str(number))
        shows.keep(Entry("bob", "19999", [RED]))  # of a day that is over: its file is closed, and may go
        lines = keep_and_sweep(shows, entry, number)
        assert shows.keep(entry)
        assert [found.key for found in shows.read([slot_of("ann")])] == ["ann", "ann"], number
        shows.close()
        number += 1
    assert lines > 20


def keep_and_sweep(shows: Shows, entry: Entry, at_line: int) -> int:
    """Keep an entry, sweeping when so many lines of that have run; return how many there are."""
    lines = 0

    def watch(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if event == "line":
            if lines == at_line:
                shows.sweep(str(int(entry.day or "20000") + 1), lambda each: False, lambda: Floor(1, (5,), 9))
            lines += 1
        return watch

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: watch if Path(frame.f_code.co_filename).name == "shows.py" else None)
    try:
        assert shows.keep(entry)
    finally:
        sys.settrace(before)
    return lines


def test_what_is_in_a_file_of_yesterday_goes_a_day_later_where_nothing_came_since(tmp_path: Path) -> None:
    one = Shows(tmp_path)
    one.keep(Entry("ann", "20000", [RED]))
    for today, left in (("20000", 1), ("20001", 1), ("20002", 0)):
        one.sweep(today, lambda entry: False, lambda: Floor(1, (5,), 9))
        assert len(list(one.read(ALL))) == left
    one.close()


def test_what_a_killed_process_was_about_to_take_over_goes_and_its_lock_too(tmp_path: Path) -> None:
    """What it had not renamed yet still stands in the store, for it is deleted there last."""
    one, other = Shows(tmp_path), Shows(tmp_path)
    one.take_over([Entry("ann", "", [RED])], None)
    (path,) = (tmp_path / "caps").glob("*.shows")
    path.rename(path.with_suffix(".new"))
    other.sweep("20000", lambda entry: True, lambda: Floor(1, (5,), 9))
    assert path.with_suffix(".new").exists(), "its process lives"
    one.close()
    other.sweep("20000", lambda entry: True, lambda: Floor(1, (5,), 9))
    assert [found.name for found in (tmp_path / "caps").iterdir()] == [f"{other.holder}.lock"]
    other.close()


def test_only_files_that_hold_the_slots_asked_for_are_read(tmp_path: Path) -> None:
    """ann has slot 51, bob 0. A file of an older version, which says nothing of slots, may hold any."""
    one = Shows(tmp_path)
    for key in ("ann", "bob"):
        one.keep(Entry(key, "", [RED]))
        one.take_over([Entry(key, "20000", [RED])], None)
    for path in (tmp_path / "caps").glob("*-0.*"):
        path.unlink()
        path.mkdir()  # cannot be read
    assert [(found.key, found.day) for found in one.read([51])] == [("ann", "20000"), ("ann", "")]
    assert list(one.read([50])) == list(one.read([])) == []
    (old,) = (tmp_path / "caps").glob("*-id-6.*")
    old.rename(old.with_name(f"{one.holder}-id-17.shows"))
    assert [(found.key, found.day) for found in one.read([51])] == [("ann", "20000"), ("ann", "")]
    one.close()


def test_floors_of_one_generation_are_reached_together_and_of_two_the_newer_counts() -> None:
    assert Floor(1, (5, 2), 7).with_those_of(Floor(1, (3, 4), 8)) == Floor(1, (5, 4), 8)
    assert Floor(1, (9, 9), 9).with_those_of(Floor(2, (1, 1), 1)) == Floor(2, (1, 1), 1)

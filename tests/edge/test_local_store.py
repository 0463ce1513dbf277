"""Entries on disk: a dict to whoever uses them, never more in memory than was asked for, never silently wrong."""

import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.state import SLICES, StateView, StateWriter
from pipeline.edge.local_store import STEP_BYTES, LocalStore, stores
from pipeline.errors import StateError
from pipeline.settings import load

KEYS = [f"visitor {number}" for number in range(400)]
SMALL = 1  # byte of cache: as little as there can be

keys = st.sampled_from(KEYS)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("set"), keys, st.integers(0, 3_000)),
        st.tuples(st.just("update"), keys, st.integers(0, 3_000)),
        st.tuples(st.just("get"), keys, st.just(0)),
        st.tuples(st.just("pop"), keys, st.just(0)),
        st.tuples(st.just("length"), keys, st.just(0)),
    ),
    max_size=300,
)


def value(key: str, size: int) -> bytes:
    return random.Random(f"{key} {size}").randbytes(size)


def filled(folder: Path, count: int, size: int = 300, cache_bytes: int = SMALL) -> tuple[LocalStore, dict[str, bytes]]:
    """A store that many entries have gone through, and what it must know."""
    store, plain = LocalStore(folder, cache_bytes), {f"v{n}": value(f"v{n}", size) for n in range(count)}
    store.update(plain.items())
    return store, plain


@settings(max_examples=40, deadline=None)
@given(moves=moves)
def test_it_is_a_dict_to_whoever_uses_it(moves: list[tuple[str, str, int]]) -> None:
    store, plain = LocalStore(Path(tempfile.gettempdir()), SMALL), dict[str, bytes]()
    for what, key, size in moves:
        if what == "set":
            store[key] = plain[key] = value(key, size)
        elif what == "update":
            many = [(f"{key} {n}", value(key, size)) for n in range(20)]
            store.update(many)
            plain.update(many)
        elif what == "get":
            assert store.get(key) == store.peek(key) == plain.get(key)
        elif what == "pop":
            assert store.pop(key, None) == plain.pop(key, None)
        else:
            assert len(store) == len(plain)
    assert dict(store.items()) == plain
    assert len(store) == len(plain)
    assert all((key in store) == (key in plain) for key in KEYS)


def test_what_is_not_in_memory_is_as_it_was(tmp_path: Path) -> None:
    """Far more entries than the cache holds, changed and deleted over and over."""
    store, plain = filled(tmp_path, 5_000)
    rng = random.Random(1)
    for turn in range(20_000):
        key = f"v{rng.randrange(6_000)}"
        if turn % 7 == 0:
            assert store.pop(key, None) == plain.pop(key, None)
        else:
            store[key] = plain[key] = value(f"{key} {turn}", rng.randrange(600))
    assert dict(store.items()) == plain
    assert len(store) == len(plain)
    assert sum(len(hot) for hot in (store._young, store._old)) < 3 * STEP_BYTES // 200
    assert store.file_bytes < 4 * sum(map(len, plain.values()))


def test_a_sweep_by_slices_gives_all_that_stays_whatever_happens_meanwhile(tmp_path: Path) -> None:
    """Entries that come, change and go, and buckets that split, while the slices are given."""
    store, plain = filled(tmp_path, 3_000)
    rng = random.Random(2)
    stays, swept = {key for key in plain if rng.random() < 0.8}, dict[str, bytes]()
    for number in range(SLICES):
        for key, raw in store.slice(number):
            assert raw == plain[key], "as it is when it is given"
            swept[key] = raw
            other = rng.choice(list(plain)) if rng.random() < 0.3 else f"new {rng.random()}"
            if other in stays or rng.random() < 0.5:
                store[other] = plain[other] = value(other, rng.randrange(800))
            else:
                assert store.pop(other, None) == plain.pop(other, None)
    assert stays <= set(swept)


def test_the_log_of_a_store_on_disk_restores_what_that_of_a_dict_does(tmp_path: Path) -> None:
    """The same changes, swept from disk and from memory, read into disk and into memory."""
    rng = random.Random(3)
    views = [StateView(LocalStore(tmp_path, SMALL)), StateView()]
    for view in views:
        view.apply(StateWriter.fence("me"), 0)
    writers, logs = [StateWriter(view, "me") for view in views], [[StateWriter.fence("me")], [StateWriter.fence("me")]]
    for version in range(400):
        puts = [(f"v{rng.randrange(2_000)}", rng.randbytes(200)) for _ in range(20)]
        deletes = [key for key in [f"v{rng.randrange(2_000)}"] if key in views[1].entries and key not in dict(puts)]
        for view, writer, log in zip(views, writers, logs, strict=True):
            view.entries.update(puts)
            for key in deletes:
                view.entries.pop(key)
            records = writer.records(version, b"", (list(dict(puts).items()), deletes), 100_000)
            writer.written(len(log))
            log += records
    assert writers[0].begin > 100
    for log, writer in zip(logs, writers, strict=True):
        for entries in (LocalStore(tmp_path, SMALL), {}):
            read = StateView(entries)
            for offset in range(writer.begin, len(log)):
                read.apply(log[offset], offset)
            assert dict(read.entries.items()) == dict(views[0].entries.items()) == views[1].entries
            assert len(read.entries) == len(views[1].entries)


def flip(store: LocalStore, position: int) -> None:
    """Turn one bit of the file around, as a bad disk does."""
    number = store._file._number
    os.pwrite(number, bytes([os.pread(number, 1, position)[0] ^ 16]), position)


def reads(store: LocalStore, plain: dict[str, bytes]) -> Iterator[Callable[[], object]]:
    """Every way to read."""
    yield lambda: dict(store.items())
    yield lambda: [store.peek(key) for key in plain]
    yield lambda: [store.get(key) for key in plain]


def test_any_flipped_bit_is_found_and_nothing_is_ever_wrong(tmp_path: Path) -> None:
    """In a value, in a key, in the packing: all that is read is right, or the store says that it is not."""
    store, plain = filled(tmp_path, 2_000, 100)
    rng = random.Random(4)
    found = 0
    for _ in range(60):
        position = rng.randrange(store.file_bytes)
        flip(store, position)
        try:
            assert all(store.peek(key) == raw for key, raw in plain.items())
        except StateError:
            found += 1
        flip(store, position)
    assert found > 20, "the rest were free places"
    for read in reads(store, plain):
        read()
    for position in range(0, store.file_bytes, 512):
        flip(store, position)
    for read in reads(store, plain):
        with pytest.raises(StateError, match="local state file"):
            read()


def test_a_file_that_was_cut_off_is_found(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, 2_000)
    os.ftruncate(store._file._number, store.file_bytes // 2)
    with pytest.raises(StateError, match="is not what was written"):
        dict(store.items())


def test_the_file_has_no_name_and_goes_with_the_store(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, 2_000)
    assert store.file_bytes
    assert list(tmp_path.iterdir()) == []
    number = store._file._number
    os.fstat(number)
    del store
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_another_thread_may_peek_while_entries_change_and_buckets_split(tmp_path: Path) -> None:
    """It sees every key that is always there, and never a value that was not set."""
    store, plain = filled(tmp_path, 500, 400)
    stop, wrong = threading.Event(), list[str]()

    def peeks() -> None:
        rng = random.Random(5)
        while not stop.is_set():
            key = f"v{rng.randrange(500)}"
            raw = store.peek(key)
            if raw is None or raw[:4] != plain[key][:4]:
                wrong.append(key)

    thread = threading.Thread(target=peeks)
    thread.start()
    rng = random.Random(6)
    for number in range(30_000):
        key = f"v{rng.randrange(500)}" if number % 2 else f"new {number}"
        store[key] = plain[key][:4] + rng.randbytes(rng.randrange(800)) if number % 2 else rng.randbytes(300)
    stop.set()
    thread.join()
    assert wrong == []


def test_the_setting_chooses_and_the_partitions_share_the_cache(tmp_path: Path) -> None:
    assert stores(load(data_dir=tmp_path))() == {}
    store = stores(load(data_dir=tmp_path, state_store="disk", state_cache_mb=64, partitions=8))()
    assert isinstance(store, LocalStore)
    assert store._generation_bytes == 4 * 1_048_576

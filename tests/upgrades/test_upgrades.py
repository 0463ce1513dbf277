"""An upgrade loses nothing: old records stay readable, and a worker that is still old reads what a new one writes.

There is one format version so far. Within it, fields are only appended; a change that is more than that needs another
version byte, which no older worker takes for its own: it stops with a clear text and leaves the record where it is.
"""

import random
from collections.abc import Iterator

import msgspec
import pytest
from msgspec import Struct

from pipeline.core.state import StateView
from schemas import block as codec
from schemas.state import StateRecord
from schemas.topics import SESSIONISE_STATE
from tests.simulation import story
from tests.upgrades.frozen_v1 import block as codec_v1
from tests.upgrades.frozen_v1 import state as state_v1
from tests.upgrades.wire import (
    BLOCKS,
    ENTRIES,
    FIXED,
    RECORD,
    STATE_TOPICS,
    Kind,
    Line,
    agrees,
    as_later,
    frozen_log,
    plain,
)  # fmt: skip
from tests.upgrades.workers import Chain, told

topics = pytest.mark.parametrize("topic", sorted({line.topic for line in frozen_log()}))


def kinds_of(topic: str) -> tuple[Kind, Kind]:
    return RECORD if topic in STATE_TOPICS else BLOCKS[topic]


def of_topic(log: list[Line] | tuple[Line, ...], topic: str) -> list[Line]:
    found = [line for line in log if line.topic == topic]
    assert found, f"no record in {topic}"
    return found


def packed_inside(topic: str, record: Struct) -> Iterator[tuple[tuple[Kind, Kind], bytes]]:
    """What a state record carries packed: the fixed part and the entries."""
    assert isinstance(record, StateRecord | state_v1.StateRecord)
    if record.fixed:
        yield FIXED[topic], record.fixed
    if topic in ENTRIES:
        for _, raw in record.puts:
            yield ENTRIES[topic], raw


def test_every_topic_is_in_the_frozen_log() -> None:
    """Else some format would be held by nothing."""
    assert {line.topic for line in frozen_log()} == {*BLOCKS, *STATE_TOPICS}


@topics
def test_what_the_first_version_wrote_is_read_as_it_was_meant(topic: str) -> None:
    """Each record and what is packed inside it; every field that the old code knew has the value that it had there."""
    new_kind, old_kind = kinds_of(topic)
    for line in of_topic(frozen_log(), topic):
        codec.check(line.value, line.headers)
        new, old = codec.decode(line.value, new_kind), codec_v1.decode(line.value, old_kind)
        assert agrees(plain(old), plain(new))
        if topic in STATE_TOPICS:
            for (inside_new, inside_old), raw in packed_inside(topic, new):
                read, meant = (msgspec.msgpack.decode(raw, type=kind) for kind in (inside_new, inside_old))
                assert agrees(plain(meant), plain(read))


def test_a_state_that_the_first_version_left_is_taken_over_and_gone_on_from() -> None:
    """The upgraded worker restores it, and goes on to the same end as if it had done all blocks itself."""
    blocks = [codec.decode(line.value, codec.CollectedBlock) for line in of_topic(frozen_log(), "collected")]
    half = Chain.restored({topic: of_topic(frozen_log(), topic) for topic in STATE_TOPICS})
    whole = Chain.fresh()
    for offset, collected in enumerate(blocks):
        whole.take(offset, codec.encode(collected))
    visitors = story.Visitors(random.Random(1), 0)
    visitors.now_ms = max(block.block_time_ms for block in blocks)
    for offset in range(len(blocks), len(blocks) + 10):
        more = codec.encode(visitors.block())
        assert half.take(offset, more) == whole.take(offset, more)
    assert half.entries() == whole.entries()


@topics
def test_a_worker_of_the_first_version_reads_what_we_write(topic: str) -> None:
    """Forward compatibility, and with it going back: today's records, read by the frozen code."""
    new_kind, old_kind = kinds_of(topic)
    for line in of_topic(told(random.Random(26), blocks=40), topic):
        codec_v1.check(line.value, line.headers)
        new, old = codec.decode(line.value, new_kind), codec_v1.decode(line.value, old_kind)
        assert agrees(plain(old), plain(new))
        if topic in STATE_TOPICS:
            for (inside_new, inside_old), raw in packed_inside(topic, old):
                read, meant = (msgspec.msgpack.decode(raw, type=kind) for kind in (inside_old, inside_new))
                assert agrees(plain(read), plain(meant))


@topics
def test_a_field_that_a_later_version_appends_anywhere_is_read_past(topic: str) -> None:
    """By us and by the frozen code: in the record, in every struct inside it, and in what is packed inside a state."""
    new_kind, old_kind = kinds_of(topic)
    for line in of_topic(frozen_log(), topic):
        ours = codec.decode(line.value, new_kind)
        later = codec.encode(as_later(ours))
        assert len(later) > len(codec.encode(ours)), "nothing was appended: the test shows nothing"
        assert codec.decode(later, new_kind) == ours
        assert agrees(plain(codec_v1.decode(later, old_kind)), plain(ours))
        if topic in STATE_TOPICS:
            for (inside, _), raw in packed_inside(topic, ours):
                value = msgspec.msgpack.decode(raw, type=inside)
                assert msgspec.msgpack.decode(msgspec.msgpack.encode(as_later(value)), type=inside) == value


def test_old_and_later_workers_take_turns_on_one_partition() -> None:
    """Two versions in one group: each restores what the other left, and reads what the other wrote into every topic.

    The later one appends a field to every struct. What the two have made is what one worker alone would have.
    """
    rng = random.Random(7)
    visitors = story.Visitors(rng, 0)
    alone, shared = Chain.fresh(), Chain.fresh()
    for offset in range(40):
        if offset % 4 == 0:
            shared = shared.handed_over(is_later=offset % 8 == 4)
        value = codec.encode(visitors.block())
        made, expected = shared.take(offset, value), alone.take(offset, value)
        assert {topic: codec.decode(raw, BLOCKS[topic][0]) for topic, raw in made.items()} == {
            topic: codec.decode(raw, BLOCKS[topic][0]) for topic, raw in expected.items()
        }
    assert shared.values() == alone.values()
    assert shared.was_later
    assert shared.was_ours


def test_a_block_of_a_version_that_nobody_knows_yet_stops_the_reader() -> None:
    """It is never skipped and never read as something else."""
    line = of_topic(frozen_log(), "events")[0]
    unknown = bytes([2]) + line.value[1:]
    with pytest.raises(codec.CorruptBlock, match=r"format version 2, expected one of \[1\]"):
        codec.decode(unknown, codec.EventBlock)
    with pytest.raises(codec_v1.CorruptBlock, match=r"format version 2, expected one of \[1\]"):
        codec_v1.decode(unknown, codec_v1.EventBlock)


def test_a_frozen_state_is_whole_from_where_its_last_record_says() -> None:
    """`begin` and the sweep mean today what they meant then."""
    lines = of_topic(frozen_log(), SESSIONISE_STATE.name)
    records = [codec.decode(line.value, StateRecord) for line in lines]
    whole, late = StateView(), StateView()
    for offset, record in enumerate(records):
        whole.apply(record, offset)
    for offset, record in enumerate(records[whole.begin :], whole.begin):
        late.apply(record, offset)
    assert late.entries == whole.entries
    assert late.entries

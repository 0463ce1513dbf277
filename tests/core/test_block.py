"""The block codec: old blocks stay readable, altered ones are refused."""

from collections import Counter
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from schemas.block import (
    CollectedBlock,
    CorruptBlock,
    EventBlock,
    Origin,
    OutcomeBlock,
    RefusedBlock,
    SessionBlock,
    Totals,
    check,
    decode,
    encode,
    headers,
    origin_of,
    partition_of,
    rows_of,
)  # fmt: skip
from schemas.event import Collected, Context, Event, EventType, Protocol, Refused
from schemas.spend import Sale

TIME_MS = 1_700_000_000_000

# Format version 1 as it was first written. Never change these: they stand for what lies in people's logs.
FROZEN: list[tuple[str, Struct]] = [
    (
        "0194cf0000018bcfe56800a1779199a77365676d656e74a5747261636ba464656d6fcf0000018bcfe5680000a0a0a0c2919500a26d31a361"
        "6e6ec4077b2261223a317da0",
        CollectedBlock(
            TIME_MS,
            "w",
            [Context(Protocol.SEGMENT, "track", "demo", TIME_MS)],
            [Collected(0, "m1", "ann", b'{"a":1}')],
        ),
    ),
    (
        "0194cf0000018bcfe56800950301010181a86261645f6a736f6e01910291dc002fa26d31a87075726368617365cf0000018bcfe56800cf00"
        "00018bcfe56801a464656d6fa3616e6ea0a0a77365676d656e7400a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a000"
        "00ce00bebc2000a0a0cb3fe000000000000000a77b2261223a317d",
        EventBlock(
            TIME_MS,
            Totals(3, 1, 1, 1, {"bad_json": 1}),
            [2],
            [
                Event(
                    "m1", EventType.PURCHASE, TIME_MS, TIME_MS + 1, "demo", "ann", revenue_micros=12_500_000, score=0.5,
                    properties='{"a":1}',
                )
            ],
        ),
    ),
    (
        "0192cf0000018bcfe56800919a01a86261645f6a736f6eaa6576656e743a20e280a6a26d32a3616e6ecf0000018bcfe56800a464656d6fa7"
        "7365676d656e74a5747261636bc4017b",
        RefusedBlock(
            TIME_MS, [Refused(1, "bad_json", "event: …", "m2", "ann", TIME_MS, "demo", "segment", "track", b"{")]
        ),
    ),
]  # fmt: skip
kinds = pytest.mark.parametrize(("frozen", "block"), FROZEN, ids=[type(block).__name__ for _, block in FROZEN])


@kinds
def test_a_block_of_version_1_still_decodes(frozen: str, block: Struct) -> None:
    assert decode(bytes.fromhex(frozen), type(block)) == block


@kinds
def test_what_is_written_now_can_be_read_by_version_1(frozen: str, block: Struct) -> None:
    """Fields are only appended: the old fields stand where they stood."""
    old, new = (msgspec.msgpack.decode(value[1:]) for value in (bytes.fromhex(frozen), encode(block)))

    def begins_like(new: object, old: object) -> bool:
        if isinstance(new, list) and isinstance(old, list):
            return len(new) >= len(old) and all(begins_like(*pair) for pair in zip(new, old, strict=False))
        return new == old

    assert begins_like(new, old)


class EventOfTomorrow(Event, array_like=True):
    """An event with a field more."""

    mood: str = "calm"


class BlockOfTomorrow(Struct, array_like=True):
    """As EventBlock, with a field more."""

    block_time_ms: int
    totals: Totals
    rows: list[int]
    events: list[EventOfTomorrow]
    received: int = -1
    writer: str = "unknown"


def test_a_field_appended_tomorrow_has_its_default_in_blocks_of_today() -> None:
    block = decode(bytes.fromhex(FROZEN[1][0]), BlockOfTomorrow)
    assert (block.writer, block.events[0].mood, block.events[0].event_id) == ("unknown", "calm", "m1")


def test_a_block_of_tomorrow_can_be_read_today() -> None:
    """A rolling upgrade: what is appended is left unread."""
    tomorrow = decode(bytes.fromhex(FROZEN[1][0]), BlockOfTomorrow)
    assert decode(encode(tomorrow), EventBlock) == FROZEN[1][1]


@given(st.integers(0, 255).filter(lambda version: version != 1))
def test_an_unknown_version_is_refused_by_name(version: int) -> None:
    value = bytes([version]) + encode(FROZEN[0][1])[1:]
    with pytest.raises(CorruptBlock, match=rf"CollectedBlock: format version {version}, expected one of \[1\]"):
        decode(value, CollectedBlock)


def test_no_bytes_are_no_block() -> None:
    with pytest.raises(CorruptBlock, match="format version nothing"):
        decode(b"", EventBlock)


@kinds
@given(data=st.data())
def test_a_cut_block_is_refused(frozen: str, block: Struct, data: st.DataObject) -> None:
    value = encode(block)
    cut = value[: data.draw(st.integers(0, len(value) - 1))]
    with pytest.raises(CorruptBlock):
        decode(cut, type(block))
    with pytest.raises(CorruptBlock, match="altered"):
        check(cut, headers(value, 1))


@kinds
@given(data=st.data())
def test_a_flipped_bit_is_found_by_the_checksum_and_never_crashes_the_reader(
    frozen: str, block: Struct, data: st.DataObject
) -> None:
    value = bytearray(encode(block))
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    value[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptBlock, match="altered"):
        check(bytes(value), headers(encode(block), 1))
    with suppress(CorruptBlock):
        decode(bytes(value), type(block))


@st.composite
def altered(draw: st.DrawFn) -> tuple[bytes, type[Struct]]:
    """A block's bytes, up to three of them replaced by such as msgpack gives a meaning; and as what they are read."""
    kind, raw = draw(st.sampled_from(WHOLE))
    value = bytearray(raw)
    for _ in range(draw(st.integers(0, 3))):
        meant = st.sampled_from([0x00, 0x7F, 0x80, 0x90, 0x91, 0xA0, 0xC0, 0xC2, 0xC4, 0xCB, 0xCF, 0xD3, 0xDC, 0xFF])
        value[draw(st.integers(1, len(value) - 1))] = draw(meant | st.integers(0, 255))
    return bytes(value), draw(st.sampled_from([kind] * 4 + [other for other, _ in WHOLE]))


WHOLE: list[tuple[type[Struct], bytes]] = [
    *((type(block), encode(block)) for _, block in FROZEN),
    (SessionBlock, encode(SessionBlock(TIME_MS, []))),
    (OutcomeBlock, encode(OutcomeBlock(TIME_MS, [], [], [Sale("d1", "a", "s", TIME_MS)]))),
]


def test_bytes_that_are_no_block_are_refused() -> None:
    """And what is taken can be written and read again."""
    taken: Counter[bool] = Counter()

    @settings(max_examples=200)
    @given(altered())
    def is_either(found: tuple[bytes, type[Struct]]) -> None:
        value, kind = found
        taken[is_block(value, kind)] += 1

    is_either()
    assert min(taken[True], taken[False]) > 5, taken


def is_block(value: bytes, kind: type[Struct]) -> bool:
    try:
        block = decode(value, kind)
    except CorruptBlock:
        return False
    assert isinstance(block, kind)
    assert encode(decode(encode(block), kind)) == encode(block)
    return True


@given(st.integers(0, 2**15), st.integers(0, 2**62), st.integers(0, 10_000), st.binary(max_size=50))
def test_headers_say_what_was_written(partition: int, offset: int, rows: int, value: bytes) -> None:
    found = headers(value, rows, Origin(partition, offset))
    assert origin_of(found) == Origin(partition, offset)
    assert rows_of(found) == rows
    check(value, found)


@pytest.mark.parametrize("origin", [b"", b"1", b"1:", b":1", b"a:b", b"1:2:3", b"-1:2"])
def test_an_origin_that_is_none_is_refused(origin: bytes) -> None:
    with pytest.raises(CorruptBlock, match="expected partition:offset"):
        origin_of([("origin", origin)])


def test_a_block_without_origin_may_stand_in_collected_alone() -> None:
    with pytest.raises(CorruptBlock, match="no `origin` header"):
        origin_of(headers(b"x", 1))


@pytest.mark.parametrize("found", [[], [("rows", b"many")]])
def test_rows_that_are_not_said_are_refused(found: list[tuple[str, bytes]]) -> None:
    with pytest.raises(CorruptBlock, match="expected a number of events"):
        rows_of(found)


def test_a_visitor_stays_in_its_partition_for_good() -> None:
    assert [partition_of(key, 4) for key in ("ann", "bob", "", "ü", "\ud800")] == [3, 0, 0, 1, 0]


@given(st.text(), st.integers(1, 100))
def test_every_key_has_a_partition(key: str, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions

"""The block codec: old blocks stay readable, altered ones are refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from schemas.block import (
    CollectedBlock, CorruptBlock, EventBlock, Origin, OutcomeBlock, RefusedBlock, SessionBlock, Totals, check, decode,
    encode, headers, origin_of, partition_of, rows_of,
)  # fmt: skip
from schemas.event import Collected, Context, Event, EventType, Protocol, Refused
from schemas.session import SessionRow

# Format version 1 as it was first written; never change these: they stand for what lies in people's logs.
FROZEN_COLLECTED = bytes.fromhex(
    "0194cf0000018bcfe56800a177919ca77365676d656e74a562617463 68a464656d6f".replace(" ", "")
)


def context(**more: object) -> Context:
    return msgspec.structs.replace(Context(Protocol.SEGMENT, "track", "demo", 1_700_000_000_000), **more)

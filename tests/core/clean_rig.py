"""What the tests of the clean stage share: rules, contexts, one event at a time, whole blocks."""

import json
from typing import Any

from pipeline.core.clean import CleanRules, Drop, clean
from pipeline.core.clean_stage import Clean
from pipeline.core.stage import Applied
from pipeline.core.state import StateView
from schemas.block import CollectedBlock, EventBlock, Origin, RefusedBlock
from schemas.event import Collected, Context, DropReason, Event, Protocol

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RULES = CleanRules(
    future_max_ms=HOUR_MS, age_max_ms=400 * DAY_MS, skew_min_ms=10_000, skew_max_ms=DAY_MS, dedupe_window_ms=DAY_MS
)
BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
)


def context(protocol: Protocol = Protocol.SEGMENT, **more: Any) -> Context:
    found = {"kind": "batch", "site": "demo", "received_time_ms": NOW_MS, "user_agent": BROWSER, **more}
    return Context(protocol=protocol, **found)


def raw_of(message: object) -> bytes:
    return message if isinstance(message, bytes) else json.dumps(message).encode()


def outcome(message: object, protocol: Protocol = Protocol.SEGMENT, visitor: str = "ann", **more: Any) -> Event | Drop:
    """Clean one message: a JSON value, or bytes as they are."""
    return clean(Collected(0, "m1", visitor, raw_of(message)), context(protocol, **more), RULES)


def event(message: object, protocol: Protocol = Protocol.SEGMENT, visitor: str = "ann", **more: Any) -> Event:
    found = outcome(message, protocol, visitor, **more)
    assert isinstance(found, Event), found
    return found


def reason(message: object, protocol: Protocol = Protocol.SEGMENT, **more: Any) -> DropReason:
    found = outcome(message, protocol, **more)
    assert isinstance(found, Drop), found
    return found.reason


def properties(found: Event) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(found.properties or "{}")
    return read


def block(events: list[Collected], time_ms: int = NOW_MS, *contexts: Context) -> CollectedBlock:
    return CollectedBlock(time_ms, "test", list(contexts) or [context()], events)


def fold() -> Clean:
    return Clean(StateView(), RULES)


def parts(applied: Applied) -> tuple[EventBlock, RefusedBlock | None]:
    """The stage's answer: always one event block, and a refused block where something was refused."""
    blocks = [output.block for output in applied.outputs]
    assert isinstance(blocks[0], EventBlock)
    assert [output.rows for output in applied.outputs] == [len(found.events) for found in blocks]  # type: ignore[attr-defined]
    if len(blocks) == 1:
        return blocks[0], None
    assert isinstance(blocks[1], RefusedBlock)
    assert len(blocks) == 2
    return blocks[0], blocks[1]


def origin(offset: int) -> Origin:
    return Origin(0, offset)

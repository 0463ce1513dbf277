"""What the endpoints share: a request as the protocols see it, and what they make of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct, field

from pipeline.collector.identity import WriteKeys
from schemas.event import Context


class Item(Struct, gc=False, array_like=True):
    """One event as a protocol found it. refused: a DropReason, or "". raw is masked; cut where it was refused."""

    context: Context
    event_id: str
    visitor: str
    raw: bytes
    refused: str = ""


@dataclass(frozen=True)
class Rules:
    """Keys and bounds of every protocol. new_visitor: makes a fresh visitor id."""

    keys: WriteKeys
    mask_key: bytes
    batch_events_max: int
    event_bytes_max: int
    new_visitor: Callable[[], str]


class Request(Struct):
    """What a protocol needs of an HTTP request; body is unpacked and not yet masked.

    header: look-up by lower-case name, "" where absent. ip: cut. cookie: usable visitor id in our cookie, else "".
    notes: what a protocol found out from the headers alone; later requests with the same headers come with them.
    """

    kind: str
    query: str
    body: bytes
    header: Callable[[str], str]
    received_time_ms: int
    ip: str
    user_agent: str
    referrer: str
    cookie: str
    no_consent: bool
    notes: dict[str, Any] = field(default_factory=dict)


class Intake(Struct):
    """What a protocol made of a request. new_visitor: an id to set as cookie, else "".

    unknown: place -> event id of the items with no known key; nothing of them is stored.
    keys: write key -> how many of the items came under it, for the quota.
    """

    items: list[Item]
    new_visitor: str = ""
    unknown: dict[int, str] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)

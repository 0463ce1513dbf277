"""The canonical workload's data: a real shop's clickstream as Segment messages, as request bodies, and as blocks.

REES46's first hours of October 2019 (17,434 events of 4,504 visitors) are repeated with other visitors and other ids
until there are enough. Each repeat follows the one before in time, and the last event happens now.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.resources import as_file, files
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from pipeline.collector import segment
from pipeline.collector.gather import Gather, GatherRules
from pipeline.collector.identity import WriteKeys
from pipeline.collector.request import Intake, Request, Rules
from pipeline.edge.clock import now_ms
from pipeline.replay.formats import Recorded, read
from schemas.block import CollectedBlock, partition_of

KEY = "demo"
BATCH_EVENTS = 100
BLOCK_EVENTS = 500
PARTITIONS = 4

_HEADERS = {"x-write-key": KEY, "user-agent": "analytics-python/2.4.0"}
_RULES = Rules(WriteKeys({KEY: "demo"}), b"bench", 1_000, 32_768, lambda: "")


class Placed(NamedTuple):
    """A block of `collected` with its partition."""

    partition: int
    block: CollectedBlock


@cache
def recorded() -> list[Recorded]:
    """Return the recorded events, oldest first."""
    with as_file(files("pipeline") / "data" / "demo" / "rees46-2019-Oct-first-17434.csv.gz") as path:
        return sorted(read(path), key=lambda row: row.time_ms)


def messages(count: int) -> Iterator[dict[str, Any]]:
    """Yield so many Segment messages, each with its own id, oldest first."""
    rows = recorded()
    span_ms = rows[-1].time_ms - rows[0].time_ms
    rounds, rest = divmod(count - 1, len(rows))
    shift_ms = now_ms() - rounds * span_ms - rows[rest].time_ms
    for number in range(count):
        repeat, place = divmod(number, len(rows))
        row = rows[place]
        moment = datetime.fromtimestamp((row.time_ms + repeat * span_ms + shift_ms) / 1_000, UTC)
        yield row.message | {
            "messageId": f"{row.message['messageId']}-{repeat}",
            "anonymousId": f"{row.lane}-{repeat}",
            "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }


def newcomers(visitors: int, events: int = 2) -> Iterator[dict[str, Any]]:
    """Yield the real messages again, but so many events for each of so many visitors whom nobody has seen."""
    source = messages(visitors * events)
    for number, message in enumerate(source):
        yield message | {"anonymousId": f"newcomer-{number // events:08d}"}


def bodies(source: Iterable[dict[str, Any]]) -> list[bytes]:
    """Return request bodies of BATCH_EVENTS messages."""
    left, made = iter(source), []
    while batch := list(islice(left, BATCH_EVENTS)):
        made.append(msgspec.json.encode({"batch": batch}))
    return made


def request(body: bytes) -> Request:
    """Return a body as the collector's HTTP face hands it on."""
    return Request(
        kind="batch",
        query="",
        body=body,
        header=lambda name: _HEADERS.get(name, ""),
        received_time_ms=now_ms(),
        ip="198.51.100.0",
        user_agent=_HEADERS["user-agent"],
        referrer="",
        cookie="",
        no_consent=False,
    )


class Door:
    """The collector's pure part: a body in; blocks of so many events out."""

    def __init__(self, partitions: int = PARTITIONS, block_events: int = BLOCK_EVENTS) -> None:
        """Nothing is gathered yet."""
        rules = GatherRules(60_000, 2**40, block_events, 60_000)
        self._partitions = partitions
        self._gather: Gather[object] = Gather(partitions, rules)

    @staticmethod
    def read(body: bytes) -> Intake:
        """Decode, authorise and mask a body."""
        return segment.read(request(body), _RULES)

    def place(self, intake: Intake) -> None:
        """Put each event into its partition's open block."""
        for item in intake.items:
            partition = partition_of(item.visitor or item.event_id, self._partitions)
            self._gather.add(partition, item.context, item.event_id, item.visitor, item.raw, item.refused, 0)

    def leave(self) -> list[Placed]:
        """Return all blocks that were gathered."""
        found: list[Placed] = []
        while leaving := self._gather.take(0, at_once=True):
            for partition, block in leaving:
                found.append(Placed(partition, CollectedBlock(now_ms(), "bench", block.contexts, block.events)))
                self._gather.settle(partition, block)
        return found


def collected(
    source: Iterable[dict[str, Any]], partitions: int = PARTITIONS, block_events: int = BLOCK_EVENTS
) -> list[Placed]:
    """Return messages as the blocks that the collector would write."""
    door = Door(partitions, block_events)
    for body in bodies(source):
        door.place(door.read(body))
    return door.leave()

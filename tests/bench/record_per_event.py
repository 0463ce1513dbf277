"""c. The same job on Faust with one event a record, as its documentation shows it: an agent and Tables, memory store.

The job is small and the same in both shapes: parse, drop what was seen, read the URL, keep the visitor's session and
count. Both get our fast decoder and our cached URL reader, so that what differs is what Faust does for each record and
for each table entry. In blocks the tables are dicts, and each block's changes are one record, as in agents/runtime.py.

This file is also the program of the measured process: `python -m tests.bench.record_per_event SHAPE BROKER COUNT DIR`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import msgspec

from pipeline.core.clean import time_ms
from pipeline.core.url import read_url
from schemas.block import partition_of
from tests.bench import stages_per_event
from tests.bench.stand import Stand, broker, client
from tests.bench.workload import BLOCK_EVENTS, PARTITIONS, messages

GAP_MS = 1_800_000
WARM_SHARE = 10  # the first tenth is not measured: joining, first topics, first pages of memory
GIVE_UP_S = 240.0
REPORT = "measured: "

Seen = MutableMapping[str, int]
Visitors = MutableMapping[str, list[int]]


@dataclass(frozen=True)
class Shape:
    """One way of carrying events. visitors: how many were met, which must not depend on the way."""

    events: int
    events_per_s: float
    cpu_us: float
    visitors: int
    sessions: int


@dataclass(frozen=True)
class Compared:
    """Faust with an event a record and with a block a record, the same small job; and our three stages' own job."""

    record: Shape
    block: Shape
    stages: Shape

    @property
    def ratio(self) -> float:
        """How many times as much CPU an event costs when it is a record of its own."""
        return self.record.cpu_us / self.block.cpu_us


def run(events_alone: int, events_in_blocks: int) -> Compared:
    """Measure both shapes, each in a process of its own, one after the other."""
    with broker() as stand:
        _fill_alone(stand, events_alone)
        _fill_blocks(stand, events_in_blocks)
        record = _measure(stand, "record", events_alone)
        block = _measure(stand, "block", events_in_blocks)
        return Compared(record, block, _measure(stand, "stages", events_alone))


def _fill_alone(stand: Stand, events: int) -> None:
    for topic in ("bench-record", "bench-stage-events", "bench-stage-sessions"):
        _create(stand, topic)
    producer = client(stand.settings)
    for message in messages(events):
        visitor = message["anonymousId"]
        value = msgspec.json.encode(message)
        place = partition_of(visitor, PARTITIONS)
        producer.send("bench-record", key=visitor.encode(), value=value, partition=place)
    producer.flush()
    producer.close()


def _fill_blocks(stand: Stand, events: int) -> None:
    _create(stand, "bench-block")
    _create(stand, "bench-changes")
    producer = client(stand.settings)
    for partition, block in _blocks(events):
        producer.send("bench-block", value=msgspec.msgpack.encode(block), partition=partition)
    producer.flush()
    producer.close()


def _blocks(events: int) -> Iterator[tuple[int, list[bytes]]]:
    placed = [(partition_of(one["anonymousId"], PARTITIONS), msgspec.json.encode(one)) for one in messages(events)]
    for partition, found in groupby(sorted(placed, key=lambda one: one[0]), key=lambda one: one[0]):
        raws = [raw for _, raw in found]
        for start in range(0, len(raws), BLOCK_EVENTS):
            yield partition, raws[start : start + BLOCK_EVENTS]


def _create(stand: Stand, topic: str) -> None:
    from pipeline.edge.kafka import admin

    client = admin(stand.settings)
    client.create_topics({topic: {"num_partitions": PARTITIONS, "replication_factor": 1}})
    client.close()


def _measure(stand: Stand, shape: str, events: int) -> Shape:
    address = stand.settings.bootstrap_servers
    folder = stand.settings.data_dir / f"faust-{shape}"
    command = [sys.executable, "-m", "tests.bench.record_per_event", shape, address, str(events), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=GIVE_UP_S, check=False)
    _, found, said = ended.stdout.partition(REPORT)
    if not found:
        raise RuntimeError(f"{shape}: exit code {ended.returncode}\n{(ended.stdout + ended.stderr)[-3_000:]}")
    return Shape(**json.loads(said))


def take(raw: bytes, seen: Seen, visitors: Visitors) -> str:
    """Do the job for one event; return its visitor, "" where it was seen before.

    visitors: id -> [session's start, its end, its events, sessions, events, product pages].
    """
    message = msgspec.json.decode(raw)
    event_id, visitor = message["messageId"], message["anonymousId"]
    if event_id in seen:
        return ""
    seen[event_id] = 1
    moment = time_ms(message["timestamp"]) or 0
    page = read_url(message["properties"].get("url", ""))
    start, end, inside, sessions, events, products = visitors.get(visitor) or [moment, moment, 0, 1, 0, 0]
    if moment > end + GAP_MS:
        start, inside, sessions = moment, 0, sessions + 1
    is_product = int(page.path.startswith("/product/"))
    visitors[visitor] = [start, max(end, moment), inside + 1, sessions, events + 1, products + is_product]
    return str(visitor)


class Reading:
    """The measured process's own account: CPU and wall from the end of the warm-up to the last event."""

    def __init__(self, events: int) -> None:
        """events: how many come in all."""
        self._events, self._warm = events, events // WARM_SHARE
        self._began: tuple[int, float, float] | None = None
        self.taken = 0

    def add(self, events: int) -> bool:
        """Count events that are done; True with the last one."""
        self.taken += events
        if self._began is None and self.taken >= self._warm:
            self._began = (self.taken, time.monotonic(), time.process_time())
        return self.taken >= self._events

    def count_as(self, events: int) -> None:
        """Say how many events it was in truth, where each was counted at several places."""
        assert self._began is not None
        share = events / self.taken
        self._began = (round(self._began[0] * share), *self._began[1:])
        self.taken = events

    def report(self, visitors: int, sessions: int) -> str:
        """Return a Shape as JSON."""
        assert self._began is not None
        first, wall_s, spent_s = self._began
        measured = self.taken - first
        rate, us = measured / (time.monotonic() - wall_s), (time.process_time() - spent_s) / measured * 1e6
        return json.dumps(
            {"events": self.taken, "events_per_s": rate, "cpu_us": us, "visitors": visitors, "sessions": sessions}
        )


def _app(name: str, address: str, folder: Path) -> Any:
    import faust

    return faust.App(
        f"bench-{name}",
        broker=f"kafka://{address}",
        store="memory://",
        datadir=str(folder),
        topic_partitions=PARTITIONS,
        topic_replication_factor=1,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4_194_304,
        web_enabled=False,
        worker_redirect_stdouts=False,
        loghandlers=[],
    )


def _finish(reading: Reading, visitors: Visitors) -> None:
    """Report and end at once: what Faust would still tidy up is not of the measurement."""
    print(REPORT + reading.report(len(visitors), sum(one[3] for one in visitors.values())), flush=True)
    os._exit(0)


def _record_app(address: str, events: int, folder: Path) -> Any:
    """One event a record, state in Tables: each change of a table is a record of its changelog."""
    app = _app("record", address, folder)
    topic = app.topic("bench-record", key_type=bytes, value_type=bytes, value_serializer="raw")
    seen = app.Table("bench-seen", default=int)
    visitors = app.Table("bench-visitors")
    reading = Reading(events)

    async def receive(stream: Any) -> None:
        async for raw in stream:
            take(raw, seen, visitors)
            if reading.add(1):
                _finish(reading, dict(visitors.items()))

    app.agent(topic)(receive)
    return app


def _block_app(address: str, events: int, folder: Path) -> Any:
    """A block a record, state in dicts: the changes of a block are one record, confirmed before the block is done."""
    app = _app("block", address, folder)
    topic = app.topic("bench-block", value_type=bytes, value_serializer="raw")
    changes = app.topic("bench-changes", value_type=bytes, value_serializer="raw")
    seen: list[dict[str, int]] = [{} for _ in range(PARTITIONS)]
    visitors: list[dict[str, list[int]]] = [{} for _ in range(PARTITIONS)]
    reading = Reading(events)

    async def receive(stream: Any) -> None:
        async for event in stream.events():
            partition = event.message.partition
            raws = msgspec.msgpack.decode(event.value, type=list[bytes])
            held, known = visitors[partition], seen[partition]
            before = len(known)
            changed = [name for raw in raws if (name := take(raw, known, held))]
            ids = list(islice(reversed(known), len(known) - before))  # the log gets all that the Tables' changelogs get
            value = msgspec.msgpack.encode([ids, {name: held[name] for name in changed}])
            await (await changes.send(value=value, partition=partition))
            if reading.add(len(raws)):
                _finish(reading, {name: one for part in visitors for name, one in part.items()})

    app.agent(topic)(receive)
    return app


def _stages_app(address: str, events: int, folder: Path) -> Any:
    """The job of clean, sessionise and profile, one event a record."""
    from pipeline.core.sessions import Session
    from pipeline.edge.clock import now_ms
    from schemas.session import VisitorSessions

    app = _app("stages", address, folder)
    reading = Reading(2 * events)  # an event is done when both sessionise and profile have seen it

    def done() -> None:
        if reading.add(1):
            held: list[list[Session]] = [
                msgspec.msgpack.decode(raw, type=VisitorSessions).sessions for _, raw in table.items()
            ]
            reading.count_as(events)
            print(REPORT + reading.report(len(held), sum(len(one) for one in held)), flush=True)
            os._exit(0)

    source = app.topic("bench-record", key_type=bytes, value_type=bytes, value_serializer="raw")
    table = stages_per_event.wire(app, source, now_ms(), done)
    return app


APPS = {"record": _record_app, "block": _block_app, "stages": _stages_app}


def main(shape: str, address: str, events: int, folder: Path) -> None:
    """Run the measured process."""
    from agents.app import run_worker
    from pipeline.settings import load

    folder.mkdir(parents=True, exist_ok=True)
    app = APPS[shape](address, events, folder)
    sys.exit(run_worker(app, load(log_level="WARNING")))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))

"""What the tests of delivery share: the real service in a process of its own, and a writer of its state topics."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kafka
import msgspec
from msgspec import Struct

from pipeline.core.state import StateView, StateWriter
from pipeline.edge import kafka as edge
from pipeline.edge.clock import now_ms
from pipeline.settings import Settings
from schemas import block as codec
from schemas.block import CollectedBlock
from schemas.event import Collected, Context
from schemas.topics import COLLECTED, Topic
from tests.services.process_rig import ServiceProcess
from tests.waits import free_port


class Service(ServiceProcess):
    """The delivery service in a process of its own."""

    module, port = "pipeline.delivery.service", "delivery_port"


@contextmanager
def without_stores(data_dir: Path, **settings: Any) -> Iterator[Service]:
    """Run delivery with no broker and no warehouse to be had."""
    away = {"kafka_bootstrap_servers": f"127.0.0.1:{free_port()}", "clickhouse_port": free_port()}
    chosen = Settings(data_dir=data_dir, delivery_port=free_port(), **away, **settings)
    service = Service(chosen, data_dir / "log")
    try:
        service.wait_for("/healthz")
        yield service
    finally:
        service.kill()


class StateTopic:
    """The owner of one partition of a state topic, as a stage is: fences it, then writes records of changes."""

    def __init__(self, settings: Settings, topic: Topic, partition: int, owner: str = "test") -> None:
        self.topic, self.partition = settings.topic(topic.name), partition
        self.producer = edge.producer(settings, max_block_ms=10_000)
        self.view = StateView()
        fence = StateWriter.fence(owner)
        self.view.apply(fence, self._send(fence))
        self.writer = StateWriter(self.view, owner)

    def put(self, version: int, entries: Mapping[str, Struct], block_time_ms: int | None = None) -> int:
        """Write the entries as changed by block `version`; returns the record's offset."""
        puts = [(key, msgspec.msgpack.encode(value)) for key, value in entries.items()]
        written_ms = now_ms() if block_time_ms is None else block_time_ms
        offset = -1
        for record in self.writer.records(version, b"", (puts, []), 1_000_000, written_ms):
            offset = self._send(record)
            self.view.apply(record, offset)
        self.writer.written(offset)
        return offset

    def close(self) -> None:
        self.producer.close()

    def _send(self, record: Struct) -> int:
        value = codec.encode(record)
        sent = self.producer.send(self.topic, value=value, partition=self.partition, headers=codec.headers(value, 0))
        return int(sent.get(timeout=10).offset)


def read_collected(settings: Settings, partitions: int) -> list[tuple[int, Context, Collected]]:
    """Return all events in `collected`: (partition, context, event)."""
    consumer = edge.consumer(settings)
    try:
        places = [kafka.TopicPartition(settings.topic(COLLECTED.name), at) for at in range(partitions)]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.seek_to_beginning()
        found = []
        while any(consumer.position(place) < ends[place] for place in places):
            for place, records in consumer.poll(timeout_ms=100).items():
                for record in records:
                    block = codec.decode(record.value, CollectedBlock)
                    found += [(place.partition, block.contexts[event.context], event) for event in block.events]
        return found
    finally:
        consumer.close()

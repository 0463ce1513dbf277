"""The warehouse is killed inside an insert: ours, and the control that trusts tokens and loses rows."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline import tables
from pipeline.edge.clickhouse import Unavailable, Warehouse
from pipeline.embedded.warehouse import EmbeddedWarehouse, WarehouseConfig
from pipeline.settings import load
from pipeline.warehouse_writer import WarehouseWriter
from schemas.block import EventBlock
from schemas.tables import TABLES
from tests.crashpoints.blocks import EVENTS, chunk
from tests.crashpoints.life import Life
from tests.waits import free_ports

KEPT_DAYS = 20_000
FREE = {"rollup_minute": "o", "blocks": "applied_time"}
"""What may differ: a rollup's version (of which chunk it was written in), the time of applying."""


class Gateway:
    """The embedded warehouse in a process of its own, always on the same port; `back` starts it again."""

    def __init__(self, folder: Path) -> None:
        self.process = EmbeddedWarehouse(WarehouseConfig(folder, free_ports(1)[0]))
        self.client = Warehouse.from_url(self.process.config.url())
        self._start()

    def _start(self) -> None:
        self.process.kill()  # it is dead: this only takes note of it
        self.process.start()
        assert self.process.pid is not None, self.process.last_words()
        self.life = Life(self.process.pid)
        self.process.wait_ready()

    def back(self) -> None:
        """Start it where it does not run."""
        if self.life.is_over:
            self._start()

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        try:
            return self.client.execute(sql)
        except Unavailable:  # the connection of before its death
            return self.client.execute(sql)

    def close(self) -> None:
        self.client.close()
        self.process.stop()


class WriterDied(BaseException):
    """The writer's process is gone, too."""


class Insert:
    """One chunk into all seven tables. After every second kill the writer goes on; after the others it dies as well.

    The reference is a warehouse that nobody kills, fed with the same chunks, and the chunks themselves.
    """

    name = "warehouse: insert"
    calls = 320

    def __init__(self, folder: Path) -> None:
        self.gateway, self.clean = Gateway(folder / "killed"), Gateway(folder / "clean")
        for one in (self.gateway, self.clean):
            tables.apply(one.client, KEPT_DAYS)
        self.number = -1
        self.writer: WarehouseWriter | None = self._writer()
        self.clean_writer = WarehouseWriter(self.clean.client, load())
        self.kills_writer = False

    def _writer(self) -> WarehouseWriter:
        made = WarehouseWriter(self.gateway.client, load(), self._pause)
        for topic in ("events", "bad", "sessions", "outcomes"):
            for partition in range(2):
                made.assigned(topic, partition)
        return made

    def _pause(self, delay_s: float) -> None:
        """What the writer does before it tries again: meanwhile the supervisor starts a warehouse."""
        if not self.gateway.life.is_over:
            time.sleep(delay_s)
        elif self.kills_writer:
            raise WriterDied
        else:
            self.gateway.back()

    def warm(self) -> int:
        self.number += 1
        self.kills_writer = self.number % 2 == 1
        self.gateway.back()
        return self.gateway.life.pid

    def work(self) -> None:
        assert self.writer is not None
        try:
            self.writer.write(chunk(self.number))
        except WriterDied:
            self.writer = None

    def wrong(self) -> list[str]:
        self.gateway.back()
        self.kills_writer = False
        if self.writer is None:
            self.writer = self._writer()
        self.writer.write(chunk(self.number))  # its acknowledgement may be lost as well: the log brings it again
        self.clean_writer.write(chunk(self.number))
        return [*self._differences(), *self._not_as_in_the_blocks()]

    def _differences(self) -> Iterator[str]:
        for table in TABLES:
            names = ", ".join(name for name in table.column_names if name != FREE.get(table.name))
            sql = f"SELECT count(), sum(cityHash64({names})) FROM {table.name} FINAL"  # noqa: S608 - our names
            found, expected = self.gateway.ask(sql), self.clean.ask(sql)
            if found != expected:
                yield f"{table.name}: {found[0]} rows and hash, expected {expected[0]}"

    def _not_as_in_the_blocks(self) -> Iterator[str]:
        """Without the writer's word, and without FINAL: copies of a row may wait for a merge, but all are the same."""
        blocks = [(one.origin.partition, one.block) for one in chunk(self.number) if isinstance(one.block, EventBlock)]
        expected = {(p, block.events[n].event_id, n) for p, block in blocks for n in range(len(block.events))}
        sql = "SELECT DISTINCT * EXCEPT (event_id), event_id FROM events WHERE o = {}"
        copies = self.gateway.ask(f"SELECT count() FROM ({sql.format(self.number)})")  # noqa: S608
        found = self.gateway.ask(f"SELECT p, event_id, n FROM events WHERE o = {self.number}")  # noqa: S608
        if set(found) != expected or copies != [(len(expected),)]:
            yield f"block {self.number}: {len(set(found))} rows, {copies[0][0]} different, expected {len(expected)}"
        in_rows = self.gateway.ask("SELECT count(), sum(revenue_micros) FROM events FINAL")
        cells = "rollup_minute FINAL WHERE kind = 'event_type'"  # every event has one
        in_cells = self.gateway.ask(f"SELECT sum(events), sum(revenue_micros) FROM {cells}")  # noqa: S608
        if in_rows != in_cells or in_rows[0][0] != 2 * EVENTS * (self.number + 1):
            yield f"rollups say (events, revenue) {in_cells[0]}, the rows {in_rows[0]}"

    def close(self) -> None:
        self.gateway.close()
        self.clean.close()


class Control:
    """The documented recipe: a token for each insert, a window of tokens in source and view; a blind retry."""

    name = "control: tokens only"
    calls = 69

    def __init__(self, folder: Path) -> None:
        self.gateway = Gateway(folder)
        window = "SETTINGS non_replicated_deduplication_window = 10000"
        for sql in (
            f"CREATE TABLE source (o UInt64, n UInt32, v Float64) ENGINE = MergeTree ORDER BY (o, n) {window}",
            f"CREATE TABLE view_rows (o UInt64, many UInt64) ENGINE = SummingMergeTree ORDER BY o {window}",
            "CREATE MATERIALIZED VIEW view TO view_rows AS SELECT o, count() AS many FROM source GROUP BY o",
        ):
            self.gateway.client.execute(sql)
        self.number = -1

    def warm(self) -> int:
        self.number += 1
        self.gateway.back()
        return self.gateway.life.pid

    def _insert(self) -> None:
        columns: list[list[object]] = [[self.number] * 90, list(range(90)), [float(n) for n in range(90)]]
        self.gateway.client.insert("source", ("o", "n", "v"), columns, query_id=f"source:{self.number}")

    def work(self) -> None:
        with suppress(Unavailable):
            self._insert()

    def wrong(self) -> list[str]:
        self.gateway.back()
        for delay_s in (0.1, 1.0, 0.0):
            try:
                self._insert()
                break
            except Unavailable:
                time.sleep(delay_s)
        rows = self.gateway.ask(f"SELECT count() FROM source WHERE o = {self.number}")  # noqa: S608
        many = self.gateway.ask(f"SELECT sum(many) FROM view_rows WHERE o = {self.number}")  # noqa: S608
        found = {"source": rows[0][0], "view": many[0][0]}
        return [f"{what}: {here} rows, expected 90" for what, here in found.items() if here != 90]

    def close(self) -> None:
        self.gateway.close()

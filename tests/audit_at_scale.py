"""Faults planted among millions of rows: how long until they are found and healed (`python -m tests.audit_at_scale`).

The rows go in through the real writer, so that ledger and rollups are right; the log behind them is computed again from
a block's place, since ten million events in a broker would measure the broker. Prints times, ends 1 where a fault was
not found, not healed, or only after LIMIT_S.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.audit.log import LogBlock
from pipeline.audit.service import Auditor
from pipeline.core.audit import Span
from pipeline.edge.clickhouse import Warehouse
from schemas import block as codec
from schemas.block import EventBlock, Totals
from tests.edge.audit_rig import KEPT_DAYS, database, event, pending, warehouse_server, writer

LIMIT_S = 60.0
EVERY_S = 10.0
BUSY_S = 2.0
BASE_MS = 1_790_000_040_000
BLOCK_MS = 20_000
PARTITIONS = 4
ROWS_AT_ONCE = 20_000  # as the aggregate stage gathers them


class ComputedLog:
    """The topic `events`, each block made from its place whenever it is read."""

    def __init__(self, blocks: int, rows: int) -> None:
        """blocks: of each partition. rows: of each block."""
        self.blocks, self.rows = blocks, rows

    def made(self, partition: int, offset: int) -> EventBlock:
        """One block."""
        time_ms = BASE_MS + offset * BLOCK_MS
        events = [event(partition, offset, n, time_ms + n) for n in range(self.rows)]
        clean = (offset + 1) * self.rows
        return EventBlock(time_ms, Totals(clean, clean), list(range(self.rows)), events)

    def first(self, topic: str, partition: int) -> int:
        """Everything is there."""
        return 0

    def read(self, topic: str, span: Span) -> Iterator[LogBlock]:
        """As the audit asks."""
        if topic != "events":
            return
        for offset in range(span.first, min(span.end, self.blocks)):
            found = pending("events", span.partition, offset, self.made(span.partition, offset))
            yield LogBlock(found.origin, self.rows, found.crc, codec.encode(found.block))

    def close(self) -> None:
        """Nothing to close."""


FAULTS = {
    "one row deleted": "DELETE FROM events WHERE p = 1 AND o = {at} AND n = 2",
    "one row doubled": "INSERT INTO events SELECT * FROM events WHERE p = 2 AND o = {at} AND n = 3",
    "one row doubled under another key": (
        "INSERT INTO events SELECT * REPLACE (event_time + 1 AS event_time) FROM events "
        "WHERE p = 2 AND o = {at} AND n = 4"
    ),
    "one row altered": (
        "ALTER TABLE events UPDATE path = '/x' WHERE p = 3 AND o = {at} AND n = 5 SETTINGS mutations_sync = 2"
    ),
}


def fill(warehouse: Warehouse, log: ComputedLog) -> None:
    """Apply the whole log."""
    one = writer(warehouse)
    step = max(1, ROWS_AT_ONCE // log.rows // PARTITIONS)
    for start in range(0, log.blocks, step):
        offsets = range(start, min(start + step, log.blocks))
        one.write([pending("events", p, o, log.made(p, o)) for o in offsets for p in range(PARTITIONS)])


def timed(what: str, call: Callable[[], object], rows: int = 0) -> float:
    """Run and print how long it took."""
    began_s = time.monotonic()
    call()
    took_s = time.monotonic() - began_s
    print(f"{what:<44}{took_s:8.1f} s" + (f"{rows / took_s:12,.0f} rows/s" if rows else ""), flush=True)
    return took_s


def drain(auditor: Auditor, busy_s: float) -> None:
    """Look until nothing is left to compare."""
    while auditor.look(busy_s).behind:
        pass


def found_and_healed(warehouse: Warehouse, auditor: Auditor, statement: str) -> tuple[float, bool]:
    """Plant one fault, look every EVERY_S as the running auditor does; return seconds until it is healed."""
    before = fingerprint(warehouse)
    warehouse.execute(statement)
    planted_s = time.monotonic()
    while time.monotonic() - planted_s < 4 * LIMIT_S:
        time.sleep(EVERY_S - (time.monotonic() - planted_s) % EVERY_S)
        faults = [fault for fault in auditor.look(BUSY_S).faults if fault.table == "events"]
        if faults and all(fault.healed for fault in faults):
            took_s = time.monotonic() - planted_s
            return took_s, fingerprint(warehouse) == before
    return time.monotonic() - planted_s, False


def fingerprint(warehouse: Warehouse) -> tuple[object, ...]:
    """Rows as readers without FINAL see them."""
    return warehouse.execute("SELECT count(), sum(cityHash64(p, o, n, event_time, path)) FROM events")[0]


def run(warehouse: Warehouse, rows: int, block_rows: int) -> int:
    """Fill, audit, plant, heal; return how many faults were not healed in time."""
    log = ComputedLog(rows // block_rows // PARTITIONS, block_rows)
    rows = log.blocks * block_rows * PARTITIONS
    print(f"{rows:,} rows in {log.blocks * PARTITIONS:,} blocks of {PARTITIONS} partitions", flush=True)
    timed("writer stores them", lambda: fill(warehouse, log), rows)
    auditor = Auditor(warehouse, log, PARTITIONS, KEPT_DAYS, heals=True)
    try:
        timed("each block compared with the log, once", lambda: drain(auditor, 60), rows)
        timed("parts summed up, once", lambda: drain(auditor, 0), rows)
        timed("a look at what has not changed", lambda: auditor.look(BUSY_S))
        failures = 0
        for what, statement in FAULTS.items():
            took_s, is_healed = found_and_healed(warehouse, auditor, statement.format(at=log.blocks // 2))
            failures += not is_healed or took_s > LIMIT_S
            print(f"{what:<44}{took_s:8.1f} s  {'healed' if is_healed else 'NOT HEALED'}", flush=True)
    finally:
        auditor.close()
    return failures


def main(arguments: list[str]) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--block-rows", type=int, default=2_000)
    wish = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        warehouse_server(Path(folder)) as url,
        database(url) as warehouse,
    ):
        return 1 if run(warehouse, wish.rows, wish.block_rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Rollups of minutes whose events were wrong, counted again as the writer counts them.

The writer counts a minute in memory or reads it again from the events; only the latter can go wrong with a damaged
table. A row made here carries the ledger's last block as its version: a writer that has gone on wins with its own.
"""

from collections.abc import Iterable, Mapping

from pipeline.audit.examine import Minute
from pipeline.core.rollup import Chunk, Rollup
from pipeline.edge.clickhouse import Warehouse
from pipeline.warehouse_writer import stored_events
from schemas.tables import ROLLUP_MINUTE

KEY = ROLLUP_MINUTE.order_by
_AT_KEY = [ROLLUP_MINUTE.column_names.index(name) for name in KEY]
_NAMES = ", ".join(name for name in ROLLUP_MINUTE.column_names if name not in ("minute", "o"))
_COUNTS = [index for index, name in enumerate(ROLLUP_MINUTE.column_names) if name != "o"]
_MINUTE = ROLLUP_MINUTE.column_names.index("minute")
Row = tuple[object, ...]


def recount(warehouse: Warehouse, minutes: Iterable[Minute], heals: bool) -> dict[int, int]:
    """Compare the cells of these minutes with the events; return how many were wrong, by partition.

    heals: write those that are wrong again, and delete those that no event stands for.
    """
    found: dict[int, int] = {}
    by_partition: dict[int, list[int]] = {}
    for minute in sorted(set(minutes)):
        by_partition.setdefault(minute.partition, []).append(minute.ms)
    for partition, times in by_partition.items():
        wrong = sum(
            _recount(warehouse, partition, times[start : start + 32], heals) for start in range(0, len(times), 32)
        )
        if wrong:
            found[partition] = wrong
    return found


def _recount(warehouse: Warehouse, partition: int, minutes: list[int], heals: bool) -> int:
    (last,) = warehouse.execute("SELECT max(o) FROM blocks WHERE topic = 'events' AND p = %(p)s", {"p": partition})
    version = int(str(last[0]))
    right = _counted(warehouse, partition, minutes, version)
    there = _stored(warehouse, partition, minutes, version)
    wrong = {key: row for key, row in right.items() if there.get(key) != [row[index] for index in _COUNTS]}
    # A cell that a block after `version` has touched is not among those that are there: it is right or comes next time.
    strangers = there.keys() - right.keys()
    if heals and wrong:
        columns = [list(column) for column in zip(*wrong.values(), strict=True)]
        warehouse.insert(ROLLUP_MINUTE.name, ROLLUP_MINUTE.column_names, columns, partitions_max=0)
    for key in strangers if heals else ():
        where = " AND ".join(f"{name} = %({name})s" for name in KEY if name != "minute")
        warehouse.execute(
            f"DELETE FROM rollup_minute WHERE {where} AND toUnixTimestamp(minute) = %(minute)s AND o <= {version}",  # noqa: S608
            dict(zip(KEY, key, strict=True)),
        )
    return len(wrong) + len(strangers)


def _counted(warehouse: Warehouse, partition: int, minutes: list[int], version: int) -> dict[Row, Row]:
    def ask(sql: str, params: Mapping[str, object]) -> list[Row]:
        return warehouse.execute(sql, params)

    events = list(stored_events(ask, partition, minutes, version + 1))
    rollup = Rollup(2**62, lambda *_: ())
    rollup.assign(partition, -1)
    columns = rollup.apply([Chunk(partition, 0, version, events)]).columns
    rows: list[Row] = list(zip(*columns, strict=True))
    return {tuple(row[index] for index in _AT_KEY): row for row in rows}


def _stored(warehouse: Warehouse, partition: int, minutes: list[int], version: int) -> dict[Row, list[object]]:
    seconds = ", ".join(str(ms // 1_000) for ms in minutes)
    found = warehouse.execute(
        f"SELECT {_NAMES}, toUnixTimestamp(minute) FROM rollup_minute FINAL WHERE p = %(p)s "  # noqa: S608 - our names
        f"AND minute IN ({seconds}) AND o <= {version}",
        {"p": partition},
    )
    rows = {}
    for *values, minute in found:
        values.insert(_MINUTE, minute)
        rows[tuple(values[index] for index in _AT_KEY)] = values
    return rows

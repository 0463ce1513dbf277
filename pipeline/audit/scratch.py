"""Tables in the warehouse's memory for rows made from the log again, so that the same engine hashes both sides.

ClickHouse's hash of a row cannot be had elsewhere for less: in Python it costs more than sending the row. So the rows
go into a table of the same columns without any storage, are hashed there, and what is to be healed is copied from it.
"""

import os

from pipeline.core.rows import Columns
from pipeline.edge.clickhouse import Refused, Warehouse
from schemas.ddl import Table

PREFIX = "audit_"
STALE_S = 3_600


class Scratch:
    """The scratch tables of one process."""

    def __init__(self, warehouse: Warehouse) -> None:
        """Make none before they are needed."""
        self._warehouse = warehouse
        self._suffix = f"{os.getpid()}_{os.urandom(4).hex()}"
        self._made: set[str] = set()

    def fill(self, columns: Columns) -> str:
        """Put these rows, and no others, into the scratch table of theirs; return its name."""
        name = f"{PREFIX}{columns.table.name}_{self._suffix}"
        if columns.table.name not in self._made:
            self._make(columns.table, name)
        self._warehouse.execute(f"TRUNCATE TABLE {name}")
        self._warehouse.insert(name, columns.table.column_names, columns.columns, partitions_max=0)
        return name

    def close(self) -> None:
        """Drop them, and those that processes left which were killed."""
        for table in self._made:
            self._warehouse.execute(f"DROP TABLE IF EXISTS {PREFIX}{table}_{self._suffix}")
        self._made.clear()
        stale = self._warehouse.execute(
            "SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, %(prefix)s) "
            "AND engine = 'Memory' AND metadata_modification_time < now() - %(age)s",
            {"prefix": PREFIX, "age": STALE_S},
        )
        for (name,) in stale:
            self._warehouse.execute(f"DROP TABLE IF EXISTS {name}")

    def _make(self, table: Table, name: str) -> None:
        definition = ", ".join(f"`{column.name}` {column.type}" for column in table.columns)
        try:
            self._warehouse.execute(f"CREATE TABLE IF NOT EXISTS {name} ({definition}) ENGINE = Memory")
        except Refused as error:
            raise Refused(f"the audit needs a table of its own in memory: {error}", error.code) from error
        self._made.add(table.name)

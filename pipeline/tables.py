"""`herald tables [--apply]`: compares the warehouse with schemas.tables, and makes what is missing.

Applying adds tables and columns and changes how long rows are kept. It never rewrites or drops anything: a column of
another type or a table with another key is shown, with the statement that a person may decide to run. Tables and
columns that we do not know belong to somebody else and are left alone.

Nothing is changed on a full disk: ClickHouse then writes a table's description as an empty file, says that all is well,
and does not start again ("Empty query"; seen on 26.9, for CREATE and for ALTER).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from pipeline.edge import clickhouse
from pipeline.settings import Settings
from schemas import ddl
from schemas.ddl import Table
from schemas.tables import TABLES

FREE_BYTES_MIN: Final = 16 * 1_048_576
"""Less than this on any disk, and no description is written: it takes kilobytes, but inserts go on beside it."""
_NOT_ENOUGH_SPACE: Final = 243  # ClickHouse's code


class Database(Protocol):
    """What is needed of `pipeline.edge.clickhouse.Warehouse`."""

    def execute(self, sql: str, params: Mapping[str, object] | None = None) -> list[tuple[object, ...]]:
        """Run a statement and return its rows."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be.

    what: a sentence. statements: what mends it. applies: whether `apply` runs them, or a person has to decide.
    """

    table: str
    what: str
    statements: tuple[str, ...] = ()
    applies: bool = True

    def __str__(self) -> str:
        """The line that `herald tables` shows."""
        return f"{self.table}: {self.what}" + ("" if self.applies else " (not applied: decide and do it by hand)")


@dataclass(frozen=True)
class Found:
    """A table as system.tables has it. columns: name -> type."""

    engine_full: str
    partition_by: str
    order_by: str
    columns: dict[str, str]


def make_database(settings: Settings) -> None:
    """Make the database of a later generation where it is missing; the first one's is given.

    Raises clickhouse.Unavailable or clickhouse.Refused.
    """
    if settings.generation > 1:
        clickhouse.make_database(settings.first_warehouse_url, settings.warehouse_database)


def differences(warehouse: Database, retention_days: int, cluster: str = "") -> list[Difference]:
    """Return what of schemas.tables the connected database lacks or has otherwise; [] where all is well.

    Raises clickhouse.Unavailable or clickhouse.Refused.
    """
    found = read(warehouse)
    return [
        difference
        for table in TABLES
        for difference in compare(table, _found(found, table, cluster), retention_days, cluster)
    ]


def apply(warehouse: Database, retention_days: int, cluster: str = "") -> list[Difference]:
    """Mend what can be mended without touching a row; return all differences there were. Running it again is harmless.

    Raises clickhouse.Unavailable, also where a disk is full, or clickhouse.Refused.
    """
    there = differences(warehouse, retention_days, cluster)
    for statement in (one for difference in there if difference.applies for one in difference.statements):
        _need_room(warehouse)
        warehouse.execute(statement)
    return there


def _need_room(warehouse: Database) -> None:
    disks = cast("list[tuple[str, Any]]", warehouse.execute("SELECT name, unreserved_space FROM system.disks"))
    for name, free_bytes in disks:
        if free_bytes < FREE_BYTES_MIN:
            found = f"the warehouse's disk {name!r} has {free_bytes:,} bytes left, expected {FREE_BYTES_MIN:,} or more"
            raise clickhouse.Unavailable(f"no table is made or changed: {found}", _NOT_ENOUGH_SPACE)


def read(warehouse: Database) -> dict[str, Found]:
    """Return the tables of the connected database by name."""
    columns: dict[str, dict[str, str]] = {}
    for table, name, type_ in warehouse.execute(
        "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() ORDER BY table, position"
    ):
        columns.setdefault(str(table), {})[str(name)] = str(type_)
    return {
        str(name): Found(str(engine), str(partition_by), str(order_by), columns.get(str(name), {}))
        for name, engine, partition_by, order_by in warehouse.execute(
            "SELECT name, engine_full, partition_key, sorting_key FROM system.tables WHERE database = currentDatabase()"
        )
    }


def compare(table: Table, found: Found | None, retention_days: int, cluster: str = "") -> list[Difference]:
    """Return the differences of one table. found: as it is, or None where it is missing."""
    if found is None:
        statements = tuple(ddl.create(table, retention_days, cluster))
        return [Difference(table.name, "missing table", statements)]
    there: list[Difference] = []
    for column in table.columns:
        type_ = found.columns.get(column.name)
        if type_ is None:
            statements = tuple(ddl.add_column(table, column, cluster))
            there.append(Difference(table.name, f"missing column {column.name} {column.type}", statements))
        elif type_ != column.type:
            what = f"column {column.name} is {type_}, expected {column.type}"
            there.append(Difference(table.name, what, (ddl.modify_column(table, column, cluster),), applies=False))
    return there + _compare_engine(table, found, retention_days, cluster)


def _compare_engine(table: Table, found: Found, retention_days: int, cluster: str) -> list[Difference]:
    there = [
        Difference(table.name, f"{what} is {actual or 'none'}, expected {expected or 'none'}", applies=False)
        for what, actual, expected in (
            ("engine", _engine_of(found.engine_full), _engine_of(ddl.engine(table, cluster))),
            ("partition key", found.partition_by, table.partition_by),
            ("key", found.order_by, ", ".join(table.order_by)),
            ("deduplication window", _matched(_WINDOW, found.engine_full) or "the server's default", "0"),
        )
        if actual != expected
    ]
    days = _matched(_RETENTION, found.engine_full)
    if table.expires_by and days != str(ddl.kept_days(retention_days)):
        kept = f"{days} days" if days else "for ever"
        statement = ddl.modify_ttl(table, retention_days, cluster)
        there.append(
            Difference(table.name, f"rows are kept {kept}, expected {ddl.kept_days(retention_days)} days", (statement,))
        )
    return there


_ENGINE_END = re.compile(r" (?:PARTITION BY|ORDER BY|PRIMARY KEY) ")
_REPLICA = re.compile(r"'[^']*'(?:, )?")
_WINDOW = re.compile(r"replicated_deduplication_window = (\d+)")
_RETENTION = re.compile(r"toIntervalDay\((\d+)\)")


def _engine_of(engine_full: str) -> str:
    """Return the engine without keys and settings, and without where its replicas are: that is the server's affair."""
    name = _REPLICA.sub("", _ENGINE_END.split(engine_full)[0])
    return name.removeprefix("Replicated").removeprefix("Shared").removesuffix("()")


def _matched(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _found(found: Mapping[str, Found], table: Table, cluster: str) -> Found | None:
    """Return the table with the rows; on a cluster the one over all shards must be there too."""
    return found.get(ddl.local_name(table, cluster)) if table.name in found else None

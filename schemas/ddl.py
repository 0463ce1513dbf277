"""How a ClickHouse table is described, and the DDL rendered from the description (`schemas.tables` has the list).

Every table is a ReplacingMergeTree on an idempotent key: writing a row again writes the same row. That, not a
deduplication token, makes blind retries exact, so the tables keep no deduplication window at all: a window would let a
server that was killed at the wrong instant take a retry for done while its rows are lost.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """One column. type: as ClickHouse spells it in system.columns. codec: inside CODEC(), or "" for the default."""

    name: str
    type: str
    meaning: str
    codec: str = ""


@dataclass(frozen=True)
class Table:
    """One table.

    order_by: the key: rows that agree on it are one row, the one with the greatest `version` stays (without one: any,
    they are equal). partition_by: an expression over key columns only, else copies of a row never meet.
    expires_by: the time column that `retention_days` counts from; "" keeps rows for ever.
    indexes: name -> "expression TYPE kind". shard_by: what places a row on a cluster; copies must meet on one shard.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    order_by: tuple[str, ...]
    expires_by: str
    partition_by: str = ""
    version: str = ""
    deleted: str = ""
    indexes: dict[str, str] = field(default_factory=dict)
    shard_by: str = "p"

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.columns)


def key_column(name: str, type_: str, meaning: str) -> Column:
    """A number that grows slowly down the rows: a partition, an offset, a row."""
    return Column(name, type_, meaning, "Delta, ZSTD(1)")


def text(name: str, meaning: str) -> Column:
    """Text with many values. "" is none: no table holds NULL."""
    return Column(name, "String", meaning, "ZSTD(1)")


def label(name: str, meaning: str) -> Column:
    """Text with few values; it costs least to send and to group by. "" is none."""
    return Column(name, "LowCardinality(String)", meaning)


def time_ms(name: str, meaning: str) -> Column:
    """A time to the millisecond, UTC. Rows carry it as an integer (ms since 1970): a datetime costs 20 times more."""
    return Column(name, "DateTime64(3, 'UTC')", meaning, "Delta, ZSTD(1)")


def whole(name: str, meaning: str) -> Column:
    """A signed whole number; money is one too, in micros of its currency."""
    return Column(name, "Int64", meaning, "T64, ZSTD(1)")


def flag(name: str, meaning: str) -> Column:
    """0 or 1."""
    return Column(name, "UInt8", meaning)


LOCAL_SUFFIX = "_local"
"""On a cluster, `events` is Distributed over each shard's `events_local`."""


def local_name(table: Table, cluster: str) -> str:
    """Return the name of the table that holds the rows."""
    return table.name + LOCAL_SUFFIX if cluster else table.name


def create(table: Table, retention_days: int, cluster: str = "") -> list[str]:
    """Return the statements that make a table where it is missing.

    retention_days: a row may go when its `expires_by` is older. cluster: ClickHouse cluster name; "" = one server.
    """
    on_cluster = _on_cluster(cluster)
    lines = [column_sql(column) for column in table.columns]
    lines += [f"INDEX {name} {index} GRANULARITY 1" for name, index in table.indexes.items()]
    body = ",\n  ".join(lines)
    statements = [
        f"CREATE TABLE IF NOT EXISTS {local_name(table, cluster)}{on_cluster}\n(\n  {body}\n)\n"
        f"ENGINE = {engine(table, cluster)}\n"
        + (f"PARTITION BY {table.partition_by}\n" if table.partition_by else "")
        + f"ORDER BY ({', '.join(table.order_by)})\n"
        + (f"TTL {ttl(table, retention_days)}\n" if table.expires_by else "")
        + f"SETTINGS {window_setting(cluster)} = 0\n"
        f"COMMENT {quoted(table.meaning)}"
    ]
    if cluster:
        local = local_name(table, cluster)
        statements.append(
            f"CREATE TABLE IF NOT EXISTS {table.name}{on_cluster} AS {local}\n"
            f"ENGINE = Distributed({quoted(cluster)}, currentDatabase(), {quoted(local)}, {table.shard_by})"
        )
    return statements


def engine(table: Table, cluster: str = "") -> str:
    """Return the engine; on a cluster it is replicated, by the server's own {shard} and {replica} macros."""
    arguments = [argument for argument in (table.version, table.deleted) if argument]
    if not cluster:
        return f"ReplacingMergeTree({', '.join(arguments)})"
    path = quoted("/clickhouse/tables/{shard}/{database}/{table}")
    return f"ReplicatedReplacingMergeTree({', '.join([path, quoted('{replica}'), *arguments])})"


RETENTION_DAYS_MAX = 20_000
"""ClickHouse counts an expiry in 32-bit seconds: much more than this and it would lie in the past."""


def kept_days(retention_days: int) -> int:
    """Return how long rows are kept, days: as asked, within what ClickHouse can count."""
    return min(retention_days, RETENTION_DAYS_MAX)


def ttl(table: Table, retention_days: int) -> str:
    """Return the expression after which a row may go."""
    return f"toDateTime({table.expires_by}) + toIntervalDay({kept_days(retention_days)})"


def window_setting(cluster: str) -> str:
    """Return the name of the deduplication window that is set to 0."""
    return "replicated_deduplication_window" if cluster else "non_replicated_deduplication_window"


def column_sql(column: Column) -> str:
    """Return a column's definition."""
    codec = f" CODEC({column.codec})" if column.codec else ""
    return f"`{column.name}` {column.type}{codec} COMMENT {quoted(column.meaning)}"


def add_column(table: Table, column: Column, cluster: str = "") -> list[str]:
    """Return the statements that add a missing column; old rows read as its type's default."""
    definition = f"ADD COLUMN IF NOT EXISTS {column_sql(column)}"
    statements = [f"ALTER TABLE {local_name(table, cluster)}{_on_cluster(cluster)} {definition}"]
    if cluster:
        bare = f"ADD COLUMN IF NOT EXISTS `{column.name}` {column.type}"
        statements.append(f"ALTER TABLE {table.name}{_on_cluster(cluster)} {bare}")
    return statements


def modify_column(table: Table, column: Column, cluster: str = "") -> str:
    """Return the statement that gives a column its type; it rewrites the column; a key refuses it."""
    return f"ALTER TABLE {local_name(table, cluster)}{_on_cluster(cluster)} MODIFY COLUMN {column_sql(column)}"


def modify_ttl(table: Table, retention_days: int, cluster: str = "") -> str:
    """Return the statement that changes how long rows are kept."""
    return (
        f"ALTER TABLE {local_name(table, cluster)}{_on_cluster(cluster)} "
        f"MODIFY TTL {ttl(table, retention_days)} SETTINGS materialize_ttl_after_modify = 0"
    )


def quoted(value: str) -> str:
    """Return a SQL string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _on_cluster(cluster: str) -> str:
    return f" ON CLUSTER {quoted(cluster)}" if cluster else ""

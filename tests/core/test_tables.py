"""The tables as described: keys that make a repeat harmless, DDL that is complete, differences that are seen."""

import re

import pytest

from pipeline import tables
from pipeline.tables import Found
from schemas import ddl
from schemas.ddl import Table
from schemas.tables import EVENTS, SESSIONS, TABLES

ALL = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)


def as_described(table: Table, days: int = 400) -> Found:
    """A table as ClickHouse shows it after it was made from the description."""
    partition = f" PARTITION BY {table.partition_by}" if table.partition_by else ""
    engine = (
        f"{ddl.engine(table).removesuffix('()')}{partition} ORDER BY ({', '.join(table.order_by)}) "
        f"TTL {ddl.ttl(table, days)} SETTINGS non_replicated_deduplication_window = 0, index_granularity = 8192"
    )
    columns = {column.name: column.type for column in table.columns}
    return Found(engine, table.partition_by, ", ".join(table.order_by), columns)


@ALL
def test_every_name_in_a_key_partition_or_version_is_a_column(table: Table) -> None:
    """A typing error would be found by the server only."""
    names = {*table.order_by, table.expires_by, table.version, table.deleted, table.shard_by} - {""}
    names |= set(re.findall(r"\((\w+)\)", table.partition_by))
    assert names <= set(table.column_names)
    assert len(set(table.column_names)) == len(table.column_names)


@ALL
def test_a_partition_depends_on_the_key_alone(table: Table) -> None:
    """Copies of a row in different partitions would never meet, and be counted twice for ever."""
    assert set(re.findall(r"\((\w+)\)", table.partition_by)) <= set(table.order_by)


@ALL
def test_no_table_keeps_a_deduplication_window(table: Table) -> None:
    """A window would let a killed server take the retry of a lost insert for a duplicate."""
    assert "SETTINGS non_replicated_deduplication_window = 0" in ddl.create(table, 400)[0]
    assert "SETTINGS replicated_deduplication_window = 0" in ddl.create(table, 400, "main")[0]


@ALL
def test_on_a_cluster_a_table_is_replicated_and_distributed_by_partition(table: Table) -> None:
    """All versions of a row must meet on one shard; code asks for the same name as on one server."""
    local, over_all = ddl.create(table, 400, "main")
    assert f"{table.name}_local ON CLUSTER 'main'" in local
    assert "ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}" in local
    assert f"CREATE TABLE IF NOT EXISTS {table.name} ON CLUSTER 'main'" in over_all
    assert over_all.endswith(f"'{table.name}_local', {table.shard_by})")


@ALL
def test_a_table_as_described_has_no_differences(table: Table) -> None:
    """A second `--apply` has nothing to do."""
    assert tables.compare(table, as_described(table), 400) == []


def test_a_missing_table_is_seen() -> None:
    """And made by apply."""
    (difference,) = tables.compare(EVENTS, None, 400)
    assert (str(difference), difference.applies) == ("events: missing table", True)


def test_a_missing_column_is_seen() -> None:
    """After an upgrade."""
    found = as_described(EVENTS)
    del found.columns["brand"]
    (difference,) = tables.compare(EVENTS, found, 400)
    assert str(difference) == "events: missing column brand LowCardinality(String)"
    assert difference.statements[0].startswith("ALTER TABLE events ADD COLUMN IF NOT EXISTS `brand`")


def test_a_column_of_another_type_is_shown_and_left_to_a_person() -> None:
    """Changing it rewrites every row."""
    found = as_described(SESSIONS)
    found.columns["clicks"] = "Int32"
    (difference,) = tables.compare(SESSIONS, found, 400)
    assert "column clicks is Int32, expected Int64" in str(difference)
    assert not difference.applies


def test_another_key_is_shown_and_left_to_a_person() -> None:
    """ClickHouse cannot change it."""
    described = as_described(SESSIONS)
    found = Found(described.engine_full, described.partition_by, "visitor", described.columns)
    (difference,) = tables.compare(SESSIONS, found, 400)
    assert "key is visitor, expected visitor, start, stray_id" in str(difference)
    assert not difference.applies


def test_an_engine_without_the_version_is_shown() -> None:
    """Then the oldest state of a session might stay."""
    described = as_described(SESSIONS)
    found = Found(described.engine_full.replace("(o, is_deleted)", ""), *list(vars(described).values())[1:])
    (difference,) = tables.compare(SESSIONS, found, 400)
    assert "engine is ReplacingMergeTree, expected ReplacingMergeTree(o, is_deleted)" in str(difference)


def test_a_kept_deduplication_window_is_shown() -> None:
    """It would lose rows."""
    described = as_described(EVENTS)
    found = Found(described.engine_full.replace("window = 0", "window = 100"), *list(vars(described).values())[1:])
    assert [str(difference) for difference in tables.compare(EVENTS, found, 400)] == [
        "events: deduplication window is 100, expected 0 (not applied: decide and do it by hand)"
    ]


def test_another_retention_is_seen() -> None:
    """retention_days was changed after the tables were made."""
    (difference,) = tables.compare(EVENTS, as_described(EVENTS, 400), 90)
    assert str(difference) == "events: rows are kept 400 days, expected 90 days"


def test_a_column_of_somebody_else_is_left_alone() -> None:
    """Analysts add their own."""
    found = as_described(EVENTS)
    found.columns["my_score"] = "Float64"
    assert tables.compare(EVENTS, found, 400) == []

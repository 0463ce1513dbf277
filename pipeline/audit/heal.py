"""Putting rows right: what is missing is copied from the scratch table, what is wrong is deleted by its hash."""

from collections.abc import Collection, Iterator

from pipeline.audit.shape import Audited, listed
from pipeline.edge.clickhouse import Warehouse

HASHES_PER_STATEMENT_MAX = 2_000


def copy_rows(warehouse: Warehouse, audited: Audited, scratch: str, place: str, hashes: Collection[int]) -> None:
    """Insert the scratch rows with these hashes. On their keys they replace what stands there with the same version.

    place: SQL condition of their block.
    """
    names = ", ".join(f"`{name}`" for name in audited.table.column_names)
    for some in _pieces(hashes):
        warehouse.execute(
            f"INSERT INTO {audited.table.name} ({names}) SELECT {names} FROM {scratch} "  # noqa: S608 - names, numbers
            f"WHERE {place} AND {audited.hash} IN ({listed(some)})",
            settings={"max_partitions_per_insert_block": 0, "max_insert_threads": 1},
        )


def delete_rows(warehouse: Warehouse, audited: Audited, place: str, hashes: Collection[int]) -> None:
    """Delete rows with these hashes, and no others: the hash is of the whole row, so none that is right can have it.

    place: SQL condition of their block. Marks the rows and leaves the rest of their parts as they are on disk.
    """
    for some in _pieces(hashes):
        warehouse.execute(
            f"DELETE FROM {audited.table.name} WHERE {place} AND {audited.hash} IN ({listed(some)})",  # noqa: S608
            settings={"lightweight_deletes_sync": 2},
        )


def _pieces(hashes: Collection[int]) -> Iterator[list[int]]:
    ordered = sorted(hashes)
    for start in range(0, len(ordered), HASHES_PER_STATEMENT_MAX):
        yield ordered[start : start + HASHES_PER_STATEMENT_MAX]

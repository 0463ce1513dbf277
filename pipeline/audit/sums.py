"""Sums of a table's rows by slice, kept by part: a part of a MergeTree never changes, so each is read once.

What makes a row vanish, stand there twice or change makes a new part (insert, mutation, merge), and only new parts are
read. So a look at ten million rows of which nothing changed costs a look at the list of parts.
"""

from collections import defaultdict
from typing import NamedTuple

from pipeline.audit.shape import texts
from pipeline.core.audit import SLICE_BLOCKS, Cell, Sum, Sums
from pipeline.edge.clickhouse import Warehouse

TRIES = 10
"""Merges go on while we read."""


class Summed(NamedTuple):
    """What is summed of a table. hash, day: SQL. where: SQL condition. key: SQL that sets sums apart, "" for one."""

    table: str
    hash: str
    day: str
    key: str = "''"


class Part(NamedTuple):
    """A part of a table.

    content: stays the same where a mutation only renames the part. is_fresh: an insert made it, and nothing else.
    """

    name: str
    content: str
    rows: int
    is_fresh: bool


class PartSums:
    """The sums of one table, as of its newest parts."""

    def __init__(self, summed: Summed) -> None:
        """Start without any."""
        self._summed = summed
        self._parts: dict[str, dict[tuple[str, Cell], Sum]] = {}

    def read(self, warehouse: Warehouse, rows_max: int) -> dict[str, Sums] | None:
        """Return the sums by key; None while parts are still unread, of which at least one is read at each call.

        rows_max: of new parts to read now. What is inserted meanwhile is as if it came later.
        """
        for turn in range(TRIES):
            active = self._active(warehouse)
            unread = sorted((part.rows, part.name) for part in active if part.content not in self._parts)
            if turn:
                # Rows of a part that an insert just made stood in no other; those of a merge or mutation did.
                fresh = {part.name for part in active if part.is_fresh}
                unread = [one for one in unread if one[1] not in fresh]
            if not unread:
                return self._keep(active)
            chosen: set[str] = set()
            taken = 0
            for rows, name in unread:
                if chosen and taken + rows > rows_max:
                    break
                chosen.add(name)
                taken += rows
            self._sum(warehouse, {part.name for part in active if part.name in chosen})
            if sum(rows for rows, _ in unread) > taken:
                return None
        return None

    def _active(self, warehouse: Warehouse) -> list[Part]:
        found = warehouse.execute(
            "SELECT name, hash_of_all_files, rows, level = 0 AND data_version = min_block_number FROM system.parts "
            "WHERE database = currentDatabase() AND table = %(table)s AND active",
            {"table": self._summed.table},
        )
        return [
            Part(str(name), str(content), int(str(rows)), bool(is_fresh)) for name, content, rows, is_fresh in found
        ]

    def _sum(self, warehouse: Warehouse, parts: set[str]) -> None:
        summed = self._summed
        found = warehouse.execute(
            f"SELECT _part, {summed.key} AS k, p, intDiv(o, {SLICE_BLOCKS}) AS s, {summed.day} AS d, count(), "  # noqa: S608 - our names
            f"sum({summed.hash}) FROM {summed.table} WHERE _part IN ({texts(parts)}) GROUP BY ALL"
        )
        read: defaultdict[str, dict[tuple[str, Cell], Sum]] = defaultdict(dict)
        for name, key, p, piece, day, rows, total in found:
            cell = Cell(*(int(str(value)) for value in (p, piece, day)))
            read[str(name)][str(key), cell] = Sum(int(str(rows)), int(str(total)))
        # A part that was taken away or renamed before the query gave no rows: only one that is still there was read.
        for part in self._active(warehouse):
            if part.name in parts:
                self._parts[part.content] = read[part.name]

    def _keep(self, active: list[Part]) -> dict[str, Sums]:
        """Forget parts that are gone; add the others up, but for those that came after the last reading."""
        contents = [part.content for part in active if part.content in self._parts]
        self._parts = {content: self._parts[content] for content in contents}
        totals: defaultdict[str, Sums] = defaultdict(dict)
        for content in contents:
            for (key, cell), one in self._parts[content].items():
                totals[key][cell] = totals[key].get(cell, Sum()).plus(one)
        return dict(totals)

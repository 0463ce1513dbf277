"""Tables that keep the newest state of each name: the live row against the newest one in the part of the log looked at.

A row that a later block has replaced is of no concern, whether a merge has dropped it yet or not.
"""

from collections import defaultdict
from collections.abc import Sequence

from pipeline.audit.heal import copy_rows, delete_rows
from pipeline.audit.shape import Audited, within
from pipeline.core.audit import ALTERED, EXTRA, MISSING, Fault, Span
from pipeline.edge.clickhouse import Warehouse

Place = tuple[int, int]


def compare(
    warehouse: Warehouse, audited: Audited, scratch: str, spans: Sequence[Span], first_day: int, heals: bool
) -> list[Fault]:
    """Compare the rows of the log in `scratch` with the table; heal where told to. Return the faults.

    scratch: "" where the log has no rows in these spans.
    """
    absent, wrong = _behind(warehouse, audited, scratch, first_day)
    strangers = _strangers(warehouse, audited, scratch, spans, first_day)
    faults: list[Fault] = []
    for place in sorted(absent.keys() | wrong.keys() | strangers.keys()):
        if heals:
            where = f"p = {place[0]} AND o = {place[1]}"
            copy_rows(warehouse, audited, scratch, where, absent[place] + wrong[place])
        for kind, count in ((MISSING, len(absent[place])), (ALTERED, len(wrong[place]))):
            if count:
                faults.append(Fault(audited.table.name, *place, kind, count, heals))
        extra = max(0, len(strangers[place]) - len(wrong[place]))
        if extra:
            faults.append(Fault(audited.table.name, *place, EXTRA, extra, heals))
        if heals:
            delete_rows(warehouse, audited, f"p = {place[0]} AND o = {place[1]}", strangers[place])
    return faults


def _behind(
    warehouse: Warehouse, audited: Audited, scratch: str, first_day: int
) -> tuple[defaultdict[Place, list[int]], defaultdict[Place, list[int]]]:
    """Return by block the hashes of rows that are not there, and of rows that stand there with another content."""
    absent: defaultdict[Place, list[int]] = defaultdict(list)
    wrong: defaultdict[Place, list[int]] = defaultdict(list)
    if not scratch:
        return absent, wrong
    key = ", ".join(audited.name)
    found = warehouse.execute(
        f"SELECT s.sp, s.so, s.sh, l.found = 1 AND lo = so FROM (SELECT {key}, argMax(p, o) AS sp, max(o) AS so, "  # noqa: S608 - our names
        f"argMax({audited.hash}, o) AS sh FROM {scratch} WHERE {audited.day} >= {first_day} GROUP BY {key}) AS s "
        f"LEFT JOIN (SELECT {key}, o AS lo, 1 AS found, groupUniqArray({audited.hash}) AS lh FROM {audited.table.name} "
        f"WHERE ({key}) IN (SELECT {key} FROM {scratch}) GROUP BY {key}, o ORDER BY o DESC LIMIT 1 BY {key}) AS l "
        f"USING ({key}) WHERE l.found = 0 OR lo < so OR (lo = so AND lh != [sh])"
    )
    for p, o, total, is_there in found:
        (wrong if is_there else absent)[int(str(p)), int(str(o))].append(int(str(total)))
    return absent, wrong


def _strangers(
    warehouse: Warehouse, audited: Audited, scratch: str, spans: Sequence[Span], first_day: int
) -> defaultdict[Place, list[int]]:
    """Return by block the hashes of rows that the log does not have."""
    known = f"AND h NOT IN (SELECT {audited.hash} FROM {scratch})" if scratch else ""  # noqa: S608 - our names
    found = warehouse.execute(
        f"SELECT DISTINCT p, o, {audited.hash} AS h FROM {audited.table.name} WHERE ({within(spans)}) "  # noqa: S608
        f"AND {audited.day} >= {first_day} {known}"
    )
    rows: defaultdict[Place, list[int]] = defaultdict(list)
    for p, o, total in found:
        rows[int(str(p)), int(str(o))].append(int(str(total)))
    return rows

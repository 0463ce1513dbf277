"""Which table holds which topic's rows, and how the audit asks for them in SQL."""

import zlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from msgspec import Struct

from pipeline.core import rows
from pipeline.core.audit import Span
from pipeline.core.rows import Columns
from schemas import topics
from schemas.block import EventBlock, Origin, OutcomeBlock, RefusedBlock, SessionBlock
from schemas.ddl import Table
from schemas.tables import BAD, BLOCKS, DECISIONS, EVENTS, OUTCOMES, SESSIONS

LEDGER_COLUMNS = ("topic", "p", "o", "rows", "checksum")
"""What the ledger says of a block and the log says, too; not when it was applied, which a repeat has otherwise."""


@dataclass(frozen=True)
class Audited:
    """One table's rows of one topic.

    name: columns that tell the rows of a block apart. is_fixed: a row, once written, stays as it is; else the newest
    block that names it has replaced it, and only the newest counts.
    """

    table: Table
    name: tuple[str, ...]
    columns: Callable[[Iterable[tuple[Origin, Any]]], Columns]
    is_fixed: bool

    @property
    def hash(self) -> str:
        """The SQL of a row's hash: of every column, so that no alteration goes unseen."""
        return hash_of(self.table.column_names)

    @property
    def day(self) -> str:
        """The SQL of the day that decides when a row expires, as days since 1970."""
        return f"toUInt32(toDate({self.table.expires_by}))"

    @property
    def shape(self) -> int:
        """A number that changes with the columns."""
        return shape_of(f"{column.name} {column.type}" for column in self.table.columns)


class Read(NamedTuple):
    """A topic that the warehouse stores. kind: of its blocks."""

    topic: str
    kind: type[Struct]
    tables: tuple[Audited, ...]


EVENT_ROWS = Audited(EVENTS, ("n",), rows.event_columns, True)
DECISION_ROWS = Audited(DECISIONS, ("decision_id", "decided"), rows.decision_columns, True)
BAD_ROWS = Audited(BAD, ("n",), rows.refused_columns, True)
READS: tuple[Read, ...] = (
    Read(topics.EVENTS.name, EventBlock, (EVENT_ROWS, DECISION_ROWS)),
    Read(topics.BAD.name, RefusedBlock, (BAD_ROWS,)),
    Read(
        topics.SESSIONS.name,
        SessionBlock,
        (Audited(SESSIONS, ("visitor", "start", "stray_id"), rows.session_columns, False),),
    ),
    Read(
        topics.OUTCOMES.name,
        OutcomeBlock,
        (Audited(OUTCOMES, ("decision_id", "action_id", "decided"), rows.outcome_columns, False),),
    ),
)
FIXED = (EVENT_ROWS, DECISION_ROWS, BAD_ROWS)


def hash_of(columns: Iterable[str]) -> str:
    """Return the SQL of the hash of these columns."""
    return f"cityHash64({', '.join(f'`{name}`' for name in columns)})"


def shape_of(parts: Iterable[str]) -> int:
    """Return a number that changes with any of the texts."""
    return zlib.crc32("\n".join(parts).encode())


LEDGER_HASH = hash_of(LEDGER_COLUMNS)
LEDGER_DAY = f"toUInt32(toDate({BLOCKS.expires_by}))"
LEDGER_SHAPE = shape_of(f"{column.name} {column.type}" for column in BLOCKS.columns if column.name in LEDGER_COLUMNS)


def within(spans: Collection[Span]) -> str:
    """Return the condition for rows of these blocks. Whole numbers only; the index on (p, o) can use it."""
    parts = [f"(p = {int(p)} AND o >= {int(first)} AND o < {int(end)})" for p, first, end in spans]
    return " OR ".join(parts) or "0"


def listed(numbers: Iterable[int]) -> str:
    """Return whole numbers for `IN (…)`."""
    return ", ".join(str(int(number)) for number in sorted(numbers))


def texts(values: Iterable[str]) -> str:
    """Return names of parts for `IN (…)`."""
    return ", ".join("'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for value in sorted(values))

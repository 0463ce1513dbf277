"""The store of who counts caps: a process's turn in one transaction, beside the leases of money (leases.py).

What is decided, and the bound that holds, is in `pipeline/core/slots.py`. Time is the store's: PostgreSQL's own clock,
or with SQLite, which is a file of this machine, the machine's.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, select, text

from pipeline.campaigns.database import Database
from pipeline.campaigns.slot_tables import NOTES, PROCESSES, SLOT_ROWS
from pipeline.core.slots import Asker, Process, Row, SlotRules, Turn, Wait, take_turn
from pipeline.edge.clock import now_ms
from schemas.campaign import DAY_MS

NOTES_KEPT_MS = DAY_MS
"""Of a slot that nobody takes: what is older is of another day, and in the profiles."""


class Note(NamedTuple):
    """What a slot's last holder left for the next one. seq: by which it is deleted."""

    seq: int
    slot: int
    body: str


class Seen(NamedTuple):
    """How all stands: what a turn would be of now, and who holds what. noted: of our slots those that have notes."""

    turn: Turn
    rows: Sequence[Row]
    processes: Sequence[Process]
    noted: Collection[int]


Leave = Callable[[Turn], Mapping[int, str]]
"""Stops holding what a turn gives away; returns slot -> the note for its next holder, for those that need one. To be
quick: everybody who writes waits for it."""


class SlotStore:
    """Everything that may be asked. For any number of threads and processes. Raises Retryable where it is away."""

    def __init__(self, database: Database, rules: SlotRules) -> None:
        """database: migrated before the first turn."""
        self._database = database
        self._rules = rules

    def look(self, asker: Asker) -> Seen:
        """Return what a turn would be of now; nothing is stored."""
        with self._database.reading() as connection:
            return self._seen(connection, asker)

    def turn(self, asker: Asker, leave: Leave) -> Seen:
        """Take a turn. Where this raises, what `leave` gave up may be given up in the store, or not."""
        with self._database.writing() as connection:
            seen = self._seen(connection, asker)
            turn, time_ms = seen.turn, self._now_ms(connection)
            connection.execute(delete(NOTES).where(NOTES.c.written_ms < time_ms - NOTES_KEPT_MS))
            _write_notes(connection, leave(turn), time_ms)
            if turn.rows:
                slots = [row.slot for row in turn.rows]
                connection.execute(delete(SLOT_ROWS).where(SLOT_ROWS.c.slot.in_(slots)))
                values = [row._asdict() | {"waits": _as_text(row.waits)} for row in turn.rows]
                connection.execute(insert(SLOT_ROWS), values)
            connection.execute(delete(PROCESSES).where(PROCESSES.c.holder.in_([turn.me.holder, *turn.gone])))
            connection.execute(insert(PROCESSES), turn.me._asdict())
            return seen

    def give_back(self, me: Process, notes: Mapping[int, str]) -> None:
        """Give back slots that a process holds, each with its note for whoever takes it next."""
        with self._database.writing() as connection:
            is_ours = (SLOT_ROWS.c.holder == me.holder) & SLOT_ROWS.c.slot.in_(list(notes))
            held = connection.execute(select(SLOT_ROWS.c.slot).where(is_ours)).scalars().all()
            _write_notes(connection, {slot: notes[slot] for slot in held}, self._now_ms(connection))
            connection.execute(SLOT_ROWS.update().where(is_ours).values(holder="", home="", expires_ms=0))

    def end(self, me: Process) -> list[int]:
        """Take a process off the list, so that it is given no more; return what it holds, to be given back."""
        with self._database.writing() as connection:
            connection.execute(delete(PROCESSES).where(PROCESSES.c.holder == me.holder))
            query = select(SLOT_ROWS.c.slot).where(SLOT_ROWS.c.holder == me.holder)
            return list(connection.execute(query).scalars())

    def notes(self, slots: Collection[int]) -> list[Note]:
        """Return the notes of slots, the oldest first."""
        query = select(NOTES.c.seq, NOTES.c.slot, NOTES.c.body).where(NOTES.c.slot.in_(list(slots)))
        with self._database.reading() as connection:
            return [Note(*row) for row in connection.execute(query.order_by(NOTES.c.seq))]

    def forget(self, notes: Collection[Note]) -> None:
        """Delete notes that were taken over."""
        with self._database.writing() as connection:
            wanted = delete(NOTES).where(NOTES.c.seq == bindparam("note"))
            connection.execute(wanted, [{"note": note.seq} for note in notes])

    def _seen(self, connection: Connection, asker: Asker) -> Seen:
        rows = [_row(row) for row in connection.execute(select(SLOT_ROWS))]
        processes = [Process(*row) for row in connection.execute(select(PROCESSES))]
        turn = take_turn(asker, rows, processes, self._now_ms(connection), self._rules)
        noted = connection.execute(select(NOTES.c.slot).where(NOTES.c.slot.in_(turn.mine)).distinct()).scalars()
        after = {row.slot: row for row in (*rows, *turn.rows)}
        return Seen(turn, list(after.values()), [*processes, turn.me], set(noted))

    def _now_ms(self, connection: Connection) -> int:
        if self._database.is_sqlite:
            return now_ms()
        found = connection.execute(text("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"))
        return int(found.scalar_one())


def _write_notes(connection: Connection, notes: Mapping[int, str], time_ms: int) -> None:
    values = [{"slot": slot, "written_ms": time_ms, "body": body} for slot, body in notes.items()]
    if values:
        connection.execute(insert(NOTES), values)


def _row(row: Any) -> Row:
    return Row(row.slot, row.holder, row.home, row.term, row.expires_ms, _read_waits(row.waits))


def _read_waits(written: str) -> tuple[Wait, ...]:
    """`home:ended_ms,…` -> waits."""
    pairs = (each.rpartition(":") for each in written.split(",")) if written else ()
    return tuple(Wait(home, int(ended_ms)) for home, _, ended_ms in pairs)


def _as_text(waits: Sequence[Wait]) -> str:
    return ",".join(f"{wait.home}:{wait.ended_ms}" for wait in waits)

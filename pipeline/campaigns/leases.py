"""The lease store: who may spend what, in the relational store that campaigns are in. One short transaction for a talk.

Writers wait for each other (BEGIN IMMEDIATE on SQLite, a row lock on PostgreSQL), so grants are exact for any number of
delivery processes; each process asks the store itself, without a service between them. What is decided, and the bound
that holds, is in `pipeline/core/lease.py`. All delivery processes of a system must use one store: with several machines
that is PostgreSQL.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, inspect, select, update

from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.lease_tables import ACCOUNTS, LEASES
from pipeline.core.lease import (
    Ask,
    Lease,
    Limits,
    Name,
    Place,
    Position,
    Settled,
    Terms,
    View,
    ahead_of_both,
    of_newest_level,
    settle,
)
from pipeline.core.spend import SpendRules
from pipeline.settings import Settings

VARIABLES_MAX = 500  # of one statement: an old SQLite takes 999


class Talk(NamedTuple):
    """What came of a talk: leases as they stand now; lines that nothing was granted for since the view is behind."""

    granted: Sequence[Lease]
    behind: Collection[str]


class _Row(NamedTuple):
    limits: Limits
    position: Position


class Leases:
    """Everything that may be asked. For any number of threads and processes."""

    def __init__(self, database: Database, rules: SpendRules) -> None:
        """database: migrated. rules: those of the spend stage."""
        self.database = database
        self._rules = rules

    def talk(
        self,
        asks: Sequence[Ask],
        terms: Mapping[str, Terms],
        declared: Mapping[str, int],
        view: View,
        time_ms: int,
        still: AbstractContextManager[object] | None = None,
    ) -> Talk:
        """Take declarations, close what can be closed of the lines and campaigns asked for, and grant.

        terms: by line id, of every line asked for. declared: lease id -> what was reserved under it, for leases that
        are used no more. time_ms: now. still: held while the view is asked. All of it is stored, or nothing. Raises
        Retryable where the store is away; then it may have been stored all the same, and a new lease that was asked for
        is to be declared with 0.
        """
        with self.database.writing() as connection:
            _declare(connection, declared)
            if not asks:
                return Talk((), ())
            found = _open_of(connection, asks)
            names = {name for lease in found for name in lease.names}
            with still or nullcontext():
                newest = [of_newest_level(one, view) for one in terms.values()]
                rows = self._rows(connection, names, newest)
                limits = {name: row.limits for name, row in rows.items()}
                positions = {name: row.position for name, row in rows.items()}
                settled = settle(asks, limits, positions, found, view, self._rules)
            self._store(connection, settled, positions, time_ms)
            return Talk(settled.granted, settled.behind)

    def short(self, names: Iterable[Name], since_ms: int) -> set[Name]:
        """Return those of these lines and campaigns that had nothing left for somebody since then. Raises Retryable."""
        wanted = set(names)
        with self.database.reading() as connection:
            found = connection.execute(select(ACCOUNTS.c.kind, ACCOUNTS.c.id).where(ACCOUNTS.c.short_ms > since_ms))
            return {(kind, key) for kind, key in found} & wanted

    def open_leases(self) -> list[Lease]:
        """Return all that are not closed. Raises Retryable."""
        with self.database.reading() as connection:
            return _all_leases(connection)

    def limits(self) -> dict[Name, Limits]:
        """Return the limits of every line and campaign that money was asked for. Raises Retryable."""
        with self.database.reading() as connection:
            return _all_limits(connection)

    def _rows(self, connection: Connection, names: Iterable[Name], terms: Iterable[Terms]) -> dict[Name, _Row]:
        """Return the rows of these names and of the terms', made or brought up to the terms where those are newer."""
        wanted: dict[Name, Limits] = {}
        for one in terms:
            for name, limits in one.limits.items():
                if name not in wanted or limits.is_newer(wanted[name]):
                    wanted[name] = limits
        rows = {name: self._row(row) for name, row in _accounts(connection, {*names, *wanted})}
        for name, limits in wanted.items():
            if name not in rows:
                values = {"kind": name[0], "id": name[1], "position": "", "short_ms": 0}
                connection.execute(insert(ACCOUNTS).values(**values, **limits._asdict()))
                rows[name] = _Row(limits, ())
            elif limits.is_newer(rows[name].limits):
                connection.execute(update(ACCOUNTS).where(*_is(name)).values(**limits._asdict()))
                rows[name] = rows[name]._replace(limits=limits)
        return rows

    @staticmethod
    def _row(row: Any) -> _Row:
        return _Row(Limits(row.version, row.total_micros, row.daily_micros), _read_position(row.position))

    def _store(
        self, connection: Connection, settled: Settled, positions: Mapping[Name, Position], time_ms: int
    ) -> None:
        again = [*settled.closed, *(lease.lease_id for lease in settled.granted)]
        for start in range(0, len(again), VARIABLES_MAX):
            connection.execute(delete(LEASES).where(LEASES.c.lease_id.in_(again[start : start + VARIABLES_MAX])))
        if settled.granted:
            connection.execute(insert(LEASES), [lease._asdict() | {"is_final": 0} for lease in settled.granted])
        for name in sorted(settled.names):
            position = ahead_of_both(positions.get(name, ()), settled.position)
            connection.execute(update(ACCOUNTS).where(*_is(name)).values(position=_as_text(position)))
        for name in sorted({(account.kind, account.id) for account in settled.short}):
            connection.execute(update(ACCOUNTS).where(*_is(name)).values(short_ms=time_ms))


def holdings(settings: Settings) -> tuple[list[Lease], dict[Name, Limits]] | None:
    """Return the open leases and the limits of a store, None where there are none yet. Raises Retryable."""
    url = url_of(settings)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return None
    database = Database(url)
    try:
        with database.reading() as connection:
            if not inspect(connection).has_table(LEASES.name):
                return None
            return _all_leases(connection), _all_limits(connection)
    finally:
        database.close()


def _all_leases(connection: Connection) -> list[Lease]:
    return [_lease(row) for row in connection.execute(select(LEASES))]


def _all_limits(connection: Connection) -> dict[Name, Limits]:
    columns = (ACCOUNTS.c.kind, ACCOUNTS.c.id, ACCOUNTS.c.version, ACCOUNTS.c.total_micros, ACCOUNTS.c.daily_micros)
    return {(kind, key): Limits(*found) for kind, key, *found in connection.execute(select(*columns))}


def _accounts(connection: Connection, names: Iterable[Name]) -> Iterable[tuple[Name, Any]]:
    ids: dict[str, list[str]] = {}
    for kind, key in sorted(names):
        ids.setdefault(kind, []).append(key)
    for kind, keys in ids.items():
        for start in range(0, len(keys), VARIABLES_MAX):
            some = keys[start : start + VARIABLES_MAX]
            query = select(ACCOUNTS).where(ACCOUNTS.c.kind == kind, ACCOUNTS.c.id.in_(some))
            yield from (((row.kind, row.id), row) for row in connection.execute(query))


def _declare(connection: Connection, declared: Mapping[str, int]) -> None:
    """Make the leases final: what is granted is from now on what was reserved. A closed one is not there any more."""
    if declared:
        wanted = update(LEASES).where(LEASES.c.lease_id == bindparam("name"))
        values = [{"name": lease_id, "reserved": micros} for lease_id, micros in declared.items()]
        connection.execute(wanted.values(granted_micros=bindparam("reserved"), is_final=1), values)


def _open_of(connection: Connection, asks: Sequence[Ask]) -> list[Lease]:
    """Return all open leases of the lines and campaigns asked for."""
    found: dict[str, Lease] = {}
    for column in (LEASES.c.line_id, LEASES.c.campaign_id):
        names = sorted({getattr(ask.lease, column.name) for ask in asks})
        for start in range(0, len(names), VARIABLES_MAX):
            query = select(LEASES).where(column.in_(names[start : start + VARIABLES_MAX]))
            found |= {row.lease_id: _lease(row) for row in connection.execute(query)}
    return list(found.values())


def _lease(row: Any) -> Lease:
    found = Lease(*row)
    return found._replace(is_final=bool(found.is_final))


def _is(name: Name) -> tuple[Any, Any]:
    return ACCOUNTS.c.kind == name[0], ACCOUNTS.c.id == name[1]


def _read_position(text: str) -> Position:
    """`version:clock_ms:generation,…` -> Position."""
    return tuple(Place(*map(int, each.split(":"))) for each in text.split(",")) if text else ()


def _as_text(position: Position) -> str:
    return ",".join(":".join(map(str, place)) for place in position)

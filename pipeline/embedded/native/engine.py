"""chDB, the ClickHouse engine of this process: opened once, one session of it for each client.

Sessions run side by side; within one session one thing at a time. What a session has SET or USEd is its own.
"""

import json
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import chdb

from pipeline.embedded.native.faults import ServerError, from_engine
from pipeline.embedded.native.statement import TAG_SETTING, quote

_ENGINE_ERRORS: Final = (chdb.ChdbError, RuntimeError)
_READONLY: Final = "readonly"
_SETS_KEPT_MAX: Final = 1_000

Progress = Callable[[Mapping[str, int]], None]


class Engine:
    """The engine over one data folder. No other process may have the folder open."""

    def __init__(self, data_path: Path, config_file: Path, defaults: Mapping[str, int]) -> None:
        """Open the folder, making it if it is new.

        config_file: server settings in ClickHouse's XML (memory, caches, pools). defaults: settings of every session.
        Raises ServerError with the engine's reason when the folder cannot be opened.
        """
        self._address = f"{data_path}?config-file={config_file}"
        self._defaults = dict(defaults)
        self._control_lock = threading.Lock()
        self._control = EngineSession(self._address, "herald-control", self._defaults)
        rows = self._control.rows("SELECT version(), timezone()")
        self.version = tuple(int(part) for part in str(rows[0][0]).split(".")[:3])
        self.timezone = str(rows[0][1])
        self.setting_names = frozenset(str(row[0]) for row in self._control.rows("SELECT name FROM system.settings"))

    def session(self, tag: str) -> "EngineSession":
        """Open a session; `tag` names it in system.processes."""
        return EngineSession(self._address, tag, self._defaults)

    def kill(self, tag: str) -> None:
        """Stop what the session of this tag runs. Returns at once; nothing running is no error."""
        with self._control_lock:
            self._control.read(f"KILL QUERY WHERE Settings['{TAG_SETTING}'] = {quote(tag)} ASYNC")

    def close(self) -> None:
        """Close; sessions must be closed before."""
        self._control.close()


class EngineSession:
    """One client's session in the engine."""

    def __init__(self, address: str, tag: str, defaults: Mapping[str, int]) -> None:
        """Connect (0.2 ms once the engine is open)."""
        self._address = address
        self._defaults = defaults
        self.tag = tag
        self.applied: dict[str, str] = {}
        """Settings of the statement that runs, as its client sent them."""
        # A server has implicit_select off; chDB would take a misspelt SELECT for an expression.
        values = {TAG_SETTING: quote(tag), "implicit_select": 0, **defaults}
        self._first_set = "SET " + ", ".join(f"{name} = {value}" for name, value in values.items())
        self._sets: list[str] = []
        self._database = ""
        try:
            self._connection: Any = chdb.connect(address)  # type: ignore[no-untyped-call]
        except _ENGINE_ERRORS as error:
            raise from_engine(error) from error
        self.read(self._first_set)

    def apply(self, settings: Mapping[str, str]) -> None:
        """Make these the settings of the next statement; what the last one had beyond them goes back to default.

        Nothing is sent when they are the same as last time, as they are for most clients.
        """
        gone = [name for name in self.applied if name not in settings]
        new = {name: value for name, value in settings.items() if self.applied.get(name) != value}
        if gone:
            self.read("SET " + ", ".join(f"{name} = DEFAULT" for name in gone))
            for name in gone:
                del self.applied[name]
            for sql in (self._first_set, *self._sets):
                self.read(sql)
        if new:
            self.read("SET " + ", ".join(f"{name} = {quote(value)}" for name, value in new.items()))
            self.applied.update(new)

    def set(self, sql: str) -> None:
        """Run the client's own SET statement; it holds for the rest of the session."""
        self.apply({})
        self.read(sql)
        if sql in self._sets:
            self._sets.remove(sql)
        self._sets = [*self._sets, sql][-_SETS_KEPT_MAX:]

    def use(self, database: str) -> None:
        """Choose the database; quoted as the client wrote it."""
        self.read(f"USE {database}")
        self._database = database

    def sibling(self, settings: Mapping[str, str]) -> Self:
        """Open a session in the same state for one statement that must leave no trace, as `readonly` would."""
        other = type(self)(self._address, self.tag, self._defaults)
        try:
            if self._database:
                other.use(self._database)
            for sql in self._sets:
                other.read(sql)
            other.apply(settings)
        except ServerError:
            other.close()
            raise
        return other

    def statements(self, sql: str) -> int:
        """Count the statements in a text, as the engine parses it; 0 when it does not parse."""
        try:
            return int(self._connection._conn.classify_query(sql)["statement_count"])
        except _ENGINE_ERRORS as error:
            raise from_engine(error) from error

    def read(self, sql: str, progress: Progress | None = None) -> bytes:
        """Run a statement to its end and return its rows as Native blocks.

        progress: as in `stream`.
        """
        self._connection.set_progress_callback(progress)
        try:
            return bytes(self._connection.query(sql, "Native").bytes())
        except _ENGINE_ERRORS as error:
            raise from_engine(error) from error
        finally:
            self._connection.set_progress_callback(None)

    def rows(self, sql: str) -> list[list[object]]:
        """Run a small query of our own and return its rows."""
        try:
            raw = self._connection.query(sql, "JSONCompact").bytes()
        except _ENGINE_ERRORS as error:
            raise from_engine(error) from error
        rows: list[list[object]] = json.loads(raw)["data"]
        return rows

    def stream(self, sql: str, progress: Progress) -> Generator[tuple[int, bytes], None, None]:
        """Run a query; give (rows, Native bytes) as they come. A second thread may `Engine.kill` it meanwhile.

        progress: called from inside, at most ten times a second, with read_rows, read_bytes, total_rows_to_read.
        """
        self._connection.set_progress_callback(progress)
        stream = None
        try:
            stream = self._connection.send_query(sql, "Native")
            for chunk in stream:
                yield int(chunk.rows_read()), bytes(chunk.bytes())
            stream = None
        except _ENGINE_ERRORS as error:
            stream = None
            raise from_engine(error) from error
        finally:
            if stream is not None:
                stream.cancel()
            self._connection.set_progress_callback(None)

    def described(self, sql: str) -> list[tuple[str, str]]:
        """Return (name, type) of a query's columns without running it."""
        return [(str(row[0]), str(row[1])) for row in self.rows(f"DESCRIBE TABLE ({sql}\n)")]

    def insertable(self, target: str, columns: tuple[str, ...]) -> list[tuple[str, str]]:
        """Return (name, type) of the columns that an INSERT fills.

        columns: those it lists; () means all that are neither computed nor aliases.
        Raises ServerError 16 for a column that is not there.
        """
        found = self.rows(f"DESCRIBE TABLE {target}")
        if not columns:
            return [(str(row[0]), str(row[1])) for row in found if row[2] not in ("MATERIALIZED", "ALIAS", "EPHEMERAL")]
        types = {str(row[0]): str(row[1]) for row in found}
        for name in columns:
            if name not in types:
                raise ServerError(16, f"No such column {name} in table {target}. (NO_SUCH_COLUMN_IN_TABLE)")
        return [(name, types[name]) for name in columns]

    def close(self) -> None:
        """Disconnect; a stream still open is given up."""
        self._connection.close()

"""The relational store as an engine: SQLite in the data folder, or PostgreSQL by URL. One writer at a time on both.

SQLite has one writer by itself (BEGIN IMMEDIATE, so that a writer waits at its beginning and never half-way). On
PostgreSQL writers wait for each other at one row: changes are few and short, and no two of them can deadlock.
"""

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pipeline.campaigns.tables import KEY, META, SERIAL, STEPS
from pipeline.errors import Retryable, SettingsError, StateError
from pipeline.settings import Settings

FILE: Final = "campaigns.db"
WAIT_S: Final = 10
"""A writer waits so long for another one, then the change may be asked for again."""
SCHEMA: Final = "schema"
LOCK_KEYS: Final = (0x48455241, 0x4C44)  # of the advisory locks; they share one space with others' of the database
_WRITES: Final = "herald_writes"
_MAKING: Final = threading.Lock()
_DRIVERS: Final = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def url_of(settings: Settings) -> URL:
    """Return where the store is. Raises SettingsError for an address that names no store of ours."""
    given = settings.campaigns_url.get_secret_value()
    if not given:
        return URL.create("sqlite", database=str(settings.data_dir / FILE))
    expected = "expected postgresql://user:password@host:port/database, or sqlite:////file"
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise SettingsError(f"HERALD_CAMPAIGNS_URL = (hidden): it cannot be read; {expected}") from None
    driver = _DRIVERS.get(url.drivername.partition("+")[0])
    if driver is None or not url.database or url.database == ":memory:":
        raise SettingsError(f"HERALD_CAMPAIGNS_URL = {url.drivername}://…: no store of ours; {expected}")
    return url.set(drivername=driver)


class Database:
    """The engine, its transactions, and the lock of who publishes. For any number of threads and processes."""

    def __init__(self, url: URL, steps: Sequence[Sequence[str]] = STEPS) -> None:
        """url: see `url_of`. steps: how the tables are made. Nothing is opened yet."""
        self._steps = steps
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._file = Path(url.database or "") if self.is_sqlite else None
        self.name = str(self._file) if self._file else url.render_as_string(hide_password=True)
        self._engine: Engine = create_engine(url, **self._options())
        if self.is_sqlite:
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)

    def _options(self) -> dict[str, Any]:
        if self.is_sqlite:
            return {"connect_args": {"timeout": WAIT_S}}
        limits = f"-c statement_timeout={3 * WAIT_S * 1_000} -c lock_timeout={WAIT_S * 1_000}"
        patience = {"connect_timeout": 5, "options": limits, "application_name": "herald"}
        return {"connect_args": patience, "pool_pre_ping": True, "pool_timeout": WAIT_S}

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Have a connection in which all is read as of one moment. Raises Retryable where the store is away."""
        with self.faults(), self._engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """Have a connection alone: what is done with it is stored as a whole at the end, or, on any error, not at all.

        Raises Retryable where the store is away, or others write for too long.
        """
        with self._transaction() as connection:
            if not self.is_sqlite:
                connection.execute(select(META.c.value).where(META.c.name == SCHEMA).with_for_update())
            yield connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self.faults(), self._engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def migrate(self) -> int:
        """Bring the tables to the present schema; return how many steps that took.

        Raises SettingsError where a newer Herald made them, or they cannot be made or written; Retryable.
        """
        if self._file is not None:
            _make_file(self._file)
        try:
            with self._transaction() as connection:
                if not self.is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:a, :b)"), _lock_of(SCHEMA))
                return self._migrate(connection)
        except ProgrammingError as error:
            text_ = f"the store {self.name}: {_first_line(error)}; expected a user who may make and change its tables"
            raise SettingsError(text_) from error

    def _migrate(self, connection: Connection) -> int:
        connection.execute(text("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)"))
        found = connection.execute(select(META.c.value).where(META.c.name == SCHEMA)).scalar()
        taken = int(found or 0)
        if found is None:
            connection.execute(META.insert().values(name=SCHEMA, value="0"))
        if taken > len(self._steps):
            raise SettingsError(
                f"{self.name}: its tables are of version {taken}, expected at most {len(self._steps)}: "
                "a newer Herald has used them"
            )
        engine = "sqlite" if self.is_sqlite else "postgresql"
        for step in self._steps[taken:]:
            for statement in step:
                connection.execute(text(statement.format(serial=SERIAL[engine], key=KEY[engine])))
        connection.execute(update(META).where(META.c.name == SCHEMA).values(value=str(len(self._steps))))
        return len(self._steps) - taken

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator["Held | None"]:
        """Hold a lock among all processes on this store; None where another one has it.

        It ends with the process, whatever happens to it. what: to be done by one process at a time.
        """
        if self._file is not None:
            with _locked(self._file.with_name(f"{self._file.name}.{what}")) as is_ours:
                yield Held(self, None) if is_ours else None
            return
        with self.faults(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            arguments = _lock_of(what)
            is_ours = bool(connection.execute(text("SELECT pg_try_advisory_lock(:a, :b)"), arguments).scalar())
            try:
                yield Held(self, connection) if is_ours else None
            finally:
                if is_ours and not connection.invalidated:  # else it is gone, and the lock with it
                    with contextlib.suppress(DBAPIError):
                        connection.execute(text("SELECT pg_advisory_unlock(:a, :b)"), arguments)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextlib.contextmanager
    def faults(self) -> Iterator[None]:
        """Tell a store that is away, or busy for too long, from a bug."""
        try:
            yield
        except (OperationalError, PoolTimeout) as error:
            raise Retryable(f"the store {self.name}: {_first_line(error)}") from error
        except DBAPIError as error:
            if type(error) is DatabaseError:  # of SQLite, and no kind of it: the file itself is wrong
                raise StateError(f"the store {self.name}: {_first_line(error)}; put it back from a backup") from error
            if not error.connection_invalidated:
                raise
            raise Retryable(f"the store {self.name}: {_first_line(error)}") from error


def _make_file(path: Path) -> None:
    """Make SQLite's file for its owner alone, and its folder. Raises SettingsError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _MAKING:
            # never closed once it may be in use: that would drop the locks that SQLite has on it in this process, and
            # another process could take itself for the last one and delete the log of changes
            if not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileExistsError:
        pass  # another process has just made it
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; expected a file that can be written") from error


class Held:
    """A lock that was held when this was made."""

    def __init__(self, database: Database, connection: Connection | None) -> None:
        """connection: the one that the lock hangs on; None where it hangs on this process."""
        self._database, self._connection = database, connection

    def check(self) -> None:
        """Raise Retryable where it may be lost: the connection to the store broke."""
        if self._connection is not None:
            with self._database.faults():
                self._connection.execute(text("SELECT 1"))


def _lock_of(what: str) -> dict[str, int]:
    return {"a": LOCK_KEYS[0], "b": LOCK_KEYS[1] + sum(what.encode())}


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return str(cause).strip().partition("\n")[0][:200]


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver would begin transactions by itself, at another moment than we
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)

"""The warehouse as the rest of the code sees it; nothing else imports clickhouse_driver.

The address decides whether a ClickHouse server or the embedded warehouse answers; the code is the same for both.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from clickhouse_driver import Client
from clickhouse_driver import errors as driver_errors
from clickhouse_driver.util.helpers import parse_url

from pipeline.errors import HeraldError, Retryable, SettingsError

BLOCK_ROWS_MAX = 1_048_576
"""Rows of one insert. The driver splits above it, and two blocks are two parts: no longer all or nothing."""

RETRYABLE_CODES = frozenset({159, 164, 202, 203, 209, 210, 216, 241, 242, 243, 252, 319, 394, 999})
"""Server errors that pass by themselves: time-outs, read-only, no memory, no space, too many parts, lost answer,
no Keeper; also 216 (an earlier copy of the same query id still runs) and 394 (the query was killed)."""

_TOO_MANY_PARTITIONS = "Too many partitions"
_SCARCE = re.compile(r"errno: (?:12|24|28|122)\b")
"""No memory, no file handles, no space, no quota, under whatever code the server met it."""


class Unavailable(Retryable):
    """The warehouse is away, full or busy. After an insert it means: perhaps written, perhaps not.

    code: ClickHouse's error code, or None when the connection broke.
    """

    def __init__(self, text: str, code: int | None) -> None:
        super().__init__(text)
        self.code = code


class Refused(HeraldError):
    """The warehouse understood and said no (wrong SQL, wrong type, unknown table): a retry would fail the same way.

    code: ClickHouse's error code.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def is_retryable(error: BaseException) -> bool:
    """Say whether the same call may succeed later (else it is a bug or a bad row).

    error: what a call on `Warehouse` or on the driver raised.
    Code 252 is retried only when it means too many parts; too many partitions in one insert stays wrong for ever.
    """
    if isinstance(error, driver_errors.ServerException):
        text = str(error.message)
        if error.code == 252 and _TOO_MANY_PARTITIONS in text:
            return False
        return error.code in RETRYABLE_CODES or _SCARCE.search(text) is not None
    transport = (driver_errors.NetworkError, driver_errors.SocketTimeoutError, OSError, EOFError, Retryable)
    broken = (driver_errors.UnexpectedPacketFromServerError, driver_errors.ChecksumDoesntMatchError)
    return isinstance(error, (*transport, *broken))


def insert_settings(version: tuple[int, ...], token: str | None, partitions_max: int = 1) -> dict[str, object]:
    """Return the settings of an insert, each by name because the defaults moved between versions.

    version: the server's (major, minor, patch); `deduplicate_insert` replaced `insert_deduplicate` in 26.2.
    token: name of the rows, the same at each retry; acts only on a table that keeps a deduplication window.
    partitions_max: partitions that one insert may touch; 1 keeps it one part, so all or nothing.
    """
    settings: dict[str, object] = {
        "async_insert": 0,
        "max_insert_threads": 1,
        "deduplicate_blocks_in_dependent_materialized_views": 1,
        "materialized_views_ignore_errors": 0,
        "max_partitions_per_insert_block": partitions_max,
    }
    if version >= (26, 2):
        settings["deduplicate_insert"] = "enable"
    else:
        settings["insert_deduplicate"] = 1
    if token is not None:
        settings["insert_deduplication_token"] = token
    return settings


class Source(Protocol):
    """What of `Warehouse` is used to ask it."""

    def execute(self, sql: str, params: Mapping[str, object] | None = None) -> list[tuple[object, ...]]:
        """Run a query and return its rows."""


class Warehouse:
    """A ClickHouse by address. Safe to share: each thread gets a connection of its own, made when first needed.

    A broken connection is made anew at the next call. Nothing is retried here: whether and how long is the caller's.
    """

    def __init__(self, host: str, options: Mapping[str, object]) -> None:
        """Take what `from_url` read; connects to nothing yet."""
        self._host = host
        self._options = dict(options)
        self._local = threading.local()
        self._clients: list[Client] = []
        self._lock = threading.Lock()

    @classmethod
    def from_url(cls, url: str, send_receive_timeout_s: float = 30.0) -> Self:
        """Read `clickhouse://user:password@host:port/database?secure=true` (or `clickhouses://`); connects later.

        send_receive_timeout_s: silence after which a call ends as `Unavailable`; the address may override it.
        Raises SettingsError when the address is none.
        """
        scheme = url.partition("://")[0]
        if scheme not in ("clickhouse", "clickhouses"):
            raise SettingsError(
                f"HERALD_CLICKHOUSE_URL starts with {scheme!r}; expected clickhouse://user:password@host:port/database"
            )
        try:
            host, options = parse_url(url)
        except ValueError as error:
            raise SettingsError(f"HERALD_CLICKHOUSE_URL cannot be read: {error}") from error
        if not host:
            raise SettingsError("HERALD_CLICKHOUSE_URL names no host; expected clickhouse://host:port/database")
        defaults = {"send_receive_timeout": send_receive_timeout_s, "connect_timeout": 5.0, "client_name": "herald"}
        return cls(host, {**defaults, **options, "settings_is_important": True})

    def execute(
        self,
        sql: str,
        params: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        query_id: str | None = None,
    ) -> list[tuple[object, ...]]:
        """Run one statement and return its rows ([] for DDL).

        params: values put for %(name)s, escaped by the driver. Rows go in by `insert`, never here.
        Raises Unavailable (try later) or Refused (will never work).
        """
        client = self._client()
        try:
            rows = client.execute(
                sql,
                dict(params) if params is not None else None,
                settings=dict(settings or {}),
                query_id=query_id,
                types_check=False,
            )
        except (driver_errors.Error, OSError, EOFError) as error:
            raise self._translated(error) from error
        return rows if isinstance(rows, list) else []

    def insert(
        self,
        table: str,
        column_names: Sequence[str],
        columns: Sequence[Sequence[object]],
        query_id: str | None = None,
        partitions_max: int = 1,
    ) -> int:
        """Insert rows given column by column, as one block, all or nothing; return how many.

        columns: one sequence for each name, all of one length, BLOCK_ROWS_MAX rows at most; none is a no-op.
        query_id: name of these rows, the same at each retry. While a copy of it still runs the server refuses the
        next with code 216 (`Unavailable`), and it is the deduplication token where a table keeps a window.
        partitions_max: more than 1 gives up all or nothing across partitions.
        Raises Unavailable (perhaps written: see `settle`), Refused (not written), ValueError (wrong shape).
        """
        rows = _rows(table, column_names, columns)
        if rows == 0:
            return 0
        names = ", ".join(f"`{name}`" for name in column_names)
        client = self._client()
        try:
            if client.connection.server_info is None:
                client.connection.connect()
            version = client.connection.server_info.version_tuple()
            client.execute(
                f"INSERT INTO {table} ({names}) VALUES",
                [column if isinstance(column, (list, tuple)) else list(column) for column in columns],
                settings=insert_settings(version, query_id, partitions_max),
                query_id=query_id,
                types_check=False,
                columnar=True,
            )
        except (driver_errors.Error, OSError, EOFError) as error:
            raise self._translated(error) from error
        return rows

    def settle(self, query_id: str) -> None:
        """After an uncertain insert: stop whatever still runs under query_id and wait until it is gone.

        Only then does counting the rows say for good whether they were written.
        Raises Unavailable or Refused.
        """
        self.execute("KILL QUERY WHERE query_id = %(query_id)s SYNC", {"query_id": query_id})

    def ping(self) -> None:
        """Ask for a sign of life that goes through the engine. Raises Unavailable or Refused."""
        self.execute("SELECT 1")

    def close(self) -> None:
        """Close the connections of all threads; a later call makes new ones."""
        with self._lock:
            clients, self._clients, self._local = self._clients, [], threading.local()
        for client in clients:
            client.disconnect()

    def __enter__(self) -> Self:
        """Return itself; the connections close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _client(self) -> Client:
        client = getattr(self._local, "client", None)
        if not isinstance(client, Client):
            client = Client(self._host, **self._options)
            with self._lock:
                self._clients.append(client)
                self._local.client = client
        return client

    def _translated(self, error: BaseException) -> Unavailable | Refused:
        code = getattr(error, "code", None)
        code = code if isinstance(code, int) else None
        text = str(getattr(error, "message", None) or error) or type(error).__name__
        text = text.partition(". Stack trace:")[0]
        where = f"warehouse {self._host}:{self._options.get('port', 9000)}"
        if is_retryable(error):
            return Unavailable(f"{where}: {text}", code)
        return Refused(f"{where}: code {code}: {text}", code if code is not None else 0)


def make_database(url: str, name: str) -> None:
    """Make a database where it is missing. url: of another database that is there. Raises Unavailable or Refused."""
    with Warehouse.from_url(url) as warehouse:
        warehouse.execute("CREATE DATABASE IF NOT EXISTS `{}`".format(name.replace("\\", "\\\\").replace("`", "\\`")))


def _rows(table: str, column_names: Sequence[str], columns: Sequence[Sequence[object]]) -> int:
    if len(column_names) != len(columns) or not columns:
        raise ValueError(f"insert into {table}: {len(column_names)} names for {len(columns)} columns; expected as many")
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        sizes = ", ".join(f"{name}={len(column)}" for name, column in zip(column_names, columns, strict=True))
        raise ValueError(f"insert into {table}: columns differ in length: {sizes}")
    rows = lengths.pop()
    if rows > BLOCK_ROWS_MAX:
        raise ValueError(f"insert into {table}: {rows} rows; expected {BLOCK_ROWS_MAX} at most in one insert")
    return rows

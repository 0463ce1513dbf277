"""INSERT with rows from the client: its blocks go to the engine as they came, in bounded memory.

Nothing reaches the engine before a block is whole, so a client that dies leaves nothing half done. What the engine gets
at once becomes one part of each partition it touches: all or nothing.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

from pipeline.embedded.native import packets
from pipeline.embedded.native.blocks import skip_block
from pipeline.embedded.native.channel import Channel
from pipeline.embedded.native.engine import EngineSession
from pipeline.embedded.native.faults import ServerError
from pipeline.embedded.native.packets import FromClient
from pipeline.embedded.native.running import Running, RunningQueries
from pipeline.embedded.native.spool import Spool
from pipeline.embedded.native.statement import Statement, quote
from pipeline.embedded.native.wire import ByteReader

_NAME_BYTES_MAX: Final = 1 << 16
_GATHER_ROWS: Final = 1_048_449
_GATHER_BYTES: Final = 64 << 20
"""Small blocks of one INSERT are gathered up to here, as a server does, so that they make one part, not hundreds."""
_TOKEN: Final = "insert_deduplication_token"


class Cancelled(Exception):
    """The client sent Cancel instead of the next block."""


def read_blocks(
    outer: ByteReader, inner: ByteReader, walk: Callable[[ByteReader], tuple[int, int]]
) -> Iterator[tuple[str, int]]:
    """Pass Data packets by until the empty one; give (table name, rows) of each.

    outer: where packets start. inner: where blocks are read, another reader when they are compressed.
    Raises Cancelled, or ServerError 101 for another packet.
    """
    while True:
        kind = outer.varint()
        if kind == FromClient.CANCEL:
            raise Cancelled
        if kind != FromClient.DATA:
            raise ServerError(101, f"Unexpected packet {kind} from client; expected Data (2)", fatal=True)
        name = outer.text(_NAME_BYTES_MAX)
        packets.skip_block_info(inner)
        columns, rows = walk(inner)
        if inner is not outer and not inner.at_boundary:
            raise ServerError(271, "a compressed block goes on behind its own end", fatal=True)
        if not columns:
            return
        yield name, rows


class InsertFeed:
    """One INSERT from the sample block to the acknowledgement."""

    def __init__(self, channel: Channel, registry: RunningQueries, engine: EngineSession, blocks: ByteReader) -> None:
        """blocks: where the client's blocks are read."""
        self._channel = channel
        self._registry = registry
        self._engine = engine
        self._blocks = blocks
        self._failure: ServerError | None = None

    def run(self, statement: Statement, query: packets.Query) -> None:
        """Take the client's blocks and write them; the session has the query's settings already.

        Raises ServerError before the client was asked for rows; later it is told here and its rows are passed by.
        """
        columns = self._engine.insertable(statement.target, statement.columns)
        running = Running(self._engine.tag, query.query_id, query.sql, self._channel.socket, is_insert=True)
        self._registry.begin(running)
        usual_tick = self._channel.on_tick
        try:
            self._channel.send(packets.data(packets.header_block(columns), query.compressed))
            with Spool() as spool:
                self._spool = spool
                self._channel.on_tick = lambda: self._check(running)
                self._take(statement, query, running)
        except Cancelled:
            self._channel.send(packets.END_OF_STREAM)
        finally:
            self._channel.on_tick = usual_tick
            self._registry.end(running)

    def _take(self, statement: Statement, query: packets.Query, running: Running) -> None:
        gathered = written = flushes = 0
        for _, rows in read_blocks(self._channel.reader, self._blocks, self._walk):
            self._check(running)
            gathered += rows
            if gathered >= _GATHER_ROWS or self._spool.size_bytes >= _GATHER_BYTES:
                written, gathered, flushes = written + gathered, 0, flushes + 1
                self._flush(statement, query, running, flushes)
        if gathered:
            written += gathered
            self._flush(statement, query, running, flushes + 1)
        if self._failure is None:
            self._channel.send(packets.progress((0, 0, 0), (written, 0)) + packets.END_OF_STREAM)

    def _walk(self, blocks: ByteReader) -> tuple[int, int]:
        """Pass one block by into the spool; the empty one, which only says the end, is left out."""
        blocks.tap(self._spool.write if self._failure is None else _forget)
        columns = rows = 0
        try:
            columns, rows = skip_block(blocks)
        finally:
            blocks.untap(keep=columns > 0)
        return columns, rows

    def _flush(self, statement: Statement, query: packets.Query, running: Running, number: int) -> None:
        """Let the engine write what is gathered; it is on disk when this returns without a failure."""
        if self._failure is None:
            try:
                token = query.settings.get(_TOKEN)
                if token and number > 1:
                    # Or the second part of one insert would pass for a repetition of the first.
                    self._engine.apply({**self._engine.applied, _TOKEN: f"{token}:{number}"})
                running.enter_engine()
                source = f"FROM INFILE {quote(self._spool.path)}"
                self._engine.read(f"{statement.sql} {source} {statement.rest} FORMAT Native")
            except ServerError as error:
                self._fail(error)
            finally:
                running.leave_engine()
        self._spool.clear()

    def _check(self, running: Running) -> None:
        """While rows are awaited, the engine cannot notice a kill or a time limit."""
        if self._failure is not None:
            return
        limit_s = float(self._engine.applied.get("max_execution_time") or 0)
        if running.stop is not None:
            self._fail(ServerError(394, f"Query was cancelled ({running.stop.value}). (QUERY_WAS_CANCELLED)"))
        elif 0 < limit_s < time.monotonic() - running.started_s:
            self._fail(ServerError(159, f"Timeout exceeded: {limit_s:g} s have passed. (TIMEOUT_EXCEEDED)"))
        if self._failure is not None:
            self._registry.end(running)

    def _fail(self, error: ServerError) -> None:
        """Give up and say so at once; what the client still sends is passed by, so that it can go on afterwards."""
        self._failure = error
        self._channel.send(packets.exception(error))


def _forget(_: bytes) -> None:
    """Drop a piece."""

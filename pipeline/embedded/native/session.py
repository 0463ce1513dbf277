"""One client's conversation: hello, then statements one after another, in a thread of its own."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.embedded.native import packets
from pipeline.embedded.native.blocks import skip_block
from pipeline.embedded.native.channel import Channel
from pipeline.embedded.native.engine import Engine, EngineSession
from pipeline.embedded.native.faults import ClientGone, ServerError
from pipeline.embedded.native.insert import InsertFeed, read_blocks
from pipeline.embedded.native.kill import kill_queries
from pipeline.embedded.native.packets import FromClient
from pipeline.embedded.native.running import Running, RunningQueries, Stop
from pipeline.embedded.native.statement import Kind, Statement, read_statement, show_query_ids
from pipeline.embedded.native.wire import ByteReader, read_frame

_HTTP_FIRST: Final = frozenset(b"GPHDOTC")  # GET, POST, PUT, PATCH, HEAD, DELETE, OPTIONS, TRACE, CONNECT


@dataclass(frozen=True)
class House:
    """What all sessions share.

    user, password: the one account. stopping: true once the process is to end.
    """

    engine: Engine
    running: RunningQueries
    user: str
    password: str
    stopping: Callable[[], bool]


class Session:
    """The server's side of one connection."""

    def __init__(self, house: House, channel: Channel, tag: str) -> None:
        """Take a fresh connection; `tag` is unique in this process."""
        self._house = house
        self._channel = channel
        self._tag = tag
        self._revision = packets.REVISION
        self._engine: EngineSession | None = None

    def serve(self) -> None:
        """Speak until the client leaves, breaks the protocol, or the process stops."""
        try:
            self._channel.on_tick = self._leave_when_stopping
            self._greet()
            while True:
                self._serve_packet()
        except ClientGone:
            pass
        except ServerError as error:
            self._tell(error)
        finally:
            if self._engine is not None:
                self._engine.close()
            self._channel.close()

    def _leave_when_stopping(self) -> None:
        if self._house.stopping():
            raise ClientGone("the warehouse stops")

    def _tell(self, error: ServerError) -> None:
        with contextlib.suppress(ClientGone):
            self._channel.send(packets.exception(error))

    def _greet(self) -> None:
        reader = self._channel.reader
        first = reader.u8()
        if first in _HTTP_FIRST:
            self._channel.send(packets.HTTP_ANSWER)
            raise ClientGone("spoke HTTP")
        if first != FromClient.HELLO:
            raise ServerError(101, f"Unexpected packet from client: expected Hello (0), got {first}", fatal=True)
        greeting = packets.read_hello(reader)
        self._revision = min(greeting.revision, packets.REVISION)
        if (greeting.user, greeting.password) != (self._house.user, self._house.password):
            raise ServerError(
                516,
                f"{greeting.user}: Authentication failed: password is incorrect, or there is no user with such name. "
                "(AUTHENTICATION_FAILED)",
            )
        self._engine = self._house.engine.session(self._tag)
        if greeting.database:
            self._engine.use("`" + greeting.database.replace("\\", "\\\\").replace("`", "\\`") + "`")
        self._channel.send(packets.hello(self._house.engine.version, self._house.engine.timezone, "herald warehouse"))

    def _serve_packet(self) -> None:
        kind = self._channel.reader.varint()
        if kind == FromClient.PING:
            self._channel.send(packets.PONG)
        elif kind == FromClient.QUERY:
            query = packets.read_query(self._channel.reader, self._revision)
            try:
                self._serve_query(query)
            except ServerError as error:
                if error.fatal:
                    raise
                self._channel.send(packets.exception(error))
        elif kind != FromClient.CANCEL:  # a Cancel that crossed the end of its query is no news
            raise ServerError(99, f"Unknown or unexpected packet {kind} from client", fatal=True)

    def _serve_query(self, query: packets.Query) -> None:
        blocks = self._channel.reader
        if query.compressed:
            blocks = ByteReader(lambda: read_frame(self._channel.reader))
        external = ", ".join(name for name, _ in read_blocks(self._channel.reader, blocks, skip_block))
        if external:
            raise ServerError(48, f"external tables ({external}) are not supported by the embedded warehouse")
        settings = self._known(query)
        statement = read_statement(query.sql)
        assert self._engine is not None
        if self._engine.statements(statement.sql) > 1:
            raise ServerError(62, "Syntax error (Multi-statements are not allowed). (SYNTAX_ERROR)")
        if "readonly" in settings:
            # Once read-only, a session could not be set back: a session of its own, for this statement.
            engine = self._engine.sibling(settings)
            try:
                self._dispatch(query, statement, engine, blocks)
            finally:
                engine.close()
        else:
            if statement.kind is not Kind.SET:
                self._engine.apply(settings)
            self._dispatch(query, statement, self._engine, blocks)

    def _known(self, query: packets.Query) -> dict[str, str]:
        """Leave out unknown settings, as a server does, unless the client marked them important."""
        names = self._house.engine.setting_names
        unknown = [name for name in query.settings if name not in names]
        for name in unknown:
            if name in query.important:
                raise ServerError(115, f"Unknown setting '{name}'. (UNKNOWN_SETTING)")
        return {name: value for name, value in query.settings.items() if name not in unknown}

    def _dispatch(self, query: packets.Query, statement: Statement, engine: EngineSession, blocks: ByteReader) -> None:
        if statement.kind is Kind.INSERT:
            InsertFeed(self._channel, self._house.running, engine, blocks).run(statement, query)
            return
        if statement.kind is Kind.SET:
            engine.set(statement.sql)
            self._channel.send(packets.END_OF_STREAM)
            return
        if statement.kind is Kind.USE:
            engine.use(statement.target)
            self._channel.send(packets.END_OF_STREAM)
            return
        if statement.kind is Kind.KILL:
            block = kill_queries(self._house.engine, self._house.running, statement)
            self._channel.send(packets.data(block, query.compressed), packets.END_OF_STREAM)
            return
        self._run(query, statement, engine)

    def _run(self, query: packets.Query, statement: Statement, engine: EngineSession) -> None:
        running = Running(self._tag, query.query_id, query.sql, self._channel.socket, is_insert=False)
        self._house.running.begin(running)
        try:
            Answer(self._channel, query.compressed).send(
                engine, show_query_ids(statement.sql, self._house.running.shown()), statement.kind
            )
        except ServerError:
            if running.stop is Stop.CLIENT_GONE:
                raise ClientGone("closed while its query ran") from None
            if running.stop is not Stop.BY_CLIENT:
                raise
            # What the client cancelled ends like what came to its end.
            self._channel.send(packets.END_OF_STREAM)
        finally:
            self._house.running.end(running)


class Answer:
    """The rows of one statement on their way to the client."""

    def __init__(self, channel: Channel, compressed: bool) -> None:
        """Nothing sent yet."""
        self._channel = channel
        self._compressed = compressed
        self._rows = self._blocks = self._bytes = 0
        self._told = (0, 0, 0)

    def send(self, engine: EngineSession, sql: str, kind: Kind) -> None:
        """Run the statement and send blocks, progress, profile and end."""
        if kind is Kind.READ:
            with contextlib.closing(engine.stream(sql, self._progress)) as stream:
                for rows, block in stream:
                    self._send_blocks(rows, block)
            if not self._blocks:
                self._send_header(engine, sql)
        elif raw := engine.read(sql, self._progress):
            self._send_blocks(-1, raw)
        self._channel.send(
            packets.profile_info(self._rows, self._blocks, self._bytes)
            + packets.progress((0, 0, 0))
            + packets.END_OF_STREAM
        )

    def _send_blocks(self, rows: int, raw: bytes) -> None:
        """Send one piece of the engine's output; usually one block, then it is not even walked."""
        for block_rows, block in blocks_of(raw, rows):
            self._rows += block_rows
            self._blocks += 1
            self._bytes += len(block)
            self._channel.send(packets.data(block, self._compressed))

    def _send_header(self, engine: EngineSession, sql: str) -> None:
        """For no rows the engine gives no bytes at all, but clients want names and types."""
        try:
            columns = engine.described(sql)
        except ServerError:
            return  # SHOW and the like cannot be described, and their clients look at rows only
        self._channel.send(packets.data(packets.header_block(columns), self._compressed))

    def _progress(self, now: Mapping[str, int]) -> None:
        """Tell a waiting client that the query lives; comes from the engine's thread while ours waits in it."""
        read = (now["read_rows"], now["read_bytes"], now["total_rows_to_read"])
        step = (read[0] - self._told[0], read[1] - self._told[1], read[2] - self._told[2])
        self._told = read
        with contextlib.suppress(ClientGone):  # the watching thread sees it too and stops the query
            self._channel.send(packets.progress(step))


def blocks_of(raw: bytes, rows: int) -> list[tuple[int, bytes]]:
    """Cut Native output into (rows, block).

    rows: how many the engine says are in it; when the first block has them all it is the only one. -1: not known.
    """
    pieces = iter([raw])

    def refill() -> bytes:
        piece = next(pieces, b"")
        if not piece:
            raise EOFError("the engine's output ends inside a block")
        return piece

    head = ByteReader(lambda: raw[:32])
    head.varint()
    if head.varint() == rows:
        return [(rows, raw)]
    reader = ByteReader(refill)
    found: list[tuple[int, bytes]] = []
    while not found or not reader.at_boundary:
        parts: list[bytes] = []
        reader.tap(parts.append)
        _, block_rows = skip_block(reader)
        reader.untap(keep=True)
        found.append((block_rows, b"".join(parts)))
    return found

"""One client's conversation: hello, then statements one after another, in a thread of its own."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.embedded.native import packets
from pipeline.embedded.native.answer import Answer
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

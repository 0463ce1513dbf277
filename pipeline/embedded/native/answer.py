"""The rows of one statement on their way from the engine to the client, block by block."""

import contextlib
from collections.abc import Mapping

from pipeline.embedded.native import packets
from pipeline.embedded.native.blocks import skip_block
from pipeline.embedded.native.channel import Channel
from pipeline.embedded.native.engine import EngineSession
from pipeline.embedded.native.faults import ClientGone, ServerError
from pipeline.embedded.native.statement import Kind
from pipeline.embedded.native.wire import ByteReader


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

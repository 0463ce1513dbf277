"""A warehouse that says hello and then no: every statement ends with one error code, as a server in trouble answers.

It speaks the native protocol with the gateway's own words, so that the real client meets a real refusal.
"""

import contextlib
import socket
import threading
from typing import Self

from pipeline.embedded.native import packets
from pipeline.embedded.native.blocks import skip_block
from pipeline.embedded.native.channel import Channel
from pipeline.embedded.native.faults import ClientGone, ServerError
from pipeline.embedded.native.insert import read_blocks
from pipeline.embedded.native.packets import FromClient
from pipeline.embedded.native.wire import ByteReader, read_frame

TEXTS = {
    164: "Cannot execute query in readonly mode. (READONLY)",
    242: "Table is in readonly mode. (TABLE_IS_READ_ONLY)",
    243: "Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)",
    252: "Too many parts (3000). Merges are processing significantly slower than inserts. (TOO_MANY_PARTS)",
    241: "Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)",
    202: "Too many simultaneous queries. Maximum: 100. (TOO_MANY_SIMULTANEOUS_QUERIES)",
}


class Refuser:
    """The server; use it as a context manager. code: what it says, changed at any time. refused: how often it did."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.refused = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name="refuser")]

    def __enter__(self) -> Self:
        """Start."""
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, with all connections."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(Channel(client),), name="refuser's client")
                self._threads.append(thread)
                thread.start()

    def _serve(self, channel: Channel) -> None:
        def leave_at_the_end() -> None:
            if self._is_over.is_set():
                raise ClientGone("the test is over")

        channel.on_tick = leave_at_the_end
        try:
            channel.reader.u8()
            greeting = packets.read_hello(channel.reader)
            channel.send(packets.hello((26, 9, 1), "UTC", "refuser"))
            while True:
                self._answer(channel, min(greeting.revision, packets.REVISION))
        except ClientGone:
            pass
        finally:
            channel.close()

    def _answer(self, channel: Channel, revision: int) -> None:
        kind = channel.reader.varint()
        if kind == FromClient.PING:
            channel.send(packets.PONG)
        elif kind == FromClient.QUERY:
            query = packets.read_query(channel.reader, revision)
            blocks = ByteReader(lambda: read_frame(channel.reader)) if query.compressed else channel.reader
            list(read_blocks(channel.reader, blocks, skip_block))
            self.refused += 1
            channel.send(packets.exception(ServerError(self.code, TEXTS[self.code])))

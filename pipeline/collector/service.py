"""`herald collector`: one process, one event loop, one producer. Starts without a broker, stops without a loss."""

import asyncio
import logging
import os
import signal
import socket
from typing import Any

import uvloop

from pipeline.collector.app import Collector
from pipeline.collector.buffer import BlockWriter
from pipeline.edge import metrics
from pipeline.edge.heap import settle
from pipeline.edge.listen import need_free
from pipeline.edge.secret import key_of
from pipeline.http.limits import Limits
from pipeline.http.server import Server
from pipeline.settings import Settings

log = logging.getLogger(__name__)

DRAIN_S = 15.0
ANSWER_S = 5.0


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0.

    Raises SettingsError where `collected` has another number of partitions than the settings.
    """
    loop = asyncio.get_running_loop()
    writer = BlockWriter(settings, loop, f"collector-{socket.gethostname()}-{os.getpid()}")
    app = Collector(settings, writer, key_of(settings.mask_secret, settings.data_dir, "mask.key"))
    server = Server(app, Limits(settings.body_bytes_max))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    writer.start()
    settle()
    await server.start(settings.host, settings.collector_port)
    waiting = loop.create_task(stopping.wait())
    ends: set[asyncio.Future[Any]] = {waiting, writer.refused}
    log.info("collector on http://%s:%s", settings.host, settings.collector_port)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    app.is_stopping = True
    if not await writer.close(min(DRAIN_S, settings.ack_timeout_ms / 1_000)):
        log.warning("the broker did not take the last events in time: their senders were told to send again")
    await server.stop(ANSWER_S)
    waiting.cancel()
    log.info("collector stopped")
    if writer.refused.done():
        raise writer.refused.result()
    return 0


def run(settings: Settings) -> int:
    """Run the collector in this process; returns its exit code. Raises SettingsError for what it cannot work with."""
    need_free(settings.host, settings.collector_port, "HERALD_COLLECTOR_PORT")
    metrics.watch_data_dir(settings.data_dir)
    return uvloop.run(serve(settings))

"""`herald collector`: one process, one event loop, one producer. Starts without a broker, stops without a loss."""

import asyncio
import logging
import os
import resource
import signal
import socket
from typing import Any

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from pipeline.collector.app import Collector
from pipeline.collector.buffer import BlockWriter
from pipeline.edge import metrics
from pipeline.edge.heap import settle
from pipeline.edge.listen import need_free
from pipeline.edge.secret import key_of
from pipeline.settings import Settings

log = logging.getLogger(__name__)

HEADER_BYTES_MAX = 16_384  # more is 431; Granian also refuses more than 100 headers
HEADER_TIMEOUT_MS = 10_000
BACKLOG = 1_024
CONNECTIONS_MAX = 8_192  # at once; more wait in the backlog
DRAIN_S = 15.0


def _server(app: Any, settings: Settings) -> Any:
    return Server(
        app,
        address=settings.host,
        port=settings.collector_port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=CONNECTIONS_MAX,
        log_enabled=False,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=HEADER_BYTES_MAX),
    )


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 1 where the server ended by itself.

    Raises SettingsError where `collected` has another number of partitions than the settings.
    """
    loop = asyncio.get_running_loop()
    writer = BlockWriter(settings, loop, f"collector-{socket.gethostname()}-{os.getpid()}")
    app = Collector(settings, writer, key_of(settings.mask_secret, settings.data_dir, "mask.key"))
    server = _server(app, settings)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    writer.start()
    settle()
    serving = loop.create_task(server.serve())
    waiting = loop.create_task(stopping.wait())
    log.info("collector on http://%s:%s", settings.host, settings.collector_port)
    await asyncio.wait({serving, waiting, writer.refused}, return_when=asyncio.FIRST_COMPLETED)
    app.is_stopping = True
    if not await writer.close(min(DRAIN_S, settings.ack_timeout_ms / 1_000)):
        log.warning("the broker did not take the last events in time: their senders were told to send again")
    server.stop()  # waits for the answers under way
    await serving  # raises what stopped it, if nobody asked it to
    waiting.cancel()
    log.info("collector stopped")
    if writer.refused.done():
        raise writer.refused.result()
    return 0 if stopping.is_set() else 1


def _allow_open_files() -> None:
    """Raise the soft limit of open files: the usual 1,024 are fewer than the connections we take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + 1_024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def run(settings: Settings) -> int:
    """Run the collector in this process; returns its exit code. Raises SettingsError for what it cannot work with."""
    need_free(settings.host, settings.collector_port, "HERALD_COLLECTOR_PORT")
    _allow_open_files()
    metrics.watch_data_dir(settings.data_dir)
    return uvloop.run(serve(settings))

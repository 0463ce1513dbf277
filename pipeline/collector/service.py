"""`herald collector`: one process, one event loop, one producer. Starts without a broker, stops without a loss."""

import asyncio
import logging
import os
import secrets
import signal
import socket
from typing import Any

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from pipeline.collector.app import Collector
from pipeline.collector.buffer import BlockWriter
from pipeline.errors import SettingsError
from pipeline.settings import Settings

log = logging.getLogger(__name__)

HEADER_BYTES_MAX = 16_384  # more is 431; Granian also refuses more than 100 headers
HEADER_TIMEOUT_MS = 10_000
BACKLOG = 1_024
REQUESTS_MAX = 4_096  # at once; more connections wait in the backlog
DRAIN_S = 15.0


def mask_key(settings: Settings) -> bytes:
    """Return the key of e-mail pseudonyms: the setting, or one made once in data_dir (all collectors need the same)."""
    given = settings.mask_secret.get_secret_value()
    if given:
        return given.encode()
    path = settings.data_dir / "secrets" / "mask.key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_bytes().strip()
        if len(found) < 32:
            text = f"{path}: {len(found)} bytes, expected 64 hex digits; remove it to have it made anew"
            raise SettingsError(text) from None
        return found
    with os.fdopen(handle, "wb") as file:
        made = secrets.token_hex(32).encode()
        file.write(made)
    return made


def _server(app: Any, settings: Settings) -> Any:
    return Server(
        app,
        address=settings.host,
        port=settings.collector_port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=REQUESTS_MAX,
        log_enabled=False,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=HEADER_BYTES_MAX),
    )


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 1 where the server ended by itself."""
    loop = asyncio.get_running_loop()
    writer = BlockWriter(settings, loop, f"collector-{socket.gethostname()}-{os.getpid()}")
    app = Collector(settings, writer, mask_key(settings))
    server = _server(app, settings)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    writer.start()
    serving = loop.create_task(server.serve())
    waiting = loop.create_task(stopping.wait())
    log.info("collector on http://%s:%s", settings.host, settings.collector_port)
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    app.is_stopping = True
    if not await writer.close(min(DRAIN_S, settings.ack_timeout_ms / 1_000)):
        log.warning("the broker did not take the last events in time: their senders were told to send again")
    server.stop()  # waits for the answers under way
    await serving  # raises what stopped it, if nobody asked it to
    waiting.cancel()
    log.info("collector stopped")
    return 0 if stopping.is_set() else 1


def run(settings: Settings) -> int:
    """Run the collector in this process; returns its exit code."""
    return uvloop.run(serve(settings))

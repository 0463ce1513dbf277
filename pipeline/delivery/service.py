"""`herald delivery`: one process. The event loop answers. Threads read profiles and models, read campaigns and compile
them, lease money, settle who counts whose caps, learn the hours to send, and keep the connection for what is written.

Starts without a broker, a warehouse or any profile, and answers decisions from the first moment, marked as degraded.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import uvloop

from pipeline.collector.buffer import BlockWriter
from pipeline.delivery.app import Delivery
from pipeline.delivery.guard import check_exposed
from pipeline.delivery.log import Pen
from pipeline.delivery.memory import Memory
from pipeline.delivery.published import Published
from pipeline.delivery.purse import Purse
from pipeline.delivery.reach import peer_url
from pipeline.delivery.shows import shows_of
from pipeline.delivery.slots import Slots
from pipeline.delivery.spool import Spool
from pipeline.delivery.till import Till
from pipeline.edge import metrics
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import now_ms
from pipeline.edge.ending import watch
from pipeline.edge.follow import Follower
from pipeline.edge.heap import settle
from pipeline.edge.listen import need_free
from pipeline.edge.secret import key_of
from pipeline.http.limits import Limits
from pipeline.http.server import Server
from pipeline.rest.front import Front
from pipeline.settings import Settings
from schemas.topics import MODELS, PROFILES

log = logging.getLogger(__name__)

DRAIN_S: Final = 15.0
WAREHOUSE_TIMEOUT_S: Final = 10.0
LOOK_S: Final = 0.2
FLUSH_MS: Final = 20
"""Nobody waits for a decision's record, and each block costs every stage after us as much as hundreds of events."""
SWITCH_S: Final = 0.0005
"""How long a thread may keep Python to itself: the default of 5 ms is all that a decision is allowed to take."""


class _Parts(NamedTuple):
    """What a process is made of. readers: those with threads of their own."""

    writer: BlockWriter
    memory: Memory
    spool: Spool | None
    pen: Pen
    warehouse: Warehouse
    readers: tuple[Follower, Purse, Published]
    delivery: Delivery
    server: Server


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 1 where the last records could not be handed to the broker.

    Raises SettingsError where `collected` has another number of partitions than the settings.
    """
    loop = asyncio.get_running_loop()
    parts = _made(settings, loop)
    stopping, broken = asyncio.Event(), asyncio.Event()
    watch(loop, stopping, broken)
    await _begin(parts, settings)
    waiting: list[asyncio.Task[object]] = [loop.create_task(event.wait()) for event in (stopping, broken)]
    waiting.append(loop.create_task(_settle_when_loaded(parts.memory, stopping)))
    ends: set[asyncio.Future[Any]] = {parts.writer.refused, *waiting}
    log.info("delivery on http://%s:%s", settings.host, settings.delivery_port)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    landed = await _end(parts, waiting, settings)
    log.info("delivery stopped")
    if parts.writer.refused.done():
        raise parts.writer.refused.result()
    return 0 if landed and stopping.is_set() else 1


def _made(settings: Settings, loop: asyncio.AbstractEventLoop) -> _Parts:
    """Make everything; nothing is opened or started yet, but for files."""
    patient = settings.model_copy(update={"flush_ms": max(settings.flush_ms, FLUSH_MS)})
    writer = BlockWriter(patient, loop, f"delivery-{socket.gethostname()}-{os.getpid()}", keeps=True)
    memory = Memory(settings)
    follower = Follower(settings, (PROFILES, MODELS), memory)
    mask_key = key_of(settings.mask_secret, settings.data_dir, "mask.key")
    signing_key = key_of(settings.signing_secret, settings.data_dir, "signing.key")
    spool = Spool(settings.data_dir / "spool") if settings.spool else None
    pen = Pen(writer, settings.partitions, settings.decisions_kept_max, mask_key, spool)
    warehouse = Warehouse.from_url(settings.warehouse_url, WAREHOUSE_TIMEOUT_S)
    purse = Purse(settings)
    slots = Slots(settings, shows_of(settings), memory, peer_url(settings))
    published = Published(settings, memory, Till(purse, list(settings.write_keys.values())), mask_key, slots)
    delivery = Delivery(settings, memory, pen, warehouse, signing_key, published)
    front = Front(delivery.served(), delivery.guard.admit, settings.buffer_bytes_max)
    server = Server(front, Limits(settings.body_bytes_max))
    return _Parts(writer, memory, spool, pen, warehouse, (follower, purse, published), delivery, server)


async def _begin(parts: _Parts, settings: Settings) -> None:
    """Start what writes, then what reads, then the server."""
    parts.writer.start()
    parts.pen.resend(now_ms(), settings.dedupe_window_ms // 2)
    for reader in parts.readers:
        reader.start()
    parts.delivery.desk.sends.start(parts.warehouse)
    await parts.server.start(settings.host, settings.delivery_port)


async def _end(parts: _Parts, waiting: Sequence[asyncio.Task[object]], settings: Settings) -> bool:
    """Answer what is under way, write it down, stop the rest; say whether the broker has all of it."""
    parts.delivery.stop()
    await parts.server.stop(DRAIN_S)
    for task in waiting:
        task.cancel()
    landed = await parts.writer.close(min(DRAIN_S, settings.ack_timeout_ms / 1_000))
    stops = [reader.stop for reader in parts.readers] + [parts.warehouse.close]
    if parts.spool is not None:
        stops.append(parts.spool.close)
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(None, stop) for stop in stops))
    return landed


async def _settle_when_loaded(memory: Memory, stopping: asyncio.Event) -> None:
    """Take what was loaded out of the garbage collector's walk, then wait for the end like everybody."""
    while not memory.is_loaded:
        await asyncio.sleep(LOOK_S)
    settle()
    await stopping.wait()


def run(settings: Settings) -> int:
    """Run delivery in this process; returns its exit code. Raises SettingsError where the settings do not allow it."""
    check_exposed(settings)
    need_free(settings.host, settings.delivery_port, "HERALD_DELIVERY_PORT")
    sys.setswitchinterval(SWITCH_S)
    metrics.watch_data_dir(settings.data_dir)
    return uvloop.run(serve(settings))

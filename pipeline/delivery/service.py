"""`herald delivery`: one process. The event loop answers; a thread reads profiles and models, another keeps a producer.

Starts without a broker, a warehouse or any profile, and answers decisions from the first moment, marked as degraded.
"""

import asyncio
import logging
import os
import socket
import sys
from typing import Any, Final

import uvloop

from pipeline.collector.buffer import BlockWriter
from pipeline.delivery.app import Delivery
from pipeline.delivery.desk import own_url
from pipeline.delivery.guard import check_exposed
from pipeline.delivery.log import Pen
from pipeline.delivery.memory import Memory
from pipeline.delivery.published import Published
from pipeline.delivery.purse import Purse
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


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 1 where the last records could not be handed to the broker.

    Raises SettingsError where `collected` has another number of partitions than the settings.
    """
    loop = asyncio.get_running_loop()
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
    slots = Slots(settings, shows_of(settings), memory, _peer_url(settings))
    published = Published(settings, memory, Till(purse, list(settings.write_keys.values())), mask_key, slots)
    delivery = Delivery(settings, memory, pen, warehouse, signing_key, published)
    front = Front(delivery.served(), delivery.guard.admit, settings.buffer_bytes_max)
    server = Server(front, Limits(settings.body_bytes_max))
    stopping, broken = asyncio.Event(), asyncio.Event()
    watch(loop, stopping, broken)
    writer.start()
    pen.resend(now_ms(), settings.dedupe_window_ms // 2)
    for reader in (follower, purse, published):
        reader.start()
    delivery.desk.sends.start(warehouse)
    await server.start(settings.host, settings.delivery_port)
    waiting: list[asyncio.Task[object]] = [loop.create_task(event.wait()) for event in (stopping, broken)]
    waiting.append(loop.create_task(_settle_when_loaded(memory, stopping)))
    ends: set[asyncio.Future[Any]] = {writer.refused, *waiting}
    log.info("delivery on http://%s:%s", settings.host, settings.delivery_port)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    delivery.stop()
    await server.stop(DRAIN_S)
    for task in waiting:
        task.cancel()
    landed = await writer.close(min(DRAIN_S, settings.ack_timeout_ms / 1_000))
    stops = (follower.stop, published.stop, purse.stop, warehouse.close, *((spool.close,) if spool is not None else ()))
    await asyncio.gather(*(loop.run_in_executor(None, stop) for stop in stops))
    log.info("delivery stopped")
    if writer.refused.done():
        raise writer.refused.result()
    return 0 if landed and stopping.is_set() else 1


def _peer_url(settings: Settings) -> str:
    """Return where other delivery processes reach this one; bound to every address, by the one of the host's name."""
    if settings.delivery_peer_url:
        return settings.delivery_peer_url
    if settings.host not in ("0.0.0.0", "::", ""):
        return own_url(settings)
    try:
        return own_url(settings.model_copy(update={"host": socket.gethostbyname(socket.gethostname())}))
    except OSError as error:
        log.warning("HERALD_DELIVERY_PEER_URL: not set, and %s is no address: %s", socket.gethostname(), error)
        return own_url(settings.model_copy(update={"host": "127.0.0.1"}))


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

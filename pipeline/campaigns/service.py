"""`herald campaigns serve`: one process. The event loop answers, threads ask the store, another one publishes.

It starts without a broker and without its store, and goes on when they come: a change is stored as soon as the store
is there, and is in the topic as soon as the broker is.
"""

import asyncio
import logging
from typing import Final

import uvloop

from pipeline.campaigns.app import Campaigns
from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.publisher import Announcer
from pipeline.campaigns.store import Store
from pipeline.edge import metrics
from pipeline.edge.ending import watch
from pipeline.edge.listen import need_free
from pipeline.errors import Retryable, SettingsError
from pipeline.http.limits import Limits
from pipeline.http.server import Server
from pipeline.rest.front import Front
from pipeline.rest.keys import is_loopback
from pipeline.settings import Settings

log = logging.getLogger(__name__)

DRAIN_S: Final = 15.0
RETRY_S: Final = 1.0


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 1 where a thread has ended by a bug.

    Raises SettingsError where the store is of a newer Herald, or cannot be written.
    """
    loop = asyncio.get_running_loop()
    database = Database(url_of(settings))
    announcer = Announcer(settings, Store(database))
    store = Store(database, on_change=announcer.wake)
    campaigns = Campaigns(settings, store, announcer)
    front = Front(campaigns.served(), campaigns.admit, settings.buffer_bytes_max)
    server = Server(front, Limits(settings.body_bytes_max))
    stopping, broken = asyncio.Event(), asyncio.Event()
    watch(loop, stopping, broken)
    await server.start(settings.host, settings.campaigns_port)
    log.info("campaigns on http://%s:%s, store %s", settings.host, settings.campaigns_port, database.name)
    opening = loop.create_task(_open(database, campaigns, announcer))
    ends = [loop.create_task(event.wait()) for event in (stopping, broken)]
    try:
        await asyncio.wait({opening, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            opening.result()
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        campaigns.is_stopping = True
        await server.stop(DRAIN_S)
        for task in (opening, *ends):
            task.cancel()
        await asyncio.to_thread(announcer.stop)
        database.close()
    log.info("campaigns stopped")
    return 0 if stopping.is_set() else 1


async def _open(database: Database, campaigns: Campaigns, announcer: Announcer) -> None:
    """Open the store, as soon as it is there, and begin to publish."""
    trouble = ""
    while True:
        try:
            steps = await asyncio.to_thread(database.migrate)
        except Retryable as error:
            if str(error) != trouble:
                log.warning("%s; it is tried again until it is there", error)
            trouble = str(error)
            await asyncio.sleep(RETRY_S)
        else:
            break
    if steps:
        log.info("the store's tables were made, or changed, in %d steps", steps)
    campaigns.is_open = True
    announcer.start()


def check_exposed(settings: Settings) -> None:
    """Raise SettingsError where the whole network could change campaigns without a key."""
    if not is_loopback(settings.host) and not settings.campaigns_keys:
        raise SettingsError(
            f"HERALD_HOST = {settings.host!r}: anyone who reaches it could change campaigns; "
            "expected HERALD_CAMPAIGNS_KEYS=name=key,… or a loopback address"
        )


def run(settings: Settings) -> int:
    """Run the service in this process; return its exit code. Raises SettingsError where the settings forbid it."""
    check_exposed(settings)
    need_free(settings.host, settings.campaigns_port, "HERALD_CAMPAIGNS_PORT")
    metrics.watch_data_dir(settings.data_dir)
    return uvloop.run(serve(settings))

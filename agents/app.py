"""The Faust app of one stage, with the settings that make it safe (each one's reason beside it)."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import faust
from mode.supervisors import CrashingSupervisor

from agents.transport import Transport
from pipeline.edge.kafka import faust_broker
from pipeline.errors import HeraldError, Retryable
from pipeline.settings import Settings
from schemas.topics import Topic

log = logging.getLogger(__name__)

READ_AHEAD_BYTES = 1_048_576
EXIT_FAULT = 70  # EX_SOFTWARE
STOP_MAX_S = 15.0  # less than a supervisor waits before it kills


def stop_now(reason: str, error: BaseException) -> None:
    """End the process at once, uncommitted; a supervisor starts it again and the block is done again."""
    log.critical("%s: %s", reason, error, exc_info=None if isinstance(error, HeraldError) else error)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(EXIT_FAULT)


class StageApp(faust.App):
    """Faust's app, but it always ends: a crash at once, a stop soon.

    Faust waits a minute for threads that wait for it, and without a broker for ever for its last commit.
    """

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    async def stop(self) -> None:
        """Called by Faust's worker for SIGTERM and SIGINT."""
        late = Retryable(f"not stopped within {STOP_MAX_S:.0f} s (no broker?); what is uncommitted is done again")
        timer = threading.Timer(STOP_MAX_S, stop_now, (f"{self.conf.id}", late))
        timer.daemon = True
        timer.start()
        await super().stop()

    async def crash(self, reason: BaseException) -> None:
        """Called by Faust for what no handler caught."""
        stop_now(f"{self.conf.id}: Faust crashed", reason)


def make_app(stage: str, settings: Settings, buffered_blocks: int = 32) -> faust.App:
    """Return a stage's app: one app id (consumer group) a stage, nothing created or served by Faust itself."""
    datadir = (
        settings.data_dir / "faust" / (settings.instance or "worker")
    )  # Faust insists on one; nothing of ours is in it
    datadir.mkdir(parents=True, exist_ok=True)
    return StageApp(
        settings.topic(stage),
        **faust_broker(settings),
        datadir=str(datadir),
        value_serializer="raw",
        agent_supervisor=CrashingSupervisor,  # a Faust agent that is restarted has lost its block
        stream_wait_empty=False,  # waits for ever on an unacknowledged event: we finish the group in hand ourselves
        stream_buffer_maxsize=buffered_blocks,  # counted in records, and ours are blocks
        broker_commit_interval=1.0,
        broker_session_timeout=settings.restart_session_ms / 1000,
        broker_heartbeat_interval=min(3.0, settings.restart_session_ms / 3000),
        broker_rebalance_timeout=60.0,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=READ_AHEAD_BYTES,  # of each partition; a larger block still comes, alone
        consumer_group_instance_id=f"{settings.topic(stage)}-{settings.instance}" if settings.instance else None,
        table_standby_replicas=1,  # no tables, but it keeps Faust's sticky assignor
        topic_disable_leader=True,
        topic_allow_declare=False,  # `herald topics` makes them, with the right partitions
        web_enabled=False,
        worker_redirect_stdouts=False,
        loghandlers=[],
    )


def on_rebalance(app: faust.App, revoked: Callable[..., Any], assigned: Callable[..., Any]) -> None:
    """Have these called, and awaited, when partitions go and when they have come.

    Not on_partitions_assigned: events are delivered before a handler of that one ends.
    """
    app.on_partitions_revoked.connect(revoked)
    app.on_rebalance_complete.connect(assigned)


def raw_topic(app: faust.App, settings: Settings, topic: Topic) -> Any:
    """Return one of our topics as bytes: a typed topic would acknowledge what it cannot decode."""
    return app.topic(settings.topic(topic.name), value_type=bytes, value_serializer="raw")


def run_worker(app: faust.App, settings: Settings) -> int:
    """Run the app until it is told to stop; return the exit code. Never Faust's web server: it would bind to all."""
    app.finalize()
    loop = asyncio.new_event_loop()  # not uvloop: there a write to a lost connection raises, and aiokafka's sender dies
    asyncio.set_event_loop(loop)
    worker = faust.Worker(
        app, loop=loop, loglevel=settings.log_level, redirect_stdouts=False, quiet=True, override_logging=False
    )
    try:
        worker.execute_from_commandline()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0

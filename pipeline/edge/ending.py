"""How a service of ours ends: by a signal, or by a bug in one of its threads."""

import asyncio
import logging
import signal
import threading

log = logging.getLogger(__name__)


def watch(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event, broken: asyncio.Event) -> None:
    """Set `stopping` at a signal, `broken` when a thread ends by a bug: it must not go on unnoticed."""

    def thread_failed(failure: threading.ExceptHookArgs) -> None:
        log.critical("thread %s ended", failure.thread.name if failure.thread else "?", exc_info=failure.exc_value)
        loop.call_soon_threadsafe(broken.set)

    threading.excepthook = thread_failed
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

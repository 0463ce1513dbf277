"""The auditor as a thread of `herald up`."""

import threading
import time

from pipeline import auditor
from pipeline.edge.metrics import REGISTRY
from pipeline.settings import load


def restarts() -> float:
    """What Prometheus is told of it."""
    return REGISTRY.get_sample_value("herald_restarts_total", {"part": "auditor"}) or 0.0


def test_a_bug_is_counted_as_a_restart_and_the_thread_goes_on() -> None:
    """Nobody starts a thread again: it would be gone, and its last figures would stand there as if all were well."""
    settings = load().model_copy(update={"audit_every_ms": "not a number"})
    before, stop = restarts(), threading.Event()
    thread = threading.Thread(target=auditor.watch, args=(settings, stop))
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while restarts() == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join()
    assert restarts() == before + 1

"""A worker always ends when told to, whatever the broker does."""

import os
import signal
from pathlib import Path

from tests.agents.rig import Stages, broker, page_views
from tests.waits import until


def test_a_worker_whose_broker_is_gone_ends_when_it_is_told_to(tmp_path: Path) -> None:
    """Faust alone would wait for ever for its last commit."""
    with broker(tmp_path / "broker") as running:
        stages = Stages.on(running, tmp_path, "stop-", partitions=2)
        try:
            worker = stages.start("clean")
            stages.feed(0, page_views(0, 0, 25))
            until(lambda: bool(stages.records("events")), "the block is clean")
            stages.stop_feeding()
            os.kill(running.pid, signal.SIGKILL)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) in (0, 70), stages.log_of("clean", 0)
        finally:
            stages.stop()

"""Making a Kafka client where no broker is."""

import subprocess
import sys
from pathlib import Path

from tests.waits import free_port

AGAIN_AND_AGAIN = """
import gc, sys, threading
from pathlib import Path
from kafka.errors import KafkaError
from pipeline.edge import kafka
from pipeline.settings import load

settings = load(kafka_bootstrap_servers=sys.argv[1])
for make in (kafka.consumer, kafka.producer) * 3:
    try:
        make(settings, bootstrap_timeout_ms=100)
    except KafkaError:
        gc.collect()
        held = Path("/proc/self/fd")
        print(threading.active_count(), sum(1 for _ in held.iterdir()) if held.exists() else 0)
"""


def test_a_client_that_finds_no_broker_leaves_nothing_behind() -> None:
    """Neither thread nor file: a part that looks for its broker for hours makes one after the other."""
    nobody = f"127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-c", AGAIN_AND_AGAIN, nobody],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(found) == 6, done.stdout + done.stderr
    _, first, *rest = found
    assert all(threads == 1 and files <= first[1] for threads, files in rest), found

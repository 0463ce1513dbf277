"""A delivery process's purse on a given lease store, without a broker: `python leases_child.py URL FOLDER DECISIONS`.

Makes so many decisions at once, each in a thread of its own, each trying until there is money for it; prints a line for
each that found some. A line on standard input ends it.
"""

import sys
import threading
from collections.abc import Sequence

from pydantic import SecretStr

from pipeline.core.lease import Terms
from pipeline.delivery.purse import Purse
from pipeline.edge.clock import now_ms
from pipeline.edge.follow import Reader
from pipeline.settings import Settings, load
from schemas.topics import Topic

LINE = Terms("l1", "c1", "impression", 7, total_micros=70)


class Nothing:
    """Reads a spend topic that is empty."""

    def __init__(self, settings: Settings, topics: Sequence[Topic], reader: Reader) -> None:
        self._partitions, self._topics, self._reader = settings.partitions, topics, reader

    def start(self) -> None:
        """All of it is read at once."""
        for topic in self._topics:
            for partition in range(self._partitions):
                self._reader.begin(topic, partition)
                self._reader.loaded(topic, partition)

    def stop(self) -> None:
        """It has ended."""


def main(url: str, folder: str, decisions: int) -> int:
    """See above."""
    purse = Purse(load(data_dir=folder, campaigns_url=SecretStr(url), lease_ms=60_000), Nothing)
    purse.publish([LINE])
    purse.start()
    is_over = threading.Event()
    started = threading.Barrier(decisions)

    def decide() -> None:
        started.wait()
        while not is_over.wait(0.05):
            time_ms = now_ms()
            if purse.has_room("l1", time_ms) and purse.reserve("l1", time_ms) is not None:
                print("reserved", flush=True)
                return

    threads = [threading.Thread(target=decide) for _ in range(decisions)]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    is_over.set()
    for thread in threads:
        thread.join()
    purse.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))

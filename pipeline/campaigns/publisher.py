"""The store's changes into the topic `campaigns`: each version at least once, in order, the newest one last.

One process at a time publishes. It sends what the outbox holds and takes from there what the broker has confirmed. At
its beginning, and after any trouble, it also compares the topic with the store: what the topic lacks, or has otherwise,
is sent again, and what the store has not is deleted there. So a topic that was made anew, or a store that was put back
to an older state, comes right by itself.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.campaigns.database import Held
from pipeline.campaigns.store import Due, Store
from pipeline.edge import metrics
from pipeline.edge.catalogue import Entry, Publisher, key_of, read_all
from pipeline.edge.clock import now_ms
from pipeline.errors import Retryable
from pipeline.settings import Settings
from schemas.campaign import Stored

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
"""Changes of this process come at once; those of others (an import, a second service) are looked for so often."""
RETRY_S: Final = 1.0
STANDBY_S: Final = 1.0
BATCH: Final = 200
LOCK: Final = "publisher"


def entry_of(stored: Stored) -> Entry:
    """Return an object as the topic has it."""
    return Entry(key_of(stored.kind, stored.id), stored.model_dump_json().encode())


class Announcer:
    """Publishes in a thread of its own until it is stopped.

    What is no trouble with the store or the broker ends the thread: a bug, for threading.excepthook to tell.
    """

    def __init__(self, settings: Settings, store: Store, connect: Callable[[Settings], Publisher] = Publisher) -> None:
        """connect: makes the connection to the broker."""
        self._settings, self._store, self._connect = settings, store, connect
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self.trouble = "not connected yet"
        """Why nothing is published at present; "" where all is well, or another process does it."""

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def wake(self) -> None:
        """Something has changed: look at once."""
        self._wake.set()

    def stop(self, timeout_s: float = 1.5) -> None:
        """End the thread, and wait for it for a while: what is not told yet stays in the outbox."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._store.database.alone(LOCK) as held:
                    if held is None:
                        self.trouble = ""
                        self._stopping.wait(STANDBY_S)
                    else:
                        self._publish(held)
            except Retryable as error:
                if str(error) != self.trouble:
                    log.warning("changes of campaigns wait: %s", error)
                self.trouble = str(error)
                self._stopping.wait(RETRY_S)

    def _publish(self, held: Held) -> None:
        publisher = self._connect(self._settings)
        try:
            self._drain(publisher)
            compare(self._settings, self._store, publisher)
            self.trouble = ""
            while not self._stopping.is_set():
                self._wake.clear()
                held.check()
                self._drain(publisher)
                self._wake.wait(LOOK_S)
        finally:
            publisher.close()

    def _drain(self, publisher: Publisher) -> None:
        due = self._store.due(BATCH)
        while due and not self._stopping.is_set():
            metrics.CAMPAIGNS_UNPUBLISHED.set(len(due))
            publisher.send([entry_of(one.stored) for one in due])
            self._store.told(due)
            _measure(due)
            due = self._store.due(BATCH)
        metrics.CAMPAIGNS_UNPUBLISHED.set(len(due))


def _measure(due: Sequence[Due]) -> None:
    now = now_ms()
    for one in due:
        metrics.CAMPAIGN_PUBLISH_SECONDS.observe(max(0, now - one.stored.changed_ms) / 1_000)


def compare(settings: Settings, store: Store, publisher: Publisher) -> int:
    """Send what the topic lacks, or has otherwise than the store, and delete what the store has not.

    Returns how many records that took. What the outbox holds is left to it. Raises Retryable.
    """
    there = read_all(settings)
    lacking: list[Entry] = []
    sent = 0
    for stored, is_due in store.standing():
        entry = entry_of(stored)
        # What is due comes by the outbox, each version in its turn: now it would come before those that it follows.
        if there.pop(entry.key, None) != entry.value and not is_due:
            lacking.append(entry)
        if len(lacking) >= BATCH:
            publisher.send(lacking)
            sent, lacking = sent + len(lacking), []
    gone = [Entry(key, None) for key in there]
    if gone:
        log.warning("%s: %d objects that the store does not have are deleted there", store.database.name, len(gone))
    publisher.send([*lacking, *gone])
    sent += len(lacking) + len(gone)
    if sent:
        log.info("campaigns: %d records sent again, as the topic lacked them", sent)
    return sent

"""`herald repartition`: the log in another number of partitions, as a new generation beside the present one.

The present generation is only read. Nothing of the new one is used before the settings say so.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline import topics
from pipeline.archive import backup, recutting, stores
from pipeline.archive import manifest as manifests
from pipeline.archive.log import CollectedLog, LogRecord, Source, delete_topics
from pipeline.archive.manifest import BackupLog
from pipeline.archive.segments import Damaged
from pipeline.errors import SettingsError
from pipeline.settings import Settings

LATE_MS = 200
"""So much later than it should a tick may come."""


@dataclass(frozen=True)
class Wish:
    """What `herald repartition` was asked for.

    to_generation: 0 = the next one. from_backup: holds the log's beginning.
    """

    partitions: int
    to_generation: int = 0
    from_backup: Path | None = None
    accept_gap: bool = False
    start_over: bool = False


class Joined:
    """The beginning of a log from its backup, and the rest from the log."""

    def __init__(self, old: BackupLog, log: CollectedLog) -> None:
        """old: of the same log, without a gap between the two."""
        self._old, self._log = old, log
        self.name, self.firsts, self.ends = log.name, old.firsts, log.ends

    def read(self, partition: int, start: int) -> Iterator[LogRecord]:
        """Yield the records of [start, end). Raises as the two do."""
        first = self._log.firsts[partition]
        if start < first:
            yield from (record for record in self._old.read(partition, start) if record.offset < first)
        yield from self._log.read(partition, max(start, first))


def run(settings: Settings, console: Console, wish: Wish) -> int:
    """Copy; print what was done and what to start with. 0 once nothing is left to copy, 1 while something is."""
    target = target_of(settings, wish)
    with stores.running(settings, console, with_warehouse=True), CollectedLog(settings) as log:
        source = _source(log, wish, console)
        if wish.start_over:
            stores.need_unused(target)
            delete_topics(target)
        topics.apply(target)
        with CollectedLog(target) as new:
            if not any(new.ends):  # else a copy that goes on: stages may be at work on it already
                stores.need_unused(target)
            done = recutting.copy(source, settings.generation, new, console, accept_gap=wish.accept_gap)
        left = _left(log, done)
    return _show(done, left, settings, target, console)


def target_of(settings: Settings, wish: Wish) -> Settings:
    """Return the settings of the new generation. Raises SettingsError where it is the present one."""
    generation = wish.to_generation or settings.generation + 1
    if generation == settings.generation:
        raise SettingsError(f"--to-generation {generation} is the present one; expected another")
    return settings.model_copy(update={"generation": generation, "partitions": wish.partitions})


def _source(log: CollectedLog, wish: Wish, console: Console) -> Source:
    if wish.from_backup is None:
        return log
    manifest = manifests.need(wish.from_backup)
    backup.check_same_log(manifest, log, wish.from_backup)
    wrong = backup.damaged(wish.from_backup, manifest, console)
    if wrong:
        raise Damaged("\n".join(wrong))
    return Joined(BackupLog(wish.from_backup, manifest), log)


def _left(log: CollectedLog, done: recutting.Copied) -> int:
    """Return how many blocks have come since, after as long as a collector needs to give a sign of life."""
    settings = log.settings
    time.sleep((1.2 * max(settings.tick_ms, settings.tick_max_ms) + LATE_MS) / 1_000)
    log.look()
    return sum(log.ends) - sum(done.read)


def _show(done: recutting.Copied, left: int, settings: Settings, target: Settings, console: Console) -> int:
    start = f"start with {stores.settings_line(target)}"
    old, new = settings.generation, target.generation
    if done.blocks:
        what = f"copied {done.events:,} events of generation {old} into generation {new}"
        console.print(f"{what} ({target.partitions} partitions)", highlight=False)
    if left:
        console.print(
            f"generation {old} is still written to ({left:,} blocks since): stop what runs on it, and run this again "
            f"for the rest; then {start}",
            highlight=False,
        )
        return 1
    console.print(f"nothing left to copy: generation {new} holds all of generation {old}; {start}", highlight=False)
    return 0

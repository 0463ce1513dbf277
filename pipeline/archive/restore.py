"""`herald restore DIR`: a backup back into an empty `collected`.

Into as many partitions as it was of, each record gets the offset that it had: same bytes, same names of blocks. Into
another number it goes the way of `herald repartition`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from rich.console import Console

from pipeline import topics
from pipeline.archive import backup, campaigns, recutting, stores
from pipeline.archive import manifest as manifests
from pipeline.archive.campaigns import StoreFile
from pipeline.archive.log import Appender, CollectedLog, LogRecord, delete_topics
from pipeline.archive.manifest import BackupLog
from pipeline.archive.segments import Damaged
from pipeline.errors import SettingsError
from pipeline.settings import Settings


@dataclass(frozen=True)
class Wish:
    """What `herald restore` was asked for. partitions: 0 = as the backup. to_generation: 0 = as the settings say."""

    folder: Path
    partitions: int = 0
    to_generation: int = 0
    accept_gap: bool = False
    start_over: bool = False


def run(settings: Settings, console: Console, wish: Wish) -> int:
    """Verify, restore, and print what to start with.

    Raises Damaged before anything is written, SettingsError where the log or what was made of it is not empty.
    """
    manifest = manifests.need(wish.folder)
    target = settings.model_copy(
        update={
            "partitions": wish.partitions or manifest.partitions,
            "generation": wish.to_generation or settings.generation,
        }
    )
    with manifests.locked(wish.folder, to_write=False), stores.running(settings, console, with_warehouse=True):
        wrong = backup.damaged(wish.folder, manifest, console)
        if wrong:
            raise Damaged("\n".join(wrong))
        stores.need_unused(target)
        if wish.start_over:
            delete_topics(target)
        topics.apply(target)
        old = BackupLog(wish.folder, manifest)
        with CollectedLog(target) as log:
            if target.partitions == manifest.partitions and not any(old.firsts):
                said = f"{_exactly(old, log, console):,} blocks restored, each at the offset that it had"
            else:
                done = recutting.copy(old, manifest.generation, log, console, accept_gap=wish.accept_gap)
                said = f"{done.events:,} events restored into {target.partitions} partitions"
        if isinstance(manifest.campaigns, StoreFile):
            text = campaigns.put_back(settings, wish.folder, manifest.campaigns)
            console.print(text, highlight=False, markup=False)
    console.print(f"{said}; start with {stores.settings_line(target)}", highlight=False)
    return 0


def _exactly(old: BackupLog, log: CollectedLog, console: Console) -> int:
    """Write what is missing, after a look at what is there; return how many blocks that was."""
    for partition in range(log.settings.partitions):
        _check_begun(old, log, partition)
    missing = sum(old.ends) - sum(log.ends)
    with Appender(log) as out, stores.progress(console) as bar:
        task = bar.add_task("restore", total=missing)
        for partition, start in enumerate(log.ends):
            for record in old.read(partition, start):
                out.append(partition, record.value, record.headers)
                bar.advance(task)
        out.flush()
    return missing


def _check_begun(old: BackupLog, log: CollectedLog, partition: int) -> None:
    """Raise SettingsError where a partition holds something else than the beginning of the backup."""
    place, end = f"{log.topic}[{partition}]", log.ends[partition]
    if log.firsts[partition]:
        raise SettingsError(f"{place} begins at {log.firsts[partition]}; expected an empty log")
    there = log.read(partition, 0)
    backed_up: Iterator[LogRecord | None] = iter(old.read(partition, 0)) if end else iter(())
    for mine, theirs in zip_longest(there, _first(backed_up, end)):
        if mine is None or theirs is None or (mine.headers, mine.value) != (theirs.headers, theirs.value):
            at = mine.offset if mine is not None else end
            raise SettingsError(
                f"{place} holds {end} blocks, and that at {at} is not the backup's; expected an empty log, or the "
                "beginning of this very backup. --start-over empties it, --to-generation leaves it alone"
            )


def _first(records: Iterator[LogRecord | None], count: int) -> Iterator[LogRecord | None]:
    return (record for _, record in zip(range(count), records, strict=False))

"""`herald backup DIR`: what is new in `collected` since the last backup, appended to a folder; and the campaigns.

A run reads each partition from where the last one ended, writes whole segment files, and after each names it in the
manifest. A kill at any instant leaves the backup as of the last manifest; what lies beside it is written over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline.archive import campaigns, segments, stores
from pipeline.archive import manifest as manifests
from pipeline.archive.campaigns import StoreFile
from pipeline.archive.log import CollectedLog, LogRecord
from pipeline.archive.manifest import Manifest
from pipeline.archive.segments import Damaged, SegmentWriter
from pipeline.edge.clock import now_ms
from pipeline.errors import Gap, HeraldError, SettingsError, StateError
from pipeline.settings import Settings

SEGMENT_BYTES = 67_108_864
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Wish:
    """What `herald backup` was asked for. verify: only look whether what is there is whole."""

    folder: Path
    verify: bool = False


def run(settings: Settings, console: Console, wish: Wish) -> int:
    """Back up, or verify; print what was done. 1 where something is damaged."""
    if wish.verify:
        return verify(wish.folder, console)
    with stores.running(settings, console):
        backup(settings, wish.folder, console)
    return 0


def backup(settings: Settings, folder: Path, console: Console) -> int:
    """Append what is new; return how many blocks that was.

    Raises Gap where retention has deleted what the backup still lacks, StateError where the folder holds another log's,
    Damaged where it was altered, Retryable where the broker is away, SettingsError where there is no such log.
    """
    try:
        segments.make_folder(folder)
        with manifests.locked(folder), CollectedLog(settings) as log:
            manifest = manifests.read(folder) or _first(folder, settings, log)
            check_same_log(manifest, log, folder)
            total = sum(end - part.next for end, part in zip(log.ends, manifest.parts, strict=True))
            with stores.progress(console) as bar:
                task = bar.add_task("backup", total=total)
                for partition in range(settings.partitions):
                    _append(folder, manifest, partition, log, lambda count: bar.advance(task, count))
            _take_campaigns(settings, folder, manifest)
    except OSError as error:
        raise HeraldError(f"{folder}: {error.strerror or error}; expected a folder that can be written") from error
    _show(folder, manifest, total, console)
    return total


def _take_campaigns(settings: Settings, folder: Path, manifest: Manifest) -> None:
    """Put the campaigns' store as it is now in the place of the one before; where it is not here, that one stays."""
    store = campaigns.save(settings, folder)
    if store is not None:
        manifest.campaigns = store
    if store is not None or not manifest.written_ms:  # a backup of nothing is one, too
        _note(folder, manifest)
    if store is not None:
        campaigns.forget_others(folder, store)


def _first(folder: Path, settings: Settings, log: CollectedLog) -> Manifest:
    """Begin a backup: only where nothing lies that is not ours."""
    strangers = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
    if strangers:
        raise SettingsError(f"{folder} holds {strangers[0]!r}; expected an empty folder, or one of `herald backup`")
    return manifests.new(settings.generation, log.firsts)


def _is_ours(path: Path) -> bool:
    """True for what a first run that was killed may have left."""
    if path.name in (manifests.LOCK, manifests.NAME + segments.UNFINISHED):
        return True
    return path.name.startswith(campaigns.PREFIX) or (path.name.isdigit() and path.is_dir())


def check_same_log(manifest: Manifest, log: CollectedLog, folder: Path) -> None:
    """Raise SettingsError or StateError where a backup is not of this log, Gap where the log has lost its sequel."""
    settings = log.settings
    if (manifest.generation, manifest.partitions) != (settings.generation, settings.partitions):
        raise SettingsError(
            f"{folder} is of generation {manifest.generation} with {manifest.partitions} partitions; expected "
            f"{stores.settings_line(settings)}. Back another log up into another folder"
        )
    for number, part in enumerate(manifest.parts):
        place = f"{log.topic}[{number}]"
        if log.ends[number] < part.next:
            raise StateError(
                f"{place} ends at {log.ends[number]}, the backup in {folder} at {part.next}: it is of another log"
            )
        if log.firsts[number] > part.next:
            raise Gap(
                f"{place} begins at {log.firsts[number]}, the backup in {folder} ends at {part.next}: retention has "
                "deleted what lies between. Begin another backup in another folder, and run it more often"
            )
        if log.firsts[number] < part.next and part.last_crc != _crc_at(log, number, part.next - 1):
            raise StateError(f"{place}: record {part.next - 1} is not the one in {folder}: it is of another log")


def _crc_at(log: CollectedLog, partition: int, offset: int) -> str:
    return _crc(next(log.read(partition, offset)))


def _crc(record: LogRecord) -> str:
    return dict(record.headers).get("crc", b"").decode("ascii", "replace")


def _append(folder: Path, manifest: Manifest, partition: int, log: CollectedLog, advance: Advance) -> None:
    """Write what is new of a partition, a segment at a time."""
    part = manifest.parts[partition]
    records = log.read(partition, part.next)
    record = next(records, None)
    while record is not None:
        with SegmentWriter(folder, partition, part.next) as file:
            while record is not None and file.size < SEGMENT_BYTES:
                file.append(record)
                last_crc, record = _crc(record), next(records, None)
            segment = file.finish()
        part.segments.append(segment)
        part.next, part.last_crc = segment.next, last_crc
        _note(folder, manifest)
        advance(segment.next - segment.first)


def _note(folder: Path, manifest: Manifest) -> None:
    manifest.written_ms = now_ms()
    manifests.write(folder, manifest)


def _show(folder: Path, manifest: Manifest, total: int, console: Console) -> None:
    blocks = sum(part.next - part.first for part in manifest.parts)
    size = sum(segment.size for part in manifest.parts for segment in part.segments)
    console.print(f"{total:,} blocks added; {folder} holds {blocks:,} in {size:,} bytes", highlight=False, markup=False)
    if isinstance(manifest.campaigns, StoreFile):
        console.print(f"campaigns: {manifest.campaigns.size:,} bytes", highlight=False)
    else:
        console.print("campaigns: their store is not here; if there is one, back it up by itself", highlight=False)
    late = [number for number, part in enumerate(manifest.parts) if part.first]
    if late:
        console.print(
            f"it does not begin with the log: retention had deleted the beginning of {len(late)} partitions before",
            highlight=False,
        )


def verify(folder: Path, console: Console) -> int:
    """Check every file of a backup; name what is damaged, and return 1 where anything is."""
    manifest = manifests.need(folder)
    wrong = damaged(folder, manifest, console)
    for text in wrong:
        console.print(text, style="red", highlight=False, markup=False)
    files = sum(len(part.segments) for part in manifest.parts) + isinstance(manifest.campaigns, StoreFile)
    said = f"{len(wrong)} of {files} files are damaged" if wrong else f"all {files} files are whole"
    console.print(f"{folder}: {said}", highlight=False, markup=False)
    return 1 if wrong else 0


def damaged(folder: Path, manifest: Manifest, console: Console) -> list[str]:
    """Return what is wrong with a backup, a text for each file. Raises Damaged where the manifest itself has a hole."""
    manifests.check_order(folder, manifest)
    found: list[str] = []
    if isinstance(manifest.campaigns, StoreFile):
        try:
            campaigns.check(folder, manifest.campaigns)
        except Damaged as error:
            found.append(str(error))
    every = [segment for part in manifest.parts for segment in part.segments]
    with stores.progress(console) as bar:
        for segment in bar.track(every, description="verify"):
            try:
                segments.check(folder, segment)
            except Damaged as error:
                found.append(str(error))
    return found

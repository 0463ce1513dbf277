"""The campaigns' store in a backup: the embedded one, as a file of its own, since no log holds what is in it.

A PostgreSQL is left to its own tools. The topic `campaigns` is in no backup: the service makes it again from the store.
"""

import hashlib
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from pipeline.archive import segments
from pipeline.archive.segments import Damaged
from pipeline.campaigns.database import FILE
from pipeline.errors import HeraldError
from pipeline.settings import Settings

PREFIX = "campaigns-"
ENDING = ".db"


class StoreFile(Struct):
    """The store as one file of a backup. name: relative to its folder, and other for other content."""

    name: str
    size: int
    sha256: str


def embedded(settings: Settings) -> Path | None:
    """Return where the embedded store is, or would be; None where an outside one is given."""
    return None if settings.campaigns_url.get_secret_value() else settings.data_dir / FILE


def save(settings: Settings, folder: Path) -> StoreFile | None:
    """Write the store as it stands now into a backup's folder; None where it is not here.

    Whoever writes to the store goes on meanwhile. Raises OSError, HeraldError.
    """
    source = embedded(settings)
    if source is None or not source.exists():
        return None
    unfinished = folder / (PREFIX + segments.UNFINISHED)
    segments.private(unfinished).close()  # for its owner alone from the beginning on
    try:
        with closing(sqlite3.connect(source, timeout=30)) as one, closing(sqlite3.connect(unfinished)) as other:
            one.backup(other)
            other.execute("PRAGMA journal_mode = DELETE").close()  # else two more files would belong to it
    except sqlite3.Error as error:
        raise HeraldError(f"{source}: {error}; expected the campaigns' store") from error
    size, sha256 = _measured(unfinished)
    found = StoreFile(f"{PREFIX}{sha256[:16]}{ENDING}", size, sha256)
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    unfinished.replace(folder / found.name)
    segments.sync_folder(folder)
    return found


def forget_others(folder: Path, kept: StoreFile) -> None:
    """Remove what earlier runs have left, once the manifest names this one."""
    for path in folder.glob(f"{PREFIX}*"):
        if path.name != kept.name:
            path.unlink()


def check(folder: Path, stored: StoreFile) -> None:
    """Raise Damaged where the file is not to the byte what was written."""
    path = folder / stored.name
    try:
        size, sha256 = _measured(path)
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}; it belongs to the backup") from error
    if (size, sha256) != (stored.size, stored.sha256):
        raise Damaged(f"{path}: {size} bytes with another checksum than the manifest's, expected {stored.size} bytes")


def put_back(settings: Settings, folder: Path, stored: StoreFile) -> str:
    """Copy the store to where it belongs, unless one is there; return what came of it, for people. Raises OSError."""
    target, source = embedded(settings), folder / stored.name
    if target is None:
        return f"campaigns: HERALD_CAMPAIGNS_URL names another store, which was left alone; the backup's is {source}"
    if target.exists():
        return f"campaigns: {target} is there already, and was left alone; the backup's is {source}"
    segments.make_folder(target.parent)
    unfinished = target.with_name(target.name + segments.UNFINISHED)
    with source.open("rb") as old, segments.private(unfinished) as new:
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(new.fileno())
    unfinished.replace(target)
    segments.sync_folder(target.parent)
    return f"campaigns: {target} is as it was backed up"


def _measured(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()

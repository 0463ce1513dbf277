"""`herald campaigns import|export`: files of campaigns into the store and out of it.

Both ask the store itself, not the service: one transaction holds a whole file, and no service has to run. Whoever may
open the store may do this; a service that runs on the same store finds the changes in the outbox and publishes them.
"""

import getpass
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from pipeline.campaigns import rules, yaml_file
from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.refusals import Reason, Refused
from pipeline.campaigns.store import NEW, Author, Changes, Store
from pipeline.campaigns.yaml_file import FileError, Wanted
from pipeline.core.json_diff import Difference, Op, diff
from pipeline.edge.clock import now_ms
from pipeline.errors import HeraldError, SettingsError
from pipeline.settings import Settings
from schemas.campaign import Status, Stored


@dataclass(frozen=True)
class ImportWish:
    """What was asked for. publish: what the file gives no status. dry_run: store nothing."""

    file: Path
    publish: bool = False
    dry_run: bool = False


class Done(NamedTuple):
    """What became of one object. before: None where it is new."""

    before: Stored | None
    after: Stored


class _NotStored(HeraldError):
    """Ends the transaction of a dry run."""


def import_file(settings: Settings, console: Console, wish: ImportWish) -> int:
    """Import a file; 0 where all of it is stored. Raises FileError or Refused with nothing stored, or Retryable."""
    try:
        wanted = yaml_file.read(wish.file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{wish.file}: {error}") from error
    except FileError as error:
        raise FileError(f"{wish.file}:\n{error}") from None
    with closing(Database(url_of(settings))) as database:
        database.migrate()
        done = _imported(Store(database), wanted, wish)
    for one in done:
        for line in told(one):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    changed = sum(one.after.version > (one.before.version if one.before else 0) for one in done)
    what = "would change" if wish.dry_run else "changed"
    console.print(f"{changed} of {len(done)} objects {what}", highlight=False)
    return 0


def _imported(store: Store, wanted: Sequence[Wanted], wish: ImportWish) -> list[Done]:
    done: list[Done] = []
    try:
        with store.changing(author("herald campaigns import"), now_ms()) as changes:
            done = apply(changes, wanted, wish.publish)
            if wish.dry_run:
                raise _NotStored
    except _NotStored:
        pass
    return done


def apply(changes: Changes, wanted: Sequence[Wanted], publish: bool) -> list[Done]:
    """Make objects what a file wants: first what they are, then, once all are there, their status. Raises Refused.

    publish: those whose status the file does not say; what has ended stays so.
    """
    before = [changes.get(one.kind, one.id) for one in wanted]
    for one, was in zip(wanted, before, strict=True):
        changes.put(one.kind, one.body, was.version if was else NEW)
    return [Done(was, _stepped(changes, one, publish)) for one, was in zip(wanted, before, strict=True)]


def _stepped(changes: Changes, one: Wanted, publish: bool) -> Stored:
    found = changes.get(one.kind, one.id)
    assert found is not None, f"{one.kind}/{one.id}: it was put before"
    to = one.status
    if to is None and publish and found.status is not Status.ENDED:
        to = Status.PUBLISHED
    if to is None:
        return found
    steps = rules.way(found.status, to)
    if steps is None:
        detail = f"{one.kind}/{one.id}: no steps lead from {found.status} to {to}"
        raise Refused(Reason.STEP, detail, [("status", found.status.value)])
    for step in steps:
        found = changes.step(one.kind, one.id, step, found.version)
    return found


def told(done: Done) -> list[str]:
    """Return lines for people: what an object is now that it was not before; [] where it is the same."""
    before, after = done
    name = f"{after.kind}/{after.id}"
    if before is None:
        return [f"+ {name} ({after.status})"]
    if before.version == after.version:
        return []
    lines = [f"~ {name} ({after.status})"]
    if before.status is not after.status:
        lines = [f"~ {name} ({before.status} -> {after.status})"]
    return lines + [f"    {_line(one)}" for one in diff(before.body, after.body)]


def _line(one: Difference) -> str:
    if one.op is Op.ADD:
        return f"{one.path}: + {one.after!r}"
    if one.op is Op.REMOVE:
        return f"{one.path}: - {one.before!r}"
    return f"{one.path}: {one.before!r} -> {one.after!r}"


def export_file(settings: Settings, file: Path | None) -> int:
    """Write all objects as YAML; the file is there as a whole, or not at all. Raises SettingsError or Retryable."""
    with closing(Database(url_of(settings))) as database:
        database.migrate()
        text = yaml_file.write(Store(database).everything())
    if file is None:
        sys.stdout.write(text)
        return 0
    try:
        _replace(file, text)
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}; expected a file that can be written") from error
    return 0


def _replace(file: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, prefix=file.name, delete=False) as fresh:
        try:
            fresh.write(text)
            fresh.flush()
            os.fsync(fresh.fileno())
            Path(fresh.name).replace(file)
        except BaseException:
            Path(fresh.name).unlink()
            raise


def author(command: str) -> Author:
    """Return who runs a command, for the audit."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name, as in containers
        name = str(os.getuid())
    return Author(name, f"{command}, on {socket.gethostname()}")

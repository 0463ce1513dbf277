"""A backup, a restore and a repartition are killed on their way; run again, they end as if nothing had been.

`python -m tests.crashpoints.archive` is the process that dies: it does one unit for each line that it is given.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from pipeline import topics
from pipeline.archive import backup, repartition, restore
from pipeline.archive import manifest as manifests
from pipeline.archive.log import Appender, CollectedLog
from pipeline.archive.manifest import BackupLog
from pipeline.errors import HeraldError
from pipeline.settings import Settings, load
from schemas import block as codec
from schemas.block import CollectedBlock
from tests.agents.rig import page_views
from tests.crashpoints.worker import Worker

PARTITIONS = 2
SEGMENT_BYTES = 4_000


class Work(msgspec.Struct):
    """One unit. generation: that is filled."""

    what: str
    folder: str
    generation: int = 1
    partitions: int = PARTITIONS


def do(settings: Settings, work: Work) -> None:
    """Do one unit of work, as its command does."""
    console, folder = Console(quiet=True), Path(work.folder)
    backup.SEGMENT_BYTES = SEGMENT_BYTES
    if work.what == "backup":
        backup.backup(settings, folder, console)
    elif work.what == "restore":
        restore.run(settings, console, restore.Wish(folder, to_generation=work.generation))
    else:
        repartition.run(settings, console, repartition.Wish(work.partitions, work.generation))


def main() -> None:
    """Do what is asked, a line each, and say so."""
    settings = load()
    print("ready", flush=True)
    for line in sys.stdin:
        do(settings, msgspec.json.decode(line, type=Work))
        print("done", flush=True)


class Copying:
    """A command of `pipeline.archive` on a log that grows from unit to unit."""

    def __init__(self, what: str, servers: str, folder: Path, calls: int) -> None:
        """what: backup, restore or repartition. calls: about how many a unit makes."""
        self.what, self.folder, self.calls = what, folder, calls
        self.name = f"{what}: one run"
        self.settings = load(
            data_dir=folder / "data",
            kafka_bootstrap_servers=servers,
            topic_prefix=f"crash-{what}-",
            partitions=PARTITIONS,
            tick_ms=10,
            tick_max_ms=0,
        )
        topics.apply(self.settings)
        self.number = 0
        self.blocks = 0
        self.unit = Work(what, str(folder / "0"))
        self._worker = Worker("tests.crashpoints.archive", folder / "out.log", self.settings.as_environment())

    def _feed(self, blocks: int) -> None:
        with CollectedLog(self.settings) as log, Appender(log) as out:
            for _ in range(blocks):
                for partition in range(PARTITIONS):
                    value = codec.encode(page_views(self.blocks, self.blocks * 10, 10))
                    out.append(partition, value, codec.headers(value, 10))
                    self.blocks += 1
            out.flush()

    def warm(self) -> int:
        if self._worker.is_over:
            self._worker.start()
        self.number += 1
        if self.number == 1 or self.what == "repartition":  # the others do the same log each time, to another place
            self._feed(6)
        folder = str(self.folder / str(self.number))
        if self.what == "restore":
            backup.backup(self.settings, Path(folder), Console(quiet=True))
        generation = self.number + 1 if self.what == "restore" else 2
        self.unit = Work(self.what, folder, generation, 3)
        topics.apply(self._target())
        return self._worker.pid

    def work(self) -> None:
        self._worker.do(msgspec.json.encode(self.unit))

    def wrong(self) -> list[str]:
        found = self._unusable() if self.what == "backup" else []
        self._worker.start()
        self.work()
        if self._worker.is_over:
            return [*found, f"the next run failed: {self._worker.last_words}"]
        check = {"backup": self._backed_up, "restore": self._restored, "repartition": self._copied}[self.what]
        return found + check()

    def _unusable(self) -> list[str]:
        """What is there right after the kill is a backup, or none that was ever finished."""
        folder = Path(self.unit.folder)
        try:
            manifest = manifests.read(folder) if folder.exists() else None
            return backup.damaged(folder, manifest, Console(quiet=True)) if manifest is not None else []
        except HeraldError as error:
            return [f"right after the kill: {error}"]

    def _backed_up(self) -> list[str]:
        folder = Path(self.unit.folder)
        manifest = manifests.need(folder)
        with CollectedLog(self.settings) as log:
            same = _content(BackupLog(folder, manifest), PARTITIONS) == _content(log, PARTITIONS)
        strange = sorted(path.name for path in folder.rglob("*.unfinished"))
        return (
            backup.damaged(folder, manifest, Console(quiet=True)) + ([] if same else ["not the log's bytes"]) + strange
        )

    def _restored(self) -> list[str]:
        with CollectedLog(self.settings) as log, CollectedLog(self._target()) as copy:
            return [] if _content(copy, PARTITIONS) == _content(log, PARTITIONS) else ["not the log's bytes"]

    def _copied(self) -> list[str]:
        with CollectedLog(self.settings) as log, CollectedLog(self._target()) as copy:
            before, after = _events(log, PARTITIONS), _events(copy, 3)
        return [f"{name}: {len(after.get(name, []))} events, expected {len(all_)}"
                for name, all_ in before.items() if after.get(name) != all_]  # fmt: skip

    def _target(self) -> Settings:
        partitions = PARTITIONS if self.what == "restore" else 3
        return self.settings.model_copy(update={"generation": self.unit.generation, "partitions": partitions})

    def close(self) -> None:
        self._worker.close()


def _content(log: Any, partitions: int) -> list[list[object]]:
    return [[(one.headers, one.value) for one in log.read(partition, 0)] for partition in range(partitions)]


def _events(log: Any, partitions: int) -> dict[str, list[bytes]]:
    """Return each visitor's events: of a visitor in the order of the log, of those in several places sorted."""
    found: dict[str, list[bytes]] = {}
    for partition in range(partitions):
        for record in log.read(partition, 0):
            for event in codec.decode(record.value, CollectedBlock).events:
                found.setdefault(event.visitor, []).append(event.raw)
    return {name: sorted(raws) for name, raws in found.items()}


if __name__ == "__main__":
    main()

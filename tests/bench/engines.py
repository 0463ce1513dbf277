"""c. The same functions in other hands: Faust with an event a record, Quix Streams, Bytewax, and no engine at all.

All read the same events from Kafka and write the same rows back, state kept in each engine's own way (see engine_*.py);
`outputs.py` reads them back and compares them with those of our stages. One event in REPEATED_EVERY comes twice.
Each runs in a process of its own, one after the other: `python -m tests.bench.engines JOB`.
"""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tests.bench import kafka, outputs
from tests.bench.outputs import Outputs
from tests.bench.per_event import One, pack
from tests.bench.reading import MARK, Account, Job
from tests.bench.stand import Stand, broker, client
from tests.bench.workload import PARTITIONS, Placed, collected, messages

EXTRAS = Path(sys.prefix) / "bench"
"""Where `make bench` installs the engines: not where `make test` or the product could find them."""

ENGINES = {
    "faust": "Faust, an event a record, Tables",
    "quix": "Quix Streams, RocksDB",
    "bytewax": "Bytewax, recovery on",
    "loop": "no engine (control)",
}
NEEDS = {"quix": "quixstreams", "bytewax": "bytewax", "loop": "confluent_kafka"}
REPEATED_EVERY = 50
GIVE_UP_S = 600.0


@dataclass(frozen=True)
class Engine:
    """One engine. outputs: what it wrote."""

    account: Account
    outputs: Outputs


@dataclass(frozen=True)
class Compared:
    """records: events sent, repeats too. stages: ours, each alone. missing: engines that are not installed."""

    records: int
    stages: dict[str, kafka.Measured]
    outputs: Outputs
    engines: dict[str, Engine]
    missing: list[str]

    @property
    def cpu_us(self) -> float:
        """CPU per event of our three stages."""
        return sum(one.cpu_us for one in self.stages.values())

    def is_equal(self, name: str) -> bool:
        """Say whether an engine wrote what our stages wrote, row for row."""
        return self.engines[name].outputs == self.outputs


def run(events: int, names: tuple[str, ...] = tuple(ENGINES), *, at_once: bool = False) -> Compared:
    """Measure our stages and these engines, where they are installed, on so many events.

    at_once: our stages side by side, which is quicker and measures less well; what they write is the same.
    """
    placed = collected(_with_repeats(messages(events)))
    records = sum(len(one.block.events) for one in placed)
    there = [name for name in names if _is_installed(name)]
    with broker() as stand:
        kafka.fill(stand.settings, placed)
        unique = records - records // (REPEATED_EVERY + 1)
        stages = kafka.at_once(stand, records, unique)[0] if at_once else kafka.one_by_one(stand, records, unique)
        ours = outputs.of_stages(stand.settings)
        _fill(stand, placed)
        engines = {name: _measure(stand, name, records) for name in there}
    return Compared(records, stages, ours, engines, [name for name in names if name not in there])


def _with_repeats(source: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, message in enumerate(source, 1):
        yield message
        if number % REPEATED_EVERY == 0:
            yield message


def _is_installed(name: str) -> bool:
    return name not in NEEDS or (EXTRAS / NEEDS[name]).is_dir()


def _fill(stand: Stand, placed: list[Placed]) -> None:
    """Write each event as a record of its own, by its visitor, where its block was."""
    _create(stand, "bench-in")
    producer = client(stand.settings)
    for partition, block in placed:
        for event in block.events:
            value = pack(One(event, block.contexts[event.context]))
            producer.send("bench-in", key=event.visitor.encode(), value=value, partition=partition)
    producer.flush()
    producer.close()


def _create(stand: Stand, *names: str) -> None:
    from pipeline.edge.kafka import admin

    client = admin(stand.settings)
    client.create_topics({name: {"num_partitions": PARTITIONS, "replication_factor": 1} for name in names})
    client.close()


def _measure(stand: Stand, name: str, records: int) -> Engine:
    group = f"bench-{name}"
    job = Job(
        engine=name,
        broker=stand.settings.bootstrap_servers,
        group=group,
        source="bench-in",
        events=f"{group}-events",
        sessions=f"{group}-sessions",
        profiles=f"{group}-profiles",
        partitions=PARTITIONS,
        records=records,
        folder=str(stand.settings.data_dir / group),
    )
    _create(stand, job.events, job.sessions, job.profiles)
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.engines", msgspec.json.encode(job).decode()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=GIVE_UP_S, check=False)
    _, found, said = ended.stdout.partition(MARK)
    if not found:
        raise RuntimeError(f"{name}: exit code {ended.returncode}\n{(ended.stdout + ended.stderr)[-3_000:]}")
    account = msgspec.json.decode(said.splitlines()[0], type=Account)
    module = _module(name)
    profiles = module.profiles_topic(job)
    return Engine(account, outputs.of_engine(stand.settings, job.events, job.sessions, profiles, module.visitor_of))


def _module(name: str) -> Any:
    return importlib.import_module(f"tests.bench.engine_{name}")


def main(job: Job) -> None:
    """Run the measured process."""
    sys.path.append(str(EXTRAS))  # behind our own packages: the functions run on what the product runs on
    _module(job.engine).run(job)


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Job))

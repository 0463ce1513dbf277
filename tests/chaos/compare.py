"""Equal or not, by hash: sha256 over canonically sorted rows, of every table and every state.

Nothing is left out but what tells of the way and not of the result: when a block was applied and how often it was sent
again (`blocks`), and at which block a rollup's row was last written (rows are written once a chunk, and chunks are
chance; the row itself is absolute).
"""

import hashlib
import threading
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.core.state import StateView
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.follow import Follower
from pipeline.settings import Settings
from schemas.ddl import Table
from schemas.state import StateRecord
from schemas.tables import BLOCKS, DECISIONS, EVENTS, OUTCOMES, ROLLUP_MINUTE, TABLES
from schemas.topics import CLEAN_STATE, MODELS, PROFILES, SESSIONISE_STATE, SPEND, Topic
from tests.chaos.reference import States

OF_THE_WAY = {BLOCKS.name: {"applied_time", "gen"}, ROLLUP_MINUTE.name: {"o"}}
OF_THE_AUDITOR = {"seals"}  # what it has looked at; the clean run has no auditor
BUCKETS = 64
STATE_TOPICS: dict[str, Topic] = {
    "clean": CLEAN_STATE,
    "sessionise": SESSIONISE_STATE,
    "profile": PROFILES,
    "learn": MODELS,
    "spend": SPEND,
}
LOADED_S = 300.0
SHOWN = 3


class Pair(NamedTuple):
    """One thing in both runs. rows: of the run with kills. differences: some of them, in words."""

    name: str
    rows: int
    killed: str
    clean: str
    differences: list[str]

    @property
    def is_equal(self) -> bool:
        """Whether the hashes are the same."""
        return self.killed == self.clean


class Digest(NamedTuple):
    """A table's hash, with those of its buckets, so that a difference can be found."""

    rows: int
    buckets: dict[tuple[int, int], str]

    @property
    def value(self) -> str:
        """The hash of all."""
        return _hash(f"{place}:{found}".encode() for place, found in sorted(self.buckets.items()))


def tables(settings: Settings, clean: str) -> list[Pair]:
    """Compare every table of the warehouse with the same one in the database `clean`."""
    with Warehouse.from_url(settings.warehouse_url, send_receive_timeout_s=600) as warehouse:
        compared = [table for table in TABLES if table.name not in OF_THE_AUDITOR]
        return [_table(warehouse, table, clean, settings.partitions) for table in compared]


def _table(warehouse: Warehouse, table: Table, clean: str, partitions: int) -> Pair:
    killed, other = (
        _digest(warehouse, table, f"{database}.{table.name}", partitions) for database in ("default", clean)
    )
    differing = sorted(
        place for place in killed.buckets | other.buckets if killed.buckets.get(place) != other.buckets.get(place)
    )
    told = _differences(warehouse, table, clean, differing[0]) if differing else []
    return Pair(f"table {table.name}", killed.rows, killed.value, other.value, told)


def _row(table: Table) -> str:
    """The SQL of a row in canonical form: JSON of all that counts, in the order of the columns."""
    left_out = OF_THE_WAY.get(table.name, set())
    return f"toJSONString(tuple({', '.join(name for name in table.column_names if name not in left_out)}))"


def _bucket(table: Table) -> str:
    key = {EVENTS.name: "o", BLOCKS.name: "o", OUTCOMES.name: "decision_id", DECISIONS.name: "decision_id"}
    return f"cityHash64({key.get(table.name, table.order_by[0])}) % {BUCKETS}"


def _digest(warehouse: Warehouse, table: Table, name: str, partitions: int) -> Digest:
    rows, buckets = 0, {}
    for partition in range(partitions):
        found = warehouse.execute(
            "SELECT bucket, count(), hex(SHA256(arrayStringConcat(arraySort(groupArray(hash))))) FROM ("  # noqa: S608
            f"SELECT {_bucket(table)} AS bucket, SHA256({_row(table)}) AS hash FROM {name} FINAL "
            f"WHERE p = {partition}) GROUP BY bucket"
        )
        for bucket, count, value in found:
            rows += int(str(count))
            buckets[partition, int(str(bucket))] = str(value)
    return Digest(rows, buckets)


def _differences(warehouse: Warehouse, table: Table, clean: str, place: tuple[int, int]) -> list[str]:
    """Return some rows of one bucket that only one run has."""
    told = []
    for mine, other in (("default", clean), (clean, "default")):
        one, two = (
            f"SELECT {_row(table)} FROM {database}.{table.name} FINAL "  # noqa: S608 - our own names
            f"WHERE p = {place[0]} AND {_bucket(table)} = {place[1]}"
            for database in (mine, other)
        )
        found = warehouse.execute(f"SELECT * FROM ({one} EXCEPT {two}) LIMIT {SHOWN}")  # noqa: S608
        told += [f"only in {'the run with kills' if mine == 'default' else 'the clean run'}: {row[0]}" for row in found]
    return told


class _States:
    """Reads state topics as delivery does, from where each partition's state begins."""

    def __init__(self, wanted: int) -> None:
        self.views: dict[tuple[str, int], StateView] = {}
        self.all_loaded = threading.Event()
        self._missing = wanted

    def begin(self, topic: Topic, partition: int) -> None:
        self.views[topic.name, partition] = StateView()

    def take(self, topic: Topic, partition: int, record: StateRecord, offset: int) -> None:
        self.views[topic.name, partition].apply(record, offset)

    def loaded(self, topic: Topic, partition: int) -> None:
        self._missing -= 1
        if not self._missing:
            self.all_loaded.set()

    def pause(self) -> None:
        """Nothing to do between two batches."""


def states(settings: Settings) -> States:
    """Return (stage, partition) -> its state, as whoever takes it over now would restore it."""
    reader = _States(len(STATE_TOPICS) * settings.partitions)
    follower = Follower(settings, list(STATE_TOPICS.values()), reader)
    follower.start()
    try:
        if not reader.all_loaded.wait(LOADED_S):
            raise TimeoutError(f"the state topics were not read within {LOADED_S:.0f} s")
    finally:
        follower.stop()
    return {
        (stage, partition): reader.views[topic.name, partition]
        for stage, topic in STATE_TOPICS.items()
        for partition in range(settings.partitions)
    }


def compare_states(killed: States, clean: States) -> list[Pair]:
    """Compare each stage's state: the version, the fixed part, and every entry byte by byte."""
    found = []
    for stage in STATE_TOPICS:
        mine = {place: view for place, view in sorted(killed.items()) if place[0] == stage}
        hashes = [_hash(part for place in mine for part in _parts(views[place])) for views in (killed, clean)]
        told = [text for place in mine for text in _unlike(place, killed[place], clean[place])]
        rows = sum(len(view.entries) for view in mine.values())
        found.append(Pair(f"state of {stage}", rows, hashes[0], hashes[1], told[:SHOWN]))
    return found


def _parts(view: StateView) -> Iterable[bytes]:
    yield b"%d %s" % (view.version, view.fixed)
    for key, raw in sorted(view.entries.items()):
        yield b"%s %s" % (key.encode("utf-8", "surrogatepass"), raw)


def _unlike(place: tuple[str, int], killed: StateView, clean: StateView) -> list[str]:
    told = []
    if (killed.version, killed.fixed) != (clean.version, clean.fixed):
        told.append(f"{place}: version {killed.version} {killed.fixed!r}, clean {clean.version} {clean.fixed!r}")
    for key in sorted(killed.entries.keys() | clean.entries.keys()):
        if killed.entries.get(key) != clean.entries.get(key):
            told.append(f"{place} {key}: {killed.entries.get(key)!r}, clean {clean.entries.get(key)!r}")
    return told


def _hash(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(b"%d " % len(part))
        found.update(part)
    return found.hexdigest()

"""Every scenario, by the name that the command takes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.core.clean_stage import Clean
from pipeline.core.profile_stage import Profiles
from pipeline.core.sessionise import Sessionise
from pipeline.core.spend import Spend
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from tests.agents.rig import Stages
from tests.agents.shop import WINDOW_MS
from tests.crashpoints.archive import Copying
from tests.crashpoints.campaigns import Changes
from tests.crashpoints.decisions import Answers, Paid
from tests.crashpoints.leases import Leasing
from tests.crashpoints.points import Scenario
from tests.crashpoints.services import Flush, Resume
from tests.crashpoints.stages import PARTITIONS, Commit, Restore
from tests.crashpoints.warehouse import Control, Insert
from tests.waits import free_ports

CONTROL = "control"
BROKER_S = 180.0


class Planned(NamedTuple):
    """One scenario of the full run. step: of how many points one is run."""

    meaning: str
    step: int = 1


SCENARIOS: dict[str, Planned] = {
    "insert": Planned("the warehouse dies while a chunk goes into its seven tables"),
    CONTROL: Planned("the same with a token for each insert and a blind retry: this one must lose rows"),
    "clean": Planned("clean dies while it does rounds of blocks in two partitions"),
    "sessionise": Planned("sessionise dies while it does rounds of blocks in two partitions"),
    "profile": Planned("profile dies while it does rounds of blocks in two partitions"),
    "spend": Planned("spend dies while it does rounds of blocks in two partitions"),
    "restore": Planned("sessionise dies while it starts, fences and restores its state, and does what waits"),
    "collector": Planned("the collector dies while it takes requests"),
    "delivery": Planned("delivery dies while it starts on an empty folder, reads its state and decides"),
    "answers": Planned("delivery dies while it answers decisions and clicks"),
    "paid": Planned("delivery dies while it answers decisions that cost money, and leases more"),
    "campaigns": Planned("the campaigns' service dies while it stores changes and tells the topic of them"),
    "leases": Planned("delivery dies while it makes the lease store, leases, reserves and gives back"),
    "backup": Planned("a backup dies while it reads the log and writes segments and manifest"),
    "refill": Planned("a restore from a backup dies while it writes the log"),
    "repartition": Planned("a repartition dies while it copies the log into another number of partitions"),
}
_COPIES = {"backup": ("backup", 70), "refill": ("restore", 39), "repartition": ("repartition", 48)}  # command, calls
_STAGES = {
    "clean": (Commit, Clean),
    "sessionise": (Commit, Sessionise),
    "profile": (Commit, Profiles),
    "spend": (Commit, Spend),
    "restore": (Restore, Sessionise),
}


Made = Insert | Control | Commit | Flush | Resume | Answers | Changes | Leasing | Copying


@contextmanager
def _broker(folder: Path) -> Iterator[EmbeddedKafka]:
    port, controller = free_ports(2)
    running = EmbeddedKafka(KafkaConfig(folder, port, controller, heap_mb=256))
    running.start()
    try:
        running.wait_ready(BROKER_S)
        yield running
    finally:
        running.stop()


class Stand:
    """Makes scenarios in a folder; those that need one share a broker, started with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = ExitStack()
        self._servers = ""

    @contextmanager
    def scenario(self, name: str) -> Iterator[Scenario]:
        """Have a scenario ready; its processes end with the block."""
        folder = self.folder / name
        folder.mkdir()
        made = self._made(name, folder)
        try:
            yield made
        finally:
            made.close()

    def _made(self, name: str, folder: Path) -> Made:
        if name == "insert":
            return Insert(folder)
        if name == CONTROL:
            return Control(folder)
        if name == "leases":
            return Leasing(folder)
        if not self._servers:
            self._broker = self._held.enter_context(_broker(self.folder / "broker"))
            self._servers = self._broker.bootstrap_servers
        if name in _COPIES:
            what, calls = _COPIES[name]
            return Copying(what, self._servers, folder, calls)
        if name == "collector":
            return Flush(self._servers, folder)
        if name == "delivery":
            return Resume(self._servers, folder)
        if name == "answers":
            return Answers(self._servers, folder)
        if name == "paid":
            return Paid(self._servers, folder)
        if name == "campaigns":
            return Changes(self._servers, folder)
        kind, stage = _STAGES[name]
        chosen = {"partitions": PARTITIONS, "reservation_impression_ms": WINDOW_MS}
        return kind(Stages.on(self._broker, folder, f"crash-{name}-", **chosen), stage)

    def __enter__(self) -> "Stand":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

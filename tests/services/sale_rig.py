"""A delivery's desk in this process: what is published, real leases in SQLite, profiles that are told; no broker."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leases_child import Nothing
from memory_rig import change, read

from pipeline.collector.buffer import Ticket
from pipeline.core.wallet import Reserved
from pipeline.delivery.api import DecisionAnswer, DecisionRequest, PageAnswer
from pipeline.delivery.desk import Desk
from pipeline.delivery.log import Pen
from pipeline.delivery.memory import Memory
from pipeline.delivery.published import Published
from pipeline.delivery.purse import Purse
from pipeline.delivery.till import Till
from pipeline.edge.clock import now_ms
from pipeline.settings import load
from schemas.campaign import Status, Stored
from schemas.event import Context
from schemas.outcome import DecisionLog
from schemas.profile import VisitorState
from schemas.spend import StockLevel
from schemas.topics import MODELS, PROFILES, SPEND
from tests.waits import until

SITE = "demo"


class Blackhole:
    """A block writer without a broker: whatever it is given has landed nowhere."""

    is_available = True

    def has_room(self, more_bytes: int) -> bool:
        return True

    def add(self, partition: int, context: Context, event_id: str, visitor: str, raw: bytes) -> Ticket | None:
        return None


class CountingPurse(Purse):
    """Counts how often it is asked. robbed: lines of which somebody else has the last, just before it is reserved."""

    reserved = asked = 0
    robbed: frozenset[str] = frozenset()

    def reserve(self, line_id: str, *args: Any) -> Reserved | None:
        self.reserved += 1
        return super().reserve(line_id, *args) if line_id not in self.robbed else None

    def has_room(self, *args: Any) -> bool:
        self.asked += 1
        return super().has_room(*args)


class Shop:
    """Publishes, and decides."""

    def __init__(self, folder: Path) -> None:
        settings = load(data_dir=folder, partitions=1, holdout_share=0.0, policy_default="uniform", spool=False)
        self.memory = Memory(settings)
        self.version = self._levels = 0
        self.profiles()
        read(self.memory, MODELS, 0)
        self.purse = CountingPurse(settings, Nothing)
        self.published = Published(settings, self.memory, Till(self.purse, [SITE]), b"0" * 16)
        self.pen = Pen(Blackhole(), 1, 100_000, b"key")  # type: ignore[arg-type]
        self.desk = Desk(settings, self.memory, self.pen, b"k" * 16, self.published)
        self._number = 0

    def start(self) -> None:
        """Begin to compile what is published. Money is leased by hand: nothing of it changes between two decisions."""
        self.purse._follower.start()
        self.purse._database.migrate()
        self.published._thread.start()

    def stop(self) -> None:
        self.published._stopping.set()
        self.published._changed.set()
        self.published._thread.join(10)
        self.purse._database.close()

    def lease(self, line_id: str, units: int = 1) -> None:
        """Lease so many of a line, of 1,000 micros each, or of `ms/site/sku`."""
        wanted = units * (1 if "/" in line_id else 1_000)

        def is_enough() -> bool:
            self.purse._wallet._want(self.purse._wallet._lines[line_id])
            self.purse._turn(now_ms())
            return self.left_of(line_id) >= wanted

        until(is_enough, f"{units} of {line_id}")

    def profiles(self, **states: VisitorState) -> None:
        """Have the profiles read up to now."""
        self.version += 1
        read(self.memory, PROFILES, 0, change(self.version, dict(states), block_time_ms=now_ms()))

    def publish(self, kind: str, name: str, /, **body: Any) -> None:
        whole = {"id": name, "name": name, **body}
        version = self._number = self._number + 1
        status = Status.PUBLISHED
        stored = Stored(kind=kind, id=name, version=version, status=status, changed_ms=1, changed_by="ann", body=whole)
        self.published.take(stored)

    def campaign(self, name: str, creatives: int, campaign: Mapping[str, Any] | None = None, **line: Any) -> None:
        """Publish a placement and a campaign with a line, all of that name; wait until they are in use."""
        self.publish("placements", name)
        self.publish("advertisers", name)
        self.publish("campaigns", name, advertiser=name, **(campaign or {}))
        self.publish("lines", name, **{"campaign": name, "placements": [name], **line})
        for at in range(creatives):
            self.publish("creatives", f"{name}-{at}", line=name, content={"title": f"{name}-{at}"})
        self.in_use()

    def in_use(self) -> None:
        told = self.published._told
        until(lambda: self.published._compiled_told >= told, "published")

    def level(self, sku: str, pieces: int) -> None:
        """Have the stock told."""
        told, self._levels = self._levels, self._levels + 1
        level = StockLevel(SITE, sku, pieces, now_ms() + told)
        if not told:
            self.purse.view.begin(SPEND, 0)
        self.purse.view.take(SPEND, 0, change(told, {f"s:{SITE}/{sku}": level}), told)
        if not told:
            self.purse.view.loaded(SPEND, 0)
        self.purse._turn(now_ms())

    def decide(self, placement: str, visitor: str = "v", **more: Any) -> DecisionAnswer:
        answer = self.page({"placement": placement, **more}, visitor=visitor)
        assert isinstance(answer, DecisionAnswer)
        return answer

    def page(self, *places: dict[str, Any], visitor: str = "v", **more: Any) -> DecisionAnswer | PageAnswer:
        """Ask for one place, or for several of a page."""
        asked = places[0] if len(places) == 1 else {"placements": list(places)}
        request = DecisionRequest.model_validate({**asked, "visitor": visitor, "site": SITE, **more})
        return self.desk.decide(self.desk.read(request, no_consent=False), now_ms())

    def shown(self, placement: str, visitor: str = "v", **more: Any) -> list[str]:
        return [one.id for one in self.decide(placement, visitor, **more).actions]

    def log(self, answer: DecisionAnswer) -> DecisionLog:
        found = self.pen.recent(answer.decision_id)
        assert found is not None
        return found.log()

    def left_of(self, line_id: str) -> int:
        """What is leased of a line, or of `ms/site/sku`, and not reserved."""
        return sum(held.left_micros for held in self.purse._wallet._lines[line_id].held)

    @property
    def left(self) -> int:
        """What is leased of all lines and skus, and not reserved."""
        return sum(map(self.left_of, list(self.purse._wallet._lines)))

    def give_back(self, log: DecisionLog, visitor: str = "") -> None:
        """As if nothing of a decision had been answered."""
        for choice in log.choices:
            self.published.till.give_back(choice, visitor)


@contextmanager
def shops(folder: Path) -> Iterator[Shop]:
    made = Shop(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()

"""A shop with few pieces, delivery processes that hold them for visitors, and all that may go wrong between them.

The shop sells only to who holds a piece, tells its level before time goes on, and gets more now and then.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from random import Random

from msgspec.structs import replace

from pipeline.core.lease import SKU, Account, of_sku, sku_name
from pipeline.core.spend import Spend
from pipeline.core.state import StateView, StateWriter
from pipeline.core.wallet import Wallet
from pipeline.delivery.spend_view import SpendView
from schemas.block import Origin, OutcomeBlock
from schemas.outcome import Outcome
from schemas.spend import Hold, Sale, StockLevel
from schemas.state import StateRecord
from schemas.topics import SPEND
from tests.core.lease_rig import LEASE_MS, RULES, START_MS, MemoryStore

SITE, GOODS, HOLD_MS = "shop", "boat/1", 3_000
NAME = sku_name(SITE, GOODS)
PARTITIONS = 2


class Log:
    """One partition: blocks that the spend stage has still to fold, and the records that it has written."""

    def __init__(self) -> None:
        self.blocks: list[OutcomeBlock] = []
        self.folded = 0
        self.view = StateView()
        self.records: list[StateRecord] = [StateWriter.fence("x")]
        self.view.apply(self.records[0], 0)
        self._fold, self._writer = Spend(self.view, RULES), StateWriter(self.view, "x")

    def step(self) -> None:
        """Fold a block, if there is one."""
        if self.folded == len(self.blocks):
            return
        self._fold.apply(Origin(0, self.folded), self.blocks[self.folded])
        made = self._writer.records(self.folded, self._fold.fixed(), self._fold.take_changes(), 1_000_000)
        self._writer.written(len(self.records))
        self.records += made
        self.view.version = self.folded
        self.folded += 1

    def again(self) -> None:
        """kill -9 of the stage: a new one begins with what is in its log."""
        self.view = StateView()
        for offset, record in enumerate(self.records):
            self.view.apply(record, offset)
        fence = StateWriter.fence("x")
        self.view.apply(fence, len(self.records))
        self.records.append(fence)
        self._fold, self._writer = Spend(self.view, RULES), StateWriter(self.view, "x")


@dataclass
class Process:
    """A delivery process. read: records of each partition that it has read. unsent: decisions on their way."""

    wallet: Wallet
    view: SpendView
    read: list[int]
    unsent: list[Outcome] = field(default_factory=list)


class Shop:
    """All of it. holding: who was shown a piece and has not bought it."""

    def __init__(self, pieces: int, store: MemoryStore | None = None) -> None:
        self.pieces, self.told = pieces, -1
        self.now_ms = START_MS
        self.logs = [Log() for _ in range(PARTITIONS)]
        self.store = store or MemoryStore()
        self.processes: list[Process] = []
        self.spools: list[Outcome] = []
        self.landed: list[tuple[int, Outcome]] = []
        self.holding: dict[str, Outcome] = {}
        self._ids, self._numbers = count(1), count(1)
        self.met: Counter[str] = Counter()  # what has happened that a storm is for
        self.tell()
        self.logs[0].step()  # before the first level is known, nothing is promised

    def start(self) -> None:
        """Start a process; it has read all there is before it decides."""
        process = Process(Wallet(LEASE_MS, lambda: f"g{next(self._ids)}"), SpendView(PARTITIONS), [0] * PARTITIONS)
        for number in range(PARTITIONS):
            process.view.begin(SPEND, number)
            self.read(process, number, 10**9)
            process.view.loaded(SPEND, number)
        process.wallet.publish([of_sku(SITE, GOODS, HOLD_MS, process.view.level(NAME))])
        self.processes.append(process)

    def read(self, process: Process, number: int, many: int) -> None:
        """A process reads on in one partition."""
        records, at = self.logs[number].records, process.read[number]
        for offset in range(at, min(len(records), at + many)):
            process.view.take(SPEND, number, records[offset], offset)
            process.read[number] = offset + 1

    def write(self, number: int, block: OutcomeBlock) -> None:
        """Append to a partition of the log."""
        self.logs[number].blocks.append(block)

    def tell(self) -> None:
        """The shop tells what it has."""
        self.now_ms += 1
        self.told = self.pieces
        self.write(0, OutcomeBlock(self.now_ms, [], [StockLevel(SITE, GOODS, self.pieces, self.now_ms)]))

    def decide(self, process: Process) -> None:
        """Show the offer to one more visitor, if there is a piece for him."""
        reserved = process.wallet.reserve(f"{HOLD_MS}/{NAME}", self.now_ms, 1)
        if reserved is None:
            return
        name = f"d{next(self._numbers)}"
        hold = Hold(SITE, GOODS, reserved.lease_id)
        one = Outcome(
            name, "a", "home", "v", self.now_ms, 0, 0, 0, 0, 0, 0.5, 0, 0, is_new=True, holds=(hold,), hold_ms=HOLD_MS
        )
        self.holding[name] = one
        self.met["shown"] += 1
        process.unsent.append(one)

    def talk(self, process: Process, is_answered: bool) -> None:
        """A process follows the levels and asks the store; the answer may be lost."""
        terms = of_sku(SITE, GOODS, HOLD_MS, process.view.level(NAME))
        free = (terms.total_micros or 0) - process.view.spent_micros(Account(SKU, NAME))
        process.wallet.relevel(terms, free)
        process.wallet.look_ahead(self.now_ms)
        declared, asks = process.wallet.take_declared(self.now_ms), process.wallet.asks(self.now_ms)
        found = self.store.talk(asks, process.wallet.terms_of(asks), declared, process.view)
        granted, behind = found  # type: ignore[misc]
        if is_answered:
            process.wallet.granted(asks, granted, behind, self.now_ms)
        else:
            process.wallet.failed(asks, declared, self.now_ms)

    def buy(self, rng: Random) -> None:
        """Somebody whose decision is in the log buys the piece that is held for him."""
        ready = [(number, one) for number, one in self.landed if one.decision_id in self.holding]
        ready = [(number, one) for number, one in ready if one.decided_ms + HOLD_MS > self.now_ms + 1]
        if ready:
            number, one = rng.choice(ready)
            del self.holding[one.decision_id]
            self.met["bought"] += 1
            self.now_ms += 1
            self.pieces -= 1
            sale = Sale(one.decision_id, "a", GOODS, self.now_ms)
            self.write(number, OutcomeBlock(self.now_ms, [], [], [sale]))

    def turns_out_a_bot(self, rng: Random) -> None:
        """Somebody was none."""
        if self.landed:
            number, one = rng.choice(self.landed)
            self.holding.pop(one.decision_id, None)
            self.write(number, OutcomeBlock(self.now_ms, [replace(one, is_new=False, is_bot=True)]))

    def check(self) -> None:
        """Whoever was shown a piece that is held for him can buy it."""
        held = [one for one in self.holding.values() if one.decided_ms + HOLD_MS >= self.now_ms]
        assert len(held) <= self.pieces, f"{len(held)} are held of {self.pieces}"
        self.met["all held"] += len(held) == self.pieces > 0


def storm(shop: Shop, rng: Random, steps: int) -> None:
    """Let so much happen, in the proportions of this storm; what is held is checked all the time."""
    usual = {
        "decide": 8, "talk": 8, "land": 8, "fold": 8, "read": 8, "buy": 2, "bot": 0.2, "tell": 1, "tick": 4, "pass": 4,
        "die": 0.2, "again": 0.1, "more": 0.2,
    }  # fmt: skip
    weights = {act: weight * rng.choice((0.3, 1, 1, 3)) for act, weight in usual.items()}
    for _ in range(steps):
        while len(shop.processes) < 3:
            shop.start()
        process = rng.choice(shop.processes)
        (act,) = rng.choices(list(weights), list(weights.values()))
        _act(shop, process, rng, act)
        shop.check()


def _act(shop: Shop, process: Process, rng: Random, act: str) -> None:
    match act:
        case "decide":
            for _ in range(rng.randint(1, 4)):
                shop.decide(process)
        case "talk":
            shop.talk(process, is_answered=rng.random() < 0.9)
        case "land":
            waiting = process.unsent if rng.random() < 0.8 or not shop.spools else shop.spools
            for _ in range(min(len(waiting), rng.randint(1, 4))):
                one = waiting.pop(rng.randrange(len(waiting)))
                if rng.random() < 0.95:
                    number = rng.randrange(PARTITIONS)
                    shop.write(number, OutcomeBlock(shop.now_ms, [one]))
                    shop.landed.append((number, one))
        case "fold":
            for log in shop.logs:
                for _ in range(rng.randint(0, 8)):
                    log.step()
        case "read":
            for number in range(PARTITIONS):
                shop.read(process, number, rng.randint(0, 12))
        case "buy":
            shop.buy(rng)
        case "bot":
            shop.turns_out_a_bot(rng)
        case "more" | "tell":
            shop.pieces += rng.randint(1, 6) if act == "more" else 0
            shop.tell()
        case "tick":
            for number in range(PARTITIONS):
                shop.write(number, OutcomeBlock(shop.now_ms, []))
        case "pass":
            if shop.told != shop.pieces:
                shop.tell()
            shop.now_ms += rng.choices((rng.randint(1, 300), 4_000, 20_000), (100, 5, 1))[0]
        case "die":
            shop.processes.remove(process)
            shop.spools += process.unsent
        case "again":
            rng.choice(shop.logs).again()

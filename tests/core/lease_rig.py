"""A world of delivery processes that spend one budget: wallets, a lease store, logs, the spend stage, views that lag.

What may go wrong does: answers and records are lost, processes die, their spools come late, clocks differ, the spend
stage and everybody who reads it are behind.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import NamedTuple

from pipeline.core.lease import (
    Account,
    Ask,
    Lease,
    Limits,
    Name,
    Place,
    Position,
    Terms,
    View,
    ahead_of_both,
    of_newest_level,
    settle,
)
from pipeline.core.spend import LEASE, Spend, SpendRules, days_of
from pipeline.core.state import StateView
from pipeline.core.wallet import Wallet
from schemas.block import Origin, OutcomeBlock
from schemas.outcome import Outcome
from schemas.spend import Leased, StockLevel
from tests.core.spend_rig import lines_of

START_MS = 1_790_000_000_000
LEASE_MS = 2_000
RULES = SpendRules(impression_ms=8_000, click_ms=12_000, action_ms=30_000)
"""Windows longer than leases, as in delivery: a lease's end is not the end of what may come of it."""


class Known(NamedTuple):
    """What the spend state of one partition says as of a version."""

    version: int
    clock_ms: int
    spent: dict[Account, int]
    seen: dict[str, int]


class Shard:
    """One partition: its log of outcome blocks, and the spend stage, which has folded some of it."""

    def __init__(self) -> None:
        self.log: list[OutcomeBlock] = []
        self.view = StateView()
        self.fold = Spend(self.view, RULES)
        self.clock_ms = 0
        self.history = [Known(-1, 0, {}, {})]
        self.written_ms = START_MS

    def write(self, time_ms: int, outcomes: Sequence[Outcome]) -> None:
        """Append a block."""
        self.log.append(OutcomeBlock(time_ms, list(outcomes)))

    def step(self) -> bool:
        """Fold one block more; False where there is none."""
        version = len(self.history) - 1
        if version == len(self.log):
            return False
        block = self.log[version]
        self.fold.apply(Origin(0, version), block)
        self.fold.take_changes()
        self.clock_ms = max(self.clock_ms, block.block_time_ms)
        self.history.append(Known(version, self.clock_ms, self._spent(), self._seen()))
        return True

    def unread(self) -> list[Outcome]:
        """Outcomes that the stage has still to read."""
        return [one for block in self.log[len(self.history) - 1 :] for one in block.outcomes]

    def _spent(self) -> dict[Account, int]:
        spent: dict[Account, int] = {}
        for (campaign_id, line_id), books in lines_of(self.view).items():
            for key, money in [("", books.total), *books.days.items()]:
                line_day, campaign_day = days_of(key)
                micros = money.reserved.micros - money.released.micros
                for account in (Account("line", line_id, line_day), Account("campaign", campaign_id, campaign_day)):
                    spent[account] = spent.get(account, 0) + micros
        return spent

    def _seen(self) -> dict[str, int]:
        from msgspec.msgpack import decode

        return {
            key.removeprefix(LEASE): decode(raw, type=Leased).reserved.micros
            for key, raw in self.view.entries.items()
            if key.startswith(LEASE)
        }


class Lagging:
    """A View: of each partition some version that was once true, never an older one than before."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._at = [0] * len(shards)

    def look(self, partition: int, steps: int) -> None:
        """Read on."""
        self._at[partition] = min(self._at[partition] + steps, len(self._shards[partition].history) - 1)

    def _known(self) -> list[Known]:
        return [shard.history[at] for shard, at in zip(self._shards, self._at, strict=True)]

    is_whole = True

    @property
    def position(self) -> Position:
        return tuple(Place(known.version, known.clock_ms) for known in self._known())

    @property
    def clock_ms(self) -> int:
        return min(known.clock_ms for known in self._known())

    def spent_micros(self, account: Account) -> int:
        return sum(known.spent.get(account, 0) for known in self._known())

    def level(self, name: str) -> StockLevel | None:
        return None

    def seen_micros(self, lease_id: str) -> int:
        return sum(known.seen.get(lease_id, 0) for known in self._known())


class MemoryStore:
    """The lease store, in memory: as pipeline/campaigns/leases.py, a transaction at a time."""

    rules = RULES

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self.limits: dict[Name, Limits] = {}
        self.positions: dict[Name, Position] = {}

    def talk(self, asks: Sequence[Ask], terms: dict[str, Terms], declared: dict[str, int], view: View) -> object:
        """Return (leases granted, lines that are behind)."""
        for lease_id in declared.keys() & self.leases.keys():
            self.declare(lease_id, declared[lease_id])
        for one in terms.values():
            for name, limits in of_newest_level(one, view).limits.items():
                self._note(name, limits)
        found = settle(asks, self.limits, self.known(), self.held(), view, self.rules)
        for lease_id in found.closed:
            del self.leases[lease_id]
        for name in found.names:
            self.positions[name] = ahead_of_both(self.positions.get(name, ()), found.position)
        for lease in found.granted:
            self.leases[lease.lease_id] = lease
        return found.granted, found.behind

    def declare(self, lease_id: str, micros: int) -> None:
        """A holder says what it has reserved under a lease, which it uses no more."""
        self.leases[lease_id] = self.leases[lease_id]._replace(granted_micros=micros, is_final=True)

    def known(self) -> dict[Name, Position]:
        """How far the state was known by which something was closed."""
        return self.positions

    def held(self) -> list[Lease]:
        """What is not closed."""
        return list(self.leases.values())

    def _note(self, name: Name, limits: Limits) -> None:
        known = self.limits.get(name)
        if known is None or limits.is_newer(known):
            self.limits[name] = limits


@dataclass
class Process:
    """A delivery process. skew_ms: its clock - the true time. unsent: its records on their way to the log."""

    wallet: Wallet
    view: Lagging
    skew_ms: int
    unsent: list[Outcome] = field(default_factory=list)


class Market:
    """All of it. Time stands still but for `pass_time`."""

    def __init__(self, terms: Sequence[Terms], partitions: int = 2, store: MemoryStore | None = None) -> None:
        self.terms = {one.line_id: one for one in terms}
        self.shards = [Shard() for _ in range(partitions)]
        self.store = store or MemoryStore()
        self.processes: list[Process] = []
        self.spools: list[Outcome] = []  # of dead processes
        self.opened: list[tuple[int, Outcome]] = []  # (partition, decision) in the log, not paid for yet
        self.met: Counter[str] = Counter()  # what has happened that a storm is for
        self.now_ms = START_MS
        self._ids, self._numbers = count(1), count(1)

    def start(self, skew_ms: int = 0) -> Process:
        """Start a process."""
        process = Process(Wallet(LEASE_MS, lambda: f"g{next(self._ids)}"), Lagging(self.shards), skew_ms)
        process.wallet.publish(self.terms.values())
        self.processes.append(process)
        return process

    def pass_time(self, ms: int) -> None:
        self.now_ms += ms

    def decide(self, process: Process, line_id: str) -> bool:
        """One decision for a line; its record waits. False where there is no money."""
        time_ms = self.now_ms + process.skew_ms
        terms = self.terms[line_id]
        has_room = process.wallet.has_room(line_id, time_ms)
        reserved = process.wallet.reserve(line_id, time_ms)
        assert has_room == (reserved is not None)
        if reserved is None:
            return False
        self.met["decided"] += 1
        process.unsent.append(
            Outcome(
                f"d{next(self._numbers)}", "a", "home", "v", time_ms, 0, 0, 0, 0, 0, 0.5, 0, 0,
                campaign_id=terms.campaign_id, line_id=line_id, pays_for=terms.pays_for,
                price_micros=terms.price_micros, lease_id=reserved.lease_id, budget_day=reserved.budget_day,
                campaign_day=reserved.campaign_day, is_new=True,
            )
        )  # fmt: skip
        return True

    def write(self, partition: int, one: Outcome, skew_ms: int = 0) -> None:
        """A decision's record lands in the log, in a block that a writer of this clock has closed."""
        self.shards[partition].write(self.now_ms + skew_ms, [one])
        self.opened.append((partition, one))

    def pay(self, at: int, is_bot: bool) -> None:
        """What a decision pays for comes, or a bot's news of it."""
        self.met["paid"] += not is_bot
        partition, one = self.opened.pop(at)
        from msgspec.structs import replace

        news = replace(one, is_new=False, is_paid=not is_bot, is_bot=is_bot)
        self.shards[partition].write(self.now_ms, [news])

    def talk(self, process: Process, is_answered: bool = True) -> None:
        """A process asks the store; the answer may be lost."""
        time_ms = self.now_ms + process.skew_ms
        process.wallet.look_ahead(time_ms)
        declared = process.wallet.take_declared(time_ms)
        asks = process.wallet.asks(time_ms)
        terms = process.wallet.terms_of(asks)
        granted, behind = self.store.talk(asks, terms, declared, process.view)  # type: ignore[misc]
        if is_answered:
            process.wallet.granted(asks, granted, behind, time_ms)
        else:
            process.wallet.failed(asks, declared, time_ms)

    def kill(self, process: Process) -> None:
        """kill -9: the wallet is gone, the spool stays."""
        self.met["killed with records"] += bool(process.unsent)
        self.processes.remove(process)
        self.spools += process.unsent

    def stop(self, process: Process) -> None:
        """An orderly end."""
        self.processes.remove(process)
        process.wallet.publish(())
        declared = process.wallet.take_declared(self.now_ms)
        self.store.talk([], {}, declared, process.view)
        self.spools += process.unsent

    def settle_all(self) -> None:
        """Everything is folded, and everybody has read it."""
        for number, shard in enumerate(self.shards):
            while shard.step():
                pass
            for process in self.processes:
                process.view.look(number, 10**9)

    def spent_micros(self, account: Account) -> int:
        """Settled and open by the books, and whatever is on its way and could still count."""
        folded = sum(shard.history[-1].spent.get(account, 0) for shard in self.shards)
        on_its_way = 0
        for shard in self.shards:
            on_its_way += self._could_count(shard.unread(), account, shard.clock_ms)
        clock_ms = min(shard.clock_ms for shard in self.shards)
        unsent = [*self.spools, *(one for process in self.processes for one in process.unsent)]
        return folded + on_its_way + self._could_count(unsent, account, clock_ms)

    def _could_count(self, some: Sequence[Outcome], account: Account, clock_ms: int) -> int:
        return sum(
            one.price_micros
            for one in some
            if one.is_new
            and one.decided_ms + RULES.window_ms(one.pays_for) >= clock_ms
            and account.id == (one.line_id if account.kind == "line" else one.campaign_id)
            and account.day in ("", one.budget_day if account.kind == "line" else one.campaign_day)
        )

    def check(self) -> None:
        """No account has ever more settled, open and on its way than its limit."""
        for one in self.terms.values():
            limits = {
                Account("line", one.line_id): one.total_micros,
                Account("campaign", one.campaign_id): one.campaign_total_micros,
            }
            days = {account for shard in self.shards for account in shard.history[-1].spent if account.day}
            for account in days:
                if account[:2] == ("line", one.line_id):
                    limits[account] = one.daily_micros
                if account[:2] == ("campaign", one.campaign_id):
                    limits[account] = one.campaign_daily_micros
            for account, limit in limits.items():
                if limit is not None:
                    spent_micros = self.spent_micros(account)
                    assert spent_micros <= limit, account
                    self.met["all reserved"] += spent_micros == limit


MOOD = 40
"""So many steps a storm is of one mood: what hardly happens in one may be most of the next."""


def storm(market: Market, rng: Random, steps: int) -> None:
    """Let so much happen, most of it wrong, in proportions that change; the limits are checked all the time."""
    lines = sorted(market.terms)
    usual = {_decide: 6, _talk: 8, _land: 4, _fold: 8, _read: 8, _pay: 0.1, _tick: 4, _pass: 8, _die: 1}
    weights: dict[_Act, float] = {}
    patience = 0  # how long time goes on at once, ms
    for step in range(steps):
        if step % MOOD == 0:
            weights = {act: weight * rng.choice((0, 0.3, 1, 3)) for act, weight in usual.items()}
            patience = rng.choice((50, 300, 1_200))
        if len(market.processes) < 3:
            market.start(rng.choice((0, 0, 0, -400, 300, -5_000)))
        process = rng.choice(market.processes)
        (act,) = rng.choices(list(weights), list(weights.values()))
        act(market, process, rng, lines, patience)
        market.check()


_Act = Callable[[Market, Process, Random, list[str], int], None]


def _decide(market: Market, process: Process, rng: Random, lines: list[str], patience: int) -> None:
    for _ in range(rng.randint(1, 4)):
        market.decide(process, rng.choice(lines))


def _talk(market: Market, process: Process, rng: Random, lines: list[str], patience: int) -> None:
    market.talk(process, is_answered=rng.random() < 0.9)


def _land(market: Market, process: Process, rng: Random, lines: list[str], patience: int) -> None:
    waiting = process.unsent if rng.random() < 0.95 or not market.spools else market.spools
    for _ in range(min(len(waiting), rng.randint(1, 4))):
        one = waiting.pop(rng.randrange(len(waiting)))
        if rng.random() < 0.95:
            market.write(rng.randrange(len(market.shards)), one, rng.choice((0, 0, -300)))


def _fold(market: Market, process: Process, rng: Random, lines: list[str], patience: int) -> None:
    for shard in market.shards:
        for _ in range(rng.randint(0, 8)):
            shard.step()


def _read(market: Market, process: Process, rng: Random, lines: list[str], patience: int) -> None:
    for partition in range(len(market.shards)):
        process.view.look(partition, rng.randint(0, 12))


def _pay(market: Market, process: Process, rng: Random, lines: list[str], patience: int) -> None:
    if market.opened:
        market.pay(rng.randrange(len(market.opened)), rng.random() < 0.1)


def _tick(market: Market, process: Process, rng: Random, lines: list[str], patience: int) -> None:
    for shard in market.shards:
        if rng.random() < 0.8:
            shard.write(market.now_ms, [])


def _die(market: Market, process: Process, rng: Random, lines: list[str], patience: int) -> None:
    (market.kill if rng.random() < 0.6 else market.stop)(process)


def _pass(market: Market, process: Process, rng: Random, lines: list[str], patience: int) -> None:
    market.pass_time(rng.choices((rng.randint(1, patience), 20_000, 6 * 3_600_000), (100, 2, 0.2))[0])

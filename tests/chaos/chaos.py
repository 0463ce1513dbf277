"""One run of chaos, from an empty folder to the comparison."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import status
from pipeline.core.books import PartitionBooks, total
from pipeline.edge.clock import now_ms
from pipeline.errors import HeraldError
from tests.chaos import compare, expected, goods, reference, shop_check
from tests.chaos.compare import Pair
from tests.chaos.expected import Check
from tests.chaos.load import Load, Sent
from tests.chaos.machine import Machine
from tests.chaos.plan import Input, Kill, gap_ms, kills
from tests.chaos.shop import Shops
from tests.journeys.rig import settings_on_free_ports

Say = Callable[[str], None]

RETAIN_MS = 2_700_000  # sessions take late events for so long: longer than any event is late, see `Inconclusive`
TICKING = ("collector", "delivery")
PROGRESS_S = 10.0
DRAIN_S = 1_200.0
SHOPS = 4
ANSWERED_MIN = 20  # decisions: on a busy machine the shops hardly begin before the load is over
ALONE_EVENTS = 200_000  # of more the clean run takes two processes


class Inconclusive(RuntimeError):
    """The machine was too slow for the comparison to mean anything."""


@dataclass(frozen=True)
class Size:
    """How much. per_s: events a second by the events' own clocks; is_paced: and sent no faster than that."""

    seed: int
    kills: int
    events: int
    per_s: float
    is_paced: bool


@dataclass
class Outcome:
    """Everything that a run has to tell."""

    size: Size
    killed: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    sent: Sent = field(default_factory=Sent)
    asked: int = 0
    answered: int = 0
    books: PartitionBooks = field(default_factory=lambda: total(()))
    is_balanced: bool = False
    pairs: list[Pair] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    took_s: dict[str, float] = field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        """Whether every kill took place, the books balance, and nothing differs anywhere."""
        return (
            self.killed.total() == self.size.kills
            and self.is_balanced
            and all(pair.is_equal for pair in self.pairs)
            and all(check.holds for check in self.checks)
        )


class Chaos:
    """One run. say: told the progress, a line at a time."""

    def __init__(self, size: Size, folder: Path, say: Say) -> None:
        """folder: an empty one; everything is kept in it."""
        self.size, self.folder, self.say = size, folder, say
        self.outcome = Outcome(size)
        self.gap_ms = gap_ms(size.events, size.per_s)
        self._began_s = time.monotonic()

    def run(self) -> Outcome:
        """Send, kill, wait, compare. Raises Inconclusive, GaveUp, and TimeoutError where the whole never settles."""
        settings = settings_on_free_ports(
            self.folder / "data", session_gap_ms=self.gap_ms, session_retain_ms=RETAIN_MS, log_level="WARNING"
        )
        with Machine(settings, self.folder / "up.log") as machine:
            self._mark("start")
            goods.publish(settings)
            planned = Input.of(self.size.seed, self.size.events, self.size.per_s, now_ms())
            shops = self._work(machine, planned)
            self._mark("load and kills")
            self._settle(machine)
            self._mark("drain")
            self._compare(machine, planned, shops)
            self.outcome.starts = machine.starts
        self._mark("stop")
        return self.outcome

    def _work(self, machine: Machine, planned: Input) -> Shops:
        load = Load(machine.collector_url, planned, self.size.is_paced)
        shops = Shops(self.size.seed, SHOPS, machine.delivery_url, machine.collector_url)
        self.outcome.sent = load.sent
        over = threading.Event()
        killer = threading.Thread(target=self._kill, args=(machine, load, over), name="killer", daemon=True)
        for one in (load, shops, killer):
            one.start()
        try:
            while load.is_alive() or killer.is_alive() or shops.answered < ANSWERED_MIN:
                (load if load.is_alive() else killer).join(PROGRESS_S)
                time.sleep(0.1)
                self._progress(load, shops)
                for error in (load.error, *shops.errors):
                    if error is not None:
                        raise error
        finally:
            over.set()
            shops.stop()
        if load.sent.late_ms > RETAIN_MS or load.sent.ahead_ms > RETAIN_MS:
            raise Inconclusive(f"events came {load.sent.late_ms / 1_000:.0f} s late: use a larger --per-s")
        self.outcome.asked, self.outcome.answered = shops.asked, shops.answered
        return shops

    def _kill(self, machine: Machine, load: Load, over: threading.Event) -> None:
        for number, kill in enumerate(kills(self.size.seed, self.size.kills, self.size.events), 1):
            while load.is_alive() and load.sent.acknowledged < kill.at_event and not over.wait(0.02):
                pass
            if over.wait(kill.delay_s):
                return
            if machine.kill(kill.part, kill.depth):
                self.outcome.killed[kill.part] += 1
                self._tell_kill(number, kill, load.sent.acknowledged)

    def _tell_kill(self, number: int, kill: Kill, acknowledged: int) -> None:
        what = f"{kill.part}{' (Java)' if kill.part == 'broker' and kill.depth else ''}"
        self._told(f"kill {number}/{self.size.kills}: {what} at {acknowledged:,} events")

    def _progress(self, load: Load, shops: Shops) -> None:
        sent = load.sent
        share = f"{sent.acknowledged / self.size.events:.0%}"
        done = f"{sent.acknowledged:,} events acknowledged ({share}), {sent.retries} retries"
        self._told(f"{done}, {shops.asked} decisions asked")

    def _settle(self, machine: Machine) -> None:
        """Wait until nothing is in flight; then take the ticks away, so that the log has an end that all can reach."""
        machine.wait_ready()
        until = time.monotonic() + DRAIN_S
        self._until_drained(machine, until)
        time.sleep(1)  # delivery may hold what it logs behind its answers
        machine.hold(*TICKING)
        while True:
            found = self._status(machine)
            if found is not None and not any(map(any, found.lag.values())):
                break
            if time.monotonic() > until:
                raise TimeoutError(f"the log's end was not reached: {found}; see {self.folder}")
            time.sleep(0.3)
        self.outcome.books, self.outcome.is_balanced = total(found.books), found.is_balanced

    def _until_drained(self, machine: Machine, until: float) -> None:
        """Look seldom where a look costs much: it reads all that is still in flight."""
        ends: list[int] = []
        while (asked_s := time.monotonic()) < until:
            found = self._status(machine)
            if found is not None:
                ends = ends or found.ends
                if not found.in_flight and found.has_reached(ends):
                    return
                behind = ", ".join(f"{stage} {sum(lag)}" for stage, lag in found.lag.items())
                self._told(f"draining: {total(found.books).in_flight:,} events in flight; blocks behind: {behind}")
            time.sleep(max(0.5, 2 * (time.monotonic() - asked_s)))
        raise TimeoutError(f"events were still in flight after {DRAIN_S:.0f} s; see {self.folder}")

    def _status(self, machine: Machine) -> status.Status | None:
        try:
            return status.read(machine.settings, ask_parts=False)
        except HeraldError:
            return None  # a part is still on its way up

    def _compare(self, machine: Machine, planned: Input, shops: Shops) -> None:
        killed = compare.states(machine.settings)
        self._mark("states")
        clean = reference.replay(machine.settings, 2 if self.size.events > ALONE_EVENTS else 1)
        self._mark("clean run")
        outcome = self.outcome
        outcome.pairs = compare.compare_states(killed, clean)
        outcome.pairs += compare.tables(machine.settings, reference.DATABASE)
        outcome.checks = expected.check(machine, killed, planned, self.gap_ms)
        outcome.checks += shop_check.acknowledged(machine, shops)
        outcome.checks += goods.promises(machine, clean, shops.answered)
        self._mark("comparison")
        machine.go_on(*TICKING)
        outcome.checks += shop_check.delivery(machine, clean)
        self._mark("delivery")

    def _told(self, text: str) -> None:
        self.say(f"{sum(self.outcome.took_s.values()) + time.monotonic() - self._began_s:6.0f} s  {text}")

    def _mark(self, what: str) -> None:
        now_s = time.monotonic()
        self.outcome.took_s[what] = now_s - self._began_s
        self._began_s = now_s
        self._told(f"{what}: {self.outcome.took_s[what]:.1f} s")

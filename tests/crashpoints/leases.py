"""A process that leases money is killed while it makes its store, asks, reserves, and gives back.

`python -m tests.crashpoints.leases` is the process that dies: it does one unit for each line that it is given.
Decisions are lines of files: a spool for each process, and the log that they come to. The books are those of the spend
stage's own fold over the log.
"""

import os
import secrets
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from pipeline.campaigns.database import FILE, Database, url_of
from pipeline.campaigns.leases import Leases
from pipeline.core.lease import Lease, Terms
from pipeline.core.wallet import RETRY_MS_MAX, Wallet
from pipeline.settings import load
from schemas.outcome import Outcome
from tests.core.lease_rig import LEASE_MS, RULES, START_MS, Lagging, Shard
from tests.core.spend_rig import check_books
from tests.crashpoints.worker import Worker

PRICE: Final = 7
UNITS: Final = 10
OF_A_PROCESS: Final = 6  # decisions, of UNITS that there is money for
RENEWED_AT: Final = 3  # after so many the line is published anew: its lease is given back, and another one asked for
LATER_MS: Final = START_MS + 10 * LEASE_MS + RULES.window_ms("impression")


class Decided(msgspec.Struct):
    """A decision that is paid for at once. lease_id: "" for a tick, which only tells the time."""

    time_ms: int
    decision_id: str
    lease_id: str = ""
    day: str = ""
    campaign_day: str = ""


class Lines:
    """A file of them; a line that is there twice counts once, as behind the clean stage."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, some: Iterable[Decided]) -> None:
        """Append lines, in one call."""
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, b"".join(msgspec.json.encode(one) + b"\n" for one in some))
        finally:
            os.close(handle)

    def read(self) -> list[Decided]:
        """All of it."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        found = [msgspec.json.decode(line, type=Decided) for line in lines]
        return list({one.decision_id: one for one in found}.values())


def folded(log: Lines) -> Shard:
    """What the spend stage makes of the log: one block a line."""
    shard = Shard()
    for one in log.read():
        shard.write(one.time_ms, [_outcome(one)] if one.lease_id else [])
        shard.step()
    shard.view.fixed = shard.fold.fixed()
    return shard


def _outcome(one: Decided) -> Outcome:
    return Outcome(
        one.decision_id, "a", "home", "v", one.time_ms, 0, 0, 0, 0, 0, 0.5, 0, 0, campaign_id="c1", line_id="l1",
        pays_for="impression", price_micros=PRICE, lease_id=one.lease_id, budget_day=one.day,
        campaign_day=one.campaign_day, is_new=True, is_paid=True,
    )  # fmt: skip


def terms(version: int = 1) -> Terms:
    """The line: money for UNITS; its campaign has a little more."""
    micros = UNITS * PRICE
    return Terms(
        "l1", "c1", "impression", PRICE, total_micros=micros, campaign_total_micros=micros + PRICE, version=version
    )


class Spender:
    """A delivery process, as far as money goes: a wallet on the store in this folder. All of it at one moment.

    A decision is made when it is in the spool; the log gets it later, from this process or from one after it.
    """

    def __init__(self, folder: Path, time_ms: int) -> None:
        self.time_ms = time_ms
        self.log, self.spool = Lines(folder / "log"), Lines(folder / f"spool-{secrets.token_hex(4)}")
        self.database = Database(url_of(load(data_dir=folder)))
        self.database.migrate()
        self.leases = Leases(self.database, RULES)
        self.wallet = Wallet(LEASE_MS, lambda: secrets.token_hex(12))
        self.wallet.publish([terms()])

    def talk(self) -> int:
        """Ask the store for what the wallet wants; return how many leases were granted."""
        shard = folded(self.log)
        view = Lagging([shard])
        view.look(0, len(shard.history))
        declared = self.wallet.take_declared(self.time_ms)
        asks = self.wallet.asks(self.time_ms)
        talk = self.leases.talk(asks, self.wallet.terms_of(asks), declared, view, self.time_ms)
        self.wallet.granted(asks, talk.granted, talk.behind, self.time_ms)
        return len(talk.granted)

    def decide(self) -> bool:
        """One decision; False where there is no money for it."""
        reserved = self.wallet.reserve("l1", self.time_ms, PRICE)
        if reserved is None:
            if not self.talk():
                self.time_ms += RETRY_MS_MAX  # nothing, or the news of who is behind: once more
                if not self.wallet.has_room("l1", self.time_ms) and not self.talk():
                    return False
            reserved = self.wallet.reserve("l1", self.time_ms, PRICE)
            assert reserved is not None, "a lease was granted, and is good for nothing"
        self.spool.write([Decided(self.time_ms, secrets.token_hex(12), *reserved)])
        return True

    def land(self) -> None:
        """What is in the spool comes into the log."""
        self.log.write(self.spool.read())

    def end(self) -> None:
        """Give back what is left, in an orderly way."""
        self.land()
        self.wallet.publish(())
        self.talk()
        self.database.close()


def unit(folder: Path) -> None:
    """What is killed on its way."""
    spender = Spender(folder, START_MS)
    for number in range(OF_A_PROCESS):
        if number == RENEWED_AT:
            spender.land()
            spender.wallet.publish([terms(version=2)])
        assert spender.decide()
    spender.end()


def main() -> None:
    """Do what is asked, a folder each, and say so."""
    print("ready", flush=True)
    for line in sys.stdin:
        unit(Path(line.strip()))
        print("done", flush=True)


class Leasing:
    """A new store for each unit: made, asked for leases, and given them back. Afterwards others spend what is left.

    Right away they get all but what the dead one may have reserved; once its leases are over they get that as well. So
    in the end exactly the budget is spent: nothing more at any kill, and nothing is lost.
    """

    name = "delivery: leases"
    calls = 187

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = -1
        self._worker = Worker("tests.crashpoints.leases", folder / "out.log")

    @property
    def _here(self) -> Path:
        return self.folder / str(self.number)

    def warm(self) -> int:
        self.number += 1
        self._here.mkdir()
        if self._worker.is_over:
            self._worker.start()
        return self._worker.pid

    def work(self) -> None:
        self._worker.do(str(self._here).encode())

    def wrong(self) -> list[str]:
        first = Spender(self._here, START_MS)
        found = self._unlike(first)
        while first.decide():
            pass
        found += self._unlike(first, is_all_given=True)
        for spool in self._spools():
            Lines(self._here / "log").write(spool.read())
        found += self._unlike(first, is_all_given=True)
        first.end()
        Lines(self._here / "log").write([Decided(LATER_MS, "tick")])
        second = Spender(self._here, LATER_MS + 1)
        while second.decide():
            pass
        found += self._unlike(second, is_all_given=True)
        second.end()
        spent = self._used().total()
        return [*found, *([] if spent == UNITS else [f"spent {spent} of {UNITS} units, once all leases are over"])]

    def _spools(self) -> list[Lines]:
        return [Lines(path) for path in self._here.glob("spool-*")]

    def _used(self) -> Counter[str]:
        """Return how many decisions were made under each lease, in the log or on their way there."""
        return Counter(one.lease_id for spool in self._spools() for one in spool.read())

    def _unlike(self, spender: Spender, *, is_all_given: bool = False) -> list[str]:
        """Say what breaks the bound. is_all_given: nothing is left but what others hold."""
        used = self._used()
        leases = {one.lease_id: one for one in spender.leases.open_leases()}
        held = sum(max(0, one.granted_micros - PRICE * used[one.lease_id]) for one in leases.values())
        micros = PRICE * used.total() + held
        found = []
        if micros > UNITS * PRICE or (is_all_given and micros != UNITS * PRICE):
            found.append(f"{PRICE * used.total()} micros spent and {held} held, the limit is {UNITS * PRICE}")
        found += [text for key, many in used.items() if (text := _passed(leases.get(key), PRICE * many))]
        check_books(folded(Lines(self._here / "log")).view)
        with closing(sqlite3.connect(self._here / FILE)) as store:
            if (told := store.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                found.append(f"the store: {told}")
        return found

    def close(self) -> None:
        self._worker.close()


def _passed(lease: Lease | None, micros: int) -> str:
    """Say where more was reserved under an open lease than it grants."""
    if lease is None or micros <= lease.granted_micros:
        return ""
    return f"lease {lease.lease_id}: {micros} micros reserved, {lease.granted_micros} granted"


if __name__ == "__main__":
    main()

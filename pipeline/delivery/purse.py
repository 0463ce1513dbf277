"""A delivery process's money, and pieces of skus: what it has leased, in memory. A decision waits for nothing here.

A thread asks the lease store (pipeline/campaigns/leases.py) ahead of need, gives back what is not used, and reads the
spend state for it. While the store or the broker is away, decisions go on from what is leased already.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from pipeline import money
from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.leases import Leases
from pipeline.core.lease import SKU, Account, Terms, of_sku, sku_name
from pipeline.core.wallet import Reserved, Wallet
from pipeline.delivery.spend_view import SpendView
from pipeline.edge import metrics
from pipeline.edge.clock import monotonic_s, now_ms
from pipeline.edge.follow import Follower, Reader
from pipeline.errors import HeraldError, Retryable, SettingsError
from pipeline.settings import Settings
from schemas.topics import SPEND, Topic

log = logging.getLogger(__name__)

TURN_S: Final = 0.2
GATHER_S: Final = 0.01
"""Who wants money first is joined by who wants it right after: one talk for all."""
LOOK_S: Final = 1.0
SHORT_MS: Final = 5_000
RETRY_S: Final = 1.0
STOP_S: Final = 5.0


class Wish(NamedTuple):
    """Pieces of a sku that are to be held for so long."""

    site: str
    sku: str
    hold_ms: int

    @property
    def name(self) -> str:
        """The id of its terms."""
        return f"{self.hold_ms}/{self.site}/{self.sku}"

    @property
    def account(self) -> str:
        """The id of the sku's account."""
        return sku_name(self.site, self.sku)


class Follows(Protocol):
    """What reads the spend state, in a thread of its own."""

    def start(self) -> None:
        """Begin; returns at once."""

    def stop(self) -> None:
        """End."""


Connect = Callable[[Settings, Sequence[Topic], Reader], Follows]


class Purse:
    """What this process may spend. All methods but `start` and `stop` are quick, and may be called by any thread.

    What is no trouble with the store ends the thread: a bug, for threading.excepthook to tell.
    """

    def __init__(self, settings: Settings, connect: Connect = Follower) -> None:
        """Start empty: what a line is to spend is leased once `publish` has named it. Nothing is opened yet.

        connect: makes what reads the spend state. Raises SettingsError for an address that names no store.
        """
        self.view = SpendView(settings.partitions, settings.generation)
        self._follower = connect(settings, (SPEND,), self.view)
        self._database = Database(url_of(settings))
        self._leases = Leases(self._database, money.rules(settings))
        self._wallet = Wallet(settings.lease_ms, lambda: secrets.token_hex(12))
        self._pieces: dict[Wish, Terms] = {}
        self._wishes: dict[str, list[Wish]] = {}  # by the sku's account
        self._unsure: dict[str, None] = {}  # accounts whose level may have changed while terms were made of it
        self._knows_levels = False
        self._lock = threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="purse", daemon=True)
        self._looked_s = 0.0
        self.trouble = ""
        """Why nothing is leased at present; "" where all is well."""

    def start(self) -> None:
        """Begin to read the spend state and to lease; returns at once."""
        self._follower.start()
        self._thread.start()

    def stop(self) -> None:
        """Give back all that was not reserved, and end; waits for the store a few seconds at most."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
            self._follower.stop()
        self._database.close()

    def publish(self, terms: Sequence[Terms], wishes: Sequence[Wish] = ()) -> None:
        """Say which lines may be shown now, all of them; what is held of a line that is left out is given back.

        To be called at each change of what is published; a first small lease of each new line is asked for at once.
        wishes: the pieces that these lines hold.
        """
        fresh = {wish: self._of(wish) for wish in wishes if wish not in self._pieces}
        by_name: dict[str, list[Wish]] = {}
        for wish in wishes:
            by_name.setdefault(wish.account, []).append(wish)
        with self._lock:
            self._unsure |= dict.fromkeys(wish.account for wish in fresh)
            self._pieces = {wish: fresh.get(wish) or self._pieces[wish] for wish in wishes}
            self._wishes = by_name
            self._wallet.publish([*terms, *self._pieces.values()])
        self._wake.set()

    def _of(self, wish: Wish) -> Terms:
        return of_sku(*wish, self.view.level(wish.account))

    def has_piece(self, wish: Wish, time_ms: int) -> bool:
        """Say whether one more piece may be held now. False until it is known which levels there are."""
        return self._has_terms(wish) and self.has_room(wish.name, time_ms)

    def reserve_piece(self, wish: Wish, time_ms: int) -> Reserved | None:
        """Hold a piece; None where there is none (now)."""
        return self.reserve(wish.name, time_ms, 1) if self._has_terms(wish) else None

    def _has_terms(self, wish: Wish) -> bool:
        """Say whether the terms of a sku know that it has a level, where it has one."""
        terms = self._pieces.get(wish)
        if terms is None or not self._knows_levels:
            return False
        return terms.is_limited or self.view.stock_level(wish.site, wish.sku) is None

    def has_room(self, line_id: str, time_ms: int) -> bool:
        """Say whether one more may be reserved for a line now. False for a line that was not published here."""
        with self._lock:
            found = self._wallet.has_room(line_id, time_ms)
        self._tell()
        return found

    def reserve(self, line_id: str, time_ms: int, price_micros: int | None = None) -> Reserved | None:
        """Reserve the price of one of a published line; None where there is no money for it (now).

        time_ms, price_micros: the very ones that are logged with the choice. A price of None is that of the terms.
        """
        with self._lock:
            found = self._wallet.reserve(line_id, time_ms, price_micros)
        self._tell()
        return found

    def give_back(self, line_id: str, reserved: Reserved, price_micros: int | None = None) -> None:
        """Undo a reservation of which nothing was logged: another choice of the same decision found no money."""
        with self._lock:
            self._wallet.give_back(line_id, reserved, price_micros)

    def stock_level(self, site: str, sku: str) -> int | None:
        """Return the newest known stock of a sku, None where nothing was said of it."""
        return self.view.stock_level(site, sku)

    def spent_micros(self, account: Account) -> int:
        """Return what all processes have reserved of an account and not released, as far as the spend state is read."""
        return self.view.spent_micros(account)

    def seen_micros(self, lease_id: str) -> int:
        """Return what of it was reserved under a lease."""
        return self.view.seen_micros(lease_id)

    def _tell(self) -> None:
        if self._wallet.is_wanting and not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        is_ready = False
        while not self._stopping.is_set():
            self._wake.wait(TURN_S)
            self._wake.clear()
            self._stopping.wait(GATHER_S)
            try:
                if not is_ready:
                    self._database.migrate()
                    is_ready = True
                self._turn(now_ms())
                self.trouble = ""
            except (Retryable, SettingsError) as error:  # a store of a newer version, say: decisions go on without
                self._in_trouble(error)
                self._stopping.wait(RETRY_S)
        if is_ready:
            self._end()

    def _relevel(self) -> None:
        """Have the leases of skus follow their levels. Decisions wait for one sku at most, never for the follower."""
        if not self.view.is_loaded:
            return
        with self._lock:
            unsure, self._unsure = self._unsure, {}
        for name in {*self.view.take_told(), *unsure}:
            for wish in self._wishes.get(name, ()):
                with self.view.still():
                    one = self._of(wish)
                    free = (one.total_micros or 0) - self.view.spent_micros(Account(SKU, one.campaign_id))
                with self._lock:
                    if self._pieces.get(wish, one) != one:
                        self._pieces[wish] = one
                        self._wallet.relevel(one, free)
        self._knows_levels = True

    def _turn(self, time_ms: int) -> None:
        self._relevel()
        if monotonic_s() - self._looked_s >= LOOK_S:
            self._look(time_ms)
        with self._lock:
            declared = self._wallet.take_declared(time_ms)
            asks = self._wallet.asks(time_ms) if self.view.is_loaded else []
            terms = self._wallet.terms_of(asks)
        if not asks and not declared:
            return
        started_s = monotonic_s()
        try:
            talk = self._leases.talk(asks, terms, declared, self.view, time_ms, self.view.still())
        except Retryable:
            metrics.LEASES.labels("failed").inc(len(asks))
            with self._lock:
                self._wallet.failed(asks, declared, time_ms)
            raise
        metrics.LEASE_SECONDS.observe(monotonic_s() - started_s)
        metrics.LEASES.labels("granted").inc(len(talk.granted))
        behind = sum(ask.lease.line_id in talk.behind for ask in asks)
        metrics.LEASES.labels("behind").inc(behind)
        metrics.LEASES.labels("refused").inc(len(asks) - len(talk.granted) - behind)
        with self._lock:
            self._wallet.granted(asks, talk.granted, talk.behind, time_ms)

    def _look(self, time_ms: int) -> None:
        """Now and then: who needs the next lease soon, and what others lack that is idle here."""
        self._looked_s = monotonic_s()
        with self._lock:
            self._wallet.look_ahead(time_ms)
        # these two only read, at each line, what is replaced as a whole: decisions need not wait for them
        metrics.LEASED_MICROS.set(self._wallet.left_micros)
        idle = self._wallet.idle(time_ms)
        if idle:
            short = self._leases.short(idle, time_ms - SHORT_MS)
            if short:
                with self._lock:
                    self._wallet.give_up(short, time_ms)

    def _end(self) -> None:
        with self._lock:
            self._wallet.publish(())
            declared = self._wallet.take_declared(now_ms())
        try:
            if declared:
                self._leases.talk((), {}, declared, self.view, now_ms())
        except Retryable as error:
            log.warning("leases are not given back, their time will do it: %s", error)

    def _in_trouble(self, error: HeraldError) -> None:
        if str(error) != self.trouble:
            log.warning("no money is leased: %s", error)
        self.trouble = str(error)

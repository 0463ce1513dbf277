"""The spend state as a process that leases money knows it: what was spent of each account, and the stock of each sku.

Sums only: reservations and open holds, which are most of the state, are not kept. Whole records count, so what is asked
of one partition is always of one version. A partition that is read anew replaces the old one once it has come as far.
"""

import threading
from collections.abc import Iterable
from typing import Any

import msgspec

from pipeline.core.holds import HELD, PIECES, SOLD, counts_against
from pipeline.core.lease import SKU, Account, Place, Position, sku_name
from pipeline.core.spend import DAY, LEASE, LINE, RESERVATION, STOCK, day_of, days_of, is_newer, line_of
from pipeline.core.state import StateView
from schemas.spend import Leased, Money, Pieces, Sold, SpendFixed, StockLevel
from schemas.state import StateRecord
from schemas.topics import Topic

_decode_money = msgspec.msgpack.Decoder(Money).decode
_decode_leased = msgspec.msgpack.Decoder(Leased).decode
_decode_stock = msgspec.msgpack.Decoder(StockLevel).decode
_decode_pieces = msgspec.msgpack.Decoder(Pieces).decode
_decode_sold = msgspec.msgpack.Decoder(Sold).decode
_decode_fixed = msgspec.msgpack.Decoder(SpendFixed).decode


class _Entries(dict[str, bytes]):
    """A partition's entries without reservations and holds; `changed`: keys since somebody looked."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: dict[str, None] = {}

    def update(self, puts: Any = (), /, **more: Any) -> None:
        """Take a record's puts."""
        for key, raw in puts:
            if not key.startswith((RESERVATION, HELD)) and self.get(key) != raw:
                self[key] = raw
                self.changed[key] = None

    def pop(self, key: str, *default: Any) -> Any:
        """Take one of a record's deletes."""
        self.changed[key] = None
        return super().pop(key, *default)

    def clear(self) -> None:
        """All is void."""
        self.changed.update(dict.fromkeys(self))
        super().clear()


class _Shard:
    """One partition: its state, and the sums made of it."""

    def __init__(self) -> None:
        self.entries = _Entries()
        self.view = StateView(self.entries)
        self.spent: dict[Account, int] = {}
        self.seen: dict[str, int] = {}
        self.sold: dict[str, dict[str, Sold]] = {}  # by the sku's account
        self.clock_ms = 0
        self._counted: dict[str, int] = {}
        self._sold_of: dict[str, str] = {}

    def refresh(self) -> None:
        """Bring the sums up to the entries."""
        changed, self.entries.changed = self.entries.changed, {}
        for key in changed:
            raw = self.entries.get(key)
            if key.startswith((LINE, DAY)):
                self._refresh_books(key, raw)
            elif key.startswith(LEASE):
                self.seen.pop(key.removeprefix(LEASE), None)
                if raw is not None:
                    self.seen[key.removeprefix(LEASE)] = _decode_leased(raw).reserved.micros
            elif key.startswith(PIECES) and raw is not None:
                self._refresh_pieces(_decode_pieces(raw))
            elif key.startswith(SOLD):
                self._refresh_sold(key, raw)
        if self.view.fixed:
            self.clock_ms = _decode_fixed(self.view.fixed).block_time_ms

    def _refresh_pieces(self, pieces: Pieces) -> None:
        account = Account(SKU, sku_name(pieces.site, pieces.sku))
        self.spent.pop(account, None)
        if pieces.open:
            self.spent[account] = pieces.open

    def _refresh_sold(self, key: str, raw: bytes | None) -> None:
        name = self._sold_of.pop(key, None)
        if name is not None:
            del self.sold[name][key]
            if not self.sold[name]:
                del self.sold[name]
        if raw is not None:
            sold = _decode_sold(raw)
            name = self._sold_of[key] = sku_name(sold.site, sold.sku)
            self.sold.setdefault(name, {})[key] = sold

    def _refresh_books(self, key: str, raw: bytes | None) -> None:
        micros = 0
        if raw is not None:
            money = _decode_money(raw)
            micros = money.reserved.micros - money.released.micros
        more = micros - self._counted.pop(key, 0)
        if raw is not None:
            self._counted[key] = micros
        for account in _accounts_of(key):
            total = self.spent.pop(account, 0) + more
            if total:
                self.spent[account] = total


def _accounts_of(key: str) -> tuple[Account, Account]:
    """Return the accounts that a line's books, or those of a day of it, are part of."""
    if key.startswith(LINE):
        campaign_id, line_id = line_of(key)
        return Account("line", line_id), Account("campaign", campaign_id)
    campaign_id, line_id, name = day_of(key)
    line_day, campaign_day = days_of(name)
    return Account("line", line_id, line_day), Account("campaign", campaign_id, campaign_day)


class SpendView:
    """A `View` of all partitions. Told by a follower's thread (see `pipeline.edge.follow.Reader`), asked by any."""

    def __init__(self, partitions: int, generation: int = 1) -> None:
        """Start knowing nothing. generation: of the log."""
        self._generation = generation
        self._in_use = [_Shard() for _ in range(partitions)]
        self._loading = [_Shard() for _ in range(partitions)]
        self._loaded = [False] * partitions
        self._lock = threading.Lock()
        self._levels: dict[str, StockLevel] = {}
        self._told: dict[str, None] = {}

    # Asked

    @property
    def is_loaded(self) -> bool:
        """True once every partition was read up to where it ended when its reading began."""
        return all(self._loaded)

    @property
    def is_whole(self) -> bool:
        """See View. False while a damaged partition is computed again."""
        return all(shard.view.is_whole for shard in self._in_use)

    @property
    def position(self) -> Position:
        """See View."""
        return tuple(Place(shard.view.version, shard.clock_ms, self._generation) for shard in self._in_use)

    @property
    def clock_ms(self) -> int:
        """See View."""
        return min(shard.clock_ms for shard in self._in_use)

    def spent_micros(self, account: Account) -> int:
        """See View."""
        spent = sum(shard.spent.get(account, 0) for shard in self._in_use)
        return spent + self._sold(account.id) if account.kind == SKU else spent

    def _sold(self, name: str) -> int:
        """Return how many held pieces of a sku were bought that the newest level does not know of."""
        level = self._levels.get(name)
        sold = [one for shard in self._in_use for one in shard.sold.get(name, {}).values()]
        return sum(counts_against(one, level, self.clock_ms) for one in sold)

    def seen_micros(self, lease_id: str) -> int:
        """See View."""
        return sum(shard.seen.get(lease_id, 0) for shard in self._in_use)

    def stock_level(self, site: str, sku: str) -> int | None:
        """Return the newest known stock of a sku over all partitions, None where nothing was said of it."""
        found = self._levels.get(sku_name(site, sku))
        return None if found is None else found.level

    def level(self, name: str) -> StockLevel | None:
        """See View."""
        return self._levels.get(name)

    def take_told(self) -> list[str]:
        """Return, once, the accounts of skus whose newest level has changed. To be asked by one thread."""
        if not self._told:
            return []
        with self._lock:
            told, self._told = self._told, {}
        return list(told)

    def still(self) -> threading.Lock:
        """Return the lock under which nothing of all this changes: to be held over questions that belong together."""
        return self._lock

    # Told by the follower

    def begin(self, topic: Topic, partition: int) -> None:
        """See Reader. What was known stays in use until the new reading is complete."""
        with self._lock:
            self._loading[partition] = _Shard()

    def take(self, topic: Topic, partition: int, record: StateRecord, offset: int) -> None:
        """See Reader."""
        with self._lock:
            shard = self._loading[partition]
            is_whole = shard.view.apply(record, offset) and record.kind == "change" and not record.more
            if is_whole and shard is self._in_use[partition]:
                changed = [key for key in shard.entries.changed if key.startswith(STOCK)]
                shard.refresh()
                self._merge_stock(shard.entries.get(key) for key in changed)

    def loaded(self, topic: Topic, partition: int) -> None:
        """See Reader. From now on the new reading is in use, and goes on."""
        with self._lock:
            shard = self._loading[partition]
            shard.refresh()
            self._in_use[partition] = shard
            self._loaded[partition] = True
            self._merge_stock(raw for key, raw in shard.entries.items() if key.startswith(STOCK))

    def pause(self) -> None:
        """See Reader."""

    def _merge_stock(self, news: Iterable[bytes | None]) -> None:
        """Of several partitions' words on a sku the newest counts."""
        for raw in news:
            if raw is not None:
                level = _decode_stock(raw)
                name = sku_name(level.site, level.sku)
                known = self._levels.get(name)
                if known is None or is_newer(level, known):
                    self._levels[name] = level
                    self._told[name] = None

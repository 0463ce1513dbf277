"""The books of money, as `herald status` shows them: by line, from the spend state and the lease store.

What is open is counted twice: as the books have it, and reservation by reservation. `missing` is what the books cannot
account for, and is 0 at every moment, also right after a kill -9.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from pipeline.core.spend import LEASE, LINE, RESERVATION, SpendRules, line_of
from pipeline.core.state import StateView
from pipeline.errors import Retryable
from pipeline.settings import Settings
from schemas.spend import Leased, Money, Reservation, Sum

MICROS = 1_000_000

_decode_money = msgspec.msgpack.Decoder(Money).decode
_decode_held = msgspec.msgpack.Decoder(Reservation).decode
_decode_leased = msgspec.msgpack.Decoder(Leased).decode


def rules(settings: Settings) -> SpendRules:
    """Return how long money is reserved: the same for the spend stage and for who closes leases."""
    return SpendRules(
        impression_ms=settings.reservation_impression_ms,
        click_ms=settings.reservation_click_ms,
        action_ms=settings.reservation_action_ms,
    )


class LineMoney(NamedTuple):
    """One line's books over all partitions. Money in micros.

    reserved, settled, released: by the books. open: counted reservation by reservation. late: paid for after the
    release, and not billed; in no other column. leased: granted to delivery processes and, as far as the spend stage
    has read, not reserved yet; None where the lease store does not say. limit: of the line's life; None = none known.
    """

    campaign_id: str
    line_id: str
    reserved: Sum
    settled: Sum
    released: Sum
    open: Sum
    late: Sum
    leased_micros: int | None = None
    limit_micros: int | None = None

    @property
    def missing_micros(self) -> int:
        """What is unaccounted for: 0, or the books do not balance."""
        return self.reserved.micros - self.settled.micros - self.released.micros - self.open.micros

    @property
    def is_balanced(self) -> bool:
        """True where reserved = settled + released + open, in pieces and in money."""
        count = self.reserved.count - self.settled.count - self.released.count - self.open.count
        return count == 0 and self.missing_micros == 0

    def as_object(self) -> dict[str, Any]:
        """Return it by name, for machines."""
        found: dict[str, Any] = {"campaign": self.campaign_id, "line": self.line_id}
        for name in ("reserved", "settled", "released", "open", "late"):
            total: Sum = getattr(self, name)
            found |= {name: total.count, f"{name}_micros": total.micros}
        return found | {
            "leased_micros": self.leased_micros,
            "limit_micros": self.limit_micros,
            "missing_micros": self.missing_micros,
        }


def read(views: Sequence[StateView], settings: Settings) -> list[LineMoney]:
    """Return the books of every line that money was ever reserved for. views: the spend state, by partition.

    Without the lease store it says what the log knows.
    """
    found = books_of(views)
    try:
        return with_leases(found, views, settings)
    except Retryable:
        return found


def books_of(views: Iterable[StateView]) -> list[LineMoney]:
    """Return the books in the spend states of all partitions, added up."""
    columns = ("reserved", "settled", "released", "late")
    books: defaultdict[tuple[str, str], Money] = defaultdict(Money)
    for view in views:
        for key, raw in view.entries.items():
            if key.startswith(LINE):
                total = _decode_money(raw)
                for column in columns:
                    _add(getattr(books[line_of(key)], column), getattr(total, column))
            elif key.startswith(RESERVATION):
                held = _decode_held(raw)
                _add(books[held.campaign_id, held.line_id].open, Sum(1, held.price_micros))
    return [
        LineMoney(*name, money.reserved, money.settled, money.released, money.open, money.late)
        for name, money in sorted(books.items())
    ]


def with_leases(rows: Sequence[LineMoney], views: Sequence[StateView], settings: Settings) -> list[LineMoney]:
    """Add what delivery processes hold, and the limits. Raises Retryable where the lease store does not answer."""
    from pipeline.campaigns.leases import holdings  # what it needs takes longer to import than all else here

    found = holdings(settings)
    if found is None:
        return list(rows)
    open_leases, limits = found
    leased: defaultdict[tuple[str, str], int] = defaultdict(int)
    seen = _seen(views)
    for lease in open_leases:
        if lease.is_of_sku:
            continue
        leased[lease.campaign_id, lease.line_id] += max(0, lease.granted_micros - seen.get(lease.lease_id, 0))
    known = {(row.campaign_id, row.line_id): row for row in rows}
    for name in leased:
        known.setdefault(name, LineMoney(*name, Sum(), Sum(), Sum(), Sum(), Sum()))
    return [
        row._replace(leased_micros=leased[name], limit_micros=limit.total_micros if limit else None)
        for name, row in sorted(known.items())
        for limit in [limits.get(("line", row.line_id))]
    ]


def _seen(views: Iterable[StateView]) -> Mapping[str, int]:
    seen: defaultdict[str, int] = defaultdict(int)
    for view in views:
        for key, raw in view.entries.items():
            if key.startswith(LEASE):
                seen[key.removeprefix(LEASE)] += _decode_leased(raw).reserved.micros
    return seen


def _add(total: Sum, more: Sum) -> None:
    total.count += more.count
    total.micros += more.micros


def show(rows: Sequence[LineMoney], console: Console) -> None:
    """Print it for people, in units of the currency."""
    names = ("line", "limit", "leased", "reserved", "settled", "released", "open", "late", "missing")
    columns = [Column(name, justify="left" if name == "line" else "right", overflow="fold") for name in names]
    title = "books of money: reserved = settled + released + open"
    table = Table(*columns, title=title, box=SIMPLE, padding=0, pad_edge=False)  # narrow, and no figure is ever cut
    for row in rows:
        sums = (row.reserved, row.settled, row.released, row.open, row.late)
        figures = [row.limit_micros, row.leased_micros, *(one.micros for one in sums), row.missing_micros]
        style = "" if row.is_balanced else "red"
        table.add_row(f"{row.campaign_id}/{row.line_id}", *map(_money, figures), style=style)
    console.print(table)


def _money(micros: int | None) -> str:
    """Two decimals, or as many as it takes: an impression may cost less than a cent."""
    if micros is None:
        return ""
    whole, part = divmod(abs(micros), MICROS)
    decimals = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}{whole:,}.{decimals}"

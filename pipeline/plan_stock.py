"""`herald plan stock`: what is asked for by sku, and when its stock runs out: from a file of sales, or our events."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Column
from rich.table import Table as Shown
from rich.text import Text

from pipeline.audit.stock import running_low
from pipeline.core.forecast import HORIZON_DAYS, Forecast, RunsOut, forecast, runs_out
from pipeline.edge.clickhouse import Source, Warehouse
from pipeline.edge.clock import now_ms
from pipeline.errors import SettingsError
from pipeline.plan_table import Table
from pipeline.settings import Settings

DAYS_MAX: Final = 4_000
TOP: Final = 50
SKUS_ALL: Final = 10_000
ANSWER_S: Final = 60.0
_SKU: Final = ("sku", "product_id", "product", "item_id")
_TIME: Final = ("date", "day", "time", "transaction_timestamp", "event_time")
_QUANTITY: Final = ("quantity", "units", "pieces")
_STOCK: Final = ("stock", "left", "quantity", "units")


@dataclass(frozen=True)
class StockWish:
    """What is asked. file: of sales; None = those that the warehouse knows, with the stock that was told.

    stock: file of what is left by sku; None = only the demand is told. lead_days: how long it takes to get more. top:
    so many skus, 0 = all: those that run out first, or, without stock, that sell most.
    sku, time, quantity: columns of the sales; "" = by their usual names.
    """

    file: Path | None
    stock: Path | None = None
    lead_days: int = 7
    top: int = TOP
    sku: str = ""
    time: str = ""
    quantity: str = ""
    as_json: bool = False


@dataclass(frozen=True)
class Sku:
    """One sku. stock, ends: None where nobody told how much is left."""

    sku: str
    sold: float
    expected: Forecast
    stock: float | None
    ends: RunsOut | None


@dataclass(frozen=True)
class Sales:
    """What was read. by_sku: units by day, days counted from `first`; the last day is that of the newest sale."""

    by_sku: Mapping[str, Mapping[int, float]]
    first: date
    days: int


def run_stock(settings: Settings, console: Console, wish: StockWish) -> int:
    """Print when each sku runs out; 0. Raises SettingsError for a wrong file, Retryable where the warehouse is away."""
    left: Mapping[str, float] | None
    if wish.file is None:
        with Warehouse.from_url(settings.warehouse_url, ANSWER_S) as warehouse:
            sales, left = known(warehouse, wish, now_ms())
    else:
        sales = read_sales(wish.file, wish)
        left = read_stock(wish.stock) if wish.stock else None
    found = judge(sales, left, wish)
    if wish.as_json:
        last = date.fromordinal(sales.first.toordinal() + sales.days - 1)
        console.print_json(json.dumps({"last_day": last.isoformat(), "skus": [as_object(one) for one in found]}))
    else:
        show(found, sales, wish, console)
    return 0


def known(warehouse: Source, wish: StockWish, time_ms: int) -> tuple[Sales, dict[str, float]]:
    """Return what was sold and is left of the skus that run out first, by the warehouse. A day is 24 hours up to now.

    Raises SettingsError where nothing is known, or a file of stock was given; Retryable where the warehouse is away.
    """
    if wish.stock is not None:
        raise SettingsError("--stock: expected --data beside it; without, stock is what events have told")
    found = running_low(warehouse, time_ms, wish.top or SKUS_ALL)
    if not found:
        raise SettingsError("the warehouse knows no sku of which stock was told and something was sold in four weeks")
    days = 1 + max(max(one.units, default=0) for one in found)
    is_one_site = len({one.site for one in found}) == 1
    by_sku: dict[str, dict[int, float]] = {}
    left: dict[str, float] = {}
    for one in found:
        name = one.sku if is_one_site else f"{one.site}/{one.sku}"
        by_sku[name] = {days - 1 - ago: units for ago, units in one.units.items()}
        left[name] = float(one.left)
    today = datetime.fromtimestamp(time_ms / 1_000, UTC).date()
    return Sales(by_sku, date.fromordinal(today.toordinal() - days + 1), days), left


def read_sales(file: Path, wish: StockWish) -> Sales:
    """Return the sales of a file, a row being some units of a sku on a day. Raises SettingsError.

    A time may follow the day; a quantity is 1 where the file has no such column.
    """
    table = Table(file)
    columns = [table.column(wish.sku, _SKU, "names the product"), table.column(wish.time, _TIME, "day of the sale")]
    has_quantity = wish.quantity or any(name.lower() in _QUANTITY for name in table.columns)
    columns += [table.column(wish.quantity, _QUANTITY, "units sold")] if has_quantity else []
    by_sku: defaultdict[str, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    days: dict[str, int] = {}
    for row in table.rows(columns):
        sku, day = row.cells[0], row.cells[1][:10]
        if not sku:
            raise table.wrong(row, columns[0], sku, "the name of a product")
        if day not in days:
            try:
                days[day] = date.fromisoformat(day).toordinal()
            except ValueError:
                raise table.wrong(
                    row, columns[1], row.cells[1], "a day as 2026-03-09, with a time or without"
                ) from None
        units = 1.0
        if has_quantity:
            cell = row.cells[2]
            units = float(cell) if cell.isdecimal() and len(cell) < 10 else float(table.number(row, columns[2], cell))
        by_sku[sku][days[day]] += units
    if not by_sku:
        raise SettingsError(f"{file}: no sales, expected a row at least")
    first, last = min(days.values()), max(days.values())
    if last - first >= DAYS_MAX:
        between = f"{date.fromordinal(first)} to {date.fromordinal(last)}"
        raise SettingsError(f"{file}: sales from {between}, expected {DAYS_MAX:,} days at most")
    shifted = {sku: {day - first: units for day, units in found.items()} for sku, found in by_sku.items()}
    return Sales(shifted, date.fromordinal(first), last - first + 1)


def read_stock(path: Path) -> dict[str, float]:
    """Return the units left by sku; of a sku that is there twice the last row counts. Raises SettingsError."""
    table = Table(path)
    columns = [table.column("", _SKU, "names the product"), table.column("", _STOCK, "units left")]
    return {row.cells[0]: float(table.number(row, columns[1], row.cells[1])) for row in table.rows(columns)}


def judge(sales: Sales, left: Mapping[str, float] | None, wish: StockWish) -> list[Sku]:
    """Return the skus, those that run out first before the others, or those that sell most."""
    totals = {sku: sum(by_day.values()) for sku, by_day in sales.by_sku.items()}
    if left is None:
        chosen = sorted(totals, key=lambda sku: (-totals[sku], sku))[: wish.top or None]
        return [_sku(sku, sales, totals, None, wish) for sku in chosen]
    found = [_sku(sku, sales, totals, left[sku], wish) for sku in left]
    found.sort(key=lambda one: (*_ends(one), one.sku))
    return found[: wish.top or None]


def _ends(one: Sku) -> tuple[int, int, float]:
    assert one.ends is not None
    later = HORIZON_DAYS + 1
    first = later if one.ends.early is None else one.ends.early
    return first, later if one.ends.days is None else one.ends.days, -one.ends.risk


def _sku(sku: str, sales: Sales, totals: Mapping[str, float], stock: float | None, wish: StockWish) -> Sku:
    """A sku's days begin with its first sale: before, it may not have been there."""
    by_day = sales.by_sku.get(sku, {})
    begins = min(by_day, default=sales.days - 1)
    expected = forecast([by_day.get(day, 0.0) for day in range(begins, sales.days)])
    ends = None if stock is None else runs_out(expected, stock, wish.lead_days)
    return Sku(sku, totals.get(sku, 0.0), expected, stock, ends)


def as_object(one: Sku) -> dict[str, object]:
    """Return it by names, for machines. Days from now, 1 = the first; null = later than 180 days from now."""
    daily = one.expected.daily
    return {
        "sku": one.sku,
        "sold": one.sold,
        "method": one.expected.method,
        "errors": one.expected.errors,
        "days_seen": one.expected.days,
        "demand": {str(days): sum(daily[:days]) for days in (1, 7, 30)},
        "stock": one.stock,
        "ends": one.ends._asdict() if one.ends else None,
    }


def show(found: list[Sku], sales: Sales, wish: StockWish, console: Console) -> None:
    """Print it for people."""
    has_stock = wish.stock is not None or wish.file is None
    titles = ["sku", "left", "7 days", "30 days", "ends in", "90 %", f"by day {wish.lead_days}", ""]
    titles = titles if has_stock else ["sku", "sold", "7 days", "30 days", "by"]
    table = Shown(*(Column(title, no_wrap=True) for title in titles), box=None, pad_edge=False)
    for one in found:
        daily = one.expected.daily
        asked = (_units(sum(daily[:7])), _units(sum(daily[:30])))
        if one.ends is None:
            table.add_row(Text(one.sku), f"{one.sold:,.0f}", *asked, str(one.expected.method))
        else:
            days, between = _day(one.ends.days), f"{_day(one.ends.early)} to {_day(one.ends.late)}"
            between = "later" if one.ends.early is None else between
            order = "order now" if one.ends.warns else ""
            table.add_row(Text(one.sku), f"{one.stock:,.0f}", *asked, days, between, f"{one.ends.risk:.1%}", order)
    console.print(table)
    warned = sum(one.ends is not None and one.ends.warns for one in found)
    said = f"{len(sales.by_sku):,} skus in {sales.days:,} days from {sales.first}; {len(found):,} shown"
    console.print(said + (f", {warned:,} to order" if has_stock else ""), highlight=False, soft_wrap=True)


def _units(units: float) -> str:
    return f"{units:,.1f}" if units < 100.0 else f"{units:,.0f}"


def _day(day: int | None) -> str:
    return "later" if day is None else str(day)

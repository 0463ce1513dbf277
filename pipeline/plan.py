"""`herald plan allocate`: how to share out a total over lines or channels, shown before anything is applied."""

import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

from rich.console import Console
from rich.table import Column
from rich.table import Table as Shown
from rich.text import Text

from pipeline.core.allocate import AllocateRules, Estimate, Proposal, Proposed, allocate
from pipeline.core.response import MICROS, Line, Point
from pipeline.errors import SettingsError
from pipeline.plan_table import Row, Table, amount, micros
from pipeline.settings import Settings

Limit = Literal["total", "daily"]
LINES_MAX: Final = 500
LEFT_OUT_MAX: Final = 20
_BY: Final = ("line", "channel", "campaign", "segment", "name")
_SPEND: Final = ("spend", "spent", "cost")
_VALUE: Final = ("value", "revenue", "conversions")


@dataclass(frozen=True)
class AllocateWish:
    """What is asked. file: None = so many days_back of the warehouse. by: columns that name a line, with commas.
    total: in the file's currency; "" = what was spent. currency, campaigns: of the warehouse's lines.
    spend, value, by: "" = by their usual names. limit, days: see `plan_apply.Target`. The rest as in AllocateRules.
    """

    file: Path | None
    total: str = ""
    by: str = ""
    spend: str = ""
    value: str = ""
    caution: float = 0.0
    explore: bool = False
    change_max: float | None = None
    as_json: bool = False
    write: Path | None = None
    limit: Limit = "daily"
    days: int | None = None
    days_back: int = 30
    currency: str = ""
    campaigns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Read:
    """What was read. unspent: periods without spend, which are left out; unspent_value: what came in them.

    channels: line -> its channel, where the file has a column of that name beside those that name a line.
    left_out: line of the warehouse -> why it is in no proposal. currency: of all; "" = the file does not say.
    """

    lines: list[Line]
    unspent: int
    unspent_value: float
    channels: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)
    currency: str = ""


class Mixed(NamedTuple):
    """A channel of a proposal. marginal: what a unit of money more brings at the new spend, on its best line."""

    channel: str
    old_micros: int
    new_micros: int
    value_old: float
    value_new: float
    marginal: float


def run_allocate(settings: Settings, console: Console, wish: AllocateWish) -> int:
    """Print a proposal, and write it where it is asked for; 0. Applies nothing.

    Raises SettingsError for a wrong file, bounds or total, or where the proposal's lines are not those of the store.
    """
    if wish.file is not None and (wish.currency or wish.campaigns):
        raise SettingsError("--currency, --campaign: they choose among the warehouse's lines; expected no --data")
    read = read_lines(wish, wish.file) if wish.file is not None else _read_live(settings, wish)
    total = sum(line.spent_micros for line in read.lines)
    if wish.total:
        given = amount(wish.total)
        if given is None:
            raise SettingsError(f"--total: found {wish.total!r}, expected a number from 0 to 10^12")
        total = micros(given)
    try:
        found = allocate(read.lines, total, AllocateRules(wish.caution, wish.explore, wish.change_max))
    except ValueError as error:
        raise SettingsError(f"{wish.file or 'the warehouse'}: {error}") from None
    means = _write(settings, found, read, wish)
    if wish.as_json:
        mixed = [one._asdict() for one in mix(found, read.channels)]
        more = {"channels": mixed, "currency": read.currency, "left_out": read.left_out, "budgets": means}
        console.print_json(json.dumps(as_object(found) | more))
        return 0
    show(found, read, console)
    said = [f"lines/{name} {meant}" for name, meant in means.items()]
    said += [f"written to {wish.write}: read it, then `herald plan apply {wish.write}`"] if wish.write else []
    for line in said:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return 0


def _write(settings: Settings, found: Proposal, read: Read, wish: AllocateWish) -> dict[str, str]:
    """Write the plan where that is asked for; return line -> what its limit is made of, {} where nothing is written."""
    if wish.write is None:
        return {}
    from pipeline.plan_apply import Target, write_plan

    # Of the warehouse's lines a period is a day: what is proposed is for as many of them as the line spent in.
    days: dict[str, int] = {}
    for line in read.lines:
        if wish.days is not None:
            days[line.name] = wish.days
        elif wish.file is None:
            days[line.name] = sum(point.spend_micros > 0 for point in line.points)
    return write_plan(settings, found, str(wish.file or "the warehouse"), Target(wish.write, wish.limit, days))


def _read_live(settings: Settings, wish: AllocateWish) -> Read:
    from pipeline.plan_live import Scope, spent

    lines, channels, left_out, currency = spent(settings, Scope(wish.days_back, wish.currency, wish.campaigns))
    idle = [point for line in lines for point in line.points if not point.spend_micros]
    return Read(lines, len(idle), sum(point.value for point in idle), channels, left_out, currency)


def read_lines(wish: AllocateWish, file: Path) -> Read:
    """Return the lines of a file: a row is what one period of a line cost and brought. Raises SettingsError.

    Columns `min` and `max`, where they are there, bound what a line may get; a row without them says nothing.
    """
    table = Table(file)
    by = [table.column(name.strip(), _BY, "names the line") for name in wish.by.split(",")]
    spend, value = table.column(wish.spend, _SPEND, "money spent"), table.column(wish.value, _VALUE, "what it brought")
    limits = [name for name in table.columns if name.lower() in ("min", "max")]
    points: defaultdict[str, list[Point]] = defaultdict(list)
    channel = next((name for name in table.columns if name.lower() == "channel" and name not in by), None)
    channels: defaultdict[str, set[str]] = defaultdict(set)
    bounds: dict[tuple[str, str], int] = {}
    unspent, unspent_value = 0, 0.0
    for row in table.rows([*by, spend, value, *limits, *([channel] if channel else [])]):
        name = " ".join(row.cells[: len(by)]).strip()
        if not name:
            raise table.wrong(row, ", ".join(by), "", "the name of a line")
        spent, brought = (_number(table, row, (spend, value)[place], len(by) + place) for place in (0, 1))
        points[name].append(Point(spent, brought / MICROS))
        if channel:
            channels[name].add(row.cells[-1])
        if not spent:
            unspent, unspent_value = unspent + 1, unspent_value + brought / MICROS
        for place, limit in enumerate(limits, len(by) + 2):
            if row.cells[place]:
                bounds[name, limit.lower()] = _number(table, row, limit, place)
        if len(points) > LINES_MAX:
            raise SettingsError(f"{wish.file}:{row.line}: more than {LINES_MAX:,} lines: is {by} what names a line?")
    lines = [
        Line(name, tuple(found), bounds.get((name, "min"), 0), bounds.get((name, "max")))
        for name, found in points.items()
    ]
    of_one = {name: " and ".join(sorted(found)) for name, found in channels.items()}
    return Read(lines, unspent, unspent_value, of_one)


def _number(table: Table, row: Row, column: str, place: int) -> int:
    """Return a cell in millionths."""
    return micros(table.number(row, column, row.cells[place]))


def mix(found: Proposal, channels: dict[str, str]) -> list[Mixed]:
    """Return a proposal by channel, in the order of the names. channels: line -> channel; {} = nothing is known."""
    by_channel: defaultdict[str, list[Proposed]] = defaultdict(list)
    for one in found.lines:
        if one.name in channels:
            by_channel[channels[one.name]].append(one)
    return [
        Mixed(
            channel,
            sum(one.old_micros for one in lines),
            sum(one.new_micros for one in lines),
            sum(one.value_old.mean for one in lines),
            sum(one.value_new.mean for one in lines),
            max(one.marginal for one in lines),
        )
        for channel, lines in sorted(by_channel.items())
    ]


def as_object(found: Proposal) -> dict[str, object]:
    """Return it by names, for machines; money in micros, marginals per unit of money."""
    content = asdict(found)
    for one in (content, *content["lines"]):
        for key, value in one.items():
            if isinstance(value, Estimate):
                one[key] = {name: _finite(number) for name, number in value._asdict().items()}
            elif isinstance(value, float):
                one[key] = _finite(value)
    return content


def _finite(number: float) -> float | None:
    """JSON has no infinity."""
    return number if math.isfinite(number) else None


def show(found: Proposal, read: Read, console: Console) -> None:
    """Print it for people."""
    titles = ("line", "old", "new", "change", "value old", "new", "90 %", "a unit more")
    table = Shown(*(Column(title, no_wrap=True) for title in titles), box=None, pad_edge=False)
    for one in found.lines:
        table.add_row(
            Text(one.name), _money(one.old_micros), _money(one.new_micros), _change(one.old_micros, one.new_micros),
            f"{one.value_old.mean:,.1f}", f"{one.value_new.mean:,.1f}", _ends(one.value_new), f"{one.marginal:.3g}",
        )  # fmt: skip
    console.print(table)
    for one in found.lines:
        console.print(f"{one.name}: {one.why}", highlight=False, soft_wrap=True, markup=False)
    for by in mix(found, read.channels):
        said = (
            f"channel {by.channel} {_money(by.old_micros)} -> {_money(by.new_micros)}; value {by.value_old:,.1f} -> "
            f"{by.value_new:,.1f}; a unit more brings {by.marginal:.3g}"
        )
        console.print(said, highlight=False, soft_wrap=True, markup=False)
    for name, why in list(read.left_out.items())[:LEFT_OUT_MAX]:
        console.print(f"left out: {name} {why}", highlight=False, soft_wrap=True, markup=False)
    if len(read.left_out) > LEFT_OUT_MAX:
        console.print(f"left out: {len(read.left_out) - LEFT_OUT_MAX:,} more", highlight=False)
    old, new = _money(found.old_micros), f"{_money(found.total_micros)} {read.currency}".rstrip()
    for line in (
        f"total {old} -> {new}; value {found.value_old.mean:,.1f} -> {found.value_new.mean:,.1f} "
        f"({_ends(found.value_new)}), gain {found.gain.mean:+,.1f} ({_ends(found.gain)}), "
        f"better with {found.better:.1%}; a unit more brings {found.marginal:.3g}",
        f"by {found.shape} curves of {sum(len(one.points) for one in read.lines):,} periods; "
        f"{read.unspent:,} without spend left out (value {read.unspent_value:,.1f})",
        "nothing was applied; it holds as far as spend brought the value, and did not follow it",
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _money(value: int) -> str:
    return f"{value / MICROS:,.2f}"


def _change(old: int, new: int) -> str:
    return f"{new / old - 1.0:+.0%}" if old else "new"


def _ends(one: Estimate) -> str:
    return f"{one.low:,.1f} to {one.high:,.1f}"

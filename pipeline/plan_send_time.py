"""`herald plan send-time`: the best hour to send, by visitor and by segment, from a file of visits and sends."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rich.console import Console
from rich.table import Column
from rich.table import Table as Shown
from rich.text import Text

from pipeline.core.send_time import (
    ANY_HOUR,
    SegmentHours,
    SendTime,
    SendTimeRules,
    learn_send,
    learn_visit,
    segment_hours,
    send_time,
)
from pipeline.errors import SettingsError
from pipeline.plan_table import Table
from pipeline.settings import Settings
from schemas.pacing import HourResponse
from schemas.profile import Profile

SHOWN_MAX: Final = 20
_VISITOR: Final = ("visitor", "visitor_id", "user_id", "household_id", "customer_id")
_TIME: Final = ("time", "event_time", "transaction_timestamp", "date")
_YES: Final = frozenset({"1", "true", "yes"})
_NO: Final = frozenset({"", "0", "false", "no"})


@dataclass(frozen=True)
class SendTimeWish:
    """What is asked. file: None = what delivery sends by. zone: in which hours are told. hours: that may be advised, as
    8-20 (20 left out; 20-6 goes over midnight); "" = any.
    """

    file: Path | None
    hours: str = ""
    zone: str = "UTC"
    as_json: bool = False


@dataclass
class Seen:
    """What was read. own: visits by hour, by visitor. segment_of: the visitor's, as last told."""

    everybody: HourResponse = field(default_factory=HourResponse)
    segments: defaultdict[str, HourResponse] = field(default_factory=lambda: defaultdict(HourResponse))
    own: defaultdict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    segment_of: dict[str, str] = field(default_factory=dict)


def run_send_time(settings: Settings, console: Console, wish: SendTimeWish) -> int:
    """Print the hours; 0. Raises SettingsError for a wrong file, zone or span of hours."""
    rules = SendTimeRules(allowed=read_hours(wish.hours))
    if wish.file is None:
        return _run_live(settings, console, wish, rules)
    seen = read_visits(wish.file, read_zone(wish.zone))
    known = {name: segment_hours(counts, seen.everybody, rules) for name, counts in sorted(seen.segments.items())}
    segments = {name: send_time(None, hours, rules) for name, hours in known.items()}
    visitors = {visitor: _advice(visitor, seen, known, rules) for visitor in seen.segment_of}
    if wish.as_json:
        content = {"zone": wish.zone, "segments": _objects(segments), "visitors": _objects(visitors)}
        console.print_json(json.dumps(content))
    else:
        show(segments, visitors, sum(seen.everybody.sends), wish, console)
    return 0


def _run_live(settings: Settings, console: Console, wish: SendTimeWish, rules: SendTimeRules) -> int:
    """Print what delivery sends by: of each channel, and of each segment of it that something was sent to."""
    from pipeline.plan_live import sending

    if wish.zone != "UTC":
        raise SettingsError(f"--zone: found {wish.zone!r}, expected UTC without --data: delivery's hours are UTC's")
    hours = sending(settings).hours
    told = {f"{channel}: {segment or 'everybody'}": known for channel, segment, known in hours.all()}
    segments = {name: send_time(None, known, rules) for name, known in told.items()}
    if wish.as_json:
        console.print_json(json.dumps({"zone": wish.zone, "segments": _objects(segments), "visitors": {}}))
    else:
        show(segments, {}, hours.sends, wish, console)
    return 0


def _advice(visitor: str, seen: Seen, known: dict[str, SegmentHours], rules: SendTimeRules) -> SendTime:
    own = seen.own.get(visitor, {})
    visits = round(sum(own.values()))
    return send_time(Profile(hours=own, visits=visits, events=visits), known[seen.segment_of[visitor]], rules)


def read_hours(text: str) -> frozenset[int]:
    """Return the hours of a span such as 8-20. Raises SettingsError."""
    if not text:
        return ANY_HOUR
    first, _, end = text.partition("-")
    if not (first.isdecimal() and end.isdecimal() and int(first) < 24 and int(end) <= 24 and int(first) != int(end)):
        raise SettingsError(f"--hours: found {text!r}, expected a span such as 8-20")
    hour, last = int(first), int(end) % 24
    span = {hour}
    while (hour := (hour + 1) % 24) != last:
        span.add(hour)
    return frozenset(span)


def read_zone(name: str) -> tzinfo:
    """Return a time zone. Raises SettingsError for one that is not known."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingsError(f"--zone: found {name!r}, expected a time zone such as Europe/Berlin") from None


def read_visits(path: Path, zone: tzinfo) -> Seen:
    """Return what a file tells: a row is a visit, or, where its column `sent` says so, a send, `answered` or not.

    Times without offset are taken as in the zone. Rows of a visitor within one hour of a day are one visit.
    Raises SettingsError.
    """
    table = Table(path)
    names = [table.column("", _VISITOR, "names the visitor"), table.column("", _TIME, "moment of the visit")]
    lower = {name.lower(): name for name in table.columns}
    extra = [lower[name] for name in ("segment", "sent", "answered") if name in lower]
    seen = Seen()
    begun: set[tuple[str, str]] = set()
    for row in table.rows([*names, *extra]):
        visitor, cell = row.cells[:2]
        if not visitor:
            raise table.wrong(row, names[0], visitor, "the name of a visitor")
        told = {name.lower(): value for name, value in zip(extra, row.cells[2:], strict=True)}
        for name in ("sent", "answered"):
            if told.get(name, "").lower() not in _YES | _NO:
                raise table.wrong(row, lower[name], told[name], "1 or 0")
        moment = _moment(cell, zone)
        if moment is None:
            raise table.wrong(row, names[1], cell, "a moment such as 2026-03-09T18:30:00")
        segment = seen.segment_of[visitor] = told.get("segment", "")
        if told.get("sent", "").lower() in _YES:
            for counts in (seen.everybody, seen.segments[segment]):
                learn_send(counts, moment.hour, 1.0, float(told.get("answered", "").lower() in _YES))
        elif (visit := (visitor, moment.strftime("%Y%m%d%H"))) not in begun:
            begun.add(visit)
            for counts in (seen.everybody, seen.segments[segment]):
                learn_visit(counts, moment.hour)
            seen.own[visitor][moment.hour] = seen.own[visitor].get(moment.hour, 0.0) + 1.0
    if not seen.segment_of:
        raise SettingsError(f"{path}: no visits, expected a row at least")
    return _whole(seen)


def _whole(seen: Seen) -> Seen:
    """Every segment that a visitor has is there, also one whose rows were another's."""
    for segment in seen.segment_of.values():
        seen.segments[segment]  # makes it
    return seen


def _moment(text: str, zone: tzinfo) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text.removesuffix(" UTC") + ("+00:00" if text.endswith(" UTC") else ""))
        return moment.astimezone(zone) if moment.tzinfo else moment
    except (ValueError, OverflowError):
        return None


def _objects(told: dict[str, SendTime]) -> dict[str, dict[str, object]]:
    return {name: one._asdict() for name, one in told.items()}


def show(
    segments: dict[str, SendTime], visitors: dict[str, SendTime], sends: float, wish: SendTimeWish, console: Console
) -> None:
    """Print it for people: every segment, and the visitors whose hour is surest better than their segment's."""
    own = {visitor: one for visitor, one in visitors.items() if one.hour != one.usual_hour}
    first = sorted(own, key=lambda visitor: (-own[visitor].sure, visitor))[:SHOWN_MAX]
    titles = ("", "hour", "lift", "90 %", "sure", "segment's", "over it")
    table = Shown(*(Column(title, no_wrap=True) for title in titles), box=None, pad_edge=False)
    rows = [(f"segment {name or '(none)'}", one) for name, one in segments.items()]
    for name, one in [*rows, *((visitor, own[visitor]) for visitor in first)]:
        between = f"{one.low:+.0%} to {one.high:+.0%}"
        usual = f"{one.usual_hour}:00" if one.hour != one.usual_hour else ""
        over = f"{one.over_usual:+.0%}" if usual else ""
        table.add_row(Text(name), f"{one.hour}:00", f"{one.lift:+.0%}", between, f"{one.sure:.1%}", usual, over)
    console.print(table)
    said = f"{len(own):,} of {len(visitors):,} visitors have an hour of their own ({len(first)} shown)"
    console.print(f"{said}; hours in {wish.zone}", highlight=False, soft_wrap=True, markup=False)
    if not sends:
        where = "in the file" if wish.file is not None else "are known yet"
        said = f"no sends {where}: an hour is taken to be worth what comes in it by itself"
        console.print(said, highlight=False, soft_wrap=True)

"""What a recorded file's rows are as requests: one reader a format, found by the file's first line.

A reader yields one `Recorded` a row, or None for a row that it cannot read: that is told, and harms no other row.
"""

import csv
import gzip
import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.core.access_log import read_access_line
from pipeline.errors import SettingsError

SITE = "https://replay.example"
REES46_EVENTS = {"view": "Product Viewed", "cart": "Product Added", "purchase": "Order Completed"}


class Recorded(NamedTuple):
    """One row. time_ms: as recorded. lane: what must stay in order, the visitor. pixel: a query and headers instead."""

    time_ms: int
    lane: str
    message: dict[str, Any]
    headers: dict[str, str] | None = None


Reader = Callable[[IO[str]], Iterator[Recorded | None]]


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="")
    return path.open("rt", encoding="utf-8", errors="replace", newline="")


def read(path: Path, unreadable: Callable[[], None] = lambda: None) -> Iterator[Recorded]:
    """Return the rows of a file. unreadable: called for each line that is skipped since it cannot be read.

    Raises SettingsError where the file is no whole gzip, or no format fits its first line.
    """
    try:
        with _open(path) as stream:
            first = stream.readline()
        for fits, reader in FORMATS:
            if fits(first):
                with _open(path) as stream:
                    for row in reader(stream):
                        if row is None:
                            unreadable()
                        else:
                            yield row
                return
    except (OSError, EOFError, zlib.error) as error:
        raise SettingsError(f"{path}: {error}; expected a readable file, plain or whole gzip") from error
    raise SettingsError(
        f"{path}: its first line {first[:80]!r} fits no known format; expected REES46 or trivago CSV, "
        "or an access log in common or combined format"
    )


def _csv_reader(recorded: Callable[[int, dict[str, str]], Recorded]) -> Reader:
    """Return a reader of CSV files. recorded: a row's number and cells -> what it is; its errors mean a damaged row."""

    def rows(stream: IO[str]) -> Iterator[Recorded | None]:
        lines = csv.DictReader(stream)
        for number in itertools.count():
            try:
                row = next(lines)
                is_whole = None not in row and None not in row.values()  # csv's marks for too many and too few cells
                yield recorded(number, row) if is_whole else None
            except StopIteration:
                return
            except (KeyError, ValueError, OverflowError, csv.Error):
                yield None  # a cell is not what its column holds

    return rows


def _rees46(number: int, row: dict[str, str]) -> Recorded:
    properties: dict[str, Any] = {
        "product_id": row["product_id"],
        "category": row["category_code"],
        "brand": row["brand"],
        "price": row["price"],
        "currency": "USD",
        "session": row["user_session"],
        "url": f"{SITE}/product/{row['product_id']}",
    }
    if row["event_type"] == "purchase":
        properties["revenue"] = row["price"]
    return Recorded(
        _time_ms(row["event_time"].removesuffix(" UTC")),
        row["user_id"],
        _track(f"rees46-{number}", row["user_id"], REES46_EVENTS[row["event_type"]], properties),
    )


def _trivago(number: int, row: dict[str, str]) -> Recorded:
    properties = {
        "product_id": row["reference"] if row["reference"].isdecimal() else "",
        "query": row["reference"] if row["action_type"].startswith("search") else "",
        "session": row["session_id"],
        "city": row["city"],
        "device": row["device"],
    }
    message = _track(f"trivago-{number}", row["user_id"], row["action_type"], properties)
    return Recorded(int(row["timestamp"]) * 1_000, row["user_id"], message)


def _track(message_id: str, visitor: str, event: str, properties: dict[str, Any]) -> dict[str, Any]:
    """Return a Segment track call, its time still to be set."""
    return {
        "type": "track",
        "messageId": message_id,
        "anonymousId": visitor,
        "event": event,
        "properties": {key: value for key, value in properties.items() if value != ""},
    }


def _access_log(stream: IO[str]) -> Iterator[Recorded | None]:
    """A line is a pixel request of the page that was asked for; the visitor is address and user agent."""
    for number, line in enumerate(stream):
        entry = read_access_line(line)
        if entry is None:
            yield None
            continue
        visitor = hashlib.sha256(f"{entry.host} {entry.user_agent}".encode()).hexdigest()[:16]
        query = {"e": "page", "id": f"log-{number}", "u": f"{SITE}{entry.target}", "v": visitor}
        if entry.referrer:
            query["r"] = entry.referrer
        yield Recorded(entry.event_time_ms, visitor, query, {"User-Agent": entry.user_agent or "-"})


def _time_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


FORMATS: tuple[tuple[Callable[[str], bool], Reader], ...] = (
    (lambda first: first.startswith("event_time,event_type,product_id"), _csv_reader(_rees46)),
    (lambda first: first.startswith("user_id,session_id,timestamp,step"), _csv_reader(_trivago)),
    (lambda first: read_access_line(first) is not None, _access_log),
)

"""`herald replay FILE`: a recorded file to the collector, with a progress bar."""

import asyncio
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.edge.clock import now_ms
from pipeline.errors import Retryable, SettingsError
from pipeline.replay.formats import Recorded, read
from pipeline.replay.sender import Sender, Sent, Target, paced
from pipeline.settings import Settings


def shift_of(rows: list[Recorded], pace: float, started_ms: int) -> int:
    """Return by how much to move recorded times, ms: the last row happens when the replay ends, distances stay.

    So nothing lies in the future and no gap between two events changes, whatever the pace.
    """
    first, last = rows[0].time_ms, max(row.time_ms for row in rows)
    takes_ms = int((last - first) / pace) if pace > 0 else 0
    return started_ms + takes_ms - last


@dataclass(frozen=True)
class Wish:
    """What `herald replay` was asked for. pace: 0 = flat out. limit: rows, 0 = all. url: "" = this machine's."""

    file: Path
    pace: float = 0.0
    limit: int = 0
    key: str = "demo"
    url: str = ""


def run(settings: Settings, console: Console, wish: Wish) -> int:
    """Replay a file; print what the collector said."""
    file, pace = wish.file, wish.pace
    if 0 < pace < 1:
        raise SettingsError(
            f"--pace = {pace}: expected 0 (flat out) or at least 1; slower would place events in the future"
        )
    skipped = Counter[str]()
    rows = list(islice(read(file, lambda: skipped.update(["lines"])), wish.limit or None))
    if not rows:
        raise SettingsError(f"{file}: no rows that can be read")
    target = Target(url_of(wish.url, settings), wish.key)
    _need_collector(target.url)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task(file.name, total=len(rows))
        sent = asyncio.run(_send(target, rows, pace, lambda count: bar.advance(task, count)))
    show(sent, console)
    if skipped["lines"]:
        console.print(f"skipped {skipped['lines']:,} lines that could not be read", highlight=False)
    return 0


def url_of(given: str, settings: Settings) -> str:
    """Return the collector's address: the given one, or this machine's. Raises SettingsError where it is none."""
    if not given:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{settings.collector_port}"
    try:
        parts = urlsplit(given)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or parts.query or parts.fragment:
        raise SettingsError(f"--url = {given!r}: expected a collector's address, as in https://collect.example:8443")
    return given.rstrip("/")


def _need_collector(url: str) -> None:
    """Raise Retryable where nobody listens: one that went away is waited for, one that was never there is not."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=10):
            pass
    except OSError as error:
        expected = "start one with `herald up`, or name another with --url"
        raise Retryable(f"no collector answers on {url}: {error}; {expected}") from error


async def _send(target: Target, rows: list[Recorded], pace: float, progress: Callable[[int], None]) -> Sent:
    started_s = asyncio.get_running_loop().time()
    shift_ms = shift_of(rows, pace, now_ms())
    return await Sender(target, progress).send(paced(rows, pace, started_s), shift_ms)


def show(sent: Sent, console: Console) -> None:
    """Print the counts."""
    console.print(f"sent {sent.events:,}  accepted {sent.accepted:,}  sent again {sent.retries:,}", highlight=False)
    for reason, count in sorted(sent.refused.items()):
        console.print(f"refused as {reason}: {count:,}", highlight=False)

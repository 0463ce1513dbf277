"""Runs the demo: start, replay, drain, sum up; then serve until Ctrl-C, or end with the books' verdict."""

import asyncio
import shutil
import threading
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipeline import status as books
from pipeline import up
from pipeline.demo.ads import AdReplay, AdRow, Earned, read_log
from pipeline.demo.campaigns import Visitors, campaigns, visits_expected
from pipeline.demo.probe import Prober
from pipeline.demo.summary import Result, show, verdict
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import now_ms
from pipeline.errors import EmbeddedError
from pipeline.experiments import from_warehouse
from pipeline.replay.formats import Recorded, read
from pipeline.replay.sender import Sender, Sent, Target, paced
from pipeline.replay.service import shift_of
from pipeline.settings import Settings
from schemas.experiment import Experiment

CLICKSTREAM = "rees46-2019-Oct-first-17434.csv.gz"
AD_LOG = "open-bandit-random-men.csv.gz"
KEY = "demo"
REPEAT_SHARE = 0.05
DRAIN_S = 120.0
MARK = ".herald-demo"


def run(settings: Settings, console: Console, exit_after: bool, rows_max: int | None = None) -> int:
    """Run the demo; exit code 0 only where the books balance. rows_max: of each file, None for all."""
    up.check_ports(settings)  # first: the folder that is emptied may be that of a demo that runs
    up.make_folder(settings)
    settings = settings.model_copy(update={"data_dir": _fresh(settings.data_dir / "demo")})
    stop = threading.Event()
    started_s = time.monotonic()
    supervisor = up.start_until_asked(settings, console, stop)
    if supervisor is None:
        return up.INTERRUPTED
    try:
        console.print(f"started in {time.monotonic() - started_s:.0f} s", highlight=False)
        result = asyncio.run(_unless(stop, _replay(settings, console, stop, rows_max)))
        if result is None:
            return up.INTERRUPTED
        show(result, up.addresses(settings), console)
        if not exit_after:
            console.print("serving until Ctrl-C")
            stop.wait()
        return 0 if result.status.is_balanced and result.agrees else 1
    finally:
        supervisor.stop()


def _fresh(folder: Path) -> Path:
    """Empty the demo's own folder, so that each run starts from nothing; never one that the demo did not make."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise EmbeddedError(f"{folder} is not empty and not the demo's own; choose another folder with --data")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    return folder


async def _unless(stop: threading.Event, replay: Coroutine[None, None, Result]) -> Result | None:
    """Return what the replay returns; None, with the replay given up, where the user asks to stop first."""
    task = asyncio.create_task(replay)
    while not task.done():
        await asyncio.wait({task}, timeout=0.2)
        if stop.is_set():
            task.cancel()
            await asyncio.wait({task})
            return None
    return task.result()


async def _replay(settings: Settings, console: Console, stop: threading.Event, rows_max: int | None) -> Result:
    collector = f"http://127.0.0.1:{settings.collector_port}"
    delivery = f"http://127.0.0.1:{settings.delivery_port}"
    clicks, ads = await asyncio.to_thread(_load, rows_max)
    began_s = time.monotonic()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars, Warehouse.from_url(settings.warehouse_url) as warehouse:
        stream_bar = bars.add_task("clickstream (REES46)", total=len(clicks))
        ads_bar = bars.add_task("ad decisions (Open Bandit)", total=len(ads))
        target = Target(collector, KEY, repeat_share=REPEAT_SHARE)
        sender = Sender(target, lambda count: bars.advance(stream_bar, count))
        ad_replay = AdReplay(delivery, ads, lambda count: bars.advance(ads_bar, count))
        prober = Prober(collector, delivery, warehouse, KEY)
        done = asyncio.Event()
        probing = asyncio.create_task(prober.run(done))
        sent, earned = await _both(sender, clicks, ad_replay)
        done.set()
        latencies = await probing
        visits_bar = bars.add_task("campaigns (simulated visitors)", total=visits_expected())
        campaigned = await Visitors(settings, KEY, console, lambda: bars.advance(visits_bar)).run()
        drain_bar = bars.add_task("waiting for the last row", total=None)
        status = await asyncio.to_thread(books.drained, settings, DRAIN_S, stop.is_set)
        bars.update(drain_bar, total=1, completed=1)
        counts = await asyncio.to_thread(_counts, warehouse)
        tested = await asyncio.to_thread(_tested, settings)
    return Result(sent, earned, latencies, campaigned, tested, status, counts, time.monotonic() - began_s)


def _tested(settings: Settings) -> str:
    """Return what `herald experiments analyse --from warehouse` says of the demo's test, in one line."""
    experiment = Experiment.model_validate(campaigns(datetime.now(UTC))["experiments"][0])
    return verdict(from_warehouse(settings, experiment))


def _load(rows_max: int | None) -> tuple[list[Recorded], list[AdRow]]:
    folder = files("pipeline") / "data" / "demo"
    with as_file(folder / CLICKSTREAM) as clickstream, as_file(folder / AD_LOG) as ad_log:
        return list(read(clickstream))[:rows_max], read_log(ad_log)[:rows_max]


async def _both(sender: Sender, clicks: list[Recorded], ads: AdReplay) -> tuple[Sent, Earned]:
    started_s = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as tasks:
        stream = tasks.create_task(sender.send(paced(clicks, 0, started_s), shift_of(clicks, 0, now_ms())))
        decisions = tasks.create_task(ads.run())
    return stream.result(), decisions.result()


def _counts(warehouse: Warehouse) -> dict[str, int]:
    asked = {
        "events": "SELECT count() FROM events FINAL",
        "visitors": "SELECT uniqExact(visitor) FROM events WHERE visitor != ''",
        "sessions": "SELECT count() FROM sessions FINAL",
        "decisions": "SELECT count() FROM decisions FINAL",
        "joined": "SELECT countIf(toUnixTimestamp64Milli(impressed) > 0) FROM outcomes FINAL",
        "rewarded": "SELECT countIf(reward_micros > 0) FROM outcomes FINAL",
        "session_events": "SELECT sum(events) FROM sessions FINAL",
        "visitor_events": "SELECT count() FROM events FINAL WHERE visitor != ''",
    }
    return {name: int(str(warehouse.execute(sql)[0][0])) for name, sql in asked.items()}

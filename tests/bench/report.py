"""Prints what was measured: ratios first, since they are what another machine will find too."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from pipeline.demo.probe import Latencies, quantile
from tests.bench.decisions import ACTIONS, Decisions
from tests.bench.end_to_end import EndToEnd
from tests.bench.floor import Floor
from tests.bench.kafka import STAGES, ThroughKafka
from tests.bench.memory import Memory
from tests.bench.plan import PARTS, Found
from tests.bench.processes import cores
from tests.bench.record_per_event import Compared

PACKAGES = ("faust-streaming", "aiokafka", "kafka-python", "msgspec", "pydantic", "river", "granian", "chdb", "herald")


def show(found: Found, console: Console, size: str) -> None:
    """Print everything that was measured."""
    _machine(console, size, sum(found.took_s.values()))
    _ratios(found, console)
    if found.floor:
        _floor(found.floor, console)
    if found.kafka:
        _kafka(found.kafka, console)
    if found.record:
        _record(found.record, console)
    if found.whole:
        _whole(found.whole, console)
    if found.decisions:
        _decisions(found.decisions, console)
    if found.latency:
        _latency(found.latency, console)
    if found.memory:
        _memory(found.memory, console)


def ratios(found: Found) -> list[tuple[str, float]]:
    """Return what can be said without the machine: (what against what, how many times)."""
    lines: list[tuple[str, float]] = []
    floor, kafka, record, whole = found.floor, found.kafka, found.record, found.whole
    if record:
        lines.append(("Faust with an event a record / with a block a record, same functions: CPU", record.ratio))
        rate = record.block.events_per_s / record.record.events_per_s
        lines.append(("the same in events/s, the other way round", rate))
    staged = sum(kafka.cpu_us[stage] for stage in STAGES) if kafka else 0.0
    if record and kafka:
        lines.append(
            ("our stages' job on Faust with an event a record / on our stages: CPU", record.stages.cpu_us / staged)
        )
        rate = kafka.events_per_s / record.stages.events_per_s
        lines.append(("the same in events/s, the other way round (aim: 15)", rate))
    if record and whole:
        rate = whole.events_per_s / record.stages.events_per_s
        lines.append(("the whole, HTTP to row / our stages' job with an event a record: events/s", rate))
    if floor and kafka:
        lines.append(("clean, sessionise, profile through Kafka / in a bare loop: CPU", staged / _staged(floor)))
    if floor and whole:
        lines.append(
            ("all processes of the whole / all pure functions: CPU", sum(whole.cpu_us.values()) / total_us(floor))
        )
    if found.decisions:
        lines.append(("decisions: p99 / p50", found.decisions.p99_ms / found.decisions.p50_ms))
    return lines


def total_us(floor: Floor) -> float:
    """Return the CPU per event of all steps that are not parts of another one; learn is per outcome and stays out."""
    return sum(step.us for step in floor.steps if not step.of and not step.name.startswith("learn"))


def _staged(floor: Floor) -> float:
    return sum(step.us for step in floor.steps if step.name.split(":")[0] in STAGES)


def _machine(console: Console, size: str, took_s: float) -> None:
    memory_gib = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    console.print(
        f"[bold]Herald benchmark[/] ({size}), {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {took_s:.0f} s; "
        f"{_processor()}, {cores()} cores, {memory_gib:.0f} GiB; {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; load {load:.1f} at the end",
        highlight=False,
    )
    console.print(", ".join(f"{name} {version(name)}" for name in PACKAGES), style="dim", highlight=False)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _print(letter: str, table: Table, console: Console) -> None:
    """Print a table under its title: rich would fold a title that is wider than its table."""
    title = f"{letter}. {PARTS[letter][0]}" if letter in PARTS else letter
    console.print(f"\n[bold]{title}[/]", table, sep="\n", highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _ratios(found: Found, console: Console) -> None:
    lines = ratios(found)
    if not lines:
        return
    table = _table("what", "times")
    for what, times in lines:
        table.add_row(what, f"{times:.1f}")
    _print("ratios", table, console)


def _floor(floor: Floor, console: Console) -> None:
    table = _table("step", "CPU us/event")
    for step in sorted(floor.steps, key=lambda step: _place(step.name)):
        table.add_row(step.name, f"{step.us:.2f}", style="dim" if step.of else "")
    table.add_row("all but learn", f"{total_us(floor):.2f}", style="bold")
    _print("a", table, console)
    console.print(
        f"{floor.events:,} events, median of {floor.rounds} rounds; learn: per outcome; dim: what the fold is made of",
        style="dim",
        highlight=False,
    )


_ORDER = ("collector", "clean: decode", "clean: fold", " ", "clean: encode", "clean", "sessionise", "profile", "learn")


def _place(name: str) -> int:
    return next((place for place, start in enumerate(_ORDER) if name.startswith(start)), len(_ORDER))


def _kafka(kafka: ThroughKafka, console: Console) -> None:
    table = _table("process", "CPU us/event")
    for name, us in kafka.cpu_us.items():
        table.add_row(name, f"{us:.1f}")
    table.add_row("all", f"{sum(kafka.cpu_us.values()):.1f}", style="bold")
    _print("b", table, console)
    console.print(f"{kafka.events:,} events, {kafka.events_per_s:,.0f} events/s through all three", highlight=False)


def _record(record: Compared, console: Console) -> None:
    table = _table("shape", "CPU us/event", "events/s", "events", "visitors", "sessions")
    for name, one in (
        ("small job, an event a record, Tables", record.record),
        ("small job, 500 events a record, dicts", record.block),
        ("our stages' job, an event a record, Tables", record.stages),
    ):
        numbers = (f"{one.events:,}", f"{one.visitors:,}", f"{one.sessions:,}")
        table.add_row(name, f"{one.cpu_us:.1f}", f"{one.events_per_s:,.0f}", *numbers)
    _print("c", table, console)


def _whole(whole: EndToEnd, console: Console) -> None:
    wall_us = 1e6 / whole.events_per_s
    table = _table("process", "CPU us/event", "of one core")
    for name, us in sorted(whole.cpu_us.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{us:.1f}", f"{us / wall_us:.0%}")
    table.add_row("all", f"{sum(whole.cpu_us.values()):.1f}", f"{whole.busy * cores():.0%}", style="bold")
    _print("d", table, console)
    console.print(
        f"{whole.events:,} events sent, {whole.accepted:,} accepted, {whole.stored:,} stored: "
        f"{whole.events_per_s:,.0f} events/s until queryable ({whole.accepted_per_s:,.0f}/s until durable)",
        highlight=False,
    )
    console.print(f"held back by {whole.held_back_by}", highlight=False)


def _decisions(found: Decisions, console: Console) -> None:
    table = _table("", "p50 ms", "p99 ms", "p99.9 ms", "CPU us each")
    numbers = (found.p50_ms, found.p99_ms, found.p999_ms)
    table.add_row(f"{ACTIONS} actions", *(f"{value:.1f}" for value in numbers), f"{found.cpu_us:,.0f}")
    _print("e", table, console)
    console.print(
        f"{found.answered:,} of {found.asked:,} answered, {found.degraded:,} degraded, "
        f"beside {found.ingest_per_s:,.0f} events/s; CPU includes following the log",
        highlight=False,
    )


def _latency(found: Latencies, console: Console) -> None:
    table = _table("from sent by HTTP to", "p50 ms", "p99 ms", "probes")
    for name, values in (("profile usable", found.usable_ms), ("row queryable", found.queryable_ms)):
        table.add_row(name, f"{quantile(values, 0.5):.0f}", f"{quantile(values, 0.99):.0f}", f"{len(values)}")
    _print("f", table, console)


def _memory(found: Memory, console: Console) -> None:
    table = _table("process", "start MiB", "end MiB", "peak MiB", "bytes a visitor")
    for name, after in found.after.items():
        before = found.before[name]
        each = (after.now_mib - before.now_mib) * 2**20 / found.visitors
        cells = (before.now_mib, after.now_mib, after.peak_mib, each)
        table.add_row(name, *(f"{value:,.0f}" for value in cells))
    now, peak = (sum(getattr(one, kind) for one in found.after.values()) for kind in ("now_mib", "peak_mib"))
    table.add_row("all", "", f"{now:,.0f}", f"{peak:,.0f}", "", style="bold")
    _print("g", table, console)
    console.print(f"{found.visitors:,} visitors sent, {found.stored_visitors:,} in the warehouse", highlight=False)

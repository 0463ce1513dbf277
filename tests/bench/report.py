"""Prints what was measured: ratios first, since they are what another machine will find too."""

import os
import platform
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import psutil
from rich.console import Console

from tests.bench import tables
from tests.bench.floor import Floor
from tests.bench.plan import PARTS, Found
from tests.bench.processes import cores

PACKAGES = (
    "faust-streaming",
    "aiokafka",
    "kafka-python",
    "msgspec",
    "pydantic",
    "river",
    "httptools",
    "chdb",
    "herald",
)


def show(found: Found, console: Console, size: str) -> None:
    """Print everything that was measured."""
    about = machine(found, size)
    took = ", ".join(f"{letter} {seconds:.0f} s" for letter, seconds in found.took_s.items())
    console.print(f"[bold]Herald benchmark[/] ({size}), {about['at']}; {took}", highlight=False)
    console.print(
        f"{about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB; {about['system']}, Python "
        f"{about['python']}; load {about['load_1_min']} at the end, of which the benchmark is a part",
        highlight=False,
    )
    console.print(", ".join(f"{name} {number}" for name, number in about["packages"].items()), style="dim")
    if found.yardstick_us:
        least = min(min(pair) for pair in found.yardstick_us.values())
        times = (f"{a} {x / least:.2f}, {y / least:.2f}" for a, (x, y) in found.yardstick_us.items())
        console.print(f"yardstick, before and after each part, in the least one: {'; '.join(times)}", highlight=False)
    shown = ratios(found)
    if shown:
        tables.ratios(shown, console)
    for show_part in tables.PARTS:
        show_part(found, console)
    for letter, reason in found.failed.items():
        console.print(f"\n[bold red]{letter}. {PARTS[letter][0]}: failed[/]\n{reason}", highlight=False)


def as_json(found: Found, size: str) -> bytes:
    """Return all figures, the ratios and the machine as JSON."""
    parts = {name: _plain(value) for name, value in vars(found).items()}
    made = {"machine": machine(found, size), "ratios": dict(ratios(found)), **parts}
    return msgspec.json.format(msgspec.json.encode(made), indent=1)


def _plain(value: Any) -> Any:
    """Dataclasses as dicts; asdict alone would stop at the Structs inside of them, which msgspec knows."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def ratios(found: Found) -> list[tuple[str, float]]:
    """Return what can be said without the machine: (what against what, how many times)."""
    lines: list[tuple[str, float]] = []
    floor, kafka, engines, whole = found.floor, found.kafka, found.engines, found.whole
    if floor and kafka:
        lines.append(
            ("b / a: clean, sessionise, profile, each alone: CPU (aim: at most 1.4)", kafka.cpu_us / _staged(floor))
        )
        together = sum(one.cpu_us for one in kafka.together.values())
        lines.append(("b / a: all three at once: CPU", together / _staged(floor)))
    if engines:
        for name, one in engines.engines.items():
            aim = {"faust": " (aim: at least 15)", "quix": " (aim: 2)", "bytewax": " (aim: 2)"}.get(name, "")
            lines.append((f"c: {tables.ENGINES[name]} / our stages: CPU{aim}", one.account.cpu_us / engines.cpu_us))
    if found.collector:
        ways = found.collector.ways
        lines.append(("d: a single call / an event in a batch: CPU", ways["single"].cpu_ms / ways["batch"].cpu_ms))
    if floor and whole:
        lines.append(("e: all processes / all pure functions: CPU", sum(whole.cpu_us.values()) / total_us(floor)))
    if engines and whole and "faust" in engines.engines:
        us = sum(whole.cpu_us.values()) - whole.cpu_us.get("clients", 0.0)
        lines.append(("Faust with an event a record, three steps / e, the whole of Herald: CPU",
                      engines.engines["faust"].account.cpu_us / us))  # fmt: skip
    if found.decisions:
        lines.append(("f: p99 / p50", found.decisions.p99_ms / found.decisions.p50_ms))
    return lines + _grown(found)


def _grown(found: Found) -> list[tuple[str, float]]:
    """The largest size of each kind against the smallest."""
    lines = []
    for what in dict.fromkeys(one.what for one in found.growth):
        sizes = [one for one in found.growth if one.what == what]
        if len(sizes) > 1:
            name = f"i: {what}, {sizes[-1].size:,} / {sizes[0].size:,}: CPU"
            lines.append((name, sizes[-1].all_us / sizes[0].all_us))
    return lines


def total_us(floor: Floor) -> float:
    """Return the CPU per event of all steps that are not parts of another one; learn is per outcome and stays out."""
    return sum(step.us for step in floor.steps if not step.of and not step.name.startswith("learn"))


def _staged(floor: Floor) -> float:
    return sum(step.us for step in floor.steps if step.name.split(":")[0] in ("clean", "sessionise", "profile"))


def machine(found: Found, size: str) -> dict[str, Any]:
    """Return when and on what it was measured."""
    return {
        "size": size,
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1_min": round(os.getloadavg()[0], 1),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

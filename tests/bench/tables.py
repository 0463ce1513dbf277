"""One table for each part of the benchmark."""

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.table import Table

from pipeline.demo.probe import quantile
from tests.bench.collector import Taken
from tests.bench.decisions import ACTIONS
from tests.bench.engines import ENGINES as ENGINES
from tests.bench.kafka import Measured
from tests.bench.memory import Memory
from tests.bench.plan import PARTS as LETTERS
from tests.bench.plan import Found
from tests.bench.processes import cores

Rows = Iterable[Sequence[str]]


def ratios(lines: list[tuple[str, float]], console: Console) -> None:
    """Print the ratios."""
    _print("ratios", ("what", "times"), ((what, f"{times:.2f}") for what, times in lines), "", console)


def _print(letter: str, columns: Sequence[str], rows: Rows, note: str, console: Console) -> None:
    """Print a table under its title: rich would fold a title that is wider than its table."""
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        style = "bold" if row[0].startswith("all") else "dim" if row[0].startswith(" ") else ""
        table.add_row(*row, style=style)
    title = f"{letter}. {LETTERS[letter][0]}" if letter in LETTERS else letter
    console.print(f"\n[bold]{title}[/]", table, sep="\n", highlight=False)
    if note:
        console.print(note, style="dim", highlight=False)


def _floor(found: Found, console: Console) -> None:
    from tests.bench.report import total_us

    if found.floor is None:
        return
    floor = found.floor
    rows = [(step.name, f"{step.us:.2f}") for step in sorted(floor.steps, key=lambda step: _place(step.name))]
    note = (
        f"{floor.events:,} events, median of {floor.rounds} rounds; learn: per outcome; dim: what the fold is made of"
    )
    _print("a", ("step", "CPU us/event"), [*rows, ("all but learn", f"{total_us(floor):.2f}")], note, console)


_ORDER = ("collector", "clean: decode", "clean: fold", " ", "clean: encode", "clean", "sessionise", "profile", "learn")


def _place(name: str) -> int:
    return next((place for place, start in enumerate(_ORDER) if name.startswith(start)), len(_ORDER))


def _kafka(found: Found, console: Console) -> None:
    if found.kafka is None:
        return
    kafka = found.kafka
    columns = ("stage", "alone: CPU us/event", "broker's", "events/s", "peak MiB", "at once: CPU us/event")
    rows = [(*_stage(stage, one), f"{kafka.together[stage].cpu_us:.1f}") for stage, one in kafka.alone.items()]
    at_once = f"{sum(one.cpu_us for one in kafka.together.values()):.1f}"
    broker = f"{sum(one.broker_us for one in kafka.alone.values()):.1f}"
    rows.append(("all", f"{kafka.cpu_us:.1f}", broker, "", "", at_once))
    note = f"{kafka.events:,} events; at once {kafka.together_per_s:,.0f} events/s through all three"
    _print("b", columns, rows, note, console)


def _stage(name: str, one: Measured) -> tuple[str, str, str, str, str]:
    return name, f"{one.cpu_us:.1f}", f"{one.broker_us:.1f}", f"{one.events_per_s:,.0f}", f"{one.peak_mib:,.0f}"


def _engines(found: Found, console: Console) -> None:
    if found.engines is None:
        return
    compared = found.engines
    rate = 1 / sum(1 / max(1e-9, one.events_per_s) for one in compared.stages.values())
    peak = sum(one.peak_mib for one in compared.stages.values())
    ours = compared.outputs
    rows = [_engine("our three stages, each alone", compared.cpu_us, rate, peak, ours, "")]
    for name, one in compared.engines.items():
        equal = "equal" if compared.is_equal(name) else "NOT EQUAL"
        account = one.account
        rows.append(_engine(ENGINES[name], account.cpu_us, account.per_s, account.peak_mib, one.outputs, equal))
    columns = ("engine", "CPU us/event", "events/s", "peak MiB", "events", "sessions", "profiles", "rows")
    missing = f"; not installed: {', '.join(compared.missing)}" if compared.missing else ""
    note = f"{compared.records:,} records, one in 50 comes twice; events/s of ours: one stage after the other{missing}"
    _print("c", columns, rows, note, console)


def _engine(name: str, cpu_us: float, per_s: float, peak_mib: float, rows: tuple[int, int, int, str], equal: str
            ) -> tuple[str, ...]:  # fmt: skip
    numbers = (f"{number:,}" for number in rows[:3])
    return (name, f"{cpu_us:.1f}", f"{per_s:,.0f}", f"{peak_mib:,.0f}", *numbers, equal)


def _collector(found: Found, console: Console) -> None:
    if found.collector is None:
        return
    ways = found.collector.ways
    columns = ("flat out", "events", "durable", "events/s", "CPU ms/1,000", "broker's", "durable/CPU s", "and broker's",
               "p50 ms", "p99 ms")  # fmt: skip
    note = f"256 connections (batches: 32), a closed loop; peak {found.collector.peak_mib:,.0f} MiB"
    _print("d", columns, [_flat_out(way, one) for way, one in ways.items()], note, console)
    paced = [(way, *(f"{ms:.1f}" for ms in (one.p50_ms, one.p99_ms, one.late_p99_ms))) for way, one in ways.items()]
    heads = ("at an even rate", "p50 ms", "p99 ms", "the client late by, p99 ms")
    note = "1,000 requests/s (batches: 50), from when each was due until its answer"
    _print("d. latency", heads, paced, note, console)


def _flat_out(way: str, one: Taken) -> tuple[str, ...]:
    counts = (one.events, one.durable, one.events_per_s)
    spent, rates = (one.cpu_ms, one.broker_ms), (one.per_cpu_s, one.per_cpu_s_with_broker)
    return (
        way,
        *(f"{value:,.0f}" for value in counts),
        *(f"{ms:.1f}" for ms in spent),
        *(f"{rate:,.0f}" for rate in rates),
        *(f"{ms:.1f}" for ms in (one.full_p50_ms, one.full_p99_ms)),
    )


def _whole(found: Found, console: Console) -> None:
    if found.whole is None:
        return
    whole = found.whole
    wall_us = 1e6 / whole.events_per_s
    rows = [
        (name, f"{us:.1f}", f"{us / wall_us:.0%}", f"{whole.peak_mib.get(name, 0):,.0f}")
        for name, us in sorted(whole.cpu_us.items(), key=lambda item: -item[1])
    ]
    total = f"{sum(whole.cpu_us.values()):.1f}"
    rows.append(("all", total, f"{whole.busy * cores():.0%}", f"{sum(whole.peak_mib.values()):,.0f}"))
    note = (
        f"{whole.events:,} events sent, {whole.accepted:,} accepted, {whole.stored:,} stored: "
        f"{whole.events_per_s:,.0f} events/s until queryable ({whole.accepted_per_s:,.0f}/s until durable), "
        f"{whole.block_events:.0f} events a block; held back by {whole.held_back_by}"
    )
    _print("e", ("process", "CPU us/event", "of one core", "peak MiB"), rows, note, console)


def _decisions(found: Found, console: Console) -> None:
    one = found.decisions
    if one is None:
        return
    columns = (f"{ACTIONS} actions", "p50 ms", "p99 ms", "p99.9 ms")
    seen, own = (one.p50_ms, one.p99_ms, one.p999_ms), (one.own_p50_ms, one.own_p99_ms, one.own_p999_ms)
    rows = [
        ("from when due, by the client", *(f"{ms:.2f}" for ms in seen)),
        ("inside delivery, its histogram", *(f"{ms:.2f}" for ms in own)),
    ]
    note = (
        f"{one.answered:,} of {one.asked:,} answered at {one.per_s:,.0f}/s, {one.degraded_share:.0%} degraded, beside "
        f"{one.ingest_per_s:,.0f} events/s; delivery {one.cpu_us:,.0f} us CPU each, following the log included; the "
        f"client {one.client_cpu_us:,.0f} us each, itself late by {one.late_p99_ms:.2f} ms (p99)"
    )
    _print("f", columns, rows, note, console)


def _latency(found: Found, console: Console) -> None:
    if found.latency is None:
        return
    rows = [
        (name, *(f"{quantile(values, q):.0f}" for q in (0.5, 0.99)), f"{len(values)}")
        for name, values in (
            ("its profile answers a decision", found.latency.usable_ms),
            ("its row is found", found.latency.queryable_ms),
        )
    ]
    note = f"{found.latency.sent} probes sent, {found.latency.not_seen} not seen in time"
    _print("g", ("from an event's sending until", "p50 ms", "p99 ms", "probes"), rows, note, console)


def _memory(found: Found, console: Console) -> None:
    for one in found.memory:
        rows = [_process(one, name) for name in one.after]
        now, peak = (sum(getattr(use, kind) for use in one.after.values()) for kind in ("now_mib", "peak_mib"))
        rows.append(("all", "", f"{now:,.0f}", f"{peak:,.0f}", ""))
        note = f"{one.visitors:,} visitors sent, {one.stored_visitors:,} in the warehouse"
        _print("h", ("process", "start MiB", "end MiB", "peak MiB", "bytes a visitor"), rows, note, console)


def _process(found: Memory, name: str) -> tuple[str, ...]:
    before, after = found.before[name], found.after[name]
    each = (after.now_mib - before.now_mib) * 2**20 / found.visitors
    return (name, *(f"{value:,.0f}" for value in (before.now_mib, after.now_mib, after.peak_mib, each)))


def _growth(found: Found, console: Console) -> None:
    if not found.growth:
        return
    stages = list(found.growth[0].cpu_us)
    rows = [
        (f"{one.size:,} {one.what}", *(f"{one.cpu_us[stage]:.1f}" for stage in stages), f"{one.all_us:.1f}")
        for one in found.growth
    ]
    note = "CPU us/event; visitors and history in the bare loop, partitions through Kafka, each stage alone"
    _print("i", ("size", *stages, "together"), rows, note, console)


def _idle(found: Found, console: Console) -> None:
    if found.idle is None:
        return
    rows = [(name, f"{share:.1%}") for name, share in sorted(found.idle.shares.items(), key=lambda item: -item[1])]
    rows.append(("all (aim: under 5 %)", f"{found.idle.all:.1%}"))
    _print("j", ("process", "of one core"), rows, f"over {found.idle.seconds:.0f} s", console)


PARTS: tuple[Callable[[Found, Console], None], ...] = (
    _floor, _kafka, _engines, _collector, _whole, _decisions, _latency, _memory, _growth, _idle,
)  # fmt: skip

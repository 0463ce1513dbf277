"""The demo's last screen: what was sent, what became of it, how fast, and where to look."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from pipeline.core.books import total
from pipeline.demo.ads import Earned
from pipeline.demo.campaigns import BUDGET_IMPRESSIONS, BUDGETED, FLIGHT_S, Campaigned
from pipeline.demo.probe import Latencies, quantile
from pipeline.experiments import Answer
from pipeline.money import MICROS, LineMoney
from pipeline.replay.sender import Sent
from pipeline.status import Status


@dataclass(frozen=True)
class Result:
    """Everything that the summary says. tested: of the A/B test. counts: rows in the warehouse by kind."""

    sent: Sent
    earned: Earned
    latencies: Latencies
    campaigned: Campaigned
    tested: str
    status: Status
    counts: dict[str, int]
    seconds: float

    @property
    def events_given(self) -> int:
        """Events that were handed in over HTTP, repeats included; each has one decided fate."""
        earned = self.earned
        replayed = self.sent.events + self.sent.repeated
        replayed += self.campaigned.events
        return replayed + self.latencies.sent + earned.decisions + 2 * earned.rows + earned.clicks

    @property
    def accepted(self) -> int:
        """Of them, those that were answered with 200 (a demo request is repeated until it is, or the demo fails)."""
        return self.events_given - (self.sent.events - self.sent.accepted)

    @property
    def agrees(self) -> bool:
        """True where the log has what was sent, the warehouse what the books say, and sessions hold every event."""
        books, counts = total(self.status.books), self.counts
        return (
            self.sent.accepted == self.sent.events
            and books.received >= self.events_given
            and counts["events"] == books.stored
            and counts["session_events"] == counts["visitor_events"]
            and self.campaigned.paid <= BUDGET_IMPRESSIONS
        )


def show(result: Result, addresses: list[tuple[str, str]], console: Console) -> None:
    """Print the summary on one screen."""
    books, counts, sent = total(result.status.books), result.counts, result.sent
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    rows = [
        (
            "events sent",
            f"{result.events_given:,}",
            f"{sent.repeated:,} of them twice, as clients do; {sent.retries} retries",
        ),
        ("accepted", f"{result.accepted:,}", "answered with 200"),
        ("received", f"{books.received:,}", "in the log, after the broker's word"),
        ("stored", f"{books.stored:,}", "rows in the warehouse, each once"),
        ("refused", f"{books.refused:,}", _reasons(result.status.refused_by_reason)),
        ("duplicates", f"{books.duplicate:,}", "found by event id"),
        ("in flight", f"{books.in_flight:,}", ""),
        ("visitors", f"{counts['visitors']:,}", ""),
        ("sessions", f"{counts['sessions']:,}", f"holding {counts['session_events']:,} events"),
        (
            "decisions",
            f"{counts['decisions']:,}",
            f"{result.earned.decisions:,} ours, {result.earned.degraded:,} degraded",
        ),
        ("outcomes joined", f"{counts['joined']:,}", f"{counts['rewarded']:,} with a reward"),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    _show_learning(result.earned, console)
    _show_campaigns(result, console)
    _show_latencies(result, console)
    verdict = "the books balance" if result.status.is_balanced and result.agrees else "the books do NOT balance"
    style = "green" if result.status.is_balanced and result.agrees else "red"
    console.print(f"{verdict}: received = stored + refused + duplicate + in flight, in every partition", style=style)
    for what, where in addresses:
        console.print(f"  {what:<20}{where}", markup=False, highlight=False, soft_wrap=True)


def _reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))


def _show_learning(earned: Earned, console: Console) -> None:
    rate, low, high = earned.ours()
    uniform = earned.uniform_rate()
    console.print(
        f"\n[bold]bandit[/] {rate:.2%} clicks per decision, estimated on the log (95 %: {low:.2%} to {high:.2%}); "
        f"[bold]uniform[/] {uniform:.2%} ({earned.clicks} clicks in {earned.rows:,} rows)",
        highlight=False,
    )
    if low < uniform < high:
        console.print("  no difference can be shown: so few clicks cannot rank 34 items", style="dim")


def verdict(answer: Answer) -> str:
    """Return what came of a test of two variants by one metric, in one line."""
    if answer.analysis.refusals:
        return answer.analysis.refusals[0].text
    effect = answer.analysis.effects[0]
    low, high = effect.found.interval.low, effect.found.interval.high
    return (
        f"{effect.variant} {effect.mean:.1%} of {effect.visitors} visitors clicked, "
        f"{answer.experiment.baseline} {effect.control_mean:.1%} of {effect.control_visitors}: "
        f"{effect.found.difference:+.1%} ({low:+.1%} to {high:+.1%}), {effect.verdict.value.replace('_', ' ')}"
    )


def _show_campaigns(result: Result, console: Console) -> None:
    found, money = result.campaigned, result.status.money
    share = found.held_out / found.visits if found.visits else 0.0
    by = [max((paid for at, paid in found.spent if at <= share), default=0) for share in (0.25, 0.5, 0.75)]
    sold = (
        f"{found.paid} of {BUDGET_IMPRESSIONS} impressions sold in {FLIGHT_S:.0f} s; after a quarter, a half and three "
        f"quarters of the time {by[0]}, {by[1]} and {by[2]}"
    )
    lines = [
        ("campaigns", f"shown {found.published_ms:.0f} ms after their import; {found.visits:,} simulated visitors"),
        ("A/B test of the bandit", result.tested),
        ("hold-out", f"{share:.1%} of the visitors saw no campaign (5 % by default)"),
        ("budget", sold),
        ("stock", f"not shown any more {found.closed_ms:.0f} ms after its goods had run out"),
        *(("books of money", _booked(row)) for row in money if row.line_id == BUDGETED),
    ]
    console.print()
    for what, said in lines:
        console.print(f"[bold]{what:<24}[/]{said}", highlight=False, soft_wrap=True)


def _booked(row: LineMoney) -> str:
    reserved, settled, released, still_open = (
        one.micros / MICROS for one in (row.reserved, row.settled, row.released, row.open)
    )
    said = "they balance" if row.is_balanced else "they do NOT balance"
    return f"{reserved:.3f} reserved = {settled:.3f} settled + {released:.3f} released + {still_open:.3f} open: {said}"


def _show_latencies(result: Result, console: Console) -> None:
    seen, decided = result.latencies, result.earned.latencies_ms
    lines = [
        ("event -> profile usable in a decision", seen.usable_ms),
        ("event -> row queryable", seen.queryable_ms),
        ("decision (HTTP, under this load)", decided),
    ]
    console.print()
    for what, values in lines:
        figures = f"p50 {quantile(values, 0.5):7.1f} ms   p99 {quantile(values, 0.99):7.1f} ms   n {len(values):,}"
        console.print(f"{what:<40}{figures}", highlight=False, soft_wrap=True)
    if seen.not_seen:
        console.print(f"{seen.not_seen} probes were not seen in time", style="red", highlight=False)
    rate = result.events_given / result.seconds
    console.print(
        f"\n{result.seconds:.0f} s for everything, {rate:,.0f} events/s beside the decisions", highlight=False
    )

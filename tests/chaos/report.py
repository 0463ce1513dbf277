"""A run for people."""

from rich.console import Console
from rich.table import Table

from tests.chaos.chaos import Outcome


def show(outcome: Outcome, console: Console) -> None:
    """Print the tables and the verdict."""
    kills = Table("part", "kill -9", title=f"kills, seed {outcome.size.seed}")
    for part, count in sorted(outcome.killed.items()):
        kills.add_row(part, str(count))
    kills.add_row("all", f"{outcome.killed.total()} of {outcome.size.kills}")
    console.print(kills)
    console.print(_traffic(outcome))
    equal = Table("what", "rows", "with kills", "clean run", "", title="sha256 over canonically sorted rows")
    for pair in outcome.pairs:
        word = "equal" if pair.is_equal else "DIFFERS"
        equal.add_row(pair.name, f"{pair.rows:,}", pair.killed[:16], pair.clean[:16], word)
    console.print(equal)
    listed = Table("what", "expected", "found", "", title="the senders' own lists")
    for check in outcome.checks:
        listed.add_row(
            check.name, f"{check.expected:,}", f"{check.found:,}", "holds" if check.holds else "DOES NOT HOLD"
        )
    console.print(listed)
    for pair in outcome.pairs:
        for text in pair.differences:
            console.print(f"{pair.name}: {text}", markup=False, highlight=False, style="red")
    for check in outcome.checks:
        if not check.holds:
            console.print(f"{check.name}: {check.wrong}", markup=False, highlight=False, style="red")
    took = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in outcome.took_s.items())
    console.print(f"took: {took}", highlight=False)
    console.print("everything is equal" if outcome.is_exact else "NOT everything is equal", highlight=False)


def _traffic(outcome: Outcome) -> Table:
    sent, books = outcome.sent, outcome.books
    table = Table("traffic", "", title="events")
    rows = {
        "sent": outcome.size.events,
        "acknowledged": sent.acknowledged,
        "of these by the pixel": sent.pixels,
        "sent again on purpose": sent.repeated,
        "requests sent again": sent.retries,
        "decisions asked": outcome.asked,
        "decisions answered": outcome.answered,
        "received (in the log)": books.received,
        "stored": books.stored,
        "refused": books.refused,
        "duplicates": books.duplicate,
        "unaccounted for": books.missing,
        "most late, ms": sent.late_ms,
        "starts of the supervisor": outcome.starts,
    }
    for name, value in rows.items():
        table.add_row(name, f"{value:,}")
    for problem, count in sorted(sent.problems.items()):
        table.add_row(f"… for {problem}", f"{count:,}")
    return table

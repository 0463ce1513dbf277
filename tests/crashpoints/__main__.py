"""All crash points: `python -m tests.crashpoints`. Prints a table; exit code 0 where ours are right at every point and
the control is wrong at one at least."""

import logging
import random
import signal
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.crashpoints import ptrace
from tests.crashpoints.plan import CONTROL, SCENARIOS, Stand
from tests.crashpoints.points import Found, Point, enumerated, sampled


def run(names: list[str], sample: int, seed: int, verbose: bool, console: Console) -> list[tuple[str, Found]]:
    """Run these scenarios, each to its end. sample: so many points of each, by the seed; 0 = all."""
    found: list[tuple[str, Found]] = []
    with tempfile.TemporaryDirectory(prefix="crashpoints-") as folder, Stand(Path(folder)) as stand:
        for name in names:
            with stand.scenario(name) as scenario, console.status(name) as status:

                def tell(point: Point, name: str = name) -> None:
                    at = f"{name}: killed at {point.at}, before {point.struck}"
                    status.update(at)
                    if point.wrong or verbose:
                        console.print(f"{at}: {point.wrong or 'right'}", markup=False, highlight=False)

                if sample:
                    found.append((name, sampled(scenario, sample, random.Random(seed), tell)))
                else:
                    found.append((name, enumerated(scenario, tell, SCENARIOS[name].step)))
            done = found[-1][1]
            text = f"{name}: {done.killed} points, {len(done.wrong)} wrong, {done.took_s:.0f} s"
            console.print(text, highlight=False)
    return found


def table(found: list[tuple[str, Found]]) -> Table:
    """Return what the command prints."""
    shown = Table("scenario", "what dies", "points", "wrong", "s", title="kill -9 before each system call")
    for name, one in found:
        row = (name, SCENARIOS[name].meaning, str(one.killed), str(len(one.wrong)), f"{one.took_s:.0f}")
        shown.add_row(*row)
    ours = [one for name, one in found if name != CONTROL]
    totals = (sum(one.killed for one in ours), sum(len(one.wrong) for one in ours), sum(one.took_s for one in ours))
    shown.add_section()
    shown.add_row("ours", "all but the control", *(f"{total:.0f}" for total in totals))
    return shown


def is_right(found: list[tuple[str, Found]]) -> bool:
    """True where ours are right at every point, and the control, if it ran, is wrong somewhere."""
    return all(bool(one.wrong) == (name == CONTROL) for name, one in found)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default=",".join(SCENARIOS), show_default=True, help="Which scenarios.")
@click.option("--sample", default=0, help="So many random points of each; 0 = all.", show_default=True)
@click.option("--seed", type=int, default=None, help="Which points a sample takes.")
@click.option("--verbose", is_flag=True, help="A line for each point.")
def main(only: str, sample: int, seed: int | None, verbose: bool) -> None:
    """Kill a process at each system call of one unit of its work, retry, and compare with what should be."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = sorted(set(names) - set(SCENARIOS))
    if unknown or not names:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}: expected some of {', '.join(SCENARIOS)}")
    forbidden = ptrace.why_not()
    if forbidden is not None:
        raise click.ClickException(f"processes cannot be traced here, so no point was run: {forbidden}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: everything that was started is stopped
    logging.disable(logging.CRITICAL)  # clients that lose their servers say so, a thousand times
    seed = random.randrange(2**32) if seed is None else seed
    if sample:
        click.echo(f"seed {seed}")
    found = run(names, sample, seed, verbose, Console(stderr=True))
    Console().print(table(found))
    raise SystemExit(0 if is_right(found) else 1)


if __name__ == "__main__":
    main()

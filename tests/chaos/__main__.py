"""`make chaos`, or `python -m tests.chaos --seed N --kills K --events M`. Exit code 0 only when all is equal.

What happens
1. `herald up` runs as a process of its own, with every setting but sessions' at its default.
2. Clients send M events over HTTP (Segment batches, one in some hundreds by the pixel) and a shop asks for decisions,
   shows, clicks, buys, rewards. What is not acknowledged is sent again under the same ids; one batch in fifty is sent
   twice although it was.
3. K times a process is killed with -9: each part in turn, in random order, after a random number of events and a
   moment more; the broker as a whole or its Java alone; the supervisor in every second round.
4. When nothing is in flight: the log is folded once more, by the same pure functions in one process that nobody kills,
   and every state and every table must have the same sha256. Nothing may differ there, not even a block's checksum:
   with the same log, arrival order is no excuse.
5. What no order of arrival may change is compared with the senders' own lists: ids, refusals, money, sessions and
   profiles by brute force, minutes, impressions, rewards, conversions; and delivery's answers with the clean run.

The seed says what is sent and who is killed after which event. What a kill meets is up to the machine: run a failing
seed again, and again.
"""

import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console

from tests.chaos.chaos import Chaos, Size
from tests.chaos.report import show


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, help="Default: a random one, which is printed.")
@click.option("--kills", default=200, show_default=True)
@click.option("--events", default=5_000_000, show_default=True)
@click.option("--per-s", default=4_000.0, show_default=True, help="Events a second by their own clocks.")
@click.option("--paced", is_flag=True, help="And sent no faster than that.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep data and logs in this folder.")
def main(seed: int | None, kills: int, events: int, per_s: float, paced: bool, keep: Path | None) -> None:
    """Kill random processes under load, and see whether everything adds up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: everything that was started is stopped
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    console = Console()
    size = Size(seed, kills, events, per_s, paced)
    console.print(f"seed {seed}: {kills} kills, {events:,} events", highlight=False)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    with tempfile.TemporaryDirectory(prefix="herald-chaos-", ignore_cleanup_errors=True) as folder:
        place = keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        began_s = time.monotonic()
        outcome = Chaos(size, place.absolute(), say).run()
        show(outcome, console)
        console.print(f"{time.monotonic() - began_s:.0f} s in all", highlight=False)
    sys.exit(0 if outcome.is_exact else 1)


if __name__ == "__main__":
    main()

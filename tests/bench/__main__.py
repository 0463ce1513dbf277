"""The benchmark: `make bench`, or `make bench ARGS="--quick --only a,c"`. Throughput and latency; trust the ratios.

The canonical workload
- Events: REES46's clickstream as Segment `track` calls of about 390 bytes (workload.py), in batches of 100 over HTTP,
  in blocks of 500 in the log, 4 partitions, every setting at its default.
- a  CPU per event of each pure function, in a bare loop: several rounds, the median.
- b  `collected` is filled with events, then the real workers clean, sessionise and profile empty it.
- c  The same small job on Faust with one event a record and Tables, and in blocks with dicts.
- d  Two clients send batches as fast as they are taken, until each row can be queried.
- e  100 candidate actions, 100 requests/s, while 2,000 events/s come in.
- f  Probes while 2,000 events/s come in: until the profile is usable in a decision, until the row can be queried.
- g  Memory of each process after 100,000 new visitors.
Clients, broker, warehouse and all parts share one machine, so events/s of d depend on its cores; ratios hardly do.
"""

import signal
import time

import click
from rich.console import Console

from tests.bench.plan import FULL, PARTS, QUICK, Found, Sizes


def measure(letters: list[str], sizes: Sizes, console: Console, found: Found) -> None:
    """Measure these parts, one after the other, into `found`. Each starts what it needs and stops it again."""
    for letter in letters:
        meaning, run = PARTS[letter]
        began_s = time.monotonic()
        with console.status(f"{letter}. {meaning}"):
            run(sizes, found)
        found.took_s[letter] = time.monotonic() - began_s
        console.print(f"{letter}. {meaning}: {found.took_s[letter]:.0f} s", highlight=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Small sizes, under two minutes: for a look, not for a record.")
@click.option("--only", default=",".join(PARTS), show_default=True, help="Which parts.")
def main(quick: bool, only: str) -> None:
    """Measure Herald on this machine."""
    from tests.bench.report import show

    letters = [letter.strip() for letter in only.split(",") if letter.strip()]
    unknown = sorted(set(letters) - set(PARTS))
    if unknown or not letters:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}: expected some of {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: everything that was started is stopped
    found = Found()
    try:
        measure(letters, QUICK if quick else FULL, Console(stderr=True), found)
    finally:  # what fails late takes nothing away from what was measured before
        show(found, Console(), "quick" if quick else "full")


if __name__ == "__main__":
    main()

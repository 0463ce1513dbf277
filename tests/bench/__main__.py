"""The benchmark: `make bench`, or `make bench ARGS="--quick --only a,c"`. Throughput and latency; trust the ratios.

The canonical workload is REES46's clickstream as Segment `track` calls of about 390 bytes (workload.py), in batches of
100 over HTTP, in blocks of 500 in the log, 4 partitions, every setting at its default.
- a  CPU per event of each pure function, in a bare loop: several rounds, the median.
- b  `collected` is filled with the same events, then the real workers clean, sessionise and profile empty it: each
     alone with the broker (compare this with a), then all three at once (this is how they run).
- c  The same functions called per event on Faust with Tables, Quix Streams, Bytewax and no engine: the same events from
     Kafka, the same rows back to Kafka, compared row for row with those of our stages.
- d  The collector alone, by pixel, single calls, batches: flat out for CPU (every event found in Kafka later), and
     at an even rate for latency.
- e  Two clients send batches as fast as they are taken, until each row can be queried; the most memory of each part.
- f  100 candidate actions, 1,000 questions/s on a fixed schedule, while 5,000 events/s come in.
- g  Probes while 2,000 events/s come in: until the profile is usable in a decision, until the row can be queried.
- h  Memory of each process after 100,000 (`--full`: and 1,000,000) new visitors.
- i  CPU per event when more visitors are known, more events were seen, more partitions are there.
- j  CPU of each process while nothing comes in.
CPU is the processes' own (user and system), so it bears a busy machine better than events/s and latencies, which
clients, broker, warehouse and all parts share cores for. But it grows, too, where caches are shared with others: the
yardstick, a fixed piece of work done before and after each part, says by how much. Latencies under a schedule count
from when a request was due.
"""

import signal
import time
from pathlib import Path

import click
from rich.console import Console

from tests.bench.plan import FULL, PARTS, QUICK, USUAL, Found, Sizes
from tests.bench.processes import yardstick_us

WIDTH_MIN = 120  # where the output goes into a file, too: a folded table says nothing


def measure(letters: list[str], sizes: Sizes, console: Console, found: Found) -> None:
    """Measure these parts, one after the other, into `found`. Each starts what it needs and stops it again.

    One that fails is told of and takes nothing away from the others.
    """
    for letter in letters:
        meaning, run = PARTS[letter]
        began_s, before_us = time.monotonic(), yardstick_us()
        try:
            with console.status(f"{letter}. {meaning}"):
                run(sizes, found)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown, and the exit code says so
            found.failed[letter] = f"{type(error).__name__}: {error}"
        found.took_s[letter] = time.monotonic() - began_s
        found.yardstick_us[letter] = (before_us, yardstick_us())
        ended = "failed after" if letter in found.failed else ""
        console.print(f"{letter}. {meaning}: {ended} {found.took_s[letter]:.0f} s", highlight=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", "size", flag_value="quick", help="Small sizes, a few minutes: for a look, not for a record.")
@click.option(
    "--full", "size", flag_value="full", help="Everything, a million visitors too: the better part of an hour."
)
@click.option("--only", default=",".join(PARTS), show_default=True, help="Which parts.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
def main(size: str | None, only: str, json_file: Path | None) -> None:
    """Measure Herald on this machine."""
    from tests.bench.report import as_json, show

    letters = [letter.strip() for letter in only.split(",") if letter.strip()]
    unknown = sorted(set(letters) - set(PARTS))
    if unknown or not letters:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}: expected some of {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: everything that was started is stopped
    found = Found()
    sizes = {"quick": QUICK, "full": FULL}.get(size or "", USUAL)
    try:
        measure(letters, sizes, Console(stderr=True), found)
    finally:
        console = Console()
        show(found, Console(width=max(console.width, WIDTH_MIN)), size or "usual")
        if json_file is not None:
            json_file.write_bytes(as_json(found, size or "usual"))
    if found.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

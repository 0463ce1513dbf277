"""Every fault for its full time: `python -m tests.faults`, about an hour and a half; `--times 0.02` for a look.

Everything runs on one machine behind proxies; after each fault all that was accepted is compared with the warehouse.
"""

import contextlib
import json
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from pipeline.errors import Retryable
from tests.faults.load import Load
from tests.faults.plant import DISK_MB, can_mount, plant
from tests.faults.scenarios import FULL_S, disk_full, play

DRAIN_S = 600.0
NAMES = {scenario.__name__: scenario for scenario in FULL_S}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default=",".join(NAMES), show_default=True, help="Which faults.")
@click.option("--times", default=1.0, show_default=True, help="Factor of each duration.")
@click.option("--events", "events_s", default=200, show_default=True, help="Events a second, live.")
def main(only: str, times: float, events_s: int) -> None:
    """Play the faults one after the other; exit code 1 where one of them broke a promise."""
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    unknown = sorted(set(wanted) - set(NAMES))
    if unknown or not wanted:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}: expected some of {', '.join(NAMES)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: everything that was started is stopped
    failed = []
    with TemporaryDirectory(prefix="herald-faults-") as folder:
        has_disk = can_mount(Path(folder))
        with plant(Path(folder), DISK_MB if has_disk else 0) as running:
            loads: list[Load] = []
            for scenario in (NAMES[name] for name in wanted):
                if scenario is disk_full and not has_disk:
                    print("disk_full: left out, no mount namespace to be had here")
                    continue
                began_s = time.monotonic()
                try:
                    seen: dict[str, object] = play(running, [(scenario, FULL_S[scenario] * times)], events_s, loads)
                except (AssertionError, Retryable) as error:
                    failed.append(scenario.__name__)
                    seen = {"FAILED": str(error)}
                    with contextlib.suppress(Retryable):
                        running.drained(DRAIN_S)  # or its backlog would fail the next one as well
                print(f"{scenario.__name__} ({time.monotonic() - began_s:.0f} s): {json.dumps(seen)}", flush=True)
    print("every promise was kept" if not failed else f"broken: {', '.join(failed)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""`python -m tests.fuzz`: the fuzzer at length; exit code 0 only where nothing was found."""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from pipeline.status import Status
from tests.fuzz.contract import check
from tests.fuzz.run import faults_of, fire
from tests.fuzz.siege import besiege
from tests.fuzz.stand import Stand, doors, everything


def main() -> int:
    """Run and print what was found."""
    asked = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every endpoint of a running Herald.")
    asked.add_argument("--requests", type=int, default=100_000, help="shots to fire (default 100000)")
    asked.add_argument(
        "--seed", type=int, default=secrets.randbits(32), help="of the shots; printed, so that it can be given"
    )
    asked.add_argument(
        "--examples", type=int, default=100, help="of each operation of the OpenAPI document, in and out of it"
    )
    asked.add_argument("--slow", type=int, default=1_000, help="slow connections at once (0 = no siege)")
    asked.add_argument(
        "--doors", action="store_true", help="collector, delivery and broker alone, without the stages behind"
    )
    options = asked.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="herald-fuzz-") as name:
        folder = Path(name)
        with (doors if options.doors else everything)(folder) as stand:
            faults = run(stand, options, folder)
    print("\n".join(f"FAULT {fault}" for fault in faults) if faults else "nothing found", flush=True)
    return 1 if faults else 0


def run(stand: Stand, options: argparse.Namespace, folder: Path) -> list[str]:
    """Fire, besiege, ask by the document, then read the books; return the faults."""
    started_s = time.monotonic()
    report = fire(stand, options.seed, options.requests, lambda done: print(f"  {done:,}", end="\r", flush=True))
    print("\n".join(report.lines()), flush=True)
    faults = faults_of(report, stand, books := stand.books(), folder)
    print(f"in the log {dict(books.collected)}, promised {dict(report.tally.promised)}")
    print(f"cleaned again here: {books.totals}", flush=True)
    faults += _stored(stand.stored())
    if options.slow:
        siege = besiege(stand, options.slow, 30)
        print("\n".join(siege.lines()), flush=True)
        faults += siege.faults
    if options.examples:
        contract = check(stand, options.seed, options.examples)
        print(f"{contract.asked:,} requests by the OpenAPI document", flush=True)
        faults += contract.faults
    faults += [f"{part} has ended" for part in stand.dead()]
    print(f"all in {time.monotonic() - started_s:.0f} s")
    return faults


def _stored(found: Status | None) -> list[str]:
    """Print the books as `herald status` has them; return what is wrong with them."""
    if found is None:
        return []
    for one in found.books:
        print(f"  {one}")
    return [] if found.is_balanced else [f"the warehouse's books do not balance: {found.books}"]


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.simulation --seeds 1000 --first 0`: run seeds, say how fast, and how to replay one that failed."""

import argparse
import logging
import random
import sys
import time

from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Parts, run


def main() -> int:
    """Return 1 where a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--first", type=int, default=None, help="the first one; else a random one")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="with a fault built in, to see it found")
    asked = parser.parse_args()
    first = random.randrange(2**31) if asked.first is None else asked.first
    parts = MUTANTS[asked.mutant] if asked.mutant else Parts()
    logging.disable(logging.ERROR)
    print(f"seeds {first} to {first + asked.seeds - 1}", flush=True)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    simulated_s, steps, lives, failed = 0.0, 0, 0, 0
    for seed in range(first, first + asked.seeds):
        outcome = run(seed, parts)
        simulated_s += outcome.simulated_s
        steps += outcome.steps
        lives += outcome.lives
        if outcome.wrong:
            failed += 1
            mutant = f" --mutant {asked.mutant}" if asked.mutant else ""
            print(f"seed {seed} failed (trace {outcome.digest}):", *outcome.wrong[:5], sep="\n  ")
            print(f"  replay: python -m tests.simulation --seeds 1 --first {seed}{mutant}", flush=True)
    took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    print(
        f"{asked.seeds} seeds, {failed} failed: {asked.seeds / took_s:.1f} seeds/s ({asked.seeds / cpu_s:.1f} a CPU "
        f"second), {simulated_s / took_s:.0f} simulated seconds a second, {steps:,} steps, {lives:,} lives of workers"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

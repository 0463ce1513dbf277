"""A part with a wrong clock, in a process of its own: `python -m tests.faults.off_clock MS worker clean`.

Only `pipeline.edge.clock` is told to be wrong, before anybody has taken its function: it is the one place that asks for
the time.
"""

import sys

from pipeline.edge import clock


def main() -> None:
    """Run `herald` with the remaining arguments."""
    right, off_ms = clock.now_ms, int(sys.argv.pop(1))

    def wrong_ms() -> int:
        return right() + off_ms

    clock.now_ms = wrong_ms
    from pipeline.cli import main as herald

    herald()


if __name__ == "__main__":
    main()

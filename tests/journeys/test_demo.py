"""`make demo ARGS=--exit`, as a user sees it, on a slice of its input; and the arithmetic of its summary."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.demo.ads import Earned
from pipeline.demo.campaigns import PLACES
from tests.journeys.up_rig import environment

ROWS = 400


@pytest.mark.journey
def test_the_demo_ends_with_balanced_books_and_a_summary(tmp_path: Path) -> None:
    """Exit code 0; every event sent is accounted for, every logged decision is joined to its outcome."""
    command = [sys.executable, "-m", "pipeline.cli", "demo", "--exit", "--rows", str(ROWS)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {
        name: int(count.replace(",", "")) for name, count in re.findall(r"^(\w[\w ]+?)  +([\d,]+)\b", done.stdout, re.M)
    }
    assert figures["received"] == figures["events sent"] == figures["accepted"]
    assert figures["received"] == figures["stored"] + figures["refused"] + figures["duplicates"]
    assert figures["in flight"] == 0
    visits, rest = divmod(figures["decisions"] - 2 * ROWS, len(PLACES))
    assert (visits > 100, rest) == (True, 0)  # each visit asks for all places of its page
    assert figures["outcomes joined"] > ROWS
    assert "the books balance" in done.stdout
    for what in ("A/B test of the bandit", "hold-out", "budget", "stock", "books of money"):
        assert re.search(rf"^{what}  +\S", done.stdout, re.M), what
    sold = re.search(r"(\d+) of 300 impressions sold", done.stdout)
    assert sold is not None
    assert 200 <= int(sold[1]) <= 300
    assert "open: they balance" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_estimate_of_a_policy_that_chooses_as_the_log_did_is_the_logs_own_rate() -> None:
    """Inverse propensity: equal probabilities weigh each click once; the interval holds the rate."""
    earned = Earned(rows=1_000, clicks=5, values=[1.0] * 5 + [0.0] * 995, weight_max=1.0)
    rate, low, high = earned.ours()
    assert rate == earned.uniform_rate() == 0.005
    assert 0 < low < 0.005 < high < 0.02


def test_few_matched_clicks_of_large_weight_give_a_wide_interval() -> None:
    """One click at weight 30 among a thousand rows says little, and no click says only what is not too high."""
    _, low, high = Earned(rows=1_000, clicks=1, values=[30.0] + [0.0] * 999, weight_max=30.0).ours()
    assert low < 0.005
    assert high > 0.1
    nothing, zero, bound = Earned(rows=1_000, clicks=0, values=[0.0] * 1_000, weight_max=30.0).ours()
    assert (nothing, zero) == (0.0, 0.0)
    assert 0.05 < bound < 0.2

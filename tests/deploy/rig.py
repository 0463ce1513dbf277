"""What the tests of deploy/ share: its files, the compose file filled in, what a process of ours reads."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.parts import STAGES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "docker-compose.yml"
PARTS = ("collector", *STAGES, "delivery", "campaigns")
FILLED_IN = {
    "HERALD_WRITE_KEYS": "k1=shop",
    "HERALD_DELIVERY_KEYS": "d1",
    "HERALD_CAMPAIGNS_KEYS": "ann=a1",
    "HERALD_MASK_SECRET": "m" * 64,
    "HERALD_SIGNING_SECRET": "s" * 64,
    "CLICKHOUSE_PASSWORD": "c1",
    "POSTGRES_PASSWORD": "p1",
    "GRAFANA_PASSWORD": "g1",
}


def read_yaml(path: Path) -> Any:
    """Return what is in a file."""
    return yaml.safe_load(path.read_text("utf-8"))


def env_file(path: Path) -> dict[str, str]:
    """Return the names and values of a file for `env_file`."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def loaded(environment: dict[str, str]) -> dict[str, Any]:
    """Return the settings that a process of ours reads in this environment; fails on wrong ones."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HERALD_")}
    program = "from pipeline.settings import load, as_text; import json\n"
    program += "print(json.dumps({name: as_text(value) for name, value in load()}))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=plain | environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def interpolated(text: str, values: dict[str, str]) -> str:
    """Fill in ${NAME}, ${NAME:-default} and ${NAME:?text} as Compose does."""

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        assert values.get(name) or kind == ":-", f"{name}: {rest}"
        return values.get(name) or rest

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", fill, text)


def compose_file() -> dict[str, Any]:
    """Return the compose file, filled in."""
    found: dict[str, Any] = yaml.safe_load(interpolated(COMPOSE.read_text("utf-8"), FILLED_IN))
    return found


def of_prometheus(program: str) -> str | None:
    """Return where `prometheus` or `promtool` is: in the folder HERALD_TEST_PROMETHEUS, or on the path."""
    return shutil.which(program, path=os.environ.get("HERALD_TEST_PROMETHEUS"))

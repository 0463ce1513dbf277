"""A real Prometheus with the configuration that we ship, on the addresses of a Herald that runs."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.deploy.rig import DEPLOY, read_yaml
from tests.waits import free_ports

PATIENCE_S = 90.0


class Prometheus:
    """One that runs, asked by its API."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def ask(self, path: str, **params: str) -> Any:
        """Return the data of an answer; fails where Prometheus says that the question was wrong."""
        answer = self._http.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", f"{params}: {answer}"
        return answer["data"]

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Return an expression's values now: (labels, value)."""
        data = self.ask("query", query=expr)
        assert data["resultType"] == "vector", expr
        return [(one["metric"], float(one["value"][1])) for one in data["result"]]

    def down(self) -> list[str]:
        """Targets that did not answer the last scrape, or were not scraped yet."""
        targets = self.ask("targets", state="active")["activeTargets"]
        return [f"{one['labels']}: {one['lastError']}" for one in targets if one["health"] != "up"]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def firing(self, alert: str) -> list[dict[str, str]]:
        """Labels of an alert that fires now, once for each."""
        found = self.ask("alerts")["alerts"]
        return [one["labels"] for one in found if one["labels"]["alertname"] == alert and one["state"] == "firing"]

    def until(self, look: Callable[[], bool], what: str) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not look():
            assert time.monotonic() < deadline, f"{what}; down: {self.down()}"
            time.sleep(0.2)


def adapted(folder: Path, addresses: Mapping[str, str], own: str) -> Path:
    """Write our configuration for these addresses of parts, once a second; alerts wait for nothing before they fire.

    Everything else is as we ship it: jobs, labels and expressions. Returns the configuration's path.
    """
    config = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        for entry in job["static_configs"]:
            entry["targets"] = [addresses[entry["labels"]["part"]] if job["job_name"] == "herald" else own]
    for name in config["rule_files"]:
        rules = read_yaml(DEPLOY / "prometheus" / name)
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule["for"] = "0s"
        (folder / name).write_text(yaml.safe_dump(rules), "utf-8")
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


@contextmanager
def scraping(program: str, folder: Path, addresses: Mapping[str, str]) -> Iterator[Prometheus]:
    """Run it in this folder until the end. addresses: of each part's /metrics."""
    own = f"127.0.0.1:{free_ports(1)[0]}"
    config = adapted(folder, addresses, own)
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
               f"--web.listen-address={own}", "--log.level=warn"]  # fmt: skip
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://{own}", timeout=30) as http:
            _wait_until_ready(http, process, folder / "said")
            yield Prometheus(http)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _wait_until_ready(http: httpx.Client, process: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, said.read_text("utf-8")
        try:
            if http.get("/-/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"Prometheus is not ready: {said.read_text('utf-8')}")

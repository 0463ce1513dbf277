"""Every part that `herald up` starts, in one list: how to run it, how to tell that it is ready, when to stop it."""

import socket
import urllib.error
import urllib.request
from collections.abc import Callable

from pipeline.settings import Settings
from pipeline.supervisor import Part

BEHIND = 10
"""Niceness of what nobody waits for: on one machine, collector and delivery answer first and the stages catch up."""

STAGES: tuple[str, ...] = ("clean", "sessionise", "profile", "learn", "aggregate", "spend")


def metrics_port(settings: Settings, stage: str) -> int:
    """Return the port on which a stage's worker serves its metrics."""
    return settings.metrics_port + STAGES.index(stage)


def _answers(url: str) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return ask


def _has_state(port: int, stage: str) -> Callable[[], bool]:
    """A worker is ready once it has its partitions and their state: before, its metrics do not know of a restore."""
    restored = f'herald_restore_seconds{{stage="{stage}"}}'.encode()

    def ask() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
                return restored in answer.read()
        except (urllib.error.URLError, OSError):
            return False

    return ask


def _listens(port: int) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        except OSError:
            return False

    return ask


def stores(settings: Settings) -> list[Part]:
    """Return the embedded stores that these settings need (none where outside ones are given)."""
    parts = []
    if not settings.kafka_bootstrap_servers:
        parts.append(Part("broker", ["broker"], _broker_ready(settings), stop_order=3))
    if not settings.clickhouse_url:
        parts.append(Part("warehouse", ["warehouse"], _listens(settings.clickhouse_port), 2, BEHIND))
    return parts


def _broker_ready(settings: Settings) -> Callable[[], bool]:
    from kafka.errors import KafkaError

    from pipeline.edge.kafka import admin

    listens = _listens(settings.kafka_port)

    def ask() -> bool:
        if not listens():
            return False
        try:
            client = admin(settings)
            client.list_topics()
            client.close()
        except (KafkaError, OSError):
            return False
        return True

    return ask


def services(settings: Settings) -> list[Part]:
    """Return our own parts, in the order of the flow."""
    local = "http://127.0.0.1:{}/{}"
    stages = [
        Part(stage, ["worker", stage], _has_state(metrics_port(settings, stage), stage), 1, BEHIND) for stage in STAGES
    ]
    return [
        Part("collector", ["collector"], _answers(local.format(settings.collector_port, "readyz"))),
        *stages,
        Part("delivery", ["delivery"], _answers(local.format(settings.delivery_port, "readyz"))),
        Part("campaigns", ["campaigns", "serve"], _answers(local.format(settings.campaigns_port, "readyz"))),
    ]

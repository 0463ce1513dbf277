"""The collector while its broker hangs, dies or is not there yet: never a 200 for what is not stored."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from collector_rig import Log, RunningCollector, broker_in, collector_on, make_topic

from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.settings import Settings
from tests.waits import free_port

PATIENCE = {"ack_timeout_ms": 1_500}


class Sender:
    """Sends single events without end; keeps what was answered. An id that was not stored is sent again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(6)]
        self.stored: list[str] = []
        self.answers: list[int] = []
        self.retry_after: set[str] = set()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as http:
            while not self._is_over.is_set():
                name = uuid.uuid4().hex
                status = 0
                while status != 200 and not self._is_over.is_set():
                    event = {"writeKey": "demo", "messageId": name, "userId": name}
                    try:
                        answer = http.post("/v1/track", json=event)
                    except httpx.TransportError:
                        return  # the collector was killed
                    status = answer.status_code
                    self.answers.append(status)
                    if status == 200:
                        self.stored.append(name)
                    else:
                        self.retry_after.add(answer.headers.get("retry-after", "none"))
                        time.sleep(0.02)

    def wait_for(self, count: int, timeout_s: float = 40) -> None:
        """Wait for so many more 200s."""
        goal = len(self.stored) + count
        deadline = time.monotonic() + timeout_s
        while len(self.stored) < goal:
            assert any(thread.is_alive() for thread in self._threads), "the collector closed every connection"
            assert time.monotonic() < deadline, f"{len(self.stored)} stored, expected {goal}; last {self.answers[-5:]}"
            time.sleep(0.02)

    @contextmanager
    def running(self) -> Iterator["Sender"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join()


def stored_in(collector: RunningCollector) -> list[str]:
    log = Log(collector.settings)
    try:
        return [found.event.event_id for found in log.read()]
    finally:
        log.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    with broker_in(tmp_path / "broker") as running:
        yield running


def test_a_hanging_broker_means_503_and_then_everything_goes_on(broker: EmbeddedKafka, tmp_path: Path) -> None:
    with collector_on(broker.bootstrap_servers, tmp_path / "data", **PATIENCE) as collector:
        sender = Sender(collector.url)
        with sender.running():
            sender.wait_for(50)
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                collector.wait_until("/readyz", 503)
                seen = len(sender.answers)
                while 503 not in sender.answers[seen:]:
                    time.sleep(0.05)
                seen = len(sender.answers)
                time.sleep(2)
                assert set(sender.answers[seen:]) == {503}
                image = collector.http.get("/p.gif", params={"k": "demo", "e": "page"})
                assert (image.status_code, image.headers["content-type"]) == (503, "image/gif")
                assert image.headers["cache-control"] == "no-store"
                browser = collector.http.post(
                    "/v1/t", json={"writeKey": "demo"}, headers={"Origin": "https://a.example"}
                )
                assert browser.headers["access-control-expose-headers"] == "Retry-After"
                assert collector.http.get("/healthz").status_code == 200
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            collector.wait_until("/readyz", 200)
            sender.wait_for(50)
        assert sender.retry_after <= {"1", "2", "3", "4", "5"}
        assert set(sender.stored) <= set(stored_in(collector))


def test_a_killed_broker_loses_nothing_that_was_promised(broker: EmbeddedKafka, tmp_path: Path) -> None:
    with collector_on(broker.bootstrap_servers, tmp_path / "data", **PATIENCE) as collector:
        sender = Sender(collector.url)
        with sender.running():
            sender.wait_for(50)
            os.kill(broker.pid, signal.SIGKILL)
            broker.wait(10)
            collector.wait_until("/readyz", 503)
            broker.start()
            broker.wait_ready()
            collector.wait_until("/readyz", 200)
            sender.wait_for(50)
        assert set(sender.answers) <= {200, 503}
        assert set(sender.stored) <= set(stored_in(collector))


def test_a_killed_collector_has_stored_all_that_it_promised(broker: EmbeddedKafka, tmp_path: Path) -> None:
    with collector_on(broker.bootstrap_servers, tmp_path / "data", **PATIENCE) as collector:
        sender = Sender(collector.url)
        with sender.running():
            sender.wait_for(300)
            collector.process.kill()
            collector.process.wait(10)
        assert set(sender.stored) <= set(stored_in(collector))


def test_memory_stays_bounded_while_the_broker_hangs(broker: EmbeddedKafka, tmp_path: Path) -> None:
    """64 large batches knock at once; the buffer takes 8 MB of them, the rest hears 503 at once."""
    patience = {"ack_timeout_ms": 4_000, "buffer_bytes_max": 8_388_608}
    with collector_on(broker.bootstrap_servers, tmp_path / "data", **patience) as collector:
        body = {"writeKey": "demo", "batch": [{"userId": "u", "x": "y" * 30_000} for _ in range(33)]}
        collector.http.post("/v1/batch", json=body)
        process = psutil.Process(collector.process.pid)
        before = process.memory_info().rss
        os.kill(broker.pid, signal.SIGSTOP)
        statuses: list[int] = []

        def send() -> None:
            statuses.append(httpx.post(f"{collector.url}/v1/batch", json=body, timeout=30).status_code)

        try:
            threads = [threading.Thread(target=send) for _ in range(64)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                assert process.memory_info().rss - before < 64 * 1_048_576
                time.sleep(0.05)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert set(statuses) == {503}
        collector.wait_until("/readyz", 200)


def test_a_collector_may_start_before_its_broker(tmp_path: Path) -> None:
    port, controller_port = free_port(), free_port()
    settings: dict[str, Any] = {
        "kafka_bootstrap_servers": f"127.0.0.1:{port}",
        "collector_port": free_port(),
        "data_dir": str(tmp_path / "data"),
        **PATIENCE,
    }
    collector = RunningCollector(settings)
    broker = EmbeddedKafka(KafkaConfig(tmp_path / "broker", port, controller_port, heap_mb=256))
    try:
        collector.wait_until("/healthz", 200)
        answer = collector.http.post("/v1/track", json={"writeKey": "demo"})
        assert (answer.status_code, answer.json()["error"]) == (503, "broker_away")
        broker.start()
        broker.wait_ready()
        make_topic(Settings(**settings))
        collector.wait_until("/readyz", 200)
        assert collector.http.post("/v1/track", json={"writeKey": "demo", "messageId": "m1"}).status_code == 200
        assert stored_in(collector) == ["m1"]
    finally:
        assert collector.stop() == 0
        broker.stop()


def test_a_collector_without_a_broker_stops_at_once(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "kafka_bootstrap_servers": f"127.0.0.1:{free_port()}",
        "collector_port": free_port(),
        "data_dir": str(tmp_path),
    }
    collector = RunningCollector(settings)
    collector.wait_until("/healthz", 200)
    assert collector.stop() == 0

"""The other side of the doors: visitors who send events without end and a shop that asks for decisions.

Every batch is sent until the collector takes it, under the same ids, as a tracker does; what was accepted is kept.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter

import httpx

from pipeline.edge.clock import now_ms
from tests.journeys.by_hand import Seen

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
GIVE_UP_S = 180.0


class Load:
    """Sends batches of page views in lanes side by side, `events_s` a second in all while they are taken.

    accepted: id -> event, of all that was answered with 200. answers: how often each status came (0: no answer).
    retry_after: what stood beside 503. problems: what must never be.
    """

    def __init__(
        self, port: int, events_s: int, lanes: int = 3, batch: int = 20, visitors: int = 300, name: str = ""
    ) -> None:
        self._port = port
        self.events_s = events_s
        self._pause_s = lanes * batch / events_s
        self._batch = batch
        self._visitors = visitors
        self._name = name or f"{random.randrange(2**32):x}"
        self._began_s = time.monotonic()
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self.accepted: dict[str, Seen] = {}
        self.answers: Counter[int] = Counter()
        self.retry_after: set[str] = set()
        self.problems: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(lane,), name=f"lane-{lane}") for lane in range(lanes)]

    def __enter__(self) -> "Load":
        """Begin."""
        self._began_s = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Make no new batches; wait until those in hand are taken."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def live_events_s(self) -> float:
        """Return how many events a second were accepted since the beginning: fewer than asked for on a busy machine."""
        return len(self.accepted) / (time.monotonic() - self._began_s)

    def _run(self, lane: int) -> None:
        rng = random.Random(f"{self._name}-{lane}")
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        number = 0
        next_s = time.monotonic()
        while not self._is_over.is_set():
            batch = {f"{self._name}-{lane}-{number + n}": self._event(rng) for n in range(self._batch)}
            number += self._batch
            self._send(connection, batch)
            next_s = max(next_s + self._pause_s, time.monotonic() - 1)
            self._is_over.wait(max(0, next_s - time.monotonic()))
        connection.close()

    def _event(self, rng: random.Random) -> Seen:
        return Seen(f"v{rng.randrange(self._visitors)}", now_ms())

    def _send(self, connection: http.client.HTTPConnection, batch: dict[str, Seen]) -> None:
        messages = [
            {"type": "page", "messageId": name, "anonymousId": seen.visitor, "timestamp": seen.time_ms}
            for name, seen in batch.items()
        ]
        body = json.dumps({"writeKey": "demo", "batch": messages})
        end_s = time.monotonic() + GIVE_UP_S
        while True:
            status, wait_s = self._post(connection, body)
            with self._lock:
                self.answers[status] += 1
                if status == 200:
                    self.accepted.update(batch)
                    return
            if self._is_over.is_set() and time.monotonic() > end_s:
                self.problems.append(f"a batch was not taken within {GIVE_UP_S:.0f} s")
                return
            if not self._is_over.is_set():
                end_s = time.monotonic() + GIVE_UP_S
            time.sleep(wait_s)

    def _post(self, connection: http.client.HTTPConnection, body: str) -> tuple[int, float]:
        """Return (status or 0, after how long to come again)."""
        headers = {"Content-Type": "application/json", "User-Agent": BROWSER}
        try:
            connection.request("POST", "/v1/batch", body, headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return 0, 0.3
        if answer.status == 503:
            after = answer.getheader("Retry-After", "")
            if not after.isdecimal():
                self.problems.append(f"503 with Retry-After {after!r}")
            self.retry_after.add(after)
            return 503, float(after or 1)
        if answer.status != 200:
            self.problems.append(f"{answer.status}: {text[:200]!r}")
        return answer.status, 1.0


class Shop:
    """Asks for a decision every tenth of a second. took_ms: of each answer. failed: what was no decision."""

    def __init__(self, port: int) -> None:
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, headers={"User-Agent": BROWSER})
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shop")
        self.took_ms: list[float] = []
        self.failed: list[str] = []

    def __enter__(self) -> "Shop":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._is_over.set()
        self._thread.join()
        self._http.close()

    def _run(self) -> None:
        actions = [{"id": name, "url": "https://shop.example/"} for name in ("a", "b", "c")]
        while not self._is_over.wait(0.1):
            ask = {"placement": "home", "visitor": f"buyer-{len(self.took_ms) % 40}", "actions": actions}
            began_s = time.monotonic()
            try:
                answer = self._http.post("/v1/decisions", json=ask)
            except httpx.HTTPError as error:
                self.failed.append(repr(error))
                continue
            if answer.status_code == 200 and answer.json()["actions"]:
                self.took_ms.append((time.monotonic() - began_s) * 1_000)
            else:
                self.failed.append(f"{answer.status_code}: {answer.text[:200]}")

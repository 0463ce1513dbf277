"""The collector is killed while requests are on their way into the log, delivery while it makes keys, reads state."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import msgspec

from agents import clean
from pipeline import topics
from pipeline.core.clean_stage import Clean
from pipeline.core.state import StateView
from pipeline.edge.clock import now_ms
from pipeline.settings import Settings, load
from schemas import block as codec
from schemas.block import CollectedBlock, EventBlock, Origin, partition_of
from schemas.model import ArmStatistics, PlacementModel
from schemas.profile import Profile, VisitorState
from schemas.topics import COLLECTED, EVENTS, MODELS, PROFILES
from tests.crashpoints.life import Life
from tests.crashpoints.log import Log, Reference
from tests.services.delivery_rig import StateTopic
from tests.waits import free_ports

PARTITIONS = 2
READY_S = 60.0


class Service:
    """`herald collector`, say, as a process; always on the same port."""

    def __init__(self, command: str, settings: Settings, port: int, folder: Path) -> None:
        self.command, self.settings = command, settings
        self.log_path = folder / f"{command.replace(' ', '-')}.log"
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
        self.process: subprocess.Popen[bytes] | None = None
        self.life: Life | None = None

    @property
    def is_over(self) -> bool:
        return self.life is None or self.life.is_over

    def start(self) -> int:
        """Start it; returns its id at once."""
        arguments = [sys.executable, "-m", "pipeline.cli", *self.command.split()]
        self.reap()
        with self.log_path.open("ab") as out:
            self.process = subprocess.Popen(arguments, env=self.settings.as_environment(), stdout=out, stderr=out)
        self.life = Life(self.process.pid)
        return self.process.pid

    def is_ready(self) -> bool:
        """Wait until it is; False where it ends before."""
        end_s = time.monotonic() + READY_S
        while not self.is_over and time.monotonic() < end_s:
            try:
                if self.http.get("/readyz").status_code == 200:
                    return True
            except httpx.TransportError:
                pass  # it does not listen yet, or no more
            time.sleep(0.03)
        return False

    def back(self) -> int:
        """Have it ready; returns its id."""
        if self.is_over:
            self.start()
        assert self.is_ready(), self.log_path.read_text()[-2_000:]
        assert self.life is not None
        return self.life.pid

    def kill(self) -> None:
        if self.life is not None:
            self.life.kill()

    def reap(self) -> None:
        if self.process is not None:
            self.process.wait()

    def close(self) -> None:
        self.http.close()
        self.kill()
        self.reap()


class Flush:
    """The collector takes requests, one of them large: no 2xx without the events in the log, none there twice."""

    name = "collector: requests"
    calls = 9
    sizes = ((3, 0), (150, 4_000), (1, 0), (3, 0))  # of each request: events, bytes of each

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        port, metrics_port = free_ports(2)
        self.settings = load(
            kafka_bootstrap_servers=bootstrap_servers,
            topic_prefix="crash-collector-",
            partitions=PARTITIONS,
            collector_port=port,
            metrics_port=metrics_port,
            data_dir=folder,
            write_keys={"demo": "shop"},
        )
        topics.apply(self.settings)
        self.log = Log(self.settings, [COLLECTED])
        self.service = Service("collector", self.settings, port, folder)
        self.number = -1
        self.answers: dict[int, bool] = {}
        self.times: Counter[str] = Counter()
        views = [StateView() for _ in range(PARTITIONS)]
        self.cleaned = [Reference(Clean(view, clean.rules(self.settings)), view) for view in views]

    def _ids(self, request: int, number: int) -> list[str]:
        return [f"m{number}-{request}-{place}" for place in range(self.sizes[request][0])]

    def warm(self) -> int:
        pid = self.service.back()
        self.number += 1
        self.answers = {}
        return pid

    def _send(self, request: int) -> bool:
        filling = "x" * self.sizes[request][1]
        batch = [
            {"type": "page", "messageId": name, "anonymousId": f"visitor-{name}", "properties": {"filling": filling}}
            for name in self._ids(request, self.number)
        ]
        try:
            answer = self.service.http.post("/v1/batch", json={"writeKey": "demo", "batch": batch})
        except httpx.TransportError:
            return False
        return answer.is_success

    def work(self) -> None:
        for request in range(len(self.sizes)):
            self.answers[request] = self._send(request)
            if not self.answers[request]:
                return

    def _read(self) -> None:
        for (_, partition), record in self.log.read():
            block = codec.decode(record.value, CollectedBlock)
            self.times.update(event.event_id for event in block.events)
            self.cleaned[partition].apply(Origin(partition, record.offset), block)

    def wrong(self) -> list[str]:
        self._read()
        found: list[str] = []
        first = Counter(self.times)
        for request in range(len(self.sizes)):
            expected = (1,) if self.answers.get(request) else (0, 1)
            many = {self.times[name] for name in self._ids(request, self.number)}
            if not many <= set(expected):
                found.append(f"request {request}: events are there {many} times, expected {expected}")
        self.service.back()
        for request in range(len(self.sizes)):
            if not self.answers.get(request) and not self._send(request):
                found.append(f"request {request}: the retry was not taken")
        self._read()
        for request in range(len(self.sizes)):
            more = 0 if self.answers.get(request) else 1
            if any(self.times[name] != first[name] + more for name in self._ids(request, self.number)):
                found.append(f"request {request}: the retry is not there once")
        return [*found, *self._not_clean()]

    def _not_clean(self) -> list[str]:
        """Whatever was sent twice, the stage after us keeps one of."""
        kept: Counter[str] = Counter()
        for one in self.cleaned:
            for (topic, _), value in one.outputs.items():
                if topic == EVENTS.name:
                    kept.update(event.event_id for event in codec.decode(value, EventBlock).events)
        numbers = range(self.number + 1)
        expected = Counter(name for n in numbers for at in range(len(self.sizes)) for name in self._ids(at, n))
        unlike = sorted((kept - expected) + (expected - kept))
        return [f"cleaned: not once: {unlike[:6]}"] if unlike else []

    def close(self) -> None:
        self.service.close()
        self.log.close()


class Resume:
    """Delivery starts on an empty folder: makes its keys, reads profiles and models, decides; killed on the way."""

    name = "delivery: start and restore"
    calls = 54
    visitor = "visitor-1"
    arms = {"a": ArmStatistics(500, 10_000_000), "b": ArmStatistics(500, 200_000_000)}  # noqa: RUF012

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        self.port, self.clickhouse_port, self.metrics_port = free_ports(3)
        self.folder = folder
        self.bootstrap_servers = bootstrap_servers
        self.number = -1
        settings = self._settings(folder)
        topics.apply(settings)
        self.log = Log(settings, [COLLECTED])
        self.service = Service("delivery", settings, self.port, folder)
        self.times: Counter[str] = Counter()
        self.keys: dict[str, bytes] = {}
        owners = [StateTopic(settings, topic, p) for topic in (PROFILES, MODELS) for p in range(PARTITIONS)]
        self.profile = Profile(events=7, visits=2, user_id="u1")
        for owner in owners:
            for version in range(30):
                owner.put(version, self._entries(owner))
            owner.close()

    def _entries(self, owner: StateTopic) -> dict[str, msgspec.Struct]:
        if owner.topic.endswith(MODELS.name):
            return {"home": PlacementModel(self.arms, now_ms())}
        is_here = owner.partition == partition_of(self.visitor, PARTITIONS)
        return {self.visitor: VisitorState(self.profile)} if is_here else {}

    def _settings(self, folder: Path) -> Settings:
        return load(
            kafka_bootstrap_servers=self.bootstrap_servers,
            topic_prefix="crash-delivery-",
            partitions=PARTITIONS,
            delivery_port=self.port,
            clickhouse_port=self.clickhouse_port,
            metrics_port=self.metrics_port,
            data_dir=folder,
        )

    def warm(self) -> int:
        self.service.kill()
        self.number += 1
        self.service.settings = self._settings(self.folder / str(self.number))
        return self.service.start()

    def _decided(self) -> bool:
        body = {"placement": "home", "visitor": self.visitor, "actions": [{"id": "a"}, {"id": "b"}]}
        try:
            return self.service.is_ready() and self.service.http.post("/v1/decisions", json=body).is_success
        except httpx.TransportError:
            return False

    def _read_keys(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.service.settings.data_dir / "secrets").glob("*.key")}

    def work(self) -> None:
        self._decided()

    def wrong(self) -> list[str]:
        kept = self._read_keys()
        self.service.start()
        if not self._decided():
            return [f"does not come back: {self.service.log_path.read_text()[-300:]}"]
        found = [f"{name} was made anew" for name, key in kept.items() if self._read_keys()[name] != key]
        model = self.service.http.get("/v1/models/home").json()
        trials = {arm["action"] if "action" in arm else arm["id"]: arm["trials"] for arm in model["arms"]}
        if trials != {name: PARTITIONS * arm.trials for name, arm in self.arms.items()}:
            found.append(f"model: {model}")
        profile = self.service.http.get(f"/v1/profiles/{self.visitor}").json()["profile"]
        if (profile["events"], profile["visits"]) != (self.profile.events, self.profile.visits):
            found.append(f"profile: {profile}")
        return found + self._doubled()

    def _doubled(self) -> list[str]:
        for _, record in self.log.read():
            self.times.update(event.event_id for event in codec.decode(record.value, CollectedBlock).events)
        return [f"decision {name}: {many} times" for name, many in self.times.items() if many > 1]

    def close(self) -> None:
        self.service.close()
        self.log.close()

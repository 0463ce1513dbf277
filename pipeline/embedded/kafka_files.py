"""What Kafka reads when it starts: server.properties, the logger's settings and the flags of its Java.

Place in the flow: `pipeline.embedded.kafka` writes these texts into the data directory before each start, so a
changed port or heap needs no other step. All functions here are pure.

What one node with these settings keeps: a record is acknowledged once it is in the page cache of the operating
system; Kafka does not fsync each record (`log.flush.*` stay at their defaults). So `kill -9` of the broker, at any
moment, loses nothing that was acknowledged; a power cut or a crash of the kernel may lose the last seconds, and a
cluster of three nodes in three places is the cure for that.
"""

from collections.abc import Mapping
from pathlib import Path

NODE_ID = 1


def server_properties(
    host: str, port: int, controller_port: int, log_dir: Path, more: Mapping[str, str] | None = None
) -> str:
    """server.properties of a single node that is broker and controller.

    host: address to listen on, and the one clients are told.
    log_dir: folder of the topics and of the controller's own log.
    more: further values, over ours.
    """
    values = {
        "process.roles": "broker,controller",
        "node.id": str(NODE_ID),
        "controller.quorum.bootstrap.servers": f"{host}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}",
        "log.dirs": str(log_dir),
        **_TOPICS,
        **_QUICK_AND_SMALL,
        **(more or {}),
    }
    return "".join(f"{name}={_escaped(value)}\n" for name, value in values.items())


def _escaped(value: str) -> str:
    """Java reads a .properties file as Latin-1, with escapes in UTF-16."""
    units = [value.encode("utf-16-be")[at : at + 2] for at in range(0, len(value.encode("utf-16-be")), 2)]
    plain = [unit[1:].decode("ascii") if b"\0 " <= unit <= b"\0~" and unit != b"\0\\" else "" for unit in units]
    return "".join(text or f"\\u{unit.hex()}" for text, unit in zip(plain, units, strict=True))


_TOPICS = {
    "auto.create.topics.enable": "false",  # a misspelt topic is an error, not a new topic with other settings
    "message.max.bytes": str(8 * 1024 * 1024),
    "replica.fetch.max.bytes": str(8 * 1024 * 1024),
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",  # 50 by default: files and start-up time for groups that we do not have
    "offsets.topic.segment.bytes": str(8 * 1024 * 1024),
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # After a kill the unflushed tail of each log is read again: small segments make that short.
    "log.segment.bytes": str(64 * 1024 * 1024),
    "log.index.size.max.bytes": str(1024 * 1024),  # reserved for each active segment; 10 MiB by default
}

_QUICK_AND_SMALL = {
    "group.initial.rebalance.delay.ms": "0",
    # After a kill the controller takes the killed broker for alive until this runs out, and the new one waits:
    # ready after 12 s with the default of 9 s, after 5 s with 3 s.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "1000",
    # By default an idle controller writes an empty record each 500 ms, half of the idle CPU.
    "metadata.max.idle.interval.ms": "0",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),  # 128 MiB of the heap by default
    "log.cleaner.io.buffer.size": str(256 * 1024),
    "num.network.threads": "1",
    "num.io.threads": "2",
}


def log4j2_properties() -> str:
    """Settings of log4j2: warnings and errors, into one file that is turned over at 2 MB, two old ones kept."""
    return """status=error
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName=${sys:herald.logs}/kafka.log
appender.file.filePattern=${sys:herald.logs}/kafka.log.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=2MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=2
rootLogger.level=warn
rootLogger.appenderRefs=file
rootLogger.appenderRef.file.ref=file
"""


def java_flags(heap_mb: int, log4j2_file: Path, tmp_dir: Path, logs_dir: Path) -> list[str]:
    """Flags of the broker's Java.

    heap_mb: limit of the heap; the whole process takes up to 200 MB more.
    tmp_dir: where Java unpacks native compression libraries, so that a killed broker litters no shared folder.
    logs_dir: where Kafka writes its log, and Java its report should it crash itself.
    """
    return [
        f"-Xmx{heap_mb}m",
        # With both, against G1 and the second compiler (one run each): ready 0.5 s sooner; after 4,500 blocks of 100 KB
        # 75 MB less resident and a third less CPU a block. A broker copies; it has little for a compiler to gain on.
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",  # a broker that limps is worse than one that is started again
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={logs_dir}/java-crash-%p.log",
        f"-Djava.io.tmpdir={tmp_dir}",
        "-Djava.awt.headless=true",
        f"-Dherald.logs={logs_dir}",
        f"-Dlog4j2.configurationFile={log4j2_file}",
        # Kafka 4.1 and its compressors use what Java 25 warns about at each start.
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
    ]

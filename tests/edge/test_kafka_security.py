"""SASL and TLS settings reach every client: on a real broker that lets nobody in without them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from pipeline import topics
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.settings import Settings, load
from schemas import block as codec
from schemas.block import CollectedBlock, Origin
from tests.agents.rig import Stages
from tests.waits import free_ports, until

USER, PASSWORD = "herald", "only for this test"
JAAS = "org.apache.kafka.common.security.plain.PlainLoginModule required user_herald="


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secured(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A broker with a second listener that wants TLS and a password; the port of that listener."""
    folder = tmp_path_factory.mktemp("secured")
    port, controller, safe = free_ports(3)
    certificate = authority.issue_cert("127.0.0.1")
    listeners = f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SASL_SSL://127.0.0.1:{safe}"
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    as_java_reads_it = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    (folder / "server.pem").write_bytes(as_java_reads_it + chain)
    more = {
        "listeners": listeners,
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{JAAS}"{PASSWORD}";',
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "server.pem"),
    }
    broker = EmbeddedKafka(KafkaConfig(folder / "data", port, controller, heap_mb=256, more=more))
    broker.start()
    try:
        broker.wait_ready()
        yield safe
    finally:
        broker.stop()


def settings_for(port: int, authority: trustme.CA, folder: Path, **settings: object) -> Settings:
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    return load(
        data_dir=folder,
        kafka_bootstrap_servers=f"127.0.0.1:{port}",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username=USER,
        kafka_sasl_password=PASSWORD,
        kafka_ssl_ca_file=str(ca_file),
        partitions=2,
        **settings,
    )


def test_admin_producer_consumer_and_stage_pass_with_the_right_settings(
    secured: int, authority: trustme.CA, tmp_path: Path
) -> None:
    """Topics are made, a block is written, and a Faust stage with its own aiokafka clients turns it into `events`."""
    settings = settings_for(secured, authority, tmp_path)
    stages = Stages(settings, tmp_path)
    try:
        assert topics.differences(settings) == []
        stages.feed(0, CollectedBlock(1_790_000_000_000, "test", [], []))
        stages.start("clean")
        until(lambda: len(stages.records("events")) == 1, "the stage's answer to the block")
        assert codec.origin_of(stages.records("events")[0].headers) == Origin(0, 0)
    finally:
        stages.stop()


def ask_for_topics(settings: Settings) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does. In a process of its own: kafka-python leaves sockets of refused logins open."""
    command = [sys.executable, "-m", "pipeline.cli", "topics"]
    return subprocess.run(command, env=settings.as_environment(), capture_output=True, text=True, timeout=60)


def test_a_wrong_password_ends_with_a_clear_text(secured: int, authority: trustme.CA, tmp_path: Path) -> None:
    """`herald topics` names the server and what it said; no traceback, and never the password."""
    settings = settings_for(secured, authority, tmp_path).model_copy(update={"kafka_sasl_username": "nobody"})
    asked = ask_for_topics(settings)
    assert asked.returncode == 1
    assert f"Kafka at 127.0.0.1:{secured}" in asked.stderr
    assert "Traceback" not in asked.stderr
    assert PASSWORD not in asked.stdout + asked.stderr


def test_a_server_that_another_authority_vouches_for_is_not_trusted(secured: int, tmp_path: Path) -> None:
    """TLS is verified: without the right authority there is no connection."""
    asked = ask_for_topics(settings_for(secured, trustme.CA(), tmp_path))
    assert asked.returncode == 1
    assert f"Kafka at 127.0.0.1:{secured}" in asked.stderr

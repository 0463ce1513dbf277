"""Kafka: the only module that makes clients, so that security, timeouts and sizes are the same for every one of them.

kafka-python serves the threads (collector, delivery, tools); aiokafka, Faust's own client, the event loops of the
stages.
"""

import ssl
from collections.abc import Callable
from typing import Any, TypeVar

import aiokafka
import kafka
from kafka.admin import KafkaAdminClient

from pipeline.settings import Settings
from schemas.topics import DAY_MS, Topic

RECORD_BYTES_MAX = 8_388_608
"""Of any record. Cleaning can make a block larger: a percent-encoded address stands twice in an event, at 3 for 1."""

FETCH_BYTES = 4_194_304  # of one partition at a time; a larger record still comes, alone
BOOTSTRAP_MS = 5_000
PARTITIONS_ARE_FIXED = (
    "the number of partitions cannot change once events are placed by it; "
    "set HERALD_PARTITIONS to what the topics have, or copy them with `herald repartition` into a new HERALD_GENERATION"
)
"""What to tell who finds another number than the settings say."""

SEGMENT_BYTES = 67_108_864  # state topics free their space a segment at a time

NOT_CONSUMING = (aiokafka.errors.ConsumerStoppedError, aiokafka.errors.IllegalStateError)
"""What asking Faust's consumer raises while it has no partitions, or is about to end."""


_Client = TypeVar("_Client")


def _ssl_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_file or None)
    if settings.kafka_ssl_cert_file:
        context.load_cert_chain(settings.kafka_ssl_cert_file, settings.kafka_ssl_key_file or None)
    return context


def _security(settings: Settings) -> dict[str, Any]:
    """Security of every client, under the names that kafka-python and aiokafka share."""
    found: dict[str, Any] = {"security_protocol": settings.kafka_security_protocol}
    if (context := _ssl_context(settings)) is not None:
        found["ssl_context"] = context
    if settings.kafka_security_protocol.startswith("SASL"):
        found |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
        }
    return found


def _connection(settings: Settings) -> dict[str, Any]:
    return {"bootstrap_servers": settings.bootstrap_servers.split(","), **_security(settings)}


def _made(kind: Callable[..., _Client], config: dict[str, Any]) -> _Client:
    """Make a client of kafka-python; where its making fails nothing of it is left.

    Its thread and sockets begin before it looks for the broker. Where it finds none it raises and leaves them behind:
    who tries again and again while a broker is away would end without threads or file handles.
    """
    inner: list[Any] = []

    def remembered(**options: Any) -> Any:
        inner.append(kind.DEFAULT_CONFIG["kafka_client"](**options))  # type: ignore[attr-defined]
        return inner[-1]

    try:
        return kind(**config, kafka_client=remembered)
    except BaseException:
        for one in inner:
            one.close()
        raise


def producer(settings: Settings, **overrides: Any) -> kafka.KafkaProducer:
    """Return an idempotent producer that waits for all replicas; a block is never split, joined or held back."""
    chosen = {
        "acks": "all",
        "enable_idempotence": True,
        "max_request_size": RECORD_BYTES_MAX,
        "batch_size": settings.block_bytes_max,
        "linger_ms": 0,
        "delivery_timeout_ms": settings.ack_timeout_ms,
        "request_timeout_ms": min(30_000, settings.ack_timeout_ms),
        "max_block_ms": 1,
        "reconnect_backoff_max_ms": 1_000,
        "metrics_enabled": False,
    }
    return _made(kafka.KafkaProducer, _connection(settings) | chosen | overrides)


def consumer(settings: Settings, **overrides: Any) -> kafka.KafkaConsumer:
    """Return a consumer without a group (assign partitions yourself), reading from the earliest record."""
    chosen = {
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "group_id": None,
        "max_partition_fetch_bytes": FETCH_BYTES,
        "fetch_max_wait_ms": 100,
    }
    return _made(kafka.KafkaConsumer, _connection(settings) | chosen | overrides)


def admin(settings: Settings) -> KafkaAdminClient:
    """Return an admin client."""
    chosen = {"bootstrap_timeout_ms": BOOTSTRAP_MS, "reconnect_backoff_max_ms": 500}
    return _made(KafkaAdminClient, _connection(settings) | chosen)


def async_producer(settings: Settings) -> aiokafka.AIOKafkaProducer:
    """Return the stages' producer (not started): idempotent, all replicas, a block is sent at once."""
    return aiokafka.AIOKafkaProducer(
        **_connection(settings),
        acks="all",
        enable_idempotence=True,
        max_request_size=RECORD_BYTES_MAX,
        max_batch_size=RECORD_BYTES_MAX,
        linger_ms=0,
        request_timeout_ms=30_000,
    )


def async_consumer(settings: Settings) -> aiokafka.AIOKafkaConsumer:
    """Return a consumer for restoring state (not started).

    auto_offset_reset must be earliest: with the default, assigning and seeking to the beginning race, and a restore
    can read nothing at all.
    """
    return aiokafka.AIOKafkaConsumer(
        **_connection(settings),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES,
        fetch_max_wait_ms=50,
    )


def faust_broker(settings: Settings) -> dict[str, Any]:
    """Return Faust's broker settings: the URL and, with security, its credentials object."""
    import faust

    found: dict[str, Any] = {"broker": [f"kafka://{server}" for server in settings.bootstrap_servers.split(",")]}
    context = _ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        found["broker_credentials"] = faust.SASLCredentials(
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password.get_secret_value(),
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    elif context is not None:
        found["broker_credentials"] = faust.SSLCredentials(context)
    return found


def topic_settings(topic: Topic) -> dict[str, str]:
    """Return the broker's settings of one of our topics."""
    return {
        "cleanup.policy": "compact" if topic.is_compacted else "delete",
        "retention.ms": str(topic.retention_ms),
        "max.message.bytes": str(RECORD_BYTES_MAX),
        "message.timestamp.type": "CreateTime",
        **({"segment.bytes": str(SEGMENT_BYTES)} if topic.is_state else {}),
        # What is old goes from closed segments only: each day one is closed, or a busy day's changes would stay a week.
        **({"segment.ms": str(DAY_MS)} if topic.is_compacted else {}),
    }


def new_topic(settings: Settings, topic: Topic) -> dict[str, dict[str, Any]]:
    """Return what `create_topics` takes to create one of our topics."""
    return {
        settings.topic(topic.name): {
            "num_partitions": settings.partitions,
            "replication_factor": settings.kafka_replication,
            "configs": topic_settings(topic),
        }
    }

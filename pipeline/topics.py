"""`herald topics`: what the broker has against what schemas/topics.py says, and making the one like the other.

Every part refuses to start against another number of partitions than its settings say.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kafka.errors import KafkaError

from pipeline.edge.kafka import PARTITIONS_ARE_FIXED, admin, new_topic, topic_settings
from pipeline.errors import Retryable, SettingsError
from pipeline.settings import Settings
from schemas.topics import TOPICS, Topic


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be. topic: our topic. fix: what `--apply` would do."""

    topic: Topic
    text: str
    fix: str  # "create", "configure" or "" where only a person can help


def differences(settings: Settings) -> list[Difference]:
    """Compare the broker with our list. Raises Retryable where the broker is away."""
    try:
        client = admin(settings)
        try:
            return list(_compare(client, settings))
        finally:
            client.close()
    except KafkaError as error:
        raise Retryable(f"Kafka at {settings.bootstrap_servers}: {error}") from error


def _compare(client: Any, settings: Settings) -> Iterator[Difference]:
    existing = set(client.list_topics())
    ours = {settings.topic(topic.name): topic for topic in TOPICS}
    for name, topic in ours.items():
        if name not in existing:
            yield Difference(topic, f"{name}: missing", "create")
    present = [name for name in ours if name in existing]
    for found in client.describe_topics(present) if present else []:
        topic, partitions = ours[found["name"]], len(found["partitions"])
        if partitions != settings.partitions:
            expected = f"expected {settings.partitions} (HERALD_PARTITIONS)"
            yield Difference(topic, f"{found['name']}: {partitions} partitions, {expected}", "")


def apply(settings: Settings) -> list[Difference]:
    """Create what is missing; return what was done.

    Raises SettingsError where topics have another number of partitions than the settings: visitors would move to other
    partitions than their state. Kafka can add partitions, but nothing can move what is already placed; `herald
    repartition` copies it into a new generation of topics.
    """
    found = differences(settings)
    _refuse_partitions(found)
    client = admin(settings)
    try:
        for difference in found:
            client.create_topics(new_topic(settings, difference.topic), wait_for_metadata=True)
    except KafkaError as error:
        raise Retryable(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    finally:
        client.close()
    return found


def check_partitions(settings: Settings) -> None:
    """Raise SettingsError where topics that exist have another number of partitions than the settings, see `apply`.

    Raises Retryable where the broker is away.
    """
    _refuse_partitions(differences(settings))


def _refuse_partitions(found: list[Difference]) -> None:
    wrong = [difference.text for difference in found if not difference.fix]
    if wrong:
        raise SettingsError("\n".join([*wrong, PARTITIONS_ARE_FIXED]))


def table(settings: Settings) -> list[tuple[str, str, str, str]]:
    """Return the topics for people: name, meaning, writer, retention."""
    rows = []
    for topic in TOPICS:
        kept_ms = int(topic_settings(topic)["retention.ms"])
        kept = f"{kept_ms // 86_400_000} days" if kept_ms >= 0 else "until superseded"
        rows.append((settings.topic(topic.name), topic.meaning, topic.writer, kept))
    return rows

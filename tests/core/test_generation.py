"""A generation is part of every name, and the first one's names are those that were there before there were any."""

import pytest

from pipeline.settings import load
from schemas.topics import TOPICS

GIVEN = "clickhouses://herald:p%40ss@ch.example:9440/herald?verify=1"


def test_the_first_generation_has_the_names_of_old() -> None:
    """Nothing changes for who has data."""
    settings = load(topic_prefix="blue.", clickhouse_url=GIVEN)
    assert settings.topic("clean-state") == "blue.clean-state"
    assert settings.warehouse_url == settings.first_warehouse_url == GIVEN
    assert (load().warehouse_url, load().warehouse_database) == (
        "clickhouse://default@127.0.0.1:9000/default",
        "default",
    )


@pytest.mark.parametrize(
    ("url", "database", "expected"),
    [
        ("", "default_g3", "clickhouse://default@127.0.0.1:9000/default_g3"),
        (GIVEN, "herald_g3", "clickhouses://herald:p%40ss@ch.example:9440/herald_g3?verify=1"),
        ("clickhouse://ch.example", "default_g3", "clickhouse://ch.example/default_g3"),
        ("clickhouse://[::1]:9000/a/", "a_g3", "clickhouse://[::1]:9000/a_g3"),
    ],
)
def test_a_later_generation_has_a_database_beside_the_first_one(url: str, database: str, expected: str) -> None:
    """On the same server, with the same account and options."""
    settings = load(generation=3, clickhouse_url=url)
    assert (settings.warehouse_database, settings.warehouse_url) == (database, expected)


def test_no_two_generations_share_a_topic_or_a_group() -> None:
    """Empty topics and empty states: what a generation knows it has made from its own log."""
    names = [load(generation=number).topic(topic.name) for number in (1, 2, 3, 12) for topic in TOPICS]
    assert len(set(names)) == len(names)

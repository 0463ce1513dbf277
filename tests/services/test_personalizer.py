"""Azure Personalizer's unmodified client against delivery: rank, reward and activate on a real broker."""

import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from azure.cognitiveservices.personalizer import PersonalizerClient
from azure.cognitiveservices.personalizer.models import RankableAction, RankRequest
from delivery_rig import Service, read_collected
from msrest.authentication import CognitiveServicesCredentials
from msrest.exceptions import HttpOperationError
from pydantic import SecretStr

from pipeline import topics
from pipeline.core.decide import is_id
from pipeline.delivery.personalizer import PLACEMENT, TIME_CHARS, is_own, named, tail_of
from pipeline.embedded.kafka import EmbeddedKafka, KafkaConfig
from pipeline.settings import Settings
from tests.waits import free_port, until

PARTITIONS = 2
ACTIONS = [RankableAction(id=name, features=[{"kind": name}, {"price": {"net": 9.5}}]) for name in ("a", "b", "c")]
CONTEXT: list[object] = [{"timeOfDay": "morning"}, {"device": {"type": "mobile", "sizes": [1, 2]}}]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("personalizer")
    broker = EmbeddedKafka(KafkaConfig(folder / "broker", free_port(), free_port(), heap_mb=256))
    broker.start()
    try:
        broker.wait_ready()
        settings = Settings(
            data_dir=folder,
            kafka_bootstrap_servers=broker.bootstrap_servers,
            partitions=PARTITIONS,
            delivery_port=free_port(),
            clickhouse_port=free_port(),
            delivery_keys=[SecretStr("secret")],
            actions_max=100,
            policy_placements={"lab": "uniform"},
        )
        topics.apply(settings)
        found = Service(settings, folder / "log")
        try:
            found.wait_for("/readyz")
            yield found
        finally:
            assert found.stop() == 0
    finally:
        broker.stop()


def client(service: Service, placement: str = "", key: str = "secret") -> PersonalizerClient:
    base = f"http://127.0.0.1:{service.settings.delivery_port}" + (f"/placements/{placement}" if placement else "")
    return PersonalizerClient(base, CognitiveServicesCredentials(key))


def request(**more: Any) -> RankRequest:
    return RankRequest(context_features=CONTEXT, actions=ACTIONS, **more)


def news(service: Service, decision: str, kind: str) -> list[dict[str, Any]]:
    """Return what `collected` has of a decision; decision: its id, or the tail of it."""
    found = [json.loads(event.raw) for _, _, event in read_collected(service.settings, PARTITIONS)]
    return [one for one in found if one["decision_id"].endswith(decision) and one["type"] == kind]


def test_a_rank_is_a_decision_and_counts_as_shown_at_once(service: Service) -> None:
    answer = client(service).rank(request())
    assert is_id(answer.event_id)
    assert [one.id for one in answer.ranking] == ["a", "b", "c"]
    assert sum(one.probability for one in answer.ranking) == pytest.approx(1.0, abs=1e-9)
    assert answer.reward_action_id in {"a", "b", "c"}
    [decision] = until(lambda: news(service, answer.event_id, "decision"), "the decision is in the log")
    assert decision["placement_id"] == "personalizer"
    assert decision["properties"]["context"] == {
        "timeOfDay": "morning", "device.type": "mobile", "device.sizes.0": 1, "device.sizes.1": 2
    }  # fmt: skip
    assert decision["properties"]["features"]["b"] == {"kind": "b", "price.net": 9.5}
    [shown] = until(lambda: news(service, answer.event_id, "impression"), "it counts as shown")
    assert shown["action_id"] == answer.reward_action_id


def test_an_excluded_action_is_never_chosen_and_has_no_share(service: Service) -> None:
    for _ in range(20):
        answer = client(service, "lab").rank(request(excluded_actions=["b"]))
        assert [one.probability for one in answer.ranking] == [0.5, 0.0, 0.5]
        assert answer.reward_action_id != "b"


def test_a_deferred_event_is_shown_only_when_it_is_activated(service: Service) -> None:
    name = f"order {random.getrandbits(64)}/ü?"
    answer = client(service, "lab").rank(request(event_id=name, defer_activation=True))
    assert answer.event_id == name
    [decision] = until(lambda: news(service, tail_of("lab", name), "decision"), "the decision is in the log")
    assert decision["placement_id"] == "lab"
    assert news(service, tail_of("lab", name), "impression") == []
    assert client(service, "lab").events.activate(name) is None
    assert client(service, "lab").events.activate(name) is None
    found = until(lambda: news(service, tail_of("lab", name), "impression"), "it was activated")
    assert {one["action_id"] for one in found} == {answer.reward_action_id}


def test_a_reward_reaches_its_decision_by_either_kind_of_id(service: Service) -> None:
    for name in (None, f"mine-{random.getrandbits(64)}", uuid.uuid4().hex):
        answer = client(service).rank(request(event_id=name))
        assert client(service).events.reward(answer.event_id, 0.25) is None
        [decision] = news(service, tail_of(PLACEMENT, name) if name else answer.event_id, "decision")
        [reward] = news(service, decision["decision_id"], "reward")
        assert reward["reward"] == 0.25


def test_a_rank_that_is_asked_again_gets_the_same_answer_and_counts_once(service: Service) -> None:
    name = f"again-{random.getrandbits(64)}"
    answers = {client(service, "lab").rank(request(event_id=name)).reward_action_id for _ in range(12)}
    assert len(answers) == 1
    assert len(until(lambda: news(service, tail_of("lab", name), "impression"), "shown")) == 1
    assert len(news(service, tail_of("lab", name), "decision")) == 1


def test_the_same_name_in_two_loops_is_two_events(service: Service) -> None:
    name = f"twice-{random.getrandbits(64)}"
    for placement in ("lab", "other"):
        client(service, placement).rank(request(event_id=name))
        [decision] = until(lambda at=placement: news(service, tail_of(at, name), "decision"), "its decision")
        assert decision["placement_id"] == placement


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"actions": []}, "actions"),
        ({"actions": [{"features": []}]}, "id"),
        ({"actions": [{"id": "a"}, {"id": "b", "features": [{f"f{n}": n for n in range(40)}]}]}, "features"),
        ({"actions": [{"id": "a"}], "contextFeatures": [{"x": "y" * 300}]}, "context"),
        ({"actions": [{"id": "a"}], "eventId": "x" * 300}, "eventId"),
        ({"actions": [{"id": f"a{n}"} for n in range(101)]}, "expected at most 100"),
        ({"actions": [{"id": "a"}], "contextFeatures": "morning"}, "contextFeatures"),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_the_field_and_what_was_expected(
    service: Service, sent: dict[str, object], told: str
) -> None:
    headers = {"Ocp-Apim-Subscription-Key": "secret"}
    answer = service.http.post("/personalizer/v1.0/rank", json=sent, headers=headers)
    assert answer.status_code == 400
    assert told in answer.json()["detail"]


def test_everything_excluded_is_an_answer_without_a_choice(service: Service) -> None:
    headers = {"Ocp-Apim-Subscription-Key": "secret"}
    sent = {"actions": [{"id": "a"}], "excludedActions": ["a"]}
    answer = service.http.post("/personalizer/v1.0/rank", json=sent, headers=headers)
    assert answer.status_code == 400
    assert "excludedActions: all actions are excluded, expected one at least to be left" in answer.json()["detail"]


def test_a_key_is_asked_for_by_its_name_there(service: Service) -> None:
    with pytest.raises(HttpOperationError) as caught:
        client(service, key="wrong").rank(request())
    assert caught.value.response.status_code == 401


@pytest.mark.parametrize("value", [-1.0, 1.5])
def test_a_reward_out_of_range_is_refused(service: Service, value: float) -> None:
    answer = client(service).rank(request())
    with pytest.raises(HttpOperationError) as caught:
        client(service).events.reward(answer.event_id, value)
    assert caught.value.response.status_code == 400


def test_an_event_that_nobody_ranked_is_not_found_once_the_warehouse_was_asked(service: Service) -> None:
    """Here the warehouse is away: so it may be known there, and the answer says to try again."""
    with pytest.raises(HttpOperationError) as caught:
        client(service).events.reward("never-ranked", 1.0)
    assert caught.value.response.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"


def test_a_name_stands_for_the_same_decision_everywhere() -> None:
    """Frozen: another process, after any upgrade, has to find the decision by it."""
    assert tail_of("home", "order-1") == "3c36b64da5b2af00ff0f"
    assert not is_own("0" * TIME_CHARS + tail_of("home", "order-1")[:-1] + "x")
    assert is_own("0" * TIME_CHARS + tail_of("home", "order-1"))


def test_features_are_named_by_namespace_and_place() -> None:
    given = [{"a": 1}, {"b": {"c": True, "d": [None, {"e": "x"}]}}]
    assert dict(named(given)) == {"a": 1, "b.c": True, "b.d.0": None, "b.d.1.e": "x"}

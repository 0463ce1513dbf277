"""Delivery over real HTTP on a real broker: decisions, what becomes of them, and what it says about itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hypothesis
import jsonschema
import msgspec
import pytest
from delivery_rig import Service, StateTopic, read_collected
from hypothesis import given
from hypothesis import strategies as st

from pipeline import topics
from pipeline.core.clean import CleanRules, clean
from pipeline.core.decide import partition_of as decision_partition
from pipeline.core.policy import EpsilonGreedy, PolicyRules
from pipeline.core.prior import priors
from pipeline.core.redraw import redraw
from pipeline.edge.clock import now_ms
from pipeline.embedded.kafka import EmbeddedKafka
from pipeline.settings import Settings
from schemas.block import partition_of
from schemas.event import Collected, Context, Event, EventType
from schemas.model import ArmStatistics, PlacementModel
from schemas.outcome import DecisionLog
from schemas.profile import Profile, VisitorState
from schemas.topics import MODELS, PROFILES
from tests.services.collector_rig import broker_in
from tests.waits import free_port, until

MICROS = 1_000_000
PARTITIONS = 2
CLEAN = CleanRules(3_600_000, 86_400_000, 1_000, 86_400_000, 86_400_000)
VISITOR = "visitor-1"
TARGET = "https://shop.example/a"
BEST = {"a": ArmStatistics(500, 10 * MICROS), "b": ArmStatistics(500, 200 * MICROS)}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with broker_in(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture(scope="module")
def service(broker: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data_dir = tmp_path_factory.mktemp("delivery")
    settings = Settings(
        data_dir=data_dir,
        kafka_bootstrap_servers=broker.bootstrap_servers,
        partitions=PARTITIONS,
        delivery_port=free_port(),
        clickhouse_port=free_port(),
        write_keys={"k1": "shop", "k2": "blog"},
        policy_placements={"lab": "uniform"},
        actions_max=100,
    )
    topics.apply(settings)
    service = Service(settings, data_dir / "log")
    try:
        service.wait_for("/readyz")
        yield service
    finally:
        assert service.stop() == 0


@pytest.fixture(scope="module")
def owners(service: Service) -> Iterator[dict[str, list[StateTopic]]]:
    parts = range(PARTITIONS)
    found = {topic.name: [StateTopic(service.settings, topic, at) for at in parts] for topic in (PROFILES, MODELS)}
    yield found
    for owner in (owner for some in found.values() for owner in some):
        owner.close()


@pytest.fixture(scope="module")
def learnt(service: Service, owners: dict[str, list[StateTopic]]) -> Service:
    """The service, knowing one visitor, and one placement from both partitions."""
    profiles, models = owners[PROFILES.name], owners[MODELS.name]
    at = partition_of(VISITOR, PARTITIONS)
    for number in range(PARTITIONS):
        profile = Profile(events=7, visits=2, user_id="u1")
        profiles[number].put(3, {VISITOR: VisitorState(profile)} if number == at else {})
        models[number].put(4, {"home": PlacementModel(BEST, now_ms())})
    until(lambda: "0:4,1:4" in service.http.get("/v1/models/home").text, "the model of both partitions arrives")
    until(lambda: service.http.get(f"/v1/profiles/{VISITOR}").status_code == 200, "the profile arrives")
    return service


def ask(service: Service, headers: dict[str, str] | None = None, **more: Any) -> Any:
    body = {
        "placement": "home",
        "visitor": VISITOR,
        "actions": [{"id": "a", "url": TARGET, "campaign_id": "c1"}, {"id": "b", "features": {"x": 1}}],
        **more,
    }
    answer = service.http.post("/v1/decisions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def logged(service: Service, decision_id: str, kind: EventType) -> tuple[int, Context, Collected, Event]:
    """Wait for an event of a decision in `collected`; return it as collected and as the clean stage reads it."""

    def found() -> tuple[int, Context, Collected, Event] | None:
        for partition, context, event in read_collected(service.settings, PARTITIONS):
            raw = json.loads(event.raw)
            if raw["decision_id"] == decision_id and raw["type"] == kind.value:
                cleaned = clean(event, context, CLEAN)
                assert isinstance(cleaned, Event), cleaned
                return partition, context, event, cleaned
        return None

    result: tuple[int, Context, Collected, Event] = until(found, f"{kind.value} of {decision_id} in the log")
    return result


def test_a_decision_prefers_what_was_learnt_on_both_partitions_and_says_how_sure_it_was(learnt: Service) -> None:
    found = [ask(learnt) for _ in range(60)]
    shown = [one["actions"][0] for one in found]
    assert {(one["id"], round(one["probability"], 9)) for one in shown} <= {("b", 0.95), ("a", 0.05)}
    assert sum(one["id"] == "b" for one in shown) > 40
    assert found[0]["policy"] == "epsilon_greedy"
    assert found[0]["model_version"] == "0:4,1:4"
    assert found[0]["profile"] == {"known": True, "version": 3}
    assert found[0]["degraded"] == []
    assert len({one["decision_id"] for one in found}) == 60


def test_a_decision_stands_in_the_log_of_its_visitors_partition_and_can_be_replayed(learnt: Service) -> None:
    answer = ask(learnt, count=2, context={"hour": 7, "mail": "jo@example.org"})
    partition, context, collected, event = logged(learnt, answer["decision_id"], EventType.DECISION)
    assert partition == partition_of(VISITOR, PARTITIONS) == decision_partition(answer["decision_id"], PARTITIONS)
    assert (collected.visitor, collected.event_id, context.site) == (VISITOR, answer["decision_id"], "shop")
    assert (event.placement_id, event.action_id) == ("home", answer["actions"][0]["id"])
    log = msgspec.json.decode(event.properties, type=DecisionLog)
    arms = {key: ArmStatistics(2 * arm.trials, 2 * arm.reward_micros) for key, arm in BEST.items()}
    policy = EpsilonGreedy(arms, PolicyRules(0.1, 0.02, 50.0), priors(arms, 0.02, 50.0))
    assert log.scores == policy.scores(log.candidates)
    assert redraw(log).differences == []
    assert [choice.action_id for choice in log.choices] == [one["id"] for one in answer["actions"]]
    assert log.features == {"b": {"x": 1}}
    assert log.context["hour"] == 7
    assert b"jo@example.org" not in collected.raw


def test_following_the_addresses_of_a_decision_logs_an_impression_and_a_click(learnt: Service) -> None:
    """The click goes on to the action's target, and both stand in the decision's partition with all its names."""
    action = {"id": "a", "url": f"{TARGET}?x=1", "campaign_id": "c1", "creative_id": "k"}
    answer = ask(learnt, actions=[action])
    shown = answer["actions"][0]
    pixel = learnt.http.get(shown["impression_url"], headers={"user-agent": "Mozilla/5.0 (X11; Linux) Firefox/130.0"})
    assert (pixel.status_code, pixel.headers["content-type"], pixel.content[:6]) == (200, "image/gif", b"GIF89a")
    click = learnt.http.get(shown["click_url"])
    assert (click.status_code, click.headers["location"]) == (302, "https://shop.example/a?x=1")
    assert "no-store" in click.headers["cache-control"]
    for kind in (EventType.IMPRESSION, EventType.CLICK):
        partition, context, collected, event = logged(learnt, answer["decision_id"], kind)
        assert partition == decision_partition(answer["decision_id"], PARTITIONS)
        assert (event.placement_id, event.action_id, event.campaign_id, event.creative_id) == ("home", "a", "c1", "k")
        assert (collected.visitor, context.ip) == (VISITOR, "127.0.0.0")


def test_a_click_that_is_repeated_has_the_same_event_id(learnt: Service) -> None:
    answer = ask(learnt, actions=[{"id": "a", "url": TARGET}])
    for _ in range(2):
        assert learnt.http.get(answer["actions"][0]["click_url"]).status_code == 302
    found = [
        event.event_id
        for _, context, event in read_collected(learnt.settings, PARTITIONS)
        if context.kind == "click" and answer["decision_id"].encode() in event.raw
    ]
    assert len(found) == 2
    assert len(set(found)) == 1


def test_a_reward_is_in_the_log_when_it_is_answered(learnt: Service) -> None:
    answer = ask(learnt)
    path = f"/v1/decisions/{answer['decision_id']}/reward"
    reward = learnt.http.post(path, json={"value": 0.25, "action_id": "b"})
    again = learnt.http.post(path, json={"value": 0.25, "action_id": "b"})
    assert reward.status_code == again.status_code == 200
    assert reward.json() == again.json()
    _, _, collected, event = logged(learnt, answer["decision_id"], EventType.REWARD)
    assert (event.score, event.action_id, collected.event_id) == (0.25, "b", reward.json()["event_id"])


def test_a_reward_of_a_decision_that_nobody_remembers_is_taken_by_its_id(learnt: Service) -> None:
    """Another delivery made it, or a restart lies between: its id says where it belongs."""
    decision_id = "0197" + "0" * 8 + "00000003" + "0" * 12
    assert learnt.http.post(f"/v1/decisions/{decision_id}/reward", json={"value": 1, "event_id": "mine"}).json() == {
        "event_id": "mine"
    }
    partition, _, _, event = logged(learnt, decision_id, EventType.REWARD)
    assert (partition, event.score) == (3 % PARTITIONS, 1.0)


@pytest.mark.parametrize(("headers", "more"), [
    ({"sec-gpc": "1"}, {}), ({"dnt": "1"}, {}), ({}, {"consent": False}), ({}, {"visitor": "null"}),
])  # fmt: skip
def test_without_consent_no_decision_is_personal_and_no_id_is_logged(
    learnt: Service, headers: dict[str, str], more: dict[str, Any]
) -> None:
    answer = ask(learnt, headers, **more)
    assert answer["profile"] == {"known": False, "version": -1}
    _, context, collected, event = logged(learnt, answer["decision_id"], EventType.DECISION)
    assert (collected.visitor, event.visitor) == ("", "")
    assert VISITOR.encode() not in collected.raw
    assert context.no_consent == ("visitor" not in more)


def test_a_decision_is_explained_in_full(learnt: Service) -> None:
    actions = [{"id": "a"}, {"id": "b", "url": "javascript:alert(1)"}, {"id": "a"}]
    answer = ask(learnt, actions=actions)
    found = learnt.http.get(f"/v1/decisions/{answer['decision_id']}").json()
    assert (found["source"], found["visitor"], found["placement"]) == ("memory", VISITOR, "home")
    assert found["candidates"] == ["a"]
    assert found["propensities"] == [1.0]
    assert found["excluded"] == {"a": "duplicate", "b": "bad_url"}
    assert found["context"]["profile"]["visits"] == 2
    assert answer["actions"][0]["click_url"] is None


def test_a_profile_is_readable_and_an_unknown_one_is_404(learnt: Service) -> None:
    found = learnt.http.get(f"/v1/profiles/{VISITOR}").json()
    assert (found["version"], found["profile"]["events"], found["profile"]["user_id"]) == (3, 7, "u1")
    assert found["degraded"] == []
    missing = learnt.http.get("/v1/profiles/nobody%2Fat%20all%F0")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")


def test_a_model_shows_its_arms_with_what_they_earned(learnt: Service) -> None:
    found = learnt.http.get("/v1/models/home/").json()
    arms = {arm["id"]: arm for arm in found["arms"]}
    assert (arms["b"]["trials"], arms["b"]["reward"], arms["b"]["share"]) == (1_000, 400.0, pytest.approx(0.95))
    assert arms["a"]["low"] < arms["a"]["mean"] < arms["a"]["high"] < arms["b"]["low"]
    assert learnt.http.get("/v1/models/nowhere").status_code == 404


def test_a_change_of_profile_and_model_is_used_by_later_decisions_and_timed(
    learnt: Service, owners: dict[str, list[StateTopic]]
) -> None:
    """What the profile stage writes now is in the next decisions; how long it took is measured."""
    at = partition_of("visitor-2", PARTITIONS)
    owners[PROFILES.name][at].put(9, {"visitor-2": VisitorState(Profile(events=1))})
    until(lambda: ask(learnt, visitor="visitor-2")["profile"] == {"known": True, "version": 9}, "visitor-2 is known")
    owners[MODELS.name][0].put(9, {"new": PlacementModel({"a": ArmStatistics(900, 800 * MICROS)}, now_ms())})
    until(lambda: ask(learnt, placement="new")["model_version"] == "0:9", "the new placement's model is used")
    text = learnt.http.get("/metrics").text
    timed = next(line for line in text.splitlines() if line.startswith("herald_event_to_decision_seconds_count"))
    assert float(timed.split()[1]) >= 1


def test_what_a_fenced_owner_still_writes_changes_nothing(learnt: Service, owners: dict[str, list[StateTopic]]) -> None:
    at = partition_of("visitor-3", PARTITIONS)
    new = StateTopic(learnt.settings, PROFILES, at, owner="new")
    owners[PROFILES.name][at].put(50, {"visitor-3": VisitorState(Profile(events=666))})
    new.put(51, {"visitor-3": VisitorState(Profile(events=1))})
    until(lambda: learnt.http.get("/v1/profiles/visitor-3").status_code == 200, "visitor-3 is known")
    assert learnt.http.get("/v1/profiles/visitor-3").json()["profile"]["events"] == 1
    owners[PROFILES.name][at] = new


def test_a_profile_that_cannot_be_read_does_not_stop_its_visitors_decisions(
    learnt: Service, owners: dict[str, list[StateTopic]]
) -> None:
    """Written by another version, say: the decision goes without it, and says so."""
    at = partition_of("visitor-4", PARTITIONS)
    owners[PROFILES.name][at].put(60, {"visitor-4": ArmStatistics(1, 2, 3)})
    answer = until(
        lambda: (found := ask(learnt, visitor="visitor-4"))["profile"]["version"] == 60 and found, "version 60 is read"
    )
    assert answer["degraded"] == ["profile_unreadable"]
    assert answer["profile"]["known"] is False
    assert answer["actions"]


def test_a_placement_that_nobody_has_published_is_asked_for_with_actions(learnt: Service) -> None:
    answer = learnt.http.post("/v1/decisions", json={"placement": "home"})
    assert answer.status_code == 404
    assert answer.json()["code"] == "unknown_placement"
    assert "'home' is not published" in answer.json()["detail"]


def test_nothing_stands_twice_on_one_page(learnt: Service) -> None:
    actions = [{"id": name} for name in ("a", "b", "c")]
    page = [{"placement": "top", "actions": actions, "count": 2}, {"placement": "foot", "actions": actions, "count": 2}]
    answer = learnt.http.post("/v1/decisions", json={"placements": page, "visitor": "v1"}).json()
    shown = [[action["id"] for action in one["actions"]] for one in answer["decisions"]]
    assert [one["placement"] for one in answer["decisions"]] == ["top", "foot"]
    assert (len(shown[0]), len(shown[1])) == (2, 1)
    assert sorted(shown[0] + shown[1]) == ["a", "b", "c"]
    explained = learnt.http.get(f"/v1/decisions/{answer['decisions'][1]['decision_id']}").json()
    assert explained["excluded"] == dict.fromkeys(sorted(shown[0]), "on_page")


def test_a_placement_may_have_a_policy_of_its_own(learnt: Service) -> None:
    answer = ask(learnt, placement="lab")
    assert (answer["policy"], answer["actions"][0]["probability"], answer["model_version"]) == ("uniform", 0.5, "")


def test_the_document_and_its_page_need_no_network(learnt: Service) -> None:
    found = learnt.http.get("/openapi.json").json()
    assert found["openapi"] == "3.1.0"
    request = found["components"]["schemas"]["DecisionRequest"]
    validator = jsonschema.Draft202012Validator({**request, "components": found["components"]})
    assert validator.is_valid({"placement": "home", "actions": [{"id": "a"}]})
    assert validator.is_valid({"placements": [{"placement": "home", "count": 2}]})
    assert not validator.is_valid({"placement": "home", "actions": [{"id": ""}]})
    page = learnt.http.get("/docs")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.text.lower().replace("http-equiv", "")
    for name in ("docs.js", "docs.css"):
        body = learnt.http.get(f"/docs/{name}")
        assert body.status_code == 200
        assert "innerHTML" not in body.text
        assert "//" not in body.text.replace("// Shows", "")


def test_a_restart_reads_profiles_and_models_again_from_where_they_begin(learnt: Service, tmp_path: Path) -> None:
    settings = Settings(**{**learnt.settings.model_dump(exclude_unset=True), "delivery_port": free_port()})
    second = Service(settings, tmp_path / "log")
    try:
        second.wait_for("/readyz")
        assert second.http.get(f"/v1/profiles/{VISITOR}").json()["profile"]["events"] == 7
        assert second.http.get("/v1/profiles/visitor-3").json()["profile"]["events"] == 1
        assert second.http.get("/v1/models/home").json()["arms"][0]["trials"] == 1_000
        answer = ask(learnt, actions=[{"id": "a", "url": TARGET}])
        token = answer["actions"][0]["click_url"].rpartition("/")[2]
        assert second.http.get(f"/c/{token}").headers["location"] == "https://shop.example/a"
    finally:
        assert second.stop() == 0


BODY: dict[str, Any] = {"placement": "home", "actions": [{"id": "a"}]}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(("content", "headers", "status", "word"), [
    (b"", JSON, 400, "bad_json"),
    (b"{", JSON, 400, "bad_json"),
    (b"\xff\xfe{\x00}\x00", JSON, 400, "bad_json"),
    (b"[]", JSON, 400, "invalid"),
    (b"[" * 100_000, JSON, 400, "bad_json"),
    (b'{"placement": "\\ud800", "actions": [{"id": "a"}]}', JSON, 400, ""),
    (b'{"placement": "home", "actions": [{"id": "a", "features": {"x": NaN}}]}', JSON, 400, ""),
    (b'{"placement": "home", "actions": [{"id": "a", "features": {"x": 1e999}}]}', JSON, 400, ""),
    (b'{"placement": "home", "actions": [{"id": "a", "features": {"x": 1234567890123456789012}}]}', JSON, 200, ""),
    (b'{"placement": "home", "actions": [{"id": "a"}], "visitor": "\\u0000\\u0001"}', JSON, 200, ""),
    (json.dumps(BODY).encode(), {"content-type": "text/plain"}, 415, "media_type"),
    (json.dumps(BODY).encode(), {**JSON, "content-encoding": "gzip"}, 415, "encoding"),
    (json.dumps(BODY).encode(), {"content-type": "application/json; charset=utf-8"}, 200, ""),
    (b" " * 1_100_000, JSON, 413, "too_large"),
])  # fmt: skip
def test_no_body_is_a_500(learnt: Service, content: bytes, headers: dict[str, str], status: int, word: str) -> None:
    answer = learnt.http.post("/v1/decisions", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        assert word in answer.json()["code"]


@pytest.mark.parametrize(("change", "where", "expected"), [
    ({"placements": [{"placement": "top"}]}, "", "either `placement` or `placements`"),
    ({"placement": "", "placements": [{"placement": "top"}]}, "", "inside of each"),
    ({"actions": [{"id": f"a{number}"} for number in range(10_000)]}, "actions", "at most 100"),
    ({"actions": [{}]}, "actions.0.id", "required"),
    ({"actions": [{"id": ""}]}, "actions.0.id", "at least 1"),
    ({"actions": [{"id": " a"}]}, "actions.0.id", "pattern"),
    ({"actions": [{"id": "a" * 129}]}, "actions.0.id", "128"),
    ({"actions": [{"id": 7}]}, "actions.0.id", "string"),
    ({"actions": {"id": "a"}}, "actions", "array"),
    ({"actions": [{"id": "a", "features": {str(n): n for n in range(33)}}]}, "actions.0.features", "32"),
    ({"actions": [{"id": "a", "features": {"x": {"deep": 1}}}]}, "actions.0.features.x", ""),
    ({"count": 0}, "count", "greater than or equal to 1"),
    ({"count": 10**30}, "count", "50"),
    ({"count": "many"}, "count", "integer"),
    ({"placement": None}, "placement", "string"),
    ({"policy": "uniform"}, "policy", "not permitted"),
    ({"site": "elsewhere"}, "site", "blog, shop"),
])  # fmt: skip
def test_a_wrong_field_is_named_with_what_was_expected(
    learnt: Service, change: dict[str, Any], where: str, expected: str
) -> None:
    answer = learnt.http.post("/v1/decisions", json=BODY | change)
    assert answer.status_code == 400, answer.text
    found = answer.json()
    assert found["errors"][0]["where"].startswith(where)
    assert expected in found["errors"][0]["expected"]
    assert found["title"] == "Bad Request"


@pytest.mark.parametrize("value", [None, -0.1, 1.1, "x", [1], {}])
def test_a_reward_outside_nothing_and_one_is_refused(learnt: Service, value: object) -> None:
    path = f"/v1/decisions/{'0' * 32}/reward"
    assert learnt.http.post(path, json={"value": value}).status_code == 400
    assert learnt.http.post(path, content=b'{"value": NaN}', headers=JSON).status_code == 400


@pytest.mark.parametrize("decision_id", ["x", "0" * 31, "G" * 32, "%00", "..%2f..%2fetc"])
def test_what_is_no_decision_id_is_404(learnt: Service, decision_id: str) -> None:
    assert learnt.http.post(f"/v1/decisions/{decision_id}/reward", json={"value": 1}).status_code == 404
    assert learnt.http.get(f"/v1/decisions/{decision_id}").status_code == 404


def test_altered_and_invented_addresses_are_400(learnt: Service) -> None:
    shown = ask(learnt, actions=[{"id": "a", "url": TARGET}])["actions"][0]
    token = shown["click_url"].rpartition("/")[2]
    for altered in (token[:-1] + ("A" if token[-1] != "A" else "B"), "x" + token[1:], token * 30, "%20", "é", "..."):
        for path in (f"/c/{altered}", f"/v1/i/{altered}.gif"):
            answer = learnt.http.get(path)
            assert answer.status_code == 400, path
            assert "location" not in answer.headers
    assert learnt.http.get(f"/v1/i/{token}.gif").status_code == 400


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/nope", 404), ("GET", "/", 404), ("GET", "//", 404), ("GET", "/v1/decisions", 405),
    ("DELETE", "/v1/decisions/x", 405), ("POST", "/healthz", 405), ("GET", "/healthz/", 200),
    ("GET", "/c/", 404), ("PUT", "/v1/reports/rollup", 405),
])  # fmt: skip
def test_unknown_addresses_have_one_form_of_answer(learnt: Service, method: str, path: str, status: int) -> None:
    answer = learnt.http.request(method, path)
    assert answer.status_code == status
    if status == 405:
        assert answer.headers["allow"]
    if status >= 400:
        assert set(answer.json()) == {"type", "title", "status", "code", "detail", "errors"}


def test_reports_are_checked_before_the_warehouse_is_asked_and_say_when_it_is_away(learnt: Service) -> None:
    wrong = learnt.http.get("/v1/reports/rollup", params={"dimensions": "visitor'; DROP TABLE events"})
    assert wrong.status_code == 422
    assert "placement" in wrong.json()["detail"]
    away = learnt.http.get("/v1/reports/rollup")
    assert (away.status_code, away.headers["retry-after"]) == (503, "1")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
ACTION_FIELDS = st.sampled_from(["id", "url", "campaign_id", "creative_id", "features", "x"])
ACTIONS = st.lists(st.dictionaries(ACTION_FIELDS, VALUES, max_size=4) | VALUES, max_size=4) | VALUES
REQUEST_FIELDS = st.sampled_from(["placement", "visitor", "consent", "count", "context", "site", "é"])


@hypothesis.settings(max_examples=300, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@given(fields=st.dictionaries(REQUEST_FIELDS, VALUES), actions=ACTIONS, good=st.booleans())
def test_whatever_is_asked_is_answered_or_refused_and_never_fails(
    learnt: Service, fields: dict[str, Any], actions: Any, good: bool
) -> None:
    """Any JSON, also with NaN, lone surrogates and huge numbers; half of the requests are right but for some fields."""
    body = (BODY if good else {"actions": actions}) | fields
    answer = learnt.http.post("/v1/decisions", content=json.dumps(body).encode(), headers=JSON)
    assert answer.status_code in (200, 400), (body, answer.text)
    assert answer.json()["decision_id" if answer.status_code == 200 else "detail"]


@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@given(path=st.text(st.characters(codec="utf-8", exclude_characters="?#\r\n\t\x00"), max_size=40))
def test_whatever_stands_in_a_path_is_found_or_not(learnt: Service, path: str) -> None:
    quoted = quote(path, safe="/")
    for prefix in ("/v1/profiles/", "/v1/models/", "/v1/decisions/", "/c/", "/v1/i/", "/"):
        assert learnt.http.get(prefix + quoted).status_code in (200, 302, 400, 404, 405), prefix + quoted

"""Delivery when others are away, and who may ask it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from delivery_rig import Service, without_stores

from pipeline.settings import Settings
from tests.waits import free_port

BODY: dict[str, Any] = {
    "placement": "home",
    "visitor": "v1",
    "actions": [{"id": "a", "url": "https://shop.example/a"}, {"id": "b", "url": "https://shop.example/b"}],
}
KEY = {"authorization": "Bearer first"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Delivery with no broker, no warehouse and room for a few events, behind keys."""
    data_dir, keys = tmp_path_factory.mktemp("alone"), ("first", "second")
    with without_stores(data_dir, delivery_keys=keys, buffer_bytes_max=4_000, ack_timeout_ms=60_000) as service:
        yield service


def test_a_decision_is_answered_without_a_broker_and_says_what_it_did_without(alone: Service) -> None:
    """Nothing is read, and once the buffer is full nothing more is logged: the answer comes all the same."""
    found = [alone.http.post("/v1/decisions", json=BODY, headers=KEY).json() for _ in range(12)]
    assert {one["actions"][0]["probability"] for one in found} == {0.5}
    assert found[0]["degraded"] == ["profiles_loading", "models_loading"]
    assert found[-1]["degraded"] == ["profiles_loading", "models_loading", "unlogged"]
    text = alone.http.get("/metrics").text
    lost = next(line for line in text.splitlines() if line.startswith("herald_decisions_unlogged_total"))
    assert float(lost.split()[1]) >= 1


def test_a_click_still_goes_on_and_an_impression_says_that_it_was_not_stored(alone: Service) -> None:
    shown = alone.http.post("/v1/decisions", json=BODY, headers=KEY).json()["actions"][0]
    click = alone.http.get(shown["click_url"])
    assert (click.status_code, click.headers["location"]) == (302, f"https://shop.example/{shown['id']}")
    pixel = alone.http.get(shown["impression_url"])
    assert (pixel.status_code, pixel.headers["content-type"], pixel.headers["retry-after"]) == (503, "image/gif", "1")
    assert 'herald_rewards_total{kind="click",result="unlogged"} 1.0' in alone.http.get("/metrics").text


def test_a_reward_is_refused_while_the_broker_is_away(alone: Service) -> None:
    answer = alone.http.post(f"/v1/decisions/{'0' * 32}/reward", json={"value": 1}, headers=KEY)
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), answer.text


def test_it_is_alive_but_not_ready(alone: Service) -> None:
    assert alone.http.get("/healthz").status_code == 200
    ready = alone.http.get("/readyz")
    assert ready.status_code == 503
    assert "the log cannot be written" in ready.json()["detail"]


def test_campaigns_that_are_still_being_read_are_no_404(alone: Service) -> None:
    answer = alone.http.post("/v1/decisions", json={"placement": "home", "visitor": "v1"}, headers=KEY)
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), answer.text
    assert "campaigns are still being read" in answer.json()["detail"]


def test_profiles_that_are_still_being_read_are_no_404(alone: Service) -> None:
    for path in ("/v1/profiles/v1", "/v1/models/home"):
        assert alone.http.get(path, headers=KEY).status_code == 503


@pytest.mark.parametrize("headers", [
    {}, {"authorization": "Bearer wrong"}, {"authorization": "Basic first"}, {"authorization": "Bearer"},
    {"x-herald-key": ""}, {"x-herald-key": "firstsecond"}, {"authorization": "first"},
])  # fmt: skip
def test_without_a_key_nothing_is_told(alone: Service, headers: dict[str, str]) -> None:
    asked = [("POST", "/v1/decisions"), ("GET", "/v1/profiles/v1"), ("GET", "/v1/models/home"),
             ("GET", "/v1/reports/rollup"), ("GET", f"/v1/decisions/{'0' * 32}"),
             ("POST", f"/v1/decisions/{'0' * 32}/reward")]  # fmt: skip
    for method, path in asked:
        answer = alone.http.request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path


@pytest.mark.parametrize("headers", [{"authorization": "bearer second"}, {"x-herald-key": "first"}])
def test_any_of_the_keys_opens(alone: Service, headers: dict[str, str]) -> None:
    assert alone.http.post("/v1/decisions", json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(("given", "expected"), [
    ({"host": "0.0.0.0"}, "HERALD_DELIVERY_KEYS"),
    ({"policy_default": "best"}, "epsilon_greedy, "),
    ({"policy_placements": {"home": "best"}}, "'best'"),
])  # fmt: skip
def test_settings_that_cannot_be_meant_stop_the_start(tmp_path: Path, given: dict[str, Any], expected: str) -> None:
    settings = Settings(data_dir=tmp_path, kafka_bootstrap_servers="127.0.0.1:1", delivery_port=free_port(), **given)
    service = Service(settings, tmp_path / "log")
    service.http.close()
    assert service.process.wait(30) == 2
    assert expected in (tmp_path / "log").read_text()

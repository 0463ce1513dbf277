"""The campaigns' service over HTTP, on SQLite and without a broker: what it answers, and to whom."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from campaigns_rig import BODIES, Service, body, new_database, of_url, opened, postgres, serving, without_broker
from pydantic import SecretStr

from pipeline.campaigns import rules
from pipeline.campaigns.routes import document
from pipeline.campaigns.service import check_exposed
from pipeline.errors import Retryable, SettingsError
from pipeline.settings import Settings, load
from schemas.campaign import KINDS, Stored
from tests.fuzz.contract import Contract, ask_all
from tests.waits import free_port, until


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(without_broker(tmp_path_factory.mktemp("campaigns"))) as found:
        for kind in BODIES:
            assert found.put(kind).status_code == 201
        yield found


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    keys = {"ann": SecretStr("first"), "bob": SecretStr("second")}
    with serving(without_broker(tmp_path_factory.mktemp("keyed"), campaigns_keys=keys)) as found:
        yield found


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem document of an answer."""
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["status"], found["code"]) == (status, status, code), found
    return found


# --- one object -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_is_what_was_put_with_its_defaults_and_its_etag(service: Service, kind: str) -> None:
    wanted = body(kind, id=f"own-{kind}")
    made = service.put(kind, id=wanted.id)
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    found = service.http.get(f"/v1/{kind}/{wanted.id}")
    assert (found.status_code, found.headers["etag"], found.text) == (200, '"1"', made.text)
    stored = Stored.model_validate_json(found.text)
    assert (stored.kind, stored.version, stored.status, stored.changed_by) == (kind, 1, "draft", "anonymous")
    assert stored.body == rules.as_json(wanted)
    listed = service.http.get(f"/v1/{kind}", params={"after": f"own-{kind[:-1]}"}).json()
    assert wanted.id in [one["id"] for one in listed["items"]]


def test_an_object_goes_through_its_life(service: Service) -> None:
    """Draft, changed, reviewed, published, rolled back; its versions, its differences, and who did it."""
    own = "/v1/campaigns/life"
    service.put("campaigns", id="life")
    assert service.put("campaigns", 1, id="life", name="Second").headers["etag"] == '"2"'
    for version, to in ((2, "review"), (3, "published")):
        stepped = service.http.post(f"{own}/status", json={"to": to}, headers={"if-match": f'"{version}"'})
        assert (stepped.status_code, stepped.json()["status"]) == (200, to)
    back = service.http.post(f"{own}/rollback", json={"version": 1}, headers={"if-match": '"4"'})
    assert (back.json()["version"], back.json()["body"]["name"], back.json()["status"]) == (5, "Spring", "published")
    versions = service.http.get(f"{own}/versions", params={"limit": 2}).json()
    assert ([one["version"] for one in versions["items"]], versions["next"]) == ([1, 2], 2)
    rest = service.http.get(f"{own}/versions", params={"after": 2}).json()
    assert ([one["version"] for one in rest["items"]], rest["next"]) == ([3, 4, 5], None)
    assert service.http.get(f"{own}/versions/2").json() == versions["items"][1]
    names = [{"op": "replace", "path": "/name", "before": "Second", "after": "Spring"}]
    assert service.http.get(f"{own}/diff").json() == {"older": 4, "newer": 5, "differences": names, "status": []}
    asked = service.http.get(f"{own}/diff", params={"from": 1, "to": 5}).json()
    assert (asked["differences"], asked["status"]) == ([], ["draft", "published"])
    audit = service.http.get("/v1/audit", params={"kind": "campaigns", "id": "life"}).json()["items"]
    assert [one["what"] for one in audit] == ["create", "change", "status review", "status published", "rollback 1"]
    assert {(one["who"], one["whence"]) for one in audit} == {("anonymous", "127.0.0.1")}


def test_the_same_put_again_changes_nothing(service: Service) -> None:
    service.put("advertisers", id="calm")
    again = service.put("advertisers", 1, id="calm")
    assert (again.status_code, again.headers["etag"]) == (200, '"1"')


# --- what is refused --------------------------------------------------------------------------------------------------

BACKWARDS = {"starts_at": "2026-02-01T00:00:00Z", "ends_at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(("kind", "changes", "status", "code", "where", "told"), [
    ("campaigns", {"schedule": BACKWARDS}, 400, "invalid", "schedule", "is not after starts_at 2026-02-01"),
    ("campaigns", {"advertiser": "nobody"}, 422, "unknown_parent", "advertiser", "no advertisers/nobody"),
    ("campaigns", {"budget": {"total_micros": 0}}, 400, "invalid", "budget.total_micros", "greater than or equal to 1"),
    ("campaigns", {"colour": "red"}, 400, "invalid", "colour", "not permitted"),
    ("campaigns", {"name": ""}, 400, "invalid", "name", "at least 1 character"),
    ("lines", {"placements": ["home", "attic"]}, 422, "unknown_placement", "placements.1", "no attic"),
    ("lines", {"audience": "profile.visits > > 3"}, 422, "audience", "audience", "expected"),
    ("lines", {"budget": {"total_micros": 5}}, 400, "invalid", "", "a budget needs a price"),
    ("lines", {"goals": [{"event": "purchase"}] * 2}, 400, "invalid", "goals", "two goals are for purchase"),
    ("placements", {"reward_worth_micros": 0}, 400, "invalid", "reward_worth_micros", "greater than or equal to 1"),
    ("lines", {"schedule": {"zone": "Mars/Olympus"}}, 400, "invalid", "schedule.zone", "expected an IANA name"),
    ("creatives", {"features": {"n": 1e400}}, 400, "invalid", "features.n.bool", ""),
    ("placements", {"policy": "best"}, 422, "unknown_policy", "policy", "expected one of epsilon_greedy"),
])  # fmt: skip
def test_a_wrong_object_is_told_what_was_wrong_where_and_what_was_expected(
    service: Service, kind: str, changes: dict[str, Any], status: int, code: str, where: str, told: str
) -> None:
    text = json.dumps({**BODIES[kind], "id": "wrong", **changes})
    headers = {"if-none-match": "*", "content-type": "application/json"}
    found = problem(service.http.put(f"/v1/{kind}/wrong", content=text, headers=headers), status, code)
    assert told in found["detail"]
    assert found["errors"][0]["where"] == where
    assert service.http.get(f"/v1/{kind}/wrong").status_code == 404


def test_an_audience_that_does_not_parse_is_told_where_and_what_could_stand_there(service: Service) -> None:
    found = problem(service.put("lines", id="x", audience="profile.visits >"), 422, "audience")
    assert found["errors"] == [{"where": "audience", "expected": found["errors"][0]["expected"]}]
    assert found["errors"][0]["expected"].startswith("at position 16: ")


@pytest.mark.parametrize(("headers", "status", "code"), [
    ({}, 428, "no_condition"), ({"if-match": '"7"'}, 412, "stale"), ({"if-none-match": "*"}, 412, "exists"),
    ({"if-match": "1"}, 400, "conditions"), ({"if-match": 'W/"1"'}, 400, "conditions"),
    ({"if-match": "*"}, 400, "conditions"), ({"if-match": '"1", "2"'}, 400, "conditions"),
    ({"if-match": '"99999999999999999999"'}, 400, "conditions"), ({"if-none-match": '"1"'}, 400, "conditions"),
    ({"if-match": '"1"', "if-none-match": "*"}, 400, "conditions"),
])  # fmt: skip
def test_a_change_must_name_the_version_that_it_was_made_from(
    service: Service, headers: dict[str, str], status: int, code: str
) -> None:
    wanted = {**BODIES["advertisers"], "name": "Other"}
    problem(service.http.put("/v1/advertisers/acme", json=wanted, headers=headers), status, code)
    if "if-none-match" not in headers:
        moved = service.http.post("/v1/advertisers/acme/status", json={"to": "review"}, headers=headers)
        problem(moved, status, code)
    assert service.http.get("/v1/advertisers/acme").json()["version"] == 1


def test_a_step_that_does_not_follow_names_those_that_do(service: Service) -> None:
    service.put("lines", id="steps")
    wrong = service.http.post("/v1/lines/steps/status", json={"to": "published"}, headers={"if-match": '"1"'})
    found = problem(wrong, 409, "step")
    assert found["detail"] == "lines/steps: published cannot follow draft; expected one of: ended, review"
    unknown = service.http.post("/v1/lines/steps/status", json={"to": "live"}, headers={"if-match": '"1"'})
    assert "'draft', 'review'" in problem(unknown, 400, "invalid")["detail"]


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/v1/lines/none", 404), ("GET", "/v1/lines/UPPER", 404), ("GET", "/v1/lines/a%00b", 404),
    ("GET", "/v1/lines/none/versions", 404), ("GET", "/v1/lines/all/versions/7", 404),
    ("GET", "/v1/lines/all/versions/0", 404), ("GET", "/v1/lines/all/versions/99999999999999999999", 404),
    ("GET", "/v1/lines/all/diff?from=9", 404), ("GET", "/v1/lines/none/diff", 404), ("GET", "/v1/banners", 404),
    ("DELETE", "/v1/lines/all", 405), ("POST", "/v1/lines", 405), ("GET", "/v1/lines?limit=0", 422),
    ("GET", "/v1/lines?limit=x", 422), ("GET", "/v1/lines?limit=1001", 422), ("GET", "/v1/lines?colour=red", 422),
    ("GET", "/v1/lines?status=live", 422), ("GET", "/v1/lines?status=draft&status=ended", 422),
    ("GET", "/v1/lines?label=a%00", 422), ("GET", "/v1/lines/all/diff?from=0", 422),
    ("GET", "/v1/audit?kind=banners", 422), ("GET", "/v1/audit?after=-1", 422),
    ("GET", "/v1/lines/all/versions?after=99999999999999999999999", 422),
])  # fmt: skip
def test_what_is_not_there_or_not_asked_rightly_is_a_problem(
    service: Service, method: str, path: str, status: int
) -> None:
    assert service.http.request(method, path).json()["status"] == status


@pytest.mark.parametrize(("content", "headers", "status"), [
    (b"{", {}, 400), (b"[]", {}, 400), (b"\xff\xfe", {}, 400), (b"", {}, 400),
    (b"{}", {"content-type": "text/plain"}, 415), (b"{}", {"content-encoding": "gzip"}, 415),
    (b'{"id": "other", "name": "O"}', {}, 400), (b"x" * 1_100_000, {}, 413),
])  # fmt: skip
def test_a_body_that_is_no_object_of_its_address_is_refused(
    service: Service, content: bytes, headers: dict[str, str], status: int
) -> None:
    given = {"content-type": "application/json", "if-none-match": "*", **headers}
    answer = service.http.put("/v1/advertisers/body", content=content, headers=given)
    assert answer.json()["status"] == status
    assert service.http.get("/v1/advertisers/body").status_code == 404


# --- many -------------------------------------------------------------------------------------------------------------


def test_a_list_is_read_a_page_at_a_time_to_its_end(service: Service) -> None:
    for number in range(7):
        service.put("placements", id=f"page-{number}", labels={"of": "pages", "n": str(number)})
    params: dict[str, Any] = {"label": "of=pages", "limit": 3}
    found: list[str] = []
    while params.get("after", "") is not None:
        answer = service.http.get("/v1/placements", params=params).json()
        found += [one["id"] for one in answer["items"]]
        params["after"] = answer["next"]
    assert found == [f"page-{number}" for number in range(7)]
    both = service.http.get("/v1/placements?label=of%3Dpages&label=n%3D3&label=n").json()["items"]
    assert [one["id"] for one in both] == ["page-3"]


def test_of_twenty_writers_of_one_version_exactly_one_wins(service: Service) -> None:
    service.put("campaigns", id="race")
    gate = threading.Barrier(20)

    def write(number: int) -> int:
        gate.wait()
        wanted = {**BODIES["campaigns"], "id": "race", "name": f"writer {number}"}
        url = f"http://127.0.0.1:{service.settings.campaigns_port}/v1/campaigns/race"
        return httpx.put(url, json=wanted, headers={"if-match": '"1"'}, timeout=30).status_code

    with ThreadPoolExecutor(20) as writers:
        assert Counter(writers.map(write, range(20))) == {200: 1, 412: 19}
    assert service.http.get("/v1/campaigns/race").json()["version"] == 2


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer third"}, {"x-herald-key": "ann"}])
def test_without_a_key_nothing_is_told_or_changed(keyed: Service, headers: dict[str, str]) -> None:
    condition = {"if-none-match": "*", **headers}
    asked = [("GET", "/v1/lines"), ("PUT", "/v1/advertisers/acme"), ("GET", "/v1/audit"),
             ("POST", "/v1/advertisers/acme/status")]  # fmt: skip
    for method, path in asked:
        answer = keyed.http.request(method, path, json=BODIES["advertisers"], headers=condition)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
        assert keyed.http.get(path).status_code == 200


def test_a_change_is_written_down_under_its_keys_name(keyed: Service) -> None:
    first = {"authorization": "Bearer first", "if-none-match": "*"}
    made = keyed.http.put("/v1/advertisers/acme", json=BODIES["advertisers"], headers=first)
    assert (made.status_code, made.json()["changed_by"]) == (201, "ann")
    second = {"x-herald-key": "second", "if-match": '"1"'}
    changed = keyed.http.post("/v1/advertisers/acme/status", json={"to": "review"}, headers=second)
    assert changed.json()["changed_by"] == "bob"
    stale = keyed.http.put("/v1/advertisers/acme", json=BODIES["advertisers"], headers={**first, **second})
    assert stale.status_code == 400
    audit = keyed.http.get("/v1/audit", headers={"x-herald-key": "first"}).json()["items"]
    assert [(one["who"], one["what"]) for one in audit] == [("ann", "create"), ("bob", "status review")]


def test_it_binds_to_a_network_only_with_keys() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(SettingsError, match="expected HERALD_CAMPAIGNS_KEYS"):
            check_exposed(load(host=host))
        check_exposed(load(host=host, campaigns_keys="ann=k"))
    for host in ("127.0.0.1", "::1", "localhost"):
        check_exposed(load(host=host))


def test_keys_are_never_shown(keyed: Service) -> None:
    log = keyed.log_path.read_text()
    assert "campaigns on http://" in log
    assert "first" not in log
    assert "first" not in repr(keyed.settings)


# --- the service itself -----------------------------------------------------------------------------------------------


def test_without_a_broker_changes_are_taken_and_it_says_that_they_wait(service: Service) -> None:
    ready = service.http.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["publishing"] != "yes"
    metrics = service.http.get("/metrics").text
    assert 'herald_campaign_changes_total{kind="campaigns",what="create"}' in metrics
    assert 'herald_requests_total{endpoint="put",status="201"}' in metrics


def test_it_keeps_to_its_own_document(service: Service) -> None:
    """schemathesis draws what the document allows and what it does not allow, and holds each answer against it.

    Of every kind to create and change one; all else of lines, which stand for the others.
    """
    assert service.http.get("/openapi.json").json() == document()
    found: Contract = ask_all(
        f"http://127.0.0.1:{service.settings.campaigns_port}", seed=5, examples=4, leave_out=_is_like_lines
    )
    assert found.faults == []
    assert found.asked > 100
    assert {status for _, status in found.answers} >= {200, 400, 404, 422, 428}


def _is_like_lines(label: str) -> bool:
    method, _, path = label.partition(" ")
    return method != "PUT" and path.split("/")[2:3] in [[kind] for kind in KINDS if kind != "lines"]


def test_it_waits_for_a_store_that_is_away_and_goes_on_when_it_comes(tmp_path: Path) -> None:
    """PostgreSQL by its address: not made yet, then made, then with all of its connections cut."""
    with postgres() as url:
        later = new_database(url, "later").replace("/later", "/not-yet")
        chosen = without_broker(tmp_path, campaigns_url=SecretStr(later))
        service = Service(chosen, tmp_path / "log")
        try:
            _until_it_listens(service)
            answer = service.http.get("/readyz")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert service.put("advertisers").status_code == 503
            new_database(url, "not-yet")
            service.wait_for("/readyz")
            assert service.put("advertisers").status_code == 201
            _end_all_connections(url)
            until(lambda: service.put("advertisers", 1, name="Again").status_code == 200, "it goes on")
            assert service.stop() == 0
            _the_lock_goes_with_its_connection(url, of_url(later, tmp_path))
        finally:
            service.kill()


def _end_all_connections(url: str) -> None:
    """As a server does that is started again."""
    ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'herald'"
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(ours)


def _the_lock_goes_with_its_connection(url: str, settings: Settings) -> None:
    with opened(of_url(new_database(url, "lock"), settings.data_dir)) as store, store.database.alone("x") as held:
        assert held is not None
        _end_all_connections(url)
        with pytest.raises(Retryable):
            held.check()
        with store.database.alone("x") as second:
            assert second is not None


def _until_it_listens(service: Service) -> None:
    def answers() -> bool:
        try:
            return service.http.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    until(answers, "it listens", 60)


@pytest.mark.parametrize("url", ["mysql://ann:secret@h/d"])
def test_a_setting_that_cannot_be_ends_it_with_its_name(tmp_path: Path, url: str) -> None:
    settings: Settings = of_url(url, tmp_path).model_copy(update={"campaigns_port": free_port()})
    service = Service(Settings(**settings.model_dump(include={"data_dir", "campaigns_url", "campaigns_port"})),
                      tmp_path / "log")  # fmt: skip
    try:
        assert service.process.wait(60) == 2
        said = service.log_path.read_text()
        assert "HERALD_CAMPAIGNS_URL" in said
        assert "secret" not in said
    finally:
        service.kill()

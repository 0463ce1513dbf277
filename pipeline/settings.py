"""Every setting: name, default, unit and meaning in one frozen object, read once at start from `HERALD_*`."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipeline.errors import SettingsError

Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

for _library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_library, "1")  # before numpy loads: threads make a model's small systems ten times slower


def _default_data_dir() -> Path:
    return Path("~/.local/share/herald").expanduser()


class Settings(BaseSettings):
    """Settings of every part. `herald settings` prints them; a wrong one stops the start with its name and value."""

    model_config = SettingsConfigDict(env_prefix="HERALD_", frozen=True, extra="forbid")

    # Where things are
    data_dir: Path = Field(
        default_factory=_default_data_dir,
        description="embedded Kafka, warehouse, secrets, logs, SQLite; what delivery must keep over a restart",
    )
    host: str = Field("127.0.0.1", description="address that our servers bind to")
    kafka_bootstrap_servers: str = Field("", description="host:port,…; empty = the embedded Kafka")
    kafka_port: Port = Field(9092, description="port of the embedded Kafka")
    kafka_controller_port: Port = Field(9093, description="controller port of the embedded Kafka")
    kafka_heap_mb: Positive = Field(512, description="heap of the embedded Kafka, MB")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to talk to the given Kafka: in clear, over TLS, with a password or both"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="how the password is proved"
    )
    kafka_sasl_username: str = Field("", description="SASL user name")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="SASL password")
    kafka_ssl_ca_file: str = Field("", description="CA certificates (PEM); empty = the system's")
    kafka_ssl_cert_file: str = Field("", description="client certificate (PEM)")
    kafka_ssl_key_file: str = Field("", description="client key (PEM)")
    kafka_replication: Positive = Field(1, description="replication factor of topics we create")
    topic_prefix: str = Field("", pattern=r"^[a-zA-Z0-9._-]*$", description="put before every topic and group name")
    partitions: Positive = Field(
        4, description="partitions of every topic; cannot change once topics exist: `herald repartition` makes new ones"
    )
    generation: Positive = Field(
        1,
        description="which topics, groups and warehouse database are in use; `herald repartition` fills the next ones",
    )
    clickhouse_url: str = Field("", description="clickhouse://user:password@host:port/db; empty = embedded")
    clickhouse_port: Port = Field(9000, description="port of the embedded warehouse")
    collector_port: Port = Field(8080, description="HTTP port of the collector")
    delivery_port: Port = Field(8081, description="HTTP port of delivery")
    campaigns_port: Port = Field(8082, description="HTTP port of the campaigns' service")
    metrics_port: Port = Field(9400, description="first metrics port of the workers; one for each stage follows")

    instance: str = Field(
        "", description="name of this worker among those of its stage; a restart under the same name is quick"
    )
    accept_gap: bool = Field(False, description="go on although blocks were lost to retention; each loss is logged")
    restart_session_ms: Positive = Field(
        10_000, description="a worker that says nothing for so long loses its partitions"
    )

    state_store: Literal["memory", "disk"] = Field(
        "memory", description="where profiles and sessions are while in use: disk, once they outgrow memory"
    )
    state_cache_mb: Positive = Field(256, description="with disk: memory for the hot ones, of each worker, MB")

    # Collector
    write_keys: Annotated[dict[str, str], NoDecode] = Field(
        {"demo": "demo"}, description="key=site,key=site: who may write, and under which site"
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="browser origins that may send, comma separated; * = any (echoed, never a literal *)"
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="addresses whose X-Forwarded-For is believed, comma separated"
    )
    cookie_name: str = Field("herald_id", description="first-party visitor cookie")
    cookie_max_age_s: Positive = Field(34_128_000, description="life of the visitor cookie, s (395 days)")
    cookie_secure: bool = Field(False, description="send the visitor cookie over HTTPS only; set it in production")
    body_bytes_max: Positive = Field(1_048_576, description="request body as sent, bytes")
    unpacked_bytes_max: Positive = Field(4_194_304, description="request body after gzip, bytes")
    event_bytes_max: Positive = Field(32_768, description="one event, bytes")
    batch_events_max: Positive = Field(1_000, description="events in one request")
    events_per_s_max: NotNegative = Field(
        0, description="events a second under one write key and collector, beyond it 429; 0 = no limit"
    )
    flush_ms: Positive = Field(10, description="a block leaves when it is this old and the last one is acknowledged")
    flush_max_ms: NotNegative = Field(100, description="a block waits up to this long for more while many events come")
    block_bytes_max: Annotated[int, Field(gt=0, le=1_048_576)] = Field(
        262_144, description="a block leaves when it holds this much"
    )
    block_events_max: Positive = Field(2_000, description="a block leaves when it holds this many events")
    buffer_bytes_max: Positive = Field(67_108_864, description="unacknowledged bytes held before 503")
    ack_timeout_ms: Positive = Field(10_000, description="a request waits this long for the broker before 503")
    tick_ms: Positive = Field(1_000, description="a quiet partition gets its first tick after so long")
    tick_max_ms: NotNegative = Field(10_000, description="then ever more seldom, up to this; below 15 s for delivery")
    mask_secret: SecretStr = Field(SecretStr(""), description="key of e-mail pseudonyms; empty = made once in data_dir")

    # Clean
    future_max_ms: NotNegative = Field(
        HOUR_MS, description="an event whose time is further ahead of our clock gets its time of receipt instead"
    )
    age_max_ms: Positive = Field(400 * DAY_MS, description="an older event is refused as too_old")
    skew_min_ms: NotNegative = Field(
        10_000, description="a smaller difference is the network's, not the client's clock"
    )
    skew_max_ms: NotNegative = Field(DAY_MS, description="largest clock correction by sent_at")
    dedupe_window_ms: Positive = Field(DAY_MS, description="an event id is remembered this long")

    # Sessionise
    session_gap_ms: Positive = Field(
        30 * 60_000, description="inactivity that ends a session; exactly this still belongs"
    )
    session_retain_ms: NotNegative = Field(HOUR_MS, description="a closed session still takes late events this long")
    session_split_on_campaign: bool = Field(False, description="a new campaign starts a new session")

    # Profile and outcomes
    click_window_ms: Positive = Field(
        DAY_MS, description="a click counts this long after its decision; one that is a goal, as the goal says"
    )
    conversion_window_ms: Positive = Field(
        7 * DAY_MS, description="a conversion counts this long after the click; one that is a goal, as the goal says"
    )
    open_decisions_max: Positive = Field(50, description="open decisions kept of one visitor; the oldest go first")
    interest_half_life_ms: Positive = Field(14 * DAY_MS, description="after it an interest weighs half")
    interests_max: Positive = Field(20, description="categories kept of one visitor")
    reward_click: float = Field(1.0, ge=0, le=1, description="reward of a click where a placement says no worth")
    reward_conversion: float = Field(
        0.0, ge=0, le=1, description="the same of a conversion; of a line with goals, of one beyond a click"
    )

    # Money
    reservation_impression_ms: Positive = Field(
        600_000, description="a decision's money waits so long for the impression; then it is released, and not billed"
    )
    reservation_click_ms: Positive = Field(
        1_800_000, description="the same for a click that is paid for, and for the click before a paid action"
    )
    reservation_action_ms: Positive = Field(
        DAY_MS, description="the same for a paid action once it was clicked; both counted from the decision"
    )
    lease_ms: Annotated[int, Field(ge=2_000, le=HOUR_MS)] = Field(
        300_000, description="delivery leases money for so long: it can spend it while the lease store is away"
    )

    # Learn and delivery
    policy_epsilon: float = Field(0.1, gt=0, le=1, description="share of decisions that explore uniformly")
    policy_prior_mean: float = Field(0.02, ge=0, le=1, description="expected reward where no arm was tried yet")
    policy_prior_trials: float = Field(50.0, ge=0, description="how many trials that expectation is worth")
    policy_placements: Annotated[dict[str, str], NoDecode] = Field(
        {}, description="placement=policy,…: another than the default; linear_igw where who sees it says what earns"
    )
    policy_default: str = Field("epsilon_greedy", description="policy of a placement that names none")
    policy_floor: float = Field(
        0.01, gt=0, le=1, description="linear policies: least share of each action, all together at most a tenth"
    )
    policy_drift_watch: bool = Field(
        True, description="linear policies: an action whose rewards have changed is learnt anew (ADWIN)"
    )
    holdout_share: float = Field(
        0.05, ge=0, lt=1, description="share of visitors to whom no campaign is shown, so that the effect is measured"
    )
    signing_secret: SecretStr = Field(
        SecretStr(""), description="key of signed addresses; empty = made once in data_dir"
    )
    signing_secrets_accepted: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="further keys of signed addresses, comma separated: accepted only, while the key is changed",
    )
    public_url: str = Field("", description="address of delivery as browsers see it; empty = host and port")
    link_max_age_ms: Positive = Field(7 * DAY_MS, description="life of a signed address")
    delivery_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="keys that may ask delivery, comma separated; empty = anyone on this machine"
    )
    delivery_peer_url: str = Field(
        "",
        pattern=r"^(http://[^/\s]+)?$",
        description="address of this delivery process as the others reach it; empty = host (of 0.0.0.0: that of the"
        " machine's name, or where that is no other's, the one that leads to PostgreSQL) and port",
    )
    peer_timeout_ms: Positive = Field(
        250, description="a decision waits so long for the delivery process that counts the visitor's caps"
    )
    cap_lease_ms: Annotated[int, Field(ge=3_000, le=HOUR_MS)] = Field(
        10_000,
        description="of several delivery processes each counts caps of its visitors for so long, and again before it"
        " ends; one alone for HERALD_LEASE_MS",
    )
    spool: bool = Field(True, description="records of decisions go to a file before the answer: a kill loses none")
    decisions_kept_max: Positive = Field(100_000, description="recent decisions that delivery remembers")
    actions_max: Positive = Field(1_000, description="candidate actions in one request")

    # Campaigns
    campaigns_url: SecretStr = Field(
        SecretStr(""), description="postgresql://user:password@host:port/database; empty = SQLite in data_dir"
    )
    campaigns_keys: Annotated[dict[str, SecretStr], NoDecode] = Field(
        {}, description="name=key,…: who may read and change campaigns; empty = anyone on this machine"
    )

    # Aggregate
    insert_rows_max: Positive = Field(20_000, description="rows gathered before an insert")
    insert_wait_ms: Positive = Field(250, description="rows are gathered this long for an insert")
    insert_wait_max_ms: NotNegative = Field(750, description="the same while inserts take long, at most")
    rollup_buckets_max: Positive = Field(40_000, description="rollup cells kept in memory; older ones are re-read")
    retention_days: Positive = Field(401, description="rows are kept this long in the warehouse, days")

    audit_every_ms: Positive = Field(
        10_000, description="books and rows are audited this often; a third as often while nothing new comes"
    )
    audit_busy_ms: Positive = Field(2_000, description="an audit begins no new reading of the log after so long")
    audit_heal: bool = Field(True, description="put right what the running auditor finds; false = only tell")
    outlook_every_ms: Annotated[int, Field(ge=0)] = Field(
        600_000, description="stock is forecast and learning judged this often while anything new comes; 0 = never"
    )
    stock_lead_days: Annotated[int, Field(ge=0, le=180)] = Field(
        7, description="days it takes to get more of a sku; the alert comes when what is left may not last that long"
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="how much is logged")

    @field_validator("write_keys", "policy_placements", "campaigns_keys", mode="before")
    @classmethod
    def _read_pairs(cls, value: object) -> object:
        """`a=b,c=d` -> {"a": "b", "c": "d"}."""
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part]
        if not all(key and equals and right for key, equals, right in pairs):
            raise ValueError("expected name=value,name=value")
        return {key.strip(): right.strip() for key, _, right in pairs}

    @field_validator("allowed_origins", "trusted_proxies", "delivery_keys", "signing_secrets_accepted", mode="before")
    @classmethod
    def _read_list(cls, value: object) -> object:
        """`a,b` -> ("a", "b")."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("delivery_peer_url")
    @classmethod
    def _check_peer_url(cls, value: str) -> str:
        """Refuse at the start what every other process would fail to ask."""
        expected = "expected http://host:port"
        try:
            parts = urlsplit(value)
            is_address = not value or bool(parts.hostname and parts.port != 0 and value == f"http://{parts.netloc}")
        except ValueError as error:
            raise ValueError(f"{error}; {expected}") from None
        if not is_address:
            raise ValueError(f"no address; {expected}")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse settings that are each possible but not together."""
        if self.retention_days * DAY_MS < self.age_max_ms + DAY_MS:
            raise ValueError(
                f"HERALD_RETENTION_DAYS = {self.retention_days}: expected at least HERALD_AGE_MAX_MS and a day "
                f"({self.age_max_ms // DAY_MS + 1} days), or rows vanish before they are audited and the books never "
                "balance"
            )
        return self

    @property
    def bootstrap_servers(self) -> str:
        """The Kafka to talk to: the given one or the embedded one."""
        return self.kafka_bootstrap_servers or f"127.0.0.1:{self.kafka_port}"

    @property
    def first_warehouse_url(self) -> str:
        """The warehouse and database of the first generation: the given one or the embedded one."""
        return self.clickhouse_url or f"clickhouse://default@127.0.0.1:{self.clickhouse_port}/default"

    @property
    def warehouse_database(self) -> str:
        """The database of this generation: the first one's name, from the second generation on with `_g2`."""
        first = urlsplit(self.first_warehouse_url).path.strip("/") or "default"
        return first if self.generation == 1 else f"{first}_g{self.generation}"

    @property
    def warehouse_url(self) -> str:
        """The warehouse and database to talk to."""
        if self.generation == 1:
            return self.first_warehouse_url
        return urlunsplit(urlsplit(self.first_warehouse_url)._replace(path=f"/{self.warehouse_database}"))

    @property
    def auditor_metrics_port(self) -> int:
        """The port after those of the six stages."""
        return self.metrics_port + 6

    def as_environment(self) -> dict[str, str]:
        """The environment in which another process of ours reads these same settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HERALD_")}
        for name, info in Settings.model_fields.items():
            value = getattr(self, name)
            if value != info.get_default(call_default_factory=True):
                kept[variable(name)] = as_text(value)
        return kept

    def topic(self, name: str) -> str:
        """The name of a topic (or consumer group) in Kafka: with the prefix, from the second generation on `g2-`."""
        return f"{self.topic_prefix}{name}" if self.generation == 1 else f"{self.topic_prefix}g{self.generation}-{name}"


def as_text(value: object) -> str:
    """Write a setting's value as its environment variable holds it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return ",".join(f"{key}={as_text(right)}" for key, right in value.items())
    if isinstance(value, tuple):
        return ",".join(as_text(part) for part in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def load(**overrides: object) -> Settings:
    """Read the settings. Raises SettingsError naming each wrong or unknown name, its value and what was expected."""
    known = {variable(name) for name in Settings.model_fields}
    ours = {name for name in os.environ if name.startswith("HERALD_") and not name.startswith("HERALD_TEST_")}
    lines = [f"{name}: unknown setting; `herald settings` lists them all" for name in sorted(ours - known)]
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        for wrong in error.errors():
            if not wrong["loc"]:  # several settings contradict each other; the text names them
                lines.append(wrong["msg"].removeprefix("Value error, "))
                continue
            name = str(wrong["loc"][0])
            shown = "(hidden)" if _is_secret(name) else repr(wrong["input"])
            lines.append(f"{variable(name)} = {shown}: {wrong['msg'].removeprefix('Value error, ')}")
        raise SettingsError("\n".join(lines)) from None
    if lines:
        raise SettingsError("\n".join(lines))
    return settings


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"HERALD_{name.upper()}"


def _is_secret(name: str) -> bool:
    """True for a setting that holds a secret, also beside other things (a password in an address)."""
    info = Settings.model_fields.get(name)
    return info is not None and ("SecretStr" in str(info.annotation) or name.endswith("_url"))


def table(settings: Settings) -> list[tuple[str, str, str, str]]:
    """Return every setting for people: environment name, value, default, meaning. Secrets are stars."""
    rows = []
    for name, info in Settings.model_fields.items():
        default = info.get_default(call_default_factory=True)
        is_home = name == "data_dir" and default == _default_data_dir()
        shown = "~/.local/share/herald" if is_home else _shown(default)
        rows.append((variable(name), _shown(getattr(settings, name)), shown, info.description or ""))
    return rows


_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*@")


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return ",".join(_shown(part) for part in value)
    if isinstance(value, dict):
        return ",".join(f"{key}={_shown(right)}" for key, right in value.items())
    return _PASSWORD.sub(r"\1:***@", as_text(value))

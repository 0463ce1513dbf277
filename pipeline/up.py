"""`herald up`: stores first, then topics and tables, then our parts; until Ctrl-C."""

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from pipeline import auditor, tables, topics
from pipeline.edge import metrics
from pipeline.edge.clickhouse import Warehouse
from pipeline.errors import EmbeddedError, Retryable
from pipeline.parts import STAGES, metrics_port, services, stores
from pipeline.settings import Settings
from pipeline.supervisor import Supervisor

log = logging.getLogger(__name__)

APPLY_AGAIN_MAX, APPLY_AGAIN_S = 4, 2.0
INTERRUPTED = 128 + signal.SIGINT
AUDIT_STOP_S = 5.0


def start(settings: Settings, console: Console) -> Supervisor:
    """Start everything and return its supervisor. Raises HeraldError, with what did start stopped again."""
    check_ports(settings)
    supervisor = Supervisor(settings)
    try:
        prepare(settings, console)
        with console.status("starting the stores"):
            supervisor.start(stores(settings))
        _patiently(lambda: topics.apply(settings))
        _patiently(lambda: tables.make_database(settings))
        with Warehouse.from_url(settings.warehouse_url) as warehouse:
            _patiently(lambda: tables.apply(warehouse, settings.retention_days))
        with console.status("starting collector, stages, delivery and campaigns"):
            supervisor.start(services(settings))
    except BaseException:
        supervisor.stop()
        raise
    return supervisor


def _patiently(apply: Callable[[], object]) -> None:
    """Do this, again where a store that has just begun does not answer in time; what is done already is not redone."""
    for _ in range(APPLY_AGAIN_MAX):
        try:
            apply()
        except Retryable as error:
            log.warning("%s; once more", error)
            time.sleep(APPLY_AGAIN_S)
        else:
            return
    apply()


def start_until_asked(settings: Settings, console: Console, stop: threading.Event) -> Supervisor | None:
    """Start everything; from then on SIGINT and SIGTERM set `stop`. None where they came before: all is undone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # a start may take long: undo it at once
    try:
        supervisor = start(settings, console)
    except KeyboardInterrupt:
        console.print("stopped while starting")
        return None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return supervisor


def prepare(settings: Settings, console: Console) -> None:
    """Do what needs the network or may take long here, where it can be seen, rather than in a child."""
    make_folder(settings)
    if not settings.kafka_bootstrap_servers:
        from pipeline.embedded.kafka_jars import kafka_jars

        with console.status("fetching Apache Kafka (once)"):
            kafka_jars(None, lambda line: console.print(line, markup=False, highlight=False))


def make_folder(settings: Settings) -> None:
    """Make the data folder. Raises EmbeddedError where that cannot be."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(
            f"HERALD_DATA_DIR = {settings.data_dir}: {error.strerror}; choose a writable folder"
        ) from error


def check_ports(settings: Settings) -> None:
    """Raise EmbeddedError naming every port that is taken, or wanted twice, and its setting.

    Another Herald that answers there would else pass for the parts that we start, while ours start again and again.
    """
    wrong = []
    wanted: dict[int, str] = {}
    for name, host, port in _ports(settings):
        if port in wanted:
            wrong.append(f"{name} and {wanted[port]} are both {port}; they must differ")
        wanted[port] = name
        try:
            with socket.create_server((host, port), family=_family(host)):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            wrong.append(f"port {port} on {host}: {reason}; stop what listens there, or set {name} to a free port")
    if wrong:
        raise EmbeddedError("\n".join(wrong))


def _ports(settings: Settings) -> Iterator[tuple[str, str, int]]:
    """Yield what our parts will listen on: (setting, host, port)."""
    if not settings.kafka_bootstrap_servers:
        yield "HERALD_KAFKA_PORT", "127.0.0.1", settings.kafka_port
        yield "HERALD_KAFKA_CONTROLLER_PORT", "127.0.0.1", settings.kafka_controller_port
    if not settings.clickhouse_url:
        yield "HERALD_CLICKHOUSE_PORT", "127.0.0.1", settings.clickhouse_port
    yield "HERALD_COLLECTOR_PORT", settings.host, settings.collector_port
    yield "HERALD_DELIVERY_PORT", settings.host, settings.delivery_port
    yield "HERALD_CAMPAIGNS_PORT", settings.host, settings.campaigns_port
    for stage in STAGES:
        port = metrics_port(settings, stage)
        yield f"HERALD_METRICS_PORT (+{port - settings.metrics_port}, {stage})", settings.host, port
    auditor_port = settings.auditor_metrics_port
    yield f"HERALD_METRICS_PORT (+{auditor_port - settings.metrics_port}, auditor)", settings.host, auditor_port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def addresses(settings: Settings) -> list[tuple[str, str]]:
    """Return what to look at: (what, where)."""
    collector = f"http://127.0.0.1:{settings.collector_port}"
    delivery = f"http://127.0.0.1:{settings.delivery_port}"
    campaigns = f"http://127.0.0.1:{settings.campaigns_port}"
    return [
        ("collector", f"{collector}/v1/batch  {collector}/p.gif"),
        ("decisions", f"{delivery}/v1/decisions"),
        ("campaigns", f"{campaigns}/v1/campaigns"),
        ("campaigns, to see", f"{delivery}/campaigns"),
        ("APIs, to read", f"{delivery}/docs  {campaigns}/docs"),
        ("metrics", f"{collector}/metrics  {delivery}/metrics  {campaigns}/metrics"),
        ("metrics of stages", f"127.0.0.1:{settings.metrics_port} to {settings.auditor_metrics_port}, /metrics"),
        ("Kafka", settings.bootstrap_servers),
        ("ClickHouse, native", settings.warehouse_url.rpartition("@")[2]),
        ("logs", str(settings.data_dir / "logs")),
    ]


def run(settings: Settings, console: Console) -> int:
    """Run until SIGINT or SIGTERM; 130 where they came before all had started."""
    make_folder(settings)
    stop = threading.Event()
    supervisor = start_until_asked(settings, console, stop)
    if supervisor is None:
        return INTERRUPTED
    metrics.serve(settings.auditor_metrics_port, settings.host)  # restarts and the books
    metrics.watch_data_dir(settings.data_dir)
    auditing = threading.Thread(target=auditor.watch, args=(settings, stop), name="auditor", daemon=True)
    auditing.start()
    for what, where in addresses(settings):
        console.print(f"{what:<20}{where}", markup=False, highlight=False)
    stop.wait()
    console.print("stopping")
    auditing.join(AUDIT_STOP_S)  # while the stores are there, or it would leave tables behind
    supervisor.stop()
    return 0
